"""Memory that the process has needed at most."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

import torch

CPU = torch.device("cpu")
_STATUS = Path("/proc/self/status")


def peak_mb(device: torch.device = CPU) -> dict[str, float]:
    """Returns the peaks so far in MB of 10^6 bytes: ``peak_memory_mb`` of main memory.

    If ``device`` is a GPU, also its ``peak_gpu_memory_mb``, as torch's allocator counts it.
    """
    peaks = {"peak_memory_mb": round(_resident() / 1e6, 1)}
    if device.type == "cuda":
        peaks["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    return peaks


def _resident() -> float:
    """Returns the largest resident set in bytes."""
    # Linux lets getrusage's number begin with the parent's; this one is the process's own.
    if _STATUS.is_file() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return 1024.0 * int(found[1])
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
