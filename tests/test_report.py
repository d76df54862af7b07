"""madpo report: what is read, the numbers, the page and its figures."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from report_runs import write_run

from madpo_isaac.__main__ import main
from madpo_isaac.report import figures, statistics, tables
from madpo_isaac.report.runs import Run, load
from madpo_isaac.report.study import Study, natural

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two tasks, HAPPO and MADPO, two seeds each; HAPPO is the better one in the first."""
    runs = tmp_path_factory.mktemp("runs")
    for task, algo, seed, gain in (
        *(("A", "happo", 1, 2.0), ("A", "happo", 2, 3.0), ("A", "madpo", 1, 1.0)),
        *(("A", "madpo", 2, 2.5), ("B", "happo", 1, 10.0), ("B", "happo", 2, 20.0)),
        *(("B", "madpo", 1, 30.0), ("B", "madpo", 2, 40.0)),
    ):
        extra = {"divergence": {"lam": 0.5}} if algo == "madpo" else {}
        write_run(runs / f"{task}_{algo}_s{seed}", task, algo, seed, gain=gain, **extra)
    return runs


def run_of(values, episodes, steps=None):
    """A run with these returns, 10 steps apart."""
    steps = 10.0 * np.arange(1, len(values) + 1) if steps is None else steps
    columns = {"env_steps": steps, "episode_return": values, "episodes": episodes}
    arrays = {key: np.array(value, float) for key, value in columns.items()}
    return Run("x", {"task.name": "T", "algo.name": "a", "run": "x"}, arrays)


# Reading ----------------------------------------------------------------------------------------


def test_a_run_folder_says_what_it_is(runs):
    (run,) = load([str(runs / "A_madpo_s2")])
    assert (run.task, run.settings["algo.name"], run.settings["seed"]) == ("A", "madpo", 2)
    assert run.settings["algo.divergence.lam"] == 0.5
    assert (run.settings["run"], run.state, run.revision) == ("A_madpo", "finished", "abc1234")
    assert run.steps == 2000.0


def test_a_folder_of_runs_gives_all_and_each_only_once(runs):
    found = load([str(runs), str(runs / "A_happo_s1"), str(runs / "A_happo_s1/metrics.jsonl")])
    assert sorted(run.name for run in found) == sorted(path.name for path in runs.iterdir())


def test_half_a_line_and_nulls_are_not_numbers(tmp_path):
    path = tmp_path / "happo_s3.jsonl"
    lines = [
        {"env_steps": 10, "episode_return": None, "episodes": 0},
        {"env_steps": 20, "episode_return": 4.0, "episodes": 2},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + '\n{"env_steps": 30, "epis')
    (run,) = load([str(path)])
    assert run.metrics["env_steps"].tolist() == [10.0, 20.0]
    assert np.isnan(run.metrics["episode_return"][0])
    settings = {"task.name": tmp_path.name, "algo.name": "happo", "run": "happo", "seed": 3}
    assert run.settings == settings
    (named,) = load([f"Ant-4x2={path}"])
    assert named.task == "Ant-4x2"


def test_csv_that_the_report_wrote_reads_the_same(runs, tmp_path):
    study = Study(load([str(runs / "A_happo_s1"), str(runs / "A_happo_s2")]))
    tables.write_csv(study, tmp_path / "A.csv")
    again = Study(load([str(tmp_path / "A.csv")]), ["run"])
    assert again.tasks == ["A"]
    assert again.finals("A", "A_happo") == pytest.approx(study.finals("A", "happo"), rel=1e-4)
    assert again.finals("A", "A_happo", "success_rate") == pytest.approx([1.0, 1.0])


def test_recorded_curves_give_the_published_table():
    """docs/results has these rows: mean at 0.4 M and 1 M, half of the t interval."""
    study = Study(load([str(RESULTS / "divergence" / "halfcheetah.csv")]), ["run"])
    rows = {row[1]: row for row in tables.results(study, [4e5], reps=10).rows}
    assert rows["gaussian"][2:7] == ["10", "1 M", "825", "1,477", "±334"]
    assert rows["happo"][2:7] == ["10", "1 M", "758", "1,457", "±381"]
    assert rows["official"][4] == "-103,033"


# Curves -----------------------------------------------------------------------------------------


def test_means_weigh_episodes_and_look_back_over_the_window():
    run = run_of([1.0, np.nan, 4.0, 7.0], [1, 0, 3, 1])
    assert run.mean("episode_return", 40, 20) == pytest.approx((3 * 4 + 7) / 4)
    assert run.mean("episode_return", 30, 20) == 4.0
    assert run.mean("episode_return", 10, 10) == 1.0
    assert np.isnan(run.mean("episode_return", 20, 10))
    assert np.isnan(run.mean("no_such_key", 20, 10))


