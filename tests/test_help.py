"""The lists and the help: they are complete, and what they say is true."""

import dataclasses
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from madpo_isaac import pretrained, tasks
from madpo_isaac.__main__ import main
from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.commands import COMMANDS, listing, train_help
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import Config
from madpo_isaac.divergence.presets import DivergenceConfig
from madpo_isaac.errors import unknown
from madpo_isaac.reproduce.paper import FIGURES
from madpo_isaac.sim import SIM_SCHEMAS
from madpo_isaac.tasks.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]


def printed(capsys, *argv):
    assert main(list(argv)) == 0
    return capsys.readouterr().out


# train.py --help --------------------------------------------------------------------------------


@pytest.fixture
def lines(capsys):
    found = re.findall(r"^  ([\w.]+)=(\S*)(?:  +(.*))?$", printed(capsys, "train", "-h"), re.M)
    return [line for line in found if line[0] not in ("task", "plugins")]


def names(schema):
    return {field.name for field in dataclasses.fields(schema)} - {"name", "divergence"}


def test_every_key_has_a_line_with_a_text(lines):
    shown = {key for key, _, _ in lines}
    assert shown >= names(Config) - {"task", "algo", "sim", "plugins"}
    for prefix, schemas in (("algo.", ALGO_SCHEMAS), ("sim.", SIM_SCHEMAS)):
        for schema in schemas.values():
            assert shown >= {prefix + name for name in names(schema)}
    assert shown >= {f"algo.divergence.{name}" for name in names(DivergenceConfig)}
    assert {"task.agents", "task.randomize.friction", "task.observation"} <= shown
    assert [key for key, _, text in lines if not text] == []


def test_its_keys_exist_and_its_defaults_are_right(lines):
    config = compose([])
    for key, value, _ in lines:
        if "." not in key and value != "(recipe)":
            default = getattr(config, key)
            assert value == str(default).replace(" ", ""), key
    from_recipe = {key for key, value, _ in lines if value == "(recipe)"}
    assert {"num_envs", "task.agents_see", "task.observation", "algo.gamma"} <= from_recipe


def test_internal_entries_are_left_out(capsys):
    assert "base_" not in printed(capsys, "train", "--help")


