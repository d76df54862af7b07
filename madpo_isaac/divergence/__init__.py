"""The Cauchy-Schwarz divergence between policies, usable on its own."""

from madpo_isaac.divergence.gaussian import gaussian_cs

__all__ = ["gaussian_cs"]
