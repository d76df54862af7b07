"""House rules that no linter checks: sizes, documentation, what is printed, what is configured."""

import ast
import dataclasses
import graphlib
import itertools
import re
import runpy
from pathlib import Path

import pytest
import yaml

from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import Config
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.sim import BRIDGES, ENGINES, SIM_SCHEMAS
from madpo_isaac.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("madpo_isaac/**/*.py"), *ROOT.glob("tasks/**/*.py"), ROOT / "train.py"])
TREES = {str(path.relative_to(ROOT)): ast.parse(path.read_text()) for path in FILES}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)
ONLY_CHECKED = {"rl_device"}
"""Keys that other programs' command lines carry."""


def definitions(tree, inside=""):
    """All functions and classes with their dotted names, without those inside functions."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)):
            name = f"{inside}{node.name}"
            yield name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{name}.")


def is_public(name):
    return not any(part.startswith("_") for part in name.split("."))


def names(folder):
    return {path.stem for path in (ROOT / "cfg" / folder).glob("*.yaml")}


# Code -------------------------------------------------------------------------------------------


def test_there_is_code_to_check():
    assert {"madpo_isaac/commands/train.py", "tasks/registry.py", "train.py"} <= TREES.keys()


def test_files_and_functions_are_short():
    assert [str(path) for path in FILES if len(path.read_text().splitlines()) > 500] == []
    functions = [
        (file, node)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, FUNCTION)
    ]
    assert len(functions) > 1000
    assert [(file, f.name) for file, f in functions if f.end_lineno - f.lineno >= 100] == []


def test_everything_public_is_documented():
    assert [file for file, tree in TREES.items() if not ast.get_docstring(tree)] == []
    public = [
        (file, name, node)
        for file, tree in TREES.items()
        for name, node in definitions(tree)
        if is_public(name)
    ]
    assert len(public) > 500
    assert [(file, name) for file, name, node in public if not ast.get_docstring(node)] == []


def texts(tree):
    """All docstrings, those below attributes of modules and classes included."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)):
            yield ast.get_docstring(node) or ""
        if isinstance(node, (ast.Module, ast.ClassDef)):
            for before, after in itertools.pairwise(node.body):
                if isinstance(before, (ast.Assign, ast.AnnAssign)) and isinstance(after, ast.Expr):
                    yield getattr(after.value, "value", "")


PROGRAMS = [path for folder in ("tools", "benchmarks") for path in ROOT.glob(f"{folder}/*.py")]


def test_docstrings_open_with_a_noun_or_a_verb():
    clause = r"(What|Of|Which|Who|Whoever|Whose|Whom|Whether|Where|When|How|Why|That)\b"
    trees = {**TREES, **{path.stem: ast.parse(path.read_text()) for path in PROGRAMS}}
    found = [(file, text) for file, tree in trees.items() for text in texts(tree)]
    assert len(found) > 1000
    assert [(file, text) for file, text in found if re.match(clause, str(text))] == []


def test_every_function_is_annotated():
    missing = []
    for file, name, node in (
        (file, *found) for file, tree in TREES.items() for found in definitions(tree)
    ):
        if not isinstance(node, FUNCTION):
            continue
        a = node.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        bare = [arg.arg for arg in arguments if arg.annotation is None]
        if set(bare) - {"self", "cls"} or node.returns is None:
            missing.append((file, name))
    assert missing == []


def dangerous(tree):
    """Names of calls, imports and bare excepts that may be forbidden."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found.append(node.func.id)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(str(node.module))
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append("except:")
        elif isinstance(node, ast.keyword) and node.arg == "weights_only":
            assert isinstance(node.value, ast.Constant) and node.value.value is True
    return set(found)


def test_nothing_dangerous_or_silent():
    forbidden = {"eval", "exec", "except:", "pickle", "cloudpickle", "dill", "joblib", "print"}
    found = {(file, name) for file, tree in TREES.items() for name in forbidden & dangerous(tree)}
    assert found <= {("madpo_isaac/console.py", "print")}


# Rooms ------------------------------------------------------------------------------------------

FLOORS = (
    {"commands"},
    {"interop", "reproduce"},
    {"report", "training"},
    {"evaluation"},
    {"config"},
    {"algos", "runs", "tasks"},
    {"divergence", "models", "pretrained", "sim"},
    {"plugins", "settings", "system"},
    {"console", "env", "errors"},
)
"""Rooms, and what stands beside them, from the top; imports go down only."""


def module_name(file):
    parts = Path(file).with_suffix("").parts
    parts = parts if parts[0] == "madpo_isaac" else ("madpo_isaac", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): tree for file, tree in TREES.items() if file not in ("train.py",)}


def imported(tree):
    """Imports of a module, also those inside functions, without those for the type checker only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in full)
        yield from imported(node)


def floor(module):
    """The distance from the top; programs of their own (``python -m``) stand above all rooms."""
    if module.endswith(".__main__"):
        return -1
    return next(k for k, rooms in enumerate(FLOORS) if module.split(".")[1] in rooms)


