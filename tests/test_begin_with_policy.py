"""Runs that begin with a policy, whose file has neither a critic nor optimizers."""

import itertools

import pytest
import torch
from omegaconf import OmegaConf
from test_resume import (
    TINY,
    first_half,  # noqa: F401
    half,  # noqa: F401
    recorded,
    refused,
    train,
)
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    metrics,
    timeless,
    weights,
)

from madpo_isaac import pretrained
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.resume import CRITIC_WARMUP, WHERE
from madpo_isaac.runs import checkpoint
from madpo_isaac.training.run import Run

STEPS = 4 * 8
"""Environment steps of an iteration of the runs here."""


def policy_of(run, path):
    """Writes the policy of a run to a file; returns its path."""
    content = checkpoint.load(run / "nn" / "last.pth")
    config = OmegaConf.to_container(recorded(run))
    config = {key: value for key, value in config.items() if key not in WHERE}
    facts = {key: content[key] for key in ("task", "algo", "iteration", "env_steps")}
    pretrained.save(path, content, {**facts, "config": config})
    return path


@pytest.fixture
def policy(first_half, tmp_path):  # noqa: F811
    """The file of a tiny run's policy."""
    return policy_of(first_half, tmp_path / f"policy{pretrained.SUFFIX}")


def learned(run, iteration, part):
    return weights(run, f"ep_{iteration}")["algo_state"][part]


@pytest.mark.parametrize("algo", ["happo", "madpo", "hatrpo", "a2po", "mappo", "ippo"])
def test_only_the_critic_learns_at_first(tmp_path, algo):
    command = *TINY, f"algo={algo}", f"algo.critic_warmup={2 * STEPS - 1}", "max_iterations=3"
    train(tmp_path, *command, "experiment=x")
    run = tmp_path / "x"
    untrained = Run(compose([*command, f"runs_dir={tmp_path}"])).learner.state_dict()["algo_state"]
    actors = [untrained["actors"], *(learned(run, k, "actors") for k in (1, 2, 3))]
    critics = [untrained["critic"], *(learned(run, k, "critic") for k in (1, 2, 3))]
    assert torch.equal(actors[0], actors[1])
    assert torch.equal(actors[1], actors[2])
    moments = [learned(run, k, "moments")["actors"][0]["mean"] for k in (1, 2, 3)]
    assert not moments[1].any()
    assert moments[2].any()
    assert not torch.equal(actors[2], actors[3])
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(critics))
    first, second, third = metrics(run)
    assert first["agent0/loss"] is second["agent0/loss"] is first["loss"] is None
    assert first["agent0/kl"] == first["kl"] == 0.0
    assert isinstance(third["agent0/loss"], float)
    assert first["entropy"] == first["agent0/entropy"] == second["entropy"] != third["entropy"]
    assert set(first) <= set(third)
    more = {key.partition("/")[2] for key in set(third) - set(first)}
    assert more == ({"accepted", "step_kl", "expected_improvement"} if algo == "hatrpo" else set())
    assert all(line["critic/loss"] > 0.0 for line in metrics(run))


def test_a_run_begins_with_a_policy(policy, tmp_path, capsys):
    command = f"checkpoint={policy}", "seed=3", "num_envs=6", "algo.critic_warmup=0"
    config = compose([f"runs_dir={tmp_path}", *command, "max_iterations=1"])
    untouched, work = Run(config), Run(config)
    work.restore(policy, elsewhere=True)
    assert f"'{policy}' is a policy: the run begins with it" in capsys.readouterr().out
    ours, fresh = (run.learner.state_dict()["algo_state"] for run in (work, untouched))
    saved = checkpoint.load(policy)["algo_state"]
    assert torch.equal(ours["actors"], saved["actors"])
    assert torch.equal(ours["critic"], fresh["critic"])
    assert torch.equal(ours["generator"], fresh["generator"])
    assert config.algo.lr_schedule == "adaptive"
    assert torch.equal(ours["actor_rates"], torch.full((2,), config.algo.min_lr))
    for agent, moments in enumerate(saved["moments"]["actors"]):
        for part, value in moments.items():
            assert torch.equal(ours["moments"]["actors"][agent][part], value)
    assert (work.iteration, work.env_steps) == (0, 0)
    train(tmp_path, *command, "experiment=y", "max_iterations=2")
    assert [line["env_steps"] for line in metrics(tmp_path / "y")] == [48, 96]
    assert not torch.equal(weights(tmp_path / "y")["algo_state"]["actors"], saved["actors"])


