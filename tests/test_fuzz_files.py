"""Hundreds of damaged files: each is read as far as it is sound, or refused in one line."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import warnings

import pytest
import torch
import yaml
from damage import Damage
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from report_runs import write_run
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.__main__ import main
from madpo_isaac.commands.train import main as train
from madpo_isaac.config import resume
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import Record
from madpo_isaac.report import write
from madpo_isaac.reproduce.plan import Job
from madpo_isaac.runs.checkpoint import load
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.runs.metrics import drop_events_after
from madpo_isaac.tasks.hands.hand import MODELS


@pytest.fixture(params=[25, pytest.param(200, marks=pytest.mark.slow)])
def count(request):
    """A sample, and the slow rest of which it is the beginning."""
    return request.param


def outcome(argv):
    """The exit code of ``madpo``; fails unless bad input was one line."""
    out, err = io.StringIO(), io.StringIO()
    redirected = (contextlib.redirect_stdout(out), contextlib.redirect_stderr(err))
    with redirected[0], redirected[1], warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that a font lacks
        code = main([str(argument) for argument in argv])
    if code == 2:
        assert re.fullmatch(r"error: [^\n]+\n", err.getvalue()), err.getvalue()
    else:
        assert code in (0, 1) and "Traceback" not in err.getvalue()
    return code


# Reports ----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Reports of few resamples; figures are laid out for one in ten, and not drawn."""
    picture, fill, turn = bytes(24), write._Report.fill, itertools.count()

    def drawn(_, to, **kind):
        to.write(picture) if isinstance(to, io.BytesIO) else to.write_bytes(picture)

    def filled(report, *arguments):
        if next(turn) % 10 == 0:
            fill(report, *arguments)

    monkeypatch.setattr(write._Report, "fill", filled)
    monkeypatch.setattr(Figure, "savefig", drawn)
    monkeypatch.setattr(write.write, "__kwdefaults__", {**write.write.__kwdefaults__, "reps": 2})


def damaged_run(damage, source, target):
    """A copy of a run folder of which one file is damaged."""
    shutil.copytree(source, target)
    path = target / damage.draw.choice(
        ("metrics.jsonl", "metrics.jsonl", "metrics.jsonl", "config.yaml", "config.yaml",
         "status.json", "env.json")
    )  # fmt: skip
    if damage.draw.random() < 0.4:
        path.write_bytes(damage.bytes(path.read_bytes()))
    elif path.suffix == ".yaml":
        path.write_text(yaml.dump(damage.tree(yaml.safe_load(path.read_text()))))
    elif path.suffix == ".json":
        path.write_text(json.dumps(damage.tree(json.loads(path.read_text()))))
    else:
        lines = damage.tree([json.loads(line) for line in path.read_text().splitlines()])
        lines = lines if isinstance(lines, list) else [lines]
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return target


def damaged_table(damage, path):
    rows = [["run", "env_steps", "episode_return", "success_rate"]]
    rows += [[f"happo_s{s}", 100 * k, k + s, k / 5] for s in range(2) for k in range(1, 5)]
    text = "\n".join(",".join(map(str, row)) for row in damage.tree(rows) if isinstance(row, list))
    data = text.encode()
    path.write_bytes(damage.bytes(data) if damage.draw.random() < 0.4 else data)
    return path


@pytest.mark.usefixtures("quick")
def test_reports_of_damaged_runs(tmp_path, count):
    damage = Damage(seed=1)
    sound = write_run(tmp_path / "sound" / "Task_happo_s1", lines=3)
    codes = []
    for k in range(count):
        folder = tmp_path / str(k)
        folder.mkdir()
        if k % 3:
            one = damaged_run(damage, sound, folder / "Task_happo_s2")
        else:
            one = damaged_table(damage, folder / "curves.csv")
        other = [sound] if damage.draw.random() < 0.3 else []
        by = damage.draw.choice((["--by", "algo,seed"], [], []))
        codes.append(outcome(["report", one, *other, *by, "--out", folder / "report"]))
        shutil.rmtree(folder)
    assert {0, 2} == set(codes)
    assert min(codes.count(0), codes.count(2)) > count / 8


# Dumps and checkpoints --------------------------------------------------------------------------


