"""madpo report: runs that are read, and their curves."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from report_runs import write_run, write_two_tasks

from madpo_isaac.report import figures, tables
from madpo_isaac.report.runs import Run, load
from madpo_isaac.report.study import Study, natural

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return write_two_tasks(tmp_path_factory.mktemp("runs"))


def run_of(values, episodes, steps=None):
    """A run with these returns, 10 steps apart."""
    steps = 10.0 * np.arange(1, len(values) + 1) if steps is None else steps
    columns = {"env_steps": steps, "episode_return": values, "episodes": episodes}
    arrays = {key: np.array(value, float) for key, value in columns.items()}
    return Run("x", {"task.name": "T", "algo.name": "a", "run": "x"}, arrays)


def test_one_huge_value_spoils_no_other_window():
    values = np.full(200, 101.0)
    values[19] = -1e20
    run = run_of(values, np.ones(200))
    found = run.means("episode_return", np.array([100.0, 200.0, 300.0, 2000.0]), 100.0)
    assert found.tolist() == [101.0, pytest.approx(-1e19), 101.0, 101.0]


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


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for gain in (1.0, 2.0):
        write_run(tmp_path / f"{gain}" / "x_s1", "A", gain=gain)
    study = Study(load([str(tmp_path / "1.0"), str(tmp_path / "2.0")]))
    tables.write_csv(study, tmp_path / "curves.csv")
    first, second = load([str(tmp_path / "curves.csv")])
    assert (first.metrics["episode_return"][-1], second.metrics["episode_return"][-1]) == (2.0, 4.0)
    (panel,) = figures.curves(study, 10).panels
    assert [len(line.runs) for line in panel.lines] == [2]


def test_recorded_curves_give_the_published_table():
    """docs/results has these rows: mean at 0.4 M and 1 M, half of the t interval."""
    study = Study(load([str(RESULTS / "divergence" / "halfcheetah.csv")]), ["run"])
    rows = {row[1]: row for row in tables.results(study, [4e5], reps=10).rows}
    assert rows["gaussian"][2:7] == ["10", "1 M", "825", "1,477", "±334"]
    assert rows["happo"][2:7] == ["10", "1 M", "758", "1,457", "±381"]
    assert rows["official"][4] == "-103,033"


def test_a_csv_of_a_spreadsheet_is_read(tmp_path):
    """A byte order mark, blanks after commas, and a line break in a name."""
    path = tmp_path / "a.csv"
    text = '\ufeffrun, env_steps, episode_return\r\n"x\n_s3", 100, 2.5\r\n'
    path.write_bytes(text.encode())
    one, other = load([f"A={path}", f"B={path}"])
    assert (one.task, other.task, one.name, one.steps) == ("A", "B", "x _s3", 100)
    assert one.metrics["episode_return"].tolist() == [2.5]


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
    again = idle.rename(tmp_path / "a_s3").rename(tmp_path / "a_s2")
    twice = Study(load([str(tmp_path), f"again={again}"]))
    assert [run.name for run in twice.runs] == ["a_s1"]
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
    for names in (
        ["Ant-2x4", "Ant-4x2", "Ant-8x1"],
        ["m_s1_20250101-090000", "m_s1_20250101-100000"],
        ["coef=-2", "coef=-0.5", "coef=1e-3", "coef=1"],
    ):
        assert sorted(reversed(names), key=natural) == names