def test_a_curve_repeats_its_last_value_where_nothing_finished():
    study = Study([run_of([np.nan, 2.0, np.nan, 5.0], [0, 1, 0, 1])], window=10)
    grid = np.array([10.0, 20.0, 30.0, 40.0])
    curve = study.curves("T", "a", "episode_return", grid)[0]
    assert np.isnan(curve[0])
    assert curve[1:].tolist() == [2.0, 2.0, 5.0]
    # Episodes that all end between the points.
    assert study.curves("T", "a", "episode_return", np.array([35.0, 49.0]))[0].tolist() == [
        2.0,
        5.0,
    ]


def test_runs_are_compared_where_the_shortest_ends(tmp_path):
    write_run(tmp_path / "x_s1", seed=1, lines=10)
    write_run(tmp_path / "x_s2", seed=2, lines=20)
    study = Study(load([str(tmp_path)]))
    assert study.end("Task") == 1000.0
    assert study.finals("Task", "happo") == pytest.approx([1.0, 1.0])
    assert "compared at 1,000 steps, where x_s1 ends" in study.notes()[0]


def test_each_group_is_drawn_as_far_as_its_runs_go(tmp_path):
    write_run(tmp_path / "short_s1", "T", "happo", lines=10)
    write_run(tmp_path / "long_s1", "T", "madpo", lines=40)
    study = Study(load([str(tmp_path)]))
    for group, end in (("happo", 1000.0), ("madpo", 4000.0)):
        grid, values = study.whole_curves("T", group, "episode_return")
        assert (grid[-1], values[0, -1]) == (end, pytest.approx(end / 1000, rel=0.03))
    assert study.finals("T", "madpo") == pytest.approx([1.0])
    row = tables.results(study, [900, 2000], reps=5).rows[0]
    assert row[1:6] == ["happo", "1", "1000", "0.90", "-"]  # it never got to 2000
    assert row[6:9] == ["1.00", "-", "-"]  # no interval of a single seed


def test_a_run_without_episodes_is_left_out_and_named(tmp_path):
    write_run(tmp_path / "a_s1", seed=1)
    idle = write_run(tmp_path / "a_s2", seed=2, lines=3)
    lines = [json.loads(line) for line in (idle / "metrics.jsonl").read_text().splitlines()]
    nothing = {"episode_return": None, "success_rate": None, "episodes": 0}
    text = "".join(json.dumps(line | nothing) + "\n" for line in lines)
    (idle / "metrics.jsonl").write_text(text)
    study = Study(load([str(tmp_path)]))
    assert [run.name for run in study.runs] == ["a_s1"]
    assert study.notes() == ["No episode has finished in a_s2; left out."]
    assert (study.end("Task"), len(study.grid("Task"))) == (2000.0, 20)
    alone = Study(load([str(idle)]))
    assert alone.notes() == ["No episode has finished in a_s2."]
    assert tables.results(alone, [], reps=5).rows[0][2:] == ["1", "300", *["-"] * 5]


def test_success_is_that_of_the_last_episodes_too():
    run = run_of([1.0, np.nan, np.nan, np.nan], [2, 0, 0, 0])
    metrics = {**run.metrics, "success_rate": np.array([0.5, np.nan, np.nan, np.nan])}
    study = Study([Run("x", run.settings, metrics)], window=10)
    assert tables.results(study, [], reps=5).rows[0][4:8] == ["1.00", "-", "-", "0.50"]


def test_how_a_run_is_watched_makes_no_difference(tmp_path):
    for k, frequency in enumerate((0, 5)):
        run = write_run(tmp_path / f"a_s{k}", seed=k)
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= {"eval_frequency": frequency, "eval_envs": 8 + k, "capture_video_envs": 1 + k}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    study = Study(load([str(tmp_path)]))
    assert study.notes() == []
    assert tables.settings(study).rows == []


def test_groups_are_named_by_settings_and_mixed_ones_are_reported(tmp_path):
    for lam in (0.1, 0.5):
        write_run(tmp_path / f"lam{lam}_s1", algo="madpo", divergence={"lam": lam, "coef": 1.0})
    write_run(tmp_path / "happo_s1")
    found = load([str(tmp_path)])
    split = Study(found, ["algo", "algo.divergence.lam"])
    assert split.groups == ["happo", "madpo lam=0.1", "madpo lam=0.5"]
    assert split.notes() == []
    assert Study(found, ["algo.divergence.lam"]).groups == ["happo", "lam=0.1", "lam=0.5"]
    assert Study(found).notes() == [
        "Task, madpo: runs with different algo.divergence.lam. Split them with --by."
    ]
    assert tables.settings(split).rows == [
        ["algo.divergence.coef", "-", "1", "1"],
        ["algo.divergence.lam", "-", "0.1", "0.5"],
        ["algo.name", "happo", "madpo", "madpo"],
    ]


