"""Reward beyond the original's: what it adds, who gets it, and the curriculum of the goals."""

import json

import numpy as np
import pytest
import torch
from hand_oracle import make, noise
from test_exact_resume import SMALL
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    assert_repeated,
    timeless,
    weights,
)

from madpo_isaac import tasks
from madpo_isaac.commands.train import main
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.tasks.hands.shaping import ShapingConfig
from madpo_isaac.training.factory import make_env

DT = 1 / 60
ALWAYS, NEVER = 100.0, 0.0


def handles(env):
    return env.object_sensors.double().numpy().reshape(-1, 2, 3)


def arc(env, end):
    return 0.39 * np.abs(env.sim.qpos[:, 62:64].double().numpy() - end).mean(1)


def blocks(env):
    return env.sim.qpos[:, 62:76].double().numpy().reshape(-1, 2, 7)[..., :3]


def over(env):
    egg = env.sim.qpos[:, 48:51].double().numpy()
    return np.linalg.norm(egg - (0.0, -0.64, 0.54), axis=1), egg[:, None]


def two_catch(env):
    eggs = blocks(env)
    goals = np.array([(0.0, -0.79, 0.54), (0.0, -0.38, 0.54)])
    return np.linalg.norm(eggs - goals, axis=2).mean(1), eggs


def open_door(env):
    return arc(env, np.pi / 2), handles(env)


def close_door(env):
    return arc(env, 0.0), handles(env)


def pen(env):
    points = handles(env)
    return NEVER - np.linalg.norm(points[:, 0] - points[:, 1], axis=1), points


def stack(env):
    places = np.array([(0.0, 0.0, 0.625), (0.0, 0.0, 0.675)])
    return np.linalg.norm(blocks(env) - places, axis=2).sum(1), blocks(env)


def push(env):
    places = np.array([(-0.2, 0.2, 0.625), (-0.2, -0.2, 0.625)])
    return np.linalg.norm(blocks(env) - places, axis=2).sum(1), blocks(env)


def lift(env):
    pot = env.sim.qpos[:, 62:65].double().numpy()
    return np.linalg.norm(pot - (0.0, -0.6, 0.85), axis=1), pot[:, None]


def switch(env):
    points = handles(env)
    return -ALWAYS - (1.4 - points[:, 0, 2] - points[:, 1, 2]), points


CASES = {
    "Over": (over, {"success_distance": ALWAYS}),
    "TwoCatchUnderarm": (two_catch, {"success_distance": ALWAYS}),
    "DoorOpenInward": (open_door, {"success_gap": ALWAYS}),
    "DoorCloseOutward": (close_door, {"success_gap": ALWAYS}),
    "Pen": (pen, {"success_distance": NEVER}),
    "BlockStack": (stack, {}),
    "PushBlock": (push, {"success_distance": ALWAYS}),
    "LiftUnderarm": (lift, {"success_distance": ALWAYS}),
    "Switch": (switch, {"success_drop": -ALWAYS}),
}
NO_SUCCESS = ("DoorOpenInward", "BlockStack")
"""Tasks in which no state of the test is a success; in the others every one is."""


@pytest.mark.parametrize("name", CASES)
def test_the_shaped_part_is_recomputed(name):
    """From positions, row by row in float64; the task's own reward and states stay the same."""
    look, settings = CASES[name]
    settings = {"episode_length": 7, "seed": 3, **settings}
    weights = {"progress": 30.0, "action_rate": 0.01, "hold": 2.0, "hold_speed": 0.4}
    env, plain = make(name, 3, shaping=weights, **settings), make(name, 3, **settings)
    assert torch.equal(env.reset(), plain.reset())
    best, points = look(env)
    last, seen, ended = np.zeros((3, env.action_dim)), np.zeros(3), 0
    for action in noise(env, 16, seed=5):
        step, twin = env.step(action), plain.step(action)
        assert all(torch.equal(a, b) for a, b in zip(step[:5], twin[:5], strict=True))
        applied, done = action.clamp(-1, 1).double().numpy(), (step.terminated | step.truncated)
        distance, now = look(env)
        speed = np.linalg.norm(now - points, axis=2).mean(1) / DT
        still = np.exp(-((speed / 0.4) ** 2)) * (name not in NO_SUCCESS)
        progress = np.maximum(best - distance, 0.0)
        expected = 30 * progress - 0.01 * ((applied - last) ** 2).sum(1) + 2 * still
        rows = ~done.numpy()  # where an episode ended, the object is already at its next start
        np.testing.assert_allclose(step.shaping.numpy()[rows], expected[rows], atol=2e-3)
        assert torch.equal(step.learned_reward, step.reward + step.shaping)
        assert torch.equal(step.log["shaping"], step.shaping)
        best = np.where(rows, np.minimum(best, distance), distance)
        points, last = now, np.where(rows[:, None], applied, 0.0)
        seen += progress * rows
        ended += done.sum().item()
    assert ended >= 6
    if name in ("Over", "TwoCatchUnderarm"):  # the egg falls toward the height of its goal
        assert (seen > 0).all()


