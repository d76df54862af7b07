"""A run's iterations, recomputed in float64 from what its environments were given and returned."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from test_runner import _keep_torch_settings, metrics  # noqa: F401
from toy import network

from madpo_isaac import tasks
from madpo_isaac.algos import OnPolicy
from madpo_isaac.commands.train import main
from madpo_isaac.sim.cpu import MjBatchSim

TASK = "Walker2d-2x3"
N, T, K = 4, 8, 4
"""Environments, steps of an iteration, iterations."""
LIMIT = 5
FALL, FAULT = (6, 2), (11, 1)
"""Step of the run and environment in which a robot falls, and in which the physics blow up."""
GAMMA, LAMBDA, RATE = 0.9, 0.8, 1e-2
SETTINGS = (
    *(f"task={TASK}", "algo=happo", f"num_envs={N}", f"algo.horizon={T}", f"max_iterations={K}"),
    *(f"task.episode_length={LIMIT}", "num_threads=1", "algo.hidden=[8]", "algo.input_norm=layer"),
    *("algo.hidden_norm=layer", "algo.activation=relu", "algo.max_std=null", "algo.std_scale=1"),
    *(f"algo.gamma={GAMMA}", f"algo.gae_lambda={LAMBDA}", f"algo.actor_lr={RATE}"),
    *(
        "algo.lr_schedule=linear",
        "algo.reward_scale=1",
        "algo.value_aux_coef=0",
        "stagger_episodes=False",
        "experiment=x",
        "runs_dir=.",
    ),
)


def parameters(model):
    """Float64 copies of the parameters of each of a model's networks."""
    return [
        {name: value.detach().double().numpy().copy() for name, value in net.items()}
        for net in model.stack.nets
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's environments, their first state, every step, every update, and the metrics."""
    folder = tmp_path_factory.mktemp("iteration")
    world = type(tasks.make(TASK, num_envs=1, num_threads=1))
    reset, step, simulate = world.reset, world.step, MjBatchSim.step
    begin, improve = OnPolicy.begin_update, OnPolicy.update
    found = SimpleNamespace(steps=[], updates=[])

    def resetting(self):
        state = reset(self)
        found.env, found.start = self, state.clone()
        return state

    def stepping(self, action):
        given = action.clone()
        result = step(self, action)
        found.steps.append((given, copy.deepcopy(result)))
        return result

    def simulating(self, substeps):
        if len(found.steps) == FALL[0]:
            self.qpos[FALL[1], 1] = 3.0  # too high to be healthy
        if len(found.steps) == FAULT[0]:
            self.qvel[FAULT[1]].fill_(1e6)
        simulate(self, substeps)

    def beginning(self, batch):
        found.updates.append(
            SimpleNamespace(
                **{name: getattr(batch, name).clone() for name in ("value", "returns")},
                rollout=copy.deepcopy(batch.rollout),
                nets=parameters(self.actors),
                critic=parameters(self.critic)[0],
                scale=[x.item() for x in self.value_norm.mean_std()],
            )
        )
        begin(self, batch)

    def improving(self, rollout):
        result = improve(self, rollout)
        found.updates[-1].improved = parameters(self.actors)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(world, "reset", resetting)
        patch.setattr(world, "step", stepping)
        patch.setattr(MjBatchSim, "step", simulating)
        patch.setattr(OnPolicy, "begin_update", beginning)
        patch.setattr(OnPolicy, "update", improving)
        assert main([*SETTINGS]) == 0
    found.lines = metrics(folder / "x")
    return found


def recorded(run, k):
    """The expected rollout of iteration k, (T, N, ...) each."""
    states = [run.start, *(step.state for _, step in run.steps)]
    mine = run.steps[k * T : (k + 1) * T]
    fields = ("state", "reward", "terminated", "truncated", "final_state", "diverged")
    outcome = {name: torch.stack([getattr(step, name) for _, step in mine]) for name in fields}
    return SimpleNamespace(
        **{
            **outcome,
            "action": torch.stack([action for action, _ in mine]),
            "next_state": outcome["state"],
            "state": torch.stack(states[k * T : (k + 1) * T]),
        }
    )


def values(run, update, state):
    """The critic's normalized values of joint states (..., S)."""
    seen = run.env.critic_view(state.flatten(0, -2)).double().numpy()
    return network(update.critic, seen).reshape(state.shape[:-1])


def log_probs(run, nets, state, action):
    """Log-densities of each agent's part of joint actions (..., A). (..., P)"""
    parts = []
    for agent, net in zip(run.env.agents, nets, strict=True):
        mean = network(net, agent.observe(state.flatten(0, -2)).double().numpy())
        part = action.flatten(0, -2).double().numpy()[:, agent.action_columns]
        parts.append(stats.norm.logpdf(part, mean, np.exp(net["log_std"])).sum(1))
    return np.stack(parts, axis=-1).reshape(*state.shape[:-1], -1)


def close(found, wanted):
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-4, atol=1e-4)


