"""Size of each preset's bonus relative to the policy objective, as gradients of the same network.

    python benchmarks/gradient_sizes.py [out=gradient_sizes.json] [iterations=3] [key=value]

HAPPO trains (`task=HalfCheetah-2x3` unless said otherwise); further key=value pairs are train.py's.
In its last iteration every preset's bonus, with the preset's own coefficient, is differentiated at
the parameters HAPPO has at the first, second and last epoch of the agents that have a predecessor,
and the norm is divided by that of the surrogate's gradient. Nothing is added to HAPPO's loss.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from settings import read, run, save
from torch import Tensor

from madpo_isaac.algos import MADPO
from madpo_isaac.algos.batch import AgentView, Rows
from madpo_isaac.algos.objective import clipped_objective
from madpo_isaac.config.overrides import compose
from madpo_isaac.config.schema import Config
from madpo_isaac.models.actor import entropy, log_prob
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.run import Run

CASES: dict[str, tuple[str, ...]] = {
    "gaussian (default)": (),
    "gaussian, no bound, coef 1": ("divergence.bound=none", "divergence.coef=1"),
    "yu": ("divergence.preset=yu",),
    "official": ("divergence.preset=official",),
    "printed, sigma 5e2": ("divergence.preset=printed", "divergence.sigma=5e2"),
    "printed, sigma 1e3": ("divergence.preset=printed", "divergence.sigma=1e3"),
    "printed, sigma 2e3": ("divergence.preset=printed", "divergence.sigma=2e3"),
    "printed_alg1, sigma 1e3": ("divergence.preset=printed_alg1", "divergence.sigma=1e3"),
}


class Probe(MADPO):
    """Trains as HAPPO does, and measures the gradients of its loss and of its bonus apart."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.listening = False
        self.entropy_coef = self.config.entropy_coef
        self.tile = 2**31  # one tile a minibatch, so that a norm is that of the whole gradient
        self.ratios: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._step = 0

    def begin_agent(self, view: AgentView) -> None:
        """Starts counting gradient steps."""
        super().begin_agent(view)
        self._step = 0

    def bonus(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> Tensor:
        """Measures instead of adding."""
        if self.listening and self._predecessor is not None:
            self._record(view, rows, mean, std)
        self._step += 1
        return std.new_zeros(())

    def _record(self, view: AgentView, rows: Rows, mean: Tensor, std: Tensor) -> None:
        net = list(self.actors.stack.nets[view.index].values())

        def norm(loss: Tensor) -> float:
            grads = torch.autograd.grad(loss, net, retain_graph=True, allow_unused=True)
            return sum(float(g.double().square().sum()) for g in grads if g is not None) ** 0.5

        ratio = torch.exp(log_prob(mean, std, view.action[rows]) - view.old_log_prob[rows])
        surrogate = norm(clipped_objective(ratio, view.weighted_advantage[rows], view.clip).sum())
        intra, inter = self._divergences(view, rows, mean, std)
        w = self.inter_weight
        terms = {
            "bonus": self.coef * (w * inter + (1.0 - w) * intra),
            "intra": self.coef * (1.0 - w) * intra,
            "inter": self.coef * w * inter,
            "entropy": self.entropy_coef * len(mean) * entropy(std),
        }
        epoch = self._step // self.config.num_minibatches
        for name, term in terms.items():
            size = norm(term) if term.requires_grad else 0.0
            self.ratios[name][epoch].append(size / surrogate)


def probe(config: Config, iterations: int) -> dict[str, dict[int, float]]:
    """Ratios by term and epoch, averaged over the agents with a predecessor."""
    run = Run(config)
    assert isinstance(run.learner, OnPolicyLearner)
    seed = config.seed
    generators = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    run.learner.algo = algo = Probe(config.algo, run.env, *generators)
    for iteration in range(iterations):
        algo.listening = iteration == iterations - 1
        run.collect()
        algo.update(run.learner.rollout)
    return {
        name: {epoch: sum(sizes) / len(sizes) for epoch, sizes in epochs.items()}
        for name, epochs in algo.ratios.items()
    }


def main(argv: list[str]) -> None:
    """Measures all cases, prints a table and writes JSON."""
    given = read(argv, task="HalfCheetah-2x3", iterations=3, further=[])
    overrides = ["algo=madpo", f"task={given.task}", *given.further]
    results = {}
    print(f"norm of the gradient / that of the surrogate, iteration {given.iterations}, by epoch")
    print(f"{'':28}{'term':9}{'1':>10}{'2':>10}{'last':>10}")
    for name, settings in CASES.items():
        config = compose([*overrides, *(f"algo.{setting}" for setting in settings)])
        results[name] = sizes = probe(config, given.iterations)
        for term in ("bonus", "intra", "inter"):
            row = [sizes[term][epoch] for epoch in (0, 1, config.algo.epochs - 1)]
            print(f"{name:28}{term:9}" + "".join(f"{size:10.1e}" for size in row), flush=True)
    row = [sizes["entropy"][epoch] for epoch in (0, 1, config.algo.epochs - 1)]
    print(f"{'entropy bonus':28}{'':9}" + "".join(f"{size:10.1e}" for size in row))
    save(given, ratios=results)


if __name__ == "__main__":
    run(main, __doc__)
