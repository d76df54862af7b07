"""Conclusions of the study of MADPO's bonus, on scores made by hand."""

import csv
import dataclasses
import json

import numpy as np
import pytest

from madpo_isaac.report.runs import Run
from madpo_isaac.reproduce import pool, question, run, verdict
from madpo_isaac.reproduce.caption import Request
from madpo_isaac.reproduce.plan import plan

NAN = float("nan")


def run_of(returns):
    settings = {"task.name": "HalfCheetah-6x1"}
    metrics = {"env_steps": np.arange(len(returns)), "eval/return": np.array(returns, dtype=float)}
    return Run("a_s1", settings, metrics)


@pytest.mark.parametrize(
    ("returns", "wanted"),
    [
        ([1.0, NAN, 2.0, NAN, 6.0, NAN], 4.0),
        ([3.0, NAN], 3.0),
        ([NAN, NAN], 0.0),
        ([-8.0, -2.0, -4.0], -3.0),
    ],
)
def test_a_score_is_the_mean_of_the_last_two_evaluations(returns, wanted):
    assert verdict.score(run_of(returns)) == wanted


def test_a_failed_run_scores_zero():
    assert verdict.score(None) == 0.0


def test_ranking_divides_by_the_baseline_and_leaves_out_baseline_and_control():
    scores = {
        "base": {"x": np.array([10.0, 30.0]), "y": np.array([2.0, 2.0]), "z": np.array([-1.0, 0])},
        "control": {"x": np.array([90.0, 90.0]), "y": np.array([9.0, 9.0]), "z": np.zeros(2)},
        "poor": {"x": np.array([10.0, 10.0]), "y": np.array([2.0, 2.0]), "z": np.ones(2)},
        "good": {"x": np.array([30.0, 50.0]), "y": np.array([3.0, 3.0]), "z": np.zeros(2)},
        "fair": {"x": np.array([20.0, 20.0]), "y": np.array([2.0, 2.4]), "z": np.zeros(2)},
    }
    text = verdict.ranking(scores, "base", "control")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    assert lines[0] == "| arm | x | y | average |"
    assert lines[2:] == [
        "| control | 4.500 | 4.500 | 4.500 |",
        "| good | 2.000 | 1.500 | 1.750 |",
        "| fair | 1.000 | 1.100 | 1.050 |",
        "| base | 1.000 | 1.000 | 1.000 |",
        "| poor | 0.500 | 1.000 | 0.750 |",
    ]
    assert "'good' and 'fair'" in text
    assert "zero or less: z." in text


def drawn(mean, seed, runs=10, tasks=3):
    values = np.random.default_rng(seed).normal(mean, 1.0, (runs, tasks))
    return {f"t{k}": values[:, k] for k in range(tasks)}


@pytest.mark.parametrize(
    ("arm", "control", "wanted"),
    [
        (
            3.0,
            0.0,
            "helps because of what it is: it scores higher than base, it scores higher than "
            "control.",
        ),
        (
            3.0,
            3.0,
            "helps: it scores higher than base, it is not shown to differ from control.",
        ),
        (3.0, 9.0, "helps: it scores higher than base, it scores lower than control."),
        (-3.0, 0.0, "hurts: it scores lower than base."),
        (0.0, 0.0, "is not shown to differ from base."),
    ],
)
def test_verdicts(arm, control, wanted):
    scores = {"base": drawn(0.0, 1), "arm": drawn(arm, 2), "control": drawn(control, 3)}
    assert f"* arm {wanted}" in verdict.test(scores, "base", ["control"], 400)


def test_every_control_is_compared_with():
    scores = {"base": drawn(0, 1), "a": drawn(3, 2), "low": drawn(0, 3), "high": drawn(9, 4)}
    text = verdict.test(scores, "base", ["low", "high"], 400)
    assert "| arm | against base | against low | against high |" in text
    ends = "it scores higher than base, it scores higher than low, it scores lower than high."
    assert text.endswith(f"* a helps: {ends}\n")


