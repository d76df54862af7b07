"""MAPPO and IPPO: shared networks, the simultaneous update and local values against oracles."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from toy import (
    ACTION_COLUMNS,
    STATE_COLUMNS,
    ToyEnv,
    build,
    check_it_continues,
    check_it_learns,
    collect,
    network,
    parameters,
    settings,
    train,
)

from madpo_isaac.algos import HAPPO, IPPO, MAPPO
from madpo_isaac.algos.batch import AgentView
from madpo_isaac.algos.mappo import MappoConfig

# Inputs are the one-hot number (3) and 3, 5 or 4 observations: the shared network has 8 and 3.
IN, OUT = (6, 8, 7), (2, 3, 1)


def fresh(kind=MAPPO, seed=1, **changed):
    return build(kind, settings(MappoConfig, **changed), ToyEnv(), seed)


def scatter(stack, seed=3, size=0.3):
    """Moves every parameter off its initial value, padding included."""
    generator = torch.Generator().manual_seed(seed)
    stack.flat += size * torch.randn(stack.flat.shape, generator=generator)


def whole(stack):
    """A float64 copy of all numbers of the shared network."""
    assert len(stack.flat) == 1
    return {name: value[0].double().numpy().copy() for name, value in stack.stacked.items()}


def own_part(net, p, out):
    """Agent p's part of the shared network: leading inputs, leading outputs."""
    crops = {
        "norm0.weight": np.s_[: IN[p]],
        "norm0.bias": np.s_[: IN[p]],
        "linear0.weight": np.s_[:, : IN[p]],
        "out.weight": np.s_[:out],
        "out.bias": np.s_[:out],
    }
    return {name: value[crops.get(name, np.s_[:])] for name, value in net.items()}


def shared_input(p, state):
    state = np.asarray(state, dtype=float)
    return np.concatenate((np.eye(3)[np.full(len(state), p)], state[:, STATE_COLUMNS[p]]), axis=1)


def shared_policy(net, p, state):
    mean = network(own_part(net, p, OUT[p]), shared_input(p, state))
    return mean, 0.5 / (1.0 + np.exp(-net["log_std"][: OUT[p]]))


def shared_density(net, p, state, action):
    mean, std = shared_policy(net, p, state)
    part = np.asarray(action, dtype=float)[:, ACTION_COLUMNS[p]]
    return stats.norm.logpdf(part, mean, std).sum(1)


# One network for all ----------------------------------------------------------------------------


def test_a_shared_network_is_one_row_with_one_optimizer():
    for kind in (MAPPO, IPPO):
        algo = fresh(kind)
        assert len(algo.actors.stack.flat) == len(algo.actor_optimizers) == 1
        assert algo.actors.stack.stacked["linear0.weight"].shape == (1, 7, 8)
        assert algo.actors.stack.stacked["out.weight"].shape == (1, 3, 5)
        algo = fresh(kind, share_parameters=False)
        assert len(algo.actors.stack.flat) == len(algo.actor_optimizers) == 3
    assert len(fresh(IPPO).critic.stack.flat) == 1
    assert len(fresh(IPPO, share_parameters=False).critic.stack.flat) == 3


