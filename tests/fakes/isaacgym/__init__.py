"""Stands for NVIDIA's closed package, of which the server only needs that it is imported first."""

import sys

if "torch" in sys.modules:
    raise ImportError("PyTorch was imported before isaacgym modules")
