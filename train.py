"""Trains or plays: ``python train.py task=ShadowHandOver algo=madpo num_envs=128``."""

import sys

from madpo_isaac.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
