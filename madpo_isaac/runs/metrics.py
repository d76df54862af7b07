"""Numbers of a run: episode statistics on the device, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import platform
import struct
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from madpo_isaac.env import Step, is_success
from madpo_isaac.system import device
from madpo_isaac.system.distributed import ALONE, Ranks
from madpo_isaac.system.files import flat

TENSORBOARD_TAGS = {
    "episode_return": "rewards",
    "episode_length": "episode_lengths",
    "success_rate": "Metrics/success_rate",
    "nan_resets": "Metrics/nan_resets",
    "overflows": "Metrics/overflows",
    "critic/loss": "losses/c_loss",
    "loss": "losses/a_loss",
    "entropy": "losses/entropy",
    "kl": "info/kl",
    "clip": "info/e_clip",
    "lr": "info/last_lr",
    "fps_step": "performance/step_fps",
    "fps_step_infer": "performance/step_inference_fps",
    "fps_total": "performance/step_inference_rl_update_fps",
    "time_step": "performance/step_time",
    "time_infer": "performance/step_inference_time",
    "time_update": "performance/rl_update_time",
}
"""Metric to rl_games' TensorBoard tag; other metrics keep their own name."""


_OF_EPISODES = ("episode_return", "episode_length")
_COUNTED = {"diverged": "nan_resets", "overflow": "overflows"}
"""Logged quantities of a task that are counted, not averaged, and the metrics they become."""


