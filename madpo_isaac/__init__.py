"""MADPO and its baselines on batched MuJoCo simulations, as torch tensors end to end.

From a script or a notebook::

    import madpo_isaac as madpo

    run = madpo.train("algo.horizon=16", task="ShadowHandOver", max_iterations=100)
    env = madpo.env_of(run, num_envs=32)
    policy = madpo.load_policy(run, env)
    print(madpo.summary(madpo.evaluate(policy, env)))
    madpo.film(policy, env, "over.mp4")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madpo_isaac.evaluation.evaluate import evaluate, summary
    from madpo_isaac.evaluation.film import film
    from madpo_isaac.interop.python import env_of, train
    from madpo_isaac.tasks.registry import make
    from madpo_isaac.training.policy import load_policy

__version__ = "0.1.0"
__all__ = ["env_of", "evaluate", "film", "load_policy", "make", "summary", "train"]

_HOMES = {
    "env_of": "interop.python",
    "evaluate": "evaluation.evaluate",
    "film": "evaluation.film",
    "load_policy": "training.policy",
    "make": "tasks.registry",
    "summary": "evaluation.evaluate",
    "train": "interop.python",
}
"""The module that each public name comes from; it is imported when the name is first used, since
torch and MuJoCo take seconds."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
