import numpy as np
import pytest
import torch
from hand_oracle import current, finger_sum, make, place_fingers, put_in, xyzw
from scipy.spatial.transform import Rotation


def test_every_reset_is_the_state_of_the_table():
    env = make("PushBlock", 2)
    state = env.reset()
    assert env.max_episode_length == 125
    handles = env.handles()[1].numpy()
    np.testing.assert_allclose(handles, ((0, 0.2, 0.625), (0, -0.2, 0.625)), atol=1e-6)
    data = current(env, 0)
    sums = [finger_sum(env.sim.model, data, h, handles[h]) for h in range(2)]
    assert max(sums) < 1.2  # or every episode would end at once
    # 1.2 - S of each hand, 5 less 5 times 0.2 m of each block
    np.testing.assert_allclose(env.evaluate().reward.numpy(), 5.4 - sum(sums), atol=1e-4)
    assert torch.equal(state[0], state[1])


def test_tail_of_a_state_put_in_by_hand():
    env = make("PushBlock", 3)
    env.reset()
    put = put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    for row in range(3):
        right, left, vel = (put["qpos"][row, 62:69], put["qpos"][row, 69:76], put["qvel"][row, 60:])
        spin = Rotation.from_quat(right[3:], scalar_first=True).apply(vel[3:6])
        expected = (right[:3], xyzw(right[3:]), vel[:3], 0.2 * spin, right[:3], left[:3])
        places = ((-0.2, -0.2, 0.625), (-0.2, 0.2, 0.625), np.zeros(5))
        np.testing.assert_allclose(tail[row], np.concatenate((*expected, *places)), atol=1e-5)


# Places of the right and the left block, finger distances, reward, success, end.
STATES = [
    # Both in place.
    ((-0.2, 0.2, 0.625), (-0.2, -0.2, 0.625), (0.5, 0.4), 0.7 + 0.8 + 5.0, True, False),
    # At the start.
    ((0.0, 0.2, 0.625), (0.0, -0.2, 0.625), (1.0, 1.1), 0.2 + 0.1 + 3.0, False, False),
    # 9.9 cm and 10.1 cm off.
    ((-0.299, 0.2, 0.625), (-0.101, -0.2, 0.625), (0.5, 0.5), 1.4 + 5 - 0.99, True, False),
    ((-0.299, 0.2, 0.625), (-0.2, -0.301, 0.625), (0.5, 0.5), 1.4 + 5 - 1.0, False, False),
    # A hand too far away, the other just not.
    ((-0.2, 0.2, 0.625), (-0.2, -0.2, 0.625), (1.201, 0.4), -0.001 + 0.8 + 5.0, True, True),
    ((-0.2, 0.2, 0.625), (-0.2, -0.2, 0.625), (1.199, 0.4), 0.001 + 0.8 + 5.0, True, False),
]


def test_reward_success_and_termination_by_hand():
    env = make("PushBlock", len(STATES))
    env.reset()
    for row, (right, left, sums, *_) in enumerate(STATES):
        env.sim.qpos[row, 62:65], env.sim.qpos[row, 69:72] = map(torch.tensor, (right, left))
        place_fingers(env, row, (right, left), sums)
    outcome = env.evaluate()
    np.testing.assert_allclose(outcome.reward.numpy(), [s[3] for s in STATES], atol=2e-5)
    assert outcome.success.tolist() == [s[4] for s in STATES]
    assert outcome.terminated.tolist() == [s[5] for s in STATES]


def test_frictions_are_averages():
    """Friction of hand 1, cube 1 and table 0.5."""
    model = make("PushBlock", 1).sim.model
    seen = {}
    for a, b, dim, friction in zip(
        model.pair_geom1, model.pair_geom2, model.pair_dim, model.pair_friction, strict=True
    ):
        if dim == 1:  # one hand's fingers
            continue
        names = [model.geom(g).name for g in (a, b)]
        kinds = (next(k for k in ("hand", "block", "table") if k in name) for name in names)
        seen.setdefault(tuple(sorted(kinds)), set()).add(round(friction[0], 6))
    expected = {("block", "block"): 1.0, ("block", "hand"): 1.0, ("hand", "hand"): 1.0}
    expected |= {("block", "table"): 0.75, ("hand", "table"): 0.75}
    assert seen == {kinds: {value} for kinds, value in expected.items()}


def test_a_pushed_block_slides_and_stays_on_the_table():
    env = make("PushBlock", 2, max_finger_distance=9.0)
    env.reset()
    env.sim.qvel[1, 60] = -1.0  # m/s
    for _ in range(60):
        env.step(torch.zeros(2, 52))
    blocks = env.handles()
    np.testing.assert_allclose(blocks[0, 0].numpy(), (0, 0.2, 0.625), atol=1e-3)
    # v^2 / (2 mu g) with mu = 0.75: 6.8 cm.
    assert blocks[1, 0, 0].item() == pytest.approx(-1 / (2 * 0.75 * 9.81), abs=0.01)
    assert blocks[1, 0, 2].item() == pytest.approx(0.625, abs=1e-3)
