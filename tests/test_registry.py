import dataclasses
import math
import re

import numpy as np
import pytest
import torch

from madpo_isaac import tasks
from madpo_isaac.env import AgentSpec, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.settings import integer, one_of, positive, setting
from madpo_isaac.tasks.registry import TASKS
from madpo_isaac.tasks.settings import check_settings

TASK = "ShadowHandOver"
FINGERS = [[0], [1], [2], [3], [4], [5]]
PART_COLUMNS = [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18, 19]]
PART_JOINTS = ["WR", "FF", "MF", "RF", "LF", "TH"]


def make(**settings):
    return tasks.make(TASK, **{"num_envs": 1, "num_threads": 1, **settings})


def columns(agent: AgentSpec) -> list[int]:
    return torch.arange(40)[agent.action_slice].tolist()


def test_make_builds_the_named_task():
    env = tasks.make(TASK, num_envs=3, seed=1, num_threads=1)
    assert isinstance(env, VecEnv)
    assert env.num_envs == 3
    assert env.device == torch.device("cpu")
    assert env.max_episode_length == 75
    assert env.step_dt == pytest.approx(1 / 60)
    assert (env.state_dim, env.action_dim) == (398, 40)
    assert env.sim.num_envs == 3
    assert TASK in TASKS


def test_overrides_reach_the_task():
    assert make(episode_length=9).max_episode_length == 9


@pytest.mark.parametrize("name", ["ShadowHandOvr", "shadowhandover", "ShadowHandover"])
def test_wrong_task_names_the_closest(name):
    with pytest.raises(UserError, match=rf"task '{name}'\. Did you mean '{TASK}'\?"):
        tasks.make(name, num_envs=1)


def test_hopeless_task_name_lists_the_choices():
    with pytest.raises(UserError, match=f"Allowed: .*{TASK}") as caught:
        tasks.make("xyz", num_envs=1)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("episode_lenght", "episode_length"),
        ("agent", "agents"),
        ("reset_dof_noise", "reset_dof_pos_noise"),
        ("Fall_Height", "fall_height"),
    ],
)
def test_wrong_override_names_the_closest(wrong, right):
    with pytest.raises(UserError, match=rf"'{wrong}'\. Did you mean '{right}'\?"):
        make(**{wrong: 1})


@pytest.mark.parametrize("num_envs", [0, -1, True, 1.5, "4", None])
def test_number_of_environments_must_be_a_positive_integer(num_envs):
    with pytest.raises(UserError, match=f"num_envs={num_envs} "):
        make(num_envs=num_envs)


@pytest.mark.parametrize(
    ("task", "name", "value", "allowed"),
    [
        (TASK, "episode_length", 0, "a whole number of at least 1"),
        (TASK, "episode_length", True, "a whole number of at least 1"),
        ("HalfCheetah-2x3", "episode_length", 2.5, "a whole number of at least 1"),
        (TASK, "reset_dof_pos_noise", -0.1, "a finite number of at least 0"),
        (TASK, "reset_dof_pos_noise", "a", "a finite number of at least 0"),
        (TASK, "fall_height", math.nan, "a finite number"),
        (TASK, "fall_height", None, "a finite number"),
        (TASK, "hand", 5, "a text"),
        ("ShadowHandPen", "base_gain", True, "a finite number of at least 0"),
        ("ShadowHandPen", "near_distance", -1.0, "a finite number of at least 0"),
        ("ShadowHandPen", "max_finger_distance", math.inf, "a finite number of at least 0"),
        ("ShadowHandPen", "mean_finger_distance", "yes", "True or False"),
    ],
)
def test_impossible_settings_are_named(task, name, value, allowed):
    message = f"task.{name}={value} must be {allowed}."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        tasks.make(task, num_envs=1, **{name: value})


def test_a_height_may_be_negative_and_a_length_whole():
    assert make(fall_height=-1, dist_reward_scale=20).config.fall_height == -1


def test_wrong_engine_and_device_are_user_errors():
    with pytest.raises(UserError, match="Did you mean 'mujoco'"):
        make(sim="mujocoo")
    with pytest.raises(UserError, match="Unknown device 'gpu'"):
        make(device="gpu")


