"""Draws a figure into a page: one SVG per panel; the width of the page decides their places."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

from madpo_isaac.report.chart import Figure, Interval, Line, Panel, Style, brief, widened

STYLE = """
.panels { display: grid; gap: 0.5em 1em; }
@media (min-width: 700px) { .k2 { grid-template-columns: 1fr 1fr; }
  .k3 { grid-template-columns: 1fr 1fr 1fr; } }
.panels svg { width: 100%; height: auto; display: block; }
.panels text { font: 13px sans-serif; fill: #222; } .panels .title { font-weight: bold; }
.panels .grid { stroke: #ddd; } .panels .axis { stroke: #555; }
.panels.narrow { display: none; }
@media (max-width: 699px) { .panels.k1 { display: none; } .panels.narrow { display: grid; }
  .narrow text, .k2 text { font-size: 16px; } }
.end { text-anchor: end; } .mid { text-anchor: middle; }
.curve { fill: none; stroke: currentColor; stroke-width: 1.8; }
.band, .mark { fill: currentColor; } .level { stroke-dasharray: 6 3; }
.band { opacity: 0.16; } .many .band { opacity: 0.07; }
.runs { display: none; } .runs path { stroke-width: 1; opacity: 0.75; }
.single:checked ~ .panels .runs { display: inline; }
.single:checked ~ .panels .band { opacity: 0.06; }
.spot { fill: transparent; } .spot:hover { fill: currentColor; fill-opacity: 0.5; }
.legend { font-size: 0.85em; display: flex; flex-wrap: wrap; gap: 0.1em 1.2em; }
.legend svg { width: 34px; height: 10px; margin-right: 0.4em; }
.legend span { overflow-wrap: anywhere; }
.toggle { font-size: 0.85em; color: #555; }
"""
"""Style sheet of the figures. Text is larger in the panels' own units where the page is narrow."""


class _Size(NamedTuple):
    """Size of a panel, and the largest size of its letters, see :data:`STYLE`; pixels."""

    width: int
    height: int
    letters: int


_SIZES = {1: _Size(900, 400, 13), 2: _Size(520, 340, 16), 3: _Size(400, 290, 13)}
"""By the number of panels in a row."""
_NARROW = _SIZES[2]
"""Size of a panel that is wider than a narrow page."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 14, 28, 58
_ROW = 30
_LETTERS, _LETTER = 26, 0.58
"""Longest name beside a bar, and the width of a letter as a share of its size."""
_SPACE = 0.01
"""Space beside curves, as a share of their length."""
_MARKERS = 6
_MANY = 6
"""Curves beyond which bands are paler."""
_SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "s": "M-3.5-3.5h7v7h-7z",
    "^": "M0-4.5l4.5 8h-9z",
    "D": "M0-5l5 5l-5 5l-5-5z",
    "v": "M0 4.5l4.5-8h-9z",
    "P": "M-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
    "X": "M-4-2.5l1.5-1.5l2.5 2.5l2.5-2.5l1.5 1.5l-2.5 2.5l2.5 2.5l-1.5 1.5l-2.5-2.5l-2.5 2.5"
    "l-1.5-1.5l2.5-2.5z",
}


class _Scale(NamedTuple):
    """From values to the pixels of a panel; linear, or logarithmic."""

    low: float
    high: float
    start: float
    length: float
    log: bool = False

    def __call__(self, values: np.ndarray | float) -> np.ndarray:
        ends = (self.low, self.high)
        x, low, high = (np.log10(v) if self.log else np.asarray(v) for v in (values, *ends))
        return self.start + self.length * (x - low) / (high - low)

    def ticks(self) -> list[float]:
        """Returns about five round numbers."""
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(k * unit for k in (1, 2, 5, 10) if k * unit >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [k * step for k in range(first, last + 1)]


def figure_html(figure: Figure) -> str:
    """Returns the panels of a figure, the switch for single runs, the legend and the cuts."""
    columns = 2 if len(figure.panels) == 4 else min(len(figure.panels), 3)
    many = " many" if len(figure.shown()) > _MANY else ""
    panels = _panels(figure, f"k{columns}{many}", _SIZES[columns])
    if columns == 1:
        panels += _panels(figure, f"narrow{many}", _NARROW)
    switch = ""
    if any(len(line.runs) > 1 for panel in figure.panels for line in panel.lines):
        name = f"runs-{figure.name}"
        switch = (
            f'<input type="checkbox" class="single" id="{name}">'
            f'<label class="toggle" for="{name}"> curves of single runs</label>'
        )
    cuts = "".join(f'<p class="note">{escape(line)}</p>' for line in figure.cuts())
    return f"{switch}{panels}{_legend(figure)}{cuts}"


def _panels(figure: Figure, kind: str, size: _Size) -> str:
    panels = "".join(f"{_panel(panel, figure, size)}\n" for panel in figure.panels)
    return f'<div class="panels {kind}">{panels}</div>'


def _legend(figure: Figure) -> str:
    levels = {name for panel in figure.panels for name in panel.levels}
    items = []
    for name in figure.shown():
        style = figure.style(name)
        kind = "curve level" if name in levels else "curve"
        mark = "" if name in levels else _mark(17, 5, style)
        sample = f'<path class="{kind}" d="M0 5H34"{_dashes(style, name in levels)}/>{mark}'
        picture = f'<svg viewBox="0 0 34 10" color="{style.color}">{sample}</svg>'
        items.append(f"<span>{picture}{escape(name)}</span>")
    return f'<div class="legend">{"".join(items)}</div>' if items else ""


def _panel(panel: Panel, figure: Figure, size: _Size) -> str:
    width, height, letters = size
    if panel.bars:
        height = _TOP + _BOTTOM + _ROW * len(panel.bars)
    low, high, _ = panel.limits()
    low, high = widened(low, high, 0.0 if panel.fixed else 0.04)
    left = _LEFT
    if panel.bars:
        longest = min(max(map(len, panel.bars)), _LETTERS)
        left = int(20 + _LETTER * letters * longest)
    box = (left, _TOP, width - left - _RIGHT, height - _TOP - _BOTTOM)
    if panel.bars:
        x = _Scale(low, high, 0.0, box[2])
        inside = _bars(panel, figure, x, box)
        names = _names(panel, box)
        axes = f"{_x_axis(x, x.ticks(), box)}{names}"
    else:
        x = _x_scale(panel, box)
        y = _Scale(low, high, box[3], -box[3])
        inside = _curves(panel, figure, x, y, box)
        axes = f"{_x_axis(x, list(panel.x_ticks) or x.ticks(), box)}{_y_axis(y, box)}"
    title = panel.title or panel.y_label
    named = f'<text class="title" x="{box[0]}" y="18">{escape(title)}</text>'
    middle = box[0] + box[2] / 2
    below = f'<text class="mid" x="{middle:.0f}" y="{height - 6}">{escape(panel.x_label)}</text>'
    upright = ""
    if panel.title and panel.y_label:
        upright = (
            f'<text class="mid" transform="translate(15 {box[1] + box[3] / 2:.0f}) rotate(-90)">'
            f"{escape(panel.y_label)}</text>"
        )
    # An inner svg cuts off what lies outside of it.
    field = f'<svg x="{box[0]}" y="{box[1]}" width="{box[2]}" height="{box[3]}">{inside}</svg>'
    label = escape(f"{panel.title} {panel.y_label} {panel.x_label}".strip())
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">'
        f"{named}{axes}{below}{upright}{field}</svg>"
    )


def _x_scale(panel: Panel, box: tuple[int, int, int, int]) -> _Scale:
    every = [line.x for line in panel.lines if len(line.x)]
    values = np.concatenate(every) if every else np.array([0.0, 1.0])
    if panel.x_ticks:
        return _Scale(values.min() / 1.1, values.max() * 1.1, 0.0, box[2], log=True)
    ends = float(values.min()), float(values.max())
    if any(line.points for line in panel.lines):
        return _Scale(*widened(*ends, 0.05), 0.0, box[2])
    low, high = widened(*ends, _SPACE)  # for half a marker
    low = 0.0 if 0.0 < ends[0] < 0.2 * ends[1] else low  # steps begin at 0
    return _Scale(low, high, 0.0, box[2])


def _x_axis(x: _Scale, ticks: Sequence[float], box: tuple[int, int, int, int]) -> str:
    left, top, width, height = box
    parts = [f'<path class="axis" d="M{left} {top + height}h{width}"/>']
    for tick in ticks:
        at = left + float(x(tick))
        parts.append(f'<path class="grid" d="M{at:.1f} {top}v{height}"/>')
        parts.append(f'<text class="mid" x="{at:.1f}" y="{top + height + 22}">{brief(tick)}</text>')
    return "".join(parts)


def _y_axis(y: _Scale, box: tuple[int, int, int, int]) -> str:
    left, top, width, height = box
    parts = [f'<path class="axis" d="M{left} {top}v{height}"/>']
    for tick in y.ticks():
        at = top + float(y(tick))
        parts.append(f'<path class="grid" d="M{left} {at:.1f}h{width}"/>')
        parts.append(f'<text class="end" x="{left - 6}" y="{at + 5:.1f}">{brief(tick)}</text>')
    return "".join(parts)


def _names(panel: Panel, box: tuple[int, int, int, int]) -> str:
    parts = []
    for row, name in enumerate(panel.bars):
        brief = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        at = f'x="{box[0] - 6}" y="{box[1] + _ROW * (row + 0.5) + 5:.0f}"'
        full = f"<title>{escape(name)}</title>" if brief != name else ""
        parts.append(f'<text class="end" {at}>{full}{escape(brief)}</text>')
    return "".join(parts)


def _bars(panel: Panel, figure: Figure, x: _Scale, box: tuple[int, int, int, int]) -> str:
    parts = []
    if panel.upright is not None:
        parts.append(_vertical(float(x(panel.upright)), box[3]))
    for row, (name, bar) in enumerate(panel.bars.items()):
        if not math.isfinite(bar.value):
            continue
        ends = (bar.low, bar.high) if math.isfinite(bar.low) else (bar.value, bar.value)
        low, high = np.clip(x(np.array(ends)), -9.0, box[2] + 9.0)
        value = float(np.clip(x(bar.value), -9.0, box[2] + 9.0))
        top = _ROW * row + 6
        size = f'y="{top}" height="{_ROW - 12}"'
        style = figure.style(name)
        parts.append(
            f'<g color="{style.color}"><title>{escape(_told(name, bar))}</title>'
            f'<rect fill="currentColor" opacity="0.4" x="{low:.1f}" width="{high - low:.1f}" {size}'
            f'/><rect fill="currentColor" x="{value - 1.5:.1f}" width="3" {size}/></g>'
        )
    return "".join(parts)


def _curves(
    panel: Panel, figure: Figure, x: _Scale, y: _Scale, box: tuple[int, int, int, int]
) -> str:
    parts = []
    if panel.upright is not None:
        parts.append(_vertical(float(x(panel.upright)), box[3]))
    for name, level in panel.levels.items():
        path = f'<path class="curve level" d="M0 {float(y(level.value)):.1f}h{box[2]}"/>'
        told = f"<title>{escape(_told(name, level))}</title>"
        parts.append(f'<g color="{figure.style(name).color}">{told}{path}</g>')
    parts += [_curve(line, figure, x, y, panel.x_label) for line in panel.lines]
    return "".join(parts)


def _curve(line: Line, figure: Figure, x: _Scale, y: _Scale, unit: str) -> str:
    """Returns band, single runs, curve, markers and the spots that show values."""
    style, place = figure.style(line.name), figure.names.index(line.name)
    at, values = x(line.x), y(line.estimate.value)
    low, high = y(line.estimate.low), y(line.estimate.high)
    known = np.flatnonzero(np.isfinite(values))
    parts = []
    if line.points:
        bars = "".join(
            f"M{at[k]:.1f} {low[k]:.1f}V{high[k]:.1f}" for k in known if np.isfinite(low[k])
        )
        parts.append(f'<path class="curve" d="{bars}"/>' if bars else "")
    else:
        parts.append(_band(at, low, high))
        runs = (
            f'<path class="curve" d="{_path(at, y(curve))}"><title>{escape(name)}</title></path>'
            for name, curve in line.runs.items()
        )
        parts.append(f'<g class="runs">{"".join(runs)}</g>' if len(line.runs) > 1 else "")
    parts.append(f'<path class="curve" d="{_path(at, values)}"{_dashes(style)}/>')
    every = 1 if line.points else max(1, len(known) // _MARKERS)
    parts += [_mark(float(at[k]), float(values[k]), style) for k in known[place % every :: every]]
    for k in known:
        told = f"{_told(line.name, Interval.at(line.estimate, int(k)))} at {line.x[k]:.4g} {unit}"
        spot = f'<circle class="spot" cx="{at[k]:.1f}" cy="{values[k]:.1f}" r="6">'
        parts.append(f"{spot}<title>{escape(told)}</title></circle>")
    return f'<g color="{style.color}">{"".join(parts)}</g>'


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """Returns a path through the finite points."""
    known = np.flatnonzero(np.isfinite(y))
    return "M" + "L".join(f"{x[k]:.1f} {y[k]:.1f}" for k in known) if len(known) else ""


def _band(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    known = np.isfinite(low) & np.isfinite(high)
    if not known.any():
        return ""
    around = _path(np.append(x[known], x[known][::-1]), np.append(low[known], high[known][::-1]))
    return f'<path class="band" d="{around}z"/>'


def _mark(x: float, y: float, style: Style) -> str:
    shape = _SHAPES[style.marker]
    return f'<path class="mark" transform="translate({x:.1f} {y:.1f})" d="{shape}"/>'


def _dashes(style: Style, level: bool = False) -> str:
    lengths = " ".join(map(str, style.dashes))
    return f' stroke-dasharray="{lengths}"' if lengths and not level else ""


def _vertical(at: float, height: float) -> str:
    return f'<path stroke="gray" stroke-dasharray="2 3" d="M{at:.1f} 0v{height}"/>'


def _told(name: str, number: Interval) -> str:
    """Returns a name with its value and interval, for a reader who points at it."""
    ends = (number.low, number.high)
    interval = f" [{brief(ends[0])} to {brief(ends[1])}]" if np.isfinite(ends).all() else ""
    return f"{name}: {brief(number.value)}{interval}"
