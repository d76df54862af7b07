"""madpo report: highlights, the leaderboard, and tables to copy."""

import csv
import json

import numpy as np
import pytest
from report_runs import write_run

from madpo_isaac.__main__ import main
from madpo_isaac.report import tables
from madpo_isaac.report.lines import read_columns
from madpo_isaac.report.runs import load
from madpo_isaac.report.study import Study


def test_the_best_and_what_overlaps_with_it_are_highlighted(tmp_path):
    gains = {"happo": (1.0, 1.2), "madpo": (1.1, 1.2), "mappo": (0.1, 0.101)}
    for algo, each in gains.items():
        for seed, gain in enumerate(each):
            write_run(tmp_path / f"{algo}_s{seed}", "T", algo, seed, gain=gain)
    study = Study(load([str(tmp_path)]))
    # Means 2.2, 2.3 and 0.201; t of one degree of freedom is 12.7: half widths 2.5, 1.3, 0.013.
    assert tables.best_groups(study, "T") == ["happo", "madpo"]
    table = tables.results(study, [], reps=5)
    column = table.head.index("return")
    assert table.best == {(0, column), (1, column)}
    row = tables.comparison(study).rows[0]
    assert row == ["T", "2.20 ± 2.54", "2.30 ± 1.27", "0.20 ± 0.01"]


def test_a_group_alone_is_not_highlighted(tmp_path):
    write_run(tmp_path / "a_s1")
    assert tables.results(Study(load([str(tmp_path)])), [], reps=5).best == frozenset()


