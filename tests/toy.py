"""A tiny deterministic environment, and what the tests of the learners share."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from madpo_isaac.algos import OnPolicy
from madpo_isaac.algos.hatrpo import HatrpoConfig
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.algos.storage import Rollout
from madpo_isaac.env import AgentSpec, Step, VecEnv

CPU = torch.device("cpu")
ACTION_COLUMNS = ([0, 1], [5, 2, 3], [4])
STATE_COLUMNS = ([0, 1, 2], [3, 1, 4, 5, 0], [2, 3, 4, 5])


def _columns(columns: list[int]) -> Any:
    return lambda state: state[:, columns]


AGENTS = (
    AgentSpec("left", slice(0, 2), 3, _columns(STATE_COLUMNS[0])),
    AgentSpec("right", torch.tensor(ACTION_COLUMNS[1]), 5, _columns(STATE_COLUMNS[1])),
    AgentSpec("thumb", slice(4, 5), 4, _columns(STATE_COLUMNS[2])),
)


class ToyEnv(VecEnv):
    """A damped linear system pushed by all actions, rewarded for staying near the origin.

    Even environments are truncated after five steps; odd ones terminate after three, and all of
    them whenever the first coordinate exceeds 2. Nothing is drawn at random.
    """

    max_episode_length = 5
    step_dt = 0.1

    def __init__(self, num_envs: int = 6) -> None:
        self.num_envs, self.device, self.agents = num_envs, CPU, AGENTS
        self.state_dim = self.action_dim = 6
        self._push = torch.sin(torch.arange(36.0) ** 2).view(6, 6)
        self._episode = torch.zeros(num_envs)
        self._age = torch.zeros(num_envs, dtype=torch.long)
        self._state = torch.zeros(num_envs, 6)

    def _start(self) -> Tensor:
        phase = torch.arange(self.num_envs) + 10.0 * self._episode
        return torch.cos(phase[:, None] * torch.arange(1.0, 7.0))

    def reset(self) -> Tensor:
        self._episode.zero_()
        self._age.zero_()
        self._state = self._start()
        return self._state.clone()

    def step(self, action: Tensor) -> Step:
        final_state = 0.8 * self._state + 0.3 * torch.tanh(action) @ self._push
        self._age += 1
        odd = torch.arange(self.num_envs) % 2 == 1
        terminated = (odd & (self._age == 3)) | (final_state[:, 0] > 2.0)
        truncated = ~terminated & (self._age == self.max_episode_length)
        done = terminated | truncated
        self._episode += done
        self._age[done] = 0
        self._state = torch.where(done[:, None], self._start(), final_state)
        reward = 1.0 - final_state.square().mean(1)
        log = {"success": truncated.float(), "distance": final_state.norm(dim=1)}
        return Step(self._state.clone(), reward, terminated, truncated, final_state, log)

    def state_dict(self) -> dict[str, Tensor]:
        names = ("_episode", "_age", "_state")
        return {name: getattr(self, name).clone() for name in names}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, value in state.items():
            setattr(self, name, value.clone())


def settings(schema: type[AlgoConfig] = AlgoConfig, **changed: Any) -> Any:
    """Small and fast hyper-parameters; ``divergence`` changes those of :class:`MadpoConfig`."""
    small = {"name": "toy", "horizon": 12, "hidden": [7, 5], "epochs": 2, "critic_epochs": 2}
    if schema is not HatrpoConfig:
        small["actor_lr"] = 5e-4
    # HARL's policies and critic, which the oracles of the tests repeat.
    small |= {"max_std": 0.5, "init_std": 0.5 / (1.0 + math.exp(-1.0)), "input_norm": "layer"}
    small |= {"value_clip": changed.get("clip", 0.2)}
    divergence = changed.pop("divergence", {})
    config = schema(**{**small, **changed})
    for key, value in divergence.items():
        assert isinstance(config, MadpoConfig)
        assert hasattr(config.divergence, key)
        setattr(config.divergence, key, value)
    return config


def build(kind: type[OnPolicy], config: AlgoConfig, env: VecEnv, seed: int = 1) -> Any:
    """An algorithm whose initial weights and draws follow from ``seed``."""
    generators = (torch.Generator().manual_seed(s) for s in (seed, seed + 1000))
    return kind(config, env, *generators)


def collect(algo: OnPolicy, env: VecEnv, state: Tensor) -> tuple[Rollout, Tensor]:
    """One rollout from ``state``, and the state it ends in."""
    rollout = Rollout.allocate(env, algo.config.horizon, algo.critic.value_shape)
    act = algo.freeze()
    for t in range(algo.config.horizon):
        decision = act(env.observations(state))
        step = env.step(decision.action)
        rollout.state[t], rollout.action[t] = state, decision.action
        rollout.log_prob[t], rollout.reward[t] = decision.log_prob, step.reward
        rollout.terminated[t], rollout.truncated[t] = step.terminated, step.truncated
        value = algo.final_value(step.truncated, step.final_state)
        if value is not None:
            rollout.final_value[t] = value
        state = step.state
    rollout.last_state.copy_(state)
    return rollout, state


def train(algo: OnPolicy, env: VecEnv, iterations: int) -> list[dict[str, Tensor]]:
    """Trains from a reset and returns every iteration's metrics."""
    state, history = env.reset(), []
    for _ in range(iterations):
        rollout, state = collect(algo, env, state)
        history.append(algo.update(rollout))
    return history


