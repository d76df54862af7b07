import math

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import current, finger_sum, make, place_fingers, put_in

# Where the right and the left handle start, the sums of the fingers' distances to them, the
# reward of that state, whether the leaves swing to +x.
TASKS = {
    "DoorOpenInward": (
        ((0.0485, 0.0365, 0.7167), (0.0456, -0.0304, 0.7167)),
        (1.053, 1.167),
        -0.22,
        True,
    ),
    "DoorOpenOutward": (
        ((0.0315, 0.0365, 0.6833), (0.0344, -0.0304, 0.6833)),
        (1.011, 1.094),
        -0.105,
        False,
    ),
    "DoorCloseInward": (
        ((0.3985, 0.4662, 0.7167), (0.3956, -0.4601, 0.7167)),
        (0.639, 0.773),
        0.588,
        True,
    ),
    "DoorCloseOutward": (
        ((-0.3984, 0.3862, 0.6833), (-0.3956, -0.3801, 0.6833)),
        (2.648, 2.652),
        0.70,
        False,
    ),
}
# Distance of the handles along the wall at equal angles of the leaves.
GAPS = {
    True: {0.3: 0.125, 0.6: 0.248, 0.9: 0.425, 1.2: 0.639, math.pi / 2: 0.927},
    False: {0.3: 0.078, 0.6: 0.158, 0.9: 0.299, 1.2: 0.490, math.pi / 2: 0.767},
}
HINGES = slice(62, 64)


def closing(name):
    return name.startswith("DoorClose")


def place_handles(env, row, gap):
    """Overwrites the readings of the handles; returns where they are."""
    points = ((0.3, gap - 0.1, 0.7), (0.3, -0.1, 0.7))
    env.object_sensors[row] = torch.tensor(points).flatten()
    return points


@pytest.mark.parametrize("name", TASKS)
def test_every_reset_is_the_state_of_the_table(name):
    points, sums, reward, _ = TASKS[name]
    env = make(name, 2)
    env.reset()
    np.testing.assert_allclose(env.handles().numpy(), [points] * 2, atol=1e-4)
    np.testing.assert_allclose(env.finger_distances(env.handles()).numpy(), [sums] * 2, atol=1e-3)
    np.testing.assert_allclose(env.evaluate().reward.numpy(), reward, atol=5e-3)
    angle = 1.57 if closing(name) else 0.0
    np.testing.assert_allclose(env.sim.qpos[:, HINGES].numpy(), angle, atol=1e-6)
    assert not env.sim.qvel.any()
    assert torch.equal(env.reset()[0], env.reset()[1])
    assert env.max_episode_length == 250


@pytest.mark.parametrize("name", TASKS)
def test_angles_move_the_handles_apart_and_to_the_right_side(name):
    inward = TASKS[name][3]
    env = make(name, 1)
    env.reset()
    closed = None
    for angle, gap in {0.0: 0.067, **GAPS[inward]}.items():
        env.sim.qpos[:, HINGES] = angle
        env.sim.forward()
        assert env.evaluate().terms["door_gap"].item() == pytest.approx(gap, abs=1e-3)
        x = env.handles()[0, :, 0]
        closed = x.clone() if closed is None else closed
    assert (x - closed > 0.3).all() if inward else (x - closed < -0.3).all()


@pytest.mark.parametrize("name", TASKS)
def test_tail_and_finger_distances_of_a_state_put_in_by_hand(name):
    inward = TASKS[name][3]
    env = make(name, 3)
    env.reset()
    put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    fingers = env.finger_distances(env.handles()).numpy()
    height = 0.04 if inward else -0.04
    for row in range(3):
        data = current(env, row)
        handles = []
        for h, (leaf, x) in enumerate((("right_leaf", 0.39), ("left_leaf", -0.39))):
            body = data.body(leaf)
            handles.append(body.xpos + body.xmat.reshape(3, 3) @ (x, -0.5, height))
            expected = finger_sum(env.sim.model, data, h, handles[h])
            assert fingers[row, h] == pytest.approx(expected, rel=1e-5)
        pose = (0, 0, 0.7, *((0, 1, 0, 0) if inward else (0, 0, 0, 1)))
        expected = np.concatenate((pose, np.zeros(6), handles[1], handles[0]))
        np.testing.assert_allclose(tail[row], expected, atol=1e-5)


# Finger distances of hand 0 and hand 1, gap of the handles; with the bonus of near hands or not.
STATES = [
    ((0.4, 0.3), 0.7, True),
    ((0.4, 0.3), 0.2, True),
    ((0.49, 0.51), 0.7, False),
    ((0.51, 0.2), 0.2, False),
    ((1.49, 1.0), 0.51, False),
    ((1.0, 1.51), 0.49, False),
    ((2.99, 3.01), 0.49, False),
]