class EpisodeTracker:
    """Accumulates returns and lengths of N environments, without leaving the device."""

    def __init__(self, num_envs: int, device: torch.device) -> None:
        self.returns = torch.zeros(num_envs, device=device)
        self.lengths = torch.zeros(num_envs, device=device)
        self.partial = torch.zeros(num_envs, dtype=torch.bool, device=device)
        """Episodes under way whose time limit is shorter: they are not counted. (N,) bool"""
        self._totals = torch.zeros(3, dtype=torch.float64, device=device)
        self._successes: dict[str, Tensor] = {}
        self._log: dict[str, Tensor] = {}
        self._steps = 0

    def add(self, step: Step) -> None:
        """Takes in one step of all environments."""
        self.returns += step.reward
        self.lengths += 1.0
        for name, value in step.log.items():
            if is_success(name):
                if name not in self._successes:
                    self._successes[name] = torch.zeros_like(self._totals[0])
            else:
                total = value.sum(dtype=torch.float64)
                self._log[name] = self._log[name] + total if name in self._log else total
        self._steps += len(step.reward)
        done = step.terminated | step.truncated
        if device.known_all_false(done):
            return
        # Episodes that went bad were no episodes of the task.
        valid = done & ~step.diverged & ~self.partial
        finished = torch.stack((valid.double(), self.returns * valid, self.lengths * valid))
        self._totals += finished.sum(dim=1)
        for name, total in self._successes.items():
            total += (step.log[name] * valid).sum(dtype=torch.float64)
        self.returns.masked_fill_(done, 0.0)
        self.lengths.masked_fill_(done, 0.0)
        self.partial.masked_fill_(done, False)

    def take(self, ranks: Ranks = ALONE) -> dict[str, Tensor]:
        """Returns the counts since the last call, of all ``ranks``, for :func:`episodes`.

        Nothing is read from the device.
        """
        rates = [f"{name}_rate" for name in self._successes]
        names = ["count", *_OF_EPISODES, *rates, *self._log]
        totals = (*self._totals, *self._successes.values(), *self._log.values())
        sums = ranks.sum(torch.stack(totals))
        totals = dict(zip(names, sums, strict=True))
        for name in self._log.keys() - _COUNTED.keys():
            totals[name] = totals[name] / (self._steps * ranks.count)
        self._totals.zero_()
        self._successes.clear()
        self._log.clear()
        self._steps = 0
        return totals

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the running episodes."""
        return {name: getattr(self, name).clone() for name in ("returns", "lengths", "partial")}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def to_numbers(*groups: dict[str, Tensor]) -> list[dict[str, float]]:
    """Reads groups of scalar tensors in one transfer."""
    scalars = [value.detach().double() for group in groups for value in group.values()]
    values = iter(torch.stack(scalars).tolist())
    return [{name: next(values) for name in group} for group in groups]


def episodes(totals: dict[str, float]) -> dict[str, float | int | None]:
    """Means over finished episodes, None if there were none, from :meth:`EpisodeTracker.take`."""
    left = dict(totals)
    count = left.pop("count")
    rates = [name for name in left if is_success(name)]
    sums = {name: left.pop(name) for name in (*_OF_EPISODES, *rates)}
    counted = {metric: int(left.pop(name, 0.0)) for name, metric in _COUNTED.items()}
    return {
        **{name: total / count if count else None for name, total in sums.items()},
        "episodes": int(count),
        **counted,
        **{f"Episode_Reward/{name}": mean for name, mean in left.items()},
    }


class MetricsFile:
    """metrics.jsonl: one JSON object per iteration; numbers that are not finite become null."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", buffering=1)

    def write(self, metrics: dict[str, Any]) -> None:
        """Appends one line."""
        finite = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in metrics.items()
        }
        self._file.write(json.dumps(finite) + "\n")

    def flush(self) -> None:
        """Puts all lines on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class TensorBoard:
    """Writes rl_games' tags; rewards and lengths also against iterations and seconds.

    It writes in the calling thread, so that errors are raised by the call. (TensorBoard's own
    writer has a thread of its own.)

    Args:
        folder: folder of the event file.
        purge_step: a TensorBoard program that shows the run drops its events from this step on;
            see also :func:`drop_events_after`.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        from tensorboard.compat.proto import event_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._protos: Any = event_pb2
        self._name = folder.resolve().parent.name
        stamp = f"{time.time():.6f}.{platform.node()}.{os.getpid()}"
        self._file = (folder / f"events.out.tfevents.{stamp}").open("xb")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        self._add(step=purge_step, session_log={"status": self._protos.SessionLog.START})

    def describe(self, config: str) -> None:
        """Writes a configuration, given as YAML, as a text and as hyper-parameters."""
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        lines = "\n".join(f"    {line}" for line in config.splitlines())  # Markdown's code
        text = {"dtype": "DT_STRING", "string_val": [lines.encode()]}
        kind = {"plugin_data": {"plugin_name": "text"}}
        self._add(summary={"value": [{"tag": "config", "metadata": kind, "tensor": text}]})
        values = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in flat(yaml.safe_load(config)).items()
        }
        # By itself TensorBoard draws a name for the session from these values.
        self._add(summary=hparams_pb(values, trial_id=self._name))
        self._file.flush()

    def write(self, metrics: dict[str, Any]) -> None:
        """Writes one iteration."""
        frames, iteration = metrics["env_steps"], metrics["iteration"]
        for key, value in metrics.items():
            if value is None or key in ("iteration", "env_steps", "wall_s", "episodes"):
                continue
            tag = TENSORBOARD_TAGS.get(key, key)
            if tag not in ("rewards", "episode_lengths"):
                self._scalar(frames, tag, value)
                continue
            against = {"step": frames, "iter": iteration, "time": int(metrics["wall_s"])}
            for axis, at in against.items():
                self._scalar(at, f"{tag}/{axis}", value)
        self._file.flush()

    def show(self, tag: str, step: int, gif: bytes) -> None:
        """Writes a picture, which may move."""
        width, height = struct.unpack_from("<HH", gif, 6)
        image = {"width": width, "height": height, "colorspace": 3, "encoded_image_string": gif}
        self._add(step=step, summary={"value": [{"tag": tag, "image": image}]})
        self._file.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._file.close()

    def _scalar(self, step: int, tag: str, value: float) -> None:
        self._add(step=step, summary={"value": [{"tag": tag, "simple_value": value}]})

    def _add(self, **content: Any) -> None:
        event = self._protos.Event(wall_time=time.time(), **content)
        self._records.write(event.SerializeToString())


def drop_events_after(folder: Path, env_steps: int) -> None:
    """Cuts TensorBoard's files before the first event later than ``env_steps``.

    Purging by step, which TensorBoard has, would miss the curves against iterations and seconds.
    A record that a crash left half written is cut off, too.
    """
    for path in folder.glob("events.out.tfevents.*"):
        with path.open("r+b") as file:
            file.truncate(_whole_until(file.read(), env_steps))


def _whole_until(data: bytes, env_steps: int) -> int:
    """Length of the leading part of an event file that is whole and not later."""
    from google.protobuf.message import DecodeError
    from tensorboard.compat.proto import event_pb2

    start = 0
    # A record is its length, the length's checksum, an event and its checksum.
    while start + 12 <= len(data):
        size = struct.unpack_from("<Q", data, start)[0]
        stop = start + 12 + size + 4
        if size == 0 or stop > len(data):
            break
        try:
            event = event_pb2.Event.FromString(data[start + 12 : stop - 4])  # pyright: ignore
        except DecodeError:
            break
        tags = [value.tag for value in event.summary.value]
        if event.step > env_steps and not any(tag.endswith(("/iter", "/time")) for tag in tags):
            break
        start = stop
    return start