# Float64 oracles, in NumPy and SciPy ------------------------------------------------------------


def check_it_continues(make: Callable[..., Any], path: Path) -> None:
    """A learner that loads another's state, and its environment, goes on as that one does.

    ``make(seed=...)`` builds a learner; ``path`` is a file to write.
    """
    algo, env = make(seed=1), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)
    torch.save({"algo": algo.state_dict(), "env": env.state_dict()}, path)
    saved = torch.load(path, weights_only=True)
    other, twin = make(seed=77), ToyEnv()
    assert not torch.equal(other.actors.stack.flat, algo.actors.stack.flat)
    other.load_state_dict(saved["algo"])
    twin.load_state_dict(saved["env"])
    histories, begin = [], state
    for learner, world in ((algo, env), (other, twin)):
        state, history = begin, []
        for _ in range(3):
            rollout, state = collect(learner, world, state)
            history.append(learner.update(rollout))
        histories.append(history)
    for part in ("actors", "critic"):
        assert torch.equal(getattr(algo, part).stack.flat, getattr(other, part).stack.flat)
    for first, second in zip(*histories, strict=True):
        assert list(first) == list(second)  # in the order of the agents
        assert all(torch.equal(first[name], second[name]) for name in first)


def check_it_learns(make: Callable[..., Any], **settings: Any) -> None:
    """Resting yields about 0.76 a step, greedy actions 0.95; without discount each step counts.

    ``make(**settings)`` builds a learner.
    """
    settings = {"horizon": 25, "hidden": [16], "critic_epochs": 5, "gamma": 0.0, **settings}
    algo, env = make(critic_lr=5e-3, **settings), ToyEnv(64)
    state, rewards = env.reset(), []
    for _ in range(12):
        rollout, state = collect(algo, env, state)
        rewards.append(rollout.reward.mean().item())
        algo.update(rollout)
    assert rewards[0] < 0.8
    assert np.mean(rewards[-3:]) > 0.84


def parameters(algo: OnPolicy, p: int) -> dict[str, np.ndarray]:
    """A float64 copy of agent p's parameters."""
    net = algo.actors.stack.nets[p]
    return {name: value.detach().double().numpy().copy() for name, value in net.items()}


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-5) * weight + bias


def network(net: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """LayerNorm, then (Linear, ReLU, LayerNorm) per hidden layer, then Linear."""
    x = layer_norm(x, net["norm0.weight"], net["norm0.bias"])
    for k in range(sum(name.startswith("linear") for name in net) // 2):
        x = np.maximum(x @ net[f"linear{k}.weight"].T + net[f"linear{k}.bias"], 0.0)
        x = layer_norm(x, net[f"norm{k + 1}.weight"], net[f"norm{k + 1}.bias"])
    return x @ net["out.weight"].T + net["out.bias"]


def policy(p: int, net: dict[str, np.ndarray], state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Mean (B, d) and standard deviation (d,) of agent p at joint states (B, 6)."""
    log_std = net["log_std"][: len(ACTION_COLUMNS[p])]
    mean = network(net, np.asarray(state, dtype=float)[:, STATE_COLUMNS[p]])
    return mean, 0.5 / (1.0 + np.exp(-log_std))


def log_density(p: int, net: dict[str, np.ndarray], state: Any, action: Any) -> np.ndarray:
    """Log-density of agent p's part of the joint action (B, 6)."""
    mean, std = policy(p, net, state)
    part = np.asarray(action, dtype=float)[:, ACTION_COLUMNS[p]]
    return stats.norm.logpdf(part, mean, std).sum(1)


def cauchy_schwarz(mean_p: Any, std_p: Any, mean_q: Any, std_q: Any) -> np.ndarray:
    """-log(<p,q>^2 / (<p,p> <q,q>)) per state: the product integral of two Gaussians is a density.

    int N(x; m, s^2) N(x; n, t^2) dx = N(m; n, s^2 + t^2).
    """

    def log_product(m: Any, s: Any, n: Any, t: Any) -> np.ndarray:
        return stats.norm.logpdf(m, n, np.sqrt(s * s + t * t)).sum(-1)

    cross = log_product(mean_p, std_p, mean_q, std_q)
    own = [log_product(m, s, m, s) for m, s in ((mean_p, std_p), (mean_q, std_q))]
    return own[0] + own[1] - 2.0 * cross


def bounded(divergence: np.ndarray) -> np.ndarray:
    """One minus the cosine of the two densities, exp(-D / 2) being that cosine."""
    return 1.0 - np.array([math.exp(-0.5 * value) for value in divergence.ravel()]).reshape(
        divergence.shape
    )
