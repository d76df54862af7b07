"""Videos of environments: H.264 that browsers play, or animated GIFs."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import imageio_ffmpeg
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from madpo_isaac import console
from madpo_isaac.env import AgentSpec, Step, VecEnv
from madpo_isaac.errors import UserError
from madpo_isaac.evaluation.render import Painter, agent_color
from madpo_isaac.system.files import writing

Frame = NDArray[np.uint8]
"""(height, width, 3)"""
TILES = ((1, (640, 480)), (4, (480, 360)), (9, (320, 240)))
"""Largest number of environments for each size of picture, in pixels; the last size is for more."""
SHOWN_AGENTS = 6
"""Largest number of agents whose names are shown."""


# Files ------------------------------------------------------------------------------------------


class Writer(Protocol):
    """Takes the frames of one file."""

    def write(self, frame: Frame) -> None:
        """Appends a frame."""
        ...

    def close(self) -> bool:
        """Puts the file in place; returns whether there is one, that is if it has a frame."""
        ...


class Mp4:
    """H.264 in the pixel format that browsers decode, with the index in front of the data.

    Args:
        path: the file, which appears only when it is complete.
        fps: frames per second.
    """

    max_fps = 60.0

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._fps = path, fps
        self._partial = partial(path)
        self._ffmpeg: subprocess.Popen[bytes] | None = None
        self._said = b""

    def write(self, frame: Frame) -> None:
        """Appends a frame; the first one decides the size, which has to be even.

        Raises:
            OSError: ffmpeg has ended, as on a full disk; nothing of the file is left.
        """
        if self._ffmpeg is None:
            self._ffmpeg = self._start(frame.shape[1], frame.shape[0])
        assert self._ffmpeg.stdin is not None
        try:
            self._ffmpeg.stdin.write(np.ascontiguousarray(frame).tobytes())
        except OSError as problem:
            self._ffmpeg.kill()
            self._finish()
            raise OSError(self._reason()) from problem

    def _start(self, width: int, height: int) -> subprocess.Popen[bytes]:
        source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}")
        rate = ("-r", str(Fraction(self._fps).limit_denominator()), "-i", "-", "-an")
        coded = ("-vcodec", "libx264", "-crf", "15", "-pix_fmt", "yuv420p")
        # By itself ffmpeg takes a name with a colon for a protocol.
        target = ("-v", "error", "-movflags", "+faststart", f"file:{self._partial.absolute()}")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed with ffmpeg
        try:
            return subprocess.Popen(
                [imageio_ffmpeg.get_ffmpeg_exe(), "-y", *source, *rate, *coded, *target],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,  # signals are for the run, which ends the clip
            )
        except (OSError, RuntimeError) as problem:  # the latter where imageio_ffmpeg finds none
            self._errors.close()
            raise OSError(f"ffmpeg cannot be started: {problem}") from problem

    def _finish(self) -> int:
        """Waits for ffmpeg, and removes the file if it is not whole; returns the exit code."""
        assert self._ffmpeg is not None and self._ffmpeg.stdin is not None
        with contextlib.suppress(OSError):
            self._ffmpeg.stdin.close()
        code, self._ffmpeg = self._ffmpeg.wait(), None
        with self._errors as file:
            file.seek(0)
            self._said = file.read()
        if code:
            with contextlib.suppress(OSError):
                self._partial.unlink()
        return code

    def _reason(self) -> str:
        """The last thing that ffmpeg said."""
        lines = self._said.decode(errors="replace").split("\n")
        said = [line.strip() for line in lines if line.strip()]
        known = [line for line in said if os.strerror(errno.ENOSPC) in line]
        return f"ffmpeg: {(known or said or ['it was stopped'])[-1].rstrip('.')}"

    def close(self) -> bool:
        """Waits for ffmpeg and puts the file in place, if there is one.

        Raises:
            OSError: it is not whole; what had that name before still has it.
        """
        if self._ffmpeg is None:
            return False
        if self._finish():
            raise OSError(self._reason())
        self._partial.replace(self._path)
        return True


class Gif:
    """An animated GIF with one palette; for pages that show no video."""

    max_fps = 20.0
    samples = 4
    """Frames that the palette is made from."""

    def __init__(self, path: Path, fps: float) -> None:
        self._path, self._duration = path, 1000.0 / fps
        self._frames: list[Image.Image] = []

    def write(self, frame: Frame) -> None:
        """Appends a frame."""
        self._frames.append(Image.fromarray(frame))

    def close(self) -> bool:
        """Writes the file; raises OSError if it cannot, and then leaves the one that was there."""
        if not self._frames:
            return False
        width, height = self._frames[0].size
        strip = Image.new("RGB", (width, height * self.samples))
        for k in range(self.samples):
            strip.paste(self._frames[k * len(self._frames) // self.samples], (0, height * k))
        # An octree keeps the colors of small things, such as an egg.
        palette = strip.quantize(method=Image.Quantize.FASTOCTREE)
        first, *others = (
            image.quantize(palette=palette, dither=Image.Dither.NONE) for image in self._frames
        )
        # Pillow stores whole hundredths of a second; their sum is that of the exact durations.
        times = np.round(np.arange(len(self._frames) + 1) * self._duration, -1)
        temporary = partial(self._path)
        try:
            first.save(
                temporary,
                save_all=True,
                append_images=others,
                duration=np.diff(times).tolist(),
                loop=0,
                optimize=True,
            )
            temporary.replace(self._path)
            return True
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def as_gif(path: Path, width: int = 320, fps: int = 10) -> bytes:
    """Returns a video as an animated GIF, for programs that cannot show other videos.

    Raises:
        OSError: ffmpeg cannot be started, or cannot read the video.
    """
    size = f"fps={fps},scale={width}:-2"
    source = ("-v", "error", "-i", f"file:{path.absolute()}")
    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), *source, "-vf", size, "-f", "gif", "-"]
        done = subprocess.run(command, capture_output=True, check=True)
    except subprocess.CalledProcessError as problem:
        said = problem.stderr.decode(errors="replace").strip()
        raise OSError(f"ffmpeg cannot read '{path}': {said}") from problem
    except RuntimeError as problem:  # imageio_ffmpeg finds none
        raise OSError(f"ffmpeg cannot be started: {problem}") from problem
    return done.stdout


FORMATS: dict[str, type[Mp4] | type[Gif]] = {".mp4": Mp4, ".gif": Gif}
"""Writers of videos by the end of the file's name."""


