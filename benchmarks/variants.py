"""Time of an iteration under several settings of one algorithm, by turns in one run.

    python benchmarks/variants.py [task=ShadowHandOver] [algo=happo] [repeats=8] [threads=1]
                                  [out=variants.json] [VARIANT ...]

A variant is an argument with settings of train.py, separated by spaces, for example
"algo.activation=relu algo.hidden=[256,256]". The task's own settings come first and are what the
others are divided by. Every variant has its own environments and networks; they take turns, so
that drifting machine speed cancels. CPU seconds count all threads.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from settings import read, run, save
from update import iterate

from madpo_isaac.config.overrides import compose
from madpo_isaac.system import device
from madpo_isaac.training.run import Run

STAGES = ("collection", "update", "iteration")
SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    "best": min,
    "median": statistics.median,
}


def measure(settings: list[list[str]], repeats: int) -> list[dict[str, list[float]]]:
    """Returns the CPU seconds of each stage in all repeats, for each list of settings."""
    runs = [Run(compose(own)) for own in settings]
    times: list[dict[str, list[float]]] = [{stage: [] for stage in STAGES} for _ in runs]
    for repeat in range(repeats + 1):  # the first is a warm-up
        for work, found in zip(runs, times, strict=True):
            config = work.config  # threads and precision belong to the process, not to a run
            device.configure(config.num_threads, config.sim_device, config.precision)
            (start, _), (middle, _), (stop, _) = iterate(work)
            if repeat:
                seconds = (middle - start, stop - middle, stop - start)
                for stage, value in zip(STAGES, seconds, strict=True):
                    found[stage].append(value)
    return times


def main(argv: list[str]) -> None:
    """Measures the variants and prints a table."""
    given = read(argv, task="ShadowHandOver", algo="happo", repeats=8, threads=1, further=[])
    common = [f"task={given.task}", f"algo={given.algo}", f"num_threads={given.threads}"]
    names = ["", *given.further]
    times = measure([[*common, *name.split()] for name in names], given.repeats)
    rows = []
    for name, found in zip(names, times, strict=True):
        row = {"variant": name}
        for stage in STAGES:
            for how, of in SUMMARIES.items():
                row[f"{stage}_{how}_cpu_s"] = of(found[stage])
                row[f"{stage}_{how}_ratio"] = of(found[stage]) / of(times[0][stage])
        rows.append(row)
        print(name or "the task's own settings")
        for stage in STAGES:
            cells = [
                f"{how} {row[f'{stage}_{how}_cpu_s']:.3f} s ({row[f'{stage}_{how}_ratio']:.2f})"
                for how in SUMMARIES
            ]
            print(f"  {stage:<11}{', '.join(cells)}")
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