def test_without_options_there_is_nothing():
    env = make("Over", 2)
    env.reset()
    step = env.step(torch.zeros(2, env.action_dim))
    assert step.shaping is None and step.learned_reward is step.reward
    assert not {"shaping", "curriculum"} & step.log.keys()
    assert env.state_dict()["shaping"] == {}


def test_progress_pays_once_for_each_meter():
    """Back and forth: only what is new pays, and in the end all of the way once."""
    env = make("Over", 1, shaping={"progress": 1.0}, reset_object_pos_noise=0.0)
    env.reset()
    shaping, paid = env.shaping, []
    for y in (0.2, 0.1, 0.15, 0.1, 0.02, 0.3, 0.0):
        env.object_poses[0, 0, :3] = torch.tensor((0.0, -0.64 + y, 0.54))
        paid.append(shaping.reward(env.aim, torch.tensor([False]), torch.zeros(1, 40)).item())
    assert paid == pytest.approx([0.05, 0.1, 0.0, 0.0, 0.08, 0.0, 0.02], abs=1e-6)
    assert sum(paid) == pytest.approx(0.25, abs=1e-6)


# Curriculum -------------------------------------------------------------------------------------


def test_the_goal_moves_away_with_success_and_back_with_failure():
    chosen = {"curriculum_start": 0.25, "curriculum_step": 0.5}
    env = make("CatchAbreast", 4, shaping=chosen, episode_length=2, max_hand_offset=9.0)
    env.reset()
    level = np.full(4, 0.25)
    start, goal = np.array((-0.39, -0.55, 0.54)), np.array((-0.39, -1.15, 0.54))
    pattern = [(1, 1, 0, 0), (1, 0, 1, 0), (0, 1, 1, 0), (0, 0, 0, 1)]
    for wins in pattern:
        for k in range(2):
            expected = start + level[:, None] * (goal - start)
            np.testing.assert_allclose(env.goal_positions[:, 0].numpy(), expected, atol=1e-6)
            if k == 0:  # a win is an egg that comes by its goal; the others are far away
                offset = torch.where(torch.tensor(wins)[:, None] > 0, 0.0, 0.2)
                env.object_poses[:, 0, :3] = env.goal_positions[:, 0] + offset
                env.object_vels.zero_()
            step = env.step(torch.zeros(4, env.action_dim))
            np.testing.assert_allclose(step.log["curriculum"].numpy(), level, atol=1e-6)
        assert step.log["success"].tolist() == list(wins)
        level = np.clip(level + 0.5 * (2 * np.array(wins) - 1), 0.25, 1.0)
    assert step.shaping is None  # it adds nothing to the reward


def test_at_the_end_of_the_curriculum_the_task_is_the_original():
    env = make("Over", 2, shaping={"curriculum_start": 0.4})
    env.shaping.level.fill_(1.0)
    plain = make("Over", 2)
    assert torch.equal(env.reset(), plain.reset())
    assert torch.equal(env.goal_positions, plain.goal_positions)


# Runs -------------------------------------------------------------------------------------------

ON = (
    "task.shaping.progress=5",
    "task.shaping.action_rate=0.01",
    "task.shaping.hold=1",
    "task.shaping.curriculum_start=0.5",
)


@pytest.mark.parametrize("algo", ["happo", pytest.param("ppo", marks=pytest.mark.slow)])
def test_two_halves_equal_the_whole(tmp_path, algo):
    run = tmp_path / "x"
    begun = [*SMALL, f"runs_dir={tmp_path}", "task=ShadowHandOver", f"algo={algo}", *ON]
    assert main([*begun, "experiment=x", "max_iterations=4", "save_frequency=1"]) == 0
    lines, wholes = timeless(run), {"last": weights(run)}
    assert {"Episode_Reward/shaping", "Episode_Reward/curriculum"} <= lines[0].keys()
    assert main([f"checkpoint={run}/nn/ep_2.pth"]) == 0
    assert_repeated(run, lines, wholes)


