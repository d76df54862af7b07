"""The plugin that watches MADPO's bonus: it changes nothing, and its numbers are the right ones."""

import json
import math
from pathlib import Path

import pytest
import torch
from tiny_run import ONCE
from toy import ToyEnv, build, settings, train

from madpo_isaac import plugins
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.models.actor import entropy, log_prob

FILE = Path(__file__).parents[1] / "benchmarks" / "watched" / "watched.py"
SMALL = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16,16]", "num_threads=1", *ONCE)
SAME = ("loss", "kl", "entropy", "critic/loss", "agent1/grad_norm")


@pytest.fixture
def watched(plugins_forgotten):
    """The module."""
    plugins.load(str(FILE))
    import watched

    return watched


def metrics(folder, name, *argv):
    """The metrics of twelve iterations, by iteration."""
    where = [f"runs_dir={folder}", f"experiment={name}", "max_iterations=12", "save_frequency=0"]
    assert main([*argv, "task=HalfCheetah-2x3", *SMALL, *where]) == 0
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("algo", "of_bonus"),
    [("madpo", "algo.divergence.coef=0.1"), ("happo", "algo.divergence.coef=0")],
)
def test_it_trains_as_the_algorithm_that_it_watches(watched, tmp_path, algo, of_bonus):
    ours = metrics(tmp_path, "ours", f"plugins=[{FILE}]", "algo=watched", of_bonus)
    own = [of_bonus] if algo == "madpo" else []
    theirs = metrics(tmp_path, "theirs", f"algo={algo}", *own)
    for mine, other in zip(ours, theirs, strict=True):
        assert [mine[key] for key in SAME] == [other[key] for key in SAME]
    keys = (*watched.BONUS, *watched.MOTION)
    assert {f"agent{p}/{key}" for p in (0, 1) for key in keys} <= set(ours[-1])
    assert (ours[-1]["agent0/bonus_share"] > 0.0) == (algo == "madpo")
    straight = [line["agent0/straightness"] for line in ours]
    assert straight[:9] == [0.0] * 9 and all(0.0 < x <= 1.0 for x in straight[9:])


def test_a_continued_run_measures_on(watched, tmp_path):
    where = ("save_frequency=5", f"plugins=[{FILE}]", "algo=watched")
    whole = metrics(tmp_path, "whole", *where)
    argv = [f"runs_dir={tmp_path}", "experiment=parts", "task=HalfCheetah-2x3", *where, *SMALL]
    assert main([*argv, "max_iterations=5"]) == 0
    assert main([f"checkpoint={tmp_path / 'parts'}", "max_iterations=12", where[1]]) == 0
    last = json.loads((tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()[-1])
    keys = ("agent0/straightness", "agent1/step_cosine", "states/spread", "agent0/bonus_share")
    assert [last[key] for key in keys] == [whole[-1][key] for key in keys]


@pytest.mark.parametrize("text", ["kind=none", "preset=official", "share=0.1", "as_reward=True"])
def test_a_bonus_that_cannot_be_measured_is_refused(watched, tmp_path, capsys, text):
    argv = [f"plugins=[{FILE}]", "algo=watched", "task=HalfCheetah-2x3", *SMALL]
    assert main([*argv, f"runs_dir={tmp_path}", f"algo.divergence.{text}"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"algo.divergence.{text} does not work" in error


def test_it_has_the_numbers_that_recipes_have_for_madpo(watched):
    for task in ("ShadowHandOver", "HalfCheetah-6x1"):
        ours = compose([f"plugins=[{FILE}]", "algo=watched", f"task={task}", "recipe=tuned"]).algo
        theirs = compose(["algo=madpo", f"task={task}", "recipe=tuned"]).algo
        ours.name = theirs.name
        assert vars(ours) == vars(theirs)


def test_paths_whose_numbers_are_known(watched):
    line = torch.arange(11.0)[:, None] * torch.tensor([3.0, 4.0])
    step, cosine, straightness = watched._path(line)
    assert step.item() == pytest.approx(5.0 / 2**0.5)
    assert cosine.item() == straightness.item() == pytest.approx(1.0)
    corners = torch.cat((torch.zeros(1, 10), torch.eye(10).cumsum(0)))
    step, cosine, straightness = watched._path(corners)
    assert (step.item(), cosine.item()) == pytest.approx((0.1**0.5, 0.0))
    assert straightness.item() == pytest.approx(0.1**0.5)
    back = torch.tensor([[0.0], [1.0], [0.0]])
    assert [x.item() for x in watched._path(back)] == pytest.approx([1.0, -1.0, 0.0])


def test_states_whose_spread_is_known(watched):
    algo = build(ALGORITHMS["watched"], settings(ALGO_SCHEMAS["watched"]), ToyEnv())
    signs = torch.tensor([[x, y, 0.0] for x in (-1.0, 1.0) for y in (-1.0, 1.0)])
    first = algo.spread(signs)  # the third component never changes and does not count
    assert first["states/spread"].item() == pytest.approx(1.0)
    assert first["states/dimension"].item() == pytest.approx(2.0)
    later = algo.spread(signs * torch.tensor([3.0, 1.0, 1.0]))
    assert later["states/spread"].item() == pytest.approx((9.0 + 1.0) / 2.0)
    assert later["states/dimension"].item() == pytest.approx(10.0**2 / (9.0**2 + 1.0))
    far = algo.spread(signs * 1000.0)
    assert far["states/spread"].item() == pytest.approx(100.0 * 4 / 3)


def test_gradients_of_a_bonus_by_the_standard_deviation_alone(watched, monkeypatch):
    """The entropy has no gradient but by log_std; the objective's gradient is taken by hand."""
    config = settings(ALGO_SCHEMAS["watched"], entropy_coef=0.0)
    algo = build(ALGORITHMS["watched"], config, ToyEnv())
    monkeypatch.setattr(
        watched.Watched, "_measure", lambda self, view, rows, mean, std: len(mean) * entropy(std)
    )
    seen = []
    hook = watched.Watched.begin_agent

    def begin_agent(self, view):
        hook(self, view)
        flat = self.actors.stack.flat[view.index].clone().requires_grad_()
        net = self.actors.stack.unpack(view.index, flat)
        mean, std = self.actors.distribution(view.index, view.obs, net)
        ratio = (log_prob(mean, std, view.action) - view.old_log_prob).exp()
        objective, bonus = (ratio * view.weighted_advantage).sum(), len(mean) * entropy(std)
        sizes = [
            torch.autograd.grad(x, flat, retain_graph=True)[0].norm() for x in (bonus, objective)
        ]
        found = self._gradients[f"agent{view.index}/bonus_share"].item()
        seen.append((found, (self.coef * sizes[0] / sizes[1]).item()))
        assert self._gradients[f"agent{view.index}/bonus_width"].item() == pytest.approx(1.0)

    monkeypatch.setattr(watched.Watched, "begin_agent", begin_agent)
    train(algo, ToyEnv(), 1)
    assert len(seen) == len(algo.agents)
    for found, expected in seen:
        assert math.isfinite(expected) and found == pytest.approx(expected, rel=1e-4)