@pytest.mark.parametrize(
    ("sim", "settings", "message"),
    [
        ("warp", {"solver": "xyz"}, "Unknown sim.solver 'xyz'. Allowed: cg, newton."),
        ("warp", {"njmax": "many"}, "sim.njmax=many must be a whole number or null."),
        ("warp", {"nconmax": -5}, "sim.nconmax=-5 must be at least 1."),
        ("warp", {"njmx": 5}, "Unknown setting of sim=warp 'njmx'. Did you mean 'njmax'?"),
        ("mujoco", {"name": "x"}, "Unknown setting of sim=mujoco 'name'. There are none."),
        ("isaacgym", {"timeout": -3}, "sim.timeout=-3 must be greater than 0."),
        ("isaaclab", {"speed": 3}, "Unknown setting of sim=isaaclab 'speed'. There are none."),
    ],
)
def test_bad_settings_of_an_engine_are_named(sim, settings, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        make(sim=sim, sim_settings=settings)


@pytest.mark.parametrize(
    ("agents", "groups"),
    [
        ("hands", [[0, 1, 2, 3, 4, 5]]),
        ([[0, 1, 2, 3, 4, 5]], [[0, 1, 2, 3, 4, 5]]),
        ("fingers", FINGERS),
        (FINGERS, FINGERS),
        ([[0, 1, 2], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]]),
        (((0, 1, 2), (3, 4, 5)), [[0, 1, 2], [3, 4, 5]]),
        ([[0, 2], [1, 3, 4, 5]], [[0, 2], [1, 3, 4, 5]]),
        ([[5], [4, 3, 2, 1, 0]], [[5], [4, 3, 2, 1, 0]]),
    ],
)
def test_agents_own_their_parts_of_each_hand(agents, groups):
    env = make(agents=agents)
    assert len(env.agents) == 2 * len(groups)
    assert len({agent.name for agent in env.agents}) == len(env.agents)
    expected = [
        [20 * hand + column for part in group for column in PART_COLUMNS[part]]
        for hand in range(2)
        for group in groups
    ]
    assert [columns(agent) for agent in env.agents] == expected
    assert [agent.act_dim for agent in env.agents] == [len(owned) for owned in expected]
    assert sorted(column for owned in expected for column in owned) == list(range(40))


def test_dimensions_of_the_named_splits():
    hands, fingers = make(agents="hands").agents, make(agents="fingers").agents
    assert [(agent.obs_dim, agent.act_dim) for agent in hands] == [(211, 20)] * 2
    assert [agent.obs_dim for agent in fingers] == [211] * 12
    assert [agent.act_dim for agent in fingers] == [2, 3, 3, 3, 4, 5] * 2


def test_scattered_parts_use_an_index_tensor_and_others_a_slice():
    scattered = make(agents=[[0, 2], [1, 3, 4, 5]]).agents
    assert all(isinstance(agent.action_slice, torch.Tensor) for agent in scattered)
    whole = make(agents=[[0, 1, 2], [3, 4, 5]]).agents
    assert all(isinstance(agent.action_slice, slice) for agent in whole)


