"""MADPO's presets: what each compares, against dense kernels and hand-written closed forms."""

import cs_oracle
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from toy import (
    ACTION_COLUMNS,
    STATE_COLUMNS,
    ToyEnv,
    build,
    cauchy_schwarz,
    collect,
    network,
    parameters,
    settings,
    train,
)

from madpo_isaac.algos import HAPPO, MADPO
from madpo_isaac.algos.comparison import shared_actions
from madpo_isaac.algos.madpo import MadpoConfig
from madpo_isaac.algos.settings import AlgoConfig
from madpo_isaac.divergence import bounded_divergence, gaussian_kl, median_width
from madpo_isaac.env import AgentSpec

BATCH = 72


class Alike(ToyEnv):
    """The toy with agents that observe equally many numbers, as the robots' agents do."""

    columns = ([0, 1, 2], [3, 1, 4], [5, 2, 0])

    def __init__(self):
        super().__init__()
        self.agents = tuple(
            AgentSpec(agent.name, agent.action_slice, 3, lambda state, c=c: state[:, c])
            for agent, c in zip(self.agents, self.columns, strict=True)
        )


class Recorded(MADPO):
    """Keeps every bonus with the parameters of all agents at that moment."""

    def __init__(self, *args):
        super().__init__(*args)
        self.calls, self.batches, self.orders = [], [], []

    def agent_order(self):
        self.orders.append(list(super().agent_order()))
        return self.orders[-1]

    def begin_update(self, batch):
        super().begin_update(batch)
        self.batches.append(batch)

    def bonus(self, view, rows, mean, std):
        bonus = super().bonus(view, rows, mean, std)
        nets = [parameters(self, p) for p in range(3)]
        self.calls.append((len(self.batches) - 1, view.index, nets, bonus.item() / len(mean)))
        return bonus


def recorded(preset, env, iterations=3, **changed):
    div = {"preset": preset, "coef": 1.0, "lam": 0.25, **changed.pop("divergence", {})}
    config = settings(MadpoConfig, divergence=div, actor_lr=5e-3, **changed)
    algo = build(Recorded, config, env)
    train(algo, env, iterations)
    return algo


def moments(env, p, net, state):
    """Mean and std of agent p at joint states, in float64."""
    columns = getattr(env, "columns", STATE_COLUMNS)[p]
    log_std = net["log_std"][: len(ACTION_COLUMNS[p])]
    return network(net, state.double().numpy()[:, columns]), 0.5 / (1.0 + np.exp(-log_std))


def kernels(state_p, p, state_q, q, state_width, action_width, variant):
    sample = (torch.as_tensor(x, dtype=torch.float64) for x in (state_p, p, state_q, q))
    widths = {"state_width": state_width, "action_width": action_width}
    return cs_oracle.dense(*sample, **widths, variant=variant).item()


# official ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", [Alike(), ToyEnv()], ids=["own observations", "joint states"])
def test_official_compares_log_probabilities_with_the_last_step_and_the_last_index(env):
    """Agent p against agent p - 1 as it is now, whatever the order; agent 0 against nobody."""
    algo = recorded("official", env, epochs=2)
    former = dict.fromkeys(range(3))
    for k, p, nets, bonus in algo.calls:
        batch = algo.batches[k]

        def features(q, net, batch=batch):
            action = batch.action.double().numpy()[:, ACTION_COLUMNS[q]]
            return stats.norm.logpdf(action, *moments(env, q, net, batch.state))

        seen = [agent.observe(batch.state) for agent in env.agents]
        if former[p] is not None:
            own = features(p, nets[p])
            past = features(p, former[p])
            expected = 0.75 * kernels(seen[p], own, seen[p], past, 1.0, 1.0, "official")
            if p > 0:
                d = min(len(ACTION_COLUMNS[p]), len(ACTION_COLUMNS[p - 1]))
                theirs = features(p - 1, nets[p - 1])[:, :d]
                alike = seen[p].shape == seen[p - 1].shape
                states = (seen[p], seen[p - 1]) if alike else (batch.state, batch.state)
                inter = kernels(states[0], own[:, :d], states[1], theirs, 1.0, 1.0, "official")
                assert inter > 0.01
                expected += 0.25 * inter
            assert bonus == pytest.approx(expected, rel=1e-3, abs=1e-6)
        former[p] = nets[p]
    assert any(order != [0, 1, 2] for order in algo.orders)


def test_official_starts_against_a_random_policy():
    algo = recorded("official", Alike(), 1, divergence={"lam": 0.0}, output_gain=1.0)
    first = {p: bonus for _, p, _, bonus in reversed(algo.calls)}
    assert all(bonus > 1e-3 for bonus in first.values())


