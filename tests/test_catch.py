import math

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import current, make, put_in, xyzw
from scipy.spatial.transform import Rotation

# Start of the egg and its noise, goal, distance scale, height of a fall, noise of the joints,
# length of an episode.
TASKS = {
    "CatchUnderarm": ((0, -0.39, 0.54), 0.01, (0, -0.79, 0.54), 50, 0.1, 0.2, 75),
    "CatchOver2Underarm": ((0, 0.05, 1.0), 0, (0, -0.4, 0.55), 20, 0.3, 0, 75),
    "CatchAbreast": ((-0.39, -0.55, 0.54), 0, (-0.39, -1.15, 0.54), 50, 0.2, 0, 150),
}
EGG_QPOS, EGG_DOF = slice(62, 69), slice(60, 66)
LEASHED = ("CatchOver2Underarm", "CatchAbreast")


def place_egg(env, row, pos, quat=(1.0, 0.0, 0.0, 0.0)):
    env.sim.qpos[row, EGG_QPOS] = torch.tensor((*pos, *quat), dtype=torch.float32)
    env.sim.qvel[row, EGG_DOF] = 0.0


@pytest.mark.parametrize("name", TASKS)
def test_starts_and_goals(name):
    start, half_width, goal, _, _, joint_noise, length = TASKS[name]
    env = make(name, 64)
    env.reset()
    assert env.max_episode_length == length
    offset = env.sim.qpos[:, 62:65].numpy() - np.array(start)
    assert (np.abs(offset) <= half_width + 1e-6).all()
    assert (np.abs(offset).max(0) >= 0.8 * half_width).all()
    assert (env.joint_pos.abs().max() > 0).item() == (joint_noise > 0)
    low, high = env.sim.model.jnt_range[1:25].T
    reach = joint_noise * (np.abs(low) + high - low) + 1e-6
    assert (env.joint_pos.abs().numpy() <= reach).all()
    np.testing.assert_allclose(env.goal_positions[:, 0].numpy(), [goal] * 64, atol=1e-6)
    for quat in (env.sim.qpos[:, 65:69].numpy(), env.goal_quats[:, 0].numpy()):
        w, x, y, z = quat.T
        np.testing.assert_allclose(w * z, x * y, atol=1e-6)  # Rx Ry
        assert len(np.unique(quat, axis=0)) == 64
    assert not env.sim.qvel.any()


