"""rl_games' PPO agent, driven one iteration at a time."""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rl_games.algos_torch.a2c_continuous import A2CAgent
from rl_games.algos_torch.torch_ext import policy_clip_fraction
from rl_games.common.algo_observer import AlgoObserver
from rl_games.common.diagnostics import DefaultDiagnostics
from torch import Tensor

from madpo_isaac.algos.learner import Collected, Learner, OnStep, check_finite
from madpo_isaac.algos.ppo.params import rl_games_params
from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.algos.steps import Faults
from madpo_isaac.env import AgentSpec, Policy, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.system import device


class _Watch(AlgoObserver, DefaultDiagnostics):
    """Collects results of the running agent that rl_games does not return."""

    def __init__(self) -> None:
        self.on_step: OnStep | None = None
        self.clip_fractions: list[Tensor] = []
        self.grad_norms: list[Tensor] = []

    def process_infos(self, infos: dict[str, Any], done_indices: Tensor) -> None:
        """Called after every step of the environments."""
        del done_indices
        assert self.on_step is not None
        self.on_step(infos["actions"], infos["step"])

    def mini_batch(self, agent: Any, batch: dict[str, Any], e_clip: float, minibatch: int) -> None:
        """Called after every gradient step."""
        del agent, minibatch
        new, old = batch["new_neglogp"].detach(), batch["old_neglogp"]
        self.clip_fractions.append(policy_clip_fraction(new, old, e_clip))


class _Agent(A2CAgent):
    """rl_games' agent on one thread; it reports gradient norms and skips steps if not finite."""

    watch: _Watch
    collected: dict[str, Any] | None = None

    @torch.no_grad()
    def collect(self) -> float:
        """Fills a rollout for the next epoch; returns the seconds spent in the environments."""
        self.set_eval()
        with device.single_threaded():
            collected = self.collected = super().play_steps()
        return collected["step_time"]

    def play_steps(self) -> dict[str, Any]:
        """Is called by rl_games at the start of an epoch; the rollout has been collected before."""
        assert self.collected is not None
        collected, self.collected = self.collected, None
        return collected

    def trancate_gradients_and_step(self) -> None:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        self.watch.grad_norms.append(norm)
        if norm.isfinite():  # read from the device, as rl_games does all along
            super().trancate_gradients_and_step()


