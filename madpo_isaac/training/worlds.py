"""Unstable environments ("bad worlds"): counted, kept for replay, and a reason to end a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor

from madpo_isaac.config.nodes import read_record
from madpo_isaac.config.resume import difference
from madpo_isaac.config.schema import Config
from madpo_isaac.env import Step
from madpo_isaac.errors import RunFailed, UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.sim import physics
from madpo_isaac.system.byproduct import ByProduct
from madpo_isaac.system.files import reading_settings
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.run import Run

_KEYS = {"config": str, "iteration": int, "start": dict, "actions": Tensor, "faults": Tensor}


class WorldGuard(Callback):
    """Watches the steps of every rollout; it reads the device once, at the end of the rollout.

    A dump holds the environments' exact state at the start of the rollout and all actions up to
    the last fault, so that every fault can be repeated together with the steps before it.

    Args:
        folder: folder for up to ``max_dumps`` dumps; None to write no dumps.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._dumps = ByProduct("dumps of bad worlds")
        self._actions: list[Tensor] = []
        self._bad: list[Tensor] = []
        self._odd: list[Tensor] = []

    def on_step(self, run: Run, action: Tensor, step: Step) -> None:
        """Takes in a step."""
        self._actions.append(action)
        self._bad.append(step.diverged)
        # A sum is not finite if one of its numbers is not, and takes a tenth of isfinite's time.
        final = torch.where(step.truncated, step.final_state.sum(1), 0.0)
        odd = ~(step.state.sum() + step.learned_reward.sum() + final.sum()).isfinite()
        # At once, if nothing has to be waited for: rl_games may not survive another step.
        if odd.device.type == "cpu" and run.ranks.count == 1:
            self._refuse(run, bool(odd))
        self._odd.append(odd)

    def on_rollout(self, run: Run) -> None:
        """Counts the bad steps of all processes; writes a dump if there are any.

        Raises:
            RunFailed: if they are more than ``max_bad_share`` of the steps, or all of a process;
                or if an environment gave numbers that are not finite, and did not report it.
        """
        bad, odd, taken = torch.stack(self._bad), torch.stack(self._odd).sum(), self._actions
        self._bad, self._actions, self._odd = [], [], []
        total = torch.full_like(odd, bad.numel())
        counts = torch.stack((bad.sum(), bad.all().long(), total, odd))
        number, hopeless, total, unsound = run.ranks.sum(counts).tolist()
        self._refuse(run, bool(unsound))
        run.bad_steps = number
        if not number:
            return
        actions = torch.stack(taken)
        path = self._dump(run, bad, actions)
        iteration, share, most = run.iteration + 1, number / total, run.config.max_bad_share
        if share <= most and not hopeless:
            return
        cause = "" if actions.isfinite().all() else "; actions are not finite"
        where = f"; dump: {path}" if path else ""
        raise RunFailed(
            f"{number} of {total} environment steps of iteration {iteration} went bad "
            f"({share:.1%}, max_bad_share={most}){cause}{where}."
        )

    @staticmethod
    def _refuse(run: Run, odd: bool) -> None:
        """Raises RunFailed if an environment gave such numbers and did not report it."""
        if odd:
            raise RunFailed(
                f"{run.config.task.name} gave a state or reward that is not finite in iteration "
                f"{run.iteration + 1}. It has to reset such an environment, give it the reward 0, "
                "and report it in log['diverged']."
            )

    def _dump(self, run: Run, bad: Tensor, actions: Tensor) -> Path | None:
        """Writes the rollout up to its last bad step, if there is room for one more file."""
        faults, folder = bad.nonzero().cpu(), self._folder
        if folder is None or not len(faults):
            return None
        if len(list(folder.glob("*.pth"))) >= run.config.max_dumps:
            return None
        rank = f"_rank{run.ranks.index}" * (run.ranks.count > 1)
        path = folder / f"iteration_{run.iteration + 1}{rank}.pth"
        content = {
            "config": run.config_yaml,
            "iteration": run.iteration + 1,
            "physics": run.env.physics(),
            "start": run.beginning.worlds["env_state"],
            "actions": actions[: int(faults[-1, 0]) + 1],
            "faults": faults,
        }

        def write() -> None:
            folder.mkdir(exist_ok=True)  # fails where the run folder was moved
            checkpoint.save(path, content)

        return path if self._dumps.attempt(write) else None


def replay(path: Path) -> list[tuple[int, int, bool]]:
    """Repeats a dump in fresh environments.

    Returns:
        For every fault its step in the iteration, its environment, and True if it happened again.

    Raises:
        UserError: the file is not a dump.
    """
    content = _read(path)
    config = _config(path, content)
    env = make_env(config, training=True)
    env.reset()
    with checkpoint.using(path):
        if found := physics.change(env.physics(), content.get("physics", {})):
            raise UserError(f"Dump '{path}' is of another model: {found}.")
    other = difference(env.state_dict(), content["start"])
    if other is None and content["actions"].shape[2] != env.action_dim:
        other = "actions"
    if other is not None:
        raise UserError(f"Dump '{path}' is of other environments ({other}).")
    with checkpoint.using(path):
        env.load_state_dict(content["start"])
    bad = torch.stack([env.step(action).diverged for action in content["actions"].to(env.device)])
    return [(t, i, bool(bad[t, i])) for t, i in content["faults"].tolist()]


def _config(path: Path, content: dict[str, Any]) -> Config:
    """The checked configuration of a dump's run; raises UserError if the dump is of another."""
    record = read_record(content["config"], path, alone=RunFolder.of_dump(path) is None)
    with reading_settings(path):
        config = OmegaConf.to_object(record)
    assert isinstance(config, Config)
    config.check()
    actions, faults = content["actions"], content["faults"]
    if not actions.numel():
        raise UserError(f"Dump '{path}' has no steps.")
    within = faults.dim() == 2 and faults.shape[1] == 2 and (faults >= 0).all()
    if actions.dim() != 3 or actions.shape[1] != config.num_envs:
        raise UserError(f"Dump '{path}' has actions of other environments than its configuration.")
    if not within or not (faults < torch.tensor(actions.shape[:2])).all():
        raise UserError(f"Dump '{path}' names steps or environments that it does not have.")
    return config


def _read(path: Path) -> dict[str, Any]:
    content = checkpoint.unpack(path, "dump")
    if not isinstance(content, dict):
        raise UserError(f"'{path}' is not a dump of bad worlds.")
    for key, kind in _KEYS.items():
        if not isinstance(content.get(key), kind):
            raise UserError(f"'{path}' is not a dump of bad worlds: it has no {key}.")
    if content["faults"].dtype != torch.long or not content["actions"].is_floating_point():
        raise UserError(f"'{path}' is not a dump of bad worlds: numbers are of other types.")
    return content
