"""Trains or plays: ``python train.py task=ShadowHandOver algo=madpo num_envs=128``."""

import sys

from madpo_isaac import spin

if __name__ == "__main__":
    spin.bound()  # before torch is imported

    from madpo_isaac.cli import main

    sys.exit(main(sys.argv[1:]))
