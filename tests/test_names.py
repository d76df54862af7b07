"""Names mean what they say: text, folders, runs of a sweep, branches of a run."""

import json
import os
import re
import shutil

import pytest
from report_runs import write_run
from test_runner import _keep_torch_settings  # noqa: F401
from tiny_run import ONCE

from madpo_isaac.__main__ import main as madpo
from madpo_isaac.commands import doctor
from madpo_isaac.commands import train as cli
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.commands.doctor import Finding
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import canonical, compose
from madpo_isaac.errors import UserError
from madpo_isaac.report.runs import load
from madpo_isaac.reproduce.paper import FIGURES, SCALES
from madpo_isaac.reproduce.plan import plan

TINY = (
    *("task=HalfCheetah-2x3", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[4]", *ONCE),
)


def refused(capsys, argv, program=main):
    capsys.readouterr()
    assert program(argv) == 2
    found = re.fullmatch(r"error: ([^\n]+)\n", capsys.readouterr().err)
    assert found
    return found[1]


@pytest.mark.parametrize(
    "name", ["2024_01_15", "1e3", "1.10", "true", "False", "007", "run_1", "1_0"]
)
def test_a_name_stays_text(name):
    assert compose([f"experiment={name}"]).experiment == name
    assert compose([f"experiment='{name}'"]).experiment == name
    assert compose([f"task.hand={name}", "task=ShadowHandOver"]).task.hand == name


def test_names_of_a_sweep_stay_text(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cli, "_run", lambda config, _: seen.append(config.experiment) or 0)
    assert main(["-m", "experiment=1.10,2024_01_15,true", f"runs_dir={tmp_path}"]) == 0
    assert seen == ["1.10", "2024_01_15", "true"]


def test_the_home_folder_is_meant_by_its_sign(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = [
        "runs_dir=~/runs",
        "checkpoint='~/a=b.pth'",
        "experiment=a~",
        "task.hand=~",
        "seed=~/x",
    ]
    assert canonical(given) == [
        "runs_dir=/home/me/runs",
        "checkpoint='/home/me/a=b.pth'",
        "experiment=a~",
        "task.hand=/home/me",
        "seed=~/x",
    ]
    assert canonical(["runs_dir=~/a,~/b"]) == ["runs_dir=/home/me/a,/home/me/b"]
    assert str(Parser.path("~/x")) == "/home/me/x"


def test_the_home_folder_is_meant_by_every_command(tmp_path, monkeypatch, capsys):
    """Shells leave its sign alone behind an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "a", "Task")
    (tmp_path / "curves.csv").write_text("run,env_steps,episode_return\na,100,1\n")
    runs = load(["~/runs", "Mine=~/curves.csv"])
    assert [(run.name, run.task) for run in runs] == [("a", "Task"), ("a", "Mine")]
    assert madpo(["list", "runs", "~/runs"]) == 0
    assert "Task" in capsys.readouterr().out
    monkeypatch.setattr(doctor, "examine", lambda place: [Finding("disk", "ok", str(place))])
    assert madpo(["doctor", "runs_dir=~/runs"]) == 0
    assert f"{tmp_path}/runs" in capsys.readouterr().out


def test_bytes_that_are_no_text_are_one_line_and_nothing_is_made(tmp_path, capsys):
    name = os.fsdecode(b"a\xffb")
    for argv in ([f"experiment={name}"], ["-m", f"runs_dir={name}"], [f"checkpoint={name}"]):
        assert "is not UTF-8" in refused(capsys, [*argv, f"runs_dir={tmp_path}"])
    assert "is not UTF-8" in refused(capsys, ["report", name], madpo)
    assert list(tmp_path.iterdir()) == []
    assert compose(["experiment='é'"]).experiment == "é"


def test_a_sweep_into_one_folder_is_refused_before_it_starts(tmp_path, capsys, monkeypatch):
    started = []
    monkeypatch.setattr(cli, "_run", lambda config, _: started.append(config.experiment) or 0)
    where = f"runs_dir={tmp_path}"
    message = refused(capsys, ["-m", "seed=1,2", "experiment=same", where])
    assert "2 runs of the sweep would be in" in message and started == []
    assert main(["-m", "seed=1,2", "experiment=run_${seed}", where]) == 0
    assert started == ["run_1", "run_2"]


@pytest.mark.parametrize("setting", ["max_iterations=1", "seed=3", "task=Ant-2x4", "algo=ippo"])
def test_what_a_figure_decides_is_not_ignored(setting, tmp_path):
    with pytest.raises(UserError, match=f"'{setting}': .* follows from the figure and --scale"):
        plan(FIGURES["fig9"], SCALES["smoke"], tmp_path, [setting])


# Folders ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Three iterations, each kept."""
    runs = tmp_path_factory.mktemp("runs")
    argv = [*TINY, "experiment=x", "max_iterations=3", "save_frequency=1", f"runs_dir={runs}"]
    assert main(argv) == 0
    return runs / "x"


def iterations(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["iteration"] for line in lines]


def test_a_folder_with_a_blank_in_its_name_is_continued(run, tmp_path):
    folder = tmp_path / "copy of x"
    shutil.copytree(run, folder)
    assert main([f"checkpoint='{folder}'", "max_iterations=4"]) == 0
    assert iterations(folder) == [1, 2, 3, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["copy of x"]


def test_files_of_a_branch_that_is_given_up_are_set_aside(run, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(run, folder)
    (folder / "dumps").mkdir()
    for k in (1, 3):
        (folder / "dumps" / f"iteration_{k}.pth").touch()
    given_up = {k: (folder / "nn" / f"ep_{k}.pth").read_bytes() for k in (2, 3)}
    again = [f"checkpoint={folder}/nn/ep_1.pth", "save_frequency=50"]
    for place in ("1", "2"):
        assert main([*again, "max_iterations=2"]) == 0
        assert iterations(folder) == [1, 2]
        assert [path.name for path in folder.glob("nn/ep_*")] == ["ep_1.pth"]
        dropped = folder / "dropped" / place
        newest = {"last.pth", "best.pth", "metrics.jsonl"} & {p.name for p in dropped.iterdir()}
        assert newest >= {"last.pth", "metrics.jsonl"}
        if place == "1":
            assert {p.name for p in dropped.iterdir()} - newest == {
                "ep_2.pth",
                "ep_3.pth",
                "iteration_3.pth",
            }
            assert all((dropped / f"ep_{k}.pth").read_bytes() == x for k, x in given_up.items())
            for name in newest:
                where = "." if name == "metrics.jsonl" else "nn"
                assert (dropped / name).read_bytes() == (run / where / name).read_bytes()
    assert sorted(path.name for path in (folder / "dropped").iterdir()) == ["1", "2"]
    assert [path.name for path in (folder / "dumps").iterdir()] == ["iteration_1.pth"]
