"""The gain of torch.compile and CUDA graphs for inference and for a gradient step of the networks.

    python benchmarks/compiled.py [tasks=HalfCheetah-2x3,...] [device=cpu] [repeats=20] [threads=1]
                                  [out=compiled.json] [key=value]

`infer` computes all agents' means in one step of all environments. `step` is one agent's forward
and backward pass over a tile of its batch. Each is measured eagerly and with torch.compile, by
turns, and on a GPU also recorded into CUDA graphs (mode reduce-overhead). Seconds are medians,
`compile_s` is the time of the first call, and `difference` is the largest difference of the
outputs. Further key=value pairs are train.py's.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from gpu import attempt, seconds, show
from settings import read, run, save
from torch import Tensor

from madpo_isaac.config.overrides import compose
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.run import Run

TASKS = ["HalfCheetah-2x3", "ShadowHandOver", "ShadowHandOver fingers", "Humanoid-17x1"]


def works(task: str, device: str, further: list[str]) -> dict[str, Callable[[], Tensor]]:
    """Returns the two works of an untrained run; each gives a result to compare."""
    name, _, split = task.partition(" ")
    chosen = [f"task={name}", "algo=happo", f"sim_device={device}", *further]
    run = Run(compose(chosen + [f"task.agents={split}"] * bool(split)))
    assert isinstance(run.learner, OnPolicyLearner)
    run.collect()
    algo, policy = run.learner.algo, run.learner.algo.actors.freeze()
    observations = run.env.observations(run.state)
    batch = algo._prepare(run.learner.rollout)
    view = algo.view(batch, 0, batch.advantage)
    rows = slice(0, min(algo.tile, len(view.obs)))

    def step() -> Tensor:
        algo.actors.stack.grad.zero_()
        algo.policy_loss(view, rows, rows.stop)[0].backward()
        return algo.actors.stack.grad[0]

    return {"infer": lambda: policy.distribution(observations)[0], "step": step}


def measure(work: Callable[[], Tensor], mode: str, device: torch.device, repeats: int) -> dict:
    """Returns the seconds of ``work`` eagerly and compiled, and the cost and error of compiling."""
    expected = work().clone()
    compiled = torch.compile(work, mode=mode)
    start = time.perf_counter()
    difference = float((compiled().clone() - expected).abs().max())
    compile_s = time.perf_counter() - start
    turns = [(seconds(device, work), seconds(device, compiled)) for _ in range(repeats)]
    before, after = (statistics.median(turn) for turn in zip(*turns, strict=True))
    return {
        "as_it_is_s": before,
        "compiled_s": after,
        "ratio": after / before,
        "compile_s": compile_s,
        "difference": difference,
    }


def main(argv: list[str]) -> None:
    given = read(argv, tasks=TASKS, device="cpu", repeats=20, threads=1, further=[])
    device = torch.device(given.device)
    modes = ["default", *["reduce-overhead"] * (device.type == "cuda")]
    rows = []
    for task in given.tasks:
        both = works(task, given.device, [f"num_threads={given.threads}", *given.further])
        for (name, work), mode in itertools.product(both.items(), modes):
            torch.compiler.reset()
            row = {"task": task, "work": name, "mode": mode}
            rows.append(attempt(row, measure, work, mode, device, given.repeats))
    show("Compiled networks", rows)
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
