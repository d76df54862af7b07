"""Hundreds of damaged files: each is read as far as it is sound, or refused in one line."""

import contextlib
import io
import itertools
import json
import re
import shutil
import warnings

import pytest
import yaml
from damage import Damage
from matplotlib.figure import Figure
from report_runs import write_run

from madpo_isaac.__main__ import main
from madpo_isaac.report import write
from madpo_isaac.report.page import Page

COUNT = 200


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
    picture, page, turn = bytes(24), write._page, itertools.count()

    def drawn(_, to, **kind):
        to.write(picture) if isinstance(to, io.BytesIO) else to.write_bytes(picture)

    def pages(*arguments):
        return Page("none") if next(turn) % 10 else page(*arguments)

    monkeypatch.setattr(write, "_page", pages)
    monkeypatch.setattr(Figure, "savefig", drawn)
    monkeypatch.setattr(write.write, "__kwdefaults__", {"marks": (), "base": "", "reps": 2})


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
def test_reports_of_damaged_runs(tmp_path):
    damage = Damage(seed=1)
    sound = write_run(tmp_path / "sound" / "Task_happo_s1", lines=3)
    codes = []
    for k in range(COUNT):
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
    assert min(codes.count(0), codes.count(2)) > COUNT / 8
