"""``madpo export``: writes a run's policies as files that work without this program.

There is one file per agent, and ``contract.json`` describes inputs and outputs.
"""

from __future__ import annotations

import io
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from madpo_isaac.algos.ppo.settings import PpoConfig
from madpo_isaac.config.playing import playing
from madpo_isaac.env import Command, Reading, VecEnv
from madpo_isaac.errors import UserError, unknown
from madpo_isaac.models import Actors
from madpo_isaac.models.portable import PortablePolicy
from madpo_isaac.runs.folder import RunFolder, output_folder
from madpo_isaac.system.files import write_atomic, writing
from madpo_isaac.training.factory import playing_env
from madpo_isaac.training.on_policy import OnPolicyLearner
from madpo_isaac.training.policy import policy_of

CONTRACT_VERSION = 1
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt"}
"""Suffix of the files of each format."""
OPSET = 17
"""Version of ONNX's operators; the first with LayerNormalization."""
TOLERANCE = 1e-5
"""Largest allowed difference of a file's actions from those of the policy, which are about 1."""
CHECKED_ENVS, CHECKED_STEPS = 8, 16
"""The files are checked on the states of this many environments and steps."""
OUTPUTS = ("action", "command")


def export(policy: str, kind: str = "onnx", out: Path | None = None) -> Path:
    """Writes the policies of a checkpoint and checks each file against the policy.

    Args:
        policy: a run folder, a checkpoint file, ``latest``, ``best``, or a task whose policy comes
            with the project.
        kind: one of :data:`SUFFIXES`.
        out: the folder to write to; by default ``export`` in the run folder, and for a policy
            that is in no run folder ``export`` in ``runs_dir``.

    Returns:
        The folder.

    Raises:
        UserError: for a bad argument, a missing package, a policy that cannot be exported.
    """
    if kind not in SUFFIXES:
        raise unknown("format", kind, SUFFIXES)
    if kind == "onnx":
        _need_onnx()
    here = ("sim_device=cpu", "rl_device=", f"num_envs={CHECKED_ENVS}", "num_threads=1")
    config = playing(policy, *here)
    if isinstance(config.algo, PpoConfig):
        raise UserError(
            f"'{config.checkpoint}' is of algo=ppo: its one network is rl_games' own and is not "
            "exported; rl_games' tools read the checkpoint."
        )
    env = playing_env(config)
    loaded = policy_of(config, env)
    assert isinstance(loaded.learner, OnPolicyLearner)
    path = Path(loaded.source["checkpoint"])
    run = RunFolder.of_checkpoint(path)
    out = out or output_folder(path, Path(config.runs_dir), "export")
    origin = {
        **loaded.source,
        "checkpoint": path.name,
        "run": None if run is None else run.path.name,
        "sim": config.sim.name,
    }
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        _write_all(loaded.learner.algo.actors, env, kind, out, origin)
    return out


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as problem:
        raise UserError(
            f"--format onnx needs further packages: pip install -e '.[export]' in the clone of "
            f"this project ({problem})."
        ) from problem


