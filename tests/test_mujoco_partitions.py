"""Joints and observations of the agents in multi-agent MuJoCo."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest

from madpo_isaac import tasks
from madpo_isaac.tasks.mujoco.nearest import GRAPHS, nearest_columns
from madpo_isaac.tasks.mujoco.partitions import ALIASES, SCENARIOS
from madpo_isaac.tasks.mujoco.robots import ROBOTS


def compiled(robot):
    return mujoco.MjModel.from_xml_path(str(robot.model_file("v2")))


@pytest.fixture(scope="module")
def mamujoco():
    """MaMuJoCo's own functions; the package itself does not work with this MuJoCo."""
    package = importlib.util.find_spec("gymnasium_robotics")
    path = Path(package.submodule_search_locations[0]) / "envs/multiagent_mujoco/obsk.py"
    spec = importlib.util.spec_from_file_location("mamujoco_obsk", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=lambda robot: robot.name)
def test_actuators_are_those_of_the_model_in_its_order(robot):
    model = compiled(robot)
    driven = [model.joint(model.actuator_trnid[i, 0]).name for i in range(model.nu)]
    assert tuple(driven) == robot.actuators


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_actuator_is_driven_once_by_blocks_of_the_named_size(name):
    partition = SCENARIOS[name]
    actuators = ROBOTS[partition.robot].actuators
    agents, joints = map(int, name.split("-")[1].split("x"))
    blocks = [list(range(len(actuators)))[partition.block(i)] for i in range(agents)]
    assert [i for block in blocks for i in block] == list(range(len(actuators)))
    assert {len(block) for block in blocks} == {joints}


@pytest.mark.parametrize(
    ("name", "agent", "joints"),
    [
        ("HalfCheetah-2x3", 0, ("bthigh", "bshin", "bfoot")),
        ("HalfCheetah-3x2", 1, ("bfoot", "fthigh")),
        ("Walker2d-2x3", 1, ("thigh_left_joint", "leg_left_joint", "foot_left_joint")),
        ("Ant-2x4", 0, ("hip_4", "ankle_4", "hip_1", "ankle_1")),
        ("Ant-8x1", 7, ("ankle_3",)),
        ("Humanoid-17x1", 0, ("abdomen_y",)),
    ],
)
def test_agents_drive_the_joints_that_harl_gives_them(name, agent, joints):
    partition = SCENARIOS[name]
    assert ROBOTS[partition.robot].actuators[partition.block(agent)] == joints


def test_there_are_the_ten_scenarios_of_the_paper_under_both_names():
    whole = {"Ant-1x8", "HalfCheetah-1x6", "Walker2d-1x6", "Humanoid-1x17"}
    assert len(set(SCENARIOS) - whole) == 10 and whole < set(SCENARIOS)
    assert set(SCENARIOS) <= set(tasks.TASKS)
    assert ALIASES["HalfCheetah-v2-2x3"] == "HalfCheetah-2x3"
    assert sorted(ALIASES.values()) == sorted(SCENARIOS)


def state_indices(robot, model):
    """MjData whose entries are columns of the joint state, as MaMuJoCo indexes observations."""
    column = iter(range(10_000))

    def take(*shape):
        count = int(np.prod(shape))
        return np.array([next(column) for _ in range(count)]).reshape(shape)

    qpos = np.concatenate((np.full(robot.hidden_qpos, -1), take(model.nq - robot.hidden_qpos)))
    data = {"qpos": qpos, "qvel": take(model.nv)}
    if "cinert" in robot.fields:
        data["cinert"], data["cvel"] = take(model.nbody, 10), take(model.nbody, 6)
        data["qfrc_actuator"] = take(model.nv)
    if robot.contact_forces:
        data["cfrc_ext"] = take(model.nbody, 6)
    return SimpleNamespace(**data)


LOCAL = {
    "Ant": ["qpos", "qvel", "cfrc_ext"],
    "Humanoid": ["qpos", "qvel", "cinert", "cvel", "qfrc_actuator", "cfrc_ext"],
}


@pytest.mark.parametrize("k", [0, 1, 2])
@pytest.mark.parametrize("name", SCENARIOS)
def test_nearest_joints_are_those_of_mamujoco(mamujoco, name, k):
    partition = SCENARIOS[name]
    robot = ROBOTS[partition.robot]
    model = compiled(robot)
    (nodes,), edges, torso = mamujoco.get_parts_and_edges(robot.name, None)
    if robot.name == "Humanoid":
        # MaMuJoCo takes the abdomen's y and z joints, which the model has in the order z, y, for
        # each other; here each joint has its own position and velocity.
        for node in nodes:
            shift = {"abdomen_y": 1, "abdomen_z": -1}.get(node.label, 0)
            node.qpos_ids, node.qvel_ids = node.qpos_ids + shift, node.qvel_ids + shift
    by_actuator = sorted(nodes, key=lambda node: node.act_ids)
    categories = [LOCAL.get(robot.name, ["qpos", "qvel"])] + [["qpos"]] * k
    data = state_indices(robot, model)
    for agent in range(partition.num_agents):
        near = mamujoco.get_joints_at_kdist(tuple(by_actuator[partition.block(agent)]), edges, k)
        expected = mamujoco.build_obs(data, near, categories, torso, ("qpos", "qvel"), True)
        assert nearest_columns(robot, model, partition, agent, k) == expected.tolist()


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=lambda robot: robot.name)
def test_every_joint_is_in_the_graph(robot):
    assert frozenset().union(*GRAPHS[robot.name].edges) == set(robot.actuators)
