"""The checkpoint that a run continues from: its place, its configuration, and checks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from madpo_isaac import console, pretrained
from madpo_isaac.config.nodes import read_record
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.sim import ENGINES, SIM_SCHEMAS, physics
from madpo_isaac.system.files import plain_settings, reading_settings

WHERE = ("checkpoint", "resume", "experiment", "runs_dir", "test", "multi_gpu", "headless")
"""Keys that choose the run to continue, and its folder. They belong to a command line, and the
record of a run does not contain them."""
STRUCTURE = (
    *("task.agents", "task.hand", "task.version", "task.agent_obsk"),
    *("algo.network", "algo.hidden", "algo.activation", "algo.share_parameters", "algo.input_norm"),
    *("algo.hidden_norm", "algo.max_std", "algo.std_scale", "algo.value_aux_coef"),
    *("task.agents_see", "task.observation"),
    *("algo.normalize_input", "algo.normalize_value", "algo.divergence.preset"),
)
"""Keys that decide the meaning of the tensors in a checkpoint; so do the choices of task and algo,
which :func:`find` compares. Of ``algo.value_aux_coef`` only whether it is 0 matters."""
TRAINING = ("algo.divergence.age",)
"""Further keys that a continued training cannot change; a policy can be played with others."""
WORLDS = ("num_envs", "seed")
"""Keys that a continued training can change only in a folder of its own, since its environments and
random numbers then begin anew; so do those of another kind of ``sim_device``."""

CRITIC_WARMUP = 50_000
"""Default of ``algo.critic_warmup`` where a run begins with a policy (docs/runs.md)."""


@dataclass
class Source:
    """The run to continue, and its typed configuration."""

    path: Path | None
    """The checkpoint; None if the run ended before its first checkpoint, and starts again."""
    folder: Path | None
    """The run folder, if the checkpoint is in one."""
    begun: bool
    """True if there is a checkpoint in the folder."""
    record: DictConfig
    """The run's configuration, without :data:`WHERE`."""
    engine: str | None = None
    """The engine that takes the place of the run's; None to keep it."""

    def settings(self) -> DictConfig:
        """Returns the run's configuration, with another engine if there is to be one."""
        config = self.record.copy()
        if self.engine is not None:
            config.sim = OmegaConf.structured(SIM_SCHEMAS[self.engine](name=self.engine))
        return config

    def check(self, config: DictConfig) -> None:
        """Refuses settings that a continued run cannot change, and places it in its folder.

        Args:
            config: the record with the command line on top.

        Raises:
            UserError: naming the first setting.
        """
        apart = config.test or _leaves(self.folder, config)
        if config.seed == -1 and (config.test or not apart):
            config.seed = self.record.seed  # drawn when the run began
        name = self.path if self.begun else self.folder
        for key in STRUCTURE if config.test else (*STRUCTURE, *TRAINING):
            had, wanted = (OmegaConf.select(c, key) for c in (self.record, config))
            if self.path is not None and not _are_alike(key, had, wanted):
                when = "continued" if key in TRAINING else "continued or played"
                raise UserError(
                    f"{key}={_show(wanted)}: '{name}' was made with {key}={_show(had)}, which "
                    f"cannot change when a run is {when}."
                )
        if self.begun and not apart:
            self._check_worlds(config)
        for key in ("recipe", "task.train"):
            had, wanted = (OmegaConf.select(c, key) for c in (self.record, config))
            if had != wanted:
                raise UserError(
                    f"{key}={_show(wanted)} chooses defaults, but '{name}' already has values for "
                    "all settings: set num_envs, max_iterations or algo.* themselves."
                )
        config.checkpoint = "" if self.path is None else str(self.path)
        if self.folder is not None and not config.test and not config.experiment:
            config.experiment, config.runs_dir = self.folder.name, str(self.folder.parent)
            config.resume = config.resume if self.begun else "auto"

    def _check_worlds(self, config: DictConfig) -> None:
        """Refuses settings with which the run's own folder cannot be continued exactly."""
        for key in (*WORLDS, "sim_device"):
            had, wanted = (c[key] for c in (self.record, config))
            if had != wanted and (key in WORLDS or _kind(had) != _kind(wanted)):
                raise UserError(
                    f"{key}={wanted}: '{self.path}' was made with {key}={had}, which cannot change "
                    "when a run is continued in its folder. Name a new folder with "
                    "experiment=<name> for a run from this checkpoint with new environments."
                )


