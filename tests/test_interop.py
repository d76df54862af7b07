"""PettingZoo's and Gymnasium's interfaces: their own tests, and the numbers behind them."""

import importlib.util
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode
from toy import ToyEnv

from madpo_isaac import tasks
from madpo_isaac.env import Command, Reading
from madpo_isaac.errors import UserError
from madpo_isaac.interop import gymnasium_id, parallel_env, vector_env
from madpo_isaac.interop.vector_view import VectorView

needs_pettingzoo = pytest.mark.skipif(
    importlib.util.find_spec("pettingzoo") is None,
    reason="PettingZoo is not installed (extra interop)",
)
SETTINGS = (
    ("ShadowHandOver", {"episode_length": 5}),
    ("ShadowHandOver", {"episode_length": 5, "agents": "fingers"}),
    ("HalfCheetah-2x3", {"episode_length": 5}),
    ("Ant-4x2", {"agent_obsk": 1}),
)


@needs_pettingzoo
@pytest.mark.parametrize(("task", "settings"), SETTINGS)
@pytest.mark.filterwarnings("ignore:.*Box (high|low)'s precision|.*is not within the obs")
def test_pettingzoos_own_tests_pass(task, settings):
    from pettingzoo.test import parallel_api_test, parallel_seed_test

    parallel_api_test(parallel_env(task, num_threads=1, **settings), num_cycles=25)
    parallel_seed_test(lambda: parallel_env(task, num_threads=1, **settings), num_cycles=15)


@needs_pettingzoo
def test_agents_get_their_columns_and_steer_their_joints():
    view = parallel_env("ShadowHandOver", seed=3, agents="fingers", episode_length=3, num_threads=1)
    twin = tasks.make("ShadowHandOver", 1, seed=3, agents="fingers", episode_length=3)
    state = twin.reset()
    observations, infos = view.reset()
    assert view.agents == [agent.name for agent in twin.agents] and len(view.agents) == 12
    assert infos == {name: {} for name in view.agents}
    joint = torch.linspace(-1, 1, 40)[None]
    for age in range(1, 4):
        parts = {a.name: joint[0, a.action_slice].numpy() for a in twin.agents}
        step = twin.step(joint)
        observations, rewards, terminated, truncated, infos = view.step(parts)
        for agent in twin.agents:
            expected = step.final_state[0][agent.columns].numpy()
            assert np.array_equal(observations[agent.name], expected)
            assert np.array_equal(expected, agent.observe(step.final_state)[0].numpy())
            assert rewards[agent.name] == step.reward[0].item()
            assert truncated[agent.name] is (age == 3) and terminated[agent.name] is False
            assert infos[agent.name]["success"] == 0.0
        assert np.array_equal(view.state(), step.final_state[0].numpy())
    assert not torch.equal(step.final_state, step.state) and not torch.equal(state, step.state)
    assert view.agents == []
    with pytest.raises(ValueError, match="call reset"):
        view.step(parts)
    first, again = (view.reset(seed=8)[0]["hand1_th"] for _ in range(2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, view.reset()[0]["hand1_th"])


@needs_pettingzoo
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"agent0": np.zeros(1)}, r"agent0's action has shape \(1,\), expected \(3,\)"),
        ({"agent1": np.zeros((1, 3))}, r"agent1's action has shape \(1, 3\), expected"),
        ({"agent1": 0.5}, r"agent1's action has shape \(\), expected"),
        ({"agent2": np.zeros(3)}, r"actions are for .*'agent2'\], expected \['agent0', 'agent1'\]"),
    ],
)
def test_actions_of_another_shape_or_agent_are_refused(changed, message):
    view = parallel_env("HalfCheetah-2x3", num_threads=1)
    view.reset()
    with pytest.raises(ValueError, match=message):
        view.step({**dict.fromkeys(view.agents, np.zeros(3)), **changed})


