"""The package as others get it: a wheel and a source distribution, used without the checkout."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation")
SMALL = ("num_envs=2", "algo.horizon=4", "algo.hidden=[8]", "num_threads=1", "max_iterations=2")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """The files that are in the repository or would be, without what was built from them."""
    folder = tmp_path_factory.mktemp("sources") / "project"
    names = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "madpo_isaac", "tasks", "cfg")
    folder.mkdir()
    for name in names:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def build(sources, out, kind):
    """Builds a wheel or an sdist by the project's own back end."""
    code = f"import setuptools.build_meta as b; b.build_{kind}({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=sources, check=True, capture_output=True)
    (made,) = out.iterdir()
    return made


def installed(package, folder):
    subprocess.run([*PIP, "--target", folder, package], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    made = build(sources, tmp_path_factory.mktemp("wheel"), "wheel")
    return installed(made, tmp_path_factory.mktemp("from_wheel"))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Somebody's own project, with folders called as ours are."""
    folder = tmp_path_factory.mktemp("my_project")
    for name in ("tasks", "cfg", "runs_of_mine"):
        (folder / name).mkdir()
    (folder / "tasks" / "__init__.py").write_text("raise RuntimeError('not ours')\n")
    (folder / "cfg" / "config.yaml").write_text("of: somebody else\n")
    return folder


def madpo(where, project, *argv, code=0):
    env = {**os.environ, "PYTHONPATH": str(where), "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "madpo_isaac", *argv],
        cwd=project,
        env=env,
        capture_output=True,
        text=True,
    )
    assert run.returncode == code, run.stdout + run.stderr
    assert "Traceback" not in run.stderr
    return run.stdout + run.stderr


def test_a_wheel_does_everything(wheel, project):
    out = madpo(wheel, project, "doctor")
    assert "training would run" in out and str(wheel) in out
    for task in ("ShadowHandOver", "HalfCheetah-2x3"):
        madpo(wheel, project, "train", f"task={task}", *SMALL, f"experiment={task}")
        lines = (project / "runs" / task / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["iteration"] for line in lines] == [1, 2]
    madpo(wheel, project, "train", "checkpoint=runs/HalfCheetah-2x3", "max_iterations=3")
    out = madpo(wheel, project, "eval", "HalfCheetah-2x3", "--episodes=2", "num_envs=2")
    assert "return" in out
    video = project / "clip.gif"
    steps = ["task.episode_length=6"]
    run = "runs/ShadowHandOver"
    madpo(wheel, project, "play", run, "--video", str(video), "--envs=1", *steps)
    assert video.read_bytes()[:4] == b"GIF8"
    madpo(wheel, project, "report", "runs/HalfCheetah-2x3", "--out", "report")
    assert any((project / "report").glob("*.html"))
    listed = madpo(wheel, project, "reproduce", "fig5", "--list")
    assert "task=" in listed


def test_a_source_distribution_gives_the_same_files(sources, wheel, tmp_path):
    out = tmp_path / "made"
    out.mkdir()
    there = installed(build(sources, out, "sdist"), tmp_path / "installed")
    files = [
        {
            str(path.relative_to(where))
            for path in (where / "madpo_isaac").rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        for where in (wheel, there)
    ]
    assert files[0] == files[1]
    for name in ("tasks/hands/over.py", "cfg/config.yaml", "cfg/task/ShadowHandOver.yaml"):
        assert f"madpo_isaac/{name}" in files[0]
    assert not any((there / name).exists() for name in ("tasks", "cfg", "tests", "train.py"))


def test_doctor_fails_where_a_part_is_missing(wheel, project, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(wheel, broken)
    shutil.rmtree(broken / "madpo_isaac" / "cfg")
    assert "training would not run" in madpo(broken, project, "doctor", code=1)
