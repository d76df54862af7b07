"""The Cauchy-Schwarz divergence between policies, usable on its own."""

from madpo_isaac.divergence.gaussian import gaussian_cs
from madpo_isaac.divergence.gram import StateGram, median_width
from madpo_isaac.divergence.kernel import kernel_cs

__all__ = ["StateGram", "gaussian_cs", "kernel_cs", "median_width"]
