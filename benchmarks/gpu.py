"""MuJoCo Warp and training on it: physics, environments, stages of an iteration, divergence.

    python benchmarks/gpu.py [device=cuda:0] [worlds=512,1024,...] [substeps=2,4] [envs=2048,8192]
                             [algos=happo,madpo] [steps=100] [iterations=3] [sizes=4000x111x2,...]
                             [out=gpu.json] [key=value]

Further key=value pairs are train.py's (`task=ShadowHandOver` unless said otherwise). Controls are
random, drawn anew for every control step. A stage's time ends when the device has finished its
work; nothing waits inside a stage. `host_waits` is the number of times that the host waited for the
GPU while it collected and updated; it should be 0. A row says if its case does not fit into memory,
and the other cases continue. `device=cpu` only shows that everything works.
"""

from __future__ import annotations

import gc
import time
import warnings
from collections.abc import Callable

import torch
from divergence import inputs
from settings import read, run, save

from madpo_isaac import tasks
from madpo_isaac.config.overrides import compose
from madpo_isaac.divergence import gaussian_cs, kernel_cs
from madpo_isaac.env import VecEnv
from madpo_isaac.sim import make_sim
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.run import Run

WARM_UP = 5
SAMPLES = ["4000x111x2", "9600x400x20"]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object], times: int = 1) -> float:
    """Returns the mean seconds of ``times`` calls in a row, from an idle device to an idle one."""
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        work()
    wait(device)
    return (time.perf_counter() - start) / times


def used_mb(device: torch.device) -> float:
    """Returns the used memory of the whole device, since Warp's memory is not torch's, in MB."""
    if device.type != "cuda":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 2**20


def count_waits(device: torch.device, work: Callable[[], object]) -> int:
    """Returns how often ``work`` makes the host wait for a GPU."""
    if device.type != "cuda":
        work()
        return 0  # nobody waits for itself
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in found)


def attempt(row: dict, work: Callable[..., dict], *arguments: object) -> dict:
    """Returns ``row`` with the measurements of ``work``, or with the reason for a failure."""
    try:
        return {**row, **work(*arguments)}
    except (RuntimeError, MemoryError) as problem:  # of torch and Warp, when memory is short
        return {**row, "failed": str(problem).partition("\n")[0]}
    finally:
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


# Physics and environments -------------------------------------------------------------------------


def physics(task: str, device: torch.device, worlds: int, substeps: int, steps: int) -> dict:
    """Measures physics alone, and the whole environment if ``substeps`` are the task's."""
    env = tasks.make(task, worlds, device=device, sim="warp", seed=1)
    generator = torch.Generator(device).manual_seed(0)
    shape = (WARM_UP + steps, worlds, env.action_dim)
    actions = 2.0 * torch.rand(shape, generator=generator, device=device) - 1.0
    env.reset()
    memory = used_mb(device)
    sim = make_sim("warp", env.sim.model, worlds, device)
    memory = used_mb(device) - memory
    low, high = torch.tensor(env.sim.model.actuator_ctrlrange, dtype=torch.float32).T.to(device)
    own = substeps_of(env) == substeps

    def play(work: Callable[[torch.Tensor], object]) -> float:
        for action in actions[:WARM_UP]:
            work(action)
        rows = iter(actions[WARM_UP:])
        return seconds(device, lambda: work(next(rows)), steps)

    def alone(_: torch.Tensor) -> None:
        draw = torch.rand(sim.ctrl.shape, generator=generator, device=device)
        torch.addcmul(low, high - low, draw, out=sim.ctrl)
        sim.step(substeps)

    bare = play(alone)
    return {
        "physics_steps_per_s": worlds * substeps / bare,
        "control_steps_per_s": worlds / bare,
        "env_steps_per_s": worlds / play(env.step) if own else None,
        "mb": memory,
        "overflowed": int(sim.overflowed().sum()) + int(env.sim.overflowed().sum()),
        "diverged": int(sim.diverged().sum()) + int(env.sim.diverged().sum()),
    }


def substeps_of(env: VecEnv) -> int:
    """Physics steps that ``env`` takes for a control step."""
    return round(env.step_dt / env.sim.model.opt.timestep)


# Training -----------------------------------------------------------------------------------------


