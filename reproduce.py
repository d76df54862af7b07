"""Runs what a figure or table of the paper shows, and draws it: ``python reproduce.py fig2``."""

import sys

from madpo_isaac.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["reproduce", *sys.argv[1:]]))
