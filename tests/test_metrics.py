"""Episode statistics, metrics.jsonl and the TensorBoard tags."""

import json
import math

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from toy import CPU

from madpo_isaac.env import Step
from madpo_isaac.runs.metrics import EpisodeTracker, MetricsFile, TensorBoard, episodes, to_numbers


def make_step(reward, terminated=(), truncated=(), success=(), **log):
    """A step of three environments; flags list the environments they hold for."""

    def flags(ids):
        return torch.tensor([i in ids for i in range(3)])

    state = torch.zeros(3, 1)
    readings = {name: torch.tensor(values) for name, values in log.items()}
    return Step(
        state,
        torch.tensor(reward),
        flags(terminated),
        flags(truncated),
        state,
        {"success": flags(success).float(), **readings},
    )


def flush(tracker):
    return episodes(*to_numbers(tracker.take()))


def test_no_finished_episode_gives_none():
    tracker = EpisodeTracker(3, CPU)
    tracker.add(make_step([1.0, 2.0, 3.0], success=[0, 1]))
    assert flush(tracker) == {
        "episode_return": None,
        "episode_length": None,
        "success_rate": None,
        "episodes": 0,
        "nan_resets": 0,
        "overflows": 0,
    }


def test_means_over_finished_episodes_by_hand():
    """Rewards (1, 2, 3), (10, 20, 30), (4, 5, 6).

    At step 2 environment 0 terminates: return 11, length 2, no success. At step 3 environment 0
    terminates again: return 4, length 1, success; environment 1 is truncated: return 27, length 3,
    success. Environment 2 has 39 in 3 steps and goes on.
    """
    tracker = EpisodeTracker(3, CPU)
    tracker.add(make_step([1.0, 2.0, 3.0], success=[0]))
    tracker.add(make_step([10.0, 20.0, 30.0], terminated=[0], success=[1]))
    tracker.add(make_step([4.0, 5.0, 6.0], terminated=[0], truncated=[1], success=[0, 1, 2]))
    assert flush(tracker) == {
        "episode_return": pytest.approx((11 + 4 + 27) / 3),
        "episode_length": pytest.approx((2 + 1 + 3) / 3),
        "success_rate": pytest.approx(2 / 3),
        "episodes": 3,
        "nan_resets": 0,
        "overflows": 0,
    }
    # Unfinished episodes go on after a flush, finished ones are not counted again.
    assert flush(tracker)["episodes"] == 0
    tracker.add(make_step([1.0, 1.0, 1.0], terminated=[2], truncated=[2]))
    result = flush(tracker)
    assert (result["episode_return"], result["episode_length"], result["episodes"]) == (40, 4, 1)


def test_reward_terms_are_means_over_all_steps():
    """Mean of (1, 2, 3) and (5, 5, 5) is 3.5; two environments diverged."""
    tracker = EpisodeTracker(3, CPU)
    for distance, diverged in (([1.0, 2.0, 3.0], [1.0, 0.0, 0.0]), ([5.0] * 3, [0.0, 1.0, 0.0])):
        tracker.add(
            make_step([0.0] * 3, distance=distance, diverged=diverged, overflow=[1.0, 1.0, 0.0])
        )
    result = flush(tracker)
    assert result["overflows"] == 4 and "Episode_Reward/overflow" not in result
    assert result["Episode_Reward/distance"] == pytest.approx(3.5)
    assert result["nan_resets"] == 2
    assert isinstance(result["nan_resets"], int)
    assert "Episode_Reward/success" not in result
    assert "Episode_Reward/diverged" not in result
    tracker.add(make_step([0.0] * 3, distance=[2.0, 2.0, 5.0]))
    assert flush(tracker)["Episode_Reward/distance"] == pytest.approx(3.0)


def test_tracker_continues_from_its_state():
    tracker, other = EpisodeTracker(3, CPU), EpisodeTracker(3, CPU)
    tracker.add(make_step([1.0, 2.0, 3.0]))
    saved = tracker.state_dict()
    tracker.add(make_step([100.0] * 3))
    other.load_state_dict(saved)
    other.add(make_step([1.0, 1.0, 1.0], terminated=[0, 1, 2]))
    result = flush(other)
    assert result["episode_return"] == pytest.approx(3.0)
    assert result["episode_length"] == 2.0


def test_tracker_leaves_the_steps_alone():
    tracker = EpisodeTracker(3, CPU)
    step = make_step([1.0, 2.0, 3.0], terminated=[1], distance=[1.0, 2.0, 3.0])
    for _ in range(2):
        tracker.add(step)
    assert step.reward.tolist() == step.log["distance"].tolist() == [1.0, 2.0, 3.0]


def test_to_numbers_reads_scalars_of_any_type():
    metrics = {
        "loss": torch.tensor(0.5, requires_grad=True),
        "count": torch.tensor(3),
        "exact": torch.tensor(1.0 / 3.0, dtype=torch.float64),
        "bad": torch.tensor(float("inf")),
    }
    numbers, none, more = to_numbers(metrics, {}, {"loss": torch.tensor(2)})
    assert none == {} and more == {"loss": 2.0}
    assert numbers == {"loss": 0.5, "count": 3.0, "exact": 1.0 / 3.0, "bad": math.inf}
    assert all(type(value) is float for value in numbers.values())