def find(config: DictConfig, chosen: Mapping[str, str], device: str | None = None) -> Source | None:
    """Returns the run to continue or to play, or None for a new run.

    Args:
        config: a composed configuration, of which only the keys :data:`WHERE` and ``plugins`` are
            used.
        chosen: the command line's choices of ``task``, ``algo`` and ``sim``.
        device: the command line's ``sim_device``; None if it is the run's.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or of another task or algorithm.
    """
    runs, name = Path(config.runs_dir), config.checkpoint
    if config.resume == "auto" and config.experiment and not config.test:
        own = runs / config.experiment
        name = str(own) if (own / "config.yaml").is_file() else name
    if not name:
        return None
    path = checkpoint.find(name, runs, chosen.get("task"), chosen.get("algo"))
    folder = RunFolder.of_checkpoint(path)
    record = _record(path, folder, config.plugins)
    if path.suffix == pretrained.SUFFIX and not config.test:
        record.algo.critic_warmup = CRITIC_WARMUP
    own = record.sim.name
    engine = chosen.get("sim", "auto" if config.test and own in ENGINES else own)
    if engine == "auto" and not config.test:  # the record has the engine by its own name
        engine = SIM_SCHEMAS["auto"]("auto").check(device or record.sim_device).name
    apart = config.test or (engine != own and _leaves(folder and folder.path, config))
    # A policy means the same on every engine. The bridges' environments differ from the project's.
    other = engine if apart and {own, engine} <= set(ENGINES) else None
    for group, value in {**chosen, "sim": engine if other is None else own}.items():
        had = record[group].name
        if value != had:
            raise UserError(f"Checkpoint '{path}' is of {group}={had}, not {group}={value}.")
    from_folder = folder is not None and Path(name) != path
    begun = config.test or os.path.lexists(path) or not from_folder
    if not begun:  # it starts again from where it was to start
        assert folder is not None
        folder.refuse_finished()
        path = Path(record.checkpoint) if record.checkpoint else None
    defaults = OmegaConf.structured(Config)
    for key in WHERE:
        record[key] = defaults[key]
    return Source(path, folder and folder.path, begun, record, other)


def _record(path: Path, folder: RunFolder | None, plugins: Sequence[str]) -> DictConfig:
    """The configuration of a run: its config.yaml, or the one in the checkpoint.

    ``plugins``, if there are any, replace those of the run, since their files may have moved.
    """
    if folder is None:
        text = checkpoint.load(path).get("config", "")
        return read_record(text, path, plugins, alone=True)
    return read_file(folder.path / "config.yaml", plugins)


def read_file(path: Path, plugins: Sequence[str] = ()) -> DictConfig:
    """The configuration in a run's config.yaml, see :func:`read_record`.

    Raises:
        UserError: the file cannot be read, or is not the record of a run of this project.
    """
    with reading_settings(path):
        text = path.read_text(encoding="utf-8")
    return read_record(text, path, plugins)


def seed_of(path: Path, content: Mapping[str, Any], otherwise: int) -> int:
    """The seed with which the policy of a checkpoint was trained."""
    return _seed(plain_settings(content.get("config", ""), path), otherwise)


def _seed(recorded: DictConfig, otherwise: int) -> int:
    seed = recorded.get("seed", otherwise)
    return seed if type(seed) is int else otherwise


def folder_to_continue(config: Config, path: Path | None) -> RunFolder | None:
    """The run folder in which training is continued; None if the run gets a new folder.

    It is the checkpoint's own folder, unless another experiment is named. With ``resume=auto`` it
    is the folder of the named experiment, if it exists.
    """
    named = Path(config.runs_dir) / config.experiment
    own = None if path is None else RunFolder.of_checkpoint(path)
    if own is not None and not _leaves(own.path, config):
        return own
    if config.resume == "auto" and (named / "config.yaml").is_file():
        return RunFolder(named)
    return None


def new_worlds(
    path: Path, content: Mapping[str, Any], config: Config, processes: int
) -> str | None:
    """Settings that keep a checkpoint's environments and generators from going on, or None.

    Args:
        path: the checkpoint.
        content: content of the checkpoint.
        config: configuration of the run to continue.
        processes: number of processes that train together.

    Returns:
        For example "num_envs=128, not 512".
    """
    recorded = plain_settings(content.get("config", ""), path)
    engine = OmegaConf.select(recorded, "sim.name", default=config.sim.name)
    device = str(recorded.get("sim_device", config.sim_device))
    compared = (
        ("num_envs", len(content["state"]), config.num_envs),
        ("processes", 1 + len(content.get("shards", [])), processes),
        ("seed", _seed(recorded, config.seed), config.seed),
        ("sim", engine, config.sim.name),
        ("sim_device", _kind(device), _kind(config.sim_device)),
    )
    changes = [f"{key}={had}, not {wanted}" for key, had, wanted in compared if had != wanted]
    return "; ".join(changes) or None


