"""``madpo list``: the tasks, the algorithms, or the runs in a folder."""

from __future__ import annotations

import contextlib
import datetime
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.system.files import last_json, read_json
from madpo_isaac.system.lock import is_alive

_HANDS = "2, 12 or 1"


class Facts(NamedTuple):
    """Facts about a task of this project."""

    agents: str
    state: int
    """Values in the joint state."""
    action: int
    """Values in the joint action."""
    text: str


TASKS = {
    "ShadowHandOver": Facts(_HANDS, 398, 40, "one fixed hand throws an egg to the other"),
    "ShadowHandCatchUnderarm": Facts(_HANDS, 422, 52, "floating hands throw and catch an egg"),
    "ShadowHandCatchOver2Underarm": Facts(
        _HANDS, 422, 52, "an upright hand throws an egg to one with its palm up"
    ),
    "ShadowHandCatchAbreast": Facts(_HANDS, 422, 52, "hands side by side throw and catch an egg"),
    "ShadowHandDoorOpenInward": Facts(_HANDS, 417, 52, "open a double door toward the hands"),
    "ShadowHandDoorOpenOutward": Facts(_HANDS, 417, 52, "open a double door away from the hands"),
    "ShadowHandDoorCloseInward": Facts(_HANDS, 417, 52, "close a double door that opens inward"),
    "ShadowHandDoorCloseOutward": Facts(_HANDS, 417, 52, "close a double door that opens outward"),
    "ShadowHandPen": Facts(_HANDS, 417, 52, "pull the cap off a pen"),
    "ShadowHandBlockStack": Facts(_HANDS, 428, 52, "stack two blocks in the middle of a table"),
    "ShadowHandTwoCatchUnderarm": Facts(_HANDS, 446, 52, "floating hands swap two eggs by throws"),
    "ShadowHandPushBlock": Facts(_HANDS, 428, 52, "each hand pushes a block to its place"),
    "ShadowHandReOrientation": Facts(_HANDS, 422, 40, "each hand turns a cube to a goal"),
    "ShadowHandLiftUnderarm": Facts(_HANDS, 417, 52, "lift a heavy pot by its handles"),
    "ShadowHandSwitch": Facts(_HANDS, 417, 52, "each hand presses a switch"),
}
ROBOTS = {"HalfCheetah": (17, 6), "Walker2d": (17, 6), "Ant": (111, 8), "Humanoid": (376, 17)}
"""Sizes of the joint state and of the joint action."""
ALGORITHMS = {
    "madpo": "HAPPO plus a bonus for the divergence of an agent's policy from others",
    "happo": "agents are updated one after another, weighted by the changes before",
    "hatrpo": "HAPPO's sequence with natural-gradient steps within a KL limit",
    "a2po": "a semi-greedy sequence, and advantages estimated anew before each agent",
    "mappo": "all agents at once, shared parameters, a critic of the joint state",
    "ippo": "all agents at once, shared parameters, critics of agents' own observations",
    "ppo": "one agent for the joint action, by rl_games",
}
WHAT = ("tasks", "algorithms", "runs")


def main(argv: Sequence[str]) -> int:
    """Prints a table; returns 0."""
    parser = Parser("madpo list", "Lists tasks, algorithms, or the runs in a folder.")
    parser.add_argument("what", nargs="?", default="tasks", help=", ".join(WHAT))
    parser.add_argument("folder", nargs="?", type=parser.path, help="folder of the runs (runs)")
    options = parser.parse(argv)
    if options.what not in WHAT:
        raise unknown("list", options.what, WHAT)
    if options.folder is not None and options.what != "runs":
        raise UserError(f"madpo list {options.what} takes no folder, such as '{options.folder}'.")
    if options.what == "runs":
        rows = runs(options.folder or Path("runs"))
    else:
        rows = tasks() if options.what == "tasks" else algorithms()
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.info("  ".join(cells).rstrip())
    return 0


def tasks() -> list[list[str]]:
    """Returns the table of tasks, those of installed plugins included."""
    from madpo_isaac import plugins, pretrained
    from madpo_isaac.tasks.registry import TASKS as REGISTERED

    plugins.load_installed()
    trained = {pretrained.facts_of(pretrained.find(name))["task"] for name in pretrained.names()}
    rows = [["task", "agents", "state", "action", "policy", ""]]
    for name in REGISTERED:
        agents, state, action, text = facts(name) or ("", "", "", "")
        policy = "yes" if name in trained else "-"
        rows.append([name, agents, str(state), str(action), policy, text])
    return rows


def facts(task: str) -> Facts | None:
    """Returns the facts about a task; None if it is a plugin's."""
    robot, _, split = task.partition("-")
    if robot not in ROBOTS:
        return TASKS.get(task)
    agents, _, joints = split.partition("x")
    plural = "s" * (joints != "1")
    return Facts(agents, *ROBOTS[robot], f"run forward, {joints} joint{plural} for each agent")


def algorithms() -> list[list[str]]:
    """Returns the table of algorithms, those of installed plugins included."""
    from madpo_isaac import plugins
    from madpo_isaac.algos import ALGO_SCHEMAS

    plugins.load_installed()
    names = dict.fromkeys((*ALGORITHMS, *ALGO_SCHEMAS))
    return [["algorithm", ""], *([name, ALGORITHMS.get(name, "")] for name in names)]


def runs(folder: Path) -> list[list[str]]:
    """Returns the table of the run folders in a folder, the newest first.

    Raises:
        UserError: it is no folder, or has no runs.
    """
    found: list[Path] = []
    with contextlib.suppress(OSError):  # the name is too long, or the folder cannot be read
        found += [path.parent for path in folder.glob("*/config.yaml") if path.is_file()]
    if not found:
        raise UserError(f"There are no runs in '{folder}': madpo list runs <folder>.")
    newest = sorted(((_last_sign(path), path) for path in found), reverse=True)
    head = ["run", "task", "algorithm", "state", "iteration", "return", "age"]
    return [head, *(_row(path, time) for time, path in newest)]


def _row(run: Path, time: float) -> list[str]:
    text = _text(run / "config.yaml")
    names = [
        found[1]
        if (found := re.search(rf"^{group}:\n(?:  .*\n)*?  name: (\S+)", text, re.M))
        else "-"
        for group in ("task", "algo")
    ]
    status, last = read_json(run / "status.json"), last_json(run / "metrics.jsonl")
    done, score = last.get("iteration"), last.get("episode_return")
    total = status.get("max_iterations")
    age = datetime.datetime.now().timestamp() - time
    return [
        *(run.name, *names, _state(status)),
        f"{'-' if done is None else done}/{'-' if total is None else total}",
        f"{score:.5g}" if _is_number(score) else "-",
        _age(age),
    ]


def _state(status: dict[str, Any]) -> str:
    """Returns the state of a run; one that says running and has no process was killed."""
    state, pid = str(status.get("state", "-")), status.get("pid")
    if state == "running" and status.get("host") == platform.node() and type(pid) is int:
        return state if is_alive(pid) else "killed"
    return state


def _last_sign(run: Path) -> float:
    """Returns when a run wrote for the last time, in seconds since the epoch."""
    files = [run / name for name in ("metrics.jsonl", "status.json", "config.yaml")]
    return max(file.stat().st_mtime for file in files if file.exists())


def _text(path: Path) -> str:
    """Returns the content of a file; empty if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a finite number that a float can hold."""
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _age(seconds: float) -> str:
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(seconds, 0):.0f} s"
