"""Parts of figures: panels, bands, intervals, legends; each figure as PNG and as PDF."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from madpo_isaac.report.statistics import Estimate
from madpo_isaac.report.study import Study

STYLE: dict[Any, Any] = {
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
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999", "#000000")
"""Colors of Okabe and Ito, which color-blind readers can tell apart."""
_COLUMNS = 5
_DPI, _PAGE_DPI = 300, 150
"""Resolution of a PNG, and the resolution at which a page shows it."""
_DASHES = ("-", "--", ":", "-.")
_HANDLE_WIDTH, _LETTER_WIDTH = 0.55, 0.062  # inches in a legend, with its gaps
_WIDEST = 30.0
_CAPTION_SIZE, _CAPTION_WIDTH, _CAPTION_HEIGHT = 5, 0.041, 0.085  # points; inches


@dataclass(frozen=True)
class Picture:
    """A figure that has been drawn."""

    name: str
    """Name of its files."""
    title: str
    png: bytes

    @property
    def width(self) -> int:
        """Returns the width of the picture on a page, in CSS pixels."""
        return int.from_bytes(self.png[16:20], "big") * _PAGE_DPI // _DPI


def make_panels(
    count: int,
    size: tuple[float, float] = (2.2, 1.9),
    columns: int = _COLUMNS,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Returns a figure with ``count`` panels of ``size`` inches, in rows of about equal length."""
    rows = -(-count // columns)
    columns = -(-count // rows)
    width = max(size[0] * columns + 0.4, 3.2)
    figure = Figure((width, size[1] * rows + 0.5), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=share_y)
    panels = list(grid.flat)
    for empty in panels[count:]:
        empty.remove()
    return figure, panels[:count]


def band(axes: Axes, x: np.ndarray, estimate: Estimate, study: Study, group: str) -> None:
    """Draws a curve with its band."""
    color = color_of(study, group)
    dashes = _DASHES[study.groups.index(group) // len(COLORS) % len(_DASHES)]
    marker = "o" if len(x) == 1 else ""
    axes.plot(x, estimate.value, color=color, ls=dashes, marker=marker, ms=3, label=group)
    axes.fill_between(x, estimate.low, estimate.high, color=color, alpha=0.18, linewidth=0)


def intervals(axes: Axes, each: dict[str, tuple[float, float, float]], study: Study) -> None:
    """Draws a bar per group from its low to its high end, and its value: (value, low, high)."""
    for row, (group, (value, low, high)) in enumerate(each.items()):
        color = color_of(study, group)
        axes.barh(row, high - low, left=low, height=0.6, color=color, alpha=0.4)
        axes.plot([value, value], [row - 0.3, row + 0.3], color=color, lw=2)
    axes.use_sticky_edges = False
    axes.margins(x=0.05)
    axes.set_yticks(range(len(each)), list(each))
    axes.set_ylim(len(each) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)


def error_bars(
    axes: Axes, x: Sequence[float], each: Sequence[Estimate], name: str, color: str
) -> None:
    """Draws points with their intervals, joined by a line."""
    values, low, high = (
        np.array([getattr(e, end)[0] for e in each]) for end in ("value", "low", "high")
    )
    errors = np.nan_to_num(np.array([values - low, high - values]).clip(min=0.0))
    axes.errorbar(x, values, yerr=errors, marker="o", ms=3, capsize=2, color=color, label=name)


def color_of(study: Study, group: str) -> str:
    """Returns the color of a group in all figures of a study."""
    return COLORS[study.groups.index(group) % len(COLORS)]


def legend(figure: Figure, order: Sequence[str]) -> None:
    """Puts one legend below all panels, in as many columns as its longest name leaves room for."""
    handles = {}
    for axes in figure.axes:
        found, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, found, strict=True))
    names = [name for name in order if name in handles]
    width = _HANDLE_WIDTH + _LETTER_WIDTH * max(map(len, names), default=0)
    width = min(width, _WIDEST)
    figure.set_figwidth(max(figure.get_figwidth(), width + 0.2))
    columns = max(1, min(4, len(names), int(figure.get_figwidth() / width)))
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(names) // columns))
    figure.legend([handles[n] for n in names], names, loc="outside lower center", ncols=columns)


def step_unit(steps: float) -> tuple[float, str]:
    """Returns the unit in which to count steps that go up to ``steps``."""
    return (1e6, "millions") if steps >= 1e5 else (1e3, "thousands")


def drawn(figure: Figure, folder: Path, name: str, title: str, caption: str = "") -> Picture:
    """Writes the files and keeps the PNG for the page.

    Args:
        figure: the figure.
        folder: folder of the files, created if necessary.
        name: name of the files.
        title: title on the page.
        caption: lines to write at the top of the figure.
    """
    if caption:
        letters = int(figure.get_figwidth() / _CAPTION_WIDTH)
        lines = [part for line in caption.splitlines() for part in textwrap.wrap(line, letters)]
        figure.set_figheight(figure.get_figheight() + _CAPTION_HEIGHT * len(lines))
        text = "\n".join(lines)
        figure.suptitle(text, x=0.01, ha="left", fontsize=_CAPTION_SIZE, color="#444")
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    # Without dates, so that equal runs give equal files.
    figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
    (folder / f"{name}.png").write_bytes(buffer.getvalue())
    return Picture(name, title, buffer.getvalue())
