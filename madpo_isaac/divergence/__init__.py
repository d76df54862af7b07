"""The Cauchy-Schwarz divergence between policies; the package can be used by itself."""

from madpo_isaac.divergence.bounds import bounded_divergence
from madpo_isaac.divergence.gaussian import gaussian_cs, gaussian_kl
from madpo_isaac.divergence.gram import StateGram, median_width
from madpo_isaac.divergence.kernel import kernel_cs

__all__ = [
    "StateGram",
    "bounded_divergence",
    "gaussian_cs",
    "gaussian_kl",
    "kernel_cs",
    "median_width",
]
