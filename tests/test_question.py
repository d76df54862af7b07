"""The study of MADPO's bonus: arms, tasks and seeds are those of docs/question.md."""

import csv
import json
import re
import tarfile
from pathlib import Path
from statistics import fmean

import pytest

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
    by_arm = {title: {} for title in (arm.title for arm in question.FORMS.values())}
    with (DOCS / "results" / "question" / "choose_scores.csv").open() as file:
        for row in csv.DictReader(file):
            by_arm[row["arm"]].setdefault(row["task"], []).append(float(row["score"]))
    tasks = question.FIGURES["choose"].tasks
    assert all(len(by_arm[arm][task]) == 3 for arm in by_arm for task in tasks)
    base = {task: fmean(runs) for task, runs in by_arm["HAPPO"].items()}
    part = PAGE[PAGE.index("## Result of the first part") :].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ")]
    columns = [cell.strip() for cell in lines[0].split("|")[2:-2]]
    ranking = []
    for line in lines[2:]:
        name, *cells = (cell.strip(" `") for cell in line.split("|")[1:-1])
        scores = by_arm[question.FORMS[name].title]
        ratios = [fmean(scores[task]) / base[task] for task in columns]
        assert cells == [f"{x:.2f}" for x in (*ratios, fmean(ratios))]
        ranking.append((fmean(ratios), name))
    assert ranking == sorted(ranking, reverse=True)
    assert {name for _, name in ranking} == set(question.FORMS)
    best = [name for _, name in ranking if name not in ("happo", "entropy_share")][:2]
    assert set(question.CONFIRMED) == {"happo", "entropy", "momentum", *best}


@pytest.mark.parametrize("part", ["choose"])
def test_scores_are_those_of_the_archived_runs(jobs, part):
    """The last two evaluations of each run's metrics.jsonl, read here line by line."""
    given = {}
    with (DOCS / "results" / "question" / f"{part}_scores.csv").open() as file:
        for row in csv.DictReader(file):
            given.setdefault((row["task"], row["arm"]), []).append(float(row["score"]))
    arms = question.FORMS | question.CONFIRMED
    found = {}
    with tarfile.open(DOCS / "results" / "question" / f"{part}.tar.xz") as packed:
        files = [name for name in packed.getnames() if name.endswith("/metrics.jsonl")]
        assert len(files) == len(jobs[part])
        for name in files:
            task, arm, seed = re.fullmatch(r".*/([^_]+)_(\w+)_s(\d+)/.*", name).groups()
            lines = map(json.loads, packed.extractfile(name).read().splitlines())
            returns = [x for x in (line["eval/return"] for line in lines) if x is not None]
            assert len(returns) == 3
            found.setdefault((task, arms[arm].title), {})[int(seed)] = fmean(returns[-2:])
    assert found.keys() == given.keys()
    for key, by_seed in found.items():
        assert given[key] == pytest.approx([by_seed[seed] for seed in sorted(by_seed)], rel=1e-4)


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
    assert "a constant entropy coefficient of 0.001" in PAGE
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
