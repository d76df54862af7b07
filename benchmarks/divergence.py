"""Cost of the kernel divergence against a dense evaluation of the same number, in one run.

    python benchmarks/divergence.py [sizes=4000x111x2,9600x400x20] [repeats=3] [threads=1]
                                    [dense=1] [out=divergence.json]

Every row is a fresh process: forward and backward of the released estimator (`official`: Yu's, in
bits, both widths 1) at n states of d_s dimensions shared by both policies and d_a log-probabilities
each, and separately for two sets of states. CPU seconds count all threads and are the least of
`repeats` calls; memory is what the process's peak grew by over the inputs, set-up included.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import torch
from settings import read, run, save
from torch import Tensor

from madpo_isaac.divergence import StateGram, kernel_cs
from madpo_isaac.system import memory

METHODS = {
    "dense": "dense, autograd",
    "stored": "tiles, Gram stored",
    "linear": "tiles, Gram norms only",
    "alone": "tiles, one call on its own",
}


def dense_gram(x: Tensor, y: Tensor) -> Tensor:
    norms = x.square().sum(1)[:, None] + y.square().sum(1)
    return torch.exp(-0.5 * (norms - 2.0 * x @ y.T))


def dense_official(s_p: Tensor, a_p: Tensor, s_q: Tensor, a_q: Tensor) -> Tensor:
    """Yu's estimator in bits with widths 1, every Gram in full: K of states, L of actions."""
    k_pp, k_qq, k_pq, k_qp = (
        dense_gram(x, y) for x, y in ((s_p, s_p), (s_q, s_q), (s_p, s_q), (s_q, s_p))
    )
    l_pp, l_qq, l_pq, l_qp = (
        dense_gram(x, y) for x, y in ((a_p, a_p), (a_q, a_q), (a_p, a_q), (a_q, a_p))
    )

    def term(k: Tensor, l: Tensor, below: Tensor) -> Tensor:  # noqa: E741
        return torch.log2(((k * l).sum(1) / below).sum())

    row_p, row_q = k_pp.sum(1), k_qq.sum(1)
    value = term(k_pp, l_pp, row_p.square()) + term(k_qq, l_qq, row_q.square())
    return value - term(k_pq, l_pq, row_p * k_pq.sum(1)) - term(k_qp, l_qp, row_q * k_qp.sum(1))


def inputs(n: int, d_s: int, d_a: int, same: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States of unit variance; log-probabilities of unit Gaussians and of a policy 0.1 away."""
    generator = torch.Generator().manual_seed(0)

    def draw(d: int) -> Tensor:
        return torch.randn(n, d, generator=generator)

    s_p, noise, other = draw(d_s), draw(d_a), draw(d_a)
    # Two sets of states: consecutive rollouts revisit a region, as the shared part does here.
    s_q = s_p if same else s_p + 0.05 * draw(d_s)
    constant = 0.5 * math.log(2.0 * math.pi)
    a_p = -0.5 * noise.square() - constant
    a_q = -0.5 * ((noise if same else other) - 0.1).square() - constant
    return s_p, a_p, s_q, a_q


def one(method: str, n: int, d_s: int, d_a: int, same: bool, repeats: int) -> dict[str, float]:
    """Measures one method in this process: set-up, first call and later calls."""
    gram: StateGram | None = None

    def call(s_p: Tensor, a_p: Tensor, s_q: Tensor, a_q: Tensor) -> tuple[float, float]:
        a_p = a_p.clone().requires_grad_()
        if method == "dense":
            value = dense_official(s_p, a_p, s_q, a_q)
        else:
            value = kernel_cs(
                s_p, a_p, s_q, a_q,
                state_width=1.0, action_width=1.0, variant="official", gram=gram,
            )  # fmt: skip
        value.backward()
        assert a_p.grad is not None
        return value.item(), a_p.grad.norm().item()

    call(*inputs(64, d_s, d_a, same))  # loads what the libraries load on first use
    sample = inputs(n, d_s, d_a, same)
    before, started = memory.peak_mb()["peak_memory_mb"], time.process_time()
    if method in ("stored", "linear"):
        gram = StateGram(sample[0], sample[2], width=1.0, store=method == "stored")
    setup = time.process_time() - started
    cpu, wall, first = [], [], 0.0
    for _ in range(repeats):
        clock, started = time.perf_counter(), time.process_time()
        value, norm = call(*sample)
        cpu.append(time.process_time() - started)
        wall.append(time.perf_counter() - clock)
        first = first or cpu[0]
    return {
        "setup_cpu_s": setup,
        "first_cpu_s": first,
        "call_cpu_s": min(cpu),
        "call_wall_s": min(wall),
        "peak_mb": memory.peak_mb()["peak_memory_mb"] - before,
        "value": value,
        "grad_norm": norm,
    }


def fresh(method: str, size: str, same: bool, repeats: int, threads: int) -> dict[str, float]:
    argument = json.dumps([method, size, same, repeats, threads])
    result = subprocess.run(
        [sys.executable, __file__, "one", argument], capture_output=True, text=True, check=False
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return json.loads(result.stdout)


def main(argv: list[str]) -> None:
    if argv[:1] == ["one"]:
        method, size, same, repeats, threads = json.loads(argv[1])
        torch.set_num_threads(threads)
        print(json.dumps(one(method, *map(int, size.split("x")), same, repeats)))
        return
    sizes = ["4000x111x2", "9600x400x20"]
    given = read(argv, sizes=sizes, repeats=3, threads=1, dense=1)
    methods = [method for method in METHODS if method != "dense" or given.dense]
    rows = []
    print(
        f"{'n x d_s x d_a':>14} {'states':7} {'method':27} {'set-up':>7} {'1st call':>8} "
        f"{'call':>7} {'wall':>7} {'MB':>6} {'ratio':>6} {'value':>11} {'|grad|':>9}"
    )
    for size in given.sizes:
        for same in (True, False):
            base = None
            for method in methods:
                row = fresh(method, size, same, given.repeats, given.threads)
                base = base or row["call_cpu_s"]
                ratio = base / row["call_cpu_s"]
                rows.append(
                    {"size": size, "same_states": same, "method": METHODS[method]}
                    | row
                    | {"times_less_cpu": ratio}
                )
                print(
                    f"{size:>14} {'same' if same else 'two':7} {METHODS[method]:27} "
                    f"{row['setup_cpu_s']:7.3f} {row['first_cpu_s']:8.3f} {row['call_cpu_s']:7.3f} "
                    f"{row['call_wall_s']:7.3f} {row['peak_mb']:6.0f} {ratio:6.1f} "
                    f"{row['value']:11.5g} {row['grad_norm']:9.3g}",
                    flush=True,
                )
    save(given, rows=rows)


if __name__ == "__main__":
    run(main, __doc__)
