"""Time of an iteration by algorithm and number of agents, all in one run.

    python benchmarks/update.py [tasks=HalfCheetah-2x3,...] [algos=happo,madpo,...] [repeats=5]
                                [recipe=paper] [threads=1] [plain=1] [out=update.json]

Every algorithm has its own environments and networks with the recipe's hyper-parameters, and they
take turns: one iteration of each, `repeats` times, so that drifting machine speed cancels. CPU
seconds count all threads, medians over the repeats. `ppo` is rl_games', one agent for all joints.
`plain` is HAPPO's update of the same rollout as one ordinary PyTorch network and Adam per agent,
whole batches, no code of this project. Its networks and batches are those of `recipe=paper`; with
another recipe its time says nothing.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections import defaultdict

import torch
import torch.nn.functional as F
from settings import read, run, save
from torch import Tensor, nn

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.config.overrides import compose
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.run import Run

TASKS = [
    "HalfCheetah-2x3",
    "HalfCheetah-6x1",
    "ShadowHandOver",
    "ShadowHandOver fingers",
    "Humanoid-17x1",
]


def plain_network(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    """LayerNorm, then (Linear, ReLU, LayerNorm) per hidden layer, then Linear."""
    layers: list[nn.Module] = [nn.LayerNorm(inputs)]
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.LayerNorm(width)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class PlainHappo:
    """HAPPO's update with a Python loop over ordinary modules."""

    def __init__(self, run: Run) -> None:
        env, cfg = run.env, run.config.algo
        self.cfg, self.agents = cfg, env.agents
        self.actors = [plain_network(a.obs_dim, cfg.hidden, a.act_dim) for a in env.agents]
        self.log_std = [nn.Parameter(torch.ones(a.act_dim)) for a in env.agents]
        self.critic = plain_network(env.state_dim, cfg.hidden, 1)
        self.optimizers = [
            torch.optim.Adam([*net.parameters(), std], lr=cfg.actor_lr, eps=1e-5)
            for net, std in zip(self.actors, self.log_std, strict=True)
        ]
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=cfg.critic_lr)

    def log_prob(self, p: int, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log-densities (B,) and entropy ()."""
        std = 0.5 * torch.sigmoid(self.log_std[p])
        policy = torch.distributions.Normal(self.actors[p](obs), std)
        return policy.log_prob(action).sum(-1), policy.entropy().sum(-1).mean()

    def update(
        self, state: Tensor, joint_action: Tensor, log_probs: Tensor, target: Tensor
    ) -> None:
        """One iteration on (B, S), (B, A), (B, P) and (B,); targets stand for advantages too."""
        cfg, factor = self.cfg, torch.ones_like(target)
        for p in torch.randperm(len(self.agents)).tolist():
            obs = self.agents[p].observe(state)
            action, old = joint_action[:, self.agents[p].action_slice], log_probs[:, p]
            for _ in range(cfg.epochs):
                new, entropy = self.log_prob(p, obs, action)
                ratio = torch.exp(new - old)
                clipped = ratio.clamp(1.0 - cfg.clip, 1.0 + cfg.clip)
                objective = torch.min(ratio * factor * target, clipped * factor * target)
                loss = -(objective.mean() + cfg.entropy_coef * entropy)
                self._step(
                    self.optimizers[p], loss, [*self.actors[p].parameters(), self.log_std[p]]
                )
            with torch.no_grad():
                factor = factor * torch.exp(self.log_prob(p, obs, action)[0] - old)
        for _ in range(cfg.critic_epochs):
            loss = F.huber_loss(self.critic(state)[:, 0], target, delta=cfg.huber_delta)
            self._step(self.critic_optimizer, loss, list(self.critic.parameters()))

    def _step(self, optimizer: torch.optim.Adam, loss: Tensor, params: list[nn.Parameter]) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(params, self.cfg.max_grad_norm)
        optimizer.step()


def clock() -> tuple[float, float]:
    """CPU and wall seconds."""
    return time.process_time(), time.perf_counter()


def iterate(run: Run) -> list[tuple[float, float]]:
    """Runs an iteration; returns the clock before collection, after it, and after the update."""
    marks = [clock()]
    run.collect()
    marks.append(clock())
    run.update()
    return [*marks, clock()]


def measure(
    task: str, algos: list[str], repeats: int, settings: list[str], plain: bool
) -> dict[str, dict]:
    """CPU and wall seconds of collection and update by algorithm, and sizes."""
    name, _, split = task.partition(" ")
    chosen = [f"task={name}", *settings] + [f"task.agents={split}"] * bool(split)
    runs = {algo: Run(compose([*chosen, f"algo={algo}"])) for algo in algos}
    ours = [run for run in runs.values() if isinstance(run.learner, OnPolicyLearner)]
    loop = PlainHappo(ours[0]) if plain and ours else None
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for repeat in range(repeats + 1):  # the first is a warm-up
        for algo, work in runs.items():
            marks = iterate(work)
            if repeat:
                for stage, (start, stop) in zip(
                    ("collect", "update"), itertools.pairwise(marks), strict=True
                ):
                    times[algo][f"{stage}_cpu_s"].append(stop[0] - start[0])
                    times[algo][f"{stage}_wall_s"].append(stop[1] - start[1])
                times[algo]["iteration_cpu_s"].append(marks[2][0] - marks[0][0])
        if loop:
            assert isinstance(ours[0].learner, OnPolicyLearner)
            rollout = ours[0].learner.rollout
            arrays = (rollout.state, rollout.action, rollout.log_prob)
            flat = [array.flatten(0, 1) for array in arrays]
            target = torch.randn(len(flat[0]))
            # torch's default, which a plain script has; this project may choose oneDNN.
            precision = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
            start = clock()
            loop.update(*flat, target)
            stop = clock()
            torch.set_float32_matmul_precision(precision)
            if repeat:
                times["plain"]["update_cpu_s"].append(stop[0] - start[0])
                times["plain"]["update_wall_s"].append(stop[1] - start[1])
    sizes = {
        algo: {
            "agents": len(run.learner.agents),
            "samples": run.config.num_envs * run.config.algo.horizon,
        }
        for algo, run in runs.items()
    }
    if loop:
        sizes["plain"] = sizes[ours[0].config.algo.name]
    return {
        algo: {stage: statistics.median(values) for stage, values in stages.items()} | sizes[algo]
        for algo, stages in times.items()
    }


def main(argv: list[str]) -> None:
    algos = list(ALGO_SCHEMAS)
    given = read(argv, tasks=TASKS, algos=algos, repeats=5, recipe="paper", threads=1, plain=1)
    settings = [f"recipe={given.recipe}", f"num_threads={given.threads}"]
    rows = []
    print(f"{'task':24}{'agents':>7}{'samples':>8}  {'':8}{'update':>9}{'/happo':>8}"
          f"{'iteration':>11}{'/happo':>8}   CPU-s")  # fmt: skip
    for task in given.tasks:
        result = measure(task, given.algos, given.repeats, settings, bool(given.plain))
        base = result.get("happo", result[given.algos[0]])
        for algo, row in result.items():
            update = row["update_cpu_s"] / base["update_cpu_s"]
            text = f"{row['update_cpu_s']:9.3f}{update:8.2f}"
            row |= {"update_to_happo": update}
            if "iteration_cpu_s" in row:
                whole = row["iteration_cpu_s"] / base["iteration_cpu_s"]
                row |= {"iteration_to_happo": whole}
                text += f"{row['iteration_cpu_s']:11.3f}{whole:8.2f}"
            rows.append({"task": task, "algo": algo} | row)
            print(f"{task:24}{row['agents']:7}{row['samples']:8}  {algo:8}{text}", flush=True)
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