def test_names_sort_by_their_numbers():
    names = ["lam=0.5", "lam=0.05", "lam=10", "lam=2", "a"]
    assert sorted(names, key=natural) == ["a", "lam=0.05", "lam=0.5", "lam=2", "lam=10"]


# Statistics -------------------------------------------------------------------------------------


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


def test_scores_are_normalized_per_task(runs):
    study = Study(load([str(runs)]))
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


def test_groups_that_a_task_lacks_are_not_aggregated(runs):
    study = Study(load([str(runs / "A_happo_s1"), str(runs / "B_madpo_s1")]))
    assert statistics.shared_scores(study) is None


def test_wall_time_is_compared_with_the_baseline(runs):
    rows = tables.wall_time(Study(load([str(runs / "A_happo_s1")])), "happo").rows
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


# Sensitivity ------------------------------------------------------------------------------------


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


def test_sigma_of_the_printed_preset_carries_its_coefficient_along(tmp_path):
    for sigma in (500.0, 1000.0):
        extra = {"divergence": {"sigma": sigma, "coef": 1 / sigma}}
        write_run(tmp_path / f"s{sigma:.0f}", "T", "madpo", **extra)
    study = Study(load([str(tmp_path)]), ["algo.divergence.sigma"])
    (points,) = figures._lines(study, "T", "algo.divergence.sigma").values()
    assert [x for x, _ in points] == [500.0, 1000.0]
    assert figures.sensitivity(study, tmp_path / "out", 10, "algo.divergence.lam") is None


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
    figures.curves(study, tmp_path / "out", 10)
    assert figures.sensitivity(study, tmp_path / "out", 10, "algo.divergence.lam")
    for name in ("curves", "sensitivity_lam"):
        pixels = np.asarray(Image.open(tmp_path / "out" / f"{name}.png").convert("L"))
        edges = (pixels[:, :2], pixels[:, -2:], pixels[:2], pixels[-2:])
        assert all((edge == 255).all() for edge in edges), name


