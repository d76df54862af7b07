"""Packs finished runs for docs/results: everything of them but networks and event files.

    python tools/pack_runs.py runs/reproduce/tuned_choose docs/results/question/choose.tar.xz

The archive has every finished run of the folder. Of metrics.jsonl it keeps the columns that a
report shows, with five digits. Unpacked again, the runs are reported as before, and reproduce.py
takes them as finished.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from madpo_isaac import console  # noqa: E402
from madpo_isaac.errors import UserError  # noqa: E402
from madpo_isaac.report.lines import is_shown  # noqa: E402
from madpo_isaac.system.files import parse_json, write_atomic  # noqa: E402

WHOLE = ("config.yaml", "env.json", "overrides.txt")
"""Files that are kept as they are."""
_OF_A_PROCESS = ("pid", "host")
"""Keys of status.json that mean nothing elsewhere."""


def pack(runs: Path) -> tuple[list[str], bytes]:
    """Returns the names of a folder's finished runs, and an archive of them in that folder.

    The same runs give the same archive.

    Raises:
        UserError: there is no finished run.
    """
    names, buffer = [], io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for status in sorted(runs.glob("*/status.json")):
            state = parse_json(status.read_text())
            if state["state"] != "finished":
                continue
            run = status.parent
            kept = {key: value for key, value in state.items() if key not in _OF_A_PROCESS}
            files = {name: (run / name).read_bytes() for name in WHOLE}
            files[status.name] = json.dumps(kept, indent=2).encode() + b"\n"
            files["metrics.jsonl"] = _metrics(run / "metrics.jsonl")
            for name, content in sorted(files.items()):
                entry = tarfile.TarInfo(f"{runs.name}/{run.name}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
            names.append(run.name)
    if not names:
        raise UserError(f"'{runs}' has no finished run.")
    return names, buffer.getvalue()


def _metrics(path: Path) -> bytes:
    """Returns the lines of a metrics.jsonl with the columns that a report shows."""
    lines = []
    for text in path.read_text().splitlines():
        line = parse_json(text)
        kept = {key: _rounded(value) for key, value in line.items() if is_shown(key)}
        lines.append(json.dumps(kept) + "\n")
    return "".join(lines).encode()


def _rounded(value: Any) -> Any:
    """Returns a number with five digits, and anything else as it is."""
    return float(f"{value:.5g}") if isinstance(value, float) else value


def main(argv: list[str]) -> int:
    """Writes the archive; returns the exit code."""
    if len(argv) != 2 or not Path(argv[0]).is_dir():
        raise UserError("Name a folder of run folders, and the archive to write (.tar.xz).")
    names, content = pack(Path(argv[0]).resolve())
    out = Path(argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, content)
    console.info(f"{out}: {len(names)} finished runs, {len(content) / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        console.error(str(error))
        sys.exit(2)