@needs_pettingzoo
@pytest.mark.parametrize(
    "task", ["ShadowHandPen", "ShadowHandCatchAbreast", "ShadowHandBlockStack", "Ant-4x2"]
)
def test_every_reset_with_a_seed_begins_the_same_episode(task):
    """Also the first one after the environment was made, and one after another episode."""
    view = parallel_env(task, num_threads=1)
    rng, episodes = np.random.default_rng(0), []
    size = view.action_space(view.possible_agents[0]).shape
    actions = [
        {agent: rng.uniform(-1, 1, size).astype(np.float32) for agent in view.possible_agents}
        for _ in range(40)
    ]
    for _ in range(2):
        seen = [view.reset(seed=7)[0], *(view.step(action)[0] for action in actions[:4])]
        episodes.append(np.concatenate([x for step in seen for x in step.values()]))
        view.reset(seed=99)
        for action in actions:
            if view.agents:
                view.step(action)
    assert np.array_equal(*episodes)


@needs_pettingzoo
def test_a_batch_is_no_parallel_env():
    from madpo_isaac.interop.parallel_view import ParallelView

    with pytest.raises(ValueError, match="not 2"):
        ParallelView(tasks.make("HalfCheetah-2x3", 2, num_threads=1))


def test_without_pettingzoo_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    monkeypatch.delitem(sys.modules, "madpo_isaac.interop.parallel_view", raising=False)
    with pytest.raises(UserError, match=r"pip install -e '\.\[interop\]'"):
        parallel_env("HalfCheetah-2x3")


def test_the_vector_view_resets_in_the_same_step_as_gymnasium_does():
    """Returns and lengths of gymnasium's own bookkeeping are those of the bare environment."""
    view = vector_env("HalfCheetah-2x3", 3, seed=2, episode_length=4, num_threads=1)
    assert view.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    twin = tasks.make("HalfCheetah-2x3", 3, seed=2, episode_length=4, num_threads=1)
    counted = gymnasium.wrappers.vector.RecordEpisodeStatistics(view)
    first, _ = counted.reset()
    assert np.array_equal(first, twin.reset().numpy())
    assert first.shape == counted.observation_space.shape == (3, 17)
    actions = np.random.default_rng(0).uniform(-1, 1, (4, 3, 6)).astype(np.float32)
    total = 0.0
    for age, action in enumerate(actions, start=1):
        step = twin.step(torch.from_numpy(action))
        obs, reward, terminated, truncated, infos = counted.step(action)
        total = total + step.reward.numpy()
        assert np.array_equal(obs, step.state.numpy())
        assert np.array_equal(reward, step.reward.numpy())
        assert np.array_equal(infos["control_cost"], step.log["control_cost"].numpy())
        assert not terminated.any() and (truncated == (age == 4)).all()
        assert ("final_obs" in infos) is (age == 4)
    assert np.array_equal(infos["final_obs"], step.final_state.numpy())
    assert infos["_final_obs"].all() and not np.array_equal(infos["final_obs"], obs)
    assert infos["episode"]["r"] == pytest.approx(total) and (infos["episode"]["l"] == 4).all()
    again = [view.reset(seed=seed)[0] for seed in (5, np.int64(5))]
    assert np.array_equal(*again)


def test_only_the_rows_that_ended_have_a_final_observation():
    view = vector_env("Walker2d-2x3", 4, seed=1, num_threads=1)
    view.reset()
    rng = np.random.default_rng(1)
    for _ in range(200):
        obs, _, terminated, truncated, infos = view.step(rng.uniform(-1, 1, (4, 6)))
        done = terminated | truncated
        if done.any() and not done.all():
            break
    assert np.array_equal(infos["_final_obs"], done)
    assert np.array_equal(infos["final_obs"][~done], obs[~done])
    assert not np.array_equal(infos["final_obs"][done], obs[done])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": [1, 2]}, "give one number"),
        ({"seed": 1.5}, "seed=1.5 must be a whole number"),
        ({"seed": 2**64}, "seed=18446744073709551616 must be a whole number of 64 bits"),
        ({"options": {"reset_mask": 1}}, "takes no options"),
    ],
)
def test_resets_that_are_not_possible_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        vector_env("HalfCheetah-2x3", 2, num_threads=1).reset(**arguments)


# What the columns mean --------------------------------------------------------------------------


