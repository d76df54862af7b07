"""Packed runs: unpacked elsewhere, they are reported as before and are not run again."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from report_runs import write_run

from madpo_isaac.report.runs import load
from madpo_isaac.reproduce.plan import Job

ROOT = Path(__file__).parents[1]
SETTINGS = ("task=Task", "seed=1")


def run_tool(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "pack_runs.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def runs(tmp_path):
    """Two finished runs, and one that has stopped before its end."""
    folder = tmp_path / "study"
    for seed, gain in (1, 1.0), (2, 1.0 / 3.0), (3, 1.0):
        run = write_run(folder / f"Task_happo_s{seed}", seed=seed, gain=gain)
        (run / "overrides.txt").write_text("\n".join((*SETTINGS, f"experiment={run.name}")))
        state = {"state": "stopped" if seed == 3 else "finished", "host": "here", "pid": 7}
        (run / "status.json").write_text(json.dumps(state))
        (run / "nn").mkdir()
        (run / "nn" / "last.pth").write_bytes(b"network")
        if seed == 1:
            (run / "eval").mkdir()
            score = {"return": {"mean": 7.0}, "env_steps": 2000}
            (run / "eval" / "last_mean_summary.json").write_text(json.dumps(score))
    return folder


def test_runs_come_back_as_they_were(runs, tmp_path):
    archive = tmp_path / "new" / "study.tar.xz"
    done = run_tool(runs, archive)
    assert done.returncode == 0, done.stderr
    assert "2 finished runs" in done.stdout
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "elsewhere", filter="data")
    back = tmp_path / "elsewhere" / "study"
    assert sorted(path.name for path in back.iterdir()) == ["Task_happo_s1", "Task_happo_s2"]
    for new in back.iterdir():
        old = runs / new.name
        files = ["config.yaml", "env.json", "metrics.jsonl", "overrides.txt", "status.json"]
        files += ["eval"] * (new.name == "Task_happo_s1")
        assert sorted(path.name for path in new.iterdir()) == sorted(files)
        assert "here" not in (new / "status.json").read_text()
        (before,), (after,) = load([str(old)]), load([str(new)])
        assert after.settings == before.settings
        score = 7.0 if new.name == "Task_happo_s1" else np.nan
        np.testing.assert_equal(
            [run.score_of_means(2000.0) for run in (before, after)], [score] * 2
        )
        assert after.metrics.keys() == before.metrics.keys()
        for key, values in before.metrics.items():
            np.testing.assert_allclose(after.metrics[key], values, rtol=1e-4, err_msg=key)
        assert Job(new, "Task", SETTINGS, steps=2000).finished()
        assert not Job(new, "Task", SETTINGS, steps=2001).finished()


def test_the_same_runs_give_the_same_archive(runs, tmp_path):
    archives = [tmp_path / "1.tar.xz", tmp_path / "2.tar.xz"]
    for archive in archives:
        assert run_tool(runs, archive).returncode == 0
    first, second = (archive.read_bytes() for archive in archives)
    assert first == second


def test_a_run_that_lacks_a_file_is_named(runs, tmp_path):
    (runs / "Task_happo_s2" / "overrides.txt").unlink()
    done = run_tool(runs, tmp_path / "study.tar.xz")
    assert done.returncode == 2
    assert done.stderr.startswith("error: '")
    assert "Task_happo_s2/overrides.txt' cannot be read" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_folder_without_a_finished_run_is_refused(runs, tmp_path):
    for name in "Task_happo_s1", "Task_happo_s2":
        (runs / name / "status.json").unlink()
    done = run_tool(runs, tmp_path / "study.tar.xz")
    assert done.returncode == 2
    assert done.stderr == f"error: '{runs}' has no finished run.\n"
    assert not (tmp_path / "study.tar.xz").exists()


def test_runs_that_lie_elsewhere_are_refused(runs, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "Task_happo_s5").symlink_to(runs / "Task_happo_s1")
    for folder in tmp_path / "links", runs / "Task_happo_s1":
        done = run_tool(folder, tmp_path / "x.tar.xz")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"' is a link, or no folder inside of '{folder}'" in done.stderr
        assert not (tmp_path / "x.tar.xz").exists()


def test_an_archive_that_cannot_be_written_is_one_line(runs, tmp_path):
    (tmp_path / "file").write_text("")
    for target in (runs, tmp_path / "file" / "x.tar.xz", ""):
        done = run_tool(runs, target)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert sorted(path.name for path in runs.iterdir()) == [f"Task_happo_s{k}" for k in (1, 2, 3)]


@pytest.mark.parametrize("arguments", [(), ("missing", "x.tar.xz")])
def test_wrong_arguments_are_one_line(arguments):
    done = run_tool(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
