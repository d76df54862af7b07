"""MADPO that also measures what its bonus does, as a plugin of train.py.

    python train.py plugins=[benchmarks/watched/watched.py] algo=watched task=ShadowHandOver
    python train.py plugins=[benchmarks/watched/watched.py] algo=watched algo.divergence.coef=0

It trains exactly as MADPO does with a closed form. With a coefficient of zero it trains as HAPPO
does, and measures the bonus that HAPPO does not have. The further columns of metrics.jsonl are
explained at :data:`BONUS` and :data:`MOTION`, and ``states/spread`` and ``states/dimension`` at
:meth:`Watched.spread`. docs/question.md shows them for some runs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from madpo_isaac.algos import MADPO, register_algorithm
from madpo_isaac.algos.batch import AgentView, Batch
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.algos.objective import clipped_objective
from madpo_isaac.errors import UserError

BONUS = ("bonus_share", "bonus_cosine", "bonus_width")
"""About the gradients at the policy that collected the rollout, over the whole batch: the norm of
the bonus's gradient relative to that of the objective's; the cosine of the angle between the two;
and the part of the bonus's squared gradient that belongs to the standard deviation."""
MOTION = ("step", "step_cosine", "straightness")
"""About the mean actions mu(s) / std in some states of the batch: the root mean square of their
change in this update, per action; the cosine of the angle between this change and that of the
update before; and the length of the change in ten updates relative to the sum of the ten lengths,
which is 1 on a straight line and 0.32 where every change is at a right angle to the others."""
UPDATES = 10
"""Updates that :data:`MOTION` looks back on."""
STATES = 512
"""States of the batch, at most, in which policies are compared."""


@register_algorithm("watched", MadpoConfig)
class Watched(MADPO):
    """MADPO with the metrics :data:`BONUS`, :data:`MOTION` and those of :meth:`spread`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._refuse()
        self._past: deque[Tensor] = deque(maxlen=UPDATES)
        """Parameters that collected the last rollouts. (P, n) each"""
        self._scale: Tensor | None = None
        """Mean and standard deviation of the first rollout's states. (2, S)"""
        self._gradients: dict[str, Tensor] = {}

    def _refuse(self) -> None:
        """Raises :class:`UserError` for a bonus without a fixed coefficient or a reference."""
        div, key = self.divergence, "algo.divergence"
        refused = {
            f"{key}.kind={div.kind}": not self._compares,
            f"{key}.preset={div.preset}": div.preset != "gaussian",
            f"{key}.share={div.share}": div.share is not None,
            f"{key}.as_reward={div.as_reward}": div.as_reward,
        }
        for text, is_refused in refused.items():
            if is_refused:
                raise UserError(f"{text} does not work with algo=watched: use algo=madpo.")

    def begin_update(self, batch: Batch) -> None:
        """Stores the policies that collected the batch."""
        super().begin_update(batch)
        self._past.append(self.actors.stack.flat.clone())
        self._gradients = {}

    def begin_agent(self, view: AgentView) -> None:
        """Measures the gradients of the agent that is updated next."""
        super().begin_agent(view)
        rows = slice(0, len(view.obs))
        mean, std = self.actors.distribution(view.index, view.obs)
        ratio = self.log_ratio(view, rows, mean, std).exp()
        objective = clipped_objective(ratio, view.weighted_advantage, view.clip).sum()
        of_objective, _ = self._gradient(view, objective)
        of_bonus, of_std = self._gradient(view, self._measure(view, rows, mean, std))
        size, other = of_bonus.norm(), of_objective.norm()
        found = (
            self._coefficient(view) * size / other,
            torch.dot(of_bonus, of_objective) / (size * other),
            (of_std.norm() / size).square(),
        )
        for name, value in zip(BONUS, found, strict=True):
            self._gradients[f"agent{view.index}/{name}"] = value.nan_to_num(0.0, 0.0)

    def update_actors(self, batch: Batch) -> dict[str, Tensor]:
        """Adds the metrics of this file to those of the update."""
        metrics = super().update_actors(batch)
        return {**metrics, **self._gradients, **self._motion(batch), **self.spread(batch.state)}

    def spread(self, state: Tensor) -> dict[str, Tensor]:
        """How far the states (B, S) of a batch are spread, relative to those of the first rollout.

        With the same seed this unit is the same for all algorithms. ``spread`` is the mean variance
        of a component, where each is in units of its first standard deviation and limited to ten
        of them. ``dimension`` is the participation ratio of their covariance's eigenvalues, the
        squared sum over the sum of squares: the number of directions in which states differ.
        """
        if self._scale is None:
            self._scale = torch.stack((state.mean(0), state.std(0)))
        columns = self._scale[1] > 1e-4
        mean, std = self._scale[:, columns]
        units = ((state[:, columns] - mean) / std).clamp(-10.0, 10.0)
        covariance = torch.cov(units.T)
        trace = covariance.trace()
        return {
            "states/spread": trace / len(covariance),
            "states/dimension": trace.square() / covariance.square().sum(),
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds what the metrics look back on."""
        past = [flat.clone() for flat in self._past]
        return {**super().state_dict(), "watched_past": past, "watched_scale": self._scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        super().load_state_dict(state)
        self._past.clear()
        self._past.extend(flat.clone() for flat in state["watched_past"])
        self._scale = state["watched_scale"]

    def _gradient(self, view: AgentView, value: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient of a number by an agent's parameters, and the part that belongs to its std."""
        net = self.actors.stack.nets[view.index]
        found = torch.autograd.grad(value, list(net.values()), retain_graph=True, allow_unused=True)
        parts = {
            name: torch.zeros_like(net[name]) if grad is None else grad
            for name, grad in zip(net, found, strict=True)
        }
        return torch.cat([grad.flatten() for grad in parts.values()]), parts["log_std"]

    @torch.no_grad()
    def _motion(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics :data:`MOTION` of all agents, as far as there are enough updates."""
        state = batch.state[:: -(-len(batch.state) // STATES)]
        metrics = {}
        for p, agent in enumerate(self.agents):
            obs = self.actors.inputs(p, agent.observe(state))
            std = self.evaluate(p, obs)[1]
            flats = [*(flat[p] for flat in self._past), None]
            means = torch.stack([self.evaluate(p, obs, flat)[0] for flat in flats]) / std
            found = _path(means.flatten(1))
            metrics.update(
                (f"agent{p}/{name}", value) for name, value in zip(MOTION, found, strict=True)
            )
        return metrics


def _path(points: Tensor) -> Sequence[Tensor]:
    """The numbers :data:`MOTION` of points (k, n) that follow one another; 0 where k is too small.

    With fewer points than :data:`UPDATES` + 1 there is no straightness.
    """
    changes = points.diff(dim=0)
    sizes = changes.norm(dim=1)
    none = points.new_zeros(())
    step = sizes[-1] / points.shape[1] ** 0.5
    if len(changes) < 2:
        return step, none, none
    cosine = torch.dot(changes[-1], changes[-2]) / (sizes[-1] * sizes[-2])
    if len(changes) < UPDATES:
        return step, cosine, none
    return step, cosine, (points[-1] - points[0]).norm() / sizes.sum()