class PpoLearner(Learner):
    """An agent of rl_games with random generators of its own; it does not use the global ones.

    Checkpoints have rl_games' format with further keys, so rl_games' players can read them.

    Args:
        config: hyper-parameters.
        env: environments in which it learns.
        seeds: seeds of the initial weights and of the actions.
        max_iterations: the end of the linear schedule of the learning rate.
        playing: True if it only acts; minibatches then need not divide the rollout.
    """

    def __init__(
        self,
        config: PpoConfig,
        env: VecEnv,
        seeds: tuple[int, int],
        max_iterations: int,
        playing: bool = False,
    ) -> None:
        self._config = config
        self._devices = [env.device] if env.device.type == "cuda" else []
        init_seed, act_seed = seeds
        watch = _Watch()
        params = rl_games_params(config, env, max_iterations, watch)
        if playing:
            params["config"]["minibatch_size"] = env.num_envs * config.horizon
        # The agent makes folders and an event file for itself; ours are the run's.
        with (
            torch.random.fork_rng(self._devices),
            tempfile.TemporaryDirectory() as folder,
            contextlib.redirect_stdout(io.StringIO()),
        ):
            torch.manual_seed(init_seed)
            params["config"]["train_dir"] = folder
            self.agent = _Agent("run", params)
            self.agent.writer.close()
            self.agent.init_tensors()
            torch.manual_seed(act_seed)
            self._draws = self._random_state()
        self.agent.diagnostics = self.agent.watch = watch
        self.faults = Faults()
        self.clip = config.e_clip
        width = env.action_dim, env.state_dim
        self.agents = (AgentSpec("joint", slice(0, width[0]), width[1], lambda state: state),)

    def collect(self, state: Tensor, on_step: OnStep) -> Collected:
        """See :meth:`Learner.collect`."""
        agent = self.agent
        agent.watch.on_step = on_step
        agent.obs = agent.obs_to_tensors({"obs": state})
        with self._own_draws():
            step_s = agent.collect()
        return Collected(agent.obs["obs"], step_s)

    def update(self, done: float, env_steps: int, *, all_valid: bool) -> dict[str, Tensor]:
        """See :meth:`Learner.update`; rl_games counts the progress of the training itself."""
        del done, env_steps, all_valid
        agent, watch = self.agent, self.agent.watch
        watch.clip_fractions, watch.grad_norms = [], []
        agent.update_epoch()
        with self._own_draws():
            _, _, _, _, actor, critic, bounds, entropies, kls, _, _ = agent.train_epoch()
        agent.dataset.update_values_dict(None)
        agent.frame += agent.curr_frames
        steps = [{"grad_norm": norm} for norm in watch.grad_norms]
        means, skipped = self.faults.summary("agent0 (joint)", steps)
        grad_norm = means["grad_norm"]
        series = {
            "agent0/loss": actor,
            "agent0/clip_fraction": watch.clip_fractions,
            "agent0/kl": kls,
            "agent0/entropy": entropies,
            "critic/loss": critic,
            "bounds_loss": bounds,
        }
        metrics = {name: torch.stack(values).mean() for name, values in series.items()}
        metrics["agent0/lr"] = grad_norm.new_tensor(self.learning_rate)
        # Actor and critic share one network, so there is one gradient.
        for owner in ("agent0", "critic"):
            metrics |= {f"{owner}/grad_norm": grad_norm, f"{owner}/skipped": skipped}
        return metrics

    def policy(self, generator: torch.Generator | None = None) -> Policy:
        """See :meth:`Learner.policy`; the network is the one that learns, not a copy."""
        return lambda state: self.act(state, generator)

    def act(self, state: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean actions (N, A) at joint states (N, S), or samples drawn from ``generator``."""
        agent = self.agent
        with torch.random.fork_rng(self._devices):  # the learner's draws go on as if not asked
            result = agent.get_action_values(agent.obs_to_tensors({"obs": state}))
        action = result["mus"]
        if generator is not None:
            noise = torch.randn(action.shape, generator=generator, device=action.device)
            action = torch.addcmul(action, result["sigmas"], noise)
        return agent.preprocess_actions(action)

    @property
    def learning_rate(self) -> float:
        """The current one."""
        return self.agent.last_lr

    def state_dict(self) -> dict[str, Any]:
        """Returns rl_games' own checkpoint, and in ``algo_state`` the state that it leaves out."""
        own = {**self.draws(), "lr": self.learning_rate}
        return {**self.agent.get_full_state_weights(), "algo_state": own}

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Restores :meth:`state_dict`; a constant learning rate is the present configuration's."""
        self.agent.set_full_state_weights(content)
        self.load_draws(content["algo_state"])
        constant = self._config.lr_schedule == "constant"
        self.agent.last_lr = self._config.lr if constant else content["algo_state"]["lr"]
        self.agent.update_lr(self.agent.last_lr)

    def load_policy(self, content: dict[str, Any]) -> None:
        """Restores the network and its normalizers only, enough to play."""
        self.agent.set_weights(content)

    def check(self, path: Path, content: dict[str, Any], *, playing: bool) -> None:
        """See :meth:`Learner.check`; one network acts and criticizes."""
        missing = [key for key in ("model", "optimizer", "epoch", "frame") if key not in content]
        if missing:
            raise UserError(f"Checkpoint '{path}' lacks {', '.join(missing)}.")
        if _shapes(content["model"]) != _shapes(self.agent.model.state_dict()):
            raise UserError(
                f"Checkpoint '{path}' has another network: use the task settings, algo.hidden, "
                "algo.normalize_input and algo.normalize_value it was trained with."
            )
        check_finite(path, "model", content["model"])
        if not playing:
            self._check_moments(path, content["optimizer"]["state"])
            check_finite(path, "optimizer", content["optimizer"]["state"])

    def _check_moments(self, path: Path, saved: dict[int, dict[str, Tensor]]) -> None:
        """Checks the state of Adam, which torch takes in any shape and which is empty at first."""
        parameters = list(self.agent.model.parameters())
        for index, moments in saved.items():
            shape = tuple(parameters[index].shape)
            if _shapes(moments) != {"step": (), "exp_avg": shape, "exp_avg_sq": shape}:
                raise UserError(
                    f"Checkpoint '{path}' has other moments of parameter {index} in its optimizer."
                )

    def draws(self) -> dict[str, Any]:
        """See :meth:`Learner.draws`."""
        return {"random": self._draws}

    def load_draws(self, content: dict[str, Any]) -> None:
        """See :meth:`Learner.draws`."""
        self._draws = content["random"]

    def _random_state(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._devices)]

    @contextlib.contextmanager
    def _own_draws(self) -> Iterator[None]:
        """Draws from the learner's own generators: rl_games knows the global ones only."""
        with torch.random.fork_rng(self._devices):
            cpu, *others = self._draws
            torch.set_rng_state(cpu)
            for state, where in zip(others, self._devices, strict=True):
                torch.cuda.set_rng_state(state, where)
            yield
            self._draws = self._random_state()


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The sizes of named tensors."""
    return {name: tuple(value.shape) for name, value in tensors.items()}
