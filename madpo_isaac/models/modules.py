"""Ordinary modules as the networks of policies and critics."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from madpo_isaac.errors import UserError, reason_of
from madpo_isaac.models.mlp import activation_of, standardize, views
from madpo_isaac.models.protocol import Network, NetworkSettings
from madpo_isaac.system.precision import network_products


@dataclass(frozen=True)
class NetworkSpec:
    """Description of a network; the class of a module is called with it."""

    in_dim: int
    out_dim: int
    hidden: tuple[int, ...]
    """``algo.hidden``; the module decides how to use these widths."""
    activation: nn.Module
    hidden_norm: bool
    """True if hidden layers are normalized."""
    output_gain: float
    """Gain of the last layer's weights at the start: small for policies, so that the first actions
    are near 0, and 1 for values."""


class ModuleStack:
    """P modules of one class, see :class:`madpo_isaac.models.protocol.Networks`.

    A module has to be a function of its parameters and its input alone: it is used in evaluation
    mode, and it has no buffers. The modules run one after another, which is slower than
    :class:`MLPStack`.

    With ``shared`` there is one module of the largest widths. Inputs that a network does not have
    are 0, and outputs that it does not have are cut off.

    Args:
        kind: the module's class, called with a :class:`NetworkSpec`.
        settings: hidden layers, normalization, generator and device.
        in_dims: input width of each network.
        out_dims: output width of each network.
        output_gain: see :class:`NetworkSpec`.
        vectors: extra parameter vectors per network, name to width.
        shared: all networks have the same parameters.

    Raises:
        UserError: the module has buffers, no parameters, frozen ones, or another output width.
    """

    def __init__(
        self,
        kind: Callable[[NetworkSpec], nn.Module],
        settings: NetworkSettings,
        in_dims: Sequence[int],
        out_dims: Sequence[int],
        *,
        output_gain: float,
        vectors: Mapping[str, int] | None = None,
        shared: bool = False,
    ) -> None:
        activation, hidden = activation_of(settings), tuple(settings.hidden)
        self.in_dims, self.out_dims = tuple(in_dims), tuple(out_dims)
        self.num_nets = len(self.in_dims)
        self.num_rows = 1 if shared else self.num_nets
        self._input_norm = settings.input_norm
        widths = [(max(in_dims), max(out_dims))] if shared else zip(in_dims, out_dims, strict=True)
        self._widths = list(widths)
        specs = [
            NetworkSpec(*pair, hidden, activation.module(), settings.hidden_norm, output_gain)
            for pair in self._widths
        ]
        made = [_made(kind, spec, settings.generator) for spec in specs]
        self._modules = [module.to(settings.device) for module in made]
        extra = {name: (width,) for name, width in (vectors or {}).items()}
        self._shapes = [
            extra | {f"{_PREFIX}{name}": tuple(x.shape) for name, x in module.named_parameters()}
            for module in self._modules
        ]
        size = max(sum(map(math.prod, shapes.values())) for shapes in self._shapes)
        self.flat = torch.zeros(self.num_rows, size, device=settings.device)
        self.grad = torch.zeros_like(self.flat)
        self.stacked = views(self.flat, extra)
        rows = [self._leaves(row) for row in range(self.num_rows)]
        self.nets = [rows[self._row(p)] for p in range(self.num_nets)]

    def _row(self, p: int) -> int:
        return p if self.num_rows > 1 else 0

    def _leaves(self, row: int) -> dict[str, Tensor]:
        """The parameters of a row as leaves, with the module's initial values."""
        grads = views(self.grad[row], self._shapes[row])
        initial = dict(self._modules[row].named_parameters())
        leaves: dict[str, Tensor] = {}
        for name, view in views(self.flat[row], self._shapes[row]).items():
            leaf = nn.Parameter(view.detach())
            if name.startswith(_PREFIX):
                leaf.data.copy_(initial[name.removeprefix(_PREFIX)].detach())
            leaf.grad = grads[name]
            leaves[name] = leaf
        return leaves

    def prepare(self, x: Tensor) -> Tensor:
        """Standardizes inputs (B, in_dim), if asked for. (B, in_dim)"""
        return standardize(x) if self._input_norm else x

    def unpack(self, p: int, flat: Tensor) -> Network:
        """Network p with the parameters ``flat`` (K,) instead of its own, as :attr:`nets` has."""
        return views(flat, self._shapes[self._row(p)])

    def apply(self, p: int, x: Tensor, net: Network | None = None) -> Tensor:
        """Runs network p on prepared inputs (B, in_dim), differentiably. (B, out_dim)"""
        net, row = self.nets[p] if net is None else net, self._row(p)
        parameters = {
            name.removeprefix(_PREFIX): value
            for name, value in net.items()
            if name.startswith(_PREFIX)
        }
        x = F.pad(x, (0, self._widths[row][0] - x.shape[-1]))
        with network_products():
            y = functional_call(self._modules[row], parameters, (x,))
        return y[:, : self.out_dims[p]]

    def fold(self) -> Callable[[Sequence[Tensor]], Tensor]:
        """Returns the networks as they are now; they are run one after another."""
        flat, width = self.flat.clone(), max(self.out_dims)
        nets = [self.unpack(p, flat[self._row(p)]) for p in range(self.num_nets)]

        @torch.no_grad()
        def run(inputs: Sequence[Tensor]) -> Tensor:
            outputs = [self.apply(p, self.prepare(x), nets[p]) for p, x in enumerate(inputs)]
            return torch.stack([F.pad(y, (0, width - y.shape[-1])) for y in outputs])

        return run

    def module(self, p: int) -> nn.Module:
        """Returns a copy of network p on the CPU, for export."""
        row = self._row(p)
        module = copy.deepcopy(self._modules[row]).cpu()
        with torch.no_grad():
            for name, value in module.named_parameters():
                value.copy_(self.nets[p][f"{_PREFIX}{name}"])
        pad = self._widths[row][0] - self.in_dims[p]
        return _Alone(module, self._input_norm, pad, self.out_dims[p])


