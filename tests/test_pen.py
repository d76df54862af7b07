import math

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import current, finger_sum, make, place_fingers, put_in, xyzw
from scipy.spatial.transform import Rotation

QPOS, DOF = slice(62, 69), slice(60, 66)
SLIDE_QPOS, SLIDE_DOF = 69, 66


def test_every_reset_is_the_state_of_the_table():
    env = make("Pen", 2)
    state = env.reset()
    assert env.max_episode_length == 125
    # On the table instead of half inside it, else as the original.
    np.testing.assert_allclose(env.handles()[1].numpy(), ((0, 0.1, 0.612), (0, -0.07, 0.612)))
    sums = env.finger_distances(env.handles())[1].numpy()
    np.testing.assert_allclose(sums, (1.1953, 1.3370), atol=1e-3)
    np.testing.assert_allclose(state[1, 398:405].numpy(), (0, 0, 0.612, 0.5, 0.5, -0.5, 0.5))
    assert torch.equal(state[0], state[1])


def test_tail_of_a_state_put_in_by_hand():
    env = make("Pen", 3)
    env.reset()
    put = put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    fingers = env.finger_distances(env.handles()).numpy()
    for row in range(3):
        pose, vel = put["qpos"][row, QPOS], put["qvel"][row, DOF]
        turn = Rotation.from_quat(pose[3:], scalar_first=True)
        # The pen's axis is the z axis of its root: y of the original's link, seen from the root.
        body, cap = (0, 0, 0.07), (0, 0, -0.1 - put["qpos"][row, SLIDE_QPOS])
        points = [pose[:3] + turn.apply(point) for point in (cap, body)]
        spin = 0.2 * turn.apply(vel[3:])
        expected = np.concatenate((pose[:3], xyzw(pose[3:]), vel[:3], spin, *points))
        np.testing.assert_allclose(tail[row], expected, atol=1e-5)
        data = current(env, row)
        for h in range(2):
            expected = finger_sum(env.sim.model, data, h, points[h])
            assert fingers[row, h] == pytest.approx(expected, rel=1e-5)


# Finger distances, distance of the handle points, reward: exp(-10 S) twice and 5 D - 0.8 if near.
STATES = [
    ((0.1, 0.2), 0.17, math.exp(-1) + math.exp(-2) + 0.05),
    ((0.74, 0.6), 0.30001, math.exp(-7.4) + math.exp(-6) + 0.70005),
    ((0.76, 0.1), 0.29999, math.exp(-7.6) + math.exp(-1)),
    ((1.49, 0.3), 0.4, math.exp(-14.9) + math.exp(-3)),
    ((0.3, 1.51), 0.662, math.exp(-3) + math.exp(-15.1)),
]


@pytest.mark.parametrize("mean", [False, True])
def test_reward_success_and_termination_by_hand(mean):
    env = make("Pen", len(STATES), mean_finger_distance=mean)
    env.reset()
    for row, (sums, distance, _) in enumerate(STATES):
        points = ((0.1, 0.2, 0.6), (0.1, 0.2 - distance, 0.6))
        env.object_sensors[row] = torch.tensor(points).flatten()
        place_fingers(env, row, points, sums)
    outcome = env.evaluate()
    for row, (sums, _, expected) in enumerate(STATES):
        if mean:
            expected += sum(math.exp(-2 * s) - math.exp(-10 * s) for s in sums)
        assert outcome.reward[row].item() == pytest.approx(expected, abs=2e-6)
    assert outcome.success.tolist() == [False, True, False, True, True]
    assert outcome.terminated.tolist() == [False, False, False, False, True]


def test_pen_is_built_to_the_originals_sizes():
    model = make("Pen", 1).sim.model
    # Radius and length of the capsules with their ends, mass.
    for name, radius, length, mass in (
        ("object", 0.0105, 0.359, 0.05),
        ("cap", 0.0115, 0.1315, 0.027),
    ):
        geom = model.geom(name)
        assert geom.size[0] == radius
        assert 2 * (geom.size[0] + geom.size[1]) == pytest.approx(length)
        assert model.body_mass[geom.bodyid[0]] == pytest.approx(mass)
    slide = model.joint("cap_slide")
    np.testing.assert_allclose(slide.range, (0, 0.492))
    free = model.joint("object_free").dofadr[0]
    np.testing.assert_array_equal(model.dof_damping[free : free + 6], 1e-3)  # uniform
    np.testing.assert_allclose(2 * model.geom("table").size, (0.5, 1.0, 0.6))
    assert model.geom("table").pos[2] == 0.3


def test_pen_lies_on_the_table_and_weighs_what_it_should():
    env = make("Pen", 1)
    env.reset()
    for _ in range(60):
        env.step(torch.zeros(1, 52))
    pen = env.sim.qpos[0, QPOS].numpy()
    np.testing.assert_allclose(pen[:3], (0, 0, 0.6115), atol=1e-3)
    assert env.sim.qpos[0, SLIDE_QPOS] < 1e-3
    assert env.sim.qvel[0, DOF].abs().max() < 0.01
    env.reset()
    env.sim.qpos[0, 62:65] = torch.tensor((0.0, 0.0, 3.0))
    data = current(env, 0)
    np.testing.assert_allclose(data.qacc[DOF], (0, 0, -9.81, 0, 0, 0), atol=1e-6)
    assert data.qacc[SLIDE_DOF] == pytest.approx(0.0, abs=1e-6)


def test_cap_and_body_touch_hands_and_table_but_not_each_other():
    model = make("Pen", 1).sim.model
    pairs = [
        {model.geom(a).name, model.geom(b).name}
        for a, b in zip(model.pair_geom1, model.pair_geom2, strict=True)
    ]
    assert {"object", "table"} in pairs and {"cap", "table"} in pairs
    assert {"object", "cap"} not in pairs
    assert sum(bool(pair & {"object", "cap"}) for pair in pairs) == 82
    assert sum("table" in pair for pair in pairs) == 42
    np.testing.assert_allclose(model.pair_friction[:, 0], 1.0)
    assert not model.geom_contype.any()
    assert model.pair_dim.max() == 4
    kinds = model.geom_type[np.stack((model.pair_geom1, model.pair_geom2))]
    assert not model.pair_margin[(kinds == mujoco.mjtGeom.mjGEOM_BOX).all(0)].any()


def test_a_pull_on_the_cap_takes_it_off():
    env = make("Pen", 1)
    env.reset()
    first = env.sim.qfrc_applied
    first[0, SLIDE_DOF] = 0.3  # N, against 0.5 N s/m
    for _ in range(60):
        env.sim.step(2)
    assert 0.05 < env.sim.qpos[0, SLIDE_QPOS] < 0.6
    assert env.evaluate().terms["pulled_distance"].item() == pytest.approx(
        0.17 + env.sim.qpos[0, SLIDE_QPOS].item(), abs=0.01
    )
