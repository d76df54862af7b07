import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import current, make, put_in, xyzw
from scipy.spatial.transform import Rotation

POT = slice(62, 69)


def test_every_reset_is_the_state_of_the_model():
    env = make("LiftUnderarm", 2)
    state = env.reset()
    assert env.max_episode_length == 500 and torch.equal(state[0], state[1])
    handles = ((0, -0.45, 0.5252), (0, -0.75, 0.5252))
    np.testing.assert_allclose(env.handles()[1].numpy(), handles, atol=1e-6)
    # The palms are at (0, -0.32, 0.46) and (0, -0.88, 0.46).
    distance = np.hypot(0.13, 0.0652)
    outcome = env.evaluate()
    np.testing.assert_allclose(outcome.reward.numpy(), 0.2 - 2 * distance, atol=1e-4)
    assert not outcome.terminated.any() and not outcome.success.any()


def test_tail_of_a_state_put_in_by_hand():
    env = make("LiftUnderarm", 3)
    env.reset()
    put = put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    for row in range(3):
        pose, vel = put["qpos"][row, POT], put["qvel"][row, 60:66]
        turn = Rotation.from_quat(pose[3:], scalar_first=True)
        handles = [pose[:3] + turn.apply((0, y, 0.06)) for y in (0.15, -0.15)]
        expected = (pose[:3], xyzw(pose[3:]), vel[:3], 0.2 * turn.apply(vel[3:]), *handles)
        np.testing.assert_allclose(tail[row], np.concatenate(expected), atol=1e-5)


# Height of the pot, palms' distances to their handles, reward, success, end.
STATES = [
    (0.85, (0.05, 0.06), 0.2 - 0.11 + 3 * 0.385, True, False),
    (0.801, (0.05, 0.06), 0.2 - 0.11 + 3 * 0.336, True, False),
    (0.799, (0.05, 0.06), 0.2 - 0.11 + 3 * 0.334, False, False),
    (0.65, (0.079, 0.0), 0.2 - 0.079 + 3 * 0.185, False, False),
    (0.65, (0.081, 0.0), 0.2 - 0.081, False, False),
    (0.65, (0.0, 0.199), 0.2 - 0.199, False, False),
    (0.65, (0.0, 0.201), 0.2 - 0.201, False, True),
    (0.301, (0.01, 0.01), 0.2 - 0.02 + 3 * (0.385 - 0.549), False, False),
    (0.299, (0.01, 0.01), 0.2 - 0.02 + 3 * (0.385 - 0.551), False, True),
]


def test_reward_success_and_termination_by_hand():
    env = make("LiftUnderarm", len(STATES))
    env.reset()
    for row, (height, palms, *_) in enumerate(STATES):
        env._pose[row, :3] = torch.tensor((0.0, -0.6, height))
        env.object_sensors[row] = torch.tensor((0.1, 0.2, 0.3, -0.1, -0.2, 0.3))
        for h, (y, palm) in enumerate(zip((0.2, -0.2), palms, strict=True)):
            offset = palm * torch.tensor((0.6, 0.0, 0.8))
            env.hand_sensors[row, h, -6:-3] = torch.tensor((np.sign(y) * 0.1, y, 0.3)) + offset
    outcome = env.evaluate()
    np.testing.assert_allclose(outcome.reward.numpy(), [s[2] for s in STATES], atol=2e-5)
    assert outcome.success.tolist() == [s[3] for s in STATES]
    assert outcome.terminated.tolist() == [s[4] for s in STATES]


