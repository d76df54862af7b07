"""Policies that come with the project: their parameters and their scores.

A policy is a safetensors file and a JSON file beside it. The JSON file has the configuration, the
command and the source revision with which the policy was trained, its scores, and a checksum of
the other file. The policy has the name of its task; agents other than the two hands follow after a
hyphen.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as serialize
from torch import Tensor

from madpo_isaac.errors import UserError
from madpo_isaac.system.files import parse_json, write_atomic, write_json, writing

FOLDER = Path(__file__).parent
SUFFIX = ".safetensors"
_FACTS = ("task", "algo", "iteration", "env_steps")
_SCORES = {
    **dict.fromkeys(("command", "revision"), (str,)),
    "episodes": (int,),
    **dict.fromkeys(("return", "success"), (int, float)),
}
"""Types of the entries that tell how good a policy is."""
_CHECKSUM = "sha256"
_MOMENT = re.compile(r"moments\.(\d{1,4})\.(\w+)")
"""Name of a tensor with moments of an agent's observations."""


def names() -> list[str]:
    """Returns the names of the policies."""
    return sorted(path.stem for path in FOLDER.glob(f"*{SUFFIX}"))


def name_of(task: str, agents: Any) -> str:
    """Returns the name of a policy for a task and its split into agents, ``task.agents``."""
    split = agents if isinstance(agents, str) else "groups"
    return task if split == "hands" else f"{task}-{split}"


def find(name: str) -> Path:
    """Returns the file of the policy called ``name``.

    Raises:
        UserError: there is none.
    """
    if name not in names():
        raise UserError(
            f"No policy for '{name}' comes with the project; there is one for "
            f"{', '.join(names())}. Give a run or a checkpoint of your own."
        )
    return FOLDER / f"{name}{SUFFIX}"


def describe(path: Path) -> dict[str, Any]:
    """Returns the content of the JSON file beside ``path``.

    Raises:
        UserError: it is not there or damaged, or it has no scores.
    """
    facts = facts_of(path)
    found = {**facts, "episodes": None}
    if isinstance(means := facts.get("mean_actions"), dict):
        found["episodes"] = means.get("episodes")
    for key, kind in _SCORES.items():
        value = found.get(key)
        if type(value) not in kind or (type(value) is float and not math.isfinite(value)):
            beside = path.with_suffix(".json")
            raise UserError(f"'{beside}' has no {key} of a scored policy.")
    return facts


def facts_of(path: Path) -> dict[str, Any]:
    """Does :func:`describe`, also for a policy that has not been scored yet."""
    beside = path.with_suffix(".json")
    try:
        content = parse_json(beside.read_text())
    except (OSError, ValueError) as problem:
        raise UserError(
            f"'{beside}', which '{path}' needs, cannot be read: {problem}."
        ) from problem
    if not isinstance(content, dict) or not isinstance(content.get("config", {}), dict):
        raise UserError(f"'{beside}' does not describe a policy.")
    if missing := [key for key in (*_FACTS, "config", _CHECKSUM) if key not in content]:
        raise UserError(f"'{beside}' lacks {', '.join(missing)}.")
    return content


def load(path: Path) -> dict[str, Any]:
    """Returns the policy as a checkpoint holds it, in float32.

    Raises:
        UserError: it cannot be read.
    """
    facts = facts_of(path)
    try:
        written = path.read_bytes()
        tensors = parse(written)
    except (OSError, SafetensorError) as problem:
        raise UserError(f"'{path}' is damaged or not a policy: {problem}.") from problem
    if _checksum(written) != facts[_CHECKSUM]:
        beside = path.with_suffix(".json").name
        raise UserError(f"'{path}' is damaged, or '{beside}' beside it is of another policy.")
    if "actors" not in tensors:
        raise UserError(f"'{path}' lacks actors.")
    actors = tensors.pop("actors").float()
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if (found := _MOMENT.fullmatch(name)) is None:
            raise UserError(f"'{path}' holds '{name}', which is no part of a policy.")
        moments.setdefault(int(found[1]), {})[found[2]] = value
    observers = [moments[agent] for agent in sorted(moments)]
    return {
        **{name: facts[name] for name in _FACTS},
        "config": OmegaConf.to_yaml(OmegaConf.create(facts["config"])),
        "algo_state": {"actors": actors, "moments": {"actors": observers}},
    }


def save(path: Path, content: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes the policy of a checkpoint's ``content`` in half precision, and ``facts`` beside it.

    Raises:
        UserError: the policy is not one of ours, or a file cannot be written.
    """
    state = content.get("algo_state")
    if not isinstance(state, dict) or "actors" not in state:
        raise UserError(f"A policy of algo={content['algo']} cannot become a pretrained policy.")
    tensors = {"actors": state["actors"].to(torch.float16)}
    for agent, moments in enumerate(state.get("moments", {}).get("actors", [])):
        tensors |= {f"moments.{agent}.{part}": value for part, value in moments.items()}
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        written = serialize(tensors)
        write_atomic(path, written)
    write_json(path.with_suffix(".json"), {**facts, _CHECKSUM: _checksum(written)}, indent=2)


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
