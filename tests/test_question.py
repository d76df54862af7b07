"""The study of MADPO's bonus: arms, tasks and seeds are those of docs/question.md."""

import csv
import json
import re
import tarfile
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from scipy import stats

from madpo_isaac.reproduce import question
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.paper import FIGURES, SCALES
from madpo_isaac.reproduce.plan import plan

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "question.md").read_text()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return {
        name: plan(figure, question.SCALES[name], runs, recipe="tuned")
        for name, figure in question.FIGURES.items()
    }


def read_scores(part):
    """Arm's title to task to the scores of its runs, from the file of the docs."""
    found = {}
    with (DOCS / "results" / "question" / f"{part}_scores.csv").open() as file:
        for row in csv.DictReader(file):
            found.setdefault(row["arm"], {}).setdefault(row["task"], []).append(float(row["score"]))
    return found


def read_archive(part):
    """Task, arm, seed and the lines of metrics.jsonl of each archived run."""
    with tarfile.open(DOCS / "results" / "question" / f"{part}.tar.xz") as packed:
        for name in packed.getnames():
            if name.endswith("/metrics.jsonl"):
                task, arm, seed = re.fullmatch(r".*/([^_]+)_(\w+)_s(\d+)/.*", name).groups()
                lines = packed.extractfile(name).read().splitlines()
                yield task, arm, int(seed), [json.loads(line) for line in lines]


def of_agents(lines, key):
    """The metric of all agents in all lines."""
    return [
        x for line in lines for k, x in line.items() if k[:5] == "agent" and k.endswith(f"/{key}")
    ]


def columns_of(text):
    """The heading of the first table, without its first cell."""
    head = next(line for line in text.splitlines() if line.startswith("| arm"))
    return [cell.strip() for cell in head.split("|")[2:-1]]


def rows_of(text):
    """The cells of all tables, row by row, without headings."""
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]


def wins(x, y):
    """Probability that a run of x beats one of y, both (..., tasks, runs), averaged over tasks."""
    x, y = x[..., :, None], y[..., None, :]
    return np.mean((x > y) + 0.5 * (x == y), axis=(-3, -2, -1))


def resampled(scores, generator):
    """2000 samples of the runs within each task, (2000, tasks, runs), of scores (tasks, runs)."""
    drawn = [task[generator.integers(len(task), size=(2000, len(task)))] for task in scores]
    return np.stack(drawn, axis=1)


def test_the_page_lists_all_arms():
    part = PAGE[: PAGE.index("## First part")]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`(\w+)`", "".join(cells))) == sorted(question.FORMS)


@pytest.mark.parametrize(("name", "arms", "runs"), [("choose", 12, 108), ("confirm", 5, 200)])
def test_runs_are_those_of_the_page(jobs, name, arms, runs):
    assert len({job.arm for job in jobs[name]}) == arms
    assert len(jobs[name]) == runs
    part = PAGE[PAGE.index(f"`python reproduce.py {name}`") :].partition("\n## ")[0]
    for task in question.FIGURES[name].tasks:
        assert task in part
    seeds = re.search(r"Seeds: (1, 2, 3|11 to 20)\.", part)[1]
    wanted = {"1, 2, 3": {1, 2, 3}, "11 to 20": set(range(11, 21))}[seeds]
    found = {
        int(text.partition("=")[2])
        for job in jobs[name]
        for text in job.settings
        if "seed=" in text
    }
    assert found == wanted


def test_the_arms_to_confirm_are_the_best_of_the_first_part():
    by_arm = read_scores("choose")
    assert set(by_arm) == {arm.title for arm in question.FORMS.values()}
    tasks = question.FIGURES["choose"].tasks
    assert all(len(by_arm[arm][task]) == 3 for arm in by_arm for task in tasks)
    base = {task: fmean(runs) for task, runs in by_arm["HAPPO"].items()}
    part = PAGE[PAGE.index("## Result of the first part") :].partition("\n## ")[0]
    columns = columns_of(part)[:-1]
    ranking = []
    for name, *cells in rows_of(part):
        scores = by_arm[question.FORMS[name].title]
        ratios = [fmean(scores[task]) / base[task] for task in columns]
        assert cells == [f"{x:.2f}" for x in (*ratios, fmean(ratios))]
        ranking.append((fmean(ratios), name))
    assert ranking == sorted(ranking, reverse=True)
    assert {name for _, name in ranking} == set(question.FORMS)
    best = [name for _, name in ranking if name not in ("happo", "entropy_share")][:2]
    assert set(question.CONFIRMED) == {"happo", "entropy", "momentum", *best}


@pytest.mark.parametrize("part", ["choose", "confirm"])
def test_scores_are_those_of_the_archived_runs(jobs, part):
    """The last two evaluations of each run's metrics.jsonl, read here line by line."""
    given = read_scores(part)
    arms = question.FORMS | question.CONFIRMED
    found, count = {}, 0
    for task, arm, seed, lines in read_archive(part):
        returns = [x for x in (line["eval/return"] for line in lines) if x is not None]
        assert len(returns) == 3
        found.setdefault(arms[arm].title, {}).setdefault(task, {})[seed] = fmean(returns[-2:])
        count += 1
    assert count == len(jobs[part])
    assert found.keys() == given.keys()
    for arm, by_task in found.items():
        assert given[arm].keys() == by_task.keys()
        for task, by_seed in by_task.items():
            wanted = [by_seed[seed] for seed in sorted(by_seed)]
            assert given[arm][task] == pytest.approx(wanted, rel=1e-4)


