"""The losses of policies and values as pure functions, one number per row."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def clipped_objective(ratio: Tensor, weighted_advantage: Tensor, clip: float) -> Tensor:
    """min(r M, clip(r, 1 - clip, 1 + clip) M), Eq. 1 of the MADPO paper without its mean.

    Args:
        ratio: r, the density under the current policy divided by that at collection. (b,)
        weighted_advantage: M. (b,)
        clip: distance of the ratio from 1 beyond which the objective does not grow.

    Returns:
        The objective, to be maximized. (b,)
    """
    clipped = ratio.clamp(1.0 - clip, 1.0 + clip)
    return torch.min(ratio * weighted_advantage, clipped * weighted_advantage)


def is_outside(ratio: Tensor, clip: float) -> Tensor:
    """Returns where a ratio is further from 1 than ``clip``. (b,) bool"""
    return (ratio - 1.0).abs() > clip


def kl_estimate(ratio: Tensor, log_ratio: Tensor) -> Tensor:
    """An estimator of KL(old || new) in nats from one old sample: r - 1 - log r >= 0. (b,)

    Source: http://joschu.net/blog/kl-approx.html (its k3).
    """
    return ratio - 1.0 - log_ratio


def value_loss(
    value: Tensor, target: Tensor, old: Tensor, clip: float | None, huber_delta: float
) -> Tensor:
    """Huber loss of values, or with ``clip`` the larger one of it and that of clipped values.

    Args:
        value: current values. (b, ...)
        target: values to learn, in the same units. (b, ...)
        old: values at collection. (b, ...)
        clip: largest distance of a clipped value from the old one; None for no clipped values.
        huber_delta: error at which the loss turns from square to linear.

    Returns:
        The loss, to be minimized. (b, ...)
    """
    loss = F.huber_loss(value, target, reduction="none", delta=huber_delta)
    if clip is None:
        return loss
    near = old + (value - old).clamp(-clip, clip)
    return torch.max(loss, F.huber_loss(near, target, reduction="none", delta=huber_delta))