def check_state(
    path: Path,
    content: Mapping[str, Any],
    config: Config,
    ours: Mapping[str, Any],
    *,
    elsewhere: bool,
) -> None:
    """Makes sure that training can be continued from a checkpoint.

    Args:
        path: the checkpoint.
        content: content of the checkpoint.
        config: configuration of the run to continue.
        ours: content of a checkpoint of the same run before its first iteration, or the part of
            it that is restored.
        elsewhere: True if the checkpoint is another run's.

    Raises:
        UserError: the checkpoint has other environments, or nothing is left to do. The latter is
            no error for a run with ``resume=auto`` that is itself complete.
    """
    other = difference(ours, content)
    if other is not None and other.startswith(("env_state", "state")):
        raise UserError(
            f"Checkpoint '{path}' is of other environments ({other.removeprefix('env_state/')}): "
            "use the task settings it was trained with."
        )
    if other is not None:
        raise UserError(f"Checkpoint '{path}' lacks {other}, or has it in another size.")
    complete = content["iteration"] >= config.max_iterations
    if complete and (elsewhere or config.resume != "auto"):
        raise UserError(
            f"Checkpoint '{path}' is of iteration {content['iteration']}, so max_iterations="
            f"{config.max_iterations} is reached: max_iterations counts the whole run, raise it."
        )


def check_physics(
    path: Path, content: Mapping[str, Any], ours: Mapping[str, Any], *, playing: bool = False
) -> None:
    """Makes sure that a run is continued with the model on which it was trained.

    A policy may be played on another model; then there is a warning.

    Args:
        path: the checkpoint.
        content: content of the checkpoint.
        ours: ``physics()`` of the environments.
        playing: True if the policy is only played.

    Raises:
        UserError: the model has changed; the line names the first number that differs.
    """
    if "physics" not in content:  # of an earlier version, or a policy that comes with the project
        if ours and not playing and not console.out.quiet:  # one of several processes says it
            console.warning(
                f"'{path}' does not say which model it was trained on; the present one is used."
            )
        return
    if not (found := physics.change(ours, content["physics"])):
        return
    if playing:
        console.warning(f"'{path}' was trained on another model: {found}.")
        return
    raise UserError(
        f"'{path}' was trained on another model: {found}. Put the model back as it was (env.json "
        "of the run has the versions of the packages), or begin a new run."
    )


def difference(ours: Any, theirs: Any, name: str = "") -> str | None:
    """Returns the first entry of ``ours`` that is missing in ``theirs`` or of another kind there.

    Tensors have to have the same type and shape. Empty entries of ``ours`` match anything.
    """
    if isinstance(ours, (list, tuple)):
        ours = dict(enumerate(ours))
        theirs = dict(enumerate(theirs)) if isinstance(theirs, (list, tuple)) else theirs
    if isinstance(ours, Mapping):
        if ours and not isinstance(theirs, Mapping):
            return name
        below = (difference(v, theirs.get(k), f"{name}/{k}".lstrip("/")) for k, v in ours.items())
        return next(filter(None, below), None)
    if isinstance(ours, Tensor):
        same = isinstance(theirs, Tensor)
        same = same and (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
    elif isinstance(ours, (int, float)) and not isinstance(ours, bool):
        same = isinstance(theirs, (int, float))
    else:
        same = ours is None or isinstance(theirs, type(ours))
    return None if same else name


def _are_alike(key: str, had: Any, wanted: Any) -> bool:
    """Returns whether two values of a key of :data:`STRUCTURE` mean the same tensors."""
    if key == "algo.value_aux_coef":
        return bool(had) == bool(wanted)
    if key == "task.hand" and all(str(hand).endswith(".yaml") for hand in (had, wanted)):
        return True  # a file may move, its model is compared
    return bool(had == wanted)


def _leaves(folder: Path | None, config: Config | DictConfig) -> bool:
    """Returns whether training from a checkpoint that lies in ``folder`` gets another folder."""
    named = Path(config.runs_dir) / config.experiment
    return folder is None or bool(config.experiment and named.resolve() != folder.resolve())


def _kind(device: str) -> str:
    """Returns ``cpu`` or ``cuda``."""
    return device.partition(":")[0]


def _show(value: Any) -> str:
    return str(value).replace(" ", "")