# Page -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(runs, tmp_path_factory):
    """The page about all runs, one of them with a video and a name that HTML must not see."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(runs, folder / "runs")
    for name, content in (("old.mp4", b"old"), ("new.mp4", b"new")):
        path = folder / "runs" / "A_madpo_s1" / "videos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    arguments = ["report", str(folder / "runs"), "--out", str(folder / "out"), "--at", "1e3"]
    assert main([*arguments, "--title", "a <b> & c"]) == 0
    return folder / "out"


def test_page_needs_nothing_beside_it(report):
    html = (report / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', html)
    kinds = {source.partition(";")[0] for source in sources}
    assert kinds == {"data:image/png", "data:video/mp4"}
    assert not re.search(r"https?:|@import|url\(|<script|<link", html)
    assert "<h1>a &lt;b&gt; &amp; c</h1>" in html
    assert "bmV3" in html  # "new" in base64, the newest video
    assert "b2xk" not in html
    headings = ("Learning curves", "Results", "Aggregates", "Wall time and memory", "Agents")
    for heading in (*headings, "Videos"):
        assert f"<h2>{heading}</h2>" in html


def test_figures_are_there_as_png_and_pdf(report):
    names = {path.stem for path in (report / "figures").glob("*.pdf")}
    assert names == {path.stem for path in (report / "figures").glob("*.png")}
    expected = {"curves", "success", "iqm", "aggregates", "improvement"}
    assert names == expected | {f"agents_{t}_{a}" for t in "AB" for a in ("happo", "madpo")}
    assert all(path.read_bytes()[:5] == b"%PDF-" for path in (report / "figures").glob("*.pdf"))


def test_evaluations_are_drawn_where_there_are_some(tmp_path):
    run = write_run(tmp_path / "a_s1", lines=20)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for k in (4, 9, 14, 19):
        lines[k]["eval/return"] = float(k)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grid, values = Study(load([str(run)])).whole_curves("Task", "happo", "eval/return")
    assert grid.tolist() == [500.0, 1000.0, 1500.0, 2000.0]
    assert values.tolist() == [[4.0, 9.0, 14.0, 19.0]]
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "figures" / "evaluations.pdf").is_file()


def test_a_page_is_set_like_print(report):
    """Pictures are shown at half of their 300 dots an inch, numbers stand on the right."""
    html = (report / "report.html").read_text()
    shown = int(re.search(r'<img alt="Episode[^"]*" width="(\d+)"', html)[1])
    with Image.open(report / "figures" / "curves.png") as picture:
        assert picture.width // 2 == shown
        assert picture.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert '<td>happo</td><td class="n">2</td><td class="n">2000</td>' in html


def test_curves_of_a_file_have_no_wall_time(runs, tmp_path):
    tables.write_csv(Study(load([str(runs / "A_happo_s1")])), tmp_path / "A.csv")
    assert main(["report", str(tmp_path / "A.csv"), "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    assert "<h2>Wall time</h2>" not in html and "<h2>Results</h2>" in html


def test_a_success_that_never_changes_is_not_drawn(tmp_path):
    run = write_run(tmp_path / "runs" / "a")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for k, line in enumerate(lines):  # no episode has ended in the first ones
        line["success_rate"], line["episodes"] = (1.0, 4) if k > 2 else (None, 0)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["report", str(run), "--out", str(tmp_path / "out")]) == 0
    assert not (tmp_path / "out" / "figures" / "success.png").exists()


@pytest.mark.slow
def test_equal_runs_give_equal_reports(report, tmp_path):
    folder = str(report.parent / "runs")
    arguments = ["report", folder, "--out", str(tmp_path), "--at", "1e3", "--title", "a <b> & c"]
    assert main(arguments) == 0
    for path in (*report.glob("*.*"), *report.glob("figures/*")):
        assert path.read_bytes() == (tmp_path / path.relative_to(report)).read_bytes(), path.name


def test_a_browser_shows_every_picture(report, tmp_path):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium is installed")
    html = (report / "report.html").read_text()
    count = html.count("<img ")
    script = (
        "<script>onload = () => { document.querySelectorAll('details').forEach(d => d.open = true);"
        "document.title = [...document.images].filter(i => i.complete && i.naturalWidth > 100)"
        ".length + ' shown'; }</script>"
    )
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", f"{script}</body>"))
    flags = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'data'}")
    command = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert count == 9
    assert f"<title>{count} shown</title>" in done.stdout


# Bad input --------------------------------------------------------------------------------------


def refused(capsys, argv, *parts):
    assert main(["report", *map(str, argv)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", captured.err)
    assert all(part in captured.err for part in parts), captured.err


def test_bad_input_is_one_line(runs, tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "metrics.jsonl").write_text('{"iterat')
    files = {
        "a.csv": "run,env_steps\nx,1\n",
        "b.csv": "run,env_steps,episode_return\nx,1,y\n",
        "c.csv": "run,env_steps,episode_return\n",
        "d.jsonl": '{"env_steps": 1}\n',
        "e.txt": "",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    broken = write_run(tmp_path / "broken")
    (broken / "config.yaml").write_text("a: [")
    for argv, *parts in (
        ([], "RUN"),
        (["nope"], "There is no run 'nope'"),
        ([empty], "empty' has no metrics.jsonl"),
        ([begun], "holds no metrics"),
        ([broken], "holds no configuration"),
        ([tmp_path / "a.csv"], "no column episode_return"),
        ([tmp_path / "b.csv"], "Line 2"),
        ([tmp_path / "c.csv"], "holds no runs"),
        ([tmp_path / "d.jsonl"], "holds no episode_return"),
        ([tmp_path / "e.txt"], "neither a run folder"),
        ([runs, "--by", "algo.divergence.lamb"], "Did you mean 'algo.divergence.lam'?"),
        ([runs, "--at", "1e5,x"], "--at 1e5,x"),
        ([runs, "--window", "-1"], "--window -1"),
        ([runs, "--baseline", "hapo"], "Did you mean 'happo'?"),
        ([runs, "--out", tmp_path / "e.txt"], "Cannot write"),
        ([runs, "--flag"], "--flag"),
    ):
        refused(capsys, argv, *parts)


def test_command_works_as_a_module(tmp_path):
    command = [sys.executable, "-m", "madpo_isaac", "report", str(tmp_path / "nope")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"error: There is no run '[^\n]+\n", done.stderr)


def test_unknown_command_names_the_closest(capsys):
    assert main(["repot"]) == 2
    assert "Did you mean 'report'?" in capsys.readouterr().err
    assert main([]) == 0
    assert "madpo report" in capsys.readouterr().out
