"""Checks of the divergences' inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def check_matrix(name: str, value: Tensor) -> None:
    """Raises ValueError unless ``value`` is a non-empty float32 or float64 matrix."""
    if value.ndim != 2 or 0 in value.shape:
        raise ValueError(f"{name} must have shape (n, d), got {tuple(value.shape)}")
    if value.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{name} must be float32 or float64, got {value.dtype}")


def check_positive(name: str, value: float) -> float:
    """Returns ``value`` as a float, or raises ValueError if it is not positive and finite."""
    number = float(value)
    if not (number > 0.0 and math.isfinite(number)):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return number


def check_alike(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both tensors have one dtype and one device."""
    if value.dtype != other.dtype:
        raise ValueError(f"{name} has dtype {value.dtype} but {other_name} {other.dtype}")
    if value.device != other.device:
        raise ValueError(f"{name} is on {value.device} but {other_name} on {other.device}")


def check_columns(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raises ValueError unless both matrices have one number of columns."""
    if value.shape[1] != other.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} but {other_name} {tuple(other.shape)}; "
            "their last sizes must agree"
        )
