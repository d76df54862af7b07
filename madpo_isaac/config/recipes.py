"""Recipes: where the defaults of a run's hyper-parameters come from.

A recipe is a file in ``cfg/recipe``. It has numbers for everything (``defaults``), for a suite of
tasks (``suites``) and for a task (``tasks``); a task's own YAML file may add a section ``train``.
The later ones take precedence. Each of these sections may have a part ``algos`` with numbers for
one algorithm, and those take precedence over all numbers that are not for one algorithm.

The YAML files of algorithms and tasks read it by ``${recipe:<key>}``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from madpo_isaac.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parents[1] / "cfg" / "recipe"
KEYS = (
    *("num_envs", "stagger_episodes", "max_iterations", "horizon", "gamma", "hidden", "activation"),
    *("actor_lr", "critic_lr", "lr_schedule", "kl_target", "clip", "value_clip", "epochs"),
    *("num_minibatches", "entropy_coef", "value_aux_coef", "max_grad_norm"),
    *("init_std", "max_std", "std_scale", "input_norm", "hidden_norm"),
    *("reward_scale", "agents_see", "observation"),
    *("lam", "sigma", "coef", "decay_steps", "kl_threshold"),
)
"""Everything that a recipe may set."""


def names() -> list[str]:
    """Returns the recipes there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def value(recipe: str, task: str, algo: str, key: str, train: Mapping[str, Any]) -> Any:
    """Looks up what a recipe says.

    Args:
        recipe: one of :func:`names`.
        task: name of a registered task.
        algo: name of an algorithm.
        key: one of :data:`KEYS`.
        train: the section ``train`` of the task's own YAML file.

    Raises:
        UserError: there is no such recipe, it says nothing about ``key``, or ``train`` has a key
            that no recipe has.
    """
    from madpo_isaac.tasks.registry import suite

    found = numbers(recipe, suite(task), task, algo)
    checked = _checked(train, f"task.train of {task}")
    found = {**found, **checked, **checked.get("algos", {}).get(algo, {})}
    if key not in found:
        raise UserError(f"recipe={recipe} has no {key} for task={task}.")
    return found[key]


@functools.cache
def numbers(recipe: str, suite: str, task: str, algo: str) -> dict[str, Any]:
    """Returns all numbers of a recipe for a task, of a suite, and an algorithm."""
    content = _read(recipe)
    sections = [
        content["defaults"],
        content["suites"].get(suite, {}),
        content["tasks"].get(task, {}),
    ]
    sections = [_checked(section, f"recipe {recipe}") for section in sections]
    layers = sections + [section.get("algos", {}).get(algo, {}) for section in sections]
    merged = {key: value for layer in layers for key, value in layer.items()}
    merged.pop("algos", None)
    return merged


@functools.cache
def _read(recipe: str) -> dict[str, Any]:
    if recipe not in names():
        raise unknown("recipe", recipe, names())
    # OmegaConf reads 1e3 as a number, plain YAML as text.
    content = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{recipe}.yaml"))
    assert isinstance(content, dict)
    return {str(key): section for key, section in content.items()}


def _checked(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    parts = [section, *section.get("algos", {}).values()]
    for key in (key for part in parts for key in part):
        if key not in (*KEYS, "algos"):
            raise unknown(f"setting in {where}", key, KEYS)
    return dict(section)


def _resolve(key: str, *, _root_: DictConfig) -> Any:
    train = OmegaConf.select(_root_, "task.train")
    own = {} if train is None else {str(k): v for k, v in train.items()}
    found = value(_root_.recipe, _root_.task.name, _root_.algo.name, key, own)
    return OmegaConf.create(found) if isinstance(found, list) else found


OmegaConf.register_new_resolver("recipe", _resolve, replace=True)
