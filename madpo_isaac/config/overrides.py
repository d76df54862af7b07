"""Turns the command line's ``key=value`` into a typed, checked configuration, or a clear error."""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from madpo_isaac import plugins
from madpo_isaac.algos import ALGO_SCHEMAS
from madpo_isaac.config import launchers, recipes, renamed, resume
from madpo_isaac.config.nodes import from_record, register
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError, reason_of, unknown
from madpo_isaac.settings import as_text
from madpo_isaac.sim import SIM_SCHEMAS

CONFIG_DIR = Path(__file__).resolve().parents[1] / "cfg"
"""The YAML files, which are part of the package."""

OBJECTIONS = (HydraException, OmegaConfBaseException, YAMLError, OverflowError, RecursionError)
"""Errors of Hydra, OmegaConf and YAML for what they cannot take; see :func:`translate`."""

_GROUPS = ("task", "algo", "sim")
_PATHS = ("runs_dir", "checkpoint", "task.hand", "sim.python")
_TEXTS = ("experiment", "runs_dir", "checkpoint")
_HOME = re.compile(r"""((?:^|,)['"]?)~(?=/|['",]|$)""")


def compose(overrides: Sequence[str]) -> Config:
    """Composes and validates the configuration; raises :class:`UserError` on bad input."""
    overrides = canonical(overrides)
    prepare(overrides)
    try:
        return typed(_apply(overrides))
    except OBJECTIONS as problem:
        raise translate(problem) from problem
    except OSError as problem:
        raise UserError(f"Cannot read '{problem.filename}': {problem.strerror}.") from problem


def prepare(overrides: Sequence[str]) -> None:
    """Loads the plugins that the command line names, and makes all schemas known to Hydra."""
    for text in overrides:
        if text.startswith("plugins="):
            for file in _files(text):
                plugins.load(file)
    register()


def _files(text: str) -> list[str]:
    """The files of a setting ``plugins=[...]``, as they are given."""
    value = parse(text).value()
    if not isinstance(value, list):
        raise UserError(f"{text} must be a list of Python files, such as plugins=[my_task.py].")
    return [str(file) for file in value]


def typed(node: DictConfig) -> Config:
    """Checks a configuration that Hydra composed; raises :class:`UserError` on bad input."""
    try:
        config = OmegaConf.to_object(node)
        if not isinstance(config, Config):  # a run's config.yaml, given with --config-path
            config = OmegaConf.to_object(from_record(node))
    except OBJECTIONS as problem:
        raise translate(problem) from problem
    assert isinstance(config, Config)
    config.check()
    return config


def continues(overrides: Sequence[str]) -> bool:
    """Returns whether the command line asks to continue or to play a run."""
    return any(text.partition("=")[0] in ("checkpoint", "resume") for text in overrides)


def canonical(overrides: Sequence[str]) -> list[str]:
    """Writes overrides in one form, in sweeps too: names of tasks, quoted text, home folders.

    ``experiment=1.10`` would be a number, ``runs_dir=~/runs`` a folder that is called ``~``.
    """
    from madpo_isaac.tasks import registry

    texts = []
    for text in overrides:
        key, found, value = text.partition("=")
        if key == "task":
            value = ",".join(map(registry.canonical, value.split(",")))
        if key == "plugins":
            files = [os.path.abspath(os.path.expanduser(file)) for file in _files(text)]
            value = f"[{','.join(map(as_text, files))}]"
        if key in _PATHS:
            value = _HOME.sub(lambda at: at[1] + os.path.expanduser("~"), value)
        if key in _TEXTS and re.fullmatch(r"[\w.+-]+(,[\w.+-]+)*", value, re.ASCII):
            value = ",".join(map(_quoted, value.split(",")))
        texts.append(f"{key}{found}{value}")
    return texts


def _quoted(text: str) -> str:
    """A text that Hydra takes for a number or a truth value in quotes; any other as it is."""
    try:
        number = isinstance(parse(f"x={text}").value(), (bool, int, float))
    except UserError:  # the whole setting is read later, and its own words shown
        return text
    return f"'{text}'" if number else text


