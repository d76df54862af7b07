"""Trains or plays: ``python train.py task=ShadowHandOver algo=madpo num_envs=128``."""

import sys

from madpo_isaac.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
