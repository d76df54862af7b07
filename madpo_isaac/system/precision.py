"""Precision of the networks' matrix products: float32, or operands rounded to fewer digits."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from madpo_isaac.errors import UserError

ROUNDED = ("bf16", "tf32")
"""Precisions to which the factors of a product are rounded."""
PRECISIONS = ("float32", *ROUNDED, "auto")

_rounded = False


def choose(precision: str, sim_device: str) -> None:
    """Sets the precision of all products inside :func:`network_products` from now on.

    Args:
        precision: one of :data:`PRECISIONS`. ``bf16`` and ``tf32`` round the operands of a product
            to 8 and 11 significant bits and sum in float32. ``auto`` is ``float32``, since
            few learning curves of the others have been compared.
        sim_device: where the products are computed.

    Raises:
        UserError: products on this processor would be neither rounded nor faster.
    """
    global _rounded
    if precision == "bf16" and not rounds_to_bf16():
        raise UserError(
            "precision=bf16 has no effect on this processor: torch multiplies in bfloat16 only "
            "with instructions such as AMX. Use precision=float32."
        )
    on_gpu = precision == "tf32" and torch.cuda.is_available()  # a missing GPU is not this fault
    if on_gpu and torch.cuda.get_device_capability(sim_device) < (8, 0):
        name = torch.cuda.get_device_name(sim_device)
        raise UserError(f"precision=tf32 has no effect on {name}. Use precision=float32.")
    _rounded = precision in ROUNDED


def network_products() -> AbstractContextManager[None]:
    """Lets products inside it have the chosen precision; all others are computed in float32."""
    return _rounded_products() if _rounded else nullcontext()


@contextmanager
def _rounded_products() -> Iterator[None]:
    """Lets torch round the operands of float32 products, to bfloat16 on a CPU, to TF32 on a GPU."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def rounding_error() -> float:
    """Returns the relative error of a CPU's float32 product where torch may round operands.

    The error shows how the product is computed on this processor by this torch: about 3e-7 in
    float32 and 2e-3 with operands in bfloat16.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    exact = a.double() @ b.double()
    with _rounded_products():
        error = torch.linalg.matrix_norm(a @ b - exact) / torch.linalg.matrix_norm(exact)
    return float(error)


def rounds_to_bf16() -> bool:
    """Returns whether this CPU multiplies in bfloat16 where it may."""
    return rounding_error() > 1e-4