@pytest.mark.parametrize("name", TASKS)
def test_tail_of_a_state_put_in_by_hand(name):
    env = make(name, 3)
    env.reset()
    put = put_in(env, seed=4)
    quats = np.random.default_rng(1).normal(size=(3, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    env.goal_quats[:, 0].copy_(torch.tensor(quats))
    tail = env.observe().numpy()[:, 398:]
    for row in range(3):
        pose, vel = put["qpos"][row, EGG_QPOS], put["qvel"][row, EGG_DOF]
        spin = Rotation.from_quat(pose[3:], scalar_first=True).apply(vel[3:])
        relative = np.zeros(4)
        mujoco.mju_mulQuat(relative, pose[3:], quats[row] * [1, -1, -1, -1])
        goal = (*TASKS[name][2], *xyzw(quats[row]))
        expected = (pose[:3], xyzw(pose[3:]), vel[:3], 0.2 * spin, goal, xyzw(relative))
        np.testing.assert_allclose(tail[row], np.concatenate(expected), atol=1e-5)


@pytest.mark.parametrize("name", TASKS)
def test_reward_success_and_fall_by_hand(name):
    _, _, goal, scale, fall, _, _ = TASKS[name]
    env = make(name, 5, reset_dof_pos_noise=0.0)
    env.reset()
    angles = np.array([0.0, 1.0, 2.5, 0.5, 0.5])
    turned = Rotation.from_rotvec([[0.3, -0.2, 0.5]] * 5)
    egg = Rotation.from_rotvec(angles[:, None] * (0.0, 0.6, -0.8)) * turned
    env.goal_quats[:, 0].copy_(torch.tensor(turned.as_quat(scalar_first=True)))
    offsets = np.array(
        [(0, 0, 0), (0.02, -0.01, 0.02), (0, 0.0301, 0), (0, 0, fall + 1e-4 - goal[2]), (0, 0, 0)]
    )
    offsets[4, 2] = fall - 1e-4 - goal[2]
    for row, quat in enumerate(egg.as_quat(scalar_first=True)):
        place_egg(env, row, goal + offsets[row], quat)
    outcome = env.evaluate()
    # Distances 0, 0.03 and 0.0301 (a success is below 0.03: made 0.0299 below).
    drop = goal[2] - fall
    distances = np.array([0, 0.03, 0.0301, drop - 1e-4, drop + 1e-4])
    expected = np.exp(-0.2 * (scale * distances + angles))
    np.testing.assert_allclose(outcome.reward.numpy(), expected, rtol=2e-4)
    assert outcome.success[[0, 2, 3, 4]].tolist() == [True, False, False, False]
    assert outcome.terminated.tolist() == [False] * 4 + [True]
    place_egg(env, 2, goal + np.array((0, 0, -0.0299)))
    assert env.evaluate().success[2]
    # The numbers themselves, for two of the rows: exp(0) and exp(-0.2 (30 or 12 per mm + 1)).
    first_two = {50: (1.0, math.exp(-0.5)), 20: (1.0, math.exp(-0.32))}[scale]
    np.testing.assert_allclose(outcome.reward[:2].numpy(), first_two, rtol=2e-4)


@pytest.mark.parametrize("name", LEASHED)
@pytest.mark.parametrize("h", [0, 1])
def test_episode_ends_where_a_hand_is_10_cm_from_its_place(name, h):
    env = make(name, 3)
    env.reset()
    assert not env.evaluate().terminated.any()
    # Abreast measures from (-0.3, -0.55 or -1.15, 0.5) to the palm, which starts a bit beside.
    place = {
        "CatchOver2Underarm": ((0, 0, 0.5), (0, -0.8, 0.5)),
        "CatchAbreast": ((-0.3, -0.55, 0.5), (-0.3, -1.15, 0.5)),
    }[name][h]
    data = current(env, 0)
    part = "hand mount" if name == "CatchOver2Underarm" else "palm"
    start = data.body(f"hand{h}_robot0:{part}").xpos
    for row, distance in enumerate((0.0, 0.0999, 0.1001)):
        target = np.array(place) + distance * np.array((0.6, 0.0, -0.8))
        env.base_pose[row, h, :3] += torch.tensor(target - start, dtype=torch.float32)
    env.sim.forward()
    assert env.evaluate().terminated.tolist() == [False, False, True]


def test_a_hand_of_catch_underarm_may_go_where_it_likes():
    env = make("CatchUnderarm", 1)
    env.reset()
    env.base_pose[0, 1, :3] += 1.0
    env.sim.forward()
    assert not env.evaluate().terminated.any()


@pytest.mark.parametrize("name", TASKS)
def test_a_reset_takes_the_hands_back_and_stops_them(name):
    env = make(name, 2, reset_dof_pos_noise=0.0)
    first = env.reset().clone()
    push = torch.zeros(2, 52)
    push[:, :3] = push[:, 26:29] = 1.0
    for _ in range(5):
        env.step(push)
    place_egg(env, 1, (0.0, -0.5, 0.05))
    step = env.step(push)
    assert step.terminated[1]
    again, before = (s[1, :398].unflatten(0, (2, 199)).numpy() for s in (step.state, first))
    for columns in (slice(0, 137), slice(167, 199)):  # the egg, anew, may press on fingers
        np.testing.assert_allclose(again[:, columns], before[:, columns], atol=1e-5)
    assert not env.sim.qvel[1].any()
    assert not env.sim.ctrl[1, 20:29].any()


def test_everything_can_touch_everything():
    env = make("CatchUnderarm", 1)
    model = env.sim.model
    names = [model.geom(i).name for i in range(model.ngeom)]
    solid = [n for n in names if n.split("_")[0] in ("hand0", "hand1") and "C_" in n]
    assert len(solid) == 40
    pairs = {
        frozenset((model.geom(a).name, model.geom(b).name))
        for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)
    }
    assert len(pairs) == model.npair == 400 + 40 + 36
    assert all(frozenset(("object", name)) in pairs for name in solid)
    for a in solid:
        for b in solid:
            if a.startswith("hand0") and b.startswith("hand1"):
                assert frozenset((a, b)) in pairs
    np.testing.assert_allclose(model.pair_friction[:, 0], 1.0)
    boxes = model.geom_type == mujoco.mjtGeom.mjGEOM_BOX
    both = boxes[model.pair_geom1] & boxes[model.pair_geom2]
    assert both.any() and not model.pair_margin[both].any()


def test_two_eggs_are_swapped():
    env = make("TwoCatchUnderarm", 4, reset_dof_pos_noise=0.0)
    env.reset()
    assert env.max_episode_length == 75
    starts, goals = ((0, -0.39, 0.54), (0, -0.78, 0.54)), ((0, -0.79, 0.54), (0, -0.38, 0.54))
    assert (env.object_poses[..., :3] - torch.tensor(starts)).abs().max() <= 0.01 + 1e-6
    # Offsets of the two eggs from their goals, their turns; exp(-10 d - 0.2 turn), summed.
    offsets = np.array(((0.0, 0.0), (0.059, 0.0), (0.03, 0.0301), (0.1, 0.35)))
    turns = np.array(((0.0, 0.0), (1.0, 0.0), (0.0, 2.0), (0.5, 0.5)))
    env.goal_quats[:] = torch.tensor((1.0, 0.0, 0.0, 0.0))
    for k in range(2):
        env.object_poses[:, k, :3] = torch.tensor(goals[k]) - torch.tensor((0.0, 0.0, 1.0)) * (
            torch.tensor(offsets[:, k, None], dtype=torch.float32)
        )
        turned = Rotation.from_rotvec(turns[:, k, None] * (0, 0.6, 0.8))
        env.object_poses[:, k, 3:] = torch.tensor(turned.as_quat(scalar_first=True))
    outcome = env.evaluate()
    expected = np.exp(-10 * offsets - 0.2 * turns).sum(1)
    np.testing.assert_allclose(outcome.reward.numpy(), expected, rtol=3e-4)
    assert outcome.reward[0].item() == 2.0
    # The distances' sum is below 6 cm.
    assert outcome.success.tolist() == [True, True, False, False]
    assert outcome.terminated.tolist() == [False, False, False, True]  # 0.19 m up
    tail = env.observe()[:, 398:]
    np.testing.assert_allclose(tail[2, 24:27].numpy(), (0, -0.38, 0.54 - 0.0301), atol=1e-6)
    np.testing.assert_allclose(tail[2, 37:40].numpy(), goals[1], atol=1e-6)
    half = (0, 0.6 * math.sin(1), 0.8 * math.sin(1), math.cos(1))
    for columns in (slice(27, 31), slice(44, 48)):
        np.testing.assert_allclose(tail[2, columns].numpy(), half, atol=1e-6)
    model = env.sim.model
    pairs = [{a, b} for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)]
    assert {model.geom("object").id, model.geom("object1").id} in pairs
    assert len(pairs) == 400 + 80 + 36 + 1
