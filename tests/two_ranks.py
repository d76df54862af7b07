"""One of several processes that learn from shares of the same rollouts."""

import dataclasses
from pathlib import Path

import torch
from toy import ToyEnv, build, settings

from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.algos.storage import Rollout
from madpo_isaac.system.distributed import ALONE, join

CASES = {
    "happo": {"input_norm": "both"},
    "happo_sum": {"entropy": "sum"},
    "happo_minibatches": {"num_minibatches": 3},
    "madpo": {"divergence": {"coef": 0.5, "lam": 0.4}},
    "madpo_kl": {"divergence": {"coef": 0.05, "kind": "kl"}},
    "hatrpo": {"cg_iterations": 3},  # more of them amplify the rounding of sums
    "a2po": {},
    "mappo": {},
    "mappo_separate": {"share_parameters": False},
    "ippo": {"input_norm": "both"},
}
"""Algorithm, as far as the underscore, and hyper-parameters."""


def fresh(case, env, seed=1):
    kind = case.partition("_")[0]
    config = settings(ALGO_SCHEMAS[kind], **{"actor_lr": 1e-3, "epochs": 3, **CASES[case]})
    return build(ALGORITHMS[kind], config, env, seed)


def share(rollout, index, count):
    """The environments of one of ``count`` processes."""

    def part(name, value):
        return value.tensor_split(count, dim=0 if name == "last_state" else 1)[index].clone()

    return Rollout(**{f.name: part(f.name, getattr(rollout, f.name)) for f in FIELDS})


FIELDS = [field for field in dataclasses.fields(Rollout) if field.init]


def result(algo, metrics):
    state = algo.state_dict()
    del state["generator"]
    return {"state": state, "metrics": metrics}


def main(argv):
    folder = Path(*argv)
    ranks = join(multi_gpu=True)
    assert ranks is not ALONE
    for case in CASES:
        rollouts = torch.load(folder / f"{case}.pth", weights_only=True)
        # Networks, and what is drawn for minibatches, of the others' own before they join.
        algo = fresh(case, ToyEnv(6), seed=1 + 7 * ranks.index)
        algo.join(ranks)
        history = [algo.update(share(Rollout(**r), ranks.index, ranks.count)) for r in rollouts]
        torch.save(result(algo, history), folder / f"{case}.{ranks.index}.pth")
    flags = [ranks.any(ranks.index == 1), ranks.any(False), ranks.least(3 - ranks.index)]
    assert flags == [True, False, 2]
    assert ranks.broadcast(ranks.index) == 0
    assert ranks.gather(ranks.index) == ([0, 1] if ranks.index == 0 else [])
    ranks.leave()