def test_tables_can_be_copied():
    table = tables.Table("t", ["a_b", "c|d"], [["50 %", "1 ± 2"]], frozenset({(0, 1)}))
    assert table.markdown() == (
        "| a_b | c\\|d |\n"
        "| --- | --- |\n"
        "| 50 % | **1 ± 2** |\n"
    )  # fmt: skip
    assert table.latex().splitlines() == [
        r"\begin{tabular}{ll}",
        r"\toprule",
        r"a\_b & c|d \\",
        r"\midrule",
        r"50 \% & \textbf{1 $\pm$ 2} \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_a_page_leaves_out_columns_of_dashes():
    rows = [["x", "-", "1"], ["y", "-", "-"]]
    shown = tables.Table("t", ["a", "b", "c"], rows, frozenset({(0, 2)}), {(1, 2): "z"}).shown()
    assert (shown.head, shown.rows) == (["a", "c"], [["x", "1"], ["y", "-"]])
    assert (shown.best, shown.links) == ({(0, 1)}, {(1, 1): "z"})


# Leaderboard ------------------------------------------------------------------------------------


def overrides(run, *lines):
    (run / "overrides.txt").write_text("".join(f"{line}\n" for line in lines))


def test_the_leaderboard_begins_with_the_best_and_says_how_it_was_trained(tmp_path):
    for algo, gain in (("happo", 1.0), ("madpo", 2.0)):
        for seed in (1, 2):
            run = write_run(tmp_path / "runs" / f"{algo}_s{seed}", "T", algo, seed, gain=gain)
            overrides(run, "task=T", f"algo={algo}", f"seed={seed}", f"experiment={run.name}")
    assert main(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    with (tmp_path / "out" / "leaderboard.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head[:6] == ["task", "group", "steps", "seeds", *head[4:6]]
    assert rows == [
        # 20 iterations of 100 steps; the return is the gain times the thousands of steps.
        *(["T", "madpo", "2000", "2", "-", "4.00", "±0.00", "1.00", command("madpo")],),
        *(["T", "happo", "2000", "2", "-", "2.00", "±0.00", "1.00", command("happo")],),
    ]
    assert (tmp_path / "out" / "leaderboard.md").read_text().startswith("| task | group |")


def command(algo):
    return f"python train.py -m task=T algo={algo} seed=1,2"


def test_mean_actions_are_those_of_the_last_evaluation(tmp_path):
    run = write_run(tmp_path / "a_s1")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    lines[9] |= {"eval/return": 7.0, "eval/success_rate": 0.25}
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert tables.leaderboard(Study(load([str(run)]))).rows[0][4:8] == ["7.00", "2.00", "-", "0.25"]


def test_a_longer_run_counts_as_far_as_its_group_goes(tmp_path):
    for seed, number in ((1, 20), (2, 30)):
        run = write_run(tmp_path / f"a_s{seed}", seed=seed, lines=number)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for i, line in enumerate(lines, 1):
            line |= {"eval/return": float(seed * i)} if i % 5 == 0 else {}
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # After 20 iterations of each: 20 and 40. The second run has 60 after its 30.
    assert tables.leaderboard(Study(load([str(tmp_path)]))).rows[0][2:5] == ["2000", "2", "30.00"]


def test_mean_actions_are_else_those_of_madpo_eval(tmp_path):
    run = write_run(tmp_path / "a_s1")
    (run / "eval").mkdir()
    (run / "eval" / "last_mean_summary.json").write_text(json.dumps({"return": {"mean": 9.5}}))
    assert tables.leaderboard(Study(load([str(run)]))).rows[0][4] == "9.50"
    (run / "eval" / "last_mean_summary.json").write_text('{"return": 3}')
    assert tables.leaderboard(Study(load([str(run)]))).rows[0][4] == "-"


def test_scores_of_an_earlier_step_or_of_other_settings_do_not_count(tmp_path):
    run = write_run(tmp_path / "a_s1")
    (study,) = load([str(run)])
    (run / "eval").mkdir()
    for steps, settings, shown in (
        (study.steps, [], "9.50"),
        (study.steps - 1, [], "-"),
        (study.steps, ["task.early=1"], "-"),
    ):
        score = {"return": {"mean": 9.5}, "env_steps": steps, "settings": settings}
        (run / "eval" / "last_mean_summary.json").write_text(json.dumps(score))
        assert tables.leaderboard(Study(load([str(run)]))).rows[0][4] == shown


def test_a_command_is_that_of_one_run_or_of_a_sweep(tmp_path):
    for seed, lam in ((1, "0.1"), (2, "0.5")):
        run = write_run(tmp_path / f"a_s{seed}", seed=seed)
        overrides(run, f"algo.divergence.lam={lam}", f"seed={seed}", "algo.hidden=[8]")
    runs = load([str(tmp_path)])
    assert tables.command(runs[:1]) == (
        "python train.py algo.divergence.lam=0.1 'algo.hidden=[8]' seed=1"
    )
    assert tables.command(runs) == tables.command(runs[:1])  # they differ in more than the seed
    assert tables.command(load([str(write_run(tmp_path / "b"))])) == "-"
    fork = write_run(tmp_path / "fork")
    overrides(fork, "checkpoint=runs/x", "experiment=fork", "num_envs=6", "resume=auto")
    assert tables.command(load([str(fork)])) == (
        "python train.py checkpoint=runs/x num_envs=6 experiment=fork"
    )


def test_the_pace_of_a_fork_is_its_own(tmp_path):
    """200 steps a second, but its counters begin with another run's 100 seconds."""
    run = write_run(tmp_path / "fork")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    moved = [line | {"wall_s": line["wall_s"] + 100.0} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moved))
    assert load([str(run)])[0].pace(2000) == pytest.approx(2000 / 110)
    with (run / "config.yaml").open("a") as file:
        file.write("checkpoint: runs/other/nn/last.pth\n")
    assert load([str(run)])[0].pace(2000) == pytest.approx(200.0)


# Reading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_lines_are_read_as_json_whatever_their_order(tmp_path, seed):
    """Lines as train.py writes them are not parsed as JSON; the columns have to be the same."""
    rng = np.random.default_rng(seed)
    keys = ["iteration", "episode_return", "agent0/kl", "agent1/kl", "eval/return", "note", "x"]
    path = tmp_path / "metrics.jsonl"
    expected = []
    with path.open("w") as file:
        for k in range(200):
            chosen = rng.permutation(keys)[: rng.integers(3, 8)] if rng.random() < 0.5 else keys
            some = (None, 1e300, -1.5, 3, 2e-7, "a, b", [1, 2], True, float("nan"))
            line = {"env_steps": k + 1 if rng.random() < 0.9 else some[rng.integers(2)]}
            line |= {str(key): some[rng.integers(len(some))] for key in chosen}
            text = json.dumps(line)
            damaged = rng.random() < 0.05
            file.write((text[: len(text) // 2] if damaged else text) + "\n")
            if not damaged and line["env_steps"] == k + 1:
                expected.append(line)
    found = read_columns(path)
    assert set(found) <= {"env_steps", *keys} - {"note", "x"}
    for key, column in found.items():
        values = [line.get(key) for line in expected]
        numbers = [v if isinstance(v, (int, float)) and abs(v) <= 1e100 else np.nan for v in values]
        assert np.array_equal(column, np.array(numbers, float), equal_nan=True), key
