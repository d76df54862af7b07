"""Speed of every hand task under random actions: bare physics and the environment.

    python benchmarks/hand_tasks.py [envs=128] [threads=1] [steps=300] [tasks=A,B] [out=x.json]

Every control step is done twice from the same state, by mjbatch alone and by the environment, so
that drifting machine speed cancels in the ratio. Two readings a task, the faster one counts.
"""

from __future__ import annotations

import torch
from settings import read, run, save
from throughput import BareTwin, Clock

from madpo_isaac import tasks
from madpo_isaac.system import device

WARM_UP = 20


def measure(task: str, num_envs: int, threads: int, steps: int) -> dict:
    env = tasks.make(task, num_envs=num_envs, num_threads=threads, seed=1)
    clock = Clock()
    BareTwin(env.sim, clock)
    generator = torch.Generator().manual_seed(0)
    env.reset()
    with device.single_threaded():
        for t in range(WARM_UP + steps):
            action = 2.0 * torch.rand(num_envs, env.action_dim, generator=generator) - 1.0
            if t == WARM_UP:
                clock.cpu.clear()
            with clock("environment"):
                env.step(action)
    bare = clock.cpu["bare physics, random actions"]
    own = clock.cpu["environment"] - bare  # the twin's physics ran inside
    total = num_envs * steps
    return {
        "task": task,
        "bare_per_cpu_s": round(total / bare),
        "env_per_cpu_s": round(total / own),
        "ratio": round(bare / own, 3),
    }


def main(argv: list[str]) -> None:
    hands = [name for name in tasks.TASKS if name.startswith("ShadowHand")]
    given = read(argv, envs=128, threads=1, steps=300, tasks=hands)
    size = (given.envs, given.threads, given.steps)
    print(f"{'task':30} {'bare/CPU-s':>10} {'env/CPU-s':>10} {'ratio':>6}")
    rows = []
    for task in given.tasks:
        row = max((measure(task, *size) for _ in range(2)), key=lambda r: r["bare_per_cpu_s"])
        rows.append(row)
        print(f"{task:30} {row['bare_per_cpu_s']:10} {row['env_per_cpu_s']:10} {row['ratio']:6.2f}")
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