def test_readings_of_hands_undo_their_scaling():
    """Every joint's column, taken back through its reading, is MuJoCo's own joint value."""
    env = tasks.make("ShadowHandOver", 2, seed=4, num_threads=1)
    env.reset()
    state = env.step(torch.rand(2, 40) * 2 - 1).state
    columns = {reading.name: (i, reading) for i, reading in enumerate(env.readings())}
    assert len(columns) == env.state_dim == 398
    model, sim = env.sim.model, env.sim
    for h, joint in ((0, "FFJ3"), (1, "THJ4"), (1, "WRJ0")):
        address = model.joint(f"hand{h}_robot0:{joint}").qposadr[0]
        for kind, value in (("position", sim.qpos), ("velocity", sim.qvel)):
            column, reading = columns[f"hand{h}/{joint}/{kind}"]
            assert abs(reading.scale) != 1.0 and reading.low == -5.0
            inside = state[:, column].abs() < 5.0
            physical = (state[:, column] - reading.offset) / reading.scale
            assert torch.allclose(physical[inside], value[:, address][inside], atol=1e-5)
    column, reading = columns["object/z"]
    height = model.joint("object_free").qposadr[0] + 2
    assert (reading.unit, reading.frame) == ("m", "world")
    assert torch.equal(state[:, column], sim.qpos[:, height])
    tip = columns["hand1/rfdistal/velocity_y"][0]
    sensor = model.sensor("hand1_robot0:rfdistal_linvel").adr[0] + 1
    assert torch.equal(state[:, tip], sim.sensordata[:, sensor].clamp(-5, 5))
    assert torch.equal(state[:, columns["hand1/THJ0/last_action"][0]], env.last_action[:, 39])


UNITS = {"force": "N", "torque": "N m", "velocity": "m/s", "rate": "rad/s"}
"""Columns that are named hand0/ffdistal/<quantity>_<axis>."""


HAND_TASKS = [
    task for task, module in tasks.TASKS.items() if module.startswith("madpo_isaac.tasks.hands")
]


@pytest.mark.parametrize("task", HAND_TASKS)
def test_every_column_of_every_hand_task_has_a_name_and_a_meaning(task):
    """Numbers of the state that MuJoCo has too are found again under their names."""
    env = tasks.make(task, 2, seed=4, num_threads=1)
    env.reset()
    state = env.step(0.3 * torch.rand(2, env.action_dim, generator=env.generator)).state
    readings, commands = env.readings(), env.commands()
    names, moved = [reading.name for reading in readings], [command.name for command in commands]
    assert len(names) == len(set(names)) == env.state_dim
    assert len(moved) == len(set(moved)) == env.action_dim
    for column in (*readings, *commands):
        quantity, _, axis = column.name.rpartition("/")[2].partition("_")
        if axis in ("x", "y", "z"):
            assert column.unit == UNITS[quantity], column.name
        elif column.name.endswith("torque"):
            assert column.unit == UNITS["torque"]
    model, sim = env.sim.model, env.sim
    for h, drive in enumerate(moved):
        assert torch.equal(state[:, names.index(f"{drive}/last_action")], env.last_action[:, h])
    for j in range(model.njnt):
        joint = model.joint(j)
        if joint.name.endswith("_free"):  # blocks, eggs, the pen
            at, body = joint.qposadr[0], joint.name.removesuffix("_free")
            parts = ("x", "y", "z", "qw", "qx", "qy", "qz")
            if (task, body) == ("ShadowHandPushBlock", "left_block"):
                parts = parts[:3]  # all that is observed of it
            for k, part in enumerate(parts):
                assert torch.equal(state[:, names.index(f"{body}/{part}")], sim.qpos[:, at + k])
    for sensor in ("right_handle", "left_handle", "cap_handle", "barrel_handle"):
        if sensor in [model.sensor(i).name for i in range(model.nsensor)]:
            at = model.sensor(sensor).adr[0]
            for k, axis in enumerate("xyz"):
                assert torch.equal(
                    state[:, names.index(f"{sensor}/{axis}")], sim.sensordata[:, at + k]
                )


