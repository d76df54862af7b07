"""N iterations, a checkpoint and N more equal 2N, bit for bit: every algorithm on both suites."""

import pytest
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    assert_repeated,
    timeless,
    weights,
)
from tiny_run import ONCE

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.commands.train import main
from madpo_isaac.divergence.presets import PRESETS

SMALL = (
    "num_envs=4",
    "algo.horizon=8",
    "algo.hidden=[16]",
    "num_threads=1",
    "task.episode_length=12",
)
"""Episodes of a step and a half: at every checkpoint some are under way."""
ON_POLICY = (*(*ONCE, "algo.num_minibatches=2", "algo.lr_schedule=linear", "algo.input_norm=both"),)
OPTIONS = {
    "ppo": ("algo.mini_epochs=2", "algo.num_minibatches=4"),
    **{f"madpo {name}": ("algo.divergence.rows=6",) for name in PRESETS if name != "gaussian"},
    "madpo kl": ("algo.divergence.kind=kl", "algo.divergence.decay_steps=100"),
    "madpo entropy": ("algo.divergence.kind=entropy",),
}
CASES = [*(a for a in ALGO_SCHEMAS if a != "madpo"), *(f"madpo {name}" for name in PRESETS)]


def settings(case):
    algo, _, variant = case.partition(" ")
    chosen = [f"algo={algo}", *(ON_POLICY if algo != "ppo" else ()), *OPTIONS.get(case, ())]
    return [*chosen, f"algo.divergence.preset={variant}"] if variant in PRESETS else chosen


CASES += ["madpo kl", "madpo entropy"]
SOON = ("ppo", "madpo gaussian")
"""Cases that are tried with hands, too, before all others are."""


def combinations():
    """Every case with robots, which are fast, and with hands."""
    for case in CASES:
        yield case, "HalfCheetah-2x3"
        slow = () if case in SOON else pytest.mark.slow
        yield pytest.param(case, "ShadowHandOver", marks=slow)


@pytest.mark.parametrize(("case", "task"), combinations())
def test_two_halves_equal_the_whole(tmp_path, task, case):
    run, begun = tmp_path / "x", [*SMALL, f"runs_dir={tmp_path}", f"task={task}", *settings(case)]
    assert main([*begun, "experiment=x", "max_iterations=4", "save_frequency=1"]) == 0
    lines = timeless(run)
    wholes = {name: weights(run, name) for name in ("ep_3", "ep_4", "last", "best")}
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4]
    assert sum(line["episodes"] for line in lines) >= 4
    # Nothing but the checkpoint is named: the run knows its own settings.
    assert main([f"checkpoint={run}/nn/ep_2.pth"]) == 0
    assert_repeated(run, lines, wholes)
