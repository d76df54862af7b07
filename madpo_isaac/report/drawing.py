"""Draws a figure with Matplotlib: a PNG and a PDF, in which text stays text."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import figure as mpl
from matplotlib.axes import Axes

from madpo_isaac.report.chart import Figure, Line, Panel, Style, widened

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,
    "text.parse_math": False,  # a $ in a name is a $
}
_COLUMNS = 5
_DPI = 300
_HANDLE_WIDTH, _LETTER_WIDTH = 0.55, 0.062  # inches in a legend, with its gaps
_WIDEST = 30.0
_CAPTION_SIZE, _CAPTION_WIDTH, _CAPTION_HEIGHT = 5, 0.041, 0.085  # points; inches
_MARKERS = 6
"""Number of markers along a curve."""


@matplotlib.rc_context(_STYLE)
def write_files(figure: Figure, folder: Path) -> None:
    """Writes ``<name>.png`` and ``<name>.pdf`` to ``folder``, created if necessary."""
    count = len(figure.panels)
    rows = -(-count // _COLUMNS)
    columns = -(-count // rows)
    width, height = _size(figure)
    drawn = mpl.Figure((max(width * columns + 0.4, 3.2), height * rows + 0.5), layout="constrained")
    share = bool(figure.panels[0].bars)
    panels = list(drawn.subplots(rows, columns, squeeze=False, sharey=share).flat)
    for empty in panels[count:]:
        empty.remove()
    for panel, axes in zip(figure.panels, panels, strict=False):
        _draw(axes, panel, figure)
    _legend(drawn, figure)
    _caption(drawn, "\n".join([*figure.caption.splitlines(), *figure.cuts()]))
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # the page has every letter
        drawn.savefig(folder / f"{figure.name}.png", dpi=_DPI)
        drawn.set_layout_engine("none")  # everything has its place now
        # Without dates, so that equal runs give equal files.
        drawn.savefig(folder / f"{figure.name}.pdf", metadata={"CreationDate": None})


def _size(figure: Figure) -> tuple[float, float]:
    """Returns width and height of a panel in inches."""
    bars = max(len(panel.bars) for panel in figure.panels)
    if bars:
        return (1.9 if len(figure.panels) > 1 else 3.6), 0.6 + 0.22 * bars
    return (2.4, 2.1) if len(figure.panels) > 1 else (4.2, 2.8)


def _draw(axes: Axes, panel: Panel, figure: Figure) -> None:
    for line in panel.lines:
        place = figure.names.index(line.name)
        _line(axes, line, figure.style(line.name), place)
    for name, level in panel.levels.items():
        color = figure.style(name).color
        axes.axhline(level.value, color=color, ls="--", label=name)
        if np.isfinite([level.low, level.high]).all():
            axes.axhspan(level.low, level.high, color=color, alpha=0.08, lw=0)
    if panel.upright is not None:
        axes.axvline(panel.upright, color="gray", linestyle=":")
    if panel.x_ticks:
        axes.set_xscale("log")
        axes.set_xticks(panel.x_ticks, [f"{x:g}" for x in panel.x_ticks])
        axes.minorticks_off()
    low, high, _ = panel.limits()
    low, high = widened(low, high, 0.0 if panel.fixed else 0.05)
    if panel.bars:
        _bars(axes, panel, figure)
        axes.set_xlim(low, high)
    else:
        axes.set_ylim(low, high)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)


def _line(axes: Axes, line: Line, style: Style, place: int) -> None:
    color, known = style.color, line.estimate
    if line.points:
        ends = np.array([known.value - known.low, known.high - known.value])
        errors = np.nan_to_num(ends.clip(min=0.0))
        marks = {"marker": style.marker, "ms": 3, "capsize": 2}
        axes.errorbar(line.x, known.value, yerr=errors, color=color, label=line.name, **marks)
        return
    every = max(1, len(line.x) // _MARKERS)
    axes.plot(
        *(line.x, known.value),
        color=color,
        label=line.name,
        dashes=style.dashes or (None, None),
        marker=style.marker,
        ms=3,
        markevery=(place % every, every),
    )
    axes.fill_between(line.x, known.low, known.high, color=color, alpha=0.18, linewidth=0)


def _bars(axes: Axes, panel: Panel, figure: Figure) -> None:
    """Draws a bar a row from its low to its high end, and its value."""
    for row, (name, bar) in enumerate(panel.bars.items()):
        color = figure.style(name).color
        axes.barh(row, bar.high - bar.low, left=bar.low, height=0.6, color=color, alpha=0.4)
        axes.plot([bar.value, bar.value], [row - 0.3, row + 0.3], color=color, lw=2)
    axes.set_yticks(range(len(panel.bars)), list(panel.bars))
    axes.set_ylim(len(panel.bars) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def _legend(drawn: mpl.Figure, figure: Figure) -> None:
    """Puts one legend below all panels, in as many columns as its longest name leaves room for."""
    handles = {}
    for axes in drawn.axes:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    names = figure.shown()
    if not names:
        return
    width = _HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, names))
    width = min(width, _WIDEST)
    drawn.set_figwidth(max(drawn.get_figwidth(), width + 0.2))
    columns = max(1, min(4, len(names), int(drawn.get_figwidth() / width)))
    drawn.set_figheight(drawn.get_figheight() + 0.17 * -(-len(names) // columns))
    drawn.legend([handles[n] for n in names], names, loc="outside lower center", ncols=columns)


def _caption(drawn: mpl.Figure, caption: str) -> None:
    """Writes lines at the top."""
    letters = int(drawn.get_figwidth() / _CAPTION_WIDTH)
    lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, letters)]
    if lines:
        drawn.set_figheight(drawn.get_figheight() + _CAPTION_HEIGHT * len(lines))
        text = "\n".join(lines)
        drawn.suptitle(text, x=0.01, ha="left", fontsize=_CAPTION_SIZE, color="#444")
