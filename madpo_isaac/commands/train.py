"""Command line of train.py: arguments become a checked configuration, or one clear line."""

from __future__ import annotations

import argparse
import errno
import itertools
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from madpo_isaac import console
from madpo_isaac.commands import launch
from madpo_isaac.config import launchers, resume
from madpo_isaac.config.overrides import (
    CONFIG_DIR,
    OBJECTIONS,
    canonical,
    compose,
    continues,
    parse,
    prepare,
    translate,
    typed,
)
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import RunFailed, UserError, check_text, lacks_memory
from madpo_isaac.runs.folder import refuse_used
from madpo_isaac.system import distributed

_FAILED, _BAD_INPUT = 1, 2
_INTERRUPTED = 130
_SIGNALED = 128  # exit codes above it say which signal ended a run
_SEARCH_FLAGS = ("config_path", "config_name", "config_dir")
_HYDRA_FLAGS = frozenset(
    (
        *("--hydra-help", "-c", "--cfg", "--resolve", "-i", "--info"),
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
"""Hydra's settings that keep it from writing files, so that a run writes into its folder only; a
sweep still writes Hydra's multirun.yaml into ``runs_dir``."""


def main(argv: Sequence[str]) -> int:
    """Runs train.py with ``argv`` (without the program's name) and returns the exit code.

    The code is 0 after a finished run, 1 if the run could not continue, 2 after bad input, and 128
    plus the signal's number after a signal (130 for Ctrl-C). After 1 and 2 there is one line on
    stderr.
    """
    try:
        check_text(argv)
        argv = canonical(argv)
        if any(argument.startswith("-") for argument in argv):
            return _hydra_main(argv)
        config = compose(argv)
        if name := launchers.launcher(argv):
            raise UserError(f"hydra/launcher={name} starts the runs of a sweep: add -m.")
        for argument in argv:
            if re.match(r"\+*hydra[./]", argument):
                raise UserError(f"'{argument}' is a setting of sweeps: add -m.")
        return _run(config, argv)
    except UserError as problem:
        distributed.silence_all_but_first()
        console.error(str(problem))
        return _BAD_INPUT
    except KeyboardInterrupt:
        console.error("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:  # as in train.py --help | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(config: Config, overrides: Sequence[str]) -> int:
    from madpo_isaac.commands import play
    from madpo_isaac.training import runner

    try:
        return play.play(config) if config.test else runner.run(config, overrides).exit_code
    except RunFailed as problem:
        if not console.out.quiet:  # one of several processes says it for all
            console.error(str(problem))
        return _FAILED
    except (MemoryError, RuntimeError) as problem:
        if lacks_memory(problem):
            raise UserError(
                f"Not enough memory for num_envs={config.num_envs}, "
                f"algo.horizon={config.algo.horizon}, algo.hidden={config.algo.hidden}: lower them."
            ) from problem
        raise


# Hydra's own flags: help, printing the configuration, multirun ----------------------------------


def _hydra_main(argv: Sequence[str]) -> int:
    """Checks everything that can be checked up front, then hands over to Hydra."""
    prepare(argv)
    codes: list[int] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
    def job(node: DictConfig) -> None:
        codes.append(run_job(node))
        if codes[-1] > _SIGNALED:
            raise KeyboardInterrupt  # they do not after Ctrl-C

    called_with = sys.argv
    try:
        sys.argv = [called_with[0], *_check_flags(argv)]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing and exiting
        if launchers.launcher(argv):
            settings = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
            return launch.launch(run_job, str(CONFIG_DIR), settings)
        job()
    except SystemExit as done:  # Hydra's way to end --help and the like, and to object
        return _BAD_INPUT if done.code else 0
    except OBJECTIONS as problem:
        raise translate(problem) from problem
    except OSError as problem:
        if problem.errno == errno.ENOSPC:  # Hydra prints by itself
            raise UserError(f"The output cannot be written: {problem.strerror}.") from problem
        if "Invalid loaded object type" not in str(problem):  # OmegaConf's objection to a file
            raise
        raise UserError("The configuration holds no settings: write <key>: <value>.") from problem
    except KeyboardInterrupt:
        if max(codes, default=0) <= _SIGNALED:
            raise
    finally:
        sys.argv = called_with
    return max(codes, default=0)


def run_job(node: DictConfig) -> int:
    """One run of a sweep, wherever it runs; returns its exit code: the others still run."""
    try:
        overrides = HydraConfig.get().overrides.task
        return _run(compose(overrides) if continues(overrides) else typed(node), overrides)
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
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve needs --cfg job.")
    if sum(map(bool, (flags.run, flags.cfg, flags.multirun, flags.info))) > 1:
        raise UserError("Only one of --run, --multirun, --cfg and --info can be given.")
    if str(flags.config_path).endswith((".yaml", ".yml")):
        raise UserError("--config-path is a folder; the file's name goes to --config-name.")
    if flags.shell_completion and not re.fullmatch(
        r"(install|uninstall|query)=(bash|fish|zsh)", "".join(flags.overrides)
    ):
        raise UserError("--shell-completion needs install=bash, install=fish or install=zsh.")
    for text in flags.overrides:
        if re.fullmatch(r"\+*hydra\.job\.chdir=(?!false).*", text, re.IGNORECASE):
            raise UserError(f"'{text}': runs stay in the folder of the command; use runs_dir=.")
    elsewhere = any(getattr(flags, flag) for flag in _SEARCH_FLAGS)
    name = launchers.launcher(argv)
    if name and (elsewhere or not flags.multirun):
        raise UserError(f"hydra/launcher={name} can be combined with -m and settings only.")
    if elsewhere and continues(flags.overrides):
        given = next(flag for flag in _SEARCH_FLAGS if getattr(flags, flag)).replace("_", "-")
        raise UserError(
            f"--{given} cannot be combined with checkpoint= or resume=: a continued run takes its "
            "settings from its own record, so the files would be ignored. Start the run without "
            "resume=, or give the settings themselves."
        )
    if not (elsewhere or flags.hydra_help or flags.shell_completion):
        jobs = list(_jobs(flags.overrides)) if flags.multirun else [flags.overrides]
        if flags.multirun:
            _refuse_moving(jobs)
        configs = list(map(compose, jobs))
        if flags.multirun and any(text.startswith("experiment=") for text in flags.overrides):
            _refuse_taken(configs)
    if (flags.cfg or flags.info) and continues(flags.overrides):
        raise UserError(
            "--cfg and --info print the settings of a new run, and those of a run to continue are "
            "in its config.yaml: leave out checkpoint= and resume=."
        )
    prints = (flags.hydra_help, flags.cfg, flags.info, flags.shell_completion)
    own = () if any(prints) else _NO_HYDRA_FILES
    # Hydra itself does not take settings on both sides of a flag.
    return [*own, *flags.overrides, *(a for a in argv if a not in flags.overrides)]


def _refuse_moving(jobs: Sequence[Sequence[str]]) -> None:
    """Raises UserError if runs of a sweep are to begin with a checkpoint that one of them makes."""
    for job in jobs:
        given = {override.get_key_element(): override.value() for override in map(parse, job)}
        name = given.get("checkpoint")
        if str(name) in ("latest", "best") and given.get("test") is not True:
            raise UserError(
                f"checkpoint={name} would mean the run before it for a run of the sweep: name a "
                "run folder or a file."
            )


def _refuse_taken(configs: Sequence[Config]) -> None:
    """Raises UserError if two runs of a sweep are to have one folder, or one that is used."""
    begun = [config for config in configs if not config.test]
    folders = [Path(config.runs_dir) / config.experiment for config in begun]
    if twice := [folder for folder in folders if folders.count(folder) > 1]:
        raise UserError(
            f"{folders.count(twice[0])} runs of the sweep would be in '{twice[0]}': give each run "
            "its own name, such as experiment=run_${seed}, or leave out experiment."
        )
    for config, folder in zip(begun, folders, strict=True):
        path = Path(config.checkpoint) if config.checkpoint else None
        if resume.folder_to_continue(config, path) is None:
            refuse_used(folder)


def _jobs(overrides: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The overrides of every run of a sweep."""
    values: list[list[str]] = []
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        for override in map(parse, overrides):
            if not override.is_sweep_override():
                values.append([str(override.input_line)])
            elif override.is_discrete_sweep():
                override.config_loader = GlobalHydra.instance().config_loader()
                key = override.get_key_element()
                try:
                    values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
                except ValueError as problem:  # of range()
                    raise UserError(f"'{override.input_line}': {problem}.") from problem
                if not values[-1]:
                    raise UserError(f"'{override.input_line}' lists no values.")
            else:
                raise UserError(f"'{override.input_line}': list the values, separated by commas.")
    return itertools.product(*values)