def test_official_is_the_loss_of_the_released_code():
    """Coefficient 1000, weight 0.05, no entropy bonus."""
    config = settings(MadpoConfig, divergence={"preset": "official"}, entropy_coef=0.1)
    algo = build(MADPO, config, Alike())
    assert (algo.coef, algo.inter_weight, algo.entropy_coef) == (1000.0, 0.05, 0.0)


# yu and printed ---------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("alike", [False, True], ids=["one step", "equal states"])
@pytest.mark.parametrize("preset", ["yu", "printed", "official"])
def test_states_without_a_distance_between_them_are_learned_from(preset, alike):
    """No width tells them apart: num_envs=1 algo.horizon=1, or a task that starts in one state."""
    div = {"preset": preset, "coef": 1.0}
    algo, env = build(MADPO, settings(MadpoConfig, divergence=div), ToyEnv()), ToyEnv()
    state = env.reset()
    for _ in range(2):
        rollout, state = collect(algo, env, state)
        if alike:
            rollout.state[:] = rollout.state[0, 0]
        else:
            rollout.valid[:] = False
            rollout.valid[3, 2] = True
        metrics = algo.update(rollout)
        assert all(value.isfinite() for value in metrics.values())
        assert metrics["agent0/skipped"] == 0


def test_yu_compares_actions_under_common_noise():
    env = ToyEnv()
    algo = build(Recorded, settings(MadpoConfig, divergence={"preset": "yu"}, actor_lr=5e-3), env)
    state, history = env.reset(), [[parameters(algo, p) for p in range(3)]]
    for k in range(3):
        rollout, state = collect(algo, env, state)
        algo.update(rollout)
        history.append([parameters(algo, p) for p in range(3)])
        batch, noise = algo.batches[k], algo.comparison._noise.double().numpy()
        joint = batch.state.double()
        joint = (joint - joint.mean(0)) / joint.std(0)
        width = median_width(joint, num_samples=BATCH)
        for when, p, nets, bonus in algo.calls:
            if when != k:
                continue

            def compared(own, q, net, d, batch=batch, noise=noise, joint=joint, width=width):
                (m, s), (n, t) = own, moments(env, q, net, batch.state)
                x, y = m[:, :d] + s[:d] * noise[:, :d], n[:, :d] + t[:d] * noise[:, :d]
                return kernels(joint, x / t[:d], joint, y / t[:d], width, 1.0, "yu")

            own = moments(env, p, nets[p], batch.state)
            expected = 0.8 * compared(own, p, history[max(k - 1, 0)][p], len(ACTION_COLUMNS[p]))
            position = algo.orders[k].index(p)
            if position > 0:
                q = algo.orders[k][position - 1]
                d = min(len(ACTION_COLUMNS[p]), len(ACTION_COLUMNS[q]))
                expected += 0.2 * compared(own, q, nets[q], d)
            assert bonus == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize(("preset", "inter_weight"), [("printed", 0.25), ("printed_alg1", 0.75)])
def test_printed_compares_with_the_previous_trajectory(preset, inter_weight):
    env = ToyEnv()
    sigma = {"sigma": 3.0}
    config = settings(MadpoConfig, divergence={"preset": preset, "lam": 0.25, **sigma})
    algo, state = build(Recorded, config, env), env.reset()
    assert algo.coef == pytest.approx(1.0 / 3.0)
    assert algo.entropy_coef == 0.0
    for k in range(3):
        rollout, state = collect(algo, env, state)
        algo.update(rollout)
        batch, noise = algo.batches[k], algo.comparison._noise.double().numpy()
        for when, p, nets, bonus in algo.calls:
            if when != k:
                continue
            m, s = moments(env, p, nets[p], batch.state)
            x, expected = m + s * noise[:, : len(s)], 0.0
            if k > 0:
                past = algo.batches[k - 1]
                action = past.action[:, ACTION_COLUMNS[p]]
                value = kernels(batch.state, x, past.state, action, 3.0, 3.0, "printed")
                expected += (1.0 - inter_weight) * value
            position = algo.orders[k].index(p)
            if position > 0:
                q = algo.orders[k][position - 1]
                d = min(len(ACTION_COLUMNS[p]), len(ACTION_COLUMNS[q]))
                n, t = moments(env, q, nets[q], batch.state)
                y = n[:, :d] + t[:d] * noise[:, :d]
                value = kernels(batch.state, x[:, :d], batch.state, y, 3.0, 3.0, "printed")
                expected += inter_weight * value
            assert bonus == pytest.approx(expected / 3.0, rel=1e-3, abs=1e-7)