_PREFIX = "module."


class _Alone(nn.Module):
    """A module with the steps before and after it."""

    def __init__(self, module: nn.Module, input_norm: bool, pad: int, out_dim: int) -> None:
        super().__init__()
        self.module, self._input_norm, self._pad, self._out_dim = module, input_norm, pad, out_dim

    def forward(self, x: Tensor) -> Tensor:
        x = standardize(x) if self._input_norm else x
        return self.module(F.pad(x, (0, self._pad)))[:, : self._out_dim]


def _made(
    kind: Callable[[NetworkSpec], nn.Module], spec: NetworkSpec, generator: torch.Generator
) -> nn.Module:
    """Makes a module; its initial weights follow from ``generator``, however they are drawn."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = kind(spec).eval()
        _check_module(module, spec)
    return module


def _check_module(module: nn.Module, spec: NetworkSpec) -> None:
    """Raises UserError unless a module maps (B, in_dim) to (B, out_dim) by parameters alone."""
    made = f"A network of class {type(module).__name__}"
    if (name := next((name for name, _ in module.named_buffers()), None)) is not None:
        raise UserError(f"{made} has the buffer '{name}': networks have parameters only.")
    frozen = (name for name, value in module.named_parameters() if not value.requires_grad)
    if (name := next(frozen, None)) is not None:
        raise UserError(f"{made} has the frozen parameter '{name}': all parameters are trained.")
    if not list(module.parameters()):
        raise UserError(f"{made} has no parameters.")
    try:
        with torch.no_grad():
            output = module(torch.zeros(2, spec.in_dim))
    except Exception as problem:
        raise UserError(f"{made} cannot map (2, {spec.in_dim}): {reason_of(problem)}.") from problem
    found = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if found != (wanted := (2, spec.out_dim)):
        raise UserError(f"{made} maps (2, {spec.in_dim}) to {found}; it must be {wanted}.")
