"""Fixtures of all tests; each of pytest-xdist's workers has its own."""

import logging

import pytest
import torch
from zygote import Zygote

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