def test_bases_of_floating_hands_are_described():
    """Force and torque at full action are what the engine's actuators give."""
    env = tasks.make("ShadowHandCatchAbreast", 1, seed=1, num_threads=1)
    env.reset()
    columns = {reading.name: i for i, reading in enumerate(env.readings())}
    state = env.observe()
    assert state[0, columns["hand1/base/y"]].item() == pytest.approx(-1.15, abs=1e-5)
    assert state[0, columns["hand1/base/yaw"]].item() == pytest.approx(0.0, abs=1e-5)
    commands, model = env.commands(), env.sim.model
    assert [command.name for command in commands][26:28] == ["hand1/force_x", "hand1/force_y"]
    for h in range(2):
        for k in range(6):
            command = commands[26 * h + k]
            kind, axis = ("force", "torque")[k // 3], "xyz"[k % 3]
            gain = model.actuator(f"hand{h}_{kind}_{axis}").gainprm[0]
            assert command.name == f"hand{h}/{kind}_{axis}"
            assert (command.scale, command.unit) == (gain, ("N", "N m")[k // 3])


def test_commands_of_hands_are_the_targets_that_the_engine_gets():
    env = tasks.make("ShadowHandOver", 1, num_threads=1)
    env.reset()
    action = torch.linspace(-1.5, 1.5, 40)[None]
    env.step(action)
    expected = [
        c.offset + c.scale * min(max(a, c.low), c.high)
        for c, a in zip(env.commands(), action[0].tolist(), strict=True)
    ]
    assert torch.allclose(env.sim.ctrl[0, :40], torch.tensor(expected), atol=1e-6)
    assert [c.name for c in env.commands()][20:23] == ["hand1/WRJ1", "hand1/WRJ0", "hand1/FFJ3"]


@pytest.mark.parametrize("task", ["HalfCheetah-2x3", "Walker2d-2x3", "Ant-2x4", "Humanoid-17x1"])
def test_readings_and_commands_of_robots_name_the_right_columns(task):
    env = tasks.make(task, 1, num_threads=1)
    state = env.reset()
    names = [reading.name for reading in env.readings()]
    assert len(names) == len(set(names)) == env.state_dim
    model, data = env.sim.model, env.sim
    for j in range(1, model.njnt):
        joint = model.joint(j)
        if f"{joint.name}/position" not in names:  # where the robot is
            continue
        position = state[0, names.index(f"{joint.name}/position")]
        assert position == data.qpos[0, joint.qposadr[0]]
        velocity = state[0, names.index(f"{joint.name}/velocity")]
        assert velocity == data.qvel[0, joint.dofadr[0]].clamp(-10, 10)
    env.step(torch.full((1, env.action_dim), 0.1))
    data.forward()
    for command in env.commands():
        torque = data.qfrc_actuator[0, model.joint(command.name).dofadr[0]]
        assert torque.item() == pytest.approx(0.1 * command.scale, rel=1e-5)
        assert command.unit == "N m" and command.low < 0.1 < command.high


def test_a_task_that_says_nothing_has_numbered_columns():
    env = ToyEnv()
    assert [reading.name for reading in env.readings()] == [f"state[{i}]" for i in range(6)]
    assert [command.name for command in env.commands()] == [f"action[{i}]" for i in range(6)]


# Names and pictures -----------------------------------------------------------------------------


def test_gymnasium_makes_every_task_by_its_name():
    for task in tasks.TASKS:
        assert gymnasium_id(task) in gymnasium.registry
    envs = gymnasium.make_vec("madpo_isaac/HalfCheetah-2x3-v0", num_envs=3, seed=5, num_threads=1)
    twin = vector_env("HalfCheetah-2x3", 3, seed=5, num_threads=1)
    assert np.array_equal(envs.reset()[0], twin.reset()[0])
    assert envs.num_envs == 3 and envs.spec.id == "madpo_isaac/HalfCheetah-2x3-v0"


@pytest.mark.parametrize("task", ["ShadowHandOver", "HalfCheetah-2x3"])
def test_pictures_are_of_each_environment(task):
    envs = vector_env(task, 2, num_threads=1, render_mode="rgb_array", width=96, height=64)
    envs.reset(seed=1)
    for _ in range(5):
        envs.step(np.ones((2, *envs.single_action_space.shape)) * [[-1.0], [1.0]])
    first, second = envs.render()
    assert first.shape == second.shape == (64, 96, 3) and first.dtype == np.uint8
    assert first.std() > 0 and (first != second).any()
    assert np.array_equal(first, envs.render()[0])
    assert envs.metadata["render_fps"] == round(1 / envs.env.step_dt)
    envs.close()


@needs_pettingzoo
def test_pettingzoo_draws_what_gymnasium_draws():
    size = {"render_mode": "rgb_array", "width": 96, "height": 64}
    view = parallel_env("ShadowHandOver", 3, num_threads=1, **size)
    envs = vector_env("ShadowHandOver", 1, 3, num_threads=1, **size)
    view.reset()
    envs.reset()
    assert view.render_mode == "rgb_array" and "rgb_array" in view.metadata["render_modes"]
    assert np.array_equal(view.render(), envs.render()[0])
    view.close()
    envs.close()


def refuses_everything(view, *calls):
    for call in calls:
        with pytest.raises(ClosedEnvironmentError, match="the environment is closed"):
            call()
    view.close()  # once more does no harm


def test_a_closed_vector_env_does_nothing():
    envs = vector_env("HalfCheetah-2x3", 2, num_threads=1, render_mode="rgb_array")
    envs.reset()
    envs.close()
    refuses_everything(envs, envs.reset, envs.render, lambda: envs.step(np.zeros((2, 6))))


@needs_pettingzoo
def test_a_closed_parallel_env_does_nothing():
    view = parallel_env("HalfCheetah-2x3", num_threads=1, render_mode="rgb_array")
    view.reset()
    actions = {agent: view.action_space(agent).sample() for agent in view.agents}
    view.close()
    assert view.agents == []
    refuses_everything(view, view.reset, view.render, lambda: view.step(actions))


def test_pictures_nobody_asked_for_and_modes_that_do_not_exist():
    with pytest.raises(UserError, match=r'render\(\) needs render_mode="rgb_array"'):
        vector_env("HalfCheetah-2x3", 1, num_threads=1).render()
    with pytest.raises(UserError, match=r"render_mode 'rgb_aray'.*rgb_array"):
        vector_env("HalfCheetah-2x3", 1, num_threads=1, render_mode="rgb_aray")
    with pytest.raises(UserError, match="no pictures"):
        VectorView(ToyEnv(), "rgb_array")


@pytest.mark.parametrize("shape", [(2, 5), (3, 6), (12,)])
def test_joint_actions_have_a_row_for_each_environment(shape):
    envs = vector_env("HalfCheetah-2x3", 2, num_threads=1)
    envs.reset()
    with pytest.raises(ValueError, match=r"actions have shape .*, expected \(2, 6\)"):
        envs.step(np.zeros(shape))


def test_an_odd_environment_is_named_by_both_interfaces(monkeypatch):
    """float64 states of environments of one's own fit no space."""
    monkeypatch.setattr(ToyEnv, "readings", lambda self: [Reading(f"x{i}") for i in range(6)])
    monkeypatch.setattr(ToyEnv, "commands", lambda self: [Command(f"u{i}") for i in range(6)])
    view = VectorView(ToyEnv())
    reset, step = view.env.reset, view.env.step
    monkeypatch.setattr(view.env, "step", lambda a: step(a)._replace(reward=torch.zeros(6, 1)))
    view.reset()
    with pytest.raises(UserError, match=r"reward of ToyEnv is \(6, 1\)"):
        view.step(np.zeros((6, 6)))
    monkeypatch.setattr(view.env, "reset", lambda: reset().double())
    with pytest.raises(UserError, match=r"state of ToyEnv is .*float64"):
        view.reset()


@needs_pettingzoo
def test_parallel_env_is_one_environment():
    with pytest.raises(UserError, match="num_envs=3: parallel_env is one environment"):
        parallel_env("HalfCheetah-2x3", num_envs=3)


def test_gymnasium_knows_tasks_that_come_later(monkeypatch):
    monkeypatch.setitem(tasks.TASKS, "Later", tasks.TASKS["HalfCheetah-2x3"])
    assert "madpo_isaac/Later-v0" not in gymnasium.registry
    try:
        assert gymnasium_id("Later") in gymnasium.registry
    finally:
        gymnasium.registry.pop("madpo_isaac/Later-v0", None)
