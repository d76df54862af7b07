"""The conjugate gradient method, for natural gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from madpo_isaac.system.device import known_all_false


def conjugate_gradient(
    product: Callable[[Tensor], Tensor], b: Tensor, iterations: int, tolerance: float
) -> tuple[Tensor, Tensor]:
    """Solves H x = b approximately for a positive definite H.

    Args:
        product: maps v (K,) to H v (K,).
        b: right-hand side. (K,)
        iterations: largest number of products.
        tolerance: squared norm of the residual at which to stop.

    Returns:
        x and the residual b - H x. (K,), (K,)
    """
    x, residual, search = torch.zeros_like(b), b.clone(), b.clone()
    size = residual @ residual
    for k in range(iterations):
        # The tolerance is absolute: a small b still gets its first step. A GPU is not asked whether
        # to stop: what follows changes nothing there.
        going = ~(size <= (tolerance if k else 0.0))
        if known_all_false(going):
            break
        image = product(search)
        alpha = torch.where(going, size / (search @ image), 0.0)
        x = x + alpha * search
        residual = residual - alpha * image
        shrunk = residual @ residual
        search = torch.where(going, residual + (shrunk / size) * search, search)
        size = shrunk
    return x, residual
