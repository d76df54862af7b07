"""The adapter to Isaac Lab, over a fake DirectMARLEnv of the handover's documented shapes."""

import contextlib
import sys
from types import ModuleType, SimpleNamespace

import gymnasium
import pytest
import torch
from tiny_run import ONCE

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.bridges import isaaclab

RIGHT, LEFT = "right_hand", "left_hand"


class FakeLab:
    """The lifecycle of DirectMARLEnv: dones, rewards, reset in the middle, then observations.

    What is seen of environment i: 1000 * (episodes it began) + its age, or +-0.5 for the hands.
    """

    possible_agents = (RIGHT, LEFT)
    device, step_dt, max_episode_length = "cpu", 1 / 60, 4
    observation_spaces = dict.fromkeys((RIGHT, LEFT), gymnasium.spaces.Box(-1, 1, (157,)))
    action_spaces = dict.fromkeys((RIGHT, LEFT), gymnasium.spaces.Box(-1, 1, (20,)))
    state_width = 290

    def __init__(self, num_envs):
        self.num_envs, self.unwrapped, self.closed = num_envs, self, False
        self.episode, self.age = torch.zeros(2, num_envs)
        self.seeds, self.fall = [], torch.zeros(num_envs, dtype=torch.bool)

    def _get_observations(self):
        seen = (1000 * self.episode + self.age)[:, None].repeat(1, 157)
        return {RIGHT: seen + 0.5, LEFT: seen - 0.5}

    def state(self):
        if not self.state_width:
            return None
        return (1000 * self.episode + self.age)[:, None].repeat(1, self.state_width)

    def _reset_idx(self, env_ids):
        self.episode[env_ids] += 1
        self.age[env_ids] = 0

    def reset(self, seed=None):
        self.seeds.append(seed)
        self._reset_idx(torch.arange(self.num_envs))
        return self._get_observations(), {}

    def step(self, actions):
        self.actions = actions
        self.age += 1
        terminated, time_out = self.fall.clone(), self.age >= self.max_episode_length
        reward = actions[RIGHT].sum(1) + actions[LEFT].sum(1)
        ids = (terminated | time_out).nonzero()[:, 0]
        if len(ids):
            self._reset_idx(ids)
        both = (dict.fromkeys(self.possible_agents, x) for x in (reward, terminated, time_out))
        return (self._get_observations(), *both, {})

    def close(self):
        self.closed = True


def test_shapes_agents_and_the_joint_state():
    lab = FakeLab(3)
    env = isaaclab.IsaacLabEnv(lab, seed=7)
    assert lab.seeds == [7]
    assert (env.num_envs, env.state_dim, env.action_dim) == (3, 290 + 2 * 157, 40)
    assert (env.max_episode_length, env.step_dt) == (4, 1 / 60)
    assert [(a.name, a.obs_dim, a.act_dim) for a in env.agents] == [
        (RIGHT, 157, 20),
        (LEFT, 157, 20),
    ]
    state = env.reset()
    assert lab.seeds == [7, None]  # later resets go on with the same random numbers
    right, left = env.observations(state)
    assert (state[:, :290] == 2000).all() and (right == 2000.5).all() and (left == 1999.5).all()
    for agent in env.agents:
        assert torch.equal(agent.observe(state), state[:, agent.columns])
    assert [(c.low, c.high) for c in env.commands()] == [(-1, 1)] * 40
    env.close()
    assert lab.closed


def test_steps_split_the_action_and_keep_the_state_before_the_reset():
    lab = FakeLab(3)
    env = isaaclab.IsaacLabEnv(lab, seed=0)
    env.reset()
    action = torch.arange(120.0).view(3, 40)
    step = env.step(action)
    assert torch.equal(lab.actions[RIGHT], action[:, :20])
    assert torch.equal(lab.actions[LEFT], action[:, 20:])
    assert torch.equal(step.reward, action.sum(1))
    assert not (step.terminated | step.truncated).any()
    assert torch.equal(step.state, step.final_state)
    lab.fall[1] = True
    step = env.step(action)
    lab.fall[1] = False
    assert step.terminated.tolist() == [False, True, False] and not step.truncated.any()
    assert step.state[:, 0].tolist() == [2002, 3000, 2002]
    assert step.final_state[:, 0].tolist() == [2002, 2002, 2002]
    assert step.final_state[:, 290].tolist() == [2002.5] * 3  # the observations, too
    env.step(action)
    step = env.step(action)
    assert step.truncated.tolist() == [True, False, True] and not step.terminated.any()
    assert step.state[:, 0].tolist() == [3000, 3002, 3000]
    assert step.final_state[:, 0].tolist() == [2004, 3002, 2004]
    with pytest.raises(ValueError, match="shape"):
        env.step(action[:2])


