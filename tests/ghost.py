"""A GPU that is not there: torch's device ``meta``, whose tensors have no numbers.

Reading a number fails there, as does mixing devices in most operations. :func:`rules` finds what
``meta`` lets pass and a GPU objects to, or waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from madpo_isaac.models import actor, mlp
from madpo_isaac.sim import mjwarp

GPU = torch.device("meta")


class Generator(torch.Generator):
    """A generator that knows which device it was made for."""

    home: torch.device

    def __new__(cls, device: Any = "cpu") -> Generator:
        own = super().__new__(cls, "cpu")
        own.home = torch.device(device)
        return own


class _Tensors(TorchDispatchMode):
    """Fails where an operation mixes devices or copies between them.

    Tensors on the CPU without dimensions are scalars, which may go anywhere.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        given = tree_leaves((args, kwargs))
        made = [x.device for x in tree_leaves(result) if isinstance(x, Tensor)]
        homes = {x.device for x in given if isinstance(x, Tensor) and x.dim()}
        if len(homes | {d for d in made if homes}) > 1:
            raise AssertionError(f"{func} takes tensors of {homes} and returns {made}")
        return result


class _Data(TorchFunctionMode):
    """Fails where a call mixes devices before torch's operations see it.

    Numbers of Python become a tensor or indices of the device, or a generator is another device's.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result, name = func(*args, **(kwargs or {})), getattr(func, "__name__", "")
        if name in ("tensor", "as_tensor", "new_tensor") and result.device == GPU:
            raise AssertionError(f"{name} copies to {GPU}")
        generator = (kwargs or {}).get("generator")
        if isinstance(generator, Generator) and result.device != generator.home:
            raise AssertionError(f"{name} on {result.device} draws from {generator.home}")
        if name in ("__getitem__", "__setitem__") and args[0].device == GPU:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, np.ndarray)) for part in index):
                raise AssertionError(f"{name} copies indices to {GPU}")
        return result


@contextmanager
def rules() -> Iterator[None]:
    """Within it nothing may be copied to or from the device, or mix it with another."""
    with _Data(), _Tensors():
        yield


class GhostSim(mjwarp.WarpSim):
    """The torch side of the engine; its graphs do nothing."""

    def __init__(self, model: mujoco.MjModel, num_envs: int) -> None:
        self.model, self.num_envs, self.device = model, num_envs, GPU
        self._zeros = mujoco.MjData(model)
        self._readings, self._expanded = {}, {}
        self._chosen = torch.zeros(num_envs, dtype=torch.bool, device=GPU)
        names = {"time", "overflow", *mjwarp._STATE} - {"mocap_pos", "mocap_quat"}
        self._state = {name: self._view(name) for name in names}
        self._state["overflow"] = self._state["time"].int()
        self._key_qpos = torch.zeros(model.nq, device=GPU)
        self.qpos, self.qvel = self._state["qpos"], self._state["qvel"]
        self.ctrl = self._state["ctrl"]
        self.qfrc_actuator = self.field("qfrc_actuator")
        self.sensordata = self.field("sensordata")

    def _view(self, name: str) -> Tensor:
        shape = np.shape(getattr(self._zeros, name, 0.0))
        return torch.zeros(self.num_envs, *shape, device=GPU)

    def _expand(self, name: str) -> Tensor:
        return torch.zeros(self.num_envs, *getattr(self.model, name).shape, device=GPU)

    def _replay(self, *work: Any) -> None:
        pass


class Adam(mlp._Adam):
    """Keeps the state that a fused step has on its device, and computes nothing."""

    def __init__(self, params: Any, **settings: Any) -> None:
        super().__init__(params, **{**settings, "fused": False})

    def step(self, closure: Any = None) -> None:
        del closure
        (param,) = self.param_groups[0]["params"]
        assert param.grad is not None and self.found_inf.device == param.grad.device == GPU
        names = ("step", "exp_avg", "exp_avg_sq")
        self.state[param] = {name: torch.zeros_like(param) for name in names}


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every simulation made from now on is on :data:`GPU`."""

    def make_sim(engine: Any, model: mujoco.MjModel, num_envs: int, *_: Any) -> GhostSim:
        del engine
        return GhostSim(model, num_envs)

    monkeypatch.setattr(torch, "Generator", Generator)
    # Read when networks are made.
    monkeypatch.setattr(actor, "_on_cpu", lambda x: x if isinstance(x, slice) else range(len(x)))
    monkeypatch.setattr(mlp, "_Adam", Adam)
    for module in ("hands.base", "mujoco.task"):
        monkeypatch.setattr(f"madpo_isaac.tasks.{module}.make_sim", make_sim)
