"""Rollouts and generalized advantage estimation."""

import dataclasses

import numpy as np
import pytest
import torch
from toy import ToyEnv

from madpo_isaac.algos.storage import Rollout, gae


def test_allocated_rollout_has_the_environments_shapes():
    rollout = Rollout.allocate(ToyEnv(4), horizon=3)
    fields = {f.name: getattr(rollout, f.name) for f in dataclasses.fields(rollout)}
    assert fields.pop("all_valid") is False  # nothing is known of the steps yet
    assert {name: tuple(value.shape) for name, value in fields.items()} == {
        "state": (3, 4, 6),
        "action": (3, 4, 6),
        "log_prob": (3, 4, 3),
        "reward": (3, 4),
        "terminated": (3, 4),
        "truncated": (3, 4),
        "final_value": (3, 4),
        "last_state": (4, 6),
        "valid": (3, 4),
    }
    for name, value in fields.items():
        flag = name in ("terminated", "truncated", "valid")
        assert value.dtype == (torch.bool if flag else torch.float32)
        assert value.all() if name == "valid" else not value.any()


def test_gae_by_hand():
    """Four environments, T = 3, gamma = lam = 1/2, so the trace decays by 1/4 a step.

    env 0 runs on:             deltas 1+4/2-2 = 1, 2+6/2-4 = 1, 3+8/2-6 = 1;
                               A2 = 1, A1 = 1+1/4, A0 = 1+5/16
    env 1 terminates at t=1:   deltas 1, 2-4 = -2, 1; A2 = 1, A1 = -2, A0 = 1-2/4
    env 2 is truncated at t=1 into a state worth 10:
                               deltas 1, 2+10/2-4 = 3, 1; A2 = 1, A1 = 3, A0 = 1+3/4
    env 3 is both at t=1:      as env 1: a terminated step never bootstraps
    """
    reward = torch.tensor([1.0, 2.0, 3.0])[:, None].expand(3, 4)
    value = torch.tensor([2.0, 4.0, 6.0])[:, None].expand(3, 4)
    next_value = torch.tensor([4.0, 6.0, 8.0])[:, None].repeat(1, 4)
    next_value[1, 2] = next_value[1, 3] = 10.0
    terminated, truncated = torch.zeros(2, 3, 4, dtype=torch.bool)
    terminated[1, 1] = terminated[1, 3] = True
    truncated[1, 2] = truncated[1, 3] = True
    advantage = gae(reward, value, next_value, terminated, truncated, 0.5, 0.5)
    expected = [[1.3125, 0.5, 1.75, 0.5], [1.25, -2.0, 3.0, -2.0], [1.0, 1.0, 1.0, 1.0]]
    assert torch.equal(advantage, torch.tensor(expected))


def test_gae_at_the_last_step():
    """At the horizon only termination drops the bootstrap: 1 + 0.9 * 2 - 3 or 1 - 3."""
    one = torch.ones(1, 3)
    terminated = torch.tensor([[False, True, False]])
    truncated = torch.tensor([[False, False, True]])
    advantage = gae(one, 3 * one, 2 * one, terminated, truncated, 0.9, 0.95)
    assert advantage.tolist()[0] == pytest.approx([-0.2, -2.0, -0.2])


def draw(seed, horizon=14, num_envs=9):
    """Random inputs in which termination, truncation and both occur, also at the last step."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, horizon, num_envs))
    terminated, truncated = rng.random((2, horizon, num_envs)) < 0.12
    running = ~(terminated | truncated)
    # Without a reset the next state is the one acted on next.
    next_value[:-1] = np.where(running[:-1], value[1:], next_value[:-1])
    terminated[-1, 0] = truncated[-1, 1] = True
    return reward, value, next_value, terminated, truncated


def lambda_return(reward, next_value, terminated, truncated, gamma, lam, t):
    """(1 - lam) sum_n lam^(n-1) G_n + lam^(L-1) G_L over the L steps left in the episode."""
    ends = np.flatnonzero(terminated[t:] | truncated[t:])
    left = ends[0] + 1 if len(ends) else len(reward) - t
    n_step = []
    for n in range(1, left + 1):
        rewards = sum(gamma**k * reward[t + k] for k in range(n))
        last = t + n - 1
        n_step.append(rewards + (0.0 if terminated[last] else gamma**n * next_value[last]))
    mixed = (1.0 - lam) * sum(lam ** (n - 1) * n_step[n - 1] for n in range(1, left))
    return mixed + lam ** (left - 1) * n_step[-1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("gamma", "lam"), [(0.99, 0.95), (0.9, 0.0), (0.95, 1.0), (1.0, 1.0)])
def test_gae_is_the_lambda_return_minus_the_value(seed, gamma, lam):
    reward, value, next_value, terminated, truncated = draw(seed)
    tensors = [torch.from_numpy(x) for x in (reward, value, next_value, terminated, truncated)]
    advantage = gae(*tensors, gamma, lam).numpy()
    expected = np.empty_like(advantage)
    for t, env in np.ndindex(advantage.shape):
        column = (x[:, env] for x in (reward, next_value, terminated, truncated))
        expected[t, env] = lambda_return(*column, gamma, lam, t) - value[t, env]
    np.testing.assert_allclose(advantage, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_gae_without_discount_sees_one_reward(lam):
    reward, value, *rest = (torch.from_numpy(x) for x in draw(7))
    assert torch.equal(gae(reward, value, *rest, 0.0, lam), reward - value)


def test_gae_leaves_its_inputs_alone_and_keeps_their_type():
    tensors = [torch.from_numpy(x) for x in draw(3)]
    tensors[:3] = [x.float() for x in tensors[:3]]
    before = [x.clone() for x in tensors]
    assert gae(*tensors, 0.99, 0.95).dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(tensors, before, strict=True))


def test_gae_ignores_what_follows_a_terminated_step():
    """Not even an infinite value behind a termination reaches the advantages."""
    reward, value, next_value, terminated, truncated = (torch.from_numpy(x) for x in draw(5))
    expected = gae(reward, value, next_value, terminated, truncated, 0.99, 0.95)
    spoilt = next_value.masked_fill(terminated, float("inf"))
    assert torch.equal(expected, gae(reward, value, spoilt, terminated, truncated, 0.99, 0.95))


def test_dropped_time_limits_teach_nothing():
    # One environment, gamma 0.5, lambda 0.5. Step 1 is truncated: its advantage is 0, whatever
    # followed, and nothing of the next episode reaches step 0: 1 + 0.5 * 4 - 2 = 1.
    reward = torch.tensor([[1.0], [5.0], [3.0]])
    value = torch.tensor([[2.0], [4.0], [6.0]])
    next_value = torch.tensor([[4.0], [9.0], [8.0]])
    truncated = torch.tensor([[False], [True], [False]])
    terminated = torch.zeros_like(truncated)
    args = (reward, value, next_value, terminated, truncated, 0.5, 0.5)
    assert gae(*args, "drop")[:, 0].tolist() == [1.0, 0.0, 3.0 + 4.0 - 6.0]
    # Bootstrapping instead: 5 + 4.5 - 4 = 5.5, a quarter of which reaches step 0.
    assert gae(*args)[:, 0].tolist() == [1.0 + 0.25 * 5.5, 5.5, 1.0]
