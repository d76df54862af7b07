"""Descriptions of figures; drawing.py makes files of them, and svg.py makes parts of a page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from madpo_isaac.report.statistics import Estimate

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#777777", "#000000")
"""Colors of Okabe and Ito, which color-blind readers can tell apart."""
DASHES = ((), (6, 2), (2, 2), (8, 2, 2, 2), (4, 4))
"""Lengths of dashes and gaps, in points; empty for a solid line."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Shapes, named as by Matplotlib."""
_FAR = 3.0
"""Values more than so many times as far from the beginning as the best value are cut off."""
_QUANTILE = 0.05


class Style(NamedTuple):
    """Color, dashes and marker of a name."""

    color: str
    dashes: tuple[int, ...]
    marker: str


@dataclass(frozen=True)
class Line:
    """A curve with its band, or points with error bars; (P,) each."""

    name: str
    x: np.ndarray
    estimate: Estimate
    runs: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The curve of each run, (P,)."""
    points: bool = False
    """True: each point has a marker and an error bar in place of the band."""


@dataclass(frozen=True)
class Interval:
    """A number with the ends of its interval, which are NaN if there is no interval."""

    value: float
    low: float
    high: float

    @classmethod
    def at(cls, estimate: Estimate, k: int) -> Interval:
        """Returns number k of an estimate."""
        ends = (estimate.value, estimate.low, estimate.high)
        return cls(*(float(end[k]) for end in ends))


class Limits(NamedTuple):
    """The part of an axis that is shown."""

    low: float
    high: float
    cut: list[str]
    """Lines about values that lie outside."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes: curves against x, or a row for each of ``bars``."""

    x_label: str
    title: str = ""
    y_label: str = ""
    lines: Sequence[Line] = ()
    levels: Mapping[str, Interval] = field(default_factory=dict)
    """Horizontal dashed lines."""
    bars: Mapping[str, Interval] = field(default_factory=dict)
    origin: float | None = None
    """Value of ``bars`` at the beginning of training; None to show all bars in full."""
    best: float = 0.0
    """The best value of ``bars``."""
    fixed: tuple[float, float] | None = None
    """Limits of the values."""
    upright: float | None = None
    """A vertical dotted line stands here."""
    x_ticks: Sequence[float] = ()
    """Positions of ticks on a logarithmic axis; empty for a linear axis."""

    def limits(self) -> Limits:
        """Returns the shown part of the axis of values: y, or x where there are bars.

        A curve that diverges does not set the scale: values whose distance from the beginning is
        more than three times that of the best value are outside. The beginning is the median of
        the curves' first values.
        """
        extents = dict(self._extents())
        if self.fixed is not None or not extents:
            return Limits(*(self.fixed or (0.0, 1.0)), [])
        if self.bars:
            origin, best = self.origin, self.best
        else:
            starts = sorted(_finite(line.estimate.value)[0] for line in self._known())
            origin = starts[len(starts) // 2] if starts else None
            best = max(high for _, high in extents.values())
        low, high = min(x for x, _ in extents.values()), max(x for _, x in extents.values())
        if origin is None:
            return Limits(low, high, [])
        reach = _FAR * abs(best - origin)
        floor, ceiling = origin - reach, origin + reach
        sane = [(a, b) for a, b in extents.values() if a >= floor and b <= ceiling]
        if sane:
            inside = [x for ends in extents.values() for x in ends if floor <= x <= ceiling]
            if self.lines:  # the fall itself is not of interest
                inside = [x for ends in sane for x in ends] + [origin]
            low, high = min(inside), max(inside)
        elif self.lines:
            values = np.concatenate([_finite(line.estimate.value) for line in self._known()])
            most = float(np.quantile(values, _QUANTILE))
            low = most if high - low > 10 * (high - most) else low
        return Limits(low, high, _cut(extents, low, high))

    def _known(self) -> list[Line]:
        return [line for line in self.lines if np.isfinite(line.estimate.value).any()]

    def _extents(self) -> Iterable[tuple[str, tuple[float, float]]]:
        """Least and greatest value of each name, intervals included."""
        for line in self._known():
            values = _finite([line.estimate.value, line.estimate.low, line.estimate.high])
            yield line.name, (float(values.min()), float(values.max()))
        for name, bar in {**self.levels, **self.bars}.items():
            values = _finite([bar.value, bar.low, bar.high])
            if len(values):
                yield name, (float(values.min()), float(values.max()))


@dataclass(frozen=True)
class Figure:
    """Panels with one legend."""

    name: str
    """Name of its files."""
    title: str
    panels: Sequence[Panel]
    names: Sequence[str]
    """Names in the order of the legend, drawn or not: a name has the same style everywhere."""
    caption: str = ""
    """Lines that stand on the figure."""

    def style(self, name: str) -> Style:
        """Returns the style of a name; names that differ in nothing else differ in the marker."""
        k = self.names.index(name)
        return Style(COLORS[k % len(COLORS)], DASHES[k % len(DASHES)], MARKERS[k % len(MARKERS)])

    def shown(self) -> list[str]:
        """Returns the names that have a curve or a level, in the order of the legend."""
        drawn = {line.name for panel in self.panels for line in panel.lines}
        drawn.update(name for panel in self.panels for name in panel.levels)
        return [name for name in self.names if name in drawn]

    def cuts(self) -> list[str]:
        """Returns a line for each panel in which something is outside."""
        return [
            f"{panel.title or panel.y_label or panel.x_label}: the axis is cut, {'; '.join(cut)}."
            for panel in self.panels
            if (cut := panel.limits().cut)
        ]


def _cut(extents: Mapping[str, tuple[float, float]], low: float, high: float) -> list[str]:
    below = [f"{name} goes down to {brief(a)}" for name, (a, _) in extents.items() if a < low]
    above = [f"{name} goes up to {brief(b)}" for name, (_, b) in extents.items() if b > high]
    return below + above


def _finite(values: object) -> np.ndarray:
    flat = np.ravel(np.asarray(values, dtype=float))
    return flat[np.isfinite(flat)]


def step_unit(steps: float) -> tuple[float, str]:
    """Returns the unit in which to count steps that go up to ``steps``."""
    return (1e6, "millions") if steps >= 1e5 else (1e3, "thousands")


def brief(value: float) -> str:
    """Returns a number with four digits, or all digits before the point where there are more."""
    if abs(value) < 1e-9:  # sums of rounded numbers
        return "0"
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e9 else f"{value:.4g}"


def widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Returns the ends of a range with room beside them: a share of it.

    A range that is empty but for rounding gets 0.5, or what keeps the ends of huge numbers apart.
    """
    least = 1e-7 * max(abs(low), abs(high))
    space = share * (high - low) if high - low > least else max(0.5, least)
    return low - space, high + space
