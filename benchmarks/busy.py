"""Time of an iteration beside other programs, relative to the training's fair share of the cores.

    python benchmarks/busy.py [loops=0,8] [threads=0] [iterations=3] [out=busy.json] [key=value]

`loops` programs that never sleep run beside the training, which takes `threads` (0 for one a core).
The stages are the physics pool (mjbatch's threads), the rest of the collection (one thread) and the
update (OpenMP's threads). Seconds are medians of iterations that alternate between the numbers of
loops; `share` is the idle time at the fair share of the cores, divided by the time that was taken:
1 is fair, and less is time lost in waiting for threads that do not run. How long OpenMP's threads
spin is bounded as in train.py, unless GOMP_SPINCOUNT (300000 is libgomp's own default) or
OMP_WAIT_POLICY is set. Further key=value pairs are train.py's.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from madpo_isaac.system import spin

spin.bound()  # before anything imports torch

from settings import read, run, save  # noqa: E402

from madpo_isaac.config.overrides import compose  # noqa: E402
from madpo_isaac.system import device  # noqa: E402
from madpo_isaac.training.run import Run  # noqa: E402

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


def iterate(training: Run) -> tuple[float, float, float]:
    """Returns the seconds of the stages in one iteration."""
    training.collect()
    line = training.update()
    return line["time_step"], line["time_infer"], line["time_update"]


def slowdown(loops: int, threads: int, cores: int) -> float:
    """Returns the factor by which a fair scheduler slows work of ``threads`` beside ``loops``."""
    return max(1.0, (threads + loops) / max(threads, cores))


def main(argv: list[str]) -> None:
    given = read(argv, loops=[0, 8], threads=0, iterations=3, further=[])
    cores = device.cores()
    threads = given.threads or cores
    training = Run(compose([f"num_threads={threads}", *given.further]))
    iterate(training)  # warm-up
    numbers = sorted({0, *given.loops})
    times: dict[int, list[tuple[float, float, float]]] = defaultdict(list)
    for _ in range(given.iterations):
        for loops in numbers:
            with beside(loops):
                times[loops].append(iterate(training))
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
