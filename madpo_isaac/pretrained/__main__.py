"""Turns a run into a policy that comes with the project.

python -m madpo_isaac.pretrained runs/<experiment>
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from madpo_isaac import console, pretrained
from madpo_isaac.commands.arguments import Parser
from madpo_isaac.config.resume import WHERE
from madpo_isaac.config.schema import Config
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.evaluate import evaluate, summary
from madpo_isaac.runs import checkpoint
from madpo_isaac.runs.folder import RunFolder
from madpo_isaac.system import device
from madpo_isaac.training.factory import make_env
from madpo_isaac.training.policy import load_policy

_HERE = (*WHERE, "num_threads", "test_episodes")


def main(argv: list[str]) -> int:
    """Writes the two files; the scores are those of the written policy in half precision."""
    program = "python -m madpo_isaac.pretrained"
    parser = Parser(program, "Makes a policy that comes with the project of a run's.")
    parser.add_target()
    parser.add_argument(
        "--episodes", type=parser.positive_int, default=8, help="of each environment (8)"
    )
    parser.add_argument("--revision", help="source it was trained with, if env.json lacks it")
    parser.add_argument("--out", type=Path, default=pretrained.FOLDER, help="folder to write to")
    try:
        options = parser.parse(argv)
        config = parser.config(options)
        source = Path(config.checkpoint)
        folder = RunFolder.of_checkpoint(source)
        if folder is None:
            raise UserError(f"'{source}' is not in a run folder, which tells how it was made.")
        content = checkpoint.load(source, torch.device("cpu"))
        path = options.out / f"{content['task']}{pretrained.SUFFIX}"
        facts = {
            **{name: content[name] for name in ("task", "algo", "iteration", "env_steps")},
            **origin(folder.path),
            "config": record(config),
        }
        facts["revision"] = options.revision or facts["revision"]
        pretrained.save(path, content, facts)
        facts = {**scores(parser, path, options.episodes), **facts}
        pretrained.save(path, content, facts)
    except UserError as problem:
        console.error(str(problem))
        return 2
    console.info(f"wrote {path}: return {facts['return']:.4g}, success {facts['success']:.4g}")
    return 0


def origin(run: Path) -> dict[str, Any]:
    """Returns the command and the source revision of a run."""
    overrides = (run / "overrides.txt").read_text().split("\n")
    settings = [text for text in overrides if text and text.partition("=")[0] not in _HERE]
    revision = json.loads((run / "env.json").read_text())["git_revision"]
    return {"command": " ".join(("python train.py", *settings)), "revision": revision}


def record(config: Config) -> dict[str, Any]:
    """Returns the configuration without the settings that belong to this machine."""
    values = OmegaConf.to_container(OmegaConf.structured(config))
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items() if key not in _HERE}


def scores(parser: Parser, path: Path, episodes: int) -> dict[str, Any]:
    """Scores the policy in ``path``, with mean and with sampled actions."""
    options = parser.parse([str(path)])
    config = parser.config(options)
    env = make_env(config, threads=device.configure(config.num_threads, config.sim_device))
    policy = load_policy(config.checkpoint, env, config)
    generator = torch.Generator(env.device).manual_seed(config.seed)
    mean, sampled = (
        summary(evaluate(act, env, episodes)) for act in (policy, policy.sampled(generator))
    )
    best = {"return": mean["return"]["mean"], "success": mean["success"]["rate"]}
    return {**best, "mean_actions": mean, "sampled_actions": sampled}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
