"""Poses, drive, observations and agents of all tasks with floating hands."""

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import body_of, current, expected_blocks, make, noise, put_in
from scipy.spatial.transform import Rotation

from madpo_isaac.errors import UserError
from madpo_isaac.sim import make_sim
from madpo_isaac.tasks.hands.hand import load
from madpo_isaac.tasks.hands.scene import _hand_spec

X, Y, Z = np.eye(3)
TILT = np.array((0.0, 0.38, 0.92))
SWAP = np.array((1.0, -1.0, 1.0))
# Size of the state; force (N) and torque (N m) at full action; top speed (m/s) and top spins
# (rad/s) about the hand's first and second axis; of each hand the mount and the directions of
# fingers, palm and thumb.
DOOR_HANDS = (((0.55, 0.2, 0.6), -X, -Y, Z), ((0.55, -0.2, 0.6), -X, Y, -Z))
TASKS = {
    "CatchUnderarm": (
        (422, 83.3, 8.33, 0.166, 3.2, 7.4),
        (((0, 0, 0.5), -Y, Z, -X), ((0, -1.15, 0.5), Y, Z, X)),
    ),
    "CatchOver2Underarm": (
        (422, 166.7, 33.3, 0.333, 12.8, 29.8),
        (((0, 0, 0.5), (0, 0.099, 0.995), (0, -0.995, 0.099), X), ((0, -0.8, 0.5), Y, Z, X)),
    ),
    "CatchAbreast": (
        (422, 833.3, 16.7, 1.66, 6.4, 14.9),
        (
            ((0, -0.55, 0.5), -X, SWAP * TILT, (0, 0.92, 0.38)),
            ((0, -1.15, 0.5), -X, TILT, (0, 0.92, -0.38)),
        ),
    ),
    "DoorOpenInward": ((417, 833.3, 8.33, 1.66, 3.2, 7.4), DOOR_HANDS),
    "DoorOpenOutward": ((417, 833.3, 8.33, 1.66, 3.2, 7.4), DOOR_HANDS),
    "DoorCloseInward": (
        (417, 833.3, 8.33, 1.66, 3.2, 7.4),
        (((0.9, 0.5, 0.6), -X, -Y, Z), ((0.9, -0.5, 0.6), -X, Y, -Z)),
    ),
    "DoorCloseOutward": ((417, 833.3, 8.33, 1.66, 3.2, 7.4), DOOR_HANDS),
    "Pen": (
        (417, 833.3, 1.67, 1.66, 0.64, 1.5),
        (((0.55, 0.2, 0.8), -X, -Z, -Y), ((0.55, -0.2, 0.8), -X, -Z, -Y)),
    ),
    "TwoCatchUnderarm": (
        (446, 83.3, 8.33, 0.166, 3.2, 7.4),
        (((0, 0, 0.5), -Y, Z, -X), ((0, -1.15, 0.5), Y, Z, X)),
    ),
    "PushBlock": (
        (428, 833.3, 1.67, 1.66, 0.64, 1.5),
        (((0.55, 0.2, 0.8), -X, -Z, -Y), ((0.55, -0.2, 0.8), -X, -Z, -Y)),
    ),
    "LiftUnderarm": (
        (417, 416.7, 16.7, 0.831, 6.4, 14.9),
        (((0, 0.05, 0.45), -Y, Z, -X), ((0, -1.25, 0.45), Y, Z, X)),
    ),
    "Switch": (
        (417, 833.3, 1.67, 1.66, 0.64, 1.5),
        (((0.55, 0.2, 0.8), -X, -Z, -Y), ((0.55, -0.2, 0.8), -X, -Z, -Y)),
    ),
    "BlockStack": (
        (428, 333.3, 0.333, 0.665, 0.13, 0.30),
        (((0, 0.6, 0.7), -Y, -Z, X), ((0, -0.6, 0.7), Y, -Z, -X)),
    ),
}
SOME = ("CatchUnderarm", "DoorOpenInward", "BlockStack")
STANDING = ("Pen", "BlockStack", "PushBlock", "LiftUnderarm")
"""Tasks with something on a table."""