def test_a_shared_network_starts_orthogonal_as_a_whole():
    for stack, gain in ((fresh().actors.stack, 0.01), (fresh(IPPO).critic.stack, 1.0)):
        net = {name: value[0] for name, value in stack.stacked.items()}
        for name, scale in (("linear0", 2.0**0.5), ("linear1", 2.0**0.5), ("out", gain)):
            weight = net[f"{name}.weight"] / scale
            gram = weight @ weight.T
            if name == "out" and gain == 1.0:
                gram = gram[:1, :1]
            torch.testing.assert_close(gram, torch.eye(len(gram)), rtol=0, atol=1e-5)
            assert not net[f"{name}.bias"].any()


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("kind", [MAPPO, IPPO])
def test_density_at_collection_is_that_at_the_first_step(kind, share, normalize):
    options = {"share_parameters": share, "input_norm": "both" if normalize else "layer"}
    algo, env = fresh(kind, actor_lr=1e-2, **options), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)
    scatter(algo.actors.stack)
    rollout, _ = collect(algo, env, state)
    batch = algo._prepare(rollout)
    for p in range(3):
        view = algo.view(batch, p, torch.ones(72))
        mean, std = algo.evaluate(p, view.obs)
        part = batch.action[:, ACTION_COLUMNS[p]].double()
        found = stats.norm.logpdf(part, mean.double(), std.double()).sum(1)
        np.testing.assert_allclose(view.old_log_prob, found, rtol=1e-4, atol=1e-4)
        if share and not normalize:
            net = whole(algo.actors.stack)
            exact = shared_density(net, p, batch.state, batch.action)
            np.testing.assert_allclose(view.old_log_prob, exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("p", range(3))
def test_padding_changes_no_density_entropy_or_gradient(p):
    algo = fresh(entropy_coef=0.1)
    stack = algo.actors.stack
    scatter(stack)
    state = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    observations = [agent.observe(state) for agent in algo.agents]
    seen = algo.actors.inputs(p, observations[p])
    assert seen.shape == (40, IN[p])

    def outcome():
        joint = algo.actors.freeze().distribution(observations)
        columns = ACTION_COLUMNS[p]
        mean, std = algo.actors.distribution(p, seen)
        return joint[0][:, columns], joint[1][columns], mean.detach(), std.detach()

    before = outcome()
    torch.testing.assert_close(before[0], before[2], rtol=1e-5, atol=1e-6)
    unused = {
        "norm0.weight": np.s_[0, IN[p] :],
        "norm0.bias": np.s_[0, IN[p] :],
        "linear0.weight": np.s_[0, :, IN[p] :],
        "out.weight": np.s_[0, OUT[p] :],
        "out.bias": np.s_[0, OUT[p] :],
        "log_std": np.s_[0, OUT[p] :],
    }
    for name, crop in unused.items():
        stack.stacked[name][crop] += 100.0
    for found, expected in zip(outcome(), before, strict=True):
        assert torch.equal(found, expected)
    view = AgentView(
        index=p,
        clip=0.2,
        obs=seen,
        action=torch.zeros(40, OUT[p]),
        old_log_prob=torch.zeros(40),
        weighted_advantage=torch.ones(40),
    )
    touched = stack.grad.clone()
    algo.policy_loss(view, slice(0, 40), 40)[0].backward()
    assert not touched.any()
    grads = {name: value.grad for name, value in stack.nets[p].items()}
    assert all(grad.any() for grad in grads.values())
    used = sum(int((grad != 0).sum()) for name, grad in grads.items() if name != "log_std")
    used += int((grads["log_std"][: OUT[p]] != 0).sum())
    assert int((stack.grad != 0).sum()) == used
    assert not grads["log_std"][OUT[p] :].any()


def made_up_views(algo, state, action, seed=0):
    """Views whose ratios lie inside and outside the clip range."""
    generator = torch.Generator().manual_seed(seed)
    net, views = whole(algo.actors.stack), []
    for p, agent in enumerate(algo.agents):
        density = torch.from_numpy(shared_density(net, p, state, action)).float()
        views.append(
            AgentView(
                index=p,
                clip=0.2,
                obs=algo.actors.inputs(p, agent.observe(state)),
                action=action[:, agent.action_slice],
                old_log_prob=density + 0.4 * torch.randn(len(state), generator=generator),
                weighted_advantage=2.0 * torch.randn(len(state), generator=generator),
            )
        )
    return net, views


def agent_loss(net, view, state, action):
    change = shared_density(net, view.index, state, action) - view.old_log_prob.double().numpy()
    ratio, advantage = np.exp(change), view.weighted_advantage.double().numpy()
    bounds = np.where(advantage > 0, 1.2, 0.8)
    pays = np.where(advantage > 0, np.minimum(ratio, bounds), np.maximum(ratio, bounds))
    entropy = stats.norm.entropy(scale=shared_policy(net, view.index, state)[1]).sum()
    return -(pays * advantage).mean() - 0.03 * entropy


@pytest.mark.parametrize("tile", [7, 2**31])
def test_shared_gradient_is_that_of_the_mean_loss_by_finite_differences(tile):
    algo = fresh(entropy_coef=0.03, max_grad_norm=1e9)
    algo.tile = tile
    scatter(algo.actors.stack)
    generator = torch.Generator().manual_seed(5)
    state = torch.randn(30, 6, generator=generator)
    action = 0.5 * torch.randn(30, 6, generator=generator)
    net, views = made_up_views(algo, state, action)
    found = algo.policy_step(views, torch.arange(30))
    losses = [-(s["surrogate"] + s["bonus"] + s["entropy_bonus"]).item() for s in found]
    norms = [stats["grad_norm"].item() for stats in found]
    expected = [agent_loss(net, view, state, action) for view in views]
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert len(found) == 3
    assert len(set(norms)) == 1
    grad = {n: v[0] for n, v in _gradients(algo.actors.stack).items()}
    norm = 0.0
    for name, value in net.items():
        for index in np.ndindex(value.shape):
            kept, sides = value[index], []
            for step in (1e-6, -1e-6):
                value[index] = kept + step
                sides.append(np.mean([agent_loss(net, v, state, action) for v in views]))
            value[index] = kept
            slope = (sides[0] - sides[1]) / 2e-6
            norm += slope**2
            assert grad[name][index].item() == pytest.approx(slope, rel=2e-3, abs=3e-5), name
    assert norms[0] == pytest.approx(norm**0.5, rel=1e-3)


def _gradients(stack):
    """The rows of gradients by parameter, cut as the parameters are."""
    views, start = {}, 0
    for name, value in stack.stacked.items():
        size = value[0].numel()
        views[name] = stack.grad[:, start : start + size].reshape(value.shape)
        start += size
    return views


# Separate networks ------------------------------------------------------------------------------


class Unaware(HAPPO):
    """HAPPO whose agents do not know what the preceding ones changed."""

    def weighted_advantage(self, batch, preceding_ratio):
        return batch.advantage


def test_separate_networks_learn_as_happo_without_preceding_ratio():
    options = {"epochs": 3, "actor_lr": 3e-3}
    plain = build(Unaware, settings(**options), ToyEnv())
    algo = fresh(share_parameters=False, **options)
    expected, found = (train(learner, ToyEnv(), 3)[-1] for learner in (plain, algo))
    assert torch.equal(plain.actors.stack.flat, algo.actors.stack.flat)
    assert torch.equal(plain.critic.stack.flat, algo.critic.stack.flat)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        if name.endswith("preceding_ratio"):
            assert value.item() == 1.0
        else:
            torch.testing.assert_close(value, expected[name])


def modules(net):
    """The network as plain float64 modules, and its log_std."""
    layers = []
    for k in range(3):
        norm = nn.LayerNorm(len(net[f"norm{k}.weight"]))
        name = f"linear{k}" if k < 2 else "out"
        linear = nn.Linear(*net[f"{name}.weight"].shape[::-1])
        for module, part in ((norm, f"norm{k}"), (linear, name)):
            for end in ("weight", "bias"):
                setattr(module, end, nn.Parameter(torch.tensor(net[f"{part}.{end}"])))
        layers += [norm, linear, *([nn.ReLU()] if k < 2 else [])]
    return nn.Sequential(*layers), nn.Parameter(torch.tensor(net["log_std"]))


def test_separate_networks_take_the_step_of_independent_ppo():
    """One epoch and one minibatch: the ratio is 1, and nothing is clipped but the gradient."""
    options = {"epochs": 1, "critic_epochs": 1, "entropy_coef": 0.05, "max_grad_norm": 0.1}
    algo, env = fresh(share_parameters=False, **options), ToyEnv()
    rollout, _ = collect(algo, env, env.reset())
    batch = algo._prepare(rollout)
    before = [parameters(algo, p) for p in range(3)]
    algo.update_actors(batch)
    for p in range(3):
        net, log_std = modules(before[p])
        adam = torch.optim.Adam([*net.parameters(), log_std], lr=5e-4, eps=1e-5)
        std = 0.5 * torch.sigmoid(log_std[: OUT[p]])
        normal = torch.distributions.Normal(net(batch.state.double()[:, STATE_COLUMNS[p]]), std)
        new = normal.log_prob(batch.action.double()[:, ACTION_COLUMNS[p]]).sum(1)
        gain = (new - new.detach()).exp() * batch.advantage.double()
        (-gain.mean() - 0.05 * normal.entropy()[0].sum()).backward()
        nn.utils.clip_grad_norm_([*net.parameters(), log_std], 0.1)
        adam.step()
        after = parameters(algo, p)
        found = {"log_std": log_std, "out.weight": net[-1].weight, "linear0.weight": net[1].weight}
        for name, value in found.items():
            assert np.abs(after[name] - before[p][name]).max() > 1e-4
            expected = value.detach().numpy()
            np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=2e-5)


