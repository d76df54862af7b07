"""``madpo report``: figures, statistics and a page about runs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from madpo_isaac import console
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.errors import UserError
from madpo_isaac.report.runs import load, named
from madpo_isaac.report.study import Study, numbers
from madpo_isaac.report.write import CSV_FILES, write


def main(argv: Sequence[str]) -> int:
    """Writes the report for the arguments ``argv`` and prints the results; returns 0."""
    parser = Parser("madpo report", "Figures, statistics and a page about runs.")
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run folder, folder of runs, .jsonl or .csv file")
    add("--by", default="algo", metavar="KEYS", help="settings that define a group (default: algo)")
    add(
        "--out",
        default="report",
        type=parser.path,
        metavar="FOLDER",
        help="folder to write to (default: report)",
    )
    add(
        "--at",
        default="",
        metavar="STEPS",
        help="further steps at which to list returns, such as 4e5,1e6",
    )
    add(
        "--window",
        default="",
        metavar="STEPS",
        help="steps over which a point of a curve is averaged",
    )
    add("--baseline", default="", metavar="GROUP", help="group that the others are compared with")
    add("--title", default="Report", help="title of the page")
    options = parser.parse(argv)
    marks = numbers(options.at, "--at") if options.at else []
    window, *more = numbers(options.window, "--window") if options.window else [0.0]
    if options.window and (window < 1.0 or more):
        raise UserError(f"--window {options.window} must be one number, at least 1 step.")
    written = [os.path.realpath(options.out / name) for name in CSV_FILES]
    for _, path in map(named, options.runs):
        if os.path.realpath(path) in written:
            raise UserError(f"--out {options.out}: '{path}' would be overwritten by its report.")
    tell = console.Progress()
    try:
        study = Study(load(options.runs, tell), options.by.split(","), window)
        write(
            study,
            options.out,
            title=options.title,
            command=shlex.join(["madpo", "report", *argv]),
            marks=marks,
            base=options.baseline,
            tell=tell,
        )
    finally:
        tell.end()
    return 0
