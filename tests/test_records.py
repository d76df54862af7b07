"""Every value of every enumerated setting, through the record of a run that has it."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.algos.settings import (
    AGENT_ORDERS,
    ENTROPIES,
    HIDDEN_NORMS,
    INPUT_NORMS,
    LR_SCHEDULES,
    TIME_LIMITS,
)
from madpo_isaac.config.nodes import read_record
from madpo_isaac.config.overrides import compose
from madpo_isaac.divergence.bounds import BOUNDS
from madpo_isaac.divergence.presets import KINDS, PRESETS
from madpo_isaac.errors import UserError
from madpo_isaac.runs.folder import as_yaml

ENUMERATED = {
    "lr_schedule": LR_SCHEDULES,
    "agent_order": AGENT_ORDERS,
    "time_limit": TIME_LIMITS,
    "entropy": ENTROPIES,
    "input_norm": INPUT_NORMS,
    "hidden_norm": HIDDEN_NORMS,
    "divergence.preset": PRESETS,
    **{f"divergence.{key}": x for key, x in (("kind", KINDS), ("bound", BOUNDS))},
}


@pytest.mark.parametrize("recipe", ["paper", "tuned", "harl"])
@pytest.mark.parametrize("algo", [name for name in ALGO_SCHEMAS if name != "ppo"])
def test_what_a_run_records_passes_the_same_checks(algo, recipe):
    """A record has numbers in place of null; otherwise its run could not be continued."""
    for key, choices in ENUMERATED.items():
        if "divergence" in key and algo != "madpo":
            continue
        accepted = 0
        for choice in choices:
            try:
                config = compose([f"algo={algo}", f"recipe={recipe}", f"algo.{key}={choice}"])
            except UserError:  # not with this algorithm
                continue
            accepted += 1
            text = as_yaml(config)
            recorded = OmegaConf.to_object(read_record(text, Path("config.yaml")))
            recorded.check()
            assert as_yaml(recorded) == text
        assert accepted, key
