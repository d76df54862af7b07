"""Every hand task but ShadowHandOver: rollouts, repetition, resuming, learning."""

import io
import json

import pytest
import torch
from hand_oracle import make, noise
from test_floating import TASKS
from tiny_run import ONCE

from madpo_isaac.commands.train import main

ALL = (*TASKS, "ReOrientation")


def rollout(env, steps, seed=7):
    """Everything that comes out of random full-scale steps, half of them held for 10 steps."""
    out = []
    actions = 3 * noise(env, steps, seed)
    for k, action in enumerate(actions):
        half = env.num_envs // 2
        action[:half] = actions[k - k % 10, :half].sign()
        step = env.step(action)
        out.extend((*step[:5], *step.log.values()))
    return out


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("gain", [1 / 12, 1.0])
@pytest.mark.parametrize(("envs", "steps"), [(4, 40), pytest.param(16, 80, marks=pytest.mark.slow)])
def test_nothing_explodes_under_random_actions(name, gain, envs, steps):
    env = make(name, envs, base_gain=gain)
    env.reset()
    for tensor in rollout(env, steps):
        assert torch.isfinite(tensor).all()
    assert not env.sim.diverged().any()
    assert env.sim.qvel[:, :60].unflatten(1, (2, 30))[..., :3].abs().max() < 4.0


@pytest.mark.parametrize("name", ALL)
def test_same_seed_repeats_itself_and_a_saved_environment_continues(name):
    settings = {"episode_length": 12, "reset_dof_pos_noise": 0.1}
    env, twin, other = (make(name, 3, seed=seed, **settings) for seed in (3, 3, 4))
    starts = [e.reset() for e in (env, twin, other)]
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    first, second = rollout(env, 15), rollout(twin, 15)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    buffer = io.BytesIO()
    torch.save(env.state_dict(), buffer)
    buffer.seek(0)
    expected = rollout(env, 15, seed=8)
    other.load_state_dict(torch.load(buffer))
    again = rollout(other, 15, seed=8)
    assert all(torch.equal(a, b) for a, b in zip(again, expected, strict=True))


@pytest.mark.parametrize("name", ALL)
def test_an_iteration_of_training(name, tmp_path):
    small = ["num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1", *ONCE]
    argv = [f"task=ShadowHand{name}", *small, "max_iterations=1", "experiment=run"]
    assert main([*argv, "task.agents=fingers", f"runs_dir={tmp_path}"]) == 0
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert line["env_steps"] == 32 and line["nan_resets"] == 0
    assert isinstance(line["agent11/divergence_inter"], float)