def test_the_result_of_the_second_part_follows_from_its_scores():
    part = PAGE[PAGE.index("## Result of the second part") :].partition("\n## ")[0]
    tasks = columns_of(part)
    assert sorted(tasks) == sorted(question.FIGURES["confirm"].tasks)
    by_arm = read_scores("confirm")
    scores = {
        name: np.array([by_arm[arm.title][task] for task in tasks])
        for name, arm in question.CONFIRMED.items()
    }
    assert all(x.shape == (4, 10) for x in scores.values())
    rows, generator = rows_of(part), np.random.default_rng(7)
    assert [row[0] for row in rows[:5]] == list(question.CONFIRMED)
    for name, *cells in rows[:5]:
        means = stats.trim_mean(scores[name], 0.25, axis=1)
        assert [float(cell.split()[0]) for cell in cells] == pytest.approx(means, abs=0.051)
    assert [row[0] for row in rows[5:7]] == ["constant", "madpo"]
    for name, *cells in rows[5:7]:
        for other, cell in zip(("happo", "entropy", "momentum"), cells, strict=True):
            value, low, high = map(float, re.findall(r"[\d.]+", cell))
            assert value == pytest.approx(wins(scores[name], scores[other]), abs=6e-4)
            samples = (resampled(scores[arm], generator) for arm in (name, other))
            ends = np.percentile(wins(*samples), [1.25, 98.75])
            assert [low, high] == pytest.approx(ends, abs=0.03)
            assert max(low, ends[0]) < 0.5 < min(high, ends[1])  # as the page says


def test_widths_and_steps_of_the_second_part_are_those_of_its_runs():
    """Entropy of the last ten iterations and KL of all, means over agents and runs."""
    part = PAGE[PAGE.index("| entropy / KL |") :].partition("\n\n")[0]
    head, _, *rows = [[cell.strip() for cell in x.split("|")[1:-1]] for x in part.splitlines()]
    found, saturation = {}, {}
    for task, arm, _, lines in read_archive("confirm"):
        numbers = fmean(of_agents(lines[-10:], "entropy")), fmean(of_agents(lines, "kl"))
        found.setdefault((arm, task), []).append(numbers)
        if arm in ("constant", "madpo"):  # the first agent has 0
            values = filter(None, of_agents(lines[-10:], "divergence_inter"))
            saturation.setdefault(task, []).append(fmean(values))
    assert len(rows) == 5 and len(found) == 20
    for arm, *cells in rows:
        for task, cell in zip(head[1:], cells, strict=True):
            wanted = np.mean(found[arm.split("`")[1], task], axis=0)
            assert list(map(float, cell.split("/"))) == pytest.approx(wanted, rel=1e-3, abs=0.005)
            assert float(cell.split("/")[1]) == pytest.approx(wanted[1], abs=6e-5)
    means = {task: fmean(values) for task, values in saturation.items()}
    assert means.pop("Ant-8x1") == pytest.approx(0.73, abs=0.006)
    assert means.pop("Walker2d-6x1") == pytest.approx(0.81, abs=0.006)
    assert all(0.975 < mean <= 1.0 for mean in means.values())


def test_tasks_and_seeds_to_confirm_are_others(jobs):
    def pairs(name):
        return {
            (c.task.name, getattr(c.task, "agents", None)) for c in (j.config for j in jobs[name])
        }

    assert not pairs("choose") & pairs("confirm")
    assert not set(question.SCALES["choose"].seeds) & set(question.SCALES["confirm"].seeds)


def test_arms_differ_from_the_default_by_what_they_are_called(jobs):
    configs = {job.arm: job.config.algo for job in jobs["choose"] if job.task == "ShadowHandOver"}
    assert configs["happo"].name == "happo"
    bonuses = {arm: config.divergence for arm, config in configs.items() if arm != "happo"}
    assert (bonuses["madpo"].coef, bonuses["madpo"].decay_steps) == (0.06, 1e6)
    assert (bonuses["share"].share, bonuses["share"].coef) == (0.1, 1.0)
    assert bonuses["entropy_share"].kind == "entropy"
    assert bonuses["entropy_share"].share == bonuses["share"].share
    assert (bonuses["lam0"].lam, bonuses["lam1"].lam) == (0.0, 1.0)
    assert bonuses["age10"].age == 10
    assert bonuses["reward"].as_reward
    assert len({str(bonus) for bonus in bonuses.values()}) == len(bonuses)


def test_the_control_has_an_entropy_bonus_alone(jobs):
    configs = {job.arm: job.config.algo for job in jobs["confirm"] if job.task == "Ant-8x1"}
    assert (configs["entropy"].name, configs["happo"].name) == ("happo", "happo")
    assert (configs["entropy"].entropy_coef, configs["happo"].entropy_coef) == (0.001, 0.0)
    assert "a constant entropy coefficient of 0.001" in " ".join(PAGE.split())
    betas = {arm: config.actor_beta1 for arm, config in configs.items()}
    assert betas.pop("momentum") == 0.98
    assert set(betas.values()) == {0.9}


def test_it_is_not_called_a_figure_of_the_paper(jobs):
    how = ("confirm", question.SCALES["confirm"], "gaussian", "tuned")
    text = caption(Request("confirm", question.FIGURES["confirm"], *how), jobs["confirm"])
    assert text.startswith("Does divergence help? The chosen forms")
    assert "ShadowHandOver has task.agents=fingers algo.hidden=[128,64]." in text
    assert "paper" not in text
    assert not question.FIGURES.keys() & FIGURES.keys()
    assert not question.SCALES.keys() & SCALES.keys()
