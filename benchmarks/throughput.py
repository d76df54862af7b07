"""Time of each stage of a training run, relative to bare physics in the same run.

    python benchmarks/throughput.py [envs=128,1024] [threads=1,0] [out=throughput.json] [key=value]

Further key=value pairs are train.py's. Every control step is done twice from the same state: by
mjbatch alone (`bare`, no bindings but the state) and by the environment, one right after the
other, so that drifting machine speed cancels in the ratios. CPU time counts all threads.
"""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import contextmanager

import torch
from mjbatch import Batch
from settings import read, run, save

from madpo_isaac.config.overrides import compose
from madpo_isaac.sim.cpu import MjBatchSim
from madpo_isaac.system import device
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.run import Run


class Clock:
    """Sums wall and CPU seconds by stage."""

    def __init__(self) -> None:
        self.wall: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str):
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[stage] += time.perf_counter() - wall
        self.cpu[stage] += time.process_time() - cpu


class BareTwin:
    """mjbatch alone, put into the environment's state before each of its physics steps."""

    def __init__(self, sim: MjBatchSim, clock: Clock) -> None:
        self.clock = clock
        self.stage = "bare physics, random actions"
        self.batch = Batch(sim.model, sim.num_envs, sim.num_threads)
        state = torch.from_numpy(self.batch.bind("state"))
        ctrl = torch.from_numpy(self.batch.bind("ctrl"))
        original = sim.step

        def step(substeps: int) -> None:
            state.copy_(sim._state)
            ctrl.copy_(sim.ctrl)
            with clock(self.stage):
                self.batch.step(nstep=substeps)
            original(substeps)

        sim.step = step


def measure(num_envs: int, threads: int, overrides: list[str], iterations: int) -> dict:
    config = compose([f"num_envs={num_envs}", f"num_threads={threads}", *overrides])
    run = Run(config)
    assert isinstance(run.learner, OnPolicyLearner)
    clock = Clock()
    twin = BareTwin(run.env.sim, clock)
    horizon = config.algo.horizon
    env, algo, rollout = run.env, run.learner.algo, run.learner.rollout
    generator = torch.Generator().manual_seed(0)
    with device.single_threaded():
        for t in range(horizon * iterations + 5):
            action = 2.0 * torch.rand(num_envs, env.action_dim, generator=generator) - 1.0
            if t == 5:
                clock.wall.clear()
                clock.cpu.clear()
            with clock("environment step, random actions"):
                run.state = env.step(action).state
    twin.stage = "bare physics, policy"
    run.collect()
    algo.update(rollout)
    for stage in ("bare physics, policy", "collection"):
        clock.wall[stage] = clock.cpu[stage] = 0.0
    for _ in range(iterations):
        with clock("collection"):
            run.collect()
        with clock("update"):
            algo.update(rollout)
    # The twin's physics ran inside the environment's time: take it out again.
    for inner, outer in (
        ("bare physics, random actions", "environment step, random actions"),
        ("bare physics, policy", "collection"),
    ):
        clock.wall[outer] -= clock.wall[inner]
        clock.cpu[outer] -= clock.cpu[inner]
    for total in (clock.wall, clock.cpu):
        total["end to end"] = total["collection"] + total["update"]
    steps = num_envs * horizon * iterations
    return {
        stage: {"per_s": steps / clock.wall[stage], "per_cpu_s": steps / clock.cpu[stage]}
        for stage in clock.wall
    }


def main(argv: list[str]) -> None:
    given = read(argv, envs=[128, 1024], threads=[1, 0], iterations=4, further=[])
    rows = []
    print(f"{'envs':>6} {'threads':>7}  {'stage':34} {'steps/s':>9} {'/CPU-s':>9} {'ratio':>6}")
    for num_envs in given.envs:
        for threads in given.threads:
            result = measure(num_envs, threads, given.further, given.iterations)
            for stage, speed in result.items():
                actions = "random actions" if "random" in stage else "policy"
                bare = result[f"bare physics, {actions}"]
                ratio = speed["per_cpu_s"] / bare["per_cpu_s"]
                rows.append(
                    {"num_envs": num_envs, "threads": threads or "all", "stage": stage}
                    | {key: round(value, 1) for key, value in speed.items()}
                    | {"ratio_to_bare_per_cpu_s": round(ratio, 3)}
                )
                print(
                    f"{num_envs:6} {threads or 'all':>7}  {stage:34} {speed['per_s']:9.0f} "
                    f"{speed['per_cpu_s']:9.0f} {ratio:6.2f}"
                )
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
