"""Speed of every hand task under random actions: bare physics and the environment.

    python benchmarks/hand_tasks.py [envs=128] [threads=1] [steps=300] [tasks=A,B] [out=x.json]

Every control step is done twice from the same state, by mjbatch alone and by the environment, so
that drifting machine speed cancels in the ratio. Two readings a task, the faster one counts.
"""

from __future__ import annotations

import json
import sys

import torch
from throughput import BareTwin, Clock

import tasks
from madpo_isaac import device
from madpo_isaac.run_folder import machine

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
    hands = ",".join(name for name in tasks.TASKS if name.startswith("ShadowHand"))
    settings = {"envs": "128", "threads": "1", "steps": "300", "tasks": hands, "out": ""}
    settings |= dict(argument.split("=", 1) for argument in argv)
    size = [int(settings[key]) for key in ("envs", "threads", "steps")]
    print(f"{'task':30} {'bare/CPU-s':>10} {'env/CPU-s':>10} {'ratio':>6}")
    rows = []
    for task in settings["tasks"].split(","):
        row = max((measure(task, *size) for _ in range(2)), key=lambda r: r["bare_per_cpu_s"])
        rows.append(row)
        print(f"{task:30} {row['bare_per_cpu_s']:10} {row['env_per_cpu_s']:10} {row['ratio']:6.2f}")
    if settings["out"]:
        with open(settings["out"], "w") as file:
            json.dump({"machine": machine(), "settings": settings, "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main(sys.argv[1:])
