"""Packs finished runs for docs/results: everything of them but networks and event files.

    python tools/pack_runs.py runs/reproduce/tuned_choose docs/results/question/choose.tar.xz

The archive has every finished run of the folder. Of metrics.jsonl it keeps the columns that a
report shows, with five digits. Unpacked again, the runs are reported as before, and reproduce.py
takes them as finished.
"""

from __future__ import annotations

import io
import json
import math
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from madpo_isaac import console  # noqa: E402
from madpo_isaac.errors import UserError  # noqa: E402
from madpo_isaac.report.runs import Run, load  # noqa: E402
from madpo_isaac.system.files import parse_json, write_atomic  # noqa: E402

WHOLE = ("config.yaml", "env.json", "overrides.txt")
"""Files that are kept as they are."""
SCORES = ("eval/last_mean_summary.json",)
"""Files that are kept where they are, because reports read them."""
_OF_A_PROCESS = ("pid", "host")
"""Keys of status.json that mean nothing elsewhere."""


def pack(runs: Path) -> tuple[int, bytes]:
    """Returns the number of a folder's finished runs, and an archive of them in that folder.

    The same runs give the same archive.

    Raises:
        UserError: there is no finished run, one of them lacks a file, or lies somewhere else.
    """
    finished = [run for run in load([str(runs)]) if run.state == "finished"]
    if not finished:
        raise UserError(f"'{runs}' has no finished run.")
    for run in finished:
        if run.folder is None or run.folder.resolve().parent != runs:
            raise UserError(f"'{run.folder}' is a link, or no folder inside of '{runs}'.")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for run in finished:
            for name, content in _files(run).items():
                entry = tarfile.TarInfo(f"{runs.name}/{run.name}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return len(finished), buffer.getvalue()


def _files(run: Run) -> dict[str, bytes]:
    """Returns the packed files of a run by name."""
    assert run.folder is not None
    try:
        files = {name: (run.folder / name).read_bytes() for name in WHOLE}
        files |= {name: path.read_bytes() for name in SCORES if (path := run.link(name))}
        state = parse_json((run.folder / "status.json").read_text())
    except OSError as problem:
        raise UserError(f"'{problem.filename}' cannot be read: {problem.strerror}.") from problem
    kept = {key: value for key, value in state.items() if key not in _OF_A_PROCESS}
    files["status.json"] = f"{json.dumps(kept, indent=2)}\n".encode()
    rows = zip(*(column.tolist() for column in run.metrics.values()), strict=True)
    lines = (dict(zip(run.metrics, map(_rounded, row), strict=True)) for row in rows)
    files["metrics.jsonl"] = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
    return files


def _rounded(value: float) -> float | None:
    """Returns a number with five digits, but a whole one as it is, and None for NaN."""
    if math.isnan(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.5g}")


def main(argv: list[str]) -> int:
    """Writes the archive; returns the exit code."""
    if len(argv) != 2 or not argv[1]:
        raise UserError("Name a folder of run folders, and the archive to write (.tar.xz).")
    if not Path(argv[0]).is_dir():
        raise UserError(f"'{argv[0]}' is not a folder of run folders.")
    out = Path(argv[1])
    number, content = pack(Path(argv[0]).resolve())
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, content)
    except OSError as problem:
        raise UserError(f"Cannot write '{out}': {problem}.") from problem
    console.info(f"{out}: {number} finished runs, {len(content) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        console.error(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
