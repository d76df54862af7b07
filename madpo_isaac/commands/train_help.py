"""``madpo train --help``: every key of the command line, one line each.

The keys are read from the source code: importing the modules that define them takes seconds.
"""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path
from typing import NamedTuple

from madpo_isaac import console

PACKAGE = Path(__file__).resolve().parents[1]
SECTIONS = (
    ("Run", "", "config/schema.py", "Config", "config.yaml"),
    (
        *("Task: hands (each task adds its own)", "task."),
        *("tasks/hands/base.py", "HandTaskConfig", "base/hands.yaml"),
    ),
    (
        *("Task: hands, differences between environments", "task.randomize."),
        *("tasks/hands/randomize.py", "RandomizeConfig", ""),
    ),
    (
        *("Task: hands, reward beyond the original's", "task.shaping."),
        *("tasks/hands/shaping.py", "ShapingConfig", ""),
    ),
    ("Task: multi-agent MuJoCo", "task.", "tasks/mujoco/task.py", "Config", "base/mamujoco.yaml"),
    ("sim=auto, warp", "sim.", "sim/factory.py", "WarpConfig", ""),
    ("sim=isaacgym", "sim.", "sim/isaacgym_bridge.py", "IsaacGymConfig", ""),
    ("Algorithm", "algo.", "algos/settings.py", "AlgoConfig", "base/on_policy.yaml"),
    ("algo=madpo", "algo.divergence.", "divergence/presets.py", "DivergenceConfig", ""),
    ("algo=hatrpo", "algo.", "algos/hatrpo.py", "HatrpoConfig", "algo/hatrpo.yaml"),
    ("algo=a2po", "algo.", "algos/a2po.py", "A2poConfig", "algo/a2po.yaml"),
    ("algo=mappo, ippo", "algo.", "algos/mappo.py", "MappoConfig", "algo/mappo.yaml"),
    ("algo=ppo: these only", "algo.", "algos/ppo/settings.py", "PpoConfig", "algo/ppo.yaml"),
)
"""Title, prefix of the keys, file and class of each group of settings, and the YAML file of its
defaults if it has one."""
_GROUPS = ("task", "algo", "sim", "plugins", "name", "divergence", "randomize", "shaping")
"""Keys that are described above the sections, or chosen by another key."""
_USAGE = """\
python train.py [key=value ...]       trains; so does madpo train
  task=<name> algo=<name> sim=<name>  madpo list shows the tasks and the algorithms
  plugins=[<file.py>]                 Python files that add tasks, algorithms, engines or networks
  --cfg job --resolve                 prints all keys and values for a task and an algorithm
  -m key=a,b                          runs all combinations, one after another
Keys with their default; (recipe) means that recipe=tuned, paper or harl decides."""


_WIDTH = 38
"""Characters of the column of keys."""


class Key(NamedTuple):
    """A setting as its class declares it."""

    name: str
    default: str
    """As written on the command line; empty if it is made by a function."""
    text: str
    """The first sentence of its docstring; empty if it has none."""


def main(argv: list[str]) -> int:
    """Prints the keys; returns 0."""
    del argv
    console.info(_USAGE)
    for title, prefix, file, name, yaml in SECTIONS:
        console.info(f"\n{title}")
        defaults = _yaml_defaults(PACKAGE / "cfg" / yaml) if yaml else {}
        for key in keys(PACKAGE / file, name):
            if key.name not in _GROUPS:
                default = defaults.get(key.name, key.default)
                console.info(_wrapped(f"{prefix}{key.name}={default}", key.text))
    return 0


def _wrapped(setting: str, text: str) -> str:
    """Returns a line, which a terminal gets broken between words."""
    line = f"  {setting:<{_WIDTH - 4}}  {text}".rstrip()
    if not console.out.is_terminal or console.out.width < 2 * _WIDTH:
        return line
    return textwrap.fill(line, console.out.width, subsequent_indent=" " * _WIDTH)


def keys(path: Path, name: str) -> list[Key]:
    """Returns the keys that a class in a file adds to those of its base class."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    body = next(x.body for x in tree.body if isinstance(x, ast.ClassDef) and x.name == name)
    found = []
    for node, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation):
            text = ast.unparse(after) if isinstance(after, ast.Expr) else "''"
            found.append(Key(ast.unparse(node.target), _default(node.value), _sentence(text)))
    return found


def _sentence(source: str) -> str:
    text = " ".join(str(ast.literal_eval(source)).split())
    text = text.replace("``", "").replace("`", "")
    return re.split(r"(?<=[a-z)`\d])\. (?=[A-Z])", text)[0].removesuffix(".")


def _default(node: ast.expr | None) -> str:
    """Returns a default as the command line has it."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "setting":
        node = node.args[0]
    try:
        value = ast.literal_eval(node) if node is not None else ""
    except ValueError:  # made by a function, or a constant's name
        return "[]" if node is not None and "list" in ast.unparse(node) else ""
    return "null" if value is None else str(value).replace(" ", "")


def _yaml_defaults(path: Path) -> dict[str, str]:
    """Returns the defaults that a YAML file has for keys of a class."""
    lines = re.findall(r"^(\w+): *(\S.*)$", path.read_text(encoding="utf-8"), re.M)
    found = {key: value.replace(" ", "") for key, value in lines}
    return {
        key: "(recipe)"
        if value.startswith("${recipe")
        else re.sub(r"\$\{\.(\w+)\}", r"(\1)", value)
        for key, value in found.items()
    }
