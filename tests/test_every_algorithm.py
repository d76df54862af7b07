"""Every algorithm learns on every kind of task: two agents, twelve, six joints and seventeen."""

import json

import pytest
import torch
from omegaconf import OmegaConf
from tiny_run import ONCE

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.commands.train import main
from madpo_isaac.runs import checkpoint

CASES = {
    "hands": (2, "task=ShadowHandOver", "task.agents=hands"),
    "fingers": (12, "task=ShadowHandOver", "task.agents=fingers"),
    "cheetah": (2, "task=HalfCheetah-2x3"),
    "humanoid": (17, "task=Humanoid-17x1"),
}


def pairs():
    """All algorithms with two agents, and with many agents by turns; the others are slow."""
    for k, algo in enumerate(ALGO_SCHEMAS):
        for case in CASES:
            later = case == ("fingers", "humanoid")[k % 2]
            yield pytest.param(case, algo, marks=pytest.mark.slow if later else ())


@pytest.mark.parametrize(("case", "algo"), pairs())
def test_two_iterations(algo, case, tmp_path):
    num_agents, *task = CASES[case]
    small = ["num_envs=4", "algo.horizon=8", "algo.hidden=[16]", "num_threads=1"]
    small += ["algo.mini_epochs=2"] if algo == "ppo" else [*ONCE, "algo.epochs=2"]
    argv = [*task, f"algo={algo}", *small, "max_iterations=2", "experiment=run"]
    assert main([*argv, f"runs_dir={tmp_path}", "save_frequency=1"]) == 0
    run = tmp_path / "run"
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2]
    assert lines[1]["env_steps"] == 64
    learners = 1 if algo == "ppo" else num_agents
    for line in lines:
        for p in range(learners):
            assert all(
                isinstance(line[f"agent{p}/{key}"], float) for key in ("loss", "entropy", "kl")
            )
        assert f"agent{learners}/loss" not in line
    assert OmegaConf.load(run / "config.yaml").algo.name == algo
    if algo != "ppo":
        first, last = (
            checkpoint.load(run / "nn" / name)["algo_state"]["actors"]
            for name in ("ep_1.pth", "last.pth")
        )
        assert torch.isfinite(last).all()
        moved = (first != last).any(1)
        assert moved.all() or algo == "hatrpo"  # whose line search may refuse a step
        assert moved.any()
