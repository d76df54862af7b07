"""The live view: it fits into every terminal, and the numbers that matter are there."""

import io
import re

import pytest
from rich.console import Console
from rich.live import Live

from madpo_isaac import console
from madpo_isaac.training.display import BARS, POINTS, Trend, View, agent_columns, steps
from madpo_isaac.training.recording import closing, plain_line

METRICS = ("loss", "entropy", "kl", "clip_fraction", "grad_norm", "lr", "skipped")
METRICS += ("preceding_ratio", "divergence_intra", "divergence_inter")
SIZES = [(80, 20), (80, 24), (120, 40), (200, 50), (40, 10), (20, 5)]


def line(iteration, agents, **changes):
    """A line of metrics.jsonl; agent p's value of every metric is p - 3.25."""
    each = {f"agent{p}/{name}": p - 3.25 for p in range(agents) for name in METRICS}
    each |= {f"agent{p}/divergence_inter": None for p in range(agents)}
    each |= {f"agent{p}/skipped": 1.0 for p in range(agents)}
    return {
        **{"iteration": iteration, "env_steps": 12_800 * iteration, "wall_s": 61.0 * iteration},
        **{"fps_total": 1234.4, "fps_step_infer": 23456.0, "fps_step": 345678.0},
        **{"episode_return": 100.5 - abs(iteration - 7), "success_rate": iteration / 40},
        **{"nan_resets": 1, "overflows": 0, **each, **changes},
    }


def view(agents, iterations=20, evaluates=False):
    names = [f"hand{p}_palm" for p in range(agents)]
    made = View("Task with madpo, seed 1", "runs/some/where", names, 40, evaluates)
    for k in range(1, iterations + 1):
        extra = {"eval/return": 55.5, "eval/success_rate": 0.25} if k == 10 else {}
        made.add(line(k, agents, **extra), "0:12:34")
    return made


@pytest.mark.parametrize("agents", [2, 17])
@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("iterations", [0, 1, 20])
def test_nothing_exceeds_the_terminal(agents, width, height, iterations):
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, soft_wrap=True, highlight=False)
    console.print(view(agents, iterations, evaluates=True))
    lines = stream.getvalue().split("\n")
    assert max(map(len, lines)) < width
    assert len(lines) <= height


@pytest.mark.parametrize("agents", [2, 17])
@pytest.mark.parametrize(("width", "height"), SIZES[:4])
def test_what_matters_is_shown(agents, width, height):
    text = "\n".join(view(agents).lines(width, height - 1))
    assert "iteration 20/40, 256 k steps" in text and " 50 % " in text
    assert "0:20:20 elapsed, 0:12:34 remaining" in text
    assert re.search(r"return +87\.5 +best 100\.5 at iteration 7 +[▁-█]+", text)
    assert re.search(r"success +0\.5 +best 0\.5 at iteration 20 +[▁-█]+", text)
    assert "1,234 in all, 23,456 collecting, 345,678 simulating" in text
    assert f"faults    20 unstable, {20 * agents} skipped steps" in text
    assert "agent0" not in text


def test_a_long_trend_is_not_cut():
    lines = view(2, iterations=40, evaluates=True).lines(80, 19)
    (shown,) = (line for line in lines if line.startswith("return"))
    assert shown[-1] in BARS and len(shown) == 79


def test_a_task_without_success_has_no_line_for_it():
    made = view(2)
    made.has_success = False
    text = "\n".join(made.lines(80, 23))
    assert "success" not in text and "return" in text


def test_few_agents_have_a_row_each_by_their_name():
    lines = view(2).lines(80, 19)
    assert [x.split()[:2] for x in lines[-2:]] == [["hand0_palm", "-3.25"], ["hand1_palm", "-2.25"]]
    assert lines[-1].count("-2.25") == 6  # all but lr, skipped, what is absent, and one column


