"""Multi-agent MuJoCo: environment steps against bare physics and other vector environments.

    python benchmarks/mamujoco.py [envs=20,128] [threads=1] [seconds=2] [tasks=HalfCheetah-2x3,...]
                                [peers=sync,async,envpool] [out=mujoco.json]

Every control step is done twice from the same states: by mjbatch alone (`bare`, nothing bound but
state and controls) and by the environment, one right after the other, so that drifting machine
speed cancels in the ratios. Peers step Gymnasium's v4 robots with the same actions in the same
run. CPU time counts all threads and all worker processes; ratios are of steps per CPU second.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gymnasium
import torch
from mjbatch import Batch
from settings import read, run, save
from throughput import Clock

from madpo_isaac import tasks
from madpo_isaac.system import device

BARE, STEP, VIEWS = "bare mjbatch", "environment step", "and all agents' observations"
ROBOT_TASKS = ["HalfCheetah-2x3", "Walker2d-2x3", "Ant-4x2", "Humanoid-17x1"]
WARM_UP = 20


def actions(num_envs: int, width: int) -> Iterator[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    while True:
        yield 2.0 * torch.rand(num_envs, width, generator=generator) - 1.0


def measure(task: str, num_envs: int, threads: int, seconds: float) -> dict[str, dict[str, float]]:
    """Steps per wall and CPU second of bare physics, the environment, and with observations."""
    env = tasks.make(task, num_envs, seed=0, num_threads=threads)
    sim, clock = env.sim, Clock()
    bare = Batch(sim.model, num_envs, threads)
    state, ctrl = torch.from_numpy(bare.bind("state")), torch.from_numpy(bare.bind("ctrl"))
    joint_state, steps, start = env.reset(), 0, time.perf_counter()
    for count, action in enumerate(actions(num_envs, env.action_dim)):
        if count == WARM_UP:
            clock, steps, start = Clock(), 0, time.perf_counter()
        state.copy_(sim._state)
        ctrl.copy_(env.robot.action_gain * action)
        with clock(BARE):
            bare.step(nstep=env.robot.substeps)
        with clock(STEP):
            joint_state = env.step(action).state
        with clock(VIEWS):
            env.observations(joint_state)
        steps += num_envs
        if count > WARM_UP and time.perf_counter() - start > seconds:
            break
    for total in (clock.wall, clock.cpu):
        total[VIEWS] += total[STEP]
    return {
        k: {"per_s": steps / clock.wall[k], "per_cpu_s": steps / clock.cpu[k]} for k in clock.cpu
    }


def peer(make: Callable, task: str, num_envs: int, seconds: float) -> dict[str, float]:
    """Steps per wall and CPU second of a vector environment with Gymnasium's interface."""
    env = make(task.split("-")[0], num_envs)
    env.reset()
    width = env.action_space.shape[-1]
    limit = 0.4 if task.startswith("Humanoid") else 1.0
    for count, action in enumerate(actions(num_envs, width)):
        if count == WARM_UP:
            wall, cpu = time.perf_counter(), cpu_time(env)
        env.step(limit * action.numpy())
        if count > WARM_UP and time.perf_counter() - wall > seconds:
            break
    wall, cpu = time.perf_counter() - wall, cpu_time(env) - cpu
    env.close()
    steps = (count + 1 - WARM_UP) * num_envs
    return {"per_s": steps / wall, "per_cpu_s": steps / cpu}


def cpu_time(env: object) -> float:
    """CPU seconds of this process and, on Linux, of the environment's worker processes."""
    total = time.process_time()
    for process in getattr(env, "processes", ()):
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def gymnasium_vector(kind: str, robot: str, num_envs: int) -> object:
    constructor = {"sync": gymnasium.vector.SyncVectorEnv, "async": gymnasium.vector.AsyncVectorEnv}
    make = partial(gymnasium.make, f"{robot}-v4", disable_env_checker=True)
    return constructor[kind]([make] * num_envs)


def peers(names: list[str]) -> dict[str, Callable]:
    found: dict[str, Callable] = {}
    for name in filter(None, names):
        if name != "envpool":
            found[f"gymnasium {name}"] = partial(gymnasium_vector, name)
            continue
        try:
            import envpool
        except ImportError:
            continue
        found[name] = lambda robot, n: envpool.make_gymnasium(
            f"{robot}-v4", num_envs=n, num_threads=1
        )
    return found


def main(argv: list[str]) -> None:
    rivals = ["sync", "async", "envpool"]
    given = read(argv, envs=[20, 128], threads=1, seconds=2.0, tasks=ROBOT_TASKS, peers=rivals)
    warnings.simplefilter("ignore", DeprecationWarning)
    seconds, threads, rows = given.seconds, given.threads, []
    device.configure(threads)
    print(f"{'task':16} {'envs':>5}  {'stage':30} {'steps/s':>9} {'/CPU-s':>9} {'ratio':>6}")
    for task in given.tasks:
        for num_envs in given.envs:
            with device.single_threaded():
                result = measure(task, num_envs, threads, seconds)
            for name, make in peers(given.peers).items():
                result[name] = peer(make, task, num_envs, seconds)
            for stage, speed in result.items():
                ratio = speed["per_cpu_s"] / result[BARE]["per_cpu_s"]
                rows.append(
                    {"task": task, "num_envs": num_envs, "threads": threads, "stage": stage}
                    | {key: round(value, 1) for key, value in speed.items()}
                    | {"ratio_to_bare_per_cpu_s": round(ratio, 3)}
                )
                print(
                    f"{task:16} {num_envs:5}  {stage:30} {speed['per_s']:9.0f} "
                    f"{speed['per_cpu_s']:9.0f} {ratio:6.3f}"
                )
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
