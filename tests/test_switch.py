import numpy as np
import pytest
import torch
from hand_oracle import current, finger_sum, make, place_fingers, put_in

HINGES = slice(62, 64)


def test_every_reset_is_the_state_of_the_model():
    env = make("Switch", 2)
    state = env.reset()
    assert env.max_episode_length == 125 and torch.equal(state[0], state[1])
    np.testing.assert_allclose(env.sim.qpos[:, HINGES].numpy(), 0.5585)
    # Hinge at (0.0108, 0.0417) from the switch, the point 2 cm from it, turned by 32 degrees.
    x, z = 0.0108 + 0.02 * np.cos(0.5585), 0.65 + 0.0417 + 0.02 * np.sin(0.5585)
    handles = env.handles()[1].numpy()
    np.testing.assert_allclose(handles, ((x, 0.2, z), (x, -0.2, z)), atol=1e-6)
    data = current(env, 0)
    sums = [finger_sum(env.sim.model, data, h, handles[h]) for h in range(2)]
    expected = 2 - sum(sums) + 50 * (1.4 - 2 * z)
    np.testing.assert_allclose(env.evaluate().reward.numpy(), expected, atol=1e-4)
    assert data.ncon == 0


def test_tail_of_a_state_put_in_by_hand():
    env = make("Switch", 3)
    env.reset()
    put = put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    for row, angles in enumerate(put["qpos"][:, HINGES]):
        points = [
            (0.0108 + 0.02 * np.cos(angle), y, 0.6917 + 0.02 * np.sin(angle))
            for angle, y in zip(angles, (0.2, -0.2), strict=True)
        ]
        # Turned by pi about x, then by 1.57 about y.
        quat = (np.cos(0.785), 0, -np.sin(0.785), 0)
        expected = np.concatenate(((0, 0.2, 0.65), quat, np.zeros(6), *points))
        np.testing.assert_allclose(tail[row], expected, atol=1e-4)


# Heights of the points to press, finger distances, reward, success.
STATES = [
    ((0.6917, 0.6917), (0.3, 0.4), 2 - 0.7 + 50 * 0.0166, True),  # both pressed
    ((0.6917, 0.7023), (0.3, 0.4), 2 - 0.7 + 50 * 0.006, False),  # one
    ((0.7023, 0.7023), (0.7, 0.7), 2 - 1.4 - 50 * 0.0046, False),  # none
    ((0.6939, 0.6940), (5.0, 0.4), 2 - 5.4 + 50 * 0.0121, True),
    ((0.6940, 0.6941), (0.3, 0.4), 2 - 0.7 + 50 * 0.0119, False),
]


def test_reward_and_success_by_hand():
    env = make("Switch", len(STATES))
    env.reset()
    for row, (heights, sums, *_) in enumerate(STATES):
        points = [(0.03, y, z) for y, z in zip((0.2, -0.2), heights, strict=True)]
        env.object_sensors[row] = torch.tensor(points).flatten()
        place_fingers(env, row, points, sums)
    outcome = env.evaluate()
    np.testing.assert_allclose(outcome.reward.numpy(), [s[2] for s in STATES], atol=5e-4)
    assert outcome.success.tolist() == [s[3] for s in STATES]
    assert not outcome.terminated.any()  # 5 m away and no end


def test_bidexhands_success_is_out_of_reach():
    env = make("Switch", 1, success_drop=0.05)
    env.reset()
    env.sim.qpos[:, HINGES] = 0.0
    env.sim.forward()
    outcome = env.evaluate()
    assert outcome.terms["drop"].item() == pytest.approx(0.0166, abs=1e-5)
    assert not outcome.success.any()


def test_a_rocker_comes_up_by_itself():
    env = make("Switch", 2)
    env.reset()
    env.sim.qpos[0, HINGES] = 0.0
    for _ in range(40):
        env.step(torch.zeros(2, 52))
    np.testing.assert_allclose(env.sim.qpos[:, HINGES].numpy(), 0.5585, atol=0.01)
    # 42 g, 2.2 cm from the hinge: the torque that a finger has to overcome, N m.
    data = current(env, 0)
    rocker = env.sim.model.body("left_rocker")
    assert rocker.mass == pytest.approx(0.042)
    arm = data.xipos[rocker.id] - data.xpos[rocker.id]
    assert 0.042 * 9.81 * -arm[0] == pytest.approx(0.008, abs=0.002)


@pytest.mark.parametrize(("hands", "success"), [((1.0, 1.0), 1.0), ((1.0, 0.0), 0.0)])
def test_hands_that_come_down_press_the_switches(hands, success):
    env = make("Switch", 1, episode_length=126)
    env.reset()
    low, high = env._joint_low[env._driven], env._joint_high[env._driven]
    action, deepest = torch.zeros(1, 52), [1.0, 1.0]
    for t in range(125):
        middle = env.fingertips()[0, :, 1:3].mean(1)  # of middle and ring finger
        height = 0.72 if t < 50 else 0.69
        place = torch.tensor(((0.035, 0.2, height), (0.035, -0.2, height)))
        by_hand = action.view(2, 26)
        by_hand[:, :3] = 30 * (place - middle).clamp(-0.03, 0.03) * torch.tensor(hands)[:, None]
        by_hand[:, 6:] = -2 * low / (high - low) - 1  # flat hands
        step = env.step(action)
        deepest = np.minimum(deepest, env.sim.qpos[0, HINGES].numpy())
    assert step.log["success"].item() == success
    for pressed, angle in zip(hands, deepest, strict=True):
        assert angle < 0.05 if pressed else angle > 0.5
