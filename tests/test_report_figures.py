"""madpo report: figures of sensitivity, and room for long names in all."""

import json

import numpy as np
import pytest
from PIL import Image
from report_runs import write_run

from madpo_isaac.report import figures
from madpo_isaac.report.drawing import write_files
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study


def test_sensitivity_joins_runs_that_are_alike_otherwise(tmp_path):
    for lam, gain in ((0.1, 1.0), (0.5, 2.0)):
        for seed in (1, 2):
            extra = {"divergence": {"lam": lam, "coef": 1.0}}
            write_run(tmp_path / f"l{lam}_s{seed}", "T", "madpo", seed, gain=gain * seed, **extra)
    write_run(tmp_path / "other_s1", "T", "madpo", divergence={"lam": 0.9, "coef": 3.0})
    study = Study(load([str(tmp_path)]), ["algo", "algo.divergence.lam"])
    lines = figures._lines(study, "T", "algo.divergence.lam")
    assert list(lines) == ["madpo coef=1"]
    found = [(x, values.tolist()) for x, values in lines["madpo coef=1"]]
    assert found == [(0.1, [2.0, 4.0]), (0.5, [4.0, 8.0])]


def test_sensitivity_has_the_finals_of_the_table(tmp_path):
    """No episode ends in the last window, so the one before it counts."""
    for lam in (0.1, 0.5):
        run = write_run(tmp_path / f"l{lam}_s1", "T", "madpo", divergence={"lam": lam, "coef": 1.0})
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines[15:]:
            line["episode_return"] = None
        (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    study = Study(load([str(tmp_path)]), ["algo.divergence.lam"])
    (points,) = figures._lines(study, "T", "algo.divergence.lam").values()
    assert [(x, values.tolist()) for x, values in points] == [(0.1, [1.5]), (0.5, [1.5])]


def test_sigma_of_the_printed_preset_carries_its_coefficient_along(tmp_path):
    for sigma in (500.0, 1000.0):
        extra = {"divergence": {"sigma": sigma, "coef": 1 / sigma}}
        write_run(tmp_path / f"s{sigma:.0f}", "T", "madpo", **extra)
    study = Study(load([str(tmp_path)]), ["algo.divergence.sigma"])
    (points,) = figures._lines(study, "T", "algo.divergence.sigma").values()
    assert [x for x, _ in points] == [500.0, 1000.0]
    assert figures.sensitivity(study, 10, "algo.divergence.lam") is None


def test_lines_are_named_by_what_makes_groups_where_that_is_enough(tmp_path):
    for k, (lam, preset) in enumerate(((0.1, "yu"), (0.5, "yu"), (0.1, "x"), (0.5, "x"))):
        extra = {"divergence": {"lam": lam, "preset": preset, "bound": f"of_{preset}"}}
        write_run(tmp_path / f"{k}", "T", "madpo", **extra)
    by = ["algo", "algo.divergence.preset", "algo.divergence.lam"]
    study = Study(load([str(tmp_path)]), by)
    lines = figures._lines(study, "T", "algo.divergence.lam")
    assert list(lines) == ["madpo preset=x", "madpo preset=yu"]
    study = Study(load([str(tmp_path)]), ["algo"])
    lines = figures._lines(study, "T", "algo.divergence.lam")
    assert list(lines) == ["madpo bound=of_x preset=x", "madpo bound=of_yu preset=yu"]


@pytest.mark.filterwarnings("error")
def test_figures_have_room_for_long_names(tmp_path):
    for k in range(18):
        extra = {"divergence": {"lam": k / 20, "preset": "a_preset_with_a_rather_long_name" * 2}}
        write_run(tmp_path / f"{k}", f"Task{k % 2}", "madpo", **extra)
    by = ["algo", "algo.divergence.preset", "algo.divergence.lam"]
    study = Study(load([str(tmp_path)]), by)
    write_files(figures.curves(study, 10), tmp_path / "out")
    write_files(figures.sensitivity(study, 10, "algo.divergence.lam"), tmp_path / "out")
    for name in ("curves", "sensitivity_lam"):
        pixels = np.asarray(Image.open(tmp_path / "out" / f"{name}.png").convert("L"))
        edges = (pixels[:, :2], pixels[:, -2:], pixels[:2], pixels[-2:])
        assert all((edge == 255).all() for edge in edges), name
