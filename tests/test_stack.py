import numpy as np
import pytest
import torch
from hand_oracle import current, finger_sum, make, place_fingers, put_in, xyzw
from scipy.spatial.transform import Rotation

BLOCKS = (slice(62, 69), slice(69, 76))
DOFS = (slice(60, 66), slice(66, 72))


def place(env, row, right, left):
    for block, pos in zip(BLOCKS, (right, left), strict=True):
        env.sim.qpos[row, block][:3] = torch.tensor(pos)


def test_every_reset_is_the_state_of_the_table():
    env = make("BlockStack", 2)
    state = env.reset()
    assert env.max_episode_length == 250
    np.testing.assert_allclose(env.handles()[1].numpy(), ((0, 0.1, 0.625), (0, -0.1, 0.625)))
    sums = env.finger_distances(env.handles())[1].numpy()
    np.testing.assert_allclose(sums, 0.539, atol=1e-3)
    # 1.5 - 0.5391 - 0.5396
    np.testing.assert_allclose(env.evaluate().reward.numpy(), 0.4213, atol=1e-3)
    expected = (0, 0.1, 0.625, 0.5, 0.5, -0.5, 0.5)
    np.testing.assert_allclose(state[1, 398:405].numpy(), expected, atol=1e-6)
    assert torch.equal(state[0], state[1])


def test_blocks_start_with_noise_in_the_plane_on_demand():
    env = make("BlockStack", 32, reset_block_pos_noise=0.02)
    env.reset()
    offset = env.handles().numpy() - np.array(((0, 0.1, 0.625), (0, -0.1, 0.625)))
    assert np.abs(offset[..., 2]).max() < 1e-6
    assert (np.abs(offset[..., :2]) <= 0.02 + 1e-6).all()
    assert len(np.unique(offset[..., :2])) == 128


def test_tail_of_a_state_put_in_by_hand():
    env = make("BlockStack", 3)
    env.reset()
    put = put_in(env, seed=2)
    tail = env.observe().numpy()[:, 398:]
    fingers = env.finger_distances(env.handles()).numpy()
    for row in range(3):
        expected = []
        data = current(env, row)
        for h, (block, dof) in enumerate(zip(BLOCKS, DOFS, strict=True)):
            pose, vel = put["qpos"][row, block], put["qvel"][row, dof]
            spin = Rotation.from_quat(pose[3:], scalar_first=True).apply(vel[3:])
            expected += [pose[:3], xyzw(pose[3:]), vel[:3], 0.2 * spin]
            total = finger_sum(env.sim.model, data, h, pose[:3])
            assert fingers[row, h] == pytest.approx(total, rel=1e-5)
        np.testing.assert_allclose(tail[row], np.concatenate((*expected, np.zeros(4))), atol=1e-5)


# Places of the right and the left block, finger distances, reward, success.
STATES = [
    # Stacked, hands near: 1.5 - 0.5 + 2 * 0.24 + 50 * 0.05.
    ((0, 0, 0.625), (0, 0, 0.675), (0.3, 0.2), 1.0 + 0.48 + 2.5, True),
    # At the start, hands near: d is 0.1 and the root of 0.1^2 + 0.05^2.
    ((0, 0.1, 0.625), (0, -0.1, 0.625), (0.4, 0.4), 0.7 + 2 * (0.14 - 0.0125**0.5), False),
    # Side by side 5 cm apart: both within 7 cm, but the left one 5 cm too low.
    ((0, 0.04, 0.625), (0, 0, 0.625), (0.6, 0.1), 0.8 + 0.0, False),
    # 3.1 and 2.9 cm off its height.
    ((0, 0, 0.625), (0, 0, 0.706), (0.6, 0.1), 0.8 + 50 * 0.019, False),
    ((0, 0, 0.625), (0, 0, 0.646), (0.6, 0.1), 0.8 + 50 * 0.021, True),
    # The right block is 7.1 cm off: no stack, though hands are near.
    ((0.071, 0, 0.625), (0, 0, 0.675), (0.2, 0.2), 1.1 + 2 * (0.24 - 0.071), False),
    # Hands away.
    ((0, 0, 0.625), (0, 0.069, 0.675), (0.76, 0.1), 0.64 + 2.5, True),
]


def test_reward_success_and_termination_by_hand():
    env = make("BlockStack", len(STATES))
    env.reset()
    for row, (right, left, sums, _, _) in enumerate(STATES):
        place(env, row, right, left)
        place_fingers(env, row, (right, left), sums)
    outcome = env.evaluate()
    expected = [reward for _, _, _, reward, _ in STATES]
    np.testing.assert_allclose(outcome.reward.numpy(), expected, atol=2e-5)
    assert outcome.success.tolist() == [done for *_, done in STATES]
    assert outcome.terminated.tolist() == [False] * 6 + [True]


def test_blocks_and_frictions():
    model = make("BlockStack", 1).sim.model
    for name in ("right_block", "left_block"):
        np.testing.assert_allclose(model.geom(name).size, 0.025)
        assert model.body(name).mass[0] == pytest.approx(567 * 0.05**3, rel=1e-3)
    # PhysX's averages of hand 0.5, cube 0.25 and table 0.2.
    seen = {}
    for a, b, dim, friction in zip(
        model.pair_geom1, model.pair_geom2, model.pair_dim, model.pair_friction, strict=True
    ):
        names = [model.geom(g).name for g in (a, b)]
        if names[0][:5] == names[1][:5] and names[0].startswith("hand"):
            assert dim == 1  # one hand's fingers, without friction
            continue
        kinds = sorted(
            next(kind for kind in ("hand", "block", "table") if kind in name) for name in names
        )
        assert friction[0] == friction[1]
        seen.setdefault(tuple(kinds), []).append(round(friction[0], 6))
    expected = {
        ("hand", "hand"): (400, 0.5),
        ("block", "hand"): (80, 0.375),
        ("hand", "table"): (40, 0.35),
        ("block", "block"): (1, 0.25),
        ("block", "table"): (2, 0.225),
    }
    assert {k: (len(v), v[0]) for k, v in seen.items()} == expected
    assert all(len(set(v)) == 1 for v in seen.values())


def test_blocks_stay_on_the_table_and_on_each_other():
    env = make("BlockStack", 2, max_finger_distance=5.0)
    env.reset()
    place(env, 1, (0.0, 0.0, 0.625), (0.0, 0.0, 0.675))
    for _ in range(60):
        env.step(torch.zeros(2, 52))
    np.testing.assert_allclose(
        env.handles()[0].numpy(), ((0, 0.1, 0.625), (0, -0.1, 0.625)), atol=1e-3
    )
    np.testing.assert_allclose(env.handles()[1].numpy(), ((0, 0, 0.625), (0, 0, 0.675)), atol=1e-3)
    assert env.step(torch.zeros(2, 52)).log["success"].tolist() == [0, 1]
