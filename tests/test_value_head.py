"""Policies whose networks also predict the return, ``algo.value_aux_coef``."""

import numpy as np
import pytest
import torch
from tiny_run import ONCE
from toy import ACTION_COLUMNS, ToyEnv, build, check_it_continues, collect, network, parameters
from toy import settings as toy_settings

from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.commands.train import main
from madpo_isaac.models.actor import log_prob

LEARNERS = ("happo", "madpo", "a2po", "mappo", "ippo")


def make(name="happo", seed=1, coef=0.5, **changed):
    config = toy_settings(ALGO_SCHEMAS[name], value_aux_coef=coef, **changed)
    return build(ALGORITHMS[name], config, ToyEnv(), seed)


def batch_of(algo):
    env = ToyEnv()
    return algo._prepare(collect(algo, env, env.reset())[0])


def smooth_l1(error):
    size = np.abs(error)
    return np.where(size < 1.0, 0.5 * error**2, size - 0.5)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_value_is_no_action(name):
    """Samples, densities and means are of the outputs after the first one, in every network."""
    algo, env = make(name), ToyEnv()
    rollout, _ = collect(algo, env, env.reset())
    batch = algo._prepare(rollout)
    for p, columns in enumerate(ACTION_COLUMNS):
        view = algo.view(batch, p, batch.log_prob[:, p])
        mean, std, value = algo.actors.outputs(p, view.obs)
        assert mean.shape == (72, len(columns)) and value.shape == (72,)
        found = log_prob(mean, std, batch.action[:, columns])
        torch.testing.assert_close(found, view.old_log_prob, rtol=1e-4, atol=1e-4)


def test_the_loss_against_float64():
    algo = make(coef=0.5, gamma=0.9)
    algo.update(collect(algo, ToyEnv(), ToyEnv().reset())[0])
    batch = batch_of(algo)
    mean, std = algo.value_norm.mean_std()
    for p, columns in enumerate(ACTION_COLUMNS):
        view = algo.view(batch, p, batch.advantage)
        out = network(parameters(algo, p), algo.agents[p].observe(batch.state).double().numpy())
        target = (batch.returns.double().numpy() - mean.item()) / std.item()
        expected = smooth_l1(out[:, 0] - target).mean()
        with_head, stats = algo.policy_loss(view, slice(0, 72), 72)
        assert stats["value_aux_loss"].item() == pytest.approx(expected, rel=1e-4)
        algo.config.value_aux_coef = 0.0
        without, _ = algo.policy_loss(view, slice(0, 72), 72)
        algo.config.value_aux_coef = 0.5
        assert (with_head - without).item() == pytest.approx(0.5 * expected, rel=1e-3)
        found = algo.evaluate(p, view.obs)[0].numpy()
        np.testing.assert_allclose(found, out[:, 1 : 1 + len(columns)], rtol=1e-4, atol=1e-5)


def test_the_policy_loss_leaves_the_head_alone_and_the_value_loss_reaches_the_trunk():
    algo = make()
    batch = batch_of(algo)
    view = algo.view(batch, 1, torch.zeros(72))  # no advantage: only the value has a gradient
    loss, _ = algo.policy_loss(view, slice(0, 72), 72)
    loss.backward()
    net = algo.actors.stack.nets[1]
    assert net["linear0.weight"].grad.abs().sum() > 0
    assert net["out.weight"].grad[0].abs().sum() > 0
    assert not net["out.weight"].grad[1:].any()


def test_networks_learn_the_return():
    """On one batch again and again, where no advantage moves the policy."""
    algo = make(epochs=100, actor_lr=1e-2, hidden=[32], input_norm="none")
    batch = batch_of(algo)
    algo.value_norm.update(batch.returns)
    view = algo.view(batch, 0, torch.zeros(72))
    algo.update_agent(view)
    loss = algo.policy_loss(view, slice(0, 72), 72)[1]["value_aux_loss"].item()
    target = view.value_target.numpy()
    constant = min(smooth_l1(target - c).mean() for c in np.linspace(target.min(), target.max()))
    assert loss < 0.7 * constant  # no constant prediction is nearly as good


def test_agents_that_share_a_network_share_its_head():
    """They differ in their number of actions; the value is the same row of the last layer."""
    algo = make("mappo")
    seen = torch.randn(4, algo.actors.stack.in_dims[1])
    rows = {p: algo.actors.stack.nets[p]["out.weight"][0].data_ptr() for p in range(3)}
    assert len(set(rows.values())) == 1
    assert algo.actors.outputs(1, seen)[2].shape == (4,)


@pytest.mark.parametrize("name", LEARNERS)
def test_it_continues_exactly(name, tmp_path):
    check_it_continues(lambda seed: make(name, seed), tmp_path / "state.pt")


def test_hatrpo_has_no_use_for_it(capsys):
    assert main(["algo=hatrpo", "algo.value_aux_coef=1"]) == 2
    assert "algo.value_aux_coef=1.0 has no effect" in capsys.readouterr().err


def test_a_run_keeps_its_networks(tmp_path, capsys):
    argv = ["task=ShadowHandOver", "algo=happo", "num_envs=2", "algo.hidden=[8]", "num_threads=1"]
    argv += [*ONCE, "algo.horizon=4", f"runs_dir={tmp_path}", "experiment=run"]
    assert main([*argv, "max_iterations=1"]) == 0
    argv = [f"checkpoint={tmp_path}/run", "max_iterations=2", "algo.value_aux_coef=0"]
    assert main(argv) == 2
    assert "algo.value_aux_coef=0.0" in capsys.readouterr().err
