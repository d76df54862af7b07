"""Recipes: where the defaults of a run's hyper-parameters come from.

A recipe is a file in ``cfg/recipes``. It has numbers for everything (``defaults``), for a suite of
tasks (``suites``) and for a task (``tasks``); a task's own YAML file may add a section ``train``.
A later section overrides an earlier one. Each of these sections may have a part ``algos`` with
numbers for one algorithm. Those of the recipe override all its numbers that are not for one
algorithm; those of ``train`` override the others of ``train``, which come after the recipe. Numbers
that only one algorithm has (``recipe_keys`` of its settings) are allowed in such a part only.

The YAML files of algorithms and tasks read a recipe by ``${recipe:<key>}``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.errors import UserError, unknown

FOLDER = Path(__file__).resolve().parents[1] / "cfg" / "recipes"
KEYS = (
    *("num_envs", "stagger_episodes", "max_iterations", "horizon", "gamma", "hidden", "activation"),
    *("actor_lr", "critic_lr", "actor_beta1", "lr_schedule", "joint_kl_target", "clip"),
    *("value_clip", "epochs", "num_minibatches", "entropy_coef", "value_aux_coef", "max_grad_norm"),
    *("init_std", "max_std", "std_scale", "input_norm", "hidden_norm"),
    *("reward_scale", "agents_see", "observation"),
)
"""All keys of recipes, except those that only one algorithm has."""


def names() -> list[str]:
    """Returns the names of all recipes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def value(recipe: str, task: str, algo: str, key: str, train: Mapping[str, Any]) -> Any:
    """Looks up a value in a recipe.

    Args:
        recipe: one of :func:`names`.
        task: name of a registered task.
        algo: name of an algorithm.
        key: one of :data:`KEYS`, or of the algorithm's ``recipe_keys``.
        train: the section ``train`` of the task's own YAML file.

    Raises:
        UserError: there is no such recipe, it has no value for ``key``, or ``train`` has a key
            that no recipe has.
    """
    from madpo_isaac.tasks.registry import suite

    found = numbers(recipe, suite(task), task, algo)
    checked = _checked(train, f"task.train of {task}")
    found = {**found, **checked}
    for name in _lineage(algo):
        found.update(checked.get("algos", {}).get(name, {}))
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
    layers = sections + [
        section.get("algos", {}).get(name, {}) for name in _lineage(algo) for section in sections
    ]
    merged = {key: value for layer in layers for key, value in layer.items()}
    merged.pop("algos", None)
    return merged


def _lineage(algo: str) -> list[str]:
    """Returns the algorithms whose numbers ``algo`` takes, its own last.

    An algorithm with the settings of another one, or with settings that extend them, needs the
    other's numbers as well, such as MADPO's coefficient.
    """
    own = ALGO_SCHEMAS[algo]
    others = [k for k, x in ALGO_SCHEMAS.items() if x.recipe_keys and issubclass(own, x)]
    return [*(name for name in others if name != algo), algo]


@functools.cache
def _read(recipe: str) -> dict[str, Any]:
    if recipe not in names():
        raise unknown("recipe", recipe, names())
    # OmegaConf reads 1e3 as a number, plain YAML as text.
    content = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{recipe}.yaml"))
    assert isinstance(content, dict)
    return {str(key): section for key, section in content.items()}


def _checked(section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Returns a section whose keys are all known."""
    own = {algo: schema.recipe_keys for algo, schema in ALGO_SCHEMAS.items()}
    parts: list[tuple[Mapping[str, Any], tuple[str, ...], str]] = [(section, KEYS, where)]
    for algo, part in _mapping(section.get("algos", {}), where).items():
        if algo not in ALGO_SCHEMAS:
            raise unknown(f"algorithm in {where}", algo, ALGO_SCHEMAS)
        part = _mapping(part, where)
        parts.append((part, (*KEYS, *own.get(algo, ())), f"{where}, algos.{algo}"))
    for part, allowed, place in parts:
        for key in part:
            if key in allowed or (key == "algos" and part is section):
                continue
            if owner := next((algo for algo, keys in own.items() if key in keys), None):
                raise UserError(
                    f"{key} in {place} belongs to one algorithm: write algos: {{{owner}: "
                    f"{{{key}: {part[key]}}}}}."
                )
            raise unknown(f"setting in {place}", key, allowed)
    return dict(section)


def _mapping(part: Any, where: str) -> Mapping[str, Any]:
    if isinstance(part, Mapping):
        return part
    raise UserError(f"algos in {where} must be written as {{<algorithm>: {{<key>: <value>}}}}.")


def _resolve(key: str, *, _root_: DictConfig) -> Any:
    train = OmegaConf.select(_root_, "task.train")
    content = {} if train is None else OmegaConf.to_container(train, resolve=True)
    assert isinstance(content, dict)
    own = {str(key): part for key, part in content.items()}
    found = value(_root_.recipe, _root_.task.name, _root_.algo.name, key, own)
    return OmegaConf.create(found) if isinstance(found, list) else found


OmegaConf.register_new_resolver("recipe", _resolve, replace=True)