def test_printed_with_the_papers_sigma_does_nothing():
    """Eq. 10 and 11 with sigma 1e3 train HAPPO without entropy bonus, to single precision."""
    options = {"actor_lr": 2e-3, "epochs": 5}
    plain = build(HAPPO, settings(AlgoConfig, entropy_coef=0.0, **options), ToyEnv())
    config = settings(MadpoConfig, divergence={"preset": "printed"}, **options)
    algo = build(MADPO, config, ToyEnv())
    for learner in (plain, algo):
        train(learner, ToyEnv(), 2)
    moved = (plain.actors.stack.flat - build(HAPPO, config, ToyEnv()).actors.stack.flat).abs().max()
    apart = (plain.actors.stack.flat - algo.actors.stack.flat).abs().max()
    assert apart < 1e-3 * moved


# The closed form --------------------------------------------------------------------------------


def policies(n=50, d=3, seed=0):
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(2, n, d))
    stds = rng.uniform(0.2, 1.0, size=(2, d))
    return means[0], stds[0], means[1], stds[1]


def kl(m, s, n, t):
    return np.log(t / s) + (s**2 + (m - n) ** 2) / (2.0 * t**2) - 0.5


def test_kl_is_the_integral():
    for m, s, n, t in ((0.0, 0.5, 1.0, 0.3), (2.0, 1.0, 2.0, 1.0), (-1.0, 0.2, 0.5, 2.0)):

        def integrand(x, m=m, s=s, n=n, t=t):
            log_p, log_q = stats.norm.logpdf(x, m, s), stats.norm.logpdf(x, n, t)
            return np.exp(log_p) * (log_p - log_q)

        expected = integrate.quad(integrand, m - 10 * s, m + 10 * s, points=[m])[0]
        arguments = (torch.tensor([x], dtype=torch.float64) for x in (m, s, n, t))
        found = gaussian_kl(*(x[None] if i % 2 == 0 else x for i, x in enumerate(arguments)))
        assert found.item() == pytest.approx(expected, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("scale", [1.0, 4.0])
@pytest.mark.parametrize("kind", ["cs", "kl"])
def test_bounds_against_hand_written_formulas(kind, scale):
    m, s, n, t = policies()

    def per_dim(m, n):
        one = {"cs": lambda i: cauchy_schwarz(m[:, [i]], s[[i]], n[:, [i]], t[[i]])}
        one["kl"] = lambda i: kl(m[:, i], s[i], n[:, i], t[i])
        return np.stack([one[kind](i) for i in range(3)], axis=1)

    each = per_dim(m, n)
    total = each.sum(1)
    expected = {
        "none": total,
        "exp": 1.0 - np.exp(-total / (2.0 * scale)),
        "exp_dim": (1.0 - np.exp(-each / (2.0 * scale))).mean(1),
        "clip": np.minimum(total, scale),
        "tanh": per_dim(np.tanh(m), np.tanh(n)).sum(1),
    }
    tensors = [torch.from_numpy(x) for x in (m, s, n, t)]
    for bound, wanted in expected.items():
        found = bounded_divergence(kind, bound, scale, *tensors)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-9, err_msg=bound)


@pytest.mark.parametrize("bound", ["exp", "exp_dim", "clip", "tanh"])
def test_a_bound_ends_the_growth(bound):
    """Far away nothing pushes any more; without a bound the push grows with the distance."""

    def push(distance, bound):
        mean = torch.full((4, 2), float(distance), requires_grad=True)
        std = torch.full((2,), 0.3)
        value = bounded_divergence("cs", bound, 1.0, mean, std, torch.zeros(4, 2), std)
        return torch.autograd.grad(value.sum(), mean)[0].abs().max().item()

    assert push(20.0, bound) < 1e-6
    assert push(20.0, "none") == pytest.approx(2.0 * 20.0 / 0.18, rel=1e-5)


def test_a_divergence_or_a_bound_that_is_not_there_names_the_closest():
    policies = torch.zeros(4, 2), torch.ones(2), torch.zeros(4, 2), torch.ones(2)
    with pytest.raises(ValueError, match=r"kind 'cd'\. Did you mean 'cs'\?"):
        bounded_divergence("cd", "exp", 1.0, *policies)
    with pytest.raises(ValueError, match=r"bound 'exp_dims'\. Did you mean 'exp_dim'\?"):
        bounded_divergence("cs", "exp_dims", 1.0, *policies)


