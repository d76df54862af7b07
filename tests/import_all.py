"""Imports modules in a process that has trained already, and says which large libraries it has."""

import importlib
import sys

LARGE = {"matplotlib", "rl_games", "onnx", "onnxruntime", "onnxscript", "pandas"}


def main(argv):
    for name in argv:
        importlib.import_module(name)
    sys.stdout.write(f"imported: {sorted(LARGE & sys.modules.keys())}\n")
