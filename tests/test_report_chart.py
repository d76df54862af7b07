"""madpo report: what a figure shows of curves that diverge, and how it is drawn into the page."""

import re

import numpy as np
import pytest
from report_runs import write_run

from madpo_isaac.report import figures, statistics, svg
from madpo_isaac.report.chart import Figure, Interval, Line, Panel
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study
from madpo_isaac.report.write import MOST_DRAWN


def line(name, *values):
    values = np.array(values, float)
    nothing = np.full_like(values, np.nan)
    x = np.arange(1.0, len(values) + 1)
    return Line(name, x, statistics.Estimate(values, nothing, nothing))


def test_curves_that_learn_are_shown_in_full():
    flat = line("flat", 0.0, 1.0, -2.0)
    limits = Panel("x", lines=[line("a", 0.0, 900.0, 1000.0), flat]).limits()
    assert limits == (-2.0, 1000.0, [])


@pytest.mark.parametrize("others", [1, 2, 5])
def test_a_curve_that_diverges_leaves_the_axis_to_the_others(others):
    good = [line(f"g{k}", 10.0 * k, 500.0, 1000.0) for k in range(others)]
    bad = line("bad", 0.0, 200.0, -5000.0, -1e6)
    limits = Panel("x", lines=[*good, bad]).limits()
    assert 0.0 <= limits.low <= 10.0 * others
    assert limits.high == 1000.0
    assert limits.cut == ["bad goes down to -1,000,000"]


def test_a_single_curve_with_one_fall_is_cut_at_a_quantile():
    values = [*np.linspace(0.0, 100.0, 60), -1e5]
    limits = Panel("x", lines=[line("a", *values)]).limits()
    assert limits.low == pytest.approx(np.quantile(values, 0.05))
    assert limits.cut == ["a goes down to -100,000"]


def test_bars_are_cut_in_both_directions():
    bars = {"a": Interval(0.9, 0.8, 1.0), "b": Interval(-40.0, -50.0, -30.0)}
    limits = Panel("", bars=bars, origin=0.0, best=0.9).limits()
    assert (limits.low, limits.high) == (0.8, 1.0)
    assert limits.cut == ["b goes down to -50"]
    gaps = {"a": Interval(0.1, 0.0, 0.2), "b": Interval(41.0, 31.0, 51.0)}
    limits = Panel("", bars=gaps, origin=1.0, best=0.1).limits()
    assert (limits.low, limits.high, limits.cut) == (0.0, 0.2, ["b goes up to 51"])


def test_names_differ_in_more_than_color():
    figure = Figure("f", "", [], [f"g{k}" for k in range(MOST_DRAWN)])
    styles = [figure.style(name) for name in figure.names]
    assert len({(style.dashes, style.marker) for style in styles}) == MOST_DRAWN
    assert len(set(styles)) == MOST_DRAWN


def test_equal_curves_have_their_markers_at_different_points():
    lines = [line("a", *range(40)), line("b", *range(40))]
    html = svg.figure_html(Figure("f", "", [Panel("x", "T", lines=lines)], ["a", "b"]))
    wide = html.partition('<div class="panels narrow">')[0]
    first, second = re.findall(r'<g color="#\w+">.*?</g>', wide)
    places = [set(re.findall(r'"mark" transform="([^"]*)"', part)) for part in (first, second)]
    assert min(map(len, places)) >= 5
    assert places[0].isdisjoint(places[1])


def test_names_cannot_break_the_page():
    figure = Figure("f", "", [Panel("<x>", '"T"', lines=[line("<b>", 1.0, 2.0)])], ["<b>"])
    html = svg.figure_html(figure)
    assert "<b>" not in html and "<x>" not in html and "&lt;b&gt;: 2 at 2 &lt;x&gt;" in html


def test_a_dozen_groups_are_drawn_the_best_and_the_one_to_compare_with(tmp_path):
    for k in range(MOST_DRAWN + 3):
        extra = {"divergence": {"lam": float(k)}}
        write_run(tmp_path / f"{k}_s1", "T", "madpo", gain=1.0 + k, lines=5, **extra)
    study = Study(load([str(tmp_path)]), ["algo.divergence.lam"])
    study.draw_at_most(MOST_DRAWN, "lam=0")
    assert study.drawn == ["lam=0", *(f"lam={k}" for k in range(4, MOST_DRAWN + 3))]
    figure = figures.curves(study, 5)
    assert figure.shown() == study.drawn


# Performance profiles ---------------------------------------------------------------------------


def test_a_profile_is_the_share_of_runs_above_each_score():
    scores = {"a": np.array([[0.1, 0.9], [0.5, 0.5]])}
    found = statistics.profiles(scores, np.array([0.0, 0.1, 0.6, 1.0]), 20)["a"]
    assert found.value.tolist() == [1.0, 0.75, 0.25, 0.0]
    assert np.all(found.low <= found.value) and np.all(found.value <= found.high)


def test_thresholds_do_not_follow_a_run_that_diverges():
    curves = {"a": np.array([[[0.0, 1.0]], [[0.0, -1e6]]])}
    scores = statistics.Scores(curves, ["T"], np.array([0.5, 1.0]), False, 0.0)
    taus = statistics.thresholds(scores)
    assert (taus[0], taus[-1]) == (-0.25, 1.0)


def test_few_runs_of_one_task_have_no_profile(tmp_path):
    for algo in ("happo", "madpo"):
        for seed in range(figures.ENOUGH):
            write_run(tmp_path / f"{algo}_s{seed}", "T", algo, seed, gain=1.0 + seed)
    runs = load([str(tmp_path)])
    study = Study(runs)
    assert figures.profiles(study, statistics.shared_scores(study), 5).name == "profiles"
    study = Study(runs[1:])
    assert figures.profiles(study, statistics.shared_scores(study), 5) is None
