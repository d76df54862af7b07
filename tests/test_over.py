import io
import math

import mujoco
import numpy as np
import pytest
import torch
from hand_oracle import expected_blocks, fingertip, noise, reference, xyzw
from scipy.spatial.transform import Rotation

from madpo_isaac import tasks

GOAL = (0.0, -0.64, 0.54)
EGG_QPOS, EGG_DOF = slice(48, 55), slice(48, 54)
NEVER = (0.0, -0.3, 0.9)
"""A place of the egg that is neither a success nor a fall."""


def make(num_envs=2, **settings):
    return tasks.make("ShadowHandOver", num_envs=num_envs, num_threads=1, **settings)


def place_egg(env, row, pos, quat=(1.0, 0.0, 0.0, 0.0)):
    env.sim.qpos[row, EGG_QPOS] = torch.tensor((*pos, *quat))
    env.sim.qvel[row, EGG_DOF] = 0.0


def hold_eggs(env):
    for row in range(env.num_envs):
        place_egg(env, row, NEVER)


def put_in(env, seed):
    """Writes a random state and returns it row by row in float64."""
    rng = np.random.default_rng(seed)
    sim, n = env.sim, env.num_envs
    low, high = sim.model.jnt_range[:48].T
    qpos = np.empty((n, 55))
    qpos[:, :48] = low + (high - low) * rng.uniform(0.1, 0.9, (n, 48))
    qpos[:, 48:51] = rng.uniform((-0.05, -0.5, 0.6), (0.05, -0.3, 0.9), (n, 3))
    qpos[0, 48:51] = (0.0, -0.37, 0.52)  # in the first hand
    quats = rng.normal(size=(2, n, 4))
    quats /= np.linalg.norm(quats, axis=2, keepdims=True)
    qpos[:, 51:] = quats[0]
    values = {
        "qpos": qpos,
        "qvel": rng.normal(size=(n, 54)),
        "ctrl": rng.uniform(-0.5, 1.5, (n, sim.model.nu)),
    }
    for name, value in values.items():
        getattr(sim, name).copy_(torch.tensor(value))
    env.goal_quats[:, 0].copy_(torch.tensor(quats[1]))
    sim.forward()
    rounded = {name: getattr(sim, name).double().numpy() for name in values}
    return rounded | {"goal": env.goal_quats[:, 0].double().numpy()}


def test_hand_blocks_of_a_state_put_in_by_hand():
    env = make(4)
    env.reset()
    put = put_in(env, seed=3)
    state = env.observe().numpy()
    assert state.shape == (4, 398)
    for row in range(4):
        args = [put[name][row] for name in ("qpos", "qvel", "ctrl")]
        for hand in range(2):
            blocks = expected_blocks(env.sim.model, reference(env.sim.model, *args), hand)
            blocks[167, 187] = np.zeros(20)
            for (start, stop), block in blocks.items():
                seen = state[row, 187 * hand + start : 187 * hand + stop]
                bounded = np.clip(block, -5, 5)
                np.testing.assert_allclose(
                    seen, bounded, rtol=1e-4, atol=2e-4, err_msg=f"{row} {hand} {start}"
                )
                if start < 167:
                    assert (np.abs(block) < 5).mean() > 0.3
    # J0 joints have no actuator.
    assert not state[:, [48 + j for j in (5, 9, 13, 18)]].any()


def test_tail_of_a_state_put_in_by_hand():
    env = make(4)
    env.reset()
    put = put_in(env, seed=4)
    tail = env.observe().numpy()[:, 374:]
    for row in range(4):
        pose, vel, goal = put["qpos"][row, EGG_QPOS], put["qvel"][row, EGG_DOF], put["goal"][row]
        spin = Rotation.from_quat(pose[3:], scalar_first=True).apply(vel[3:])
        relative = np.zeros(4)
        mujoco.mju_mulQuat(relative, pose[3:], goal * [1, -1, -1, -1])
        expected = np.concatenate(
            (pose[:3], xyzw(pose[3:]), vel[:3], 0.2 * spin, GOAL, xyzw(goal), xyzw(relative))
        )
        np.testing.assert_allclose(tail[row], expected, atol=1e-5)


def test_observations_are_clipped_to_five():
    env = make(1)
    env.reset()
    env.sim.qvel[0, 3], env.sim.qvel[0, 30] = 100.0, -100.0
    env.sim.qvel[0, 48] = -7.0
    env.sim.qvel[0, 4] = 20.0
    state = env.observe()
    assert state[0, 27].item() == 5.0
    assert state[0, 187 + 30].item() == -5.0
    assert state[0, 381].item() == -5.0
    assert state[0, 28].item() == pytest.approx(4.0)
    assert state.abs().max() <= 5.0


