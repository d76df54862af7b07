"""Fixtures of all tests; each of pytest-xdist's workers has its own."""

import logging
import os
import sys
from typing import Any

import pytest
import torch
from zygote import Zygote

from madpo_isaac import plugins
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.config import nodes
from madpo_isaac.models import NETWORKS
from madpo_isaac.sim import ENGINES, SIM_SCHEMAS
from madpo_isaac.tasks import registry

# The thread pools of torch and of the simulator slow each other down on few cores.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _no_loggers_of_other_tests():
    """Takes away handlers that write to what captured an earlier test's output."""
    for name in ("", "hydra"):
        logger = logging.getLogger(name)
        for handler in list(logger.handlers):
            if getattr(getattr(handler, "stream", None), "closed", False):
                logger.removeHandler(handler)


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    """Starts train.py in processes of its own, without the seconds that its imports take."""
    process = Zygote(tmp_path_factory.mktemp("zygote"))
    yield process
    process.close()


@pytest.fixture
def plugins_forgotten(monkeypatch):
    """Forgets afterwards what the plugins of a test registered."""
    stored: list[dict[str, Any]] = [ALGORITHMS, ALGO_SCHEMAS, ENGINES, SIM_SCHEMAS, NETWORKS]
    stored.append(registry.TASKS)
    before = [dict(names) for names in stored]
    monkeypatch.setattr(plugins, "FOLDERS", [])
    monkeypatch.setattr(nodes, "_stored", set(nodes._stored))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    modules = set(sys.modules)
    yield
    for name in set(sys.modules) - modules:
        if not name.startswith("madpo_isaac") and "site-packages" not in _file(name):
            del sys.modules[name]
    for names, old in zip(stored, before, strict=True):
        names.clear()
        names.update(old)


def _file(module):
    return getattr(sys.modules[module], "__file__", None) or "site-packages"
