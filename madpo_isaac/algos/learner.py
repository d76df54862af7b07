"""The contract between the training loop and the learners."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from madpo_isaac.algos.steps import Faults
from madpo_isaac.env import AgentSpec, Policy, Step
from madpo_isaac.errors import UserError

OnStep = Callable[[Tensor, Step], None]
"""A function that gets the joint actions (N, A) and the outcome of a step of all environments."""

GENERATORS = ("generator", "order_generator", "random")
"""Keys of the states of random generators, wherever they are in a checkpoint."""


class Collected(NamedTuple):
    """The end of a rollout; the learner keeps the rollout itself."""

    state: Tensor
    """Joint state to act on next. (N, S)"""
    step_s: float
    """Seconds spent in the environments."""


class Learner(ABC):
    """Collects a rollout with its policies, improves them on it, and puts them into checkpoints.

    One iteration is :meth:`collect`, then :meth:`update`.
    """

    agents: Sequence[AgentSpec]
    """The agents that learn a policy."""
    faults: Faults
    clip: float
    """Clip range of the policy ratio."""

    @abstractmethod
    def collect(self, state: Tensor, on_step: OnStep) -> Collected:
        """Acts for one rollout from the joint states (N, S) on; calls ``on_step`` at every step."""

    @abstractmethod
    def update(self, done: float, env_steps: int, *, all_valid: bool) -> dict[str, Tensor]:
        """Improves the policies on the rollout.

        Args:
            done: share of the training before this iteration, in [0, 1].
            env_steps: steps of all environments before this iteration.
            all_valid: True if it is known that no environment became unstable in the rollout.

        Returns:
            Scalar metrics by name, on the device.
        """

    @abstractmethod
    def policy(self, generator: torch.Generator | None = None) -> Policy:
        """Returns the policies as they are now, as one function.

        Mean actions, or samples drawn from ``generator``; no other generator is touched.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Returns the learner's part of a checkpoint; ``algo_state`` contains :meth:`draws`."""

    @abstractmethod
    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restores :meth:`state_dict` from a checkpoint."""

    @abstractmethod
    def load_policy(self, content: dict[str, Any]) -> None:
        """Restores the policies from a checkpoint, which is enough to act."""

    def begin_with_policy(self, content: dict[str, Any]) -> None:
        """Restores the policies from a policy file, to train them; the rest stays new."""
        self.load_policy(content)

    @abstractmethod
    def check(self, path: Path, content: dict[str, Any], *, playing: bool) -> None:
        """Makes sure that a checkpoint has networks of the sizes here, and finite numbers.

        Args:
            path: the checkpoint.
            content: content of the checkpoint.
            playing: True if only the policies have to fit.

        Raises:
            UserError: a network has another size, or a number is not finite.
        """

    @abstractmethod
    def draws(self) -> dict[str, Any]:
        """Returns the state of the generators that actions are drawn from."""

    @abstractmethod
    def load_draws(self, content: dict[str, Any]) -> None:
        """Restores :meth:`draws`, whose keys ``content`` contains."""


def with_generators(content: Mapping[str, Any], ours: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a checkpoint's content with the generators of another content in place of its own."""
    changed = dict(content)
    for key in content.keys() & ours.keys():
        if key in GENERATORS:
            changed[key] = ours[key]
        elif isinstance(content[key], Mapping) and isinstance(ours[key], Mapping):
            changed[key] = with_generators(content[key], ours[key])
    return changed


def check_finite(path: Path, name: str, tree: Any) -> None:
    """Makes sure that the tensors in a part of a checkpoint are finite.

    Args:
        path: the checkpoint.
        name: name of the part.
        tree: its tensors, in nested mappings and sequences.

    Raises:
        UserError: naming the first tensor with another number.
    """
    if isinstance(tree, Tensor):
        if tree.is_floating_point() and not torch.isfinite(tree).all():
            raise UserError(f"Checkpoint '{path}' has numbers in {name} that are not finite.")
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            check_finite(path, f"{name}/{key}", value)
    elif isinstance(tree, (list, tuple)):
        for index, value in enumerate(tree):
            check_finite(path, f"{name}/{index}", value)
