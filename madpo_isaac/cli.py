"""Command line of train.py: arguments become a checked configuration, or one clear line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from madpo_isaac import console
from madpo_isaac.config import Config, register, validate
from madpo_isaac.errors import UserError, unknown

CONFIG_DIR = Path(__file__).resolve().parents[1] / "cfg"

_HYDRA_FLAGS = frozenset(
    (
        *("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "--resolve", "-i", "--info"),
        *("-p", "--package", "-r", "--run", "-m", "--multirun", "-sc", "--shell-completion"),
        *("-cp", "--config-path", "-cn", "--config-name", "-cd", "--config-dir"),
        "--experimental-rerun",
    )
)


def main(argv: Sequence[str]) -> int:
    """Runs train.py with ``argv`` (without the program's name) and returns the exit code.

    0 after a finished run, 2 after bad input (one line on stderr), 130 when interrupted.
    """
    try:
        _check_dashes(argv)
        if any(argument.startswith("-") for argument in argv):
            return _hydra_main(argv)
        return _run(compose(argv), argv)
    except UserError as problem:
        console.error(str(problem))
        return 2


def _run(config: Config, overrides: Sequence[str]) -> int:
    from madpo_isaac.runner import Runner

    return Runner(config, overrides=overrides).run()


def compose(overrides: Sequence[str]) -> Config:
    """Composes and validates the configuration; raises :class:`UserError` on bad input."""
    register()
    try:
        with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
            return _typed(hydra.compose("config", list(overrides)))
    except (HydraException, OmegaConfBaseException) as problem:
        raise _translate(problem, overrides) from problem


def _typed(node: DictConfig) -> Config:
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    validate(config)
    return config


def _hydra_main(argv: Sequence[str]) -> int:
    """Hands over to Hydra for its own flags: help, printing the configuration, multirun."""
    import sys

    register()
    codes: list[int] = []

    @hydra.main(config_path=str(CONFIG_DIR), config_name="config", version_base="1.3")
    def job(node: DictConfig) -> None:
        codes.append(_run(_typed(node), HydraConfig.get().overrides.task))

    sys.argv = [sys.argv[0], *argv]
    job()
    return max(codes, default=0)


def _check_dashes(argv: Sequence[str]) -> None:
    for argument in argv:
        flag, _, value = argument.partition("=")
        if argument.startswith("-") and flag not in _HYDRA_FLAGS:
            key = flag.lstrip("-").replace("-", "_") or "key"
            usage = f"{key}={value or '<value>'}"
            raise UserError(f"'{argument}': options are written without dashes, as {usage}.")


def _translate(problem: Exception, overrides: Sequence[str]) -> UserError:
    """Says in one line what Hydra or OmegaConf objected to, with the close match named."""
    chain = list(_causes(problem))
    text = "\n".join(str(link) for link in chain)
    if found := re.search(r"Could not find '([\w/@]+)/([^']*)'", text):
        group = found[1].split("@")[0]
        return unknown(group, found[2], _options(group))
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Key '([^']+)' (?:is )?not in '\w+'\s+full_key: (\S+)", text):
        return _unknown_key(found[2])
    if found := re.search(r"full_key: (\S+)", text):
        return UserError(f"{found[1]}: {text.splitlines()[0].rstrip('.')}.")
    lines = [line for line in str(chain[-1]).splitlines() if line.strip()]
    return UserError(lines[0] if lines else f"could not read {' '.join(overrides)}")


def _causes(problem: BaseException | None) -> Iterator[BaseException]:
    while problem is not None:
        yield problem
        problem = problem.__cause__ or problem.__context__


def _options(group: str) -> list[str]:
    return [path.stem for path in (CONFIG_DIR / group).glob("*.yaml")]


def _unknown_key(key: str) -> UserError:
    with hydra.initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        known = list(_keys(hydra.compose("config")))
    same_level = [k for k in known if k.count(".") == key.count(".")]
    hint = str(unknown("key", key, same_level)).split(" Allowed:")[0]
    return UserError(
        f"{hint} Print all keys with: python train.py --cfg job"
        if "." in key
        else f"{hint} Allowed: {', '.join(sorted(same_level))}."
    )


def _keys(node: Any, prefix: str = "") -> Iterator[str]:
    for key in node:
        yield f"{prefix}{key}"
        child = OmegaConf.select(node, key, throw_on_missing=False)
        if isinstance(child, DictConfig):
            yield from _keys(child, f"{prefix}{key}.")
