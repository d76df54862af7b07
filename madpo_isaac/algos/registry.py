"""The registry of algorithms: each has a name for the command line, a class and settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.plugins import refuse_taken

if TYPE_CHECKING:
    from madpo_isaac.algos.base import OnPolicy

Kind = TypeVar("Kind", bound="type[OnPolicy]")

ALGORITHMS: dict[str, type[OnPolicy]] = {}
"""The class of each algorithm that this project's learner trains."""

ALGO_SCHEMAS: dict[str, type[AlgoConfig] | type[PpoConfig]] = {"ppo": PpoConfig}
"""The settings of each algorithm, including those of PPO, whose learner is rl_games'."""


def register_algorithm(name: str, settings: type[AlgoConfig]) -> Callable[[Kind], Kind]:
    """Returns a decorator that makes a class an algorithm: ``algo=<name>`` trains with it.

    Args:
        name: name on the command line; ``cfg/algo/<name>.yaml`` has the defaults.
        settings: the dataclass of its settings.

    Raises:
        UserError: another algorithm has this name.
    """

    def add(kind: Kind) -> Kind:
        known = ALGORITHMS.get(name)
        owner = None if known is None else known.__module__
        refuse_taken("an algorithm", name, "" if name == "ppo" else owner, kind.__module__)
        ALGORITHMS[name], ALGO_SCHEMAS[name] = kind, settings
        return kind

    return add
