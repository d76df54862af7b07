"""Sweeps through other launchers: jobs of their own, a cluster's profile, and what is refused."""

import contextlib
import os
import re
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_runner import PATIENCE, _keep_torch_settings, timeless  # noqa: F401
from tiny_run import ONCE

from madpo_isaac.commands.train import main
from madpo_isaac.config import launchers

TRAIN = Path(__file__).resolve().parents[1] / "train.py"
SMALL = (
    "task=HalfCheetah-2x3",
    "algo=happo",
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "num_threads=1",
    "max_iterations=2",
    *ONCE,
)
NAMED = "experiment='s${seed}'"
INSTALLED = find_spec("hydra_plugins") is not None
needs_plugin = pytest.mark.skipif(not INSTALLED, reason="the extra cluster is not installed")


def train(*arguments, cwd):
    command = [sys.executable, str(TRAIN), *SMALL, *arguments]
    options = {"capture_output": True, "text": True, "check": False, "timeout": PATIENCE}
    return subprocess.run(command, cwd=cwd, **options)


@pytest.fixture(scope="module")
def one_after_another(tmp_path_factory):
    """The runs of two seeds by Hydra's own launcher."""
    folder = tmp_path_factory.mktemp("runs")
    assert main([*SMALL, f"runs_dir={folder}", NAMED, "-m", "seed=0,1"]) == 0
    return folder


def test_a_sweep_names_its_runs_after_the_seed(one_after_another):
    names = sorted(path.name for path in one_after_another.iterdir() if path.is_dir())
    assert names == ["s0", "s1"]
    assert timeless(one_after_another / "s0") != timeless(one_after_another / "s1")


@pytest.mark.slow
@needs_plugin
def test_local_jobs_give_the_same_runs(one_after_another, tmp_path):
    done = train(NAMED, "-m", "seed=0,1", "hydra/launcher=submitit_local", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("s0", "s1"):
        assert timeless(tmp_path / "runs" / name) == timeless(one_after_another / name)
        overrides = (tmp_path / "runs" / name / "overrides.txt").read_text().splitlines()
        assert f"seed={name[1]}" in overrides


@pytest.mark.slow
@needs_plugin
def test_a_local_job_that_is_refused_does_not_stop_the_others(tmp_path):
    """A mismatch of records is found before anything starts, a damaged checkpoint by its job."""
    jobs = (NAMED, "-m", "seed=0,1", "hydra/launcher=submitit_local")
    other = train("experiment=s0", "seed=0", "algo.clip=0.3", "algo.input_norm=both", cwd=tmp_path)
    assert other.returncode == 0
    done = train(*jobs, cwd=tmp_path)
    assert (done.returncode, "already holds a run" in done.stderr) == (2, True)
    done = train(*jobs, "resume=auto", "algo.input_norm=none", cwd=tmp_path)
    assert (done.returncode, "algo.input_norm" in done.stderr) == (2, True)
    assert not (tmp_path / "runs" / "s1").exists()
    checkpoint = tmp_path / "runs" / "s0" / "nn" / "last.pth"
    checkpoint.write_bytes(checkpoint.read_bytes()[:3000])
    done = train(*jobs, "resume=auto", "max_iterations=3", cwd=tmp_path)
    assert done.returncode == 2
    assert len((tmp_path / "runs" / "s1" / "metrics.jsonl").read_text().splitlines()) == 3
    logs = [path.read_text() for path in tmp_path.glob("runs/.submitit/*/*.err")]
    assert sum("last.pth' is damaged" in text for text in logs) == 1


@needs_plugin
def test_the_profile_of_a_cluster_asks_for_signal_and_requeue(tmp_path, monkeypatch):
    """The script that reaches sbatch, kept by a stand-in that fails."""
    tools = tmp_path / "bin"
    tools.mkdir()
    script = '#!/bin/sh\nfor last; do :; done\ncp "$last" "$KEEP"\nexit 1\n'
    for name in ("sbatch", "srun"):
        (tools / name).write_text(script.replace("$KEEP", str(tmp_path / "script.sh")))
        (tools / name).chmod(stat.S_IRWXU)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with contextlib.suppress(Exception):  # whatever submitit makes of the failure
        main([*SMALL, "-m", "seed=0,1", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"])
    text = (tmp_path / "script.sh").read_text()
    wanted = (
        "signal=USR2@120",
        "time=1440",
        "requeue",
        "partition=gpu",
        "array=0-1%2",
        "mem=32GB",
    )
    assert [w for w in wanted if not re.search(rf"^#SBATCH --{re.escape(w)}$", text, re.M)] == []


@needs_plugin
def test_no_slurm_here(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "-m", "seed=0,1", "hydra/launcher=submitit_slurm"]) == 2
    assert capsys.readouterr().err == "error: There is no SLURM here: srun is not found.\n"


def test_only_a_launcher_of_an_extra_is_said_to_be_missing():
    basic = ["basic", "joblib"]
    error = launchers.missing("submitit_local", basic)
    assert str(error).startswith("hydra/launcher=submitit_local comes with the extra cluster:")
    assert launchers.missing("submitit_locl", [*basic, "submitit_local"]) is None
    assert launchers.missing("ray", basic) is None


@pytest.mark.skipif(INSTALLED, reason="the extra cluster is installed")
@pytest.mark.parametrize("name", ["slurm", "submitit_slurm", "submitit_local"])
def test_the_extra_that_is_missing_is_named(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, "-m", "seed=0,1", f"hydra/launcher={name}"]) == 2
    assert re.fullmatch(r"error: [^\n]*pip install -e '\.\[cluster\]'\.\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ("hydra/launcher=submitit_local",),
        ("hydra/launcher=submitit_local", "--cfg", "job"),
        ("-m", "hydra/launcher=submitit_local", "--config-path=x"),
        ("-m", "hydra/launcher=submitit_locl"),
    ],
)
def test_launchers_go_with_sweeps(tmp_path, capsys, monkeypatch, argv):
    monkeypatch.chdir(tmp_path)
    assert main([*SMALL, *argv]) == 2
    assert re.fullmatch(r"error: [^\n]+\n", capsys.readouterr().err)
    assert not list(tmp_path.iterdir())
