"""MADPO and its baselines on batched MuJoCo simulations, as torch tensors end to end."""

__version__ = "0.1.0"