def training(settings: list[str], device: torch.device, iterations: int) -> dict:
    """An iteration by stage; simulation is that of the same actions once more."""
    run = Run(compose(settings))
    assert isinstance(run.learner, OnPolicyLearner)
    env, algo, rollout = run.env, run.learner.algo, run.learner.rollout
    run.collect()
    metrics = run.update()

    def collecting() -> None:
        run.state, _ = run.learner.collect(run.state, lambda action, step: run.tracker.add(step))

    rollout.all_valid = True
    waits = count_waits(device, lambda: (collecting(), algo.update(rollout)))
    collect = seconds(device, collecting, iterations)
    update = seconds(device, lambda: algo.update(rollout), iterations)
    rows = iter(list(rollout.action) * iterations)
    horizon = len(rollout.action)
    simulate = seconds(device, lambda: env.step(next(rows)), horizon * iterations) * horizon
    step = substeps_of(env)
    bare = seconds(device, lambda: env.sim.step(step), horizon * iterations) * horizon
    total, config = collect + update, run.config
    return {
        "fps": config.num_envs * horizon / total,
        "simulation_s": simulate,
        "inference_s": collect - simulate,
        "update_s": update,
        "physics_share": bare / total,
        "outside_physics_s": total - bare,
        "host_waits": waits,
        "mb": used_mb(device),
        "nan_resets": metrics["nan_resets"],
        "overflows": metrics["overflows"],
    }


# Divergence ---------------------------------------------------------------------------------------


def peaks(device: torch.device) -> tuple[float, float]:
    """Returns the bytes and float32 operations per second that this device reaches."""
    n = 4096 if device.type == "cuda" else 512
    x, y = torch.randn(2, n, n, device=device)
    big = torch.empty(n * n * 8, device=device)
    copy = seconds(device, lambda: big.copy_(big), 5)
    product = seconds(device, lambda: x @ y, 5)
    return 2 * 4 * big.numel() / copy, 2 * n**3 / product


def divergences(size: str, device: torch.device, repeats: int) -> list[dict]:
    """Forward and backward of every preset's divergence, against what it has to read and compute.

    The kernel's floor: two Grams of states and actions forward, one pass over them backward, never
    stored. The closed form's: means and standard deviations once each way.
    """
    n, d_s, d_a = map(int, size.split("x"))
    s_p, a_p, _, a_q = (x.to(device) for x in inputs(n, d_s, d_a, same=True))
    rate, speed = peaks(device)
    pairs = 2.0 * n * n * (d_s + 2 * d_a) + 2.0 * n * n * d_a
    floors = {"kernel": max(4 * n * (d_s + 3 * d_a) / rate, pairs / speed)}
    floors["closed"] = 4 * n * 4 * d_a / rate
    std = torch.full((d_a,), 0.4, device=device)

    def kernel(variant: str) -> Callable[[], torch.Tensor]:
        widths = {"state_width": 1.0, "action_width": 1.0}
        return lambda: kernel_cs(s_p, leaf, s_p, a_q, variant=variant, **widths)

    leaf = a_p.clone().requires_grad_()
    calls = {f"kernel {variant}": kernel(variant) for variant in ("yu", "printed", "official")}
    calls["closed form"] = lambda: gaussian_cs(leaf, std, a_q, std, bounded=True)
    rows = []
    for name, call in calls.items():
        call().backward()
        took = seconds(device, lambda call=call: call().backward(), repeats)
        floor = floors[name.split()[0]]
        row = {"divergence": name, "s": took, "floor_s": floor, "times_floor": took / floor}
        rows.append({"size": size, **row})
    return rows


def show(title: str, rows: list[dict]) -> None:
    """A table with the columns of the first row that has all, and what failed."""
    columns = max(rows, key=len)
    print(f"\n{title}")
    print("  ".join(f"{key:>19}" for key in columns))
    for row in rows:
        cells = (f"{x:,.4g}" if isinstance(x, float) else str(x) for x in row.values())
        print("  ".join(f"{cell:>19}" for cell in cells))


def main(argv: list[str]) -> None:
    given = read(
        argv,
        task="ShadowHandOver",
        device="cuda:0",
        worlds=[512, 1024, 2048, 4096, 8192, 16384],
        substeps=[2, 4],
        steps=100,
        envs=[2048, 8192],
        algos=["happo", "madpo"],
        iterations=3,
        sizes=SAMPLES,
        further=[],
    )
    device = torch.device(given.device)
    bare = [
        attempt(
            {"worlds": worlds, "substeps": substeps},
            *(physics, given.task, device, worlds, substeps, given.steps),
        )
        for worlds in given.worlds
        for substeps in given.substeps
    ]
    show("Physics and environments", bare)
    common = [f"task={given.task}", "sim=warp", f"sim_device={device}", *given.further]
    whole = [
        attempt(
            {"algo": algo, "envs": envs},
            *(training, [*common, f"algo={algo}", f"num_envs={envs}"], device, given.iterations),
        )
        for envs in given.envs
        for algo in given.algos
    ]
    show("An iteration of training", whole)
    terms = [row for size in given.sizes for row in divergences(size, device, given.iterations)]
    show("Divergence, forward and backward", terms)
    save(given, physics=bare, training=whole, divergence=terms)


if __name__ == "__main__":
    run(main, __doc__)
