"""Draws the rooms of `madpo_isaac/` with their floors and imports: docs/images/architecture.svg.

    python tools/draw_architecture.py

The floors and the imports are those that tests/test_house.py checks. An arrow is left out if a
chain of other arrows says the same, and so are the arrows to floor 0, which all rooms import.
"""

from __future__ import annotations

import html
import runpy
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "images" / "architecture.svg"
WIDTH, PITCH, TOP = 830, 82, 46
BOX, HEIGHT = 170, 50

ROOMS = {
    "commands": (415, "madpo, train.py"),
    "interop": (265, "other libraries, export"),
    "reproduce": (590, "figures of the paper"),
    "training": (265, "the training loop"),
    "report": (695, "figures, tables, a page"),
    "algos": (140, "one file per algorithm"),
    "evaluation": (405, "scores, videos"),
    "config": (405, "schema, recipes, checks"),
    "tasks": (325, "scenes, rewards, agents"),
    "runs": (695, "folder, checkpoints"),
    "models": (140, "actors and critics"),
    "sim": (325, "physics engines"),
    "divergence": (510, "between policies"),
    "pretrained": (695, "trained policies"),
    "settings": (110, "fields with rules"),
    "plugins": (270, "code of users"),
    "system": (590, "threads, processes, files, locks, signals"),
    "errors": (140, "messages for the user"),
    "env": (417, "contract of tasks and learning"),
    "console": (695, "all printed lines"),
}
"""Center of each box and its second line."""
WIDE = {"system": 430, "settings": 150, "plugins": 150, "env": 250}
"""Widths of boxes that are not as wide as the others; arrows reach them anywhere."""
ON_DEVICE = {"tasks", "sim", "models", "divergence", "algos"}
"""Rooms whose tensors stay on the device."""
DETOURS = {
    ("training", "config"): 300,
    ("reproduce", "config"): 530,
    ("report", "system"): 808,
    ("tasks", "system"): 418,
    ("tasks", "plugins"): 232,
}
"""Arrows that go around boxes, and the x of their vertical line."""

STYLE = """
text { font-family: Helvetica, Arial, sans-serif; text-anchor: middle; fill: #1b1f24; }
.name { font-size: 16px; font-weight: bold; }
.note { font-size: 13px; }
.small { font-size: 13px; fill: #57606a; }
rect { stroke-width: 1.5; rx: 6px; }
.host { fill: #eef2f7; stroke: #6e7f96; }
.device { fill: #dff3e4; stroke: #3a9150; }
.contract { fill: #fff0cc; stroke: #c08a00; }
path { fill: none; stroke: #6e7681; stroke-width: 1.5; marker-end: url(#head); }
marker path { fill: #6e7681; stroke: none; }
"""


def main() -> None:
    """Writes the picture."""
    OUT.write_text(picture())


def picture() -> str:
    """Returns the SVG text."""
    floors, arrows = _building()
    unplaced = set().union(*floors) ^ ROOMS.keys()
    if unplaced:
        raise SystemExit(f"error: ROOMS and the floors differ in {', '.join(sorted(unplaced))}")
    y = {room: TOP + PITCH * k for k, rooms in enumerate(floors) for room in rooms}
    height = TOP + PITCH * len(floors) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        "<title>Rooms of madpo_isaac, their floors and their imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" '
        'markerHeight="8" orient="auto" markerUnits="userSpaceOnUse">'
        '<path d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        f'<rect x="0" y="0" width="{WIDTH}" height="{height}" style="fill: #ffffff; rx: 0"/>',
        f'<text class="small" x="{WIDTH // 2}" y="24">An arrow means "imports". Left out: arrows '
        "that other arrows imply, and arrows to floor 0, which all rooms import.</text>",
    ]
    lines += [f'<path d="{_route(a, b, y)}"/>' for a, b in arrows if y[b] < y["env"]]
    lines += [line for room in ROOMS for line in _box(room, y[room])]
    for k in range(len(floors)):
        middle = TOP + PITCH * k + HEIGHT // 2 + 5
        lines.append(f'<text class="small" x="20" y="{middle}">{len(floors) - 1 - k}</text>')
    key = (("device", "tensors stay on the device"), ("host", "host"), ("contract", "the contract"))
    for k, (kind, text) in enumerate(key):
        x = 150 + (0, 235, 325)[k]
        lines.append(f'<rect class="{kind}" x="{x}" y="{height - 32}" width="18" height="18"/>')
        lines.append(
            f'<text class="note" x="{x + 26}" y="{height - 18}" '
            f'style="text-anchor: start">{text}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


def _building() -> tuple[tuple[set[str], ...], list[tuple[str, str]]]:
    """Returns the floors from the top, and the arrows that no chain of others replaces."""
    house = runpy.run_path(str(ROOT / "tests" / "test_house.py"))
    modules, floors = house["MODULES"], house["FLOORS"]
    imports: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, tree in modules.items():
        parts = module.split(".")
        if len(parts) < 2 or parts[-1] == "__main__":
            continue
        found = {name for name in house["imported"](tree) if name in modules}
        rooms = {name.split(".")[1] for name in found - {"madpo_isaac"}}
        imports.setdefault(parts[1], set()).update(rooms - {parts[1]})

    def below(room: str) -> Iterator[str]:
        for other in imports[room]:
            yield other
            yield from below(other)

    return floors, [
        (room, other)
        for room in sorted(imports)
        for other in sorted(imports[room])
        if not any(other in below(third) for third in imports[room])
    ]


def _box(room: str, y: int) -> tuple[str, str, str]:
    x, note = ROOMS[room]
    width = WIDE.get(room, BOX)
    kind = "contract" if room == "env" else "device" if room in ON_DEVICE else "host"
    name = f"{room}.py" if (ROOT / "madpo_isaac" / f"{room}.py").is_file() else room
    return (
        f'<rect class="{kind}" x="{x - width // 2}" y="{y}" width="{width}" height="{HEIGHT}"/>',
        f'<text class="name" x="{x}" y="{y + 21}">{name}</text>',
        f'<text class="note" x="{x}" y="{y + 40}">{html.escape(note)}</text>',
    )


def _route(room: str, other: str, y: dict[str, int]) -> str:
    """Returns the path of an arrow: straight down, or around the boxes between."""
    (x1, _), (x2, _) = ROOMS[room], ROOMS[other]
    middle1, middle2 = y[room] + HEIGHT // 2, y[other] + HEIGHT // 2
    if (room, other) not in DETOURS:
        if other in WIDE:
            reach = WIDE[other] // 2 - 10
            x2 = min(max(x1, x2 - reach), x2 + reach)
        return f"M{x1},{y[room] + HEIGHT} L{x2},{y[other]}"
    x = DETOURS[room, other]
    inside = abs(x - x1) < BOX / 2
    start = f"M{x},{y[room] + HEIGHT}" if inside else f"M{x1},{middle1} L{x},{middle1}"
    half = WIDE.get(other, BOX) // 2
    if abs(x - x2) < half:
        return f"{start} L{x},{y[other]}"
    return f"{start} L{x},{middle2} L{x2 + (half if x > x2 else -half)},{middle2}"


if __name__ == "__main__":
    main()
