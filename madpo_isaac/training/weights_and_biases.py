"""Sends a run to Weights & Biases, beside the files of the run folder."""

from __future__ import annotations

import importlib.util
import uuid
from pathlib import Path
from typing import Any

import yaml

from madpo_isaac.errors import UserError
from madpo_isaac.runs.folder import as_yaml
from madpo_isaac.training.callback import Callback
from madpo_isaac.training.run import Run
from madpo_isaac.training.watching import NewClips


def check_installed() -> None:
    """Raises UserError if the package wandb is missing."""
    try:
        found = importlib.util.find_spec("wandb") is not None
    except ValueError:  # a module without a specification
        found = True
    if not found:
        raise UserError("wandb_activate=True needs the package wandb: pip install wandb.")


class WeightsAndBiases(Callback):
    """Logs every line of metrics.jsonl against ``env_steps``, the configuration and new clips.

    A continued run is continued there, too: the run folder keeps its identifier in
    ``wandb_id.txt``.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._run: Any = None
        self._clips = NewClips(folder / "videos")

    def on_start(self, run: Run) -> None:
        """Begins the run at Weights & Biases, or continues it."""
        import wandb  # pyright: ignore[reportMissingImports]

        config = run.config
        self._video = wandb.Video
        self._run = wandb.init(
            project=config.wandb_project,
            entity=config.wandb_entity or None,
            group=config.wandb_group or None,
            name=config.wandb_name or self._folder.name,
            tags=list(config.wandb_tags),
            config=yaml.safe_load(as_yaml(config)),
            id=self._id(),
            resume="allow",
            dir=str(self._folder),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._run.define_metric("env_steps")
        self._run.define_metric("*", step_metric="env_steps")

    def _id(self) -> str:
        path = self._folder / "wandb_id.txt"
        if not path.is_file():
            path.write_text(uuid.uuid4().hex + "\n")
        return path.read_text().strip()

    def on_iteration(self, run: Run, metrics: dict[str, Any]) -> None:
        """Logs one iteration."""
        known = {key: value for key, value in metrics.items() if value is not None}
        if run.config.capture_video:
            for path in self._clips.take():
                known[f"clips/{path.stem}"] = self._video(str(path), format="mp4")
        self._run.log(known, step=run.iteration)

    def on_end(self, run: Run) -> None:
        """Ends the run at Weights & Biases."""
        if self._run is not None:
            self._run.finish()
