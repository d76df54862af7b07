"""Sets up `.venv` for the Makefile: PyTorch first, then this project and its developer tools.

PyTorch's default build for Linux brings gigabytes of CUDA packages, so the build is chosen by hand:

* with an NVIDIA GPU (`nvidia-smi` lists one), or with TORCH_BACKEND=cuda, the CUDA build;
* otherwise, or with TORCH_BACKEND=cpu, the CPU build: with pip where pip can see one, else with uv,
  which knows where PyTorch publishes its CPU builds. Nothing is downloaded to find out.

All other packages get the versions of `constraints.txt`, which `make lock` writes.

The stamp `.venv/.ready` is written last, so the next call resumes an interrupted set-up. The output
of pip and uv is in `.venv/setup.log`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

TORCH = "2.13.0"
UV = "0.13.9"
EXTRAS = "cluster,dev,export,gpu,interop"

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / ".ready"
LOG = VENV / "setup.log"
CONSTRAINTS = ROOT / "constraints.txt"
PIP = (str(PYTHON), "-m", "pip", "--disable-pip-version-check", "--no-input")
INSTALL = (*PIP, "install", "--constraint", str(CONSTRAINTS))
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


class SetupError(Exception):
    """Failure that one line explains."""


def main() -> None:
    """Brings `.venv` up to date, unless it is already."""
    backend = chosen_backend()
    wanted = fingerprint(backend)
    if STAMP.exists() and STAMP.read_text() == wanted:
        STAMP.touch()
        return
    start = time.perf_counter()
    prepare_venv(backend)
    STAMP.unlink(missing_ok=True)
    LOG.write_text("")
    say("upgrading pip")
    run(*PIP, "install", "--upgrade", "pip>=25.1")
    install_torch(backend)
    install_project()
    if backend == "cpu" and (names := cuda_packages(installed())):
        raise SetupError(f"the CPU set-up brought CUDA packages all the same: {', '.join(names)}")
    write_stamp(wanted)
    say(f"ready in {time.perf_counter() - start:.0f} s")


def chosen_backend() -> str:
    """Returns the build of PyTorch to install, `cpu` or `cuda`."""
    asked = os.environ.get("TORCH_BACKEND") or "auto"
    if asked not in ("auto", "cpu", "cuda"):
        raise SetupError(f"TORCH_BACKEND is {asked!r}, but cpu, cuda or auto is needed")
    if asked == "auto":
        return "cuda" if has_nvidia_gpu() else "cpu"
    return asked


def has_nvidia_gpu() -> bool:
    """Tells whether `nvidia-smi` is there and lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listing = subprocess.run(
            ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU " in listing.stdout


def fingerprint(backend: str) -> str:
    """Returns what the stamp of an up-to-date `.venv` holds."""
    digest = hashlib.sha256()
    for path in (ROOT / "pyproject.toml", CONSTRAINTS, Path(__file__)):
        digest.update(path.read_bytes())
    return f"{VERSION} {backend} {digest.hexdigest()}\n"


def write_stamp(text: str) -> None:
    """Writes the stamp in one step."""
    part = STAMP.with_suffix(".part")
    part.write_text(text)
    part.replace(STAMP)


def prepare_venv(backend: str) -> None:
    """Creates `.venv`, or makes sure that the one found can be used.

    A finished `.venv` that does not fit is never deleted; an unfinished one is deleted.
    """
    fault = venv_fault(backend)
    if fault is None:
        return
    unfinished = LOG.exists() and not STAMP.exists()
    if VENV.exists() and not unfinished:
        raise SetupError(f".venv {fault}; remove it (rm -rf .venv) and try again")
    if importlib.util.find_spec("ensurepip") is None:
        raise SetupError(f"Python {VERSION} lacks venv; install the package python{VERSION}-venv")
    say(f"making .venv with Python {VERSION}")
    if VENV.exists():
        shutil.rmtree(VENV)
    VENV.mkdir()
    LOG.write_text("")  # from here on .venv counts as unfinished
    venv.create(VENV, symlinks=True)
    run(str(PYTHON), "-m", "ensurepip")


def venv_fault(backend: str) -> str | None:
    """Returns the reason why the `.venv` found cannot be used; None if it can."""
    probe = "import sys, pip; print('%d.%d' % sys.version_info[:2])"
    try:
        found = output(str(PYTHON), "-c", probe).strip()
    except (OSError, subprocess.CalledProcessError):
        return "is broken or has no pip"
    if found != VERSION:
        return f"was made with Python {found}, not {VERSION}"
    packages = installed()
    if backend == "cpu" and cuda_packages(packages):
        return "holds CUDA packages, but this set-up is for the CPU"
    if backend == "cuda" and packages.get("torch", "").endswith("+cpu"):
        return "holds a CPU build of PyTorch, but this set-up is for a GPU"
    return None


def installed() -> dict[str, str]:
    """Returns the version of each distribution in `.venv`."""
    listing = json.loads(output(*PIP, "list", "--format", "json"))
    return {package["name"].lower(): package["version"] for package in listing}


def cuda_packages(names: dict[str, str]) -> list[str]:
    """Returns the names of NVIDIA's CUDA distributions among those given."""
    return sorted(name for name in names if name.startswith(("nvidia-", "cuda-")))


def install_torch(backend: str) -> None:
    """Installs the build of PyTorch that fits the machine."""
    if installed().get("torch", "").split("+")[0] == TORCH:
        return
    say(f"installing PyTorch {TORCH} for {backend}, a download of {size(backend)}")
    if backend == "cuda":
        run(*INSTALL, f"torch=={TORCH},!={TORCH}+cpu")
    elif not sys.platform.startswith("linux"):
        run(*INSTALL, f"torch=={TORCH}")
    elif f"{TORCH}+cpu" in visible_versions():
        run(*INSTALL, f"torch=={TORCH}+cpu")
    else:
        install_torch_with_uv()


def size(backend: str) -> str:
    """Tells the user the size of the download."""
    return "several GB" if backend == "cuda" else "about 200 MB"


def visible_versions() -> set[str]:
    """Returns the versions of PyTorch that pip sees; asks for the index alone, for no package."""
    try:
        answer = output(*PIP, "index", "versions", "torch")
    except subprocess.CalledProcessError:
        return set()
    match = re.search(r"^Available versions: (.*)$", answer, re.MULTILINE)
    return set(match[1].split(", ")) if match else set()


def install_torch_with_uv() -> None:
    """Installs the CPU build with uv; pip adds what PyTorch depends on later."""
    try:
        run(*PIP, "install", f"uv=={UV}")
        uv = (str(VENV / "bin" / "uv"), "pip", "install", "--python", str(PYTHON))
        run(*uv, "--no-deps", "--torch-backend", "cpu", f"torch=={TORCH}")
    except SetupError as error:
        raise SetupError(
            f"no CPU build of PyTorch {TORCH} can be reached for Python {VERSION} (see "
            f"{LOG.relative_to(ROOT)}): choose another Python with PYTHON=..., or accept the CUDA "
            "build of several GB with TORCH_BACKEND=cuda"
        ) from error


def install_project() -> None:
    """Installs the project in place, with the PyTorch that is there."""
    say("installing the project and its dependencies")
    run(*INSTALL, "-e", f".[{EXTRAS}]", f"torch=={installed()['torch']}")


def run(*command: str) -> None:
    """Runs a command with its output in the log.

    Raises:
        SetupError: The command failed; names its last error.
    """
    with LOG.open("a") as log:
        log.write(f"$ {' '.join(command)}\n")
        log.flush()
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=False)
    if done.returncode:
        lines = [line for line in LOG.read_text().splitlines() if "error" in line.lower()]
        reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
        raise SetupError(f"{reason} (see {LOG.relative_to(ROOT)})")


def output(*command: str) -> str:
    """Returns the output of a command."""
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True
    )
    return done.stdout


def say(text: str) -> None:
    """Tells the user what is being done."""
    sys.stderr.write(f"[setup] {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: set-up interrupted; the next call takes it up again")