@pytest.fixture(scope="module")
def envs():
    """The environments of every task, made once; tests start them anew."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = make(name, 3, base_gain=1.0)
        made[name].reset()
        return made[name]

    return get


# Poses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_hands_start_where_the_original_puts_them(name, envs):
    env = envs(name)
    assert env.state_dim == TASKS[name][0][0]
    data = mujoco.MjData(env.sim.model)
    mujoco.mj_forward(env.sim.model, data)  # the flat hands of the key pose
    for h, (mount, fingers, palm, thumb) in enumerate(TASKS[name][1]):
        np.testing.assert_allclose(
            data.xpos[body_of(env.sim.model, h, "hand mount")], mount, atol=1e-6
        )
        body = body_of(env.sim.model, h, "palm")
        axes = data.xmat[body].reshape(3, 3)
        np.testing.assert_allclose(axes[:, 2], fingers, atol=6e-3)
        np.testing.assert_allclose(-axes[:, 1], palm, atol=6e-3)
        np.testing.assert_allclose(axes[:, 0], thumb, atol=6e-3)
        expected = np.array(mount) + 0.29 * axes[:, 2] + 0.01 * axes[:, 1]
        np.testing.assert_allclose(data.xpos[body], expected, atol=1e-4)


def test_the_hands_constants_are_those_of_its_model():
    hand = load("shadow")
    base, model = hand.base, _hand_spec(hand, visual=False).compile()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    mass = model.body_mass[1:]
    assert mass.sum() == pytest.approx(base.mass, abs=1e-4)
    center = mass @ data.xipos[1:] / mass.sum()
    np.testing.assert_allclose(center, base.center_of_mass, atol=1e-6)
    inertia = np.zeros((3, 3))
    for body in range(1, model.nbody):
        axes, arm = data.ximat[body].reshape(3, 3), data.xipos[body] - center
        inertia += axes @ np.diag(model.body_inertia[body]) @ axes.T
        inertia += model.body_mass[body] * (arm @ arm * np.eye(3) - np.outer(arm, arm))
    np.testing.assert_allclose(np.diag(inertia), base.inertia, atol=1e-6)
    assert np.abs(inertia - np.diag(np.diag(inertia))).max() < 4e-4


@pytest.mark.parametrize("name", TASKS)
def test_nothing_pulls_the_hands_at_the_start(name, envs):
    env = envs(name)
    if env.config.reset_dof_pos_noise:
        env = make(name, 1, reset_dof_pos_noise=0.0)
        env.reset()
    if "Catch" in name:
        env.object_poses[..., 2] += 1.0  # eggs may start inside fingers
    data = current(env, 0)
    assert data.ncon == 0 or name in STANDING
    np.testing.assert_allclose(data.qacc[:60], 0.0, atol=2e-3)


# Drive ------------------------------------------------------------------------------------------


def driven(env, action, substeps, num_envs=1):
    """Velocities (2, 6) of the bases after a constant action, hand by hand, without contacts."""
    spec = env.scene(visual=False)
    spec.option.disableflags |= mujoco.mjtDisableBit.mjDSBL_CONTACT
    model = spec.compile()
    sim = make_sim("mujoco", model, num_envs, num_threads=1)
    for h in range(2):
        first = model.actuator(f"hand{h}_force_x").id
        sim.ctrl[0, first : first + 6] = torch.tensor(action[h], dtype=torch.float32)
    sim.step(substeps)
    return sim.qvel[0, :60].unflatten(0, (2, 30))[:, :6].double().numpy()


@pytest.mark.parametrize("name", TASKS)
def test_a_full_force_reaches_the_speed_of_the_table(name, envs):
    env = envs(name)
    _, force, torque, top_speed, _, _ = TASKS[name][0]
    drive = env.drive()
    assert drive.force == pytest.approx(force, rel=1e-3)
    assert drive.torque == pytest.approx(torque, rel=3e-3)
    for axis in range(3):
        push = np.eye(6)[axis] * (1, 1, 1, 0, 0, 0)
        velocity = driven(env, (push, -push), 60)
        assert velocity[0, axis] == pytest.approx(top_speed, rel=0.01)
        assert velocity[1, axis] == pytest.approx(-top_speed, rel=0.01)
        across = np.delete(velocity[:, :3], axis, axis=1)
        np.testing.assert_allclose(across, 0.0, atol=0.02 * top_speed)


@pytest.mark.parametrize("name", TASKS)
def test_a_full_torque_reaches_the_spin_of_the_table(name, envs):
    env = envs(name)
    *_, first, second = TASKS[name][0]
    for axis, top_spin in ((0, first), (1, second)):
        actions, axes = [], []
        for h in range(2):
            # The torque is along world axes: turn the hand's own axis into the world.
            body = env.sim.model.body(f"hand{h}_base").id
            quat = env.sim.model.body_quat[body]
            axes.append(Rotation.from_quat(quat, scalar_first=True).as_matrix()[:, axis])
            actions.append(np.concatenate((np.zeros(3), axes[h])))
        spin = driven(env, actions, 12)[:, 3:]  # in the hand's axes
        for h in range(2):
            assert spin[h, axis] == pytest.approx(top_spin, rel=0.04)


def test_speed_follows_the_drag_of_100_per_second(envs):
    env = envs("DoorOpenInward")
    push = np.array((-1, 0, 0, 0, 0, 0))  # along the fingers, so that the wrist stays still
    # Implicit steps of 1/120 s: each leaves 1 / (1 + 100 / 120) of the way to the top speed.
    for substeps in (1, 2, 4):
        expected = 833.33 / 501.1 * (1 - (1 / (1 + 100 / 120)) ** substeps)
        assert driven(env, (push, push), substeps)[:, 0] == pytest.approx(-expected, rel=1e-3)


def test_base_gain_scales_force_and_torque_but_not_the_drag():
    full = make("Pen", 1, base_gain=1.0)
    for env, share in ((make("Pen", 1), 1 / 12), (make("Pen", 1, base_gain=0.5), 0.5)):
        assert env.drive().force == pytest.approx(full.drive().force * share)
        assert env.drive().torque == pytest.approx(full.drive().torque * share)
        model = env.sim.model
        np.testing.assert_array_equal(model.actuator_biasprm, full.sim.model.actuator_biasprm)
        first = model.actuator("hand1_force_x").id
        np.testing.assert_allclose(model.actuator_gainprm[first : first + 3, 0], env.drive().force)


@pytest.mark.parametrize("gain", [-0.1, float("nan"), float("inf")])
def test_a_bad_base_gain_is_refused(gain):
    with pytest.raises(UserError, match=rf"task\.base_gain={gain}"):
        make("Pen", base_gain=gain)


# Actions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
def test_actions_are_force_torque_and_joint_targets_of_each_hand(name, envs):
    env = envs(name)
    action = 1.5 * noise(env, 1)[0]
    clipped = np.clip(action.numpy(), -1, 1).reshape(3, 2, 26)
    env.step(action)
    model, ctrl = env.sim.model, env.sim.ctrl.numpy()
    axes = ["force_x", "force_y", "force_z", "torque_x", "torque_y", "torque_z"]
    for h in range(2):
        base = [model.actuator(f"hand{h}_{axis}").id for axis in axes]
        np.testing.assert_allclose(ctrl[:, base], clipped[:, h, :6])
        drag = [model.actuator(f"hand{h}_drag_{axis}").id for axis in "xyz"]
        assert not ctrl[:, drag].any()
        first = model.actuator(f"hand{h}_robot0:A_WRJ1").id
        low, high = model.actuator_ctrlrange[first : first + 20].T
        expected = low + (clipped[:, h, 6:] + 1) / 2 * (high - low)
        np.testing.assert_allclose(ctrl[:, first : first + 20], expected, atol=1e-6)
        seen = env.observe()[:, 199 * h + 173 : 199 * h + 199].numpy()
        np.testing.assert_array_equal(seen, clipped[:, h])


def test_palm_agents_have_the_base_first():
    env = make("CatchUnderarm", 1, agents="fingers")
    assert [agent.act_dim for agent in env.agents] == 2 * [8, 3, 3, 3, 4, 5]
    columns = [torch.arange(52)[agent.action_slice].tolist() for agent in env.agents]
    assert [column for own in columns for column in own] == list(range(52))
    assert columns[0] == list(range(8)) and columns[7] == [34, 35, 36]
    base = tuple(f"{kind}_{axis}" for kind in ("force", "torque") for axis in "xyz")
    assert env.agents[0].action_roles == (*base, "abduction", "flexion")
    assert env.agents[6].action_roles == env.agents[0].action_roles
    assert env.agents[1].action_roles == ("abduction", "flexion", "middle_flexion")


def test_grouped_agents_and_hands_have_columns_and_roles_in_step():
    grouped = make("CatchUnderarm", 1, agents=[[0, 2], [1, 3, 4, 5]]).agents
    assert torch.arange(52)[grouped[2].action_slice].tolist() == [*range(26, 34), 37, 38, 39]
    assert grouped[2].action_roles[5:9] == (
        "palm_torque_z",
        "palm_abduction",
        "palm_flexion",
        "mf_abduction",
    )
    hands = make("CatchUnderarm", 1).agents
    assert [agent.action_slice for agent in hands] == [slice(0, 26), slice(26, 52)]
    assert len(hands[0].action_roles) == len(set(hands[0].action_roles)) == 26
    state = torch.arange(422.0)[None]
    expected = [*range(199, 398), *range(398, 422)]
    assert hands[1].observe(state)[0].tolist() == expected
    assert hands[1].obs_dim == 223


# Observations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_hand_blocks_of_a_state_put_in_by_hand(name, envs):
    env = envs(name)
    put_in(env, seed=3)
    state = env.observe().numpy()
    model = env.sim.model
    for row in range(env.num_envs):
        data = current(env, row)
        for h in range(2):
            base = data.body(f"hand{h}_base").xmat.reshape(3, 3)
            body = model.body(f"hand{h}_base").id
            start = Rotation.from_quat(model.body_quat[body], scalar_first=True)
            turn = Rotation.from_matrix(base) * start.inv()
            palm = body_of(model, h, "palm")
            center = data.xpos[palm] + data.xmat[palm].reshape(3, 3) @ (0, -0.02, 0.08)
            mount = data.xpos[body_of(model, h, "hand mount")]
            blocks = expected_blocks(model, data, h) | {
                (167, 170): mount if "Catch" in name else center,
                (170, 173): turn.as_euler("xyz"),
            }
            for (first, stop), block in blocks.items():
                seen = state[row, 199 * h + first : 199 * h + stop]
                np.testing.assert_allclose(
                    seen, np.clip(block, -5, 5), rtol=1e-4, atol=3e-4, err_msg=f"{row} {h} {first}"
                )


def test_turns_are_zero_at_the_start_and_about_world_axes(envs):
    env = envs("DoorOpenInward")
    state = env.observe()
    np.testing.assert_allclose(state[:, [*range(170, 173), *range(369, 372)]].numpy(), 0, atol=1e-6)
    for k, angle in enumerate((0.3, -2.9, 1.2)):
        for h in range(2):
            start = env.sim.model.body_quat[env.sim.model.body(f"hand{h}_base").id]
            turned = Rotation.from_rotvec(angle * np.eye(3)[k]) * Rotation.from_quat(
                start, scalar_first=True
            )
            env.base_pose[k, h, 3:] = torch.tensor(turned.as_quat(scalar_first=True))
    turns = env.observe()[:, 170:173].numpy()
    expected = np.diag((0.3, -2.9, 1.2))
    expected[1] = (np.pi, -(np.pi - 2.9), np.pi)  # a pitch beyond a quarter turn
    np.testing.assert_allclose(np.abs(turns), np.abs(expected), atol=1e-5)
    np.testing.assert_allclose(turns[[0, 2]], expected[[0, 2]], atol=1e-5)
    assert turns[1, 1] == pytest.approx(expected[1, 1], abs=1e-5)