@pytest.mark.parametrize("preset", ["gaussian", "official"])
def test_madpo_compares_with_the_policy_from_the_first_update_on(tmp_path, preset):
    """Not with the untrained networks that the run was made with."""
    settings = ["algo=madpo", f"algo.divergence.preset={preset}"]
    settings += ["algo.divergence.age=2"] * (preset == "gaussian")
    train(tmp_path, *TINY, *settings, "experiment=x", "max_iterations=2")
    path = policy_of(tmp_path / "x", tmp_path / f"policy{pretrained.SUFFIX}")
    work = Run(compose([f"runs_dir={tmp_path}", f"checkpoint={path}", "algo.critic_warmup=0"]))
    untrained = work.learner.state_dict()["algo_state"]
    work.restore(path, elsewhere=True)
    ours = work.learner.state_dict()["algo_state"]
    assert not torch.equal(ours["actors"], untrained["actors"])
    for earlier in ours["behaviour"]:
        assert torch.equal(earlier, ours["actors"])
    previous = ours["actors"] if preset == "gaussian" else untrained["previous"]
    assert torch.equal(ours["previous"], previous)


def test_a_run_in_which_no_policy_would_learn_is_refused(policy, tmp_path, capsys):
    command = f"checkpoint={policy}", "experiment=y", "max_iterations=2"
    error = refused(capsys, tmp_path, *command)
    assert "only the critic would learn in the 64 steps of this run" in error
    assert not (tmp_path / "y").exists()


def test_so_is_a_new_run_in_which_no_policy_would_learn(tmp_path, capsys):
    command = *TINY, f"algo.critic_warmup={2 * STEPS}", "max_iterations=2"
    assert "only the critic would learn" in refused(capsys, tmp_path, *command)


def test_a_policy_in_a_run_folder_begins_a_run_of_its_own(half, first_half):  # noqa: F811
    path = policy_of(first_half, half / "nn" / f"p{pretrained.SUFFIX}")
    command = f"checkpoint={path}", "experiment=y", "algo.critic_warmup=0", "max_iterations=1"
    before = weights(half)
    train(half.parent, *command)
    assert weights(half)["iteration"] == before["iteration"] == 2
    assert weights(half.parent / "y")["iteration"] == 1


def test_its_standard_deviation_may_begin_anew(policy, tmp_path):
    settings = "algo.std_on_restore=initial", "algo.init_std=0.125", "algo.critic_warmup=0"
    config = compose([f"runs_dir={tmp_path}", f"checkpoint={policy}", *settings])
    work = Run(config)
    work.restore(policy, elsewhere=True)
    for agent in range(2):
        obs = torch.zeros(1, work.env.agents[agent].obs_dim)
        _, std = work.learner.algo.evaluate(agent, work.learner.algo.actors.inputs(agent, obs))
        torch.testing.assert_close(std, torch.full_like(std, 0.125))


def test_it_is_continued_exactly_even_while_the_critic_learns(policy, tmp_path):
    command = f"checkpoint={policy}", "resume=auto"
    longer = f"algo.critic_warmup={3 * STEPS - 1}", "max_iterations=4"
    train(tmp_path, *command, "experiment=whole", *longer)
    shorter = f"algo.critic_warmup={2 * STEPS - 1}", "max_iterations=2"
    train(tmp_path, *command, "experiment=parts", *shorter)
    train(tmp_path, *command, "experiment=parts", *longer)
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    assert timeless(whole) == timeless(parts)
    for part in ("actors", "critic"):
        assert torch.equal(*(weights(run)["algo_state"][part] for run in (whole, parts)))


def test_the_critic_has_time_unless_the_command_says_otherwise(policy, tmp_path):
    begun = [f"runs_dir={tmp_path}", f"checkpoint={policy}"]
    assert compose(begun).algo.critic_warmup == CRITIC_WARMUP
    assert compose([*begun, "algo.critic_warmup=5"]).algo.critic_warmup == 5
    assert compose([*begun, "test=True"]).algo.critic_warmup == 0
    assert compose(["task=ShadowHandOver"]).algo.critic_warmup == 0


def test_policies_of_the_project_have_names(tmp_path, capsys):
    config = compose(["checkpoint=ShadowHandOver-fingers", "num_envs=2"])
    assert (config.task.name, config.task.agents) == ("ShadowHandOver", "fingers")
    error = refused(capsys, tmp_path, "checkpoint=ShadowHandOvr")
    assert "Did you mean 'ShadowHandOver'?" in error
