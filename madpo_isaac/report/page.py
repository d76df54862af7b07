"""The report as one HTML file, with figures and videos inside."""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path

from madpo_isaac.report import svg
from madpo_isaac.report.chart import Figure
from madpo_isaac.report.tables import Table

_NUMBER = re.compile(r"-|[-±]?[\d.,:]+( M)?( (to|±) -?[\d.,]+)?")
"""Pattern of cells that stand on the right: numbers, times, steps and intervals."""
_LONG = 40
"""Letters of a cell from which on it may have several lines."""
_STYLE = """
body { font: 15px/1.45 sans-serif; color: #222; overflow-wrap: break-word; }
body { max-width: 1150px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
video { max-width: 100%; height: auto; } figure { margin: 1em 0 2em; }
figcaption { margin-bottom: 0.4em; } .note { color: #555; font-size: 0.9em; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85em; }
th, td { padding: 0.25em 0.7em; text-align: left; border-bottom: 1px solid #e4e4e4; }
td, th { white-space: nowrap; font-variant-numeric: tabular-nums; } .n { text-align: right; }
.long { min-width: 24em; white-space: normal; overflow-wrap: anywhere; }
summary { cursor: pointer; margin: 0.5em 0; } details details { margin-left: 1em; }
.made pre { white-space: pre-wrap; overflow-wrap: anywhere; }
pre { overflow-x: auto; background: #f6f6f6; padding: 0.6em; font-size: 12px; }
@media (max-width: 699px) { body { margin: 1em auto; padding: 0 0.7em; } }
@media print { details { display: block; } }
"""


class Page:
    """Collects the parts of the page in their order."""

    def __init__(self, title: str) -> None:
        self.title = title
        self._parts: list[str] = []

    def heading(self, text: str) -> None:
        """Begins a section."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def notes(self, lines: Iterable[str]) -> None:
        """Adds a list of remarks."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        if items:
            self._parts.append(f'<ul class="note">{items}</ul>')

    def made(self, date: str, tasks: Sequence[str], command: str) -> None:
        """Adds when the page was made, about which tasks, and by which command."""
        about = f"{escape(date)} · {escape(', '.join(tasks))}"
        line = f"<pre>{escape(command)}</pre>" if command else ""
        self._parts.append(f'<div class="made">{about}{line}</div>')

    def figure(self, figure: Figure, files: bool = True) -> None:
        """Adds a figure; ``files`` says whether it is in ``figures/``, too."""
        links = "".join(
            f' <a class="note" href="figures/{escape(figure.name)}.{kind}">{kind.upper()}</a>'
            for kind in ("pdf", "png")
            if files
        )
        caption = f"<figcaption><b>{escape(figure.title)}</b>{links}</figcaption>"
        self._parts.append(f"<figure>{caption}{svg.figure_html(figure)}</figure>")

    def table(self, table: Table) -> None:
        """Adds a table, if it has rows, and its text in Markdown and LaTeX."""
        if not table.rows:
            return
        kinds = [_kind(column) for column in zip(*table.rows, strict=True)]
        rows = [_row("th", map(escape, table.head), kinds)]
        for i, row in enumerate(table.rows):
            rows.append(_row("td", (_cell(table, i, j) for j in range(len(row))), kinds))
        self._parts.append(f'<div class="wide"><table>{"".join(rows)}</table></div>')
        texts = (("Markdown", table.markdown()), ("LaTeX", table.latex()))
        inside = "".join(f"<p>{name}</p><pre>{escape(text)}</pre>" for name, text in texts)
        summary = "<summary>Copy as Markdown or LaTeX</summary>"
        self._parts.append(f'<details class="note">{summary}{inside}</details>')

    @contextlib.contextmanager
    def folded(self, title: str) -> Iterator[None]:
        """Shows the parts that are added meanwhile on a click only."""
        self._parts.append(f"<details><summary>{escape(title)}</summary>")
        yield
        self._parts.append("</details>")

    def videos(self, files: Iterable[tuple[str, Path]]) -> None:
        """Adds MP4 files, each with its caption."""
        figures = (
            f'<figure><video controls muted loop src="{_data("video/mp4", path.read_bytes())}">'
            f"</video><figcaption>{escape(caption)}</figcaption></figure>"
            for caption, path in files
        )
        self._parts.append(f'<div class="videos">{"".join(figures)}</div>')

    def html(self) -> str:
        """Returns the whole file."""
        title = escape(self.title)
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}{svg.STYLE}</style></head>\n"
            f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )


def _row(tag: str, cells: Iterable[str], kinds: Sequence[str]) -> str:
    """Returns a row of a table, with the class of each column."""
    parts = zip(kinds, cells, strict=True)
    return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for kind, cell in parts)}</tr>"


def _kind(column: Sequence[str]) -> str:
    """Returns the class of a column: numbers stand on the right, and long texts are broken."""
    if all(map(_NUMBER.fullmatch, column)):
        return ' class="n"'
    return ' class="long"' if max(map(len, column)) >= _LONG else ""


def _cell(table: Table, row: int, column: int) -> str:
    text = escape(table.rows[row][column])
    if (row, column) in table.links:
        text = f'<a href="{escape(table.links[row, column])}">{text}</a>'
    return f"<b>{text}</b>" if (row, column) in table.best else text


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