def test_the_pot_is_that_of_the_model_file():
    """Extents of its parts, mass and inertia, what touches it and how much it rubs."""
    env = make("LiftUnderarm", 1)
    model = env.sim.model
    pot = model.body("object")
    assert pot.mass == 4.0 and pot.inertia.tolist() == [0.4, 0.8, 0.8]
    assert not pot.ipos.any()
    extents = {}
    for name in ("object", "right_bar", "left_near_rod", "knob"):
        geom = model.geom(name)
        axes = Rotation.from_quat(geom.quat, scalar_first=True).as_matrix()
        radius, half = geom.size[:2]
        capsule = geom.type == mujoco.mjtGeom.mjGEOM_CAPSULE
        reach = half * np.abs(axes[:, 2]) + radius * (1 if capsule else np.array((1, 1, 0)))
        extents[name] = np.array((geom.pos - reach, geom.pos + reach))
    # Bounding boxes of Bi-DexHands' meshes in the pot's frame.
    for name, low, high in (
        ("object", (-0.127, -0.121, -0.0652), (0.1165, 0.1224, 0.0611)),
        ("right_bar", (-0.0578, 0.1705, 0.0574), (0.0443, 0.1816, 0.0685)),
        ("left_near_rod", (0.0214, -0.174, 0.0147), (0.0288, -0.1132, 0.0663)),
        ("knob", (-0.0107, -0.0504, 0.0904), (0.0004, 0.0518, 0.1015)),
    ):
        np.testing.assert_allclose(extents[name], (low, high), atol=5e-3)
    touched = {}
    for a, b, friction in zip(
        model.pair_geom1, model.pair_geom2, model.pair_friction[:, 0], strict=True
    ):
        names = sorted(
            "hand" if "hand" in model.geom(g).name else model.geom(g).name for g in (a, b)
        )
        touched.setdefault(tuple(names), []).append(friction)
    rods = [f"{side}_{end}_rod" for side in ("left", "right") for end in ("near", "far")]
    for name in ("object", "knob", "left_bar", "right_bar", *rods):
        assert touched.pop(tuple(sorted(("hand", name)))) == 40 * [1.0]
    assert touched.pop(("hand", "table")) == 40 * [2.0]  # the average of 3 and 1
    assert touched.pop(("foot", "table")) == [2.0]
    assert set(touched) == {("hand", "hand")}
    np.testing.assert_allclose(model.geom("table").size, (0.15, 0.15, 0.2))
    np.testing.assert_allclose(model.geom("table").pos, (0, -0.6, 0.2))


def lifted(env):
    """Heights of the pot while both hands go under the handles, close and rise."""
    low, high = env._joint_low[env._driven], env._joint_high[env._driven]
    heights, action = [], torch.zeros(1, 52)
    for t in range(500):
        bend = torch.zeros(20)
        bend[[3, 6, 9, 13]] = 0.8 * min(1.0, max(0.0, t / 40 - 1))  # the fingers' second joints
        place = torch.tensor(((0.0, -0.41, 0.48), (0.0, -0.79, 0.48)))
        place[:, 2] += 0.003 * max(0, t - 80)
        by_hand = action.view(2, 26)
        by_hand[:, :3] = 40 * (place - env.base_position()[0])
        turned = env.observe()[0, :398].view(2, 199)[:, 170:173]
        by_hand[:, 3:6] = -4 * turned
        by_hand[:, 6:] = 2 * (bend - low) / (high - low) - 1
        step = env.step(action)
        heights.append(env._pose[0, 2].item())
        if step.terminated.any():
            break
    return heights, step


def test_a_scripted_lift_succeeds():
    env = make("LiftUnderarm", 1, episode_length=501)
    env.reset()
    heights, step = lifted(env)
    assert len(heights) == 500 and heights[80] == pytest.approx(0.465, abs=2e-3)
    assert max(heights) > 0.9 and step.log["success"].item() == 1.0


def test_the_pot_stands_still_and_falls_as_what_is_heavy():
    env = make("LiftUnderarm", 2, max_palm_distance=9.0)
    env.reset()
    env._pose[1] = torch.tensor((1.0, -0.6, 2.0, 1.0, 0.0, 0.0, 0.0))
    for _ in range(30):
        env.step(torch.zeros(2, 52))
    np.testing.assert_allclose(env._pose[0, :3].numpy(), (0, -0.6, 0.4652), atol=1e-3)
    assert env._vel[1, 2].item() == pytest.approx(-9.81 * 0.5, rel=1e-3)
    assert current(env, 0).ncon >= 3