def test_help_imports_nothing_large():
    code = """if True:
        import sys
        from madpo_isaac.__main__ import main
        main(["train", "--help"])
        large = {"torch", "mujoco", "hydra", "omegaconf", "numpy"}
        sys.stderr.write(f"imported: {sorted(large & sys.modules.keys())}")
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == "imported: []"


# The other commands -----------------------------------------------------------------------------


def test_version(capsys):
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)[1]
    assert printed(capsys, "--version") == f"madpo_isaac {version}\n"


@pytest.mark.parametrize("command", sorted(COMMANDS.keys() - {"train"}))
def test_every_command_describes_its_arguments(capsys, command):
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_reproduce_by_itself_lists_the_figures(capsys):
    text = printed(capsys, "reproduce")
    assert all(f"  {name} " in text for name in FIGURES)


def test_a_name_that_resembles_no_other_gets_a_hint_of_what_it_needs():
    assert "plugins=" in str(unknown("task", "zzzz", TASKS))
    assert "plugins=" not in str(unknown("task", "ShadowHandOve", TASKS))
    for part, name in (("ShadowHandLift", "ShadowHandLiftUnderarm"), ("pen", "ShadowHandPen")):
        assert f"Did you mean '{name}'?" in str(unknown("task", part, TASKS))
    assert "task.hand=<file.yaml>" in str(unknown("hand", "zzzz", ["shadow"]))


# madpo list -------------------------------------------------------------------------------------


def rows(capsys, *argv):
    return [re.split(r"  +", line) for line in printed(capsys, "list", *argv).splitlines()]


def test_all_tasks_are_listed_with_their_policies(capsys):
    own = {name for name, found in TASKS.items() if isinstance(found, str)}
    listed = {row[0]: row for row in rows(capsys)[1:]}
    assert own <= listed.keys()
    trained = {pretrained.describe(pretrained.find(name))["task"] for name in pretrained.names()}
    assert {name for name in own if listed[name][4] == "yes"} == trained
    assert all(listed[name][5] for name in own)


@pytest.mark.parametrize("task", ["ShadowHandReOrientation", "HalfCheetah-3x2", "Ant-8x1"])
def test_listed_sizes_are_those_of_the_environments(task):
    env, facts = tasks.make(task, num_envs=1), listing.facts(task)
    assert (env.state_dim, env.action_dim) == (facts.state, facts.action)
    assert str(len(env.agents)) in re.findall(r"\d+", facts.agents)


def test_listed_states_are_those_of_the_readme():
    table = (ROOT / "README.md").read_text().split("| task | agents |")[1].split("\n\n")[0]
    for line in table.splitlines()[2:]:
        names, _, state, action, _ = (cell.strip() for cell in line.strip("|").split("|"))
        facts = listing.facts(re.search(r"`([\w-]+)`", names)[1])
        factors = [int(x) for x in action.split(" x ")]
        assert int(state) == facts.state and facts.action in (factors[0], 2 * factors[-1])


def test_all_algorithms_are_listed(capsys):
    assert {row[0] for row in rows(capsys, "algorithms")[1:]} >= set(ALGO_SCHEMAS)


def test_runs_are_listed_newest_first(capsys, tmp_path):
    for k, (name, state) in enumerate([("old", "finished"), ("new", "running")]):
        (run := tmp_path / name).mkdir()
        (run / "config.yaml").write_text("task:\n  agents: x\n  name: T\nalgo:\n  name: a\n")
        status = {"state": state, "max_iterations": 9, "pid": 2**40}
        status["host"] = platform.node()
        (run / "status.json").write_text(json.dumps(status))
        (run / "metrics.jsonl").write_text('{"iteration": 3, "episode_return": 1.5}\n{"iter')
        for file in run.iterdir():
            os.utime(file, (1e9 + k, 1e9 + k))
    head, first, second = rows(capsys, "runs", str(tmp_path))
    assert head == ["run", "task", "algorithm", "state", "iteration", "return", "age"]
    assert first[:6] == ["new", "T", "a", "killed", "3/9", "1.5"]
    assert second[:4] == ["old", "T", "a", "finished"] and second[6].endswith(" d")


def test_damaged_runs_are_listed_as_far_as_they_can_be_read(capsys, tmp_path):
    damaged = {
        "huge": ("metrics.jsonl", f'{{"iteration": 3, "episode_return": 1{"0" * 400}}}\n'),
        "nested": ("status.json", "[" * 100_000),
        "nan": ("metrics.jsonl", '{"iteration": 3, "episode_return": NaN}\n'),
    }
    for name, (file, text) in damaged.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("task:\n  name: T\n")
        (tmp_path / name / file).write_text(text)
    (tmp_path / "folder" / "config.yaml").mkdir(parents=True)
    found = {row[0]: row[3:6] for row in rows(capsys, "runs", str(tmp_path))[1:]}
    assert found == {"huge": ["-", "3/-", "-"], "nested": ["-", "-/-", "-"],
                     "nan": ["-", "3/-", "-"]}  # fmt: skip


@pytest.mark.parametrize(
    "argv", [["runs", "x" * 300], ["x"], ["tasks", "x"], ["runs", "/nonexistent"], ["--x"]]
)
def test_bad_lists(capsys, argv):
    assert main(["list", *argv]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help_covers_the_sections_there_are():
    for _, _, file, name, yaml in train_help.SECTIONS:
        assert train_help.keys(train_help.PACKAGE / file, name)
        assert not yaml or (train_help.PACKAGE / "cfg" / yaml).is_file()