# Values of each agent ---------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_local_values_follow_the_agents_own_observation_only(share):
    algo = fresh(IPPO, share_parameters=share)
    scatter(algo.critic.stack)
    state = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    value = algo.critic.values(state, 7)
    assert value.shape == (20, 3)
    for column in range(6):
        moved = state.clone()
        moved[:, column] += 1.0
        changed = (algo.critic.values(moved, 7) != value).any(0).tolist()
        assert changed == [column in columns for columns in STATE_COLUMNS]
    for p in range(3):
        if share:
            net = own_part(whole(algo.critic.stack), p, 1)
            exact = network(net, shared_input(p, state))
        else:
            net = {k: v.detach().double().numpy() for k, v in algo.critic.stack.nets[p].items()}
            exact = network(net, state.double().numpy()[:, STATE_COLUMNS[p]])
        np.testing.assert_allclose(value[:, p], exact[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_local_advantages_and_returns(share):
    """R_t = r_t + gamma ((1 - lam) V_{t+1} + lam R_{t+1}) in an episode, for each agent."""
    algo, env = fresh(IPPO, share_parameters=share), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    algo.update(rollout)
    rollout, _ = collect(algo, env, state)
    assert rollout.final_value.shape == (12, 6, 3)
    assert rollout.final_value[rollout.truncated].all()
    assert not rollout.final_value[~rollout.truncated].any()
    mean, std = (x.item() for x in algo.value_norm.mean_std())
    batch = algo._prepare(rollout)
    states = torch.cat((rollout.state, rollout.last_state[None]))
    values = algo.critic.values(states.flatten(0, 1), 2**31).view(13, 6, 3).double().numpy()
    values = values * std + mean
    final = rollout.final_value.double().numpy() * std + mean
    for p in range(3):
        returns = np.zeros((12, 6))
        for n in range(6):
            later = values[12, n, p]
            for t in reversed(range(12)):
                after = 0.05 * values[t + 1, n, p] + 0.95 * later
                if rollout.truncated[t, n]:
                    after = final[t, n, p]
                if rollout.terminated[t, n]:
                    after = 0.0
                later = returns[t, n] = rollout.reward[t, n].item() + 0.99 * after
        advantage = returns - values[:12, :, p]
        normal = (advantage - advantage.mean()) / (advantage.std() + 1e-5)
        np.testing.assert_allclose(batch.returns[:, p], returns.ravel(), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            algo.advantage_of(batch, p), normal.ravel(), rtol=1e-3, atol=1e-3
        )
    assert batch.value.shape == (72, 3)


@pytest.mark.parametrize("share", [True, False])
def test_local_critic_loss_is_the_mean_of_the_agents(share):
    """Each column's gradient counts alike in a shared network, and in full in one of its own."""
    algo, env = fresh(IPPO, share_parameters=share, value_coef=0.7), ToyEnv()
    rollout, _ = collect(algo, env, env.reset())
    batch = algo._prepare(rollout)
    target = torch.randn(72, 3, generator=torch.Generator().manual_seed(0))
    batch.returns = algo.value_norm.denormalize(target)
    inputs = algo.critic.inputs(batch.state)
    loss, stats = algo.critic_loss(batch, inputs, slice(0, 72), 72)
    loss.backward()
    loss = stats["value_loss"]
    error = batch.value.double().numpy() - target.double().numpy()  # all within the Huber range
    assert loss.item() == pytest.approx(0.7 * 0.5 * (error**2).mean(), rel=1e-4)
    slopes = 0.7 * error.mean(0)
    bias = [net["out.bias"].grad.item() for net in algo.critic.stack.nets]
    expected = [slopes.mean()] * 3 if share else slopes
    np.testing.assert_allclose(bias, expected, rtol=1e-3, atol=1e-6)


# Minibatches, reproducibility, learning ---------------------------------------------------------


@pytest.mark.parametrize("num_minibatches", [1, 5])
@pytest.mark.parametrize("share", [True, False])
def test_every_sample_is_visited_once_an_epoch(share, num_minibatches):
    seen = [[], [], []]

    class Visits(IPPO):
        def bonus(self, view, rows, mean, std):
            seen[view.index].append(torch.arange(72)[rows])
            return super().bonus(view, rows, mean, std)

    options = {"num_minibatches": num_minibatches, "epochs": 3, "share_parameters": share}
    algo = fresh(Visits, **options)
    train(algo, ToyEnv(), 1)
    for rows in seen:
        assert len(rows) == 3 * num_minibatches
        order = torch.cat(rows).view(3, 72)
        assert torch.equal(order.sort(1).values, torch.arange(72).expand(3, 72))
        assert torch.equal(order, torch.cat(seen[0]).view(3, 72))
    taken = [optimizer.state_dict()["step"].item() for optimizer in algo.actor_optimizers]
    assert taken == [3 * num_minibatches] * (1 if share else 3)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", [MAPPO, IPPO])
def test_training_is_determined_and_continues_exactly(kind, share, tmp_path):
    options = {"share_parameters": share, "num_minibatches": 2, "actor_lr": 2e-3}
    options |= {"input_norm": "both", "reward_scale": 0.5}
    algo, same = (fresh(kind, **options) for _ in range(2))
    for learner in (algo, same):
        train(learner, ToyEnv(), 2)
    assert torch.equal(same.actors.stack.flat, algo.actors.stack.flat)
    assert torch.equal(same.critic.stack.flat, algo.critic.stack.flat)
    check_it_continues(partial(fresh, kind, **options), tmp_path / "state.pth")


@pytest.mark.parametrize(("kind", "share"), [(MAPPO, True), (MAPPO, False), (IPPO, True)])
def test_it_learns(kind, share):
    check_it_learns(partial(fresh, kind), share_parameters=share, actor_lr=5e-3, epochs=5)
