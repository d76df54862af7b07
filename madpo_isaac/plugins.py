"""Code of users: files and installed packages that add tasks, algorithms, engines and networks.

A plugin registers its parts when it is imported. The folder ``cfg`` beside it, if there is one, has
the YAML files of these parts, with the same names as in this package: ``task/<name>.yaml`` etc.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

from madpo_isaac.errors import UserError

GROUP = "madpo_isaac.plugins"
"""Entry points of installed packages, whose values are modules to import."""

FOLDERS: list[Path] = []
"""The folders with YAML files of the plugins that are loaded."""


def load(file: str) -> None:
    """Imports a Python file, once; its folder can be imported from, too.

    Raises:
        UserError: there is no such file, another module has its name, or it cannot be imported.
    """
    try:
        path = Path(file).resolve()
        is_python = path.suffix == ".py" and path.is_file()
    except (OSError, RuntimeError, ValueError) as problem:  # a loop of links, too long a name
        raise UserError(f"plugins: '{file}' cannot be read: {problem}.") from problem
    if not is_python:
        raise UserError(f"plugins: '{file}' is no Python file: give the path of one, x.py.")
    name, folder = path.stem, str(path.parent)
    if "." in name:
        raise UserError(f"plugins: '{file}' has a dot in its name: rename the file.")
    if (module := sys.modules.get(name)) is None:
        if importlib.util.find_spec(name) is None:
            sys.path.append(folder)
            # Processes that this one starts unpickle classes of the file.
            paths = [x for x in os.environ.get("PYTHONPATH", "").split(os.pathsep) if x]
            os.environ["PYTHONPATH"] = os.pathsep.join([*paths, folder])
            importlib.invalidate_caches()
        module = _imported(f"'{file}'", lambda: importlib.import_module(name))
    source = getattr(module, "__file__", None)  # modules that are built in have none
    if source is None or Path(source).resolve() != path:
        raise UserError(f"plugins: '{file}' has the name of another module: rename the file.")
    _add_folder(path.parent)


@functools.cache
def load_installed() -> None:
    """Imports the plugins of installed packages, their entry points :data:`GROUP`.

    Raises:
        UserError: one of them cannot be imported.
    """
    for point in metadata.entry_points(group=GROUP):
        where = f"'{point.name}' of the package {point.dist.name if point.dist else 'unknown'}"
        module = _imported(where, lambda point=point: importlib.import_module(point.module))
        if (source := getattr(module, "__file__", None)) is not None:
            _add_folder(Path(source).parent)


def refuse_taken(thing: str, name: str, owner: str | None, newcomer: str) -> None:
    """Lets a module register a name that is free, or again one of its own.

    Args:
        thing: kind of the part, with its article, such as "an algorithm".
        name: name on the command line.
        owner: the module that has registered the name before; ``""`` for this package, which keeps
            its names; None if nobody has.
        newcomer: the module that registers it now.

    Raises:
        UserError: another module has registered the name.
    """
    if owner not in (None, newcomer):
        raise UserError(f"There is {thing} '{name}' already: choose another name.")


def _imported(where: str, load_module: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load_module()
    except UserError:
        raise
    except (Exception, SystemExit) as problem:
        place = traceback.extract_tb(problem.__traceback__)[-1]
        line = f"{place.filename}, line {place.lineno}"
        if isinstance(problem, SyntaxError):
            line = f"{problem.filename}, line {problem.lineno}"
        reason = f"{type(problem).__name__}: {problem}"
        raise UserError(f"plugins: {where} cannot be imported ({line}: {reason}).") from problem


def _add_folder(place: Path) -> None:
    folder = place / "cfg"
    if folder.is_dir() and folder not in FOLDERS:
        FOLDERS.append(folder)