def test_many_agents_are_summarized_where_they_do_not_fit():
    low, mean, high = view(17).lines(80, 19)[-3:]
    assert low.startswith("lowest of 17 ") and low.split()[3] == "-3.25"
    assert mean.startswith("mean of 17 ") and mean.split()[3] == "4.75"
    assert high.startswith("highest of 17 ") and high.split()[3] == "12.8"
    assert view(17).lines(80, 45)[-1].startswith("hand16_palm ")


def test_the_height_and_the_columns_stay():
    before, after = view(17, 2).lines(120, 30), view(17, 20).lines(120, 30)
    assert len(before) == len(after)
    assert before[-4:] == after[-4:]


def test_metrics_that_an_algorithm_lacks_have_no_column():
    shown = ["entropy", "kl", "preceding_ratio", "divergence_intra"]
    assert agent_columns(line(1, 2)) == [*shown, "loss", "clip_fraction", "grad_norm"]


def test_a_terminal_of_ascii_gets_ascii():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    console = Console(file=stream, width=80, height=20, force_terminal=True)
    with Live(view(2), console=console, auto_refresh=False):
        pass
    stream.flush()
    assert b"best 100.5" in raw.getvalue()


# Trends -----------------------------------------------------------------------------------------


def test_a_trend_knows_the_newest_and_the_best():
    trend = Trend()
    for k, value in enumerate([1.0, None, 5.0, float("nan"), 3.0]):
        trend.add(value, k)
    assert (trend.last, trend.best, trend.best_at) == (3.0, 5.0, 2)
    assert trend.sparkline(10) == "▁█▄" or trend.sparkline(10) == "▁█▅"


def test_a_long_trend_keeps_its_shape():
    trend = Trend()
    for k in range(10_000):
        trend.add(float(k), k)
    assert len(trend._points) < POINTS
    assert trend.sparkline(8) == BARS
    assert trend.sparkline(0) == "" and Trend().sparkline(5) == ""


def test_a_constant_trend_is_flat():
    trend = Trend()
    for k in range(5):
        trend.add(2.0, k)
    assert len(set(trend.sparkline(5))) == 1


# Lines ------------------------------------------------------------------------------------------


def test_a_plain_line_fits_into_120_columns():
    long = {"episode_return": -12345.678, "eval/return": -12345.678, "eval/success_rate": 0.1}
    long["success_rate"] = 0.51234
    metrics = line(12345, 2, fps_total=123456.0, **long) | {"env_steps": 12_345_678_901}
    text = plain_line(metrics, 100_000, console.hours(290 * 3600 + 1))
    assert len(text) <= 120, len(text)
    assert "iteration: 12345/100000 12.35 G steps return: -12346 " in text
    assert text.endswith("ETA: 290:00:01")
    empty = line(1, 2, episode_return=None, success_rate=None)
    assert "return: - success: - fps" in plain_line(empty, 2, "0:00:00")
    text = plain_line(metrics, 100_000, "0:00:00", has_success=False)
    assert "return: -12346 evaluated: -12346 fps: 123456 " in text


@pytest.mark.parametrize(("count", "text"), [(96, "96"), (12_800, "12.8 k"), (3e9, "3 G")])
def test_steps(count, text):
    assert steps(count) == f"{text} steps"


def test_the_closing_block_names_the_best_policy_and_what_follows(tmp_path):
    folder = tmp_path / "a run"
    lines = closing(view(2), 100.5, folder)
    assert lines[0] == "20 of 40 iterations, 256 k steps in 0:20:20"
    assert lines[1] == f"best return 100.5 at iteration 7: {folder}/nn/best.pth"
    assert lines[3:] == [
        f"  python train.py checkpoint='{folder}'",
        f"  madpo play '{folder}/nn/best.pth'",
        f"  madpo eval '{folder}/nn/best.pth'",
        f"  madpo report '{folder}'",
    ]
    none = closing(view(2), -float("inf"), folder)
    assert "no best policy" in none[1] and "last.pth" in none[4]
