import math

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import make, noise
from scipy.spatial.transform import Rotation

from madpo_isaac.errors import UserError

STARTS = torch.tensor(((0.0, -0.39, 0.6), (0.0, -0.76, 0.6)))
GOALS = STARTS - torch.tensor((0.0, 0.0, 0.04))


def place(env, offsets, turns):
    """Cubes by ``offsets`` (N, 2) meters below their goals, turned by ``turns`` from the goals."""
    env.reset()
    down = torch.tensor(offsets, dtype=torch.float32)[..., None] * torch.tensor((0.0, 0.0, 1.0))
    env.object_poses[..., :3] = GOALS - down
    for k in range(2):
        goal = Rotation.from_quat(env.goal_quats[:, k].numpy(), scalar_first=True)
        axis = np.tile((0.0, 0.6, 0.8), (env.num_envs, 1))
        turned = Rotation.from_rotvec(np.array(turns)[:, k, None] * axis) * goal
        env.object_poses[:, k, 3:] = torch.tensor(turned.as_quat(scalar_first=True))


OFFSETS = ((0.0, 0.0), (0.1, 0.02), (0.35, 0.0), (0.37, 0.0))
TURNS = ((0.0, 0.05), (0.5, 2.0), (0.09, 1.0), (3.0, 0.11))


def rewards(both):
    reached = (True, False, not both, False)
    shaped = [
        sum(1 / (t + 0.1) for t in turn) - 10 * sum(offset)
        for turn, offset in zip(TURNS, OFFSETS, strict=True)
    ]
    return [r + 500 * bonus for r, bonus in zip(shaped, reached, strict=True)], list(reached)


@pytest.mark.parametrize("both", [False, True])
def test_reward_success_and_termination_by_hand(both):
    env = make("ReOrientation", 4, both_cubes=both)
    place(env, OFFSETS, TURNS)
    env.last_action[:] = 0.5
    outcome = env.evaluate()
    expected, reached = rewards(both)
    penalty = 2e-4 * 40 * 0.25
    np.testing.assert_allclose(outcome.reward.numpy(), np.array(expected) - penalty, rtol=2e-3)
    assert outcome.success.tolist() == reached
    assert outcome.terminated.tolist() == [False, False, False, True]  # below 0.2 m
    assert env.max_episode_length == 600 and env.state_dim == 422 and env.action_dim == 40


def test_a_distance_of_success_is_refused_since_the_angle_decides():
    with pytest.raises(UserError, match=r"success_distance=0.5 has no effect.*success_angle"):
        make("ReOrientation", 2, success_distance=0.5)


def test_only_a_reached_goal_is_replaced_and_one_step_later():
    env = make("ReOrientation", 3, seed=1)
    place(env, 3 * ((0.0, 0.0),), ((2.0, 2.0), (0.0, 2.0), (2.0, 0.0)))
    env.evaluate()
    before = env.goal_quats.clone()
    step = env.step(torch.zeros(3, 40))
    changed = (env.goal_quats != before).any(2)
    assert changed.tolist() == [[False, False], [True, True], [True, True]]
    np.testing.assert_allclose(env.goal_quats.norm(dim=2).numpy(), 1.0, atol=1e-6)
    # The observation that follows shows the new goals.
    tail = step.state[:, 374:].unflatten(1, (2, 24))
    assert torch.equal(tail[..., 16:20], env.goal_quats.roll(-1, 2))


def test_a_saved_environment_remembers_a_reached_goal():
    env, other = make("ReOrientation", 2, seed=1), make("ReOrientation", 2, seed=9)
    place(env, 2 * ((0.0, 0.0),), 2 * ((0.0, 1.0),))
    env.evaluate()
    other.reset()
    other.load_state_dict(env.state_dict())
    for action in noise(env, 3):
        a, b = env.step(action), other.step(action)
        assert all(torch.equal(x, y) for x, y in zip(a[:5], b[:5], strict=True))


def test_cubes_start_above_their_hands_turned_independently():
    env = make("ReOrientation", 256, reset_object_pos_noise=0.01)
    env.reset()
    offset = env.object_poses[..., :3] - STARTS
    assert offset.abs().max() <= 0.01 + 1e-6 and offset.std() > 0.005
    for quats in (env.object_poses[..., 3:], env.goal_quats):
        turn = np.corrcoef(quats[:, 0, 0].numpy(), quats[:, 1, 0].numpy())[0, 1]
        assert abs(turn) < 4 / math.sqrt(256)
    model = env.sim.model
    for name in ("object", "object1"):
        assert model.geom(name).type == mujoco.mjtGeom.mjGEOM_BOX
        np.testing.assert_allclose(model.geom(name).size, 0.025)
        assert model.body(name).mass[0] == pytest.approx(567 * 0.05**3, rel=1e-6)
    names = [{model.geom(a).name, model.geom(b).name} for a, b in zip(
        model.pair_geom1, model.pair_geom2, strict=True)]  # fmt: skip
    assert {"object", "object1"} in names and len(names) == 80 + 36 + 1


def test_flat_hands_hold_their_cubes():
    env = make("ReOrientation", 32, reset_dof_pos_noise=0.0, seed=3)
    env.reset()
    targets = torch.zeros(32, 40)
    for _ in range(60):
        step = env.step(targets)
    assert not step.log["diverged"].any()
    assert (env.object_poses[..., 2] > 0.45).float().mean() > 0.8
