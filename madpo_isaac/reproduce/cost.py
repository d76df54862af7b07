"""Estimates of the time and the disk space of a run before it starts.

They hold within a factor of two for one core, be it of an idle AMD processor with AVX-512
(docs/results/update.json, mamujoco.json, divergence.json) or of an Intel Xeon both of whose cores
train (docs/results/question), and lie between the two. As soon as runs have a pace of their own,
``pool`` uses this pace.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from madpo_isaac.algos.hatrpo import HatrpoConfig
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.config.schema import Config

_ROBOTS = {
    "HalfCheetah": (17_000, 23),
    "Walker2d": (6_700, 23),
    "Ant": (3_900, 120),
    "Humanoid": (2_700, 400),
    "ShadowHand": (7_400, 420),
}
"""Environment steps per second without the policies, and inputs of a network."""
_ACT_S = 4.5e-5
"""Seconds per agent to act once in all environments."""
_STEP_S, _WEIGHT_S = 4e-3, 5.2e-11
"""Seconds of a gradient step per network, and per sample and weight."""
_PAIR_S = 1e-8
"""Seconds of a kernel divergence per pair of samples, forward and backward."""
_OF_HANDS = {"hands": 2, "fingers": 12}
"""Agents of two Shadow hands."""
_HATRPO, _CG = 0.6, 0.28
"""Time of HATRPO's update relative to HAPPO's, and per iteration of conjugate gradient beside."""
_LINE, _PER_AGENT = 700, 500
"""Bytes of metrics.jsonl and of TensorBoard's file per iteration, and per agent beside."""
_CHECKPOINTS = 2
"""last.pth and best.pth."""


@dataclass(frozen=True)
class Cost:
    """Time and space of a run, or of several."""

    seconds: float
    """Seconds of one core."""
    bytes: float
    """On the disk."""


ONE_SECOND = Cost(1.0, 0.0)


def total(costs: Iterable[Cost]) -> Cost:
    """Returns the sum of costs."""
    every = list(costs)
    return Cost(sum(cost.seconds for cost in every), sum(cost.bytes for cost in every))


def expected(config: Config, iterations: int) -> Cost:
    """Returns the expected cost of a run of an on-policy algorithm."""
    algo, task = config.algo, config.task.name
    assert isinstance(algo, AlgoConfig)
    pace, inputs = next(known for robot, known in _ROBOTS.items() if task.startswith(robot))
    agents = _agents(config)
    batch = config.num_envs * algo.horizon
    widths = [inputs, *algo.hidden]
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    minibatch = batch / algo.num_minibatches
    step = _STEP_S + minibatch * weights * _WEIGHT_S
    update = algo.epochs * algo.num_minibatches * (agents + 1) * step
    if isinstance(algo, HatrpoConfig):
        update *= _HATRPO + algo.cg_iterations * _CG
    copies = 3  # the weights and Adam's two moments
    if isinstance(algo, MadpoConfig):
        copies += 2  # the policies to compare with
        update += _kernels(algo, batch, agents)
    disk = _CHECKPOINTS * 4 * copies * (agents + 1) * weights
    disk += iterations * (_LINE + agents * _PER_AGENT)
    return Cost(iterations * (batch / pace + agents * algo.horizon * _ACT_S + update), disk)


def _agents(config: Config) -> int:
    """Returns the number of agents; that of the hands is 2 if they are divided in a custom way."""
    partition = config.task.name.rpartition("-")[2].partition("x")[0]
    agents = getattr(config.task, "agents", None)
    if agents == "joint":
        return 1
    if partition.isdigit():
        return int(partition)
    return _OF_HANDS.get(agents, 2) if isinstance(agents, str) else 2


def _kernels(algo: MadpoConfig, batch: int, agents: int) -> float:
    """Returns the seconds of an iteration's kernel divergences, two per agent and step."""
    if algo.divergence.preset == "gaussian":
        return 0.0
    minibatch = batch // algo.num_minibatches
    rows = algo.divergence.rows or minibatch
    return 2 * agents * algo.epochs * algo.num_minibatches * rows * minibatch * _PAIR_S