@pytest.mark.parametrize("agents", ["hands", "fingers", [[0, 2], [1, 3, 4, 5]]])
def test_agents_see_their_hand_and_the_tail(agents):
    env = make(agents=agents)
    state = torch.arange(3 * 398, dtype=torch.float32).view(3, 398)
    tail = state[:, 374:]
    blocks = [torch.cat((state[:, 187 * h : 187 * (h + 1)], tail), dim=1) for h in range(2)]
    per_hand = len(env.agents) // 2
    observations = env.observations(state)
    assert len(observations) == len(env.agents)
    for i, agent in enumerate(env.agents):
        assert agent.obs_dim == 211
        assert torch.equal(agent.observe(state), blocks[i // per_hand])
        assert torch.equal(observations[i], blocks[i // per_hand])


@pytest.mark.parametrize("agents", ["fingers", [[5, 0], [2, 1], [4, 3]]])
def test_an_agents_action_moves_only_its_joints(agents):
    env = make(agents=agents)
    model = env.sim.model
    parts = [[5, 0], [2, 1], [4, 3]] if agents != "fingers" else FINGERS
    env.reset()
    for i, agent in enumerate(env.agents):
        action = torch.zeros(1, 40)
        action[:, agent.action_slice] = 1.0
        env.step(action)
        moved = []
        for k in range(40):
            low, high = model.actuator_ctrlrange[k]
            target = env.sim.ctrl[0, k].item()
            if not np.isclose(target, (low + high) / 2, atol=1e-6):
                assert target == pytest.approx(high, abs=1e-6)
                moved.append(model.actuator(k).name)
        hand, group = divmod(i, len(parts))
        wanted = tuple(PART_JOINTS[part] for part in parts[group])
        assert len(moved) == agent.act_dim
        assert all(name.startswith(f"hand{hand}_robot0:A_") for name in moved)
        assert all(name.split("A_")[1].startswith(wanted) for name in moved)


@pytest.mark.parametrize(
    "agents",
    [
        "hand",
        "Fingers",
        "",
        "012345",
        None,
        2,
        6.0,
        True,
        [],
        [[]],
        {"hands": 1},
        [0, 1, 2, 3, 4, 5],
        ["012", "345"],
        [[0, 1, 2], [3, 4]],
        [[0, 1, 2], [2, 3, 4, 5]],
        [[0, 1, 2], [3, 4, 5, 6]],
        [[0, 1, 2], [3, 4, 5, -1]],
        [[1, 2, 3], [4, 5, 6]],
        [[0, 1, 2, 3, 4, 5], []],
        [[0, 1, 2], [3, 4, "5"]],
        [[0, 1, 2], [3, 4, None]],
        [[0, 1, 2], [3, 4, [5]]],
        [[0, 1, 2], [3, 4, 5.5]],
        [[0, True, 2], [3, 4, 5]],
        [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]],
    ],
)
def test_bad_splits_are_user_errors(agents):
    with pytest.raises(UserError, match="not a split of the hand"):
        make(agents=agents)


def test_contract_is_abstract_and_agents_cannot_be_changed():
    with pytest.raises(TypeError):
        VecEnv()
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().agents[0].act_dim = 3


def test_an_environment_says_its_sizes():
    env = tasks.make("HalfCheetah-6x1", 2, num_threads=1)
    agents = (
        ", ".join(f"agent{p} ({17 + 6} -> 1)" for p in range(4)) + ", 2 more"
    )  # with its number
    assert repr(env) == f"<Env: 2 environments on cpu, state 17, action 6, agents {agents}>"


# Tasks of one's own -------------------------------------------------------------------------------


def settings_with(**columns):
    """A dataclass with these fields: their types, or types with defaults."""
    listed = [
        (name, *kind) if isinstance(kind, tuple) else (name, kind) for name, kind in columns.items()
    ]
    return dataclasses.make_dataclass("Settings", listed)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict, "settings of task 'Mine', .* must be a dataclass"),
        (settings_with(mass=float), "Setting 'mass' of task 'Mine' has no default"),
        *(
            (
                settings_with(**{name: (int, 1)}),
                f"Setting '{name}' of .* needs another name",
            )
            for name in ("seed", "num_envs", "device", "sim", "name", "train")
        ),
    ],
)
def test_settings_of_a_task_are_a_dataclass_with_defaults(settings, message):
    with pytest.raises(UserError, match=message):
        tasks.register_task("Mine", settings)(VecEnv)
    assert "Mine" not in TASKS


@dataclasses.dataclass
class Ruled:
    free: int = setting(0, integer(-3, 3))
    size: int = 2
    reach: float = setting(0.5, positive)
    kind: str = setting("a", one_of(("a", "b")))


def test_a_rule_takes_the_place_of_the_usual_range():
    for good in ({"free": -3}, {"size": 1}, {"reach": 1e9}, {"kind": "b"}):
        check_settings(dataclasses.replace(Ruled(), **good))
    for bad, message in (
        ({"free": -4}, "task.free=-4"),
        ({"free": True}, "task.free=True must be a whole number"),
        ({"size": 0}, "task.size=0 must be a whole number of at least 1"),
        ({"reach": "far"}, "task.reach=far must be a finite number"),
        ({"reach": math.nan}, "task.reach=nan must be a finite number"),
        ({"reach": -0.5}, "task.reach=-0.5 must be greater than 0"),
        ({"kind": "c"}, "task.kind"),
    ):
        with pytest.raises(UserError, match=message):
            check_settings(dataclasses.replace(Ruled(), **bad))