TINY = (
    *("task=HalfCheetah-2x3", "algo=happo", "num_envs=2", "num_threads=1", "algo.horizon=4"),
    *("algo.hidden=[4]", *ONCE, "experiment=x"),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two iterations with evaluations."""
    runs = tmp_path_factory.mktemp("runs")
    evaluated = ("eval_frequency=1", "eval_envs=1", "task.episode_length=4")
    assert train([*TINY, *evaluated, "max_iterations=2", f"runs_dir={runs}"]) == 0
    return runs / "x"


@pytest.fixture(scope="module")
def dump(run):
    """A dump of two steps as :class:`WorldGuard` writes it."""
    content = torch.load(run / "nn" / "last.pth", weights_only=True)
    return {
        "config": content["config"],
        "iteration": 1,
        "start": content["env_state"],
        "actions": torch.zeros(2, 2, 6),
        "faults": torch.tensor([[1, 0]]),
    }


def damaged_archive(damage, content, path):
    """Saves ``content`` with something wrong in it, or writes a damaged file."""
    kind = damage.draw.choice(("bytes", "tree", "tree", "tree", "tensor", "config"))
    if kind == "tree":
        content = damage.tree(content)
    elif kind == "tensor":
        key = damage.draw.choice(("actions", "faults"))
        changes = (torch.Tensor.double, torch.Tensor.long, lambda x: x[:0], lambda x: x[..., :1],
                   lambda x: x.flatten(), lambda x: x + 7, lambda x: -x - 1, lambda x: x / 0,
                   lambda x: x.repeat(2, 1, 1), lambda x: x[None])  # fmt: skip
        content = {**content, key: damage.draw.choice(changes)(content[key])}
    elif kind == "config":
        record = yaml.safe_load(content["config"])
        content = {**content, "config": yaml.dump(damage.tree(record))}
    torch.save(content, path)
    if kind == "bytes":
        path.write_bytes(damage.bytes(path.read_bytes()))
    return path


def test_damaged_dumps_are_replayed_or_refused(dump, tmp_path, count):
    damage = Damage(seed=2)
    torch.save(dump, tmp_path / "dump.pth")
    assert outcome(["replay-dump", tmp_path / "dump.pth"]) == 1  # it was made up
    codes = [
        outcome(["replay-dump", damaged_archive(damage, dump, tmp_path / "dump.pth")])
        for _ in range(count)
    ]
    assert codes.count(2) > count / 2


def damage_run(damage, folder, name):
    """Damages one file beside the checkpoint, by default any, and returns its name."""
    event = next(folder.glob("summaries/events*")).relative_to(folder)
    name = name or damage.draw.choice(
        ("metrics.jsonl", "eval/training.json", "config.yaml", "status.json", str(event),
         "overrides.txt", "env.json")
    )  # fmt: skip
    path = folder / name
    structured = path.suffix in (".json", ".jsonl") and damage.draw.random() < 0.6
    if not structured:
        path.write_bytes(damage.bytes(path.read_bytes()))
        return name
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    damaged = [json.dumps(damage.tree(json.loads(line))) for line in lines]
    path.write_text("".join(f"{line}\n" for line in damaged))
    return name


@pytest.mark.parametrize(
    "file",
    [
        None,
        pytest.param("metrics.jsonl", marks=pytest.mark.slow),
        pytest.param("eval/training.json", marks=pytest.mark.slow),
        pytest.param("overrides.txt", marks=pytest.mark.slow),
    ],
)
def test_damaged_run_folders_are_continued_or_refused(run, tmp_path, monkeypatch, count, file):
    """The folder is found, read and prepared as it is when a run is continued."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    damage, refused = Damage(seed=3), 0
    settings = tuple((run / "overrides.txt").read_text().splitlines())
    where = {"runs_dir": "runs", "resume": "never", "experiment": "", "test": False, "plugins": []}
    for k in range(count):
        folder = tmp_path / str(k) / "x"
        shutil.copytree(run, folder)
        name = damage_run(damage, folder, file)
        try:
            if name == "config.yaml":
                resume.find(OmegaConf.create({**where, "checkpoint": str(folder)}), {})
            again = RunFolder(folder)
            again.complete([])
            again.drop_metrics_after(1)
            drop_events_after(again.summaries, 8)
            record = Record("HalfCheetah-2x3", "happo", 1)
            record.continue_from(folder / "eval" / "training.json", 8)
            if record._steps:
                record.write(folder / "eval" / "training.json")
            job = Job(folder, "HalfCheetah-2x3", settings, 8)
            job.progress(), job.finished()
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            assert all(json.loads(line)["iteration"] <= 1 for line in lines)
        except UserError:
            refused += 1
        shutil.rmtree(folder.parent)
    assert bool(refused) == (file in (None, "overrides.txt"))
    assert refused < count / 2 or file == "overrides.txt"


def test_damaged_checkpoints_are_refused(run, tmp_path, count):
    damage, path = Damage(seed=4), tmp_path / "odd.pth"
    where = {"runs_dir": "runs", "resume": "never", "experiment": "", "test": True, "plugins": []}
    content = torch.load(run / "nn" / "last.pth", weights_only=True)
    content = {key: content[key] for key in content if key not in ("env_state", "algo_state")}
    content["algo_state"] = {}
    for _ in range(count):
        damaged = damage.tree(content)
        torch.save(damaged, path)
        try:
            found = load(path)
            assert type(found["iteration"]) is int and found["iteration"] >= 0
            resume.find(OmegaConf.create({**where, "checkpoint": str(path)}), {})
        except UserError:
            pass


# Hands ------------------------------------------------------------------------------------------


def test_damaged_hands_are_loaded_or_refused(tmp_path, count):
    damage, refused = Damage(seed=5), 0
    sound = yaml.safe_load((MODELS / "quad.yaml").read_text())
    sound["base"] = {"palm": "palm", "palm_center": [0.0, 0.0, 0.05], "mass": 0.5,
                     "center_of_mass": [0.0, -0.1, 0.0], "inertia": [1e-3, 1e-3, 1e-3]}  # fmt: skip
    model = (MODELS / "quad.xml").read_bytes()
    for k in range(count):
        path = tmp_path / f"hand{k}.yaml"
        kind = damage.draw.choice(("bytes", "tree", "tree", "tree", "model"))
        data = yaml.dump(damage.tree(sound) if kind == "tree" else sound, sort_keys=False)
        path.write_bytes(damage.bytes(data.encode()) if kind == "bytes" else data.encode())
        xml = damage.bytes(model) if kind == "model" else model
        (tmp_path / "quad.xml").write_bytes(xml)
        try:
            env = tasks.make("ShadowHandOver", 1, hand=str(path), num_threads=1)
            assert env.reset().isfinite().all()
        except UserError:
            refused += 1
    assert refused > count / 2
    assert count < 100 or refused < count  # a small sample may hold no harmless damage
