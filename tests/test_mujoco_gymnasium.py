"""Multi-agent MuJoCo steps exactly as Gymnasium's own environments do."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch

from madpo_isaac import tasks

SCENARIO = {
    "HalfCheetah": "HalfCheetah-2x3",
    "Walker2d": "Walker2d-3x2",
    "Ant": "Ant-8x1",
    "Humanoid": "Humanoid-17x1",
}
# The state lives in float64; what an environment returns is rounded to float32 once.
TOLERANCE = {"rtol": 1e-6, "atol": 1e-6}


def reference(robot, version):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        env = gymnasium.make(f"{robot}-{version}", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    return env


def start(envs, env, rows):
    """Puts Gymnasium's environments where ours begin an episode."""
    qpos, qvel = (env.sim.field(name, exact=True).numpy() for name in ("qpos", "qvel"))
    for i in rows:
        envs[i].reset()
        envs[i].set_state(qpos[i], qvel[i])


def padded(observation, width):
    """Gym's v2 observation: contact forces, which v4 leaves out or really has, are zero."""
    known = {111: 27, 376: 292}.get(width, width)
    return np.concatenate((observation[:known], np.zeros(width - known)))


@pytest.mark.parametrize(
    ("robot", "version", "reference_version", "steps"),
    [
        ("HalfCheetah", "v2", "v4", 300),
        ("HalfCheetah", "v5", "v5", 100),
        ("Walker2d", "v2", "v4", 300),
        ("Walker2d", "v5", "v5", 300),
        ("Ant", "v2", "v4", 300),
        ("Humanoid", "v2", "v4", 200),
    ],
)
def test_steps_as_gymnasium(robot, version, reference_version, steps):
    num_envs = 2
    env = tasks.make(SCENARIO[robot], num_envs, seed=3, version=version, num_threads=1)
    references = [reference(robot, reference_version) for _ in range(num_envs)]
    generator = torch.Generator().manual_seed(0)
    state = env.reset()
    start(references, env, range(num_envs))
    for i, ref in enumerate(references):
        np.testing.assert_allclose(state[i], padded(ref._get_obs(), env.state_dim), **TOLERANCE)
    terminations = 0
    for _ in range(steps):
        # Beyond the actuators' range, where forces are limited and costs are not.
        action = 1.3 * (2.0 * torch.rand(num_envs, env.action_dim, generator=generator) - 1.0)
        step = env.step(action)
        gain = 0.4 if robot == "Humanoid" else 1.0
        for i, ref in enumerate(references):
            observation, reward, terminated, _, _ = ref.step((gain * action[i]).numpy())
            np.testing.assert_allclose(
                step.final_state[i], padded(observation, env.state_dim), **TOLERANCE
            )
            np.testing.assert_allclose(step.reward[i], reward, **TOLERANCE)
            assert bool(step.terminated[i]) == bool(terminated)
        terminations += int(step.terminated.sum())
        start(references, env, step.terminated.nonzero()[:, 0].tolist())
    assert (terminations > 3) == (robot != "HalfCheetah")


@pytest.mark.parametrize("robot", SCENARIO)
def test_far_from_the_origin_the_reward_keeps_its_digits(robot):
    env = tasks.make(SCENARIO[robot], 1, num_threads=1)
    ref = reference(robot, "v4")
    env.reset()
    env.sim.qpos[:, 0] += 50.0
    env.sim.forward()
    start([ref], env, [0])
    for _ in range(5):
        action = torch.zeros(1, env.action_dim)
        reward = ref.step(action[0].numpy())[1]
        np.testing.assert_allclose(env.step(action).reward[0], reward, **TOLERANCE)


@pytest.mark.parametrize("robot", SCENARIO)
def test_reset_noise_has_the_reference_distribution(robot):
    env = tasks.make(SCENARIO[robot], 4000, seed=1, num_threads=1)
    env.reset()
    scale = {"HalfCheetah": 0.1, "Walker2d": 5e-3, "Ant": 0.1, "Humanoid": 1e-2}[robot]
    qpos = env.sim.qpos.double() - torch.tensor(env.sim.model.qpos0)
    qvel = env.sim.qvel.double()
    assert qpos.abs().max() <= scale * (1 + 1e-5)
    assert qpos.abs().max() > 0.999 * scale
    torch.testing.assert_close(qpos.std(), torch.tensor(scale / 3**0.5).double(), rtol=0.01, atol=0)
    if robot in ("HalfCheetah", "Ant"):  # normal
        torch.testing.assert_close(qvel.std(), torch.tensor(scale).double(), rtol=0.02, atol=0)
        assert qvel.abs().max() > 3 * scale
    else:  # uniform
        assert 0.999 * scale < qvel.abs().max() <= scale * (1 + 1e-5)
