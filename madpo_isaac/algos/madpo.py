"""MADPO (Dou et al., NeurIPS 2024): HAPPO plus a mutual policy divergence bonus."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from madpo_isaac.algos.base import AgentView, Batch, Rows
from madpo_isaac.algos.happo import HAPPO
from madpo_isaac.config import AlgoConfig, MadpoConfig
from madpo_isaac.divergence import gaussian_cs
from madpo_isaac.env import VecEnv


class MADPO(HAPPO):
    """Adds coef * [lam D(pi_i || updated predecessor) + (1 - lam) D(pi_i || previous pi_i)].

    Eq. 3 and 10. The predecessor is the agent updated just before in this iteration's order; the
    first one has none. "Previous" is the policy before the previous iteration's update: against
    the behaviour policy itself the gradient would vanish at the first epoch.
    """

    config: MadpoConfig

    def __init__(
        self,
        config: AlgoConfig,
        env: VecEnv,
        init_generator: torch.Generator,
        generator: torch.Generator,
    ) -> None:
        super().__init__(config, env, init_generator, generator)
        self._previous = self.actors.stack.flat.clone()
        self._behaviour = self.actors.stack.flat.clone()
        self._reference: tuple[Tensor, Tensor] | None = None
        self._predecessor: tuple[Tensor, Tensor] | None = None

    def begin_update(self, batch: Batch) -> None:
        """Moves the snapshots on: the policy that collected this batch becomes the next one."""
        del batch
        self._previous.copy_(self._behaviour)
        self._behaviour.copy_(self.actors.stack.flat)
        self._predecessor = None

    def begin_agent(self, view: AgentView) -> None:
        """Evaluates the agent's previous policy on the batch, once for all epochs."""
        if self.config.divergence.kind == "none":
            return
        self._reference = self.evaluate(view.index, view.obs, self._previous[view.index])

    def regulariser(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """The divergence bonus of Eq. 10, summed over ``rows``. ()"""
        if self.config.divergence.kind == "none":
            return super().regulariser(view, rows, mean, std)
        intra, inter = self._divergences(mean, std, rows)
        div = self.config.divergence
        return div.coef * (div.lam * inter + (1.0 - div.lam) * intra)

    def _divergences(
        self, mean: Tensor, std: Tensor, rows: Tensor | slice
    ) -> tuple[Tensor, Tensor]:
        """Intra- and inter-agent divergence summed over ``rows``."""
        bounded = self.config.divergence.bounded
        assert self._reference is not None
        ref_mean, ref_std = self._reference
        intra = gaussian_cs(
            mean, std, ref_mean[rows], ref_std, reduction="none", bounded=bounded
        ).sum()
        if self._predecessor is None:
            return intra, torch.zeros_like(intra)
        # Agents may have different numbers of actions: their leading ones are compared.
        pred_mean, pred_std = self._predecessor
        d = min(mean.shape[1], pred_mean.shape[1])
        inter = gaussian_cs(
            mean[:, :d],
            std[:d],
            pred_mean[rows, :d],
            pred_std[:d],
            reduction="none",
            bounded=bounded,
        ).sum()
        return intra, inter

    def agent_updated(self, view: AgentView, mean: Tensor, std: Tensor) -> dict[str, Tensor]:
        """Reports both divergences of the updated policy, which becomes the next predecessor."""
        if self.config.divergence.kind == "none":
            return {}
        intra, inter = self._divergences(mean, std, slice(None))
        self._predecessor = mean, std.clone()
        return {
            "divergence_intra": intra / len(mean),
            "divergence_inter": inter / len(mean),
        }

    def state_dict(self) -> dict[str, Any]:
        """Adds the policy of the previous iteration."""
        return {**super().state_dict(), "behaviour": self._behaviour.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`."""
        super().load_state_dict(state)
        self._behaviour.copy_(state["behaviour"])