def test_metrics_file_writes_one_object_a_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    rows = [
        {"iteration": 1, "loss": 0.25, "episode_return": None},
        {"iteration": 2, "loss": math.nan, "up": math.inf, "down": -math.inf},
    ]
    for count, row in enumerate(rows, start=1):
        file.write(row)
        assert len(path.read_text().splitlines()) == count  # nothing waits in a buffer
    file.close()

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    lines = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert lines == [rows[0], {"iteration": 2, "loss": None, "up": None, "down": None}]
    assert math.isnan(rows[1]["loss"])


def test_metrics_file_appends(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for iteration in (1, 2):
        file = MetricsFile(path)
        file.write({"iteration": iteration})
        file.close()
    assert path.read_text() == '{"iteration": 1}\n{"iteration": 2}\n'


ROW = {
    "iteration": 7,
    "env_steps": 1400,
    "wall_s": 12.9,
    "episodes": 4,
    "episode_return": 3.5,
    "episode_length": 75.0,
    "success_rate": 0.25,
    "nan_resets": 1,
    "fps_step": 9.0,
    "fps_step_infer": 8.0,
    "fps_total": 7.0,
    "time_step": 0.5,
    "time_infer": 0.25,
    "time_update": 0.75,
    "lr": 5e-4,
    "clip": 0.2,
    "loss": -0.5,
    "critic/loss": 0.125,
    "entropy": 1.5,
    "kl": 0.03125,
    "agent0/kl": 0.0625,
    "agent0/divergence_intra": None,
}

# rl_games' names, as its users' dashboards have them.
TAGS = {
    "rewards/step": (1400, 3.5),
    "rewards/iter": (7, 3.5),
    "rewards/time": (12, 3.5),
    "episode_lengths/step": (1400, 75.0),
    "episode_lengths/iter": (7, 75.0),
    "episode_lengths/time": (12, 75.0),
    "Metrics/success_rate": (1400, 0.25),
    "Metrics/nan_resets": (1400, 1.0),
    "performance/step_fps": (1400, 9.0),
    "performance/step_inference_fps": (1400, 8.0),
    "performance/step_inference_rl_update_fps": (1400, 7.0),
    "performance/step_time": (1400, 0.5),
    "performance/step_inference_time": (1400, 0.25),
    "performance/rl_update_time": (1400, 0.75),
    "info/last_lr": (1400, pytest.approx(5e-4)),
    "info/e_clip": (1400, pytest.approx(0.2)),
    "losses/a_loss": (1400, -0.5),
    "losses/c_loss": (1400, 0.125),
    "losses/entropy": (1400, 1.5),
    "info/kl": (1400, 0.03125),
    "agent0/kl": (1400, 0.0625),
}


def read(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_tensorboard_tags(tmp_path):
    board = TensorBoard(tmp_path, None)
    board.write(ROW)
    board.write({**ROW, "iteration": 8, "env_steps": 1600, "episode_return": None})
    board.close()
    found = read(tmp_path)
    assert {tag: points[0] for tag, points in found.items()} == TAGS
    assert len(found["rewards/step"]) == 1
    assert [step for step, _ in found["losses/a_loss"]] == [1400, 1600]


def test_tensorboard_purges_what_a_resumed_run_repeats(tmp_path):
    for purge, steps in ((None, (200, 400, 600)), (401, (600, 800))):
        board = TensorBoard(tmp_path, purge)
        for step in steps:
            loss = step / 100.0 + (purge is not None)
            board.write({"iteration": step // 200, "env_steps": step, "wall_s": 1.0, "loss": loss})
        board.close()
    assert read(tmp_path)["losses/a_loss"] == [(200, 2.0), (400, 4.0), (600, 7.0), (800, 9.0)]


def test_another_condition_is_one_of_episodes_too():
    """``success_10cm`` counts where an episode ends; what holds at other steps does not."""
    tracker = EpisodeTracker(3, CPU)
    tracker.add(make_step([0.0] * 3, success_10cm=[1.0, 0.0, 1.0], height=[3.0, 0.0, 0.0]))
    steps = {"terminated": [0], "truncated": [1, 2], "success": [2]}
    tracker.add(make_step([0.0] * 3, **steps, success_10cm=[1.0, 0.0, 1.0], height=[3.0, 0.0, 0.0]))
    found = flush(tracker)
    assert (found["success_rate"], found["success_10cm_rate"]) == pytest.approx((1 / 3, 2 / 3))
    assert found["Episode_Reward/height"] == pytest.approx(1.0)
    assert "Episode_Reward/success_10cm" not in found
    tracker.add(make_step([0.0] * 3, success_10cm=[1.0, 1.0, 1.0]))
    assert flush(tracker)["success_10cm_rate"] is None
