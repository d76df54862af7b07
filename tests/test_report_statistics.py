"""madpo report: intervals, aggregates, and the tables made of them."""

import json

import numpy as np
import pytest
from report_runs import write_run, write_two_tasks

from madpo_isaac.report import statistics, tables
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study


def test_bootstrap_interval_of_two_runs_is_their_range():
    """The mean of 2 of {0, 1} is 0 or 1 a quarter of the time each, far more than 2.5 %."""
    estimate = statistics.mean_curve(np.array([[0.0, 5.0], [1.0, 5.0]]), reps=500)
    assert estimate.value.tolist() == [0.5, 5.0]
    assert (estimate.low.tolist(), estimate.high.tolist()) == ([0.0, 5.0], [1.0, 5.0])


def test_a_single_run_has_no_interval():
    estimate = statistics.mean_curve(np.array([[3.0]]), reps=10)
    assert estimate.value.tolist() == [3.0]
    assert np.isnan([estimate.low, estimate.high]).all()
    assert np.isnan(statistics.t_half_width(np.array([3.0])))


def test_bootstrap_repeats_itself_and_leaves_the_global_generator_alone():
    curves = np.random.default_rng(0).normal(size=(5, 3))
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (statistics.mean_curve(curves, reps=50) for _ in range(2))
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert first.low.tolist() == second.low.tolist()


def test_student_half_width():
    # std 1, n 3; the 97.5 % quantile of t with 2 degrees of freedom is 4.30265.
    assert statistics.t_half_width(np.array([1.0, 2.0, 3.0])) == pytest.approx(4.30265 / 3**0.5)


A = np.array([[1, 9, 4], [3, 7, 6], [2, 12, 5], [6, 8, 1], [4, 11, 3]]) / 10
B = np.array([[2, 6, 4], [1, 5, 7], [3, 9, 2], [5, 4, 3]]) / 10
"""Scores (runs, tasks) that are above 1 once, have ties, and differ in the number of runs."""


# The numbers below are what rliable 1.2.0 gives: library.get_interval_estimates with these scores,
# reps=2000 and the default 95 % percentile method after numpy.random.seed(0). The order of draws
# and the generator are the same here, so nothing but rounding may differ.


def close(estimate, value, low, high):
    """Tells whether an estimate is these numbers but for rounding."""
    found = [estimate.value, estimate.low, estimate.high]
    return np.allclose(found, [value, low, high], rtol=1e-12, atol=0)


def test_aggregates_are_rliables():
    found = statistics.aggregates({"a": A, "b": B}, reps=2000)
    assert close(
        found["a"],
        [0.5111111111111111, 0.38, 0.5466666666666665, 0.4733333333333334],
        [0.41083333333333377, 0.28, 0.4598333333333336, 0.3933333333333333],
        [0.6, 0.52, 0.6333333333333334, 0.5533333333333335],
    )
    assert close(
        found["b"],
        [0.4, 0.4, 0.425, 0.575],
        [0.3, 0.275, 0.33312500000000034, 0.475],
        [0.5333333333333333, 0.575, 0.525, 0.6668749999999989],
    )


def test_interquartile_mean_curves_are_rliables():
    curves = {name: np.stack([x, 2 * x], axis=-1) for name, x in (("a", A), ("b", B))}
    found = statistics.iqm_curve(curves, reps=2000)
    low, high = [0.41111111111111104, 0.8222222222222223], [0.6, 1.2005555555555527]
    assert close(found["a"], [0.5111111111111111, 1.0222222222222221], low, high)
    assert close(found["b"], [0.4, 0.8], [0.3, 0.6], [0.5166666666666667, 1.0333333333333334])


def test_mean_curves_are_rliables():
    found = statistics.mean_curve(A, reps=2000)
    assert close(found, [0.32, 0.94, 0.38], [0.18, 0.78, 0.22], [0.48, 1.1, 0.52])


def test_probability_of_improvement_is_rliables():
    found = statistics.improvement({"a": A, "b": B}, "b", reps=2000)
    assert found.keys() == {"a"}
    # metrics.probability_of_improvement gives 0.65 as well.
    assert close(found["a"], [0.65], [0.45], [0.85])


def test_scores_are_normalized_per_task(tmp_path):
    study = Study(load([str(write_two_tasks(tmp_path))]))
    scores = statistics.shared_scores(study)
    assert scores.tasks == ["A", "B"]
    assert scores.normalized
    # 20 points, each an iteration: it starts at gain / 10 and ends at 2 * gain.
    zero = {"A": np.mean([2.0, 3.0, 1.0, 2.5]) / 10, "B": np.mean([10, 20, 30, 40]) / 10}
    one = {"A": 2 * 2.5, "B": 2 * 35.0}
    expected = [
        [(2 * a - zero["A"]) / (one["A"] - zero["A"]), (2 * b - zero["B"]) / (one["B"] - zero["B"])]
        for a, b in ((1.0, 30.0), (2.5, 40.0))
    ]
    assert scores.finals["madpo"] == pytest.approx(np.array(expected))
    aggregates = statistics.aggregates(scores.finals, reps=5)["madpo"].value
    gap = 1 - np.minimum(expected, 1.0).mean()
    medians = np.median(np.mean(expected, axis=0))
    assert aggregates == pytest.approx(
        [np.sort(np.ravel(expected))[1:3].mean(), medians, np.mean(expected), gap]
    )


def test_groups_that_a_task_lacks_are_not_aggregated(tmp_path):
    runs = write_two_tasks(tmp_path)
    study = Study(load([str(runs / "A_happo_s1"), str(runs / "B_madpo_s1")]))
    assert statistics.shared_scores(study) is None


# Tables -----------------------------------------------------------------------------------------


def test_wall_time_is_compared_with_the_baseline(tmp_path):
    run = write_run(tmp_path / "a", "A", "happo", gain=2.0)
    rows = tables.wall_time(Study(load([str(run)])), "happo").rows
    assert rows == [["A", "happo", "2000", "0:00:10", "1.00", "200", "-", "-"]]


def test_a_slower_group_takes_a_multiple_of_the_baselines_time(tmp_path):
    for name, algo, pace in (("a", "happo", 0.5), ("b", "happo", 1.5), ("c", "madpo", 2.5)):
        write_run(tmp_path / name, "A", algo, pace=pace)
    rows = tables.wall_time(Study(load([str(tmp_path)])), "happo").rows
    assert rows == [
        # mean of 200 and 66.7 steps a second
        ["A", "happo", "2000", "0:00:20", "1.00", "133", "-", "-"],
        ["A", "madpo", "2000", "0:00:50", "2.50", "40", "-", "-"],
    ]


def test_the_table_of_times_has_memory(tmp_path):
    for name, mb in (("happo", 400.0), ("madpo", 412.0)):
        run = write_run(tmp_path / f"{name}_s1", algo=name)
        (run / "status.json").write_text(json.dumps({"peak_memory_mb": mb}))
    table = tables.wall_time(Study(load([str(tmp_path)])), "happo")
    assert table.head[-2:] == ["peak memory (MB)", "- happo"]
    assert [row[-2:] for row in table.rows] == [["400", "0"], ["412", "12"]]
