"""The parts of a configuration as Hydra and OmegaConf have them: typed nodes, and back."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from madpo_isaac import plugins
from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.config import renamed
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.sim import SIM_SCHEMAS
from madpo_isaac.system.files import plain_settings, reading_settings

_stored: set[tuple[str, str]] = set()
"""Group and name of each entry of the store."""


class _FoldersOfPlugins(SearchPathPlugin):
    """Folders in which Hydra looks for YAML files, beside this package's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in plugins.FOLDERS:
            search_path.append("plugins", f"file://{folder}")


def register() -> None:
    """Puts every schema into Hydra's store; the YAML files name them in their defaults."""
    from madpo_isaac.tasks.registry import TASKS

    plugins.load_installed()
    store = ConfigStore.instance()
    if not _stored:
        Plugins.instance().register(_FoldersOfPlugins)
        store.store(name="base_config", node=Config)
    for group, names in (("sim", SIM_SCHEMAS), ("algo", ALGO_SCHEMAS), ("task", TASKS)):
        for name in names:
            if (group, name) not in _stored:
                store.store(group=group, name=f"base_{name}", node=_schema(group, name)(name=name))
                _stored.add((group, name))


def _schema(group: str, name: str) -> Callable[..., Any]:
    """The dataclass of the settings of a task, an algorithm or an engine."""
    from madpo_isaac.tasks.registry import load

    if group == "task":
        return _task_node(load(name).Config)
    return ALGO_SCHEMAS[name] if group == "algo" else SIM_SCHEMAS[name]


@functools.cache
def _task_node(settings: type) -> type:
    """A task's own settings plus its name and training defaults, as one schema."""
    extra = [
        ("name", str, field(default=MISSING)),
        ("train", dict[str, Any], field(default_factory=dict)),
    ]
    return dataclasses.make_dataclass(f"{settings.__qualname__}Node", extra, bases=(settings,))


def read_record(
    text: Any, where: Path, files: Sequence[str] = (), *, alone: bool = False
) -> DictConfig:
    """Reads the configuration that a run has recorded, see :func:`from_record`.

    Args:
        text: its YAML.
        where: the file that it comes from, for messages.
        files: plugins in place of those of the run, if there are any.
        alone: the file lies outside a run folder. It may come from somebody else, so it cannot
            choose what is executed: its plugins are refused, and its ``sim.python`` is left out.

    Raises:
        UserError: it is not the record of a run of this project, or it names plugins.
    """
    record = plain_settings(text, where)
    if alone and record.get("plugins") and not files:
        raise UserError(
            f"'{where}' names plugins={record.plugins}. It lies outside a run folder and may come "
            "from somebody else. Put it back there, or give a command that takes settings plugins=."
        )
    if alone and OmegaConf.is_dict(record.get("sim")) and "python" in record.sim:
        del record.sim["python"]
    with reading_settings(where):
        if files:
            record.plugins = list(files)
        return from_record(record)


def from_record(record: DictConfig) -> DictConfig:
    """Gives a recorded config.yaml, which is plain values, its types back.

    Names of earlier versions become those of today.

    Raises:
        UserError: the record is not one of a run of this project.
    """
    try:
        return _typed(renamed.translated(record))
    except (AttributeError, OverflowError, TypeError):
        raise UserError("An entry has the wrong type.") from None


def _typed(record: DictConfig) -> DictConfig:
    for file in record.get("plugins", ()):
        plugins.load(file)
    plugins.load_installed()
    typed = OmegaConf.structured(Config)
    for group in ("task", "algo", "sim"):
        if not OmegaConf.select(record, f"{group}.name"):
            raise UserError(f"It does not say which {group} it is for.")
    algo, sim = record.algo.name, record.sim.name
    if algo not in ALGO_SCHEMAS:
        raise unknown("algo", algo, ALGO_SCHEMAS)
    if sim not in SIM_SCHEMAS:
        raise unknown("sim", sim, SIM_SCHEMAS)
    for group in ("task", "algo", "sim"):
        typed[group] = OmegaConf.structured(_schema(group, record[group].name))
    merged = OmegaConf.merge(typed, record)
    assert isinstance(merged, DictConfig)
    return merged


def task_settings(task_node: Any) -> dict[str, Any]:
    """The overrides for :func:`tasks.make` in a composed task node."""
    return _without(task_node, "name", "train")


def sim_settings(sim_node: Any) -> dict[str, Any]:
    """The ``sim_settings`` for :func:`tasks.make` in a composed sim node."""
    return _without(sim_node, "name")


def _without(node: Any, *left_out: str) -> dict[str, Any]:
    values = OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(node)), resolve=True)
    assert isinstance(values, dict)
    return {str(k): v for k, v in values.items() if k not in left_out}
