"""The conjugate gradient method, for natural gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Solves H x = b approximately for a positive definite H.

    Args:
        product: maps v (K,) to H v (K,).
        b: right-hand side. (K,)
        iterations: at most so many products.
        tolerance: squared norm of the residual at which to stop.

    Returns:
        x and the residual b - H x. (K,), (K,)
    """
    x, residual, search = torch.zeros_like(b), b.clone(), b.clone()
    size = residual @ residual
    for k in range(iterations):
        # The tolerance is absolute: a small b still gets its first step.
        if size <= (tolerance if k else 0.0):
            break
        image = product(search)
        alpha = size / (search @ image)
        x = x + alpha * search
        residual = residual - alpha * image
        shrunk = residual @ residual
        search, size = residual + (shrunk / size) * search, shrunk
    return x, residual