def _apply(overrides: Sequence[str]) -> DictConfig:
    """Composes the choices of groups, then sets one value after another.

    Hydra would do both at once, but its error would not name the wrong value and the allowed ones.
    If a run is continued or played, its own configuration takes the place of the defaults.
    """
    hydra_settings, choices, settings = _sorted_out(overrides)
    groups = [f"{group}={name}" for group, name in choices.items()]
    config, known = _chosen([*hydra_settings, *groups])
    for override in settings:
        if override.get_key_element() in (*resume.WHERE, "plugins"):
            _set(config, override, known)
        else:  # where a run is may refer to it; only the run's record may know it
            with contextlib.suppress(UserError):
                _set(config, override, known)
    where = {key: config[key] for key in resume.WHERE}
    # Their references are resolved now, before the run's own settings replace the defaults.
    for key, value in where.items():
        config[key] = value
    devices = [str(x.value()) for x in settings if x.get_key_element() == "sim_device"]
    source = resume.find(config, choices, devices[-1] if devices else None)
    if source is not None:
        config = source.settings()
        known = tuple(_keys(config))
    for override in settings:
        _set(config, override, known)
    # A new folder without resume=auto may be called after settings of the run.
    kept = resume.WHERE if config.resume == "auto" else ("checkpoint", "runs_dir")
    for key in kept:
        config[key] = where[key]
    if config.recipe not in recipes.names():
        raise unknown("recipe", config.recipe, recipes.names())
    if source is not None:
        source.check(config)
    return config


def _chosen(choices: Sequence[str]) -> tuple[DictConfig, tuple[str, ...]]:
    """Composes the YAML files of the choices of groups; returns the values and all keys."""
    if GlobalHydra.instance().is_initialized():  # in a job of a sweep
        return _read(choices)
    config, known = _read_once(tuple(choices), tuple(plugins.FOLDERS))
    return config.copy(), known


def _read(choices: Sequence[str]) -> tuple[DictConfig, tuple[str, ...]]:
    config = hydra.compose("config", list(choices))
    for group, _, name in (text.partition("=") for text in choices):
        if group in _GROUPS and OmegaConf.select(config, f"{group}.name") is None:
            raise UserError(
                f"cfg/{group}/{name}.yaml has no schema: its list 'defaults' must begin with "
                f"base_{name}."
            )
    return config, tuple(_keys(config))


# It takes a fifth of a second, and the plan of a figure has hundreds of configurations.
@functools.lru_cache(maxsize=256)
def _read_once(
    choices: tuple[str, ...], folders: tuple[Path, ...]
) -> tuple[DictConfig, tuple[str, ...]]:
    """Reads the package's files and those in the ``folders`` of plugins."""
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        return _read(choices)


def _sorted_out(
    overrides: Sequence[str],
) -> tuple[list[str], dict[str, str], list[Override]]:
    """Hydra's own settings, the choice of each group that is given, and values of keys."""
    hydra_settings: list[str] = []
    choices: dict[str, str] = {}
    settings: list[Override] = []
    for override in map(parse, overrides):
        text, group = str(override.input_line), override.key_or_group
        if override.is_hydra_override():
            hydra_settings.append(text)
        elif override.is_delete():
            raise UserError(f"'{text}': settings cannot be removed.")
        elif override.is_sweep_override():
            raise UserError(f"'{text}' lists several values, which train.py takes with -m.")
        elif group in _GROUPS and override.package is None:
            if override.value() not in _options(group):
                named = override.value()
                named = named if isinstance(named, str) else _value(override)
                if named in _registered(group):
                    raise UserError(
                        f"{group}={named} has no defaults: put cfg/{group}/{named}.yaml beside the "
                        "file that registers it."
                    )
                raise unknown(group, named, _options(group))
            _refuse_plus(override)
            choices[group] = str(override.value())
        else:
            settings.append(override)
    return hydra_settings, choices, settings


def parse(text: str) -> Override:
    """Reads one ``key=value``; raises :class:`UserError` if it cannot be read."""
    try:
        return OverridesParser.create().parse_override(text)
    except (*OBJECTIONS, ValueError):
        raise UserError(
            f"Cannot read '{text}'. Write <key>=<value>, and values with special characters in "
            "two kinds of quotes, as 'checkpoint=\"a=b.pth\"'."
        ) from None


