"""Time of an iteration beside other programs: how far training falls below its share of the cores.

    python benchmarks/busy.py [loops=0,8] [threads=0] [iterations=3] [out=busy.json] [key=value]

`loops` programs that never sleep run beside the training, which takes `threads` (0 for one a core).
The stages are the physics pool (mjbatch's threads), the rest of the collection (one thread) and the
update (OpenMP's threads). Seconds are medians of iterations that alternate between the numbers of
loops; `share` is the idle time at the fair share of the cores, divided by the time that was taken:
1 is fair, and less is time lost in waiting for threads that do not run. How long OpenMP's threads
spin is bounded as in train.py, unless GOMP_SPINCOUNT or OMP_WAIT_POLICY is set. Further key=value
pairs are train.py's.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from madpo_isaac.system import spin

spin.bound()  # before anything imports torch

from settings import read, run, save  # noqa: E402

from madpo_isaac.config.overrides import compose  # noqa: E402
from madpo_isaac.training.on_policy import OnPolicyRunner  # noqa: E402

STAGES = ("physics", "rest of collection", "update")


@contextmanager
def beside(loops: int) -> Iterator[None]:
    """Runs so many programs that never sleep."""
    command = [sys.executable, "-c", "while True: pass"]
    programs = [subprocess.Popen(command) for _ in range(loops)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def iterate(runner: OnPolicyRunner) -> tuple[float, float, float]:
    """Seconds of the stages in one iteration."""
    start = time.perf_counter()
    physics = runner.collect()
    collected = time.perf_counter()
    runner.algo.update(runner.rollout)
    return physics, collected - start - physics, time.perf_counter() - collected


def slowdown(loops: int, threads: int, cores: int) -> float:
    """How many times as long a fair scheduler makes work that keeps ``threads`` busy."""
    return max(1.0, (threads + loops) / cores)


def main(argv: list[str]) -> None:
    given = read(argv, loops=[0, 8], threads=0, iterations=3, further=[])
    cores = len(os.sched_getaffinity(0))
    threads = given.threads or cores
    runner = OnPolicyRunner(compose([f"num_threads={threads}", *given.further]), observers=[])
    runner.build()
    runner.state = runner.env.reset()
    iterate(runner)  # warm-up
    numbers = sorted({0, *given.loops})
    times: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(given.iterations):
        for loops in numbers:
            with beside(loops):
                times[loops].append(iterate(runner))
    rows = []
    print(f"{cores} cores, {threads} threads")
    print(f"{'loops':>5}  {'stage':20}{'seconds':>9}{'share':>7}")
    idle: dict[str, float] = {}
    for loops in numbers:
        columns = list(zip(*times[loops], strict=True))
        total = [sum(stages) for stages in times[loops]]
        for stage, values in zip((*STAGES, "iteration"), [*columns, total], strict=True):
            seconds = statistics.median(values)
            used = 1 if stage == "rest of collection" else threads
            fair = idle.setdefault(stage, seconds) * slowdown(loops, used, cores)
            rows.append({"loops": loops, "stage": stage, "s": seconds, "share": fair / seconds})
            print(f"{loops:5}  {stage:20}{seconds:9.3f}{fair / seconds:7.2f}", flush=True)
    save(given, cores=cores, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
