"""Stacked networks, policies, critic, their optimizer and the value normalizer."""

import copy
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from toy import ACTION_COLUMNS, AGENTS, CPU

from madpo_isaac.models import Actors, Critic, NetworkSettings, ValueNorm
from madpo_isaac.models.actor import Std, entropy, log_prob
from madpo_isaac.models.mlp import FlatAdam, MLPStack

IN, HIDDEN, OUT = (3, 7, 5), (8, 6), (2, 4, 1)
# Padding: norm0 weight and bias 2 * (7 - in), linear0 8 * (7 - in), out weight 6 * (4 - out) and
# bias 4 - out: 40 + 14, 0 and 20 + 21 numbers.
PADDING = (54, 0, 41)
LAYERS = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU, "selu": nn.SELU}


def networks(activation="relu", seed=0, hidden=HIDDEN, **norms):
    generator = torch.Generator().manual_seed(seed)
    return NetworkSettings(hidden, activation, generator, CPU, **norms)


def make_stack(activation="relu", seed=0, **norms):
    return MLPStack(networks(activation, seed, **norms), IN, OUT, output_gain=0.01)


def run(stack, p, x):
    """Network p on inputs that are not prepared."""
    return stack.apply(p, stack.prepare(x))


def scatter(stack, seed=3):
    """Moves every parameter off its initial value, where biases and norms would hide errors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for net in stack.nets:
            for value in net.values():
                value += 0.3 * torch.randn(value.shape, generator=generator)


def sequential(stack, p, activation="relu", norms=(True, True)):
    """Network p as plain modules with copies of its parameters."""
    net = stack.nets[p]
    widths = [stack.in_dims[p], *HIDDEN]
    named = [("norm0", nn.LayerNorm(widths[0]))] if norms[0] else []
    for k in range(len(HIDDEN)):
        named.append((f"linear{k}", nn.Linear(widths[k], widths[k + 1])))
        named.append(("", LAYERS[activation]()))
        if norms[1]:
            named.append((f"norm{k + 1}", nn.LayerNorm(widths[k + 1])))
    named.append(("out", nn.Linear(widths[-1], stack.out_dims[p])))
    with torch.no_grad():
        for name, module in named:
            for part, value in module.named_parameters():
                assert value.shape == net[f"{name}.{part}"].shape
                value.copy_(net[f"{name}.{part}"])
    return nn.Sequential(*(module for _, module in named)), [n for n, _ in named]


def inputs(rows=11, seed=5):
    generator = torch.Generator().manual_seed(seed)
    return [2.0 * torch.randn(rows, width, generator=generator) + 1.0 for width in IN]


def padding(stack):
    """Entries of the flat parameters that belong to no network, found by writing to them all."""
    kept = stack.flat.clone()
    with torch.no_grad():
        for net in stack.nets:
            for value in net.values():
                value.fill_(7.0)
    unused = stack.flat != 7.0
    stack.flat.copy_(kept)
    return unused


@pytest.mark.parametrize("activation", LAYERS)
def test_forward_equals_plain_modules(activation):
    stack = make_stack(activation)
    scatter(stack)
    together = stack.fold()(inputs())
    assert together.shape == (3, 11, 4)
    for p, x in enumerate(inputs()):
        expected = sequential(stack, p, activation)[0](x)
        torch.testing.assert_close(run(stack, p, x), expected, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together[p, :, : OUT[p]], expected, rtol=1e-5, atol=1e-6)
        assert not together[p, :, OUT[p] :].any()


@pytest.mark.parametrize("norms", [(False, True), (True, False), (False, False)])
def test_forward_without_some_norms_equals_plain_modules(norms):
    stack = make_stack(input_norm=norms[0], hidden_norm=norms[1])
    scatter(stack)
    together = stack.fold()(inputs())
    for p, x in enumerate(inputs()):
        modules, names = sequential(stack, p, norms=norms)
        assert set(stack.nets[p]) == {
            f"{name}.{part}"
            for name, module in zip(names, modules, strict=True)
            for part, _ in module.named_parameters()
        }
        torch.testing.assert_close(run(stack, p, x), modules(x), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(together[p, :, : OUT[p]], modules(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", LAYERS)
def test_gradients_equal_plain_modules(activation):
    stack = make_stack(activation)
    scatter(stack)
    for p, x in enumerate(inputs()):
        modules, names = sequential(stack, p, activation)
        for network in (lambda x, p=p: run(stack, p, x), modules):
            network(x).square().sum().backward()
        for name, module in zip(names, modules, strict=True):
            for part, value in module.named_parameters():
                found = stack.nets[p][f"{name}.{part}"].grad
                torch.testing.assert_close(found, value.grad, rtol=1e-4, atol=1e-5)
        assert stack.grad[p].norm() == pytest.approx(
            float(nn.utils.get_total_norm([v.grad for v in modules.parameters()])), rel=1e-5
        )


def test_only_the_differentiated_network_gets_a_gradient():
    stack = make_stack()
    run(stack, 1, inputs()[1]).sum().backward()
    assert stack.grad[1].any()
    assert not stack.grad[0].any()
    assert not stack.grad[2].any()


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0**0.5), ("tanh", 5.0 / 3.0)])
def test_initial_weights_are_orthogonal(activation, gain):
    for net in make_stack(activation).nets:
        for name, value in net.items():
            if name.startswith("norm"):
                assert torch.equal(value, torch.full_like(value, float("weight" in name)))
            elif name.endswith("bias"):
                assert not value.any()
            else:
                wanted = 0.01 if name == "out.weight" else gain
                short = value if value.shape[0] <= value.shape[1] else value.T
                gram = (short @ short.T).detach() / wanted**2
                torch.testing.assert_close(gram, torch.eye(len(short)), rtol=0, atol=1e-5)


def test_initial_weights_follow_from_the_generator():
    assert torch.equal(make_stack(seed=4).flat, make_stack(seed=4).flat)
    assert not torch.equal(make_stack(seed=4).flat, make_stack(seed=5).flat)


def test_unknown_activation_names_the_closest():
    with pytest.raises(ValueError, match=r"activation 'rellu'\. Did you mean 'relu'\?"):
        make_stack("rellu")


def regress(network, x):
    """A loss whose gradient norm lies on both sides of the limit in the test below."""
    return (network(x) - torch.sin(x.sum(1, keepdim=True))).square().sum()


@pytest.mark.parametrize("beta1", [0.0, 0.9, 0.98])
def test_flat_adam_equals_adam_on_separate_parameters_with_clipping(beta1):
    stack = make_stack()
    scatter(stack)
    unused = padding(stack)
    assert unused.sum(1).tolist() == list(PADDING)
    clipped = set()
    for p, x in enumerate(inputs()):
        modules, names = sequential(stack, p)
        flat = FlatAdam(stack, p, lr=0.01, max_grad_norm=25.0, beta1=beta1)
        plain = torch.optim.Adam(modules.parameters(), lr=0.01, betas=(beta1, 0.999), eps=1e-5)
        for _ in range(5):
            flat.zero_grad()
            plain.zero_grad()
            regress(lambda x, p=p: run(stack, p, x), x).backward()
            regress(modules, x).backward()
            norm = nn.utils.clip_grad_norm_(modules.parameters(), 25.0)
            assert flat.step().item() == pytest.approx(norm.item(), rel=1e-4)
            clipped.add(norm.item() > 25.0)
            plain.step()
        for name, module in zip(names, modules, strict=True):
            for part, value in module.named_parameters():
                found = stack.nets[p][f"{name}.{part}"]
                torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)
    assert clipped == {True, False}
    assert not stack.flat[unused].any()
    assert not stack.grad[unused].any()


def test_flat_adam_on_all_rows_clips_each_by_itself():
    together, apart = make_stack(), make_stack()
    optimizer = FlatAdam(together, slice(None), lr=0.01, max_grad_norm=15.0)
    single = [FlatAdam(apart, p, lr=0.01, max_grad_norm=15.0) for p in range(3)]
    for _ in range(3):
        for stack in (together, apart):
            stack.grad.zero_()
            for p, x in enumerate(inputs()):
                regress(lambda x, p=p, stack=stack: run(stack, p, x), (p + 1) * x).backward()
        norms = torch.stack([each.step() for each in single])
        assert optimizer.step().item() == pytest.approx(norms.mean().item(), rel=1e-5)
        torch.testing.assert_close(together.flat, apart.flat)
    assert norms.min() < 15.0 < norms.max()


def test_optimizer_state_round_trip():
    def step(stack, optimizer):
        optimizer.zero_grad()
        regress(lambda x: run(stack, 1, x), inputs()[1]).backward()
        optimizer.step()

    first = make_stack()
    optimizer = FlatAdam(first, 1, lr=0.01, max_grad_norm=10.0)
    assert optimizer.state_dict() == {}
    step(first, optimizer)
    second = make_stack(seed=9)
    second.flat.copy_(first.flat)
    other = FlatAdam(second, 1, lr=0.5, max_grad_norm=10.0)
    other.lr.fill_(0.01)
    saved = optimizer.state_dict()
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    for _ in range(3):
        step(first, optimizer)
        step(second, other)
    assert torch.equal(first.flat, second.flat)
    assert all(torch.equal(saved[name], kept[name]) for name in kept)


# Policies ---------------------------------------------------------------------------------------


HARL = Std(0.5 / (1.0 + math.exp(-1.0)), 0.5)


def make_actors(std=HARL, move=True, hidden=HIDDEN, **norms):
    actors = Actors(
        AGENTS,
        networks(seed=2, hidden=hidden, **norms),
        std=std,
        output_gain=0.01,
    )
    if move:
        scatter(actors.stack)
    return actors


def observations(rows=50, seed=8):
    state = torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed))
    return [agent.observe(state) for agent in AGENTS]


def std_of(actors, p):
    return actors.distribution(p, observations(2)[p])[1]


@pytest.mark.parametrize("std", [Std(0.7), Std(0.7, scale=3.0), Std(0.7, 0.9), Std(0.7, 0.9, 2.0)])
def test_std_starts_where_it_is_told_to(std):
    for p, width in enumerate((2, 3, 1)):
        assert std_of(make_actors(std, move=False), p).tolist() == pytest.approx([0.7] * width)


def test_harls_std_is_half_a_sigmoid():
    """0.5 / (1 + exp(-1)) = 0.3655293, where log_std starts at 1."""
    actors = make_actors(move=False)
    assert std_of(actors, 0).tolist() == pytest.approx([0.3655293] * 2)
    assert actors.stack.stacked["log_std"].flatten().tolist() == pytest.approx([1.0] * 9)


def test_std_is_the_exponential_without_a_limit():
    actors = make_actors(Std(0.3, scale=0.5))
    with torch.no_grad():
        actors.stack.nets[1]["log_std"].copy_(torch.tensor([-1.0, 0.0, 3.0]))
    expected = np.exp([-2.0, 0.0, 6.0])
    np.testing.assert_allclose(std_of(actors, 1).detach().numpy(), expected, rtol=1e-6)


def test_std_scale_divides_log_std():
    actors = make_actors(Std(0.3, 0.5, 2.0))
    with torch.no_grad():
        actors.stack.nets[1]["log_std"].copy_(torch.tensor([-1.0, 0.0, 3.0]))
    expected = 0.5 / (1.0 + np.exp([0.5, 0.0, -1.5]))
    np.testing.assert_allclose(std_of(actors, 1).detach().numpy(), expected, rtol=1e-6)


def test_log_prob_and_entropy_against_scipy():
    rng = np.random.default_rng(0)
    mean, action = rng.normal(size=(2, 20, 3))
    std = np.array([0.05, 0.4, 2.0])
    tensors = (torch.from_numpy(x) for x in (mean, std, action))
    expected = stats.norm.logpdf(action, mean, std).sum(1)
    np.testing.assert_allclose(log_prob(*tensors).numpy(), expected, rtol=1e-12)
    expected = stats.norm.entropy(scale=std).sum()
    assert entropy(torch.from_numpy(std)).item() == pytest.approx(expected, rel=1e-12)


NORMS = [(True, True), (False, True), (True, False), (False, False)]


@pytest.mark.parametrize(("input_norm", "hidden_norm"), NORMS)
@pytest.mark.parametrize(("hidden", "std"), [((16,), Std(0.4, 3.0, 2.0)), (HIDDEN, Std(0.8))])
def test_joint_distribution_equals_each_agents(hidden, std, input_norm, hidden_norm):
    actors = make_actors(std, hidden=hidden, input_norm=input_norm, hidden_norm=hidden_norm)
    obs = observations()
    mean, std = actors.freeze().distribution(obs)
    assert mean.shape == (50, 6)
    for p, columns in enumerate(ACTION_COLUMNS):
        own_mean, own_std = actors.distribution(p, actors.inputs(p, obs[p]))
        torch.testing.assert_close(mean[:, columns], own_mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(std[columns], own_std)
        assert own_mean.requires_grad
        assert own_std.requires_grad


def test_act_reports_the_density_of_each_agents_columns():
    actors = make_actors()
    obs = observations()
    decision = actors.freeze().act(obs, torch.Generator().manual_seed(0))
    assert decision.action.shape == (50, 6)
    assert decision.log_prob.shape == (50, 3)
    for p, columns in enumerate(ACTION_COLUMNS):
        policy = actors.distribution(p, actors.inputs(p, obs[p]))
        mean, std = (x.detach().double().numpy() for x in policy)
        expected = stats.norm.logpdf(decision.action[:, columns].double(), mean, std).sum(1)
        np.testing.assert_allclose(decision.log_prob[:, p], expected, rtol=1e-5, atol=1e-5)


def test_sampled_moments():
    actors = make_actors()
    rows = 40_000
    obs = [x.expand(rows, -1) for x in observations(rows=1)]
    action = actors.freeze().act(obs, torch.Generator().manual_seed(1)).action
    mean, std = actors.freeze().distribution(obs)
    z = ((action - mean) / std).double().numpy()
    limit = 5.0 / np.sqrt(rows)  # five standard errors of a mean
    assert np.abs(z.mean(0)).max() < limit
    assert np.abs(np.cov(z.T) - np.eye(6)).max() < limit * np.sqrt(2.0)
    assert min(stats.kstest(column, "norm").pvalue for column in z.T) > 1e-3


def test_actions_follow_from_the_generator():
    actors, obs = make_actors(), observations()
    first, same, other = (
        actors.freeze().act(obs, torch.Generator().manual_seed(s)) for s in (3, 3, 4)
    )
    assert torch.equal(first.action, same.action)
    assert not torch.equal(first.action, other.action)


def test_frozen_policies_do_not_follow_the_parameters():
    actors, obs = make_actors(), observations()
    frozen = actors.freeze()
    mean, std = actors.freeze().distribution(obs)
    actors.stack.flat.mul_(1.5)
    for found, kept in zip(frozen.distribution(obs), (mean, std), strict=True):
        assert torch.equal(found, kept)
        assert not found.requires_grad
    first, second = (frozen.act(obs, torch.Generator().manual_seed(0)) for _ in range(2))
    assert torch.equal(first.action, second.action)
    moved = actors.freeze()
    assert not torch.equal(moved.distribution(obs)[0], mean)
    assert not torch.equal(moved.distribution(obs)[1], std)


# Critic and its normalizer ----------------------------------------------------------------------


def test_critic_is_one_network_with_one_output():
    critic = Critic(7, networks())
    assert critic.stack.nets[0]["out.weight"].norm().item() == pytest.approx(1.0, rel=1e-5)
    scatter(critic.stack)
    state = inputs()[1]
    expected = sequential(critic.stack, 0)[0](state)[:, 0]
    torch.testing.assert_close(critic(state), expected, rtol=1e-5, atol=1e-6)
    for tile in (3, 11, 100):
        values = critic.values(state, tile)
        assert not values.requires_grad
        torch.testing.assert_close(values, expected.detach(), rtol=1e-5, atol=1e-6)


BATCHES = ([1.0, 3.0], [4.0, 4.0, 10.0], [-6.0])


def test_value_norm_debiased_moments_by_hand():
    """With b = 0.99999, moments after three batches are weighted by b^2, b and 1.

    Batch means 2, 6, -6 and mean squares 5, 44, 36. After the first, mean 2 and std sqrt(5 - 4).
    """
    norm, b = ValueNorm(CPU), Fraction(99_999, 100_000)
    means, squares = (2, 6, -6), (5, 44, 36)
    for k, batch in enumerate(BATCHES):
        norm.update(torch.tensor(batch))
        weights = [b ** (k - j) for j in range(k + 1)]
        mean = sum(w * m for w, m in zip(weights, means, strict=False)) / sum(weights)
        square = sum(w * s for w, s in zip(weights, squares, strict=False)) / sum(weights)
        found_mean, found_std = norm.mean_std()
        assert found_mean.dtype == found_std.dtype == torch.float32
        assert found_mean.item() == pytest.approx(float(mean), rel=1e-6)
        assert found_std.item() == pytest.approx(float(square - mean**2) ** 0.5, rel=1e-6)
    assert found_mean.item() == pytest.approx(2.0 / 3.0, rel=1e-4)


def test_value_norm_forgets_at_its_rate():
    """beta = 1/2: means 0 then 3 weigh 1/4 and 1/2 of 3/4, mean 2 and mean square 6."""
    norm = ValueNorm(CPU, beta=0.5)
    norm.update(torch.zeros(2))
    norm.update(torch.tensor([3.0, 3.0]))
    mean, std = norm.mean_std()
    assert mean.item() == pytest.approx(2.0)
    assert std.item() == pytest.approx(2.0**0.5)


def test_value_norm_stays_exact_over_many_updates():
    batches = np.random.default_rng(0).normal(300.0, 20.0, size=(2000, 8)).astype(np.float32)
    norm = ValueNorm(CPU)
    for batch in torch.from_numpy(batches):
        norm.update(batch)
    weights = 0.99999 ** np.arange(1999, -1, -1)
    data = batches.astype(float)
    mean = np.average(data.mean(1), weights=weights)
    variance = np.average((data**2).mean(1), weights=weights) - mean**2
    assert [x.item() for x in norm.mean_std()] == pytest.approx([mean, variance**0.5], rel=1e-6)


@pytest.mark.parametrize("updates", [0, 1, 5])
def test_value_norm_keeps_the_variance_above_its_floor(updates):
    norm = ValueNorm(CPU)
    for _ in range(updates):
        norm.update(torch.full((4,), 5.0))
    mean, std = norm.mean_std()
    assert mean.item() == pytest.approx(5.0 if updates else 0.0)
    assert std.item() == pytest.approx(0.1)


def test_value_norm_round_trips():
    norm = ValueNorm(CPU)
    norm.update(torch.tensor([100.0, 140.0]))  # mean 120, std 20
    x = torch.linspace(-5.0, 5.0, 11)
    assert norm.denormalize(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([100.0, 160.0])
    assert norm.normalize(torch.tensor([100.0, 160.0])).tolist() == pytest.approx([-1.0, 2.0])
    torch.testing.assert_close(norm.normalize(norm.denormalize(x)), x, rtol=1e-5, atol=1e-5)
    other = ValueNorm(CPU)
    other.load_state_dict(norm.state_dict())
    for each in (norm, other):
        each.update(torch.tensor([7.0]))
    assert torch.equal(norm.denormalize(x), other.denormalize(x))
