"""The report as one HTML file, with pictures and videos inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from madpo_isaac.report.drawing import Picture
from madpo_isaac.report.tables import Table

_NUMBER = re.compile(r"-|[-±]?[\d.,:]+( M)?( to -?[\d.,]+)?")
"""Pattern of cells that stand on the right: numbers, times, steps and intervals."""
_STYLE = """
body { font: 15px/1.45 sans-serif; color: #222; }
body { max-width: 1150px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; border-bottom: 1px solid #ccc; }
img, video { max-width: 100%; height: auto; } figure { margin: 1em 0; }
figcaption, .note { color: #555; font-size: 0.9em; }
.videos { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 0.85em; }
th, td { padding: 0.25em 0.7em; text-align: left; border-bottom: 1px solid #e4e4e4; }
td { white-space: nowrap; font-variant-numeric: tabular-nums; } .n { text-align: right; }
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

    def picture(self, picture: Picture | None) -> None:
        """Adds a figure, if there is one."""
        if picture is not None:
            title = escape(picture.title)
            source = _data("image/png", picture.png)
            caption = f"<figcaption>{title} (figures/{escape(picture.name)}.pdf)</figcaption>"
            image = f'<img alt="{title}" width="{picture.width}" src="{source}">'
            self._parts.append(f"<figure>{image}{caption}</figure>")

    def table(self, table: Table) -> None:
        """Adds a table, if it has rows."""
        if table.rows:
            columns = zip(*table.rows, strict=True)
            right = [all(map(_NUMBER.fullmatch, column)) for column in columns]
            rows = (_row("th", table.head, right), *(_row("td", row, right) for row in table.rows))
            self._parts.append(f'<div class="wide"><table>{"".join(rows)}</table></div>')

    def folded(self, title: str, pictures: Iterable[Picture]) -> None:
        """Adds figures that are shown on a click."""
        self._parts.append(f"<details><summary>{escape(title)}</summary>")
        for picture in pictures:
            self.picture(picture)
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
            f"<title>{title}</title><style>{_STYLE}</style></head>\n"
            f"<body><h1>{title}</h1>\n{body}\n</body></html>\n"
        )


def _row(tag: str, cells: Sequence[str], right: Sequence[bool]) -> str:
    """Returns a row of a table; cells of columns of numbers stand on the right."""
    kinds = (' class="n"' if number else "" for number in right)
    parts = zip(kinds, map(escape, cells), strict=True)
    return f"<tr>{''.join(f'<{tag}{kind}>{cell}</{tag}>' for kind, cell in parts)}</tr>"


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