def test_a_step_is_two_substeps_of_a_120th_second():
    env = make(1)
    env.reset()
    place_egg(env, 0, NEVER)
    env.step(torch.zeros(1, 40))
    assert env.sim.qvel[0, 50].item() == pytest.approx(-9.81 / 60)
    # Semi-implicit Euler: each substep moves with its own new velocity.
    assert env.sim.qpos[0, 50].item() == pytest.approx(0.9 - 9.81 / 120**2 * (1 + 2), abs=1e-6)


def test_last_actions_are_observed_clipped():
    env = make(2)
    env.reset()
    action = 2.0 * noise(env, 1)[0]
    kept = action.clone()
    step = env.step(action)
    clipped = np.clip(kept.numpy(), -1, 1)
    assert (np.abs(clipped) == 1).any() and (np.abs(clipped) < 1).any()
    np.testing.assert_array_equal(step.state[:, 167:187].numpy(), clipped[:, :20])
    np.testing.assert_array_equal(step.state[:, 354:374].numpy(), clipped[:, 20:])
    assert torch.equal(action, kept)


@pytest.mark.parametrize(("value", "share"), [(0, 0.5), (-1, 0), (1, 1), (0.5, 0.75), (7, 1)])
def test_actions_are_positions_within_the_limits(value, share):
    env = make(2)
    env.reset()
    env.step(torch.full((2, 40), float(value)))
    model = env.sim.model
    low, high = model.jnt_range[model.actuator_trnid[:40, 0]].T
    expected = np.tile(low + share * (high - low), (2, 1))
    np.testing.assert_allclose(env.sim.ctrl[:, :40].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_actions_of_other_numbers_are_those_of_float32(dtype):
    action, results = torch.tensor([[1.0] * 20 + [-1.0] * 20] * 2), []
    for given in (action, action.to(dtype)):
        env = make(2)
        env.reset()
        results.append(env.step(given).state)
    assert torch.equal(*results)


@pytest.mark.parametrize("shape", [(2, 20), (3, 40), (40,), (2, 40, 1)])
def test_action_of_a_wrong_shape_is_refused(shape):
    env = make(2)
    env.reset()
    with pytest.raises(ValueError, match=r"expected \(2, 40\)"):
        env.step(torch.zeros(shape))


def test_reward_by_hand():
    env = make(6)
    env.reset()
    angles = np.array([0.0, 0.0, 1.0, math.pi, 1.0, 2.5])
    offsets = np.array([0.0, 0.25, 0.0301, 0.1, 0.0301, 0.0299])
    # exp(-0.2 (50 d + theta)): exp of 0, -2.5, -0.501, -1 - pi / 5, -0.501, -0.799
    expected = [1.0, 0.0820850, 0.6059244, 0.1962593, 0.6059244, 0.4497785]
    goal = Rotation.from_rotvec([[0.3, -0.2, 0.5]] * 6)
    egg = Rotation.from_rotvec(angles[:, None] * (0.6, 0.0, 0.8)) * goal
    egg_quat, goal_quat = egg.as_quat(scalar_first=True), goal.as_quat(scalar_first=True)
    egg_quat[4] *= -1  # the orientations stay the same
    goal_quat[5] *= -1
    env.goal_quats[:, 0].copy_(torch.tensor(goal_quat))
    for row, offset in enumerate(offsets):
        place_egg(env, row, GOAL + offset / 3 * np.array([2, -1, 2]), egg_quat[row])
    outcome = env.evaluate()
    # The arcsine loses digits next to a half turn.
    np.testing.assert_allclose(outcome.reward.numpy(), expected, rtol=3e-4)
    np.testing.assert_allclose(
        outcome.reward[[0, 1, 2, 4, 5]].numpy(), np.delete(expected, 3), rtol=1e-5
    )
    np.testing.assert_allclose(outcome.terms["goal_distance"].numpy(), offsets, atol=1e-6)
    np.testing.assert_allclose(outcome.terms["goal_angle"].numpy(), angles, atol=1.5e-3)
    assert outcome.success.tolist() == [True, False, False, False, False, True]


def test_reward_of_a_step_is_that_of_the_state_it_leads_to():
    env = make(3)
    env.reset()
    step = env.step(noise(env, 1)[0])
    egg = env.sim.qpos[:, EGG_QPOS].double().numpy()
    distance = np.linalg.norm(egg[:, :3] - GOAL, axis=1)
    turn = (
        Rotation.from_quat(egg[:, 3:], scalar_first=True)
        * Rotation.from_quat(env.goal_quats[:, 0].double().numpy(), scalar_first=True).inv()
    )
    expected = np.exp(-0.2 * (50 * distance + turn.magnitude()))
    np.testing.assert_allclose(step.reward.numpy(), expected, rtol=3e-4)
    np.testing.assert_allclose(step.log["goal_distance"].numpy(), distance, rtol=1e-5)
    np.testing.assert_allclose(step.final_state[:, 374:377].numpy(), egg[:, :3], atol=1e-6)


def test_egg_has_fallen_exactly_at_the_height_limit():
    env = make(3)
    env.reset()
    limit = np.float32(0.2)
    for row, height in enumerate((np.nextafter(limit, 0), limit, np.nextafter(limit, 1))):
        place_egg(env, row, (0.0, -0.5, float(height)))
    assert env.evaluate().terminated.tolist() == [True, True, False]


def test_episodes_are_cut_at_75_steps_unless_the_egg_fell():
    env = make(2)
    env.reset()
    for k in range(1, 76):
        hold_eggs(env)
        if k == 75:
            place_egg(env, 1, (0.0, -0.5, 0.1))
        step = env.step(torch.zeros(2, 40))
        assert step.truncated.tolist() == [k == 75, False]
        assert step.terminated.tolist() == [False, k == 75]
    assert step.final_state[1, 376] < 0.2 < step.state[1, 376]


def test_every_episode_is_cut_at_its_own_length():
    env = make(1, episode_length=3)
    env.reset()
    ends = []
    for k in range(8):
        if k == 4:
            env.reset()  # starts counting again
        hold_eggs(env)
        ends.append(env.step(torch.zeros(1, 40)).truncated.item())
    assert ends == [False, False, True, False, False, False, True, False]


def test_an_egg_within_ten_centimeters_is_remembered_until_the_episode_ends():
    """7 cm from the goal at one step: no success at 3 cm, but one at 10 cm from then on."""
    env = make(2)
    env.reset()
    idle = torch.zeros(2, env.action_dim)
    assert env.step(idle).log["success_10cm"].tolist() == [0.0, 0.0]
    goal = env.goal_positions[0, 0]
    place_egg(env, 0, (goal + torch.tensor([0.07, 0.0, 0.0])).tolist())
    first = env.step(idle).log
    assert (first["success_10cm"].tolist(), first["success"].tolist()) == ([1.0, 0.0], [0.0, 0.0])
    place_egg(env, 0, (goal + torch.tensor([0.4, 0.0, 0.3])).tolist())
    assert env.step(idle).log["success_10cm"].tolist() == [1.0, 0.0]
    saved = env.state_dict()
    place_egg(env, 0, (0.0, 0.0, 0.1))  # on the ground: the episode ends
    step = env.step(idle)
    assert step.terminated.tolist() == [True, False]
    assert step.log["success_10cm"].tolist() == [1.0, 0.0]
    assert env.step(idle).log["success_10cm"].tolist() == [0.0, 0.0]
    env.load_state_dict(saved)
    assert env.step(idle).log["success_10cm"].tolist() == [1.0, 0.0]


def test_success_is_kept_until_the_episode_ends():
    env = make(3)
    env.reset()
    seen = []
    for k in range(5):
        hold_eggs(env)
        if k == 1:
            place_egg(env, 0, GOAL)
        if k == 3:
            place_egg(env, 0, (0.0, -0.5, 0.1))
            place_egg(env, 1, (0.0, -0.5, 0.1))
        seen.append(env.step(torch.zeros(3, 40)).log["success"].tolist())
    assert seen == [[0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    place_egg(env, 2, GOAL)
    assert env.step(torch.zeros(3, 40)).log["success"].tolist() == [0, 0, 1]
    env.reset()
    assert env.step(torch.zeros(3, 40)).log["success"].tolist() == [0, 0, 0]


def played(env, steps=10):
    env.reset()
    for action in noise(env, steps):
        env.step(action)


def test_state_after_a_reset_is_that_of_the_new_episode():
    env = make(3)
    played(env)
    place_egg(env, 1, (0.0, -0.5, 0.1))
    step = env.step(torch.ones(3, 40))
    assert step.terminated.tolist() == [False, True, False]
    assert torch.equal(step.state[[0, 2]], step.final_state[[0, 2]])
    before, after = step.final_state[1], step.state[1]
    assert before[376].item() == pytest.approx(0.1, abs=0.01)
    assert (before[167:187] == 1).all() and (before[354:374] == 1).all()
    assert not after[167:187].any() and not after[354:374].any()
    assert not after[24:48].any() and not after[211:235].any()
    args = [getattr(env.sim, name)[1].double().numpy() for name in ("qpos", "qvel", "ctrl")]
    data = reference(env.sim.model, *args)
    for hand in range(2):
        for i, finger in enumerate(("ff", "mf", "rf", "lf", "th")):
            body = env.sim.model.body(f"hand{hand}_robot0:{finger}distal").id
            tip = fingertip(env.sim.model, data, body)
            start = 187 * hand + 72 + 13 * i
            np.testing.assert_allclose(after[start : start + 13].numpy(), tip, atol=1e-5)
            assert not np.allclose(before[start : start + 3].numpy(), tip[:3], atol=1e-3)


def test_an_end_touches_only_its_own_row():
    env = make(4)
    played(env)
    saved = env.state_dict()
    action = noise(env, 1, seed=5)[0]
    undisturbed = env.step(action)
    expected = env.sim.state_dict()
    env.load_state_dict(saved)
    place_egg(env, 2, (0.0, -0.5, 0.1))
    step = env.step(action)
    assert step.terminated.tolist() == [False, False, True, False]
    others = [0, 1, 3]
    for name, value in env.sim.state_dict().items():
        assert torch.equal(value[others], expected[name][others]), name
    assert torch.equal(step.state[others], undisturbed.state[others])
    assert torch.equal(step.reward[others], undisturbed.reward[others])
    # And the next step still counts from the others' own starts.
    assert env.state_dict()["episode_step"].tolist() == [11, 11, 0, 11]


def test_returned_tensors_are_not_overwritten_by_the_next_step():
    env = make(2)
    first = env.reset()
    step = env.step(torch.ones(2, 40))
    tensors = [first, *step[:5], *step.log.values()]
    kept = [tensor.clone() for tensor in tensors]
    place_egg(env, 0, (0.0, -0.5, 0.1))
    env.step(-torch.ones(2, 40))
    assert all(torch.equal(a, b) for a, b in zip(tensors, kept, strict=True))


def resets(env, times=4):
    """Joint positions (draws, 2 hands, 24), egg poses and goal orientations of many resets."""
    joints, eggs, goals = [], [], []
    for _ in range(times):
        env.reset()
        joints.append(env.sim.qpos[:, :48].double().view(-1, 2, 24))
        eggs.append(env.sim.qpos[:, EGG_QPOS].double())
        goals.append(env.goal_quats[:, 0].double().clone())
    return torch.cat(joints).numpy(), torch.cat(eggs).numpy(), torch.cat(goals).numpy()


def test_reset_joints_vary_about_zero_within_the_limits():
    env = make(64)
    joints, _, _ = resets(env)
    low, high = env.sim.model.jnt_range[:24].T
    assert (joints >= low - 1e-6).all() and (joints <= high + 1e-6).all()
    assert not env.sim.qvel.any()
    # q = 0.2 (low + (high - low) u) with u in U(-1, 1), then clipped to the limits.
    first, last = 0.2 * (2 * low - high), 0.2 * high
    draws = np.linspace(first, last, 20001)
    expected = np.clip(draws, low, high)
    values = joints.reshape(-1, 24)
    assert (values >= expected[0] - 1e-6).all() and (values <= expected[-1] + 1e-6).all()
    error = (last - first) / math.sqrt(12 * len(values))
    assert (np.abs(values.mean(axis=0) - expected.mean(axis=0)) < 5 * error).all()
    reach = 0.03 * (last - first)
    assert (values.min(axis=0) < expected[0] + reach).all()
    assert (values.max(axis=0) > expected[-1] - reach).all()


def test_hands_and_environments_start_differently():
    env = make(8)
    joints, eggs, goals = resets(env, times=2)
    free = [0, 1, 2, 6, 10, 15, 19, 21, 22]  # joints whose draw is inside the limits
    assert not np.isclose(joints[:, 0][:, free], joints[:, 1][:, free], atol=1e-6).all(axis=1).any()
    for values in (joints.reshape(16, 48), eggs, goals):
        assert len(np.unique(values, axis=0)) == 16


def test_reset_egg_is_within_a_centimeter_and_turned_at_random():
    env = make(64)
    _, eggs, goals = resets(env)
    offset = eggs[:, :3] - (0, -0.39, 0.54)
    assert (np.abs(offset) <= 0.01 + 1e-6).all()
    assert (offset.min(axis=0) < -0.009).all() and (offset.max(axis=0) > 0.009).all()
    for quat in (eggs[:, 3:], goals):
        w, x, y, z = quat.T
        # Rx(a) Ry(b), a and b in U(-pi, pi): tan(a/2) = x/w, tan(b/2) = y/w, and wz = xy.
        np.testing.assert_allclose(w * z, x * y, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(quat, axis=1), 1, atol=1e-6)
        for angle in (2 * np.arctan(x / w), 2 * np.arctan(y / w)):
            shares, _ = np.histogram(angle, bins=4, range=(-math.pi, math.pi))
            assert (np.abs(shares / len(angle) - 0.25) < 0.13).all()
    assert abs(np.corrcoef(eggs[:, 4], goals[:, 1])[0, 1]) < 0.3


def test_noise_can_be_switched_off():
    env = make(3, reset_dof_pos_noise=0.0, reset_object_pos_noise=0.0)
    env.reset()
    assert not env.sim.qpos[:, :48].any()
    np.testing.assert_allclose(env.sim.qpos[:, 48:51].numpy(), [(0, -0.39, 0.54)] * 3, rtol=1e-6)


def episode(env, steps=25):
    """Everything that comes out of steps in which some eggs are dropped."""
    out = []
    for k, action in enumerate(noise(env, steps, seed=7)):
        if k % 8 == 3:
            place_egg(env, k % env.num_envs, (0.0, -0.5, 0.1))
        step = env.step(action)
        out.extend((*step[:5], *step.log.values()))
    return out


def test_same_seed_repeats_itself_and_another_differs():
    runs = []
    for seed in (3, 3, 4):
        env = make(3, seed=seed)
        runs.append([env.reset(), *episode(env)])
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.isclose(runs[0][0], runs[2][0]).all(dim=1).any()


def test_saved_environment_continues_exactly():
    env = make(3, episode_length=20)
    env.reset()
    episode(env, steps=27)
    place_egg(env, 0, GOAL)
    env.step(torch.zeros(3, 40))
    buffer = io.BytesIO()
    saved = env.state_dict()
    torch.save(saved, buffer)
    first = episode(env)
    buffer.seek(0)
    other = make(3, episode_length=20, seed=99)
    other.reset()
    episode(other, steps=5)
    for again, state in ((other, torch.load(buffer)), (env, saved)):
        again.load_state_dict(state)
        assert all(torch.equal(a, b) for a, b in zip(episode(again), first, strict=True))


@pytest.mark.parametrize("field", ["qpos", "qvel"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("column", [5, 50])
def test_a_blown_up_row_restarts_alone(field, value, column, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes a log of its warnings
    env = make(3, episode_length=12)
    played(env, steps=11)
    saved = env.state_dict()
    action = noise(env, 1, seed=8)[0]
    steps = []
    for broken in (False, True):
        env.load_state_dict(saved)
        hold_eggs(env)
        place_egg(env, 1, GOAL)
        if broken:
            getattr(env.sim, field)[1, column] = value
        steps.append(env.step(action))
    undisturbed, step = steps
    assert step.reward[1].item() == 0.0
    # The time limit is reached too, but nothing follows a state that is no state.
    assert step.terminated.tolist() == [False, True, False]
    assert step.truncated.tolist() == [True, False, True]
    assert step.log["diverged"].tolist() == [0, 1, 0]
    assert step.log["success"][1].item() == 0.0
    assert torch.equal(step.final_state[::2], undisturbed.final_state[::2])
    assert torch.equal(step.reward[::2], undisturbed.reward[::2])
    for _ in range(3):
        for tensor in (*step[:5], *step.log.values()):
            assert torch.isfinite(tensor).all()
        step = env.step(action)
        assert not step.terminated.any() and not step.log["diverged"].any()
    assert env.state_dict()["episode_step"].tolist() == [3, 3, 3]


def test_actions_that_are_not_numbers_do_not_spread(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = make(2)
    env.reset()
    action = torch.zeros(2, 40)
    action[1, 3] = math.nan
    for each in (action, torch.zeros(2, 40)):
        step = env.step(each)
        for tensor in (*step[:5], *step.log.values()):
            assert torch.isfinite(tensor).all()