def _write_all(actors: Actors, env: VecEnv, kind: str, out: Path, origin: dict[str, Any]) -> None:
    """Writes and checks every agent's file, then writes the contract, which names the files."""
    state = _visited(env)
    expected = actors.freeze().distribution(env.observations(state))[0]
    readings, commands = env.readings(), env.commands()
    described = []
    for p, agent in enumerate(actors.agents):
        policy = PortablePolicy(actors, p, readings, commands).eval()
        columns = agent.action_columns
        moved = [commands[i] for i in columns]
        picked = range(env.state_dim) if agent.columns is None else agent.columns.tolist()
        seen, name = state[:, list(picked)], "state" if agent.columns is None else "observation"
        data = serialize(policy, kind, seen, name)
        limits = torch.tensor([(c.low, c.high) for c in moved]).T
        error = _check(data, kind, name, seen, expected[:, columns].clamp(*limits), agent.name)
        file = f"{agent.name}{SUFFIXES[kind]}"
        write_atomic(out / file, data)
        described.append(
            {
                "name": agent.name,
                "role": agent.role,
                "file": file,
                "input": {"name": name, "columns": _columns(readings[i] for i in picked)},
                "outputs": list(OUTPUTS),
                "largest_error": error,
                "action_columns": columns,
                "commands": _columns(moved),
            }
        )
    contract = {
        "contract_version": CONTRACT_VERSION,
        "format": kind,
        **origin,
        "control_rate_hz": 1.0 / env.step_dt,
        "dtype": "float32",
        "input": "column = offset + scale * quantity in its unit; clipped to [low, high] inside",
        "action": "clipped to [low, high] of its command inside; goes to VecEnv.step",
        "command": "offset + scale * action, in its unit",
        "largest_error": f"of actions against the policy's, on {len(state)} states of the task",
        "agents": described,
    }
    text = json.dumps(contract, indent=1, allow_nan=False) + "\n"
    write_atomic(out / "contract.json", text.encode())


def _visited(env: VecEnv) -> Tensor:
    """Returns states that random actions lead to. (CHECKED_STEPS * N, S)"""
    env.reset()
    generator = torch.Generator().manual_seed(0)
    shape = CHECKED_STEPS, env.num_envs, env.action_dim
    actions = 2.0 * torch.rand(shape, generator=generator) - 1.0
    return torch.cat([env.step(action).final_state for action in actions])


def _columns(columns: Iterable[Reading | Command]) -> list[dict[str, Any]]:
    """Returns columns for JSON, in which null means that there is no limit."""
    limited = ({**vars(column)} for column in columns)
    return [
        {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in column.items()
        }
        for column in limited
    ]


def serialize(policy: PortablePolicy, kind: str, seen: Tensor, name: str) -> bytes:
    """Returns the file of a policy as bytes; the file takes any number of rows.

    Args:
        policy: the policy to write.
        kind: one of :data:`SUFFIXES`.
        seen: an example of its input. (B, width)
        name: name of the input in the file.
    """
    with warnings.catch_warnings(), torch.no_grad():
        # TorchScript is deprecated, and so is ONNX export through it; the newer exporter takes
        # seconds per agent instead of a tenth of one, for the same graph.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(policy, (seen,))
        data = io.BytesIO()
        if kind == "torchscript":
            torch.jit.save(traced, data)
            return data.getvalue()
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "policy.onnx"
            torch.onnx.export(
                policy,
                (seen,),
                file,
                input_names=[name],
                output_names=list(OUTPUTS),
                dynamic_axes={tensor: {0: "batch"} for tensor in (name, *OUTPUTS)},
                opset_version=OPSET,
                dynamo=False,
            )
            return file.read_bytes()


def _check(data: bytes, kind: str, name: str, seen: Tensor, expected: Tensor, agent: str) -> float:
    """Runs a file on all rows and on one; returns the largest error of its actions."""
    run, largest = loaded(data, kind, name), 0.0
    for rows in (slice(None), slice(0, 1)):
        actions = run(seen[rows].numpy())[0]
        error = float(np.abs(actions - expected[rows].numpy()).max())
        if not error <= TOLERANCE:
            raise UserError(
                f"Agent '{agent}' cannot be exported as {kind}: the file's actions are off by "
                f"{error:.1e}, more than {TOLERANCE:.0e}."
            )
        largest = max(largest, error)
    return largest


def loaded(data: bytes, kind: str, name: str) -> Callable[[np.ndarray], list[np.ndarray]]:
    """Returns a file as a function from inputs (B, width) to actions and commands.

    Args:
        data: the file.
        kind: one of :data:`SUFFIXES`.
        name: name of the input in the file.
    """
    if kind == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return lambda rows: [np.asarray(x) for x in session.run(list(OUTPUTS), {name: rows})]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.jit.load(io.BytesIO(data))
    return lambda rows: [output.numpy() for output in module(torch.from_numpy(rows))]
