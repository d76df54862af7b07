"""Another hand is data: the quad hand of the project, and one that a user writes."""

import json

import mujoco
import numpy as np
import pytest
import torch
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.hands.hand import MODELS, load

DRIVES = 12
FINGERS = {"a": "a2", "b": "b2", "c": "c2", "t": "t2"}
BLOCK = 3 * DRIVES + 4 * (13 + 6) + DRIVES
SMALL = ("num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1", "max_iterations=2")
SMALL += ONCE


def make(num_envs=2, **settings):
    return tasks.make("ShadowHandOver", num_envs, hand="quad", num_threads=1, **settings)


def test_sizes_and_agents():
    env = make()
    assert env.state_dim == 2 * BLOCK + 24 and env.action_dim == 2 * DRIVES
    fingers = make(agents="fingers").agents
    assert [agent.name for agent in fingers] == [f"hand{h}_{f}" for h in range(2) for f in FINGERS]
    assert [agent.act_dim for agent in fingers] == 8 * [3]
    assert fingers[0].action_roles == ("abduction", "flexion", "middle_flexion")
    assert [agent.act_dim for agent in make(agents=[[0, 1, 2], [3]]).agents] == [9, 3, 9, 3]
    with pytest.raises(UserError, match=r"each of 0\.\.3 \(a, b, c, t\) once"):
        make(agents=[[0, 1, 2, 3, 4, 5]])


def test_a_state_put_in_by_hand():
    """Joints mapped to [-1, 1], and fingertips where MuJoCo has them."""
    env = make(2, seed=3)
    env.reset()
    model, rng = env.sim.model, np.random.default_rng(0)
    low, high = model.jnt_range[:24].T
    joints = low + (high - low) * rng.uniform(0.1, 0.9, (2, 24))
    env.sim.qpos[:, :24] = torch.tensor(joints)
    env.sim.forward()
    state, data = env.observe().numpy(), mujoco.MjData(model)
    for row in range(2):
        data.qpos[:] = env.sim.qpos[row].numpy()
        mujoco.mj_forward(model, data)
        for h in range(2):
            block, own = state[row, BLOCK * h :], slice(12 * h, 12 * h + 12)
            mapped = 2 * (joints[row, own] - low[own]) / (high - low)[own] - 1
            np.testing.assert_allclose(block[:12], mapped, atol=1e-5)
            for i, body in enumerate(FINGERS.values()):
                at = data.body(f"hand{h}_{body}").xpos
                np.testing.assert_allclose(block[36 + 13 * i :][:3], at, atol=1e-5)
                tip = at + data.body(f"hand{h}_{body}").xmat.reshape(3, 3) @ (0, 0, 0.05)
                np.testing.assert_allclose(env.fingertips()[row, h, i].numpy(), tip, atol=1e-5)


def test_targets_are_the_middle_of_the_ranges_at_action_zero():
    env = make(1, reset_object_pos_noise=0.0)
    env.reset()
    env.sim.qpos[0, 24:27] = torch.tensor((0.0, 0.0, 5.0))  # out of the way
    for _ in range(90):
        env.step(torch.zeros(1, 24))
    middle = env.sim.model.jnt_range[:24].mean(1)
    np.testing.assert_allclose(env.sim.qpos[0, :24].numpy(), middle, atol=0.02)


def test_palms_are_up_and_hold_the_egg():
    env = make(16, reset_dof_pos_noise=0.0, seed=2)
    env.reset()
    for _ in range(60):
        step = env.step(torch.zeros(16, 24))
    assert not step.log["diverged"].any()
    assert (env.object_poses[:, 0, 2] > 0.5).sum() > 12  # one may roll off


@pytest.mark.parametrize("agents", ["hands", "fingers"])
def test_it_trains(agents, tmp_path):
    argv = ["task=ShadowHandOver", "task.hand=quad", f"task.agents={agents}", *SMALL]
    assert main([*argv, f"runs_dir={tmp_path}", "experiment=run"]) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]
    assert json.loads(lines[1])["nan_resets"] == 0


def test_every_column_has_a_meaning():
    env = make()
    names = [reading.name for reading in env.readings()]
    assert len(set(names)) == env.state_dim
    assert next(iter(env.commands())).name.startswith("hand0/a_spread")


def test_every_agents_bodies_are_found_for_pictures():
    joints = make().action_joints()
    assert joints == list(range(24))


def test_it_is_as_short_as_promised():
    """A new hand's two files: its data and its model."""
    lines = [line for path in MODELS.glob("quad.*") for line in path.read_text().splitlines()]
    assert len(lines) <= 60


# A hand of the user's ----------------------------------------------------------------------------


@pytest.fixture
def mine(tmp_path):
    """Writes a copy of the quad hand with something replaced, and returns its file."""

    def write(old="", new="", model=("", "")):
        for suffix, (before, after) in {"yaml": (old, new), "xml": model}.items():
            text = (MODELS / f"quad.{suffix}").read_text()
            assert before in text
            (tmp_path / f"quad.{suffix}").write_text(text.replace(before, after, 1))
        load.cache_clear()
        return str(tmp_path / "quad.yaml")

    return write


def test_a_file_of_the_users_does_as_well(mine):
    env = tasks.make("ShadowHandOver", 2, hand=mine(), num_threads=1, seed=5)
    twin = make(seed=5)
    assert torch.equal(env.reset(), twin.reset())
    action = torch.full((2, 24), 0.3)
    assert torch.equal(env.step(action).state, twin.step(action).state)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (("root: palm", "root: plam"), "Unknown body in the model of hand .* Did you mean 'palm'"),
        (("solid: [palm, a1", "solid: [palm, a11"), "Unknown geom .* Did you mean 'a1'"),
        (("a_spread, a_bend", "a_bend, a_spread"), "has the joints"),
        (("fingertip: [0.0, 0.0, 0.05]", "fingertip: [0.0, 0.05]"), "must have 3 numbers"),
        (("fingertip:", "fingertips:"), "cannot be read"),
        (("solid:", "solid: ["), "cannot be used"),
        (("model: quad.xml", "model: qad.xml"), "'qad.xml' of hand .* is not there"),
        (("t_turn: opposition", "turn: opposition"), "Unknown joint .* Did you mean 't_turn'"),
    ],
)
def test_bad_data_are_one_line(mine, change, part):
    with pytest.raises(UserError, match=part) as problem:
        tasks.make("ShadowHandOver", 1, hand=mine(*change))
    assert "\n" not in str(problem.value)


def test_a_model_that_does_not_compile_is_one_line(mine):
    thin = ('<geom name="a1" fromto="0 0 0 0 0 0.055"/>', "")
    path = mine("solid: [palm, a1,", "solid: [palm,", thin)
    with pytest.raises(UserError, match=r"does not compile: .*mass and inertia") as problem:
        tasks.make("ShadowHandOver", 1, hand=path)
    assert "\n" not in str(problem.value)


def test_a_hand_that_cannot_float_and_a_wrong_name_are_one_line():
    with pytest.raises(UserError, match=r"task\.hand=quad cannot float"):
        tasks.make("ShadowHandPen", 1, hand="quad")
    with pytest.raises(UserError, match=r"Unknown hand 'quat'. Did you mean 'quad'\?"):
        tasks.make("ShadowHandOver", 1, hand="quat")
