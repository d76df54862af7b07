"""The study of MADPO's bonus: arms, tasks and seeds are those of docs/question.md."""

import re
from pathlib import Path

import pytest

from madpo_isaac.reproduce import question
from madpo_isaac.reproduce.caption import Request, caption
from madpo_isaac.reproduce.paper import FIGURES, SCALES
from madpo_isaac.reproduce.plan import plan

PAGE = (Path(__file__).parents[1] / "docs" / "question.md").read_text()


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
    for task in question.FIGURES[name].tasks:
        assert task in PAGE
    part = PAGE[PAGE.index(f"reproduce.py {name}") :]
    seeds = re.search(r"Seeds: (1, 2, 3|11 to 20)\.", part)[1]
    wanted = {"1, 2, 3": {1, 2, 3}, "11 to 20": set(range(11, 21))}[seeds]
    found = {
        int(text.partition("=")[2])
        for job in jobs[name]
        for text in job.settings
        if "seed=" in text
    }
    assert found == wanted


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


def test_it_is_not_called_a_figure_of_the_paper(jobs):
    how = ("confirm", question.SCALES["confirm"], "gaussian", "tuned")
    text = caption(Request("confirm", question.FIGURES["confirm"], *how), jobs["confirm"])
    assert text.startswith("Does divergence help? The chosen forms")
    assert "ShadowHandOver has task.agents=fingers algo.hidden=[128,64]." in text
    assert "paper" not in text
    assert not question.FIGURES.keys() & FIGURES.keys()
    assert not question.SCALES.keys() & SCALES.keys()