def partial(path: Path) -> Path:
    """Returns the path of a video until it is complete, beside its final place."""
    return path.with_name(f".{path.stem}.partial{path.suffix}")


def check_path(path: Path, suffixes: Iterable[str] = FORMATS, kind: str = "video") -> None:
    """Makes the folder of ``path`` and checks that a file of that kind can be written there.

    Raises:
        UserError: no file can be written there, or its name does not end with one of ``suffixes``.
    """
    if path.suffix not in suffixes:
        raise UserError(f"'{path}': the name of a {kind} ends with {' or '.join(suffixes)}.")
    probe = partial(path)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        if path.is_dir():
            raise IsADirectoryError("it is a folder")


# Pictures ---------------------------------------------------------------------------------------


def tile_size(count: int) -> tuple[int, int]:
    """Width and height in pixels of each of ``count`` environments."""
    return next((size for most, size in TILES if count <= most), TILES[-1][1])


def grid(tiles: Sequence[Frame]) -> Frame:
    """Puts pictures of one size side by side, in rows of about equal number and length."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width, _ = tiles[0].shape
    whole = np.zeros((rows * height, columns * width, 3), dtype=np.uint8)
    for k, tile in enumerate(tiles):
        row, column = divmod(k, columns)
        whole[row * height : (row + 1) * height, column * width : (column + 1) * width] = tile
    return whole


def caption(tile: Frame, lines: Sequence[str], agents: Sequence[AgentSpec]) -> Frame:
    """Writes lines in the upper left corner and the agents, in their colors, below."""
    image = Image.fromarray(tile)
    draw = ImageDraw.Draw(image)
    size = max(11, tile.shape[0] // 24)
    font = ImageFont.load_default(size)
    outline = {"font": font, "stroke_width": 1, "stroke_fill": (20, 20, 20)}
    for k, line in enumerate(lines):
        draw.text((8, 6 + 1.35 * size * k), line, fill=(255, 255, 255), **outline)
    x = 8.0
    for p, agent in enumerate(agents if len(agents) <= SHOWN_AGENTS else ()):
        color = tuple(int(255 * part) for part in agent_color(p))
        draw.text((x, tile.shape[0] - 1.6 * size), agent.name, fill=color, **outline)
        x += draw.textlength(agent.name, font=font) + size
    return np.asarray(image)


# Clips ------------------------------------------------------------------------------------------


class Clip:
    """One video of the first ``count`` environments over ``length`` steps, in real time.

    Each environment shows its return so far, the result of its last episode, and success if the
    task has such a condition.

    Args:
        env: environments of a task with pictures.
        path: the file; its name ends with one of :data:`FORMATS`.
        count: number of environments to show.
        length: number of steps.
    """

    def __init__(self, env: VecEnv, path: Path, count: int, length: int) -> None:
        check_path(path)
        self.path, self._env, self._count = path, env, count
        self._length, self._added = length, 0
        kind = FORMATS[path.suffix]
        self._stride = math.ceil(1.0 / (kind.max_fps * env.step_dt) - 1e-6)
        self._writer: Writer = kind(path, 1.0 / (env.step_dt * self._stride))
        self._painter = Painter(env, *tile_size(count))
        self._before: Tensor | None = None
        self._last: list[str] = [""] * count

    @property
    def complete(self) -> bool:
        """Nothing is left to film."""
        return self._added >= self._length

    def add(self, step: Step, returns: Tensor) -> None:
        """Films the state after ``step``.

        Args:
            step: the last step of the environments.
            returns: returns of the present episodes, including this step. (N,)

        Raises:
            UserError: the file cannot be written.
        """
        count = self._count
        reward, success = step.reward[:count], step.log["success"][:count]
        done = (step.terminated | step.truncated)[:count]
        now = returns[:count].clone()
        ended = torch.full_like(now, torch.nan) if self._before is None else self._before + reward
        self._before = now
        numbers = torch.stack((now, ended, success.float(), done.float())).T.tolist()
        for k, (_, total, won, over) in enumerate(numbers):
            if over and not math.isnan(total):
                self._last[k] = f"last episode: {total:.1f}{self._success(won)}"
        if self._added % self._stride == 0:
            self._film(numbers)
        self._added += 1

    def _film(self, numbers: list[list[float]]) -> None:
        tiles = []
        for k, (total, _, won, over) in enumerate(numbers):
            lines = [f"return {total:.1f}{self._success(won and not over)}", self._last[k]]
            tiles.append(caption(self._painter.draw(k), lines, self._env.agents))
        with writing(self.path):
            self._writer.write(grid(tiles))

    def _success(self, won: float) -> str:
        return ", success" if won and self._env.has_success else ""

    def close(self) -> bool:
        """Puts the file in place, also if steps are missing; returns whether there is one.

        Raises:
            UserError: it is not whole; what had that name before still has it.
        """
        try:
            self._painter.close()
        finally:
            with writing(self.path):
                whole = self._writer.close()
        return whole


class Film:
    """Clips of a run: ``length`` steps from every multiple of ``frequency`` on.

    Between clips nothing is drawn, and no OpenGL context is held.

    Args:
        env: the environments to film.
        path: maps the number of a clip's first step to its file.
        frequency: number of steps from the start of one clip to the start of the next one.
        length: number of steps of a clip.
        count: number of environments to show.
        step: the number of the first step that :meth:`add` gets.
    """

    def __init__(
        self,
        env: VecEnv,
        path: Callable[[int], Path],
        *,
        frequency: int,
        length: int,
        count: int,
        step: int = 0,
    ) -> None:
        self._start = lambda step: Clip(env, path(step), count, length)
        self._frequency, self._step = frequency, step
        self._clip: Clip | None = None

    def add(self, step: Step, returns: Tensor) -> None:
        """Films a step if it is in a clip; see :meth:`Clip.add`."""
        if self._step % self._frequency == 0:
            self._clip = self._start(self._step)
        self._step += 1
        if self._clip is not None:
            self._clip.add(step, returns)
            if self._clip.complete:
                self.close()

    def close(self) -> None:
        """Ends the clip under way, if there is one."""
        clip, self._clip = self._clip, None
        if clip is not None and clip.close():
            console.info(f"wrote {clip.path}")