def test_episodes_end_in_every_way(run):
    """Else nothing below would mean much; what is planted happens where it should."""
    assert len(run.steps) == K * T and len(run.updates) == K == len(run.lines)
    ends = torch.stack([step.terminated for _, step in run.steps])
    faults = torch.stack([step.diverged for _, step in run.steps])
    assert faults.nonzero().tolist() == [list(FAULT)]
    assert (ends & ~faults)[FALL] and not torch.stack([s.truncated for _, s in run.steps])[FALL]
    for k in range(K):
        assert recorded(run, k).truncated.any()


def test_the_rollout_is_what_the_environments_saw_and_did(run):
    for k, update in enumerate(run.updates):
        wanted, found = recorded(run, k), update.rollout
        for name in ("state", "action", "reward", "terminated", "truncated"):
            assert torch.equal(getattr(found, name), getattr(wanted, name)), name
        assert torch.equal(found.valid, ~wanted.diverged)
        assert torch.equal(found.last_state, wanted.next_state[-1])


def test_densities_are_those_of_the_policies_that_acted(run):
    for k, update in enumerate(run.updates):
        wanted = recorded(run, k)
        close(update.rollout.log_prob, log_probs(run, update.nets, wanted.state, wanted.action))


def test_values_are_of_the_states_before_a_step_and_of_those_before_a_reset(run):
    for k, update in enumerate(run.updates):
        wanted = recorded(run, k)
        close(update.value, values(run, update, wanted.state)[~wanted.diverged])
        final = values(run, update, wanted.final_state)
        close(update.rollout.final_value, np.where(wanted.truncated, final, 0.0))
        afterwards = values(run, update, wanted.next_state)
        assert abs(final - afterwards)[wanted.truncated].max() > 1e-2


def test_returns_are_sums_over_each_environments_own_steps(run):
    """A_t = sum over l of (gamma lambda)^l delta_(t+l), up to the episode's end or a fault."""
    for k, update in enumerate(run.updates):
        w, (mean, std) = recorded(run, k), update.scale
        value, final, after = (
            mean + std * values(run, update, x) for x in (w.state, w.final_state, w.next_state)
        )
        returns = np.full((T, N), np.nan)
        for i in range(N):
            for t in range(T):
                total = 0.0
                for s in range(t, T):
                    if w.diverged[s, i]:
                        break
                    over, cut = bool(w.terminated[s, i]), bool(w.truncated[s, i])
                    follows = 0.0 if over else final[s, i] if cut else after[s, i]
                    delta = float(w.reward[s, i]) + GAMMA * follows - value[s, i]
                    total += (GAMMA * LAMBDA) ** (s - t) * delta
                    if over or cut:
                        break
                returns[t, i] = total + value[t, i]
        close(update.returns, returns[~w.diverged.numpy()])


def test_statistics_are_those_of_the_episodes_that_ended_whole(run):
    """An episode may begin in one iteration and end in the next; one that went bad is none."""
    rewards, length = np.zeros(N), np.zeros(N)
    for k, line in enumerate(run.lines):
        ended, logs = [], []
        for _, step in run.steps[k * T : (k + 1) * T]:
            rewards, length = rewards + step.reward.double().numpy(), length + 1
            logs.append(step.log)
            for i in (step.terminated | step.truncated).nonzero()[:, 0].tolist():
                if not step.diverged[i]:
                    ended.append((rewards[i], length[i], step.log["success"][i].item()))
                rewards[i] = length[i] = 0
        assert line["episodes"] == len(ended) > 0
        names = ("episode_return", "episode_length", "success_rate")
        assert [line[name] for name in names] == pytest.approx(np.mean(ended, axis=0), rel=1e-5)
        assert line["nan_resets"] == (k == FAULT[0] // T)
        terms = logs[0].keys() - {"success", "diverged", "overflow"}
        assert terms
        for term in terms:
            mean = np.mean([log[term].double().numpy() for log in logs])
            assert line[f"Episode_Reward/{term}"] == pytest.approx(mean, rel=1e-5, abs=1e-7)
        assert line["env_steps"] == N * T * (k + 1)


def test_the_agents_numbers_are_those_of_their_new_policies_and_the_runs_their_means(run):
    for k, (line, update) in enumerate(zip(run.lines, run.updates, strict=True)):
        w = recorded(run, k)
        before, after = (
            log_probs(run, nets, w.state, w.action)[~w.diverged]
            for nets in (update.nets, update.improved)
        )
        kl = (np.exp(after - before) - 1.0 - (after - before)).mean(0)
        entropy = [0.5 * np.log(2 * np.pi * np.e) + net["log_std"] for net in update.improved]
        for p in range(len(kl)):
            assert line[f"agent{p}/kl"] == pytest.approx(kl[p], rel=1e-3, abs=1e-6)
            assert line[f"agent{p}/lr"] == pytest.approx(RATE * (1 - k / K))
        close([line[f"agent{p}/entropy"] for p in range(len(kl))], np.sum(entropy, axis=1))
        for name in ("loss", "entropy", "kl", "lr"):
            each = [line[f"agent{p}/{name}"] for p in range(len(kl))]
            assert line[name] == pytest.approx(np.mean(each))
            assert name == "lr" or abs(each[0] - each[1]) > 1e-7