def test_without_a_state_the_joint_state_is_all_observations():
    lab = FakeLab(2)
    lab.state_width = 0
    env = isaaclab.IsaacLabEnv(lab, seed=0)
    assert env.state_dim == 2 * 157
    assert [round(x[0, 0].item(), 1) for x in env.observations(env.reset())] == [2000.5, 1999.5]


def test_numbers_that_are_not_finite_end_the_episode():
    lab = FakeLab(2)
    env = isaaclab.IsaacLabEnv(lab, seed=0)
    env.reset()
    action = torch.ones(2, 40)
    action[0, 3] = torch.nan
    step = env.step(action)
    assert step.terminated.tolist() == [True, False] and step.reward.tolist() == [0.0, 40.0]
    assert step.log["diverged"].tolist() == [1, 0]


@pytest.fixture
def installed(monkeypatch):
    """Puts Isaac Lab's modules in place; returns what was asked of them."""
    asked = {}

    def parse_env_cfg(task, device, num_envs):
        asked.update(parsed=(task, device, num_envs))
        return SimpleNamespace(seed=None, num_envs=num_envs)

    @contextlib.contextmanager
    def launch_simulation(cfg, arguments):
        asked["launched"] = (cfg.seed, arguments)
        yield
        asked["launched"] = None

    def make(task, cfg):
        asked["made"] = (task, asked["launched"] is not None)
        return FakeLab(cfg.num_envs)

    modules = {
        "isaaclab": {},
        "isaaclab.app": {"launch_simulation": launch_simulation},
        "isaaclab_tasks": {},
        "isaaclab_tasks.utils": {},
        "isaaclab_tasks.utils.parse_cfg": {"parse_env_cfg": parse_env_cfg},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(gymnasium, "make", make)
    return asked


def test_make_launches_isaac_lab_and_makes_its_task(installed):
    env = tasks.make("ShadowHandOver", 2, sim="isaaclab", seed=2**31 + 5)
    assert installed["parsed"] == ("Isaac-Shadow-Handover-Direct", "cpu", 2)
    assert installed["launched"] == (5, {"device": "cpu", "headless": True})
    assert installed["made"] == ("Isaac-Shadow-Handover-Direct", True)
    assert env.lab.seeds == [5]
    env.close()
    assert installed["launched"] is None


def test_training_and_playing_run_through(installed, tmp_path, capsys):
    threads = torch.get_num_threads()
    small = ("num_envs=4", "algo.horizon=6", "algo.hidden=[8]", "num_threads=1", "max_iterations=1")
    small += ONCE
    run = tmp_path / "lab"
    assert main(["sim=isaaclab", *small, f"runs_dir={tmp_path}", "experiment=lab"]) == 0
    assert main([f"checkpoint={run}", "max_iterations=2"]) == 0
    assert main([f"checkpoint={run}", "test=True"]) == 0
    assert "av steps: 4.0" in capsys.readouterr().out
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, r"sim=isaaclab runs inside Isaac Lab 3's own environment.*isaaclab_tasks"),
        ({"task": "Ant-2x4"}, "task=Ant-2x4: sim=isaaclab has ShadowHandOver only"),
        ({"agents": "fingers"}, "task.agents=fingers has no effect with sim=isaaclab"),
        ({"device": "cuda:77"}, "cuda:77"),
    ],
)
def test_what_is_not_possible_is_one_line(changed, message):
    with pytest.raises(UserError, match=message):
        tasks.make(**{"task": "ShadowHandOver", "sim": "isaaclab", "num_envs": 2, **changed})