@pytest.mark.parametrize(
    ("name", "clip"),
    [*((name, False) for name in TASKS), *((n, True) for n in TASKS if closing(n))],
)
def test_reward_success_and_termination_by_hand(name, clip):
    env = make(name, len(STATES), **({"clip_near_bonus": True} if clip else {}))
    env.reset()
    for row, (sums, gap, _) in enumerate(STATES):
        place_fingers(env, row, place_handles(env, row, gap), sums)
    outcome = env.evaluate()
    offset = 6.0 if name == "DoorCloseOutward" else 2.0
    limit = 3.0 if name == "DoorCloseOutward" else 1.5
    closed = [0.0 if clip else -0.4, 0.6]  # 1 - 2 gap
    bonus = closed if closing(name) else [1.4, 0.4]  # 2 gap
    for row, (sums, gap, near) in enumerate(STATES):
        expected = offset - sum(sums) + (bonus[row] if near else 0.0)
        assert outcome.reward[row].item() == pytest.approx(expected, abs=1e-5)
        assert outcome.terminated[row].item() == (max(sums) >= limit)
        assert outcome.success[row].item() == ((gap < 0.5) == closing(name))
    assert outcome.terms["near_handles"].tolist() == [1, 1, 0, 0, 0, 0, 0]


def test_door_is_built_to_the_originals_sizes():
    env = make("DoorOpenOutward", 1)
    model = env.sim.model
    for leaf in ("right", "left"):
        hinge = model.joint(f"{leaf}_hinge")
        np.testing.assert_allclose(hinge.range, (0, math.pi / 2))
        assert (hinge.damping[0], hinge.stiffness[0]) == (1.0, 0.0)
        box = model.geom(f"{leaf}_leaf")
        np.testing.assert_allclose(2 * box.size, (0.4405, 0.925, 0.0176), atol=1e-4)
        # 500 kg/m^3, and six capsules of 0.11 kg.
        mass = 500 * 0.4405 * 0.925 * 0.0176 + 0.66
        assert model.body(f"{leaf}_leaf").mass[0] == pytest.approx(mass, rel=1e-3)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    # Extent of the right leaf's handle before and behind it, in the world: y = -x, z = y + 0.7.
    for side, x in (("front", (-0.0912, -0.0103)), ("back", (0.0073, 0.0848))):
        corners = []
        for part in ("bar", "low_post", "high_post"):
            geom = model.geom(f"right_{side}_{part}")
            axis = data.geom(geom.name).xmat.reshape(3, 3)[:, 2] * geom.size[1]
            ends = data.geom(geom.name).xpos + np.outer((-1, 1), axis)
            corners += [ends - geom.size[0], ends + geom.size[0]]
        low, high = np.min(corners, axis=(0, 1)), np.max(corners, axis=(0, 1))
        outer = (low, high)[side == "back"][0]
        assert outer == pytest.approx(x[side == "back"], abs=1e-3)
        np.testing.assert_allclose((low[1], high[1]), (0.0344, 0.0696), atol=2e-3)
        np.testing.assert_allclose((low[2], high[2]), (0.5074, 0.8067), atol=2e-3)


def test_a_spring_pulls_to_the_initial_angle():
    env = make("DoorCloseInward", 1, spring=5.0)
    env.reset()
    env.sim.qpos[:, HINGES] = 0.57
    data = current(env, 0)
    torque = [data.joint(f"{leaf}_hinge").qfrc_passive[0] for leaf in ("right", "left")]
    np.testing.assert_allclose(torque, 5.0, rtol=1e-5)
    plain = make("DoorCloseInward", 1)
    plain.reset()
    plain.sim.qpos[:, HINGES] = 0.57
    assert not current(plain, 0).qfrc_passive[60:].any()


def test_who_touches_whom_and_with_which_friction():
    env = make("DoorOpenInward", 1)
    model = env.sim.model
    groups = {"hand0": [], "hand1": [], "door": []}
    for i in range(model.ngeom):
        name = model.geom(i).name
        if model.geom_contype[i]:
            groups[name[:5] if name.startswith("hand") else "door"].append(i)
    assert [len(group) for group in groups.values()] == [20, 20, 16]
    for a, firsts in groups.items():
        for b, seconds in groups.items():
            for i in firsts:
                for j in seconds:
                    touch = (model.geom_contype[i] & model.geom_conaffinity[j]) or (
                        model.geom_contype[j] & model.geom_conaffinity[i]
                    )
                    assert bool(touch) == (a != b)
    # Hand 0 into the right leaf, hand 1 into hand 0.
    env.reset()
    env.base_pose[0, 0, 0] -= 0.2
    env.base_pose[0, 1, :3] = env.base_pose[0, 0, :3]
    data = current(env, 0)
    seen = {}
    for contact in data.contact:
        names = [model.geom(g).name for g in contact.geom]
        hands = sum(name.startswith("hand") for name in names)
        if hands == 2 and names[0][:5] == names[1][:5]:
            assert contact.dim == 1
            continue
        seen.setdefault(hands, set()).add((round(contact.friction[0], 6), contact.dim))
    assert seen[1] == {(0.55, 4)}
    assert seen[2] == {(1.0, 3)}


def test_hands_do_not_pass_through_a_closed_door():
    env = make("DoorOpenInward", 1, base_gain=1.0)
    env.reset()
    push = torch.full((1, 52), -1.0)  # open hands, to -x
    push[:, [1, 2, 3, 4, 5, 27, 28, 29, 30, 31]] = 0.0
    for _ in range(60):
        env.sim.ctrl[:, 20:29] = 0.0
        env.last_action.copy_(push)
        env._write_controls(push)
        env.sim.step(2)
    x = env.fingertips()[..., 0]
    assert x.min() > -0.02
    assert env.sim.qpos[:, HINGES].abs().max() < 0.1
