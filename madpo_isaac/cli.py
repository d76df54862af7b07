"""Command line of train.py: arguments become a checked configuration, or one clear line."""

from __future__ import annotations

import argparse
import difflib
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from madpo_isaac import console, launch, resume
from madpo_isaac.config import Config, from_record, register
from madpo_isaac.errors import RunFailed, UserError, unknown
from madpo_isaac.validation import validate

CONFIG_DIR = Path(__file__).resolve().parents[1] / "cfg"

_GROUPS = ("task", "algo", "sim")
_FAILED, _BAD_INPUT = 1, 2
_INTERRUPTED = 130
_SIGNALLED = 128  # exit codes above it say which signal ended a run
_SEARCH_FLAGS = ("config_path", "config_name", "config_dir")
_HYDRA_FLAGS = frozenset(
    (
        *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-i", "--info"),
        *("-p", "--package", "-r", "--run", "-m", "--multirun", "-sc", "--shell-completion"),
        *("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
    )
)
_NO_HYDRA_FILES = (
    "hydra.output_subdir=null",
    "hydra.run.dir=.",
    "hydra.sweep.dir=${runs_dir}",
    "hydra.sweep.subdir=.",
    "hydra/hydra_logging=none",
    "hydra/job_logging=none",
)
"""A run's folder is all a run writes; a sweep adds Hydra's multirun.yaml to ``runs_dir``."""


def main(argv: Sequence[str]) -> int:
    """Runs train.py with ``argv`` (without the program's name) and returns the exit code.

    0 after a finished run, 1 if it had to stop, 2 after bad input (one line on stderr each), 128
    plus its number after a signal (130 for Ctrl-C).
    """
    argv = _canonical(argv)
    try:
        if any(argument.startswith("-") for argument in argv):
            return _hydra_main(argv)
        config = compose(argv)
        if name := launch.launcher(argv):
            raise UserError(f"hydra/launcher={name} starts the runs of a sweep: add -m.")
        return _run(config, argv)
    except UserError as problem:
        console.error(str(problem))
        return _BAD_INPUT
    except KeyboardInterrupt:
        console.error("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # as in train.py --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(config: Config, overrides: Sequence[str]) -> int:
    from madpo_isaac.runner import make_runner

    try:
        return make_runner(config, overrides).run()
    except RunFailed as problem:
        if not console.out.quiet:  # one of several processes says it for all
            console.error(str(problem))
        return _FAILED
    except (MemoryError, RuntimeError) as problem:
        if isinstance(problem, MemoryError) or re.search(r"t allocate|out of memory", str(problem)):
            raise UserError(
                f"Not enough memory for num_envs={config.num_envs}, "
                f"algo.horizon={config.algo.horizon}, algo.hidden={config.algo.hidden}: lower them."
            ) from problem
        raise


def compose(overrides: Sequence[str]) -> Config:
    """Composes and validates the configuration; raises :class:`UserError` on bad input."""
    register()
    overrides = _canonical(overrides)
    try:
        if GlobalHydra.instance().is_initialized():  # in a job of a sweep
            return _typed(_apply(overrides))
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return _typed(_apply(overrides))
    except (HydraException, OmegaConfBaseException) as problem:
        raise _translate(problem) from problem


def _typed(node: DictConfig) -> Config:
    try:
        config = OmegaConf.to_object(node)
        if not isinstance(config, Config):  # a run's config.yaml, given with --config-path
            config = OmegaConf.to_object(from_record(node))
    except OmegaConfBaseException as problem:
        raise _translate(problem) from problem
    assert isinstance(config, Config)
    validate(config)
    return config


# Hydra's own flags: help, printing the configuration, multirun ----------------------------------


def _hydra_main(argv: Sequence[str]) -> int:
    """Checks everything that can be checked up front, then hands over to Hydra."""
    register()
    codes: list[int] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
    def job(node: DictConfig) -> None:
        codes.append(run_job(node))
        if codes[-1] > _SIGNALLED:
            raise KeyboardInterrupt  # they do not after Ctrl-C

    called_with = sys.argv
    try:
        sys.argv = [called_with[0], *_check_flags(argv)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing and exiting
        if launch.launcher(argv):
            settings = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
            return launch.launch(run_job, str(CONFIG_DIR), settings)
        job()
    except SystemExit as done:  # Hydra's way to end --help and the like
        return int(done.code or 0)
    except (HydraException, OmegaConfBaseException) as problem:
        raise _translate(problem) from problem
    except YAMLError as problem:
        raise UserError(f"The configuration is not YAML: {problem}.") from problem
    except OSError as problem:  # OmegaConf's objection to files that hold something else
        if "Invalid loaded object type" not in str(problem):
            raise
        raise UserError("The configuration holds no settings: write <key>: <value>.") from problem
    except KeyboardInterrupt:
        if max(codes, default=0) <= _SIGNALLED:
            raise
    finally:
        sys.argv = called_with
    return max(codes, default=0)


def run_job(node: DictConfig) -> int:
    """One run of a sweep, wherever it runs; returns its exit code: the others still run."""
    try:
        overrides = HydraConfig.get().overrides.task
        return _run(compose(overrides) if _continues(overrides) else _typed(node), overrides)
    except UserError as problem:
        console.error(str(problem))
        return _BAD_INPUT


def _check_flags(argv: Sequence[str]) -> list[str]:
    """Checks flags and, where they are known here, settings; returns them sorted for Hydra."""
    for argument in argv:
        flag, _, value = argument.partition("=")
        if argument.startswith("-") and flag not in _HYDRA_FLAGS:
            key = flag.lstrip("-").replace("-", "_") or "key"
            usage = f"{key}={value or '<value>'}"
            raise UserError(f"'{argument}': options are written without dashes, as {usage}.")
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        flags = parser.parse_intermixed_args(argv)
    except argparse.ArgumentError as problem:
        raise UserError(f"{problem}.") from None
    if flags.resolve and not (flags.cfg or flags.help):
        raise UserError("--resolve goes with --cfg job.")
    if sum(map(bool, (flags.run, flags.cfg, flags.multirun, flags.info))) > 1:
        raise UserError("Only one of --run, --multirun, --cfg and --info can be given.")
    if str(flags.config_path).endswith((".yaml", ".yml")):
        raise UserError("--config-path is a folder; the file's name goes to --config-name.")
    if flags.shell_completion and not re.match(r"(un)?install=|query=", "".join(flags.overrides)):
        raise UserError("--shell-completion goes with install=bash, or another shell.")
    elsewhere = any(getattr(flags, flag) for flag in _SEARCH_FLAGS)
    if launch.launcher(argv) and (elsewhere or not flags.multirun):
        raise UserError(f"hydra/launcher={launch.launcher(argv)} goes with -m and settings only.")
    if elsewhere and _continues(flags.overrides):
        raise UserError("A run is continued with its own configuration: leave --config-path out.")
    if not (elsewhere or flags.hydra_help or flags.shell_completion):
        for overrides in _jobs(flags.overrides) if flags.multirun else [flags.overrides]:
            compose(overrides)
    prints = (flags.help, flags.hydra_help, flags.cfg, flags.info, flags.shell_completion)
    own = () if any(prints) else _NO_HYDRA_FILES
    # Hydra itself does not take settings on both sides of a flag.
    return [*own, *flags.overrides, *(a for a in argv if a not in flags.overrides)]


def _jobs(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of every run of a sweep."""
    values: list[list[str]] = []
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for override in map(_parse, overrides):
            if not override.is_sweep_override():
                values.append([str(override.input_line)])
            elif override.is_discrete_sweep():
                override.config_loader = GlobalHydra.instance().config_loader()
                key = override.get_key_element()
                values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                if not values[-1]:
                    raise UserError(f"'{override.input_line}' lists no values.")
            else:
                raise UserError(f"'{override.input_line}': list the values, separated by commas.")
    return itertools.product(*values)


def _continues(overrides: Sequence[str]) -> bool:
    """Whether a run is continued or played, as far as the command line says."""
    return any(text.partition("=")[0] in ("checkpoint", "resume") for text in overrides)


# Overrides --------------------------------------------------------------------------------------


def _canonical(overrides: Sequence[str]) -> list[str]:
    """Replaces names that others use for a task, also in the list of a sweep, by ours."""
    from tasks.registry import canonical

    texts = []
    for text in overrides:
        key, found, value = text.partition("=")
        names = ",".join(map(canonical, value.split(",")))
        texts.append(f"{key}{found}{names}" if key == "task" else text)
    return texts


def _apply(overrides: Sequence[str]) -> DictConfig:
    """Composes the choices of groups, then sets one value after another.

    Hydra would do it in one go, but could not say which value is at fault and what it may be.
    Where a run is continued or played, its own configuration takes the place of the defaults.
    """
    hydra_settings, choices, settings = _sorted_out(overrides)
    groups = [f"{group}={name}" for group, name in choices.items()]
    config = hydra.compose("config", [*hydra_settings, *groups])
    known = tuple(_keys(config))
    for override in settings:
        if override.get_key_element() in resume.WHERE:
            _set(config, override, known)
    source = resume.find(config, choices)
    if source is not None:
        config = source.record.copy()
        known = tuple(_keys(config))
    for override in settings:
        _set(config, override, known)
    if source is not None:
        source.check(config)
    return config


def _sorted_out(
    overrides: Sequence[str],
) -> tuple[list[str], dict[str, str], list[Override]]:
    """Hydra's own settings, the choice of each group that is given, and values of keys."""
    hydra_settings: list[str] = []
    choices: dict[str, str] = {}
    settings: list[Override] = []
    for override in map(_parse, overrides):
        text, group = str(override.input_line), override.key_or_group
        if override.is_hydra_override():
            hydra_settings.append(text)
        elif override.is_delete():
            raise UserError(f"'{text}': settings cannot be removed.")
        elif override.is_sweep_override():
            raise UserError(f"'{text}' lists several values: add -m to run one after another.")
        elif group in _GROUPS and override.package is None:
            if override.value() not in _options(group):
                raise unknown(group, _value(override), _options(group))
            _refuse_plus(override)
            choices[group] = str(override.value())
        else:
            settings.append(override)
    return hydra_settings, choices, settings


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except (HydraException, ValueError):
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


def _options(group: str) -> list[str]:
    return [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")]


def _set(config: DictConfig, override: Override, known: Sequence[str]) -> None:
    """Sets one value, if its key is ``known`` and its type is right."""
    key = override.get_key_element().lstrip("+")
    if key not in known:
        raise _unknown_key(key, known)
    _refuse_plus(override)
    group, _, setting = key.partition(".")
    if setting == "name":
        raise UserError(f"'{override.input_line}': choose with {group}=<name>.")
    default = OmegaConf.select(config, key)
    try:
        OmegaConf.update(config, key, override.value())
    except ConfigKeyError as problem:
        raise _unknown_key(str(problem.full_key), known) from None
    except OmegaConfBaseException as problem:
        if default is None and "ListConfig" in str(problem):
            raise UserError(f"{key}={_value(override)} must be null or a list.") from None
        if default is None:  # what else it may be is known to OmegaConf only
            raise _translate(problem) from None
        raise UserError(f"{key}={_value(override)} must be {_kind(default)}.") from None


def _kind(example: Any) -> str:
    """What to call values of the type of ``example``."""
    if isinstance(example, DictConfig):
        return "a group of settings, each of its own type"
    if isinstance(example, ListConfig):
        return f"a list of whole numbers, such as [{','.join(map(str, example))}]"
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


def _translate(problem: Exception) -> UserError:
    """Says in one line what Hydra or OmegaConf still objected to."""
    chain = list(_causes(problem))
    text = "\n".join(str(link) for link in chain)
    if found := re.search(r"Could not (?:find|load) '?([\w/]+)/([^'/\s]+)'?", text):
        listed = re.search(rf"Available options in '{found[1]}':\n((?:\t.*\n?)+)", text)
        name, options = found[2].strip("'"), listed[1].split() if listed else []
        if found[1] == "hydra/launcher" and (extra := launch.missing(name, options)):
            return extra
        if not listed:
            return UserError(f"Unknown {found[1]} '{name}'.")
        return unknown(found[1], name, options)
    if found := re.search(r"Could not override '([^']+)'", text):
        return UserError(f"Unknown key '{found[1]}'.")
    link = next((e for e in chain if isinstance(e, OmegaConfBaseException)), chain[-1])
    reason = (str(link).strip() or type(link).__name__).splitlines()[0].rstrip(".")
    key = getattr(link, "full_key", None)
    return UserError(f"{key}: {reason}." if key else f"{reason}.")


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__
