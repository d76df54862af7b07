"""Writes `constraints.txt`, the versions that `make` installs, from the ranges in pyproject.toml.

Versions in the file stay as long as pyproject.toml allows them. The arguments of this program go to
`uv pip compile`: `--upgrade` takes the newest version of everything, and `--upgrade-package NAME`
takes that of one package.

PyTorch is not in the file, since setup_venv.py chooses its build. The CUDA packages are not in it
either, since each build of PyTorch fixes them.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from setup_venv import CONSTRAINTS, PIP, PYTHON, ROOT, TORCH, UV, SetupError, run, say

OF_TORCH = ("cuda-", "nvidia-", "torch=", "triton=")
HEADER = """\
# The versions that `make` installs, for all Pythons that are supported. Written by `make lock`.
"""


def main() -> None:
    """Resolves for all Pythons at once, and writes the file."""
    say("resolving the dependencies")
    run(*PIP, "install", f"uv=={UV}")
    with tempfile.TemporaryDirectory() as folder:
        torch, lock = Path(folder, "torch.txt"), Path(folder, "lock.txt")
        torch.write_text(f"torch=={TORCH}\n")
        if CONSTRAINTS.exists():
            lock.write_text(CONSTRAINTS.read_text())
        run(
            *(str(PYTHON.with_name("uv")), "pip", "compile", "pyproject.toml", "--all-extras"),
            *("--universal", "--python-version", "3.10", "--no-python-downloads"),
            *("--no-header", "--no-annotate"),
            *("--constraint", str(torch), "--output-file", str(lock), *sys.argv[1:]),
        )
        lines = lock.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith(("#", *OF_TORCH))]
    CONSTRAINTS.write_text(HEADER + "".join(kept))
    say(f"wrote {CONSTRAINTS.relative_to(ROOT)}, {len(kept)} versions")


if __name__ == "__main__":
    try:
        main()
    except SetupError as error:
        sys.exit(f"error: {error}")