def test_every_room_has_a_floor_and_the_reverse():
    loose = {"__init__", "__main__"}
    others = ("__pycache__", "py.typed")
    places = {p.stem for p in (ROOT / "madpo_isaac").iterdir() if p.name not in others}
    assert places - loose - {"cfg"} == set().union(*FLOORS)
    assert sum(map(len, FLOORS)) == len(set().union(*FLOORS))
    files = {p.stem for p in (ROOT / "madpo_isaac").glob("*.py")}
    assert files == {*loose, "console", "env", "errors", "plugins", "settings"}


def test_imports_go_down_the_floors():
    wrong = []
    for module in MODULES.keys() - {"madpo_isaac"}:
        room = module.split(".")[1]
        names = {name for name in imported(MODULES[module]) if name in MODULES} - {"madpo_isaac"}
        others = {name for name in names if name.split(".")[1] != room}
        wrong += [(module, name) for name in others if floor(name) <= floor(module)]
    assert wrong == []


def test_the_picture_of_the_rooms_is_up_to_date():
    """If it fails, run tools/draw_architecture.py."""
    picture = runpy.run_path(str(ROOT / "tools" / "draw_architecture.py"))["picture"]()
    assert (ROOT / "docs" / "images" / "architecture.svg").read_text() == picture


def test_no_files_import_each_other_in_a_circle():
    graph = {
        module: {name for name in imported(tree) if name in MODULES} - {module}
        for module, tree in MODULES.items()
    }
    assert sum(map(len, graph.values())) > 300
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("tasks", r"madpo_isaac\.models"),
        ("algos", r"mujoco|mjbatch|madpo_isaac\.(sim|tasks)"),
        ("models", r"mujoco|mjbatch"),
        ("divergence", r"mujoco|mjbatch"),
        ("", r"tasks|cfg"),  # those of a user
    ],
)
def test_rooms_do_not_know_each_other(room, forbidden):
    for module, tree in MODULES.items():
        if f"{module}.".startswith(f"madpo_isaac.{room}"):
            bad = [x for x in imported(tree) if re.match(rf"({forbidden})(\.|$)", x)]
            assert bad == [], module


def test_large_libraries_are_imported_only_where_they_are_used(zygote):
    """Matplotlib by reports, rl_games by algo=ppo, ONNX by an export that asks for it."""
    reports = ("madpo_isaac.report.", "madpo_isaac.reproduce.", "madpo_isaac.commands.report")
    reports += ("madpo_isaac.commands.reproduce",)
    users = (*reports, "madpo_isaac.algos.ppo.", "madpo_isaac.__main__")
    others = [name for name in MODULES if not name.startswith(users)]
    needed = {"tasks", "training.runner", "training.factory", "commands.train", "interop.export"}
    assert {f"madpo_isaac.{name}" for name in needed} <= set(others)
    code, text = zygote.run(*others, main="import_all")
    assert code == 0 and text.endswith("imported: []\n"), text


# Configuration ----------------------------------------------------------------------------------


def test_every_task_algorithm_and_engine_has_its_yaml_and_the_reverse():
    assert names("task") == set(TASKS)
    assert names("algo") == {*ALGORITHMS, "ppo"} == set(ALGO_SCHEMAS)  # rl_games brings PPO
    assert names("sim") == set(SIM_SCHEMAS) <= {*ENGINES, *BRIDGES}
    assert {path.stem for path in (ROOT / "tasks/bridges").glob("isaac*.py")} == set(BRIDGES)


@pytest.mark.parametrize("folder", ["task", "algo", "sim"])
def test_yaml_files_start_from_their_schema(folder):
    for path in (ROOT / "cfg" / folder).glob("*.yaml"):
        content = yaml.safe_load(path.read_text())
        assert "name" not in content  # the schema has it
        assert content["defaults"][0] == f"base_{path.stem}"


def pairs():
    """Each task with one algorithm, each algorithm with some tasks; all other pairs are slow."""
    tasks, algos = sorted(names("task")), sorted(names("algo"))
    for (k, task), (j, algo) in itertools.product(enumerate(tasks), enumerate(algos)):
        slow = () if k % len(algos) == j else pytest.mark.slow
        yield pytest.param(task, algo, marks=slow)


@pytest.mark.parametrize(("task", "algo"), pairs())
def test_every_task_composes_with_every_algorithm(task, algo):
    config = compose([f"task={task}", f"algo={algo}"])
    assert (config.task.name, config.algo.name) == (task, algo)
    assert type(config.algo) is ALGO_SCHEMAS[algo]


def test_every_key_is_read_somewhere():
    sources = [path.read_text() for path in FILES if path.name not in ("schema.py", "settings.py")]
    sources += [path.read_text() for path in (ROOT / "cfg").glob("**/*.yaml")]
    text = "\n".join(sources)
    groups = (*ALGO_SCHEMAS.values(), *SIM_SCHEMAS.values())
    schemas = (Config, *groups, DivergenceConfig)
    keys = {field.name for schema in schemas for field in dataclasses.fields(schema)}
    unread = {key for key in keys if not re.search(rf"\b{key}\b", text)}
    assert unread <= ONLY_CHECKED
