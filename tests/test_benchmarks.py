"""Every benchmark still runs, on an easier problem, and writes what it prints. Nothing is timed."""

import importlib
import json
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from test_runner import _keep_torch_settings  # noqa: F401

from madpo_isaac.config.overrides import compose

FOLDER = Path(__file__).parents[1] / "benchmarks"
SMALL = ["num_envs=4", "algo.horizon=8", "algo.hidden=[16]"]
CASES = {
    "throughput": ["envs=4", "threads=1", "iterations=1", "algo.horizon=4", "algo.hidden=[16]"],
    "update": ["tasks=HalfCheetah-2x3", "algos=happo,madpo,ppo", "repeats=1"],
    "variants": ["task=HalfCheetah-2x3", "repeats=1", "algo.horizon=8 algo.hidden=[16]"],
    "busy": ["loops=1", "threads=1", "iterations=1", *SMALL],
    "gradient_sizes": ["iterations=2", "num_threads=1", "algo.epochs=3", *SMALL],
    "mamujoco": ["envs=2", "seconds=0.05", "tasks=HalfCheetah-2x3", "peers=sync"],
    "hand_tasks": ["envs=2", "steps=3", "tasks=ShadowHandPen"],
    "divergence": ["sizes=40x5x2", "repeats=1"],
    "compiled": ["tasks=HalfCheetah-2x3", "repeats=1", *SMALL],
    "parity": ["device=cpu", "tasks=HalfCheetah-2x3", "states=2"],
    "gpu": [
        *("device=cpu", "worlds=4", "substeps=1,2", "envs=4", "algos=madpo", "steps=3"),
        *("iterations=1", "sizes=64x5x2", "algo.horizon=4", "algo.hidden=[16]"),
    ],
}


SLOW = ("gpu", "parity", "compiled", "divergence")
"""Benchmarks that compile, for tens of seconds."""


def numbers(node):
    """All numbers in what JSON holds."""
    if isinstance(node, dict):
        node = node.values()
    if isinstance(node, (int, float)):
        yield node
    elif not isinstance(node, str) and node is not None:
        for part in node:
            yield from numbers(part)


@pytest.mark.timeout(1800)  # with an empty cache Warp compiles
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES]
)
def test_a_benchmark_runs(name, tmp_path, monkeypatch, capsys):
    if name in ("gpu", "parity"):
        pytest.importorskip("mujoco_warp", reason="the extra gpu is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")  # or busy.py sets it for good
    out = tmp_path / "out.json"
    module = importlib.import_module(name)
    if name == "update":  # whose problems are those of the tasks' own files
        monkeypatch.setattr(module, "compose", lambda argv: compose([*argv, *SMALL]))
    try:
        module.main([*CASES[name], f"out={out}"])
    finally:
        sys.modules.pop(name)
    content = json.loads(out.read_text())
    rows = [
        row for name in ("training", "physics", "rows", "parity") for row in content.get(name, [])
    ]
    assert not any("failed" in row for row in rows)
    found = list(numbers(content))
    assert len(found) > 3 and all(map(math.isfinite, found))
    assert capsys.readouterr().out.count("\n") > 1


def test_what_does_not_fit_into_memory_is_a_row_and_its_reason(monkeypatch, capsys):
    pytest.importorskip("mujoco_warp", reason="the extra gpu is not installed")
    monkeypatch.syspath_prepend(str(FOLDER))
    gpu = importlib.import_module("gpu")

    def full(number):
        raise torch.OutOfMemoryError(f"no room for {number}\nTrace")

    rows = [gpu.attempt({"n": 1}, full, 3), gpu.attempt({"n": 2}, lambda: {"fps": 4.0})]
    sys.modules.pop("gpu")
    assert rows == [{"n": 1, "failed": "no room for 3"}, {"n": 2, "fps": 4.0}]
    gpu.show("Table", rows)
    assert "no room for 3" in capsys.readouterr().out


def test_a_fair_share_of_the_cores(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setenv("GOMP_SPINCOUNT", "10000")
    busy = importlib.import_module("busy")
    sys.modules.pop("busy")
    assert [busy.slowdown(loops, 2, 2) for loops in (0, 2, 8)] == [1.0, 2.0, 5.0]
    assert [busy.slowdown(loops, 1, 2) for loops in (0, 1, 2)] == [1.0, 1.0, 1.5]
    # Four threads on two cores had half a core each before anything came.
    assert [busy.slowdown(loops, 4, 2) for loops in (0, 4)] == [1.0, 2.0]


def test_no_benchmark_is_left_out():
    assert {path.stem for path in FOLDER.glob("*.py")} == {*CASES, "settings"}


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("nonsense", "'nonsense': settings are written <key>=<value>."),
        ("env=3", "Unknown key 'env'. Did you mean 'envs'? Allowed: envs, out, "),
        ("envs=many", "envs=many must be a whole number."),
        ("tasks=ShadowHandPan", "Unknown task 'ShadowHandPan'. Did you mean 'ShadowHandPen'?"),
    ],
)
def test_bad_arguments_are_one_line(argument, message, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(FOLDER))  # as a program has its own folder
    monkeypatch.setattr(sys, "argv", ["hand_tasks.py", argument])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(FOLDER / "hand_tasks.py"), run_name="__main__")
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