def _value(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _refuse_plus(override: Override) -> None:
    text = str(override.input_line)
    if text.startswith("+"):
        raise UserError(f"'{text}': settings are given without '+', as {text.lstrip('+')}.")


def _registered(group: str) -> Collection[str]:
    from madpo_isaac.tasks import registry

    return {"task": registry.TASKS, "algo": ALGO_SCHEMAS, "sim": SIM_SCHEMAS}[group]


def _options(group: str) -> list[str]:
    folders = (CONFIG_DIR, *plugins.FOLDERS)
    return [path.stem for folder in folders for path in (folder / group).glob("*.yaml")]


def _set(config: DictConfig, override: Override, known: Sequence[str]) -> None:
    """Sets one value, if its key is ``known`` and its type is right."""
    key = override.get_key_element().lstrip("+")
    if key not in known:
        raise renamed.error(key) or _unknown_key(key, known)
    _refuse_plus(override)
    group, _, setting = key.partition(".")
    if setting == "name":
        raise UserError(f"'{override.input_line}': choose with {group}=<name>.")
    default = OmegaConf.select(config, key)
    # OmegaConf would take any whole number but 0 for True.
    if (
        isinstance(default, bool)
        and type(override.value()) is int
        and override.value() not in (0, 1)
    ):
        raise UserError(f"{key}={_value(override)} must be {_kind(default)}.")
    value = override.value()
    if isinstance(default, str) and isinstance(value, (bool, int, float)):
        value = _value(override)
    try:
        OmegaConf.update(config, key, value)
    except ConfigKeyError as problem:
        raise _unknown_key(str(problem.full_key), known) from None
    except OBJECTIONS as problem:
        if default is None and "ListConfig" in str(problem):
            raise UserError(f"{key}={_value(override)} must be null or a list.") from None
        if default is None:  # what else it may be is known to OmegaConf only
            text = f"{key}={_value(override)} must be"
            if isinstance(value, list) and "of type 'list'" not in str(problem):  # an entry is not
                raise UserError(f"{text} null or a list of numbers.") from None
            kind = re.search(r"could not be converted to (Float|Integer|Boolean)", str(problem))
            if kind is None:
                raise translate(problem) from None
            raise UserError(f"{text} {_OR_NULL[kind[1]]}.") from None
        raise UserError(f"{key}={_value(override)} must be {_kind(default)}.") from None


_OR_NULL = {
    "Float": "null or a number",
    "Integer": "null or a whole number",
    "Boolean": "null, True or False",
}
"""Values of settings that may be null, by OmegaConf's name of their type."""


def _kind(example: Any) -> str:
    """Returns a phrase for the values of the type of ``example``."""
    if isinstance(example, DictConfig):
        return "a group of settings, each of its own type"
    if isinstance(example, ListConfig):
        of_texts = get_args(example._metadata.ref_type or list[int]) == (str,)
        kind, such = ("texts", "[a,b]") if of_texts else ("whole numbers", "[64,64]")
        return f"a list of {kind}, such as {such}"
    if isinstance(example, bool):
        return "True or False"
    if isinstance(example, (int, float)):
        return f"a {'whole ' * isinstance(example, int)}number, such as {example}"
    return "text"


def _unknown_key(key: str, known: Sequence[str]) -> UserError:
    parent, _, name = key.rpartition(".")
    siblings = [k for k in known if k.rpartition(".")[0] == parent]
    if parent in known and not siblings:
        return UserError(f"Unknown key '{key}': '{parent}' takes one value.")
    if not siblings:
        return _unknown_key(parent, known)
    same_name = [k for k in known if k.rpartition(".")[2] == name.lower()]
    names = [k.rpartition(".")[2] for k in siblings]
    near = difflib.get_close_matches(name.lower(), names, n=1)
    guesses = [k for k in siblings if near and k.rpartition(".")[2] == near[0]]
    guesses = guesses or sorted(same_name, key=len)
    hint = f" Did you mean '{guesses[0]}'?" if guesses else ""
    place = f" in {parent}" * bool(parent)
    return UserError(f"Unknown key '{key}'.{hint} Allowed{place}: {', '.join(sorted(names))}.")


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        child = OmegaConf.select(node, key, throw_on_missing=False)
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{prefix}{key}.")


def translate(problem: Exception) -> UserError:
    """Returns an error of one line for any other error of Hydra or OmegaConf."""
    chain = list(_causes(problem))
    if own := next((link for link in chain if isinstance(link, UserError)), None):
        return own  # of a resolver, such as the one of recipes
    if marked := next((link for link in chain if isinstance(link, MarkedYAMLError)), None):
        mark = marked.problem_mark
        where = f"'{mark.name}', line {mark.line + 1}" if mark else "a YAML file"
        return UserError(f"{where}: {marked.problem or reason_of(marked)}.")
    text = "\n".join(str(link) for link in chain)
    if found := re.search(r"Could not (?:find|load) '?([\w/]+)/([^'/\s]+)'?", text):
        listed = re.search(rf"Available options in '{found[1]}':\n((?:\t.*\n?)+)", text)
        name, options = found[2].strip("'"), listed[1].split() if listed else []
        if found[1] == "hydra/launcher" and (extra := launchers.missing(name, options)):
            return extra
        if not listed:
            return UserError(f"Unknown {found[1]} '{name}'.")
        return unknown(found[1], name, options)
    if found := re.search(r"Could not override '([^']+)'", text):
        return UserError(f"Unknown key '{found[1]}'.")
    link = next((e for e in chain if isinstance(e, OmegaConfBaseException)), chain[-1])
    return UserError(f"{reason_of(link)}.")


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