@pytest.mark.parametrize("changed", [{"kind": "entropy", "coef": 0.05}, {"kind": "none"}])
def test_ablations_without_a_reference(changed):
    """Fig. 5: the entropy instead of D is an entropy coefficient of 0.05 more; none is HAPPO."""
    total = 0.06 if changed["kind"] == "entropy" else 0.01
    plain = build(HAPPO, settings(AlgoConfig, entropy_coef=total), ToyEnv())
    algo = build(MADPO, settings(MadpoConfig, divergence=changed), ToyEnv())
    history = [train(learner, ToyEnv(), 2) for learner in (plain, algo)]
    torch.testing.assert_close(algo.actors.stack.flat, plain.actors.stack.flat, atol=1e-5, rtol=0)
    assert history[0][1].keys() == history[1][1].keys()


def test_kl_in_place_of_the_divergence():
    env = ToyEnv()
    algo = recorded("gaussian", env, 2, divergence={"kind": "kl", "lam": 0.0, "bound": "none"})
    before = {p: nets[p] for _, p, nets, _ in reversed(algo.calls)}
    calls = [call for call in algo.calls if call[0] == 1]
    assert len(calls) == 6
    for k, p, nets, bonus in calls:
        state = algo.batches[k].state
        divergence = kl(*moments(env, p, nets[p], state), *moments(env, p, before[p], state))
        assert bonus == pytest.approx(divergence.sum(1).mean(), rel=1e-3, abs=1e-7)


def test_the_coefficient_decays_with_environment_steps():
    config = settings(
        MadpoConfig, divergence={"coef": 0.4, "decay_steps": 1000.0}, lr_schedule="constant"
    )
    algo = build(MADPO, config, ToyEnv())
    for steps, coef in ((0, 0.4), (750, 0.1), (1000, 0.0), (5000, 0.0)):
        algo.set_progress(0.5, steps)
        assert algo.coef == pytest.approx(coef)
    assert algo.rates.of(0).item() == pytest.approx(config.actor_lr)


@pytest.mark.parametrize("preset", ["official", "yu", "printed"])
def test_rows_and_minibatches_of_the_kernel_presets(preset):
    env = ToyEnv()
    changed = {"divergence": {"rows": 7}, "num_minibatches": 3}
    algo = recorded(preset, env, 2, **changed)
    assert torch.isfinite(algo.actors.stack.flat).all()
    assert len(algo.calls) == 2 * 3 * 2 * 3
    bonuses = [bonus for k, *_, bonus in algo.calls if k == 1]
    assert np.isfinite(bonuses).all()
    assert len(set(bonuses)) > 6


# Which actions correspond -----------------------------------------------------------------------


def agent(width, *roles):
    return AgentSpec("", slice(0, width), 1, lambda state: state, action_roles=roles)


@pytest.mark.parametrize(
    ("a", "b", "own", "theirs"),
    [
        (agent(3), agent(5), slice(0, 3), slice(0, 3)),
        (agent(5), agent(2), slice(0, 2), slice(0, 2)),
        (agent(2, "hip", "knee"), agent(3), slice(0, 2), slice(0, 2)),
        (agent(2, "hip", "knee"), agent(2, "hip", "knee"), slice(0, 2), slice(0, 2)),
        (agent(3, "x", "hip", "knee"), agent(2, "knee", "hip"), [1, 2], [1, 0]),
        (agent(3, "hip", "hip", "knee"), agent(2, "hip", "knee"), [0, 2], [0, 1]),
        (agent(2, "x", "y"), agent(2, "hip", "knee"), [], []),
    ],
)
def test_actions_of_equal_roles_correspond(a, b, own, theirs):
    assert shared_actions(a, b) == (own, theirs)


def test_agents_that_share_no_role_are_not_compared():
    env = ToyEnv()
    roles = (("a", "b"), ("b", "c", "d"), ("e",))
    env.agents = tuple(
        AgentSpec(old.name, old.action_slice, old.obs_dim, old.observe, action_roles=names)
        for old, names in zip(env.agents, roles, strict=True)
    )
    config = settings(MadpoConfig, agent_order="default", actor_lr=5e-3)
    metrics = train(build(MADPO, config, env), env, 2)[1]
    assert metrics["agent1/divergence_inter"].item() > 0.0
    assert metrics["agent2/divergence_inter"].item() == 0.0


@pytest.mark.parametrize("preset", ["yu", "printed", "official"])
def test_more_rows_than_are_left_of_a_batch_are_all_of_them(preset):
    """Steps of an unstable environment leave fewer samples than the settings were checked for."""
    div = {"preset": preset, "coef": 1.0, "rows": BATCH}
    algo, env = build(MADPO, settings(MadpoConfig, divergence=div), ToyEnv()), ToyEnv()
    state = env.reset()
    for _ in range(2):
        rollout, state = collect(algo, env, state)
        rollout.valid[3, 2] = False
        rollout.all_valid = False
        metrics = algo.update(rollout)
    assert all(metrics[f"agent{p}/loss"].isfinite() for p in range(3))