@pytest.mark.parametrize("algo", ["happo", "ppo"])
def test_returns_are_those_of_the_task_and_learners_get_the_sum(tmp_path, algo):
    argv = [*SMALL, f"runs_dir={tmp_path}", "task=ShadowHandOver", f"algo={algo}"]
    argv += ["max_iterations=2", "algo.horizon=16", "eval_frequency=2", "eval_envs=2", "seed=1"]
    shaped = "task.shaping.hold=1000"
    assert main([*argv, "experiment=plain"]) == 0
    assert main([*argv, "experiment=shaped", shaped, "task.success_distance=100"]) == 0
    plain, other = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("plain", "shaped")
    )
    # In the first iteration both act alike; the task's returns do not see what is added.
    assert plain[0]["episode_return"] == other[0]["episode_return"]
    assert other[0]["Episode_Reward/shaping"] > 1.0
    assert not any(key.endswith("/shaping") for key in plain[0])
    assert plain[0]["critic/loss"] != other[0]["critic/loss"]
    assert 0 < other[1]["eval/return"] < 75


def test_scores_are_those_of_the_task_itself():
    config = compose(["task=ShadowHandOver", "num_envs=2", "num_threads=1", *ON])
    assert make_env(config, training=True).shaping.level.tolist() == [0.5, 0.5]
    plain = make_env(config)
    assert plain.shaping.level is None and not plain.shaping.adds


def test_other_libraries_learn_from_the_sum():
    from madpo_isaac.interop import parallel_env, vector_env

    shaping = {"action_rate": 0.01}
    action = np.ones((1, 40), np.float32)
    one = vector_env("ShadowHandOver", 1, num_threads=1, seed=2)
    two = vector_env("ShadowHandOver", 1, num_threads=1, seed=2, shaping=shaping)
    rewards = []
    for view in (one, two):
        view.reset()
        rewards.append(view.step(action)[1].item())
    assert rewards[1] == pytest.approx(rewards[0] - 0.4, abs=1e-5)
    both = parallel_env("ShadowHandOver", num_threads=1, shaping=shaping)
    both.reset()
    paid = both.step({name: np.ones(20, np.float32) for name in both.possible_agents})[1]
    assert paid["hand0"] < -0.3


# Settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("progress=-1", r"task\.shaping\.progress=-1.* must be a finite number of at least 0"),
        ("hold=nan", "hold=nan must be a finite number"),
        ("hold_speed=0", "hold_speed=0.* must be greater than 0"),
        ("curriculum_start=2", "curriculum_start=2.* must lie between 0 and 1"),
        ("curriculum_step=0", "curriculum_step=0.* must be greater than 0"),
        ("action_rate=much", "action_rate=much must be a number"),
        ("progres=1", "Did you mean 'task.shaping.progress'"),
    ],
)
def test_bad_settings_are_one_clear_line(line, message):
    with pytest.raises(UserError, match=message) as problem:
        compose([f"task.shaping.{line}"])
    assert "\n" not in str(problem.value)


def test_settings_from_python():
    chosen = ShapingConfig(action_rate=0.1)
    assert tasks.make("ShadowHandOver", 1, shaping=chosen).config.shaping == chosen
    for bad, message in (
        ({"hlod": 1}, "Unknown setting of task.shaping 'hlod'.*'hold'"),
        ({"hold": True}, "task.shaping.hold=True must be a finite number"),
        (1.0, "task.shaping=1.0 must be a group of settings"),
    ):
        with pytest.raises(UserError, match=message):
            tasks.make("ShadowHandOver", 1, shaping=bad)


TERMS = {"progress": 1.0, "action_rate": 1.0, "hold": 1.0, "curriculum_start": 0.5}
GOALS = ("Over", "CatchUnderarm", "CatchOver2Underarm", "CatchAbreast")


@pytest.mark.parametrize("task", [name for name in tasks.TASKS if name.startswith("ShadowHand")])
def test_every_hand_task_takes_what_it_supports_and_refuses_the_rest(task):
    name = task.removeprefix("ShadowHand")
    allowed = set(TERMS)
    if name not in GOALS:
        allowed -= {"curriculum_start"}
    if name == "ReOrientation":
        allowed = {"action_rate"}
    env = make(name, 2, shaping={key: TERMS[key] for key in allowed})
    env.reset()
    step = env.step(torch.ones(2, env.action_dim))
    assert step.shaping.shape == (2,) and step.shaping.isfinite().all()
    for key in TERMS.keys() - allowed:
        with pytest.raises(UserError, match=rf"task\.shaping\.{key}=.* does not work here: .*rate"):
            make(name, 1, shaping={key: TERMS[key]})
