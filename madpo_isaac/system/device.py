"""Process-wide settings of torch: threads, and the fast exact matrix product on AMD CPUs."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from madpo_isaac.system import precision

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


@contextmanager
def single_threaded() -> Iterator[None]:
    """Runs torch's CPU operations on the calling thread.

    Between operations OpenMP's workers spin and would take the cores from the physics threads:
    with two of each on two cores, collection runs at half the speed.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def cores() -> int:
    """Returns the number of CPU cores that this process may use, at most its quota (rounded up)."""
    if hasattr(os, "sched_getaffinity"):  # macOS does not tell which of them
        return min(len(os.sched_getaffinity(0)), math.ceil(_quota()))
    return os.cpu_count() or 1


def _quota(own: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> float:
    """Returns how many cores' time Linux's control groups (version 2) leave to this process.

    A container with ``docker run --cpus=2`` sees all cores of its host, and gets the time of two.
    """
    grants = [float(sys.maxsize)]
    with suppress(OSError, ValueError):
        groups = dict(line.split("::") for line in own.read_text().splitlines() if "::" in line)
        place = root / groups.get("0", "/").lstrip("/")
        for folder in (place, *place.parents):
            with suppress(OSError, ValueError, ZeroDivisionError):
                time, period = map(int, (folder / "cpu.max").read_text().split())
                grants.append(time / period)
    return min(grants)


def known_all_false(flags: Tensor) -> bool:
    """Returns True if none of ``flags`` is set and they are on the CPU.

    On a GPU the answer is always False, since reading a flag would wait for all work before it.
    The caller then does the work for rows that may not need it.
    """
    return flags.device.type == "cpu" and not flags.any()


def configure(num_threads: int, sim_device: str = "cpu", products: str = "float32") -> int:
    """Sets torch's threads (0 for one per core) and matrix product; returns the thread count.

    Args:
        num_threads: threads of torch's CPU operations.
        sim_device: where the products are computed.
        products: precision of those of networks, see :func:`madpo_isaac.system.precision.choose`.

    Raises:
        UserError: products of this precision bring nothing here.
    """
    precision.choose(products, sim_device)
    _keep_freed_memory()
    threads = num_threads or cores()
    torch.set_num_threads(threads)
    # "medium" lets torch choose oneDNN, which on these CPUs computes in full float32 with AVX-512;
    # "highest" means MKL, which is half as fast there. On a GPU "medium" means TF32.
    exact = sim_device == "cpu" and _onednn_is_faster_and_exact()
    torch.set_float32_matmul_precision("medium" if exact else "highest")
    return threads


def _keep_freed_memory() -> None:
    """Makes glibc reuse freed blocks instead of returning them to the kernel.

    Activations of a few megabytes are allocated and freed in every layer; each time the kernel
    would take the pages back and fault them in again, zeroed.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)


@functools.cache
def _onednn_is_faster_and_exact() -> bool:
    """AMD with AVX-512, and products through oneDNN as accurate as float32 is.

    Decided by the kind of CPU and the rounding error, never by timing, so that two runs on one
    machine always compute the same. A CPU on which "medium" means bfloat16 fails the check.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or not _is_amd():
        return False
    return precision.rounding_error() < 1e-6


def _is_amd() -> bool:
    try:
        return "AuthenticAMD" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
