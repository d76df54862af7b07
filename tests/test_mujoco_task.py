"""Episodes, observations and settings of multi-agent MuJoCo."""

import math

import numpy as np
import pytest
import torch

from madpo_isaac import tasks
from madpo_isaac.config.nodes import task_settings
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.mujoco import robots
from madpo_isaac.tasks.mujoco.partitions import SCENARIOS
from madpo_isaac.tasks.mujoco.robots import ANT, HUMANOID, WALKER2D, control_cost, locomotion_reward


def make(name, num_envs=3, **settings):
    return tasks.make(name, num_envs, num_threads=1, **settings)


def walk(env, steps, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        yield env.step(torch.randn(env.num_envs, env.action_dim, generator=generator))


def test_reward_terms_by_hand():
    control = torch.tensor([[1.0, -2.0], [0.5, 0.0]])
    torch.testing.assert_close(control_cost(control, 0.1), torch.tensor([0.5, 0.025]))
    velocity, cost = torch.tensor([2.0, -1.0]).double(), torch.tensor([0.5, 0.25]).double()
    expected = {robots.HALF_CHEETAH: [1.5, -1.25], ANT: [2.5, -0.25], HUMANOID: [7.0, 3.5]}
    for robot, reward in expected.items():
        got = locomotion_reward(robot, velocity, cost)
        torch.testing.assert_close(got, torch.tensor(reward).double())


@pytest.mark.parametrize(
    ("robot", "columns", "rows"),
    [
        (WALKER2D, (1, 2), [(1.2, 0.0, 1), (0.8, 0.0, 0), (2.0, 0.0, 0), (1.2, -1.0, 0)]),
        (ANT, (2,), [(0.2, 1), (1.0, 1), (0.19, 0), (1.01, 0), (math.nan, 0)]),
        (HUMANOID, (2,), [(1.4, 1), (1.0, 0), (2.0, 0), (math.nan, 0)]),
    ],
)
def test_healthy_ranges_with_their_limits(robot, columns, rows):
    qpos = torch.zeros(len(rows), 24, dtype=torch.float64)
    qpos[:, list(columns)] = torch.tensor([row[:-1] for row in rows], dtype=torch.float64)
    healthy = robot.healthy(qpos, torch.zeros_like(qpos))
    assert healthy.tolist() == [bool(row[-1]) for row in rows]


def test_an_ant_with_a_velocity_that_is_not_finite_is_not_healthy():
    qpos, qvel = torch.full((2, 15), 0.5), torch.zeros(2, 14)
    qvel[1, 3] = math.inf
    assert ANT.healthy(qpos, qvel).tolist() == [True, False]


def test_control_cost_is_on_the_action_as_given_and_the_humanoids_on_its_control():
    for name, weight in (("HalfCheetah-2x3", 0.1), ("Humanoid-17x1", 0.1 * 0.4**2)):
        env = make(name)
        env.reset()
        action = torch.full((3, env.action_dim), 3.0)  # three times the actuators' range
        cost = env.step(action).log["control_cost"].float()
        torch.testing.assert_close(cost, torch.full((3,), weight * 9.0 * env.action_dim))


def test_actions_reach_the_actuators_in_the_agents_order():
    env = make("Ant-4x2")
    env.reset()
    action = torch.arange(24.0).view(3, 8) / 24
    env.step(action)
    torch.testing.assert_close(env.sim.ctrl, action)
    driven = torch.cat([action[:, agent.action_slice] for agent in env.agents], dim=1)
    torch.testing.assert_close(driven, action)


@pytest.mark.parametrize("name", SCENARIOS)
def test_agents_see_the_standardized_state_and_their_number(name):
    env = make(name)
    state = env.reset()
    for step in walk(env, 5):
        state = step.state
    seen = env.observations(state)
    x = state.double().numpy()
    for i, agent in enumerate(env.agents):
        number = np.zeros((3, len(env.agents)))
        number[:, i] = 1.0
        vector = np.concatenate((x, number), axis=1)
        z = (vector - vector.mean(1, keepdims=True)) / vector.std(1, keepdims=True)
        np.testing.assert_allclose(seen[i], z, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(agent.observe(state), seen[i])
        assert seen[i].shape == (3, agent.obs_dim)
        assert (seen[i][:, env.state_dim :].argmax(1) == i).all()
    z = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    np.testing.assert_allclose(env.critic_view(state), z, rtol=1e-4, atol=1e-5)


def test_a_constant_state_is_seen_as_zeros():
    env = make("HalfCheetah-2x3")
    assert env.critic_view(torch.zeros(2, 17)).tolist() == torch.zeros(2, 17).tolist()


def test_with_agent_obsk_agents_see_columns_of_the_state():
    env = make("HalfCheetah-6x1", agent_obsk=0)
    state = env.reset()
    # Own position and velocity, then the height, pitch and three velocities of the torso.
    own = {0: [2, 11], 5: [7, 16]}
    for i, columns in own.items():
        expected = state[:, [*columns, 0, 1, 8, 9, 10]]
        torch.testing.assert_close(env.observations(state)[i], expected)
    assert [agent.obs_dim for agent in make("HalfCheetah-6x1", agent_obsk=1).agents] == [
        *(9, 9, 8, 9, 9, 8)
    ]


def test_episodes_are_truncated_at_the_limit_and_start_anew():
    env = make("HalfCheetah-2x3", episode_length=4)
    env.reset()
    *before, last = walk(env, 4)
    assert not any(step.truncated.any() or step.terminated.any() for step in before)
    assert last.truncated.all()
    assert not last.terminated.any()
    assert last.log["success"].tolist() == [1.0] * 3
    assert (last.state != last.final_state).any(dim=1).all()
    torch.testing.assert_close(last.state, env.observe())
    assert not next(walk(env, 1)).truncated.any()


def test_a_fall_at_the_limit_is_a_termination():
    env = make("Walker2d-2x3", episode_length=1)
    env.reset()
    env.sim.qpos[1, 1] = 0.5
    env.sim.forward()
    step = next(walk(env, 1))
    assert step.terminated.tolist() == [False, True, False]
    assert step.truncated.tolist() == [True, False, True]
    assert step.log["success"].tolist() == [1.0, 0.0, 1.0]


def test_a_fall_is_no_success():
    env = make("Walker2d-2x3", episode_length=9)
    env.reset()
    env.sim.qpos[1, 1] = 0.5
    env.sim.forward()
    step = next(walk(env, 1))
    assert step.terminated.tolist() == [False, True, False]
    assert step.log["success"].tolist() == [0.0, 0.0, 0.0]


def test_the_alive_bonus_is_paid_on_the_falling_step_only_by_v2():
    rewards = {}
    for version in ("v2", "v5"):
        env = make("Walker2d-2x3", version=version)
        env.reset()
        env.sim.qpos[1, 1] = 5.0
        env.sim.forward()
        step = env.step(torch.zeros(3, 6))
        rewards[version] = step.reward - step.log["forward_velocity"] + step.log["control_cost"]
    torch.testing.assert_close(rewards["v2"], torch.ones(3).double())
    torch.testing.assert_close(rewards["v5"], torch.tensor([1.0, 0.0, 1.0]).double())


def test_physics_that_blow_up_end_the_episode_without_reward():
    env = make("HalfCheetah-2x3")
    env.reset()
    env.sim.qvel[1] = 1e12
    step = next(walk(env, 1))
    assert step.terminated.tolist() == [False, True, False]
    assert step.log["diverged"].tolist() == [False, True, False]
    assert step.reward[1] == 0.0
    assert torch.isfinite(step.state).all()
    assert not next(walk(env, 1)).terminated.any()


@pytest.mark.parametrize("name", ["Walker2d-6x1", "Ant-2x4", "Humanoid-17x1"])
def test_a_restored_environment_repeats_bit_for_bit(name):
    env, other = make(name), make(name, seed=9)
    env.reset()
    other.reset()
    list(walk(env, 40))
    other.load_state_dict(env.state_dict())
    for a, b in zip(walk(env, 40, seed=1), walk(other, 40, seed=1), strict=True):
        assert torch.equal(a.state, b.state)
        assert torch.equal(a.reward, b.reward)


def test_same_seed_same_episodes():
    first, second, third = (make("Ant-8x1", seed=seed).reset() for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Ant-2x4", {"version": "v5"}, "contact forces"),
        ("Humanoid-17x1", {"version": "v5"}, "contact forces"),
        ("Ant-2x4", {"version": "v9"}, "Unknown task.version 'v9'"),
        ("Ant-2x4", {"agent_obsk": -1}, "agent_obsk=-1"),
        ("Ant-2x4", {"episode_length": 0}, "episode_length=0"),
        ("HalfCheetah-2x4", {}, "Did you mean 'HalfCheetah-"),
    ],
)
def test_bad_settings_give_one_clear_line(name, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        make(name, **settings)
    assert "\n" not in str(caught.value)


def test_an_action_of_the_wrong_shape_is_refused():
    env = make("HalfCheetah-2x3")
    env.reset()
    with pytest.raises(ValueError, match=r"expected \(3, 6\)"):
        env.step(torch.zeros(3, 5))


def test_the_papers_names_are_understood():
    assert make("Ant-v2-4x2").partition == SCENARIOS["Ant-4x2"]
    assert compose(["task=HalfCheetah-v2-2x3"]).task.name == "HalfCheetah-2x3"


@pytest.mark.parametrize(
    ("name", "hidden", "lr", "clip", "lam"),
    [
        ("Ant-8x1", [64, 64], 5e-4, 0.2, 0.5),
        ("HalfCheetah-3x2", [64, 64], 5e-4, 0.2, 0.2),
        ("HalfCheetah-6x1", [64, 64], 5e-4, 0.2, 0.1),
        ("Walker2d-2x3", [256, 256], 1e-3, 0.05, 0.1),
        ("Humanoid-17x1", [256, 256], 5e-4, 0.1, 0.5),
    ],
)
def test_hyper_parameters_are_the_papers(name, hidden, lr, clip, lam):
    config = compose([f"task={name}", "algo=madpo", "recipe=paper"])
    algo = config.algo
    assert (list(algo.hidden), algo.actor_lr, algo.critic_lr, algo.clip) == (hidden, lr, lr, clip)
    assert (algo.divergence.lam, algo.gamma, algo.epochs, algo.horizon) == (lam, 0.99, 5, 200)
    assert config.num_envs == 20
    assert config.num_envs * algo.horizon * config.max_iterations == 10_000_000
    assert task_settings(config.task) == {
        "version": "v2",
        "observation": "standardized",
        "agent_obsk": None,
        "episode_length": 1000,
    }