def test_intervals_have_the_level_of_the_number_of_comparisons():
    scores = {"base": drawn(0, 1), "c": drawn(0, 2), "p": drawn(0.4, 3), "q": drawn(0.1, 4)}
    text = verdict.test(scores, "base", ["c"], 2000)
    assert "97.5 % interval" in text
    row = next(line for line in reversed(text.splitlines()) if line.startswith("| p |"))
    value, low, high = (float(x.strip("[],|")) for x in row.split()[3:6])
    wins = [np.mean(scores["p"][t][:, None] > scores["base"][t]) for t in scores["base"]]
    assert value == pytest.approx(np.mean(wins), abs=5e-4)
    generator, found = np.random.default_rng(0), []
    for _ in range(2000):
        picked = [
            [generator.choice(scores[name][t], 10) for t in scores["base"]]
            for name in ("p", "base")
        ]
        found.append(np.mean([np.mean(x[:, None] > y) for x, y in zip(*picked, strict=True)]))
    np.testing.assert_allclose([low, high], np.percentile(found, [1.25, 98.75]), atol=0.02)


def test_the_study_writes_its_ranking_and_all_scores(tmp_path, monkeypatch, capsys):
    figure, scale = question.FIGURES["choose"], question.SCALES["choose"]
    figure = dataclasses.replace(figure, tasks=("HalfCheetah-6x1", "ShadowHandOver"))
    jobs = plan(figure, scale, tmp_path / "runs", recipe="tuned")
    arms = list(question.FORMS)
    for job in jobs:  # the score of arm k is 100 (k + 1), whatever task and seed
        job.folder.mkdir(parents=True)
        level = 100.0 * (arms.index(job.arm) + 1)
        lines = [
            {"env_steps": steps, "episode_return": 1.0, "episodes": 4, "wall_s": 1.0, **evaluated}
            for steps, evaluated in [
                (job.steps // 2, {"eval/return": level - 10}),
                (job.steps, {"eval/return": level + 10}),
            ]
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (job.folder / "metrics.jsonl").write_text(text)
        (job.folder / "config.yaml").write_text(
            f"task: {{name: {job.task}}}\nalgo: {{name: happo}}\nseed: 1\n"
        )
    failed = "ShadowHandOver_inter_s3"
    ended = pool.Result({failed: "it diverged"}, {"HalfCheetah-6x1_kl_s2": "killed"}, 0)
    monkeypatch.setattr(pool, "run", lambda *_: ended)
    monkeypatch.setattr(run, "_report", lambda *_: None)  # is tested elsewhere, and slow
    request = Request("choose", figure, "choose", scale, "gaussian", "tuned")
    out = tmp_path / "out"
    out.mkdir()
    assert run.reproduce({out: request}, {out: jobs}, 1, 1, reps=10) == 1
    assert "not all runs are finished: there is no verdict yet" in capsys.readouterr().out
    assert not list(out.iterdir())
    ended = ended._replace(unfinished={})
    assert run.reproduce({out: request}, {out: jobs}, 1, 1, reps=10) == 1
    warned = capsys.readouterr().err
    assert warned.count("has 2 of its 3 evaluations.") == len(jobs) - 1
    text = (out / "verdict.md").read_text()
    best, next_best = (question.FORMS[name].title for name in ("age10", "reward"))
    assert f"highest average are '{best}' and '{next_best}'" in text
    third = 12 * 2 / 3  # the last arm, of which one of three runs failed
    assert f"| {12:.3f} | {third:.3f} | {(12 + third) / 2:.3f} |" in text
    with (out / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(jobs)
    zero = [row for row in rows if float(row["score"]) == 0.0]
    title = question.FORMS["inter"].title
    assert [(row["task"], row["arm"], row["run"]) for row in zero] == [
        ("ShadowHandOver", title, "3")
    ]
