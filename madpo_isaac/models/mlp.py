"""Several multi-layer perceptrons of one shape, with stacked parameters."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from madpo_isaac.errors import unknown
from madpo_isaac.models.protocol import Network, Networks, NetworkSettings
from madpo_isaac.system.precision import network_products


class Activation(NamedTuple):
    """An activation function."""

    in_place: Callable[[Tensor], Tensor]
    """Overwrites its input. The gradient then follows from the output: no second exponential."""
    module: type[nn.Module]
    """The same function as a module."""
    gain: float
    """Gain of the orthogonal initialization of the layer before it."""


ACTIVATIONS = {
    "relu": Activation(torch.relu_, nn.ReLU, math.sqrt(2.0)),
    "tanh": Activation(torch.tanh_, nn.Tanh, 5.0 / 3.0),
    "elu": Activation(F.elu_, nn.ELU, 1.0),
    "selu": Activation(torch.selu_, nn.SELU, 0.75),
}


def activation_of(settings: NetworkSettings) -> Activation:
    """Returns the activation function that is asked for by name; raises UserError."""
    if settings.activation not in ACTIVATIONS:
        raise unknown("activation", settings.activation, ACTIVATIONS)
    return ACTIVATIONS[settings.activation]


class MLPStack:
    """P networks: LayerNorm, then (Linear, activation, LayerNorm) per hidden layer, then Linear.

    The parameters of network p are row p of one matrix, ``flat`` (P, K), and its gradients row p
    of ``grad``. To act, all networks run together (:meth:`fold`); to learn, one network at a time
    is differentiated through its own leaf tensors, which share the memory of ``flat``.
    Widths that differ between networks are padded with zeros that never receive a gradient.

    With ``shared`` there is one row, and all P networks are views of it. Network p consists of the
    leading ``in_dims[p]`` columns and ``out_dims[p]`` rows of one network of the largest widths.
    The other columns and rows neither change its output nor receive its gradient. Gradients of
    several networks are summed in the one row.

    Args:
        settings: hidden layers, LayerNorms, generator and device.
        in_dims: input width of each network.
        out_dims: output width of each network.
        output_gain: gain of the output layer's orthogonal initialization.
        vectors: extra parameter vectors per network, name to width.
        shared: all networks have the same parameters.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        in_dims: Sequence[int],
        out_dims: Sequence[int],
        *,
        output_gain: float,
        vectors: Mapping[str, int] | None = None,
        shared: bool = False,
    ) -> None:
        activation = activation_of(settings)
        self.in_dims, self.out_dims = tuple(in_dims), tuple(out_dims)
        self.num_nets = len(self.in_dims)
        self.num_rows = 1 if shared else self.num_nets
        self.depth = len(settings.hidden)
        self.normed = (settings.input_norm, *[settings.hidden_norm] * self.depth)
        """True where a LayerNorm comes before a Linear layer. (depth + 1,)"""
        self.activation = activation
        widths = [max(in_dims), *settings.hidden]
        shapes: dict[str, tuple[int, ...]] = {}
        for k, width in enumerate(widths):
            if k > 0:
                shapes[f"linear{k - 1}.weight"] = (width, widths[k - 1])
                shapes[f"linear{k - 1}.bias"] = (width,)
            if self.normed[k]:
                shapes[f"norm{k}.weight"] = shapes[f"norm{k}.bias"] = (width,)
        shapes["out.weight"] = (max(out_dims), widths[-1])
        shapes["out.bias"] = (max(out_dims),)
        shapes.update({name: (width,) for name, width in (vectors or {}).items()})
        if len(set(in_dims)) > 1:
            # Cropped leaves are strided, and so are their gradients, as they should be.
            warnings.filterwarnings("ignore", "grad and param do not obey the gradient layout")
        size = sum(math.prod(shape) for shape in shapes.values())
        self.flat = torch.zeros(self.num_rows, size, device=settings.device)
        self.grad = torch.zeros_like(self.flat)
        self.stacked = views(self.flat, shapes)
        grads = views(self.grad, shapes)
        columns = torch.arange(max(in_dims)).expand(self.num_nets, -1)
        has_input = columns < torch.tensor(self.in_dims)[:, None]
        self.has_input = has_input.to(settings.device, torch.float32)
        """1 where a network has that input, 0 where it is padding. (P, max(in_dims))"""
        self.nets: list[dict[str, Tensor]] = []
        for p in range(self.num_nets):
            net, row = {}, 0 if shared else p
            for name, values in self.stacked.items():
                crop = self._crop(name, p)
                leaf = nn.Parameter(values[row][crop].detach())
                leaf.grad = grads[name][row][crop]
                net[name] = leaf
            self.nets.append(net)
        whole = {name: values[0] for name, values in self.stacked.items()}
        for net in [whole] if shared else self.nets:
            self._initialize(net, activation.gain, output_gain, settings.generator)

    def _crop(self, name: str, p: int) -> tuple[slice, ...]:
        """Returns the part of parameter ``name`` that network p uses."""
        if name in ("norm0.weight", "norm0.bias"):
            return (slice(self.in_dims[p]),)
        if name == "linear0.weight":
            return (slice(None), slice(self.in_dims[p]))
        if name in ("out.weight", "out.bias"):
            return (slice(self.out_dims[p]),)
        return (slice(None),)

    @staticmethod
    @torch.no_grad()
    def _initialize(
        net: Network, gain: float, output_gain: float, generator: torch.Generator
    ) -> None:
        for name, value in net.items():
            if name.startswith("norm") and name.endswith("weight"):
                value.fill_(1.0)
            elif name.endswith("weight"):
                drawn = torch.empty(value.shape)
                scale = output_gain if name == "out.weight" else gain
                nn.init.orthogonal_(drawn, scale, generator=generator)
                value.copy_(drawn)

    def prepare(self, x: Tensor) -> Tensor:
        """Applies the part of the first LayerNorm that has no parameters, if any. (B, in_dim)"""
        return standardize(x) if self.normed[0] else x

    def unpack(self, p: int, flat: Tensor) -> Network:
        """Returns network p, as in :attr:`nets`, with the parameters ``flat`` (K,)."""
        whole = views(flat, {name: value.shape[1:] for name, value in self.stacked.items()})
        return {name: value[self._crop(name, p)] for name, value in whole.items()}

    def apply(self, p: int, x: Tensor, net: Network | None = None) -> Tensor:
        """Runs network p on *prepared* inputs, differentiably.

        The affine part of each LayerNorm is folded into the Linear that follows, which saves its
        passes over the rows and, where the inputs need no gradient, a third of the first layer's
        products: that part's gradient follows from the weights' one.

        Args:
            p: the network.
            x: :meth:`prepare` of the inputs. (B, in_dim)
            net: its parameters if they are not the current ones.

        Returns:
            (B, out_dim)
        """
        net = self.nets[p] if net is None else net
        with network_products():
            for k in range(self.depth):
                x = self.activation.in_place(_linear(net, k, f"linear{k}", x))
                x = standardize(x) if self.normed[k + 1] else x
            return _linear(net, self.depth, "out", x)

    def module(self, p: int) -> nn.Sequential:
        """Returns a copy of network p, a LayerNorm's affine part in the layer that follows."""
        net = {name: value.detach().cpu().double() for name, value in self.nets[p].items()}
        layers: list[nn.Module] = []
        for k, name in enumerate([*(f"linear{k}" for k in range(self.depth)), "out"]):
            weight = net[f"{name}.weight"]
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            with torch.no_grad():
                scale = net.get(f"norm{k}.weight", weight.new_ones(()))
                shift = net.get(f"norm{k}.bias", weight.new_zeros(weight.shape[1]))
                linear.weight.copy_(weight * scale)
                linear.bias.copy_(net[f"{name}.bias"] + weight @ shift)
            if self.normed[k]:
                layers.append(nn.LayerNorm(weight.shape[1], elementwise_affine=False))
            layers.append(linear)
            if k < self.depth:
                layers.append(self.activation.module())
        return nn.Sequential(*layers)

    @torch.no_grad()
    def fold(self) -> FoldedMLPs:
        """Returns a snapshot of the networks for fast evaluation without gradient."""
        return FoldedMLPs(self)


class FoldedMLPs:
    """A snapshot of an :class:`MLPStack`: all networks in one batched product per layer.

    The affine part of each LayerNorm is folded into the Linear that follows it.
    """

    def __init__(self, stack: MLPStack) -> None:
        self._activation = stack.activation.in_place
        self._in_dims, self._normed = stack.in_dims, stack.normed
        num_nets = stack.num_nets
        # Inputs that a network does not have are zero after LayerNorm's first half. Its second
        # half would not leave them so where the parameters are shared.
        params = dict(stack.stacked)
        if stack.normed[0]:
            params["norm0.bias"] = params["norm0.bias"] * stack.has_input
        self._weights, self._biases = [], []
        for k, name in enumerate([*(f"linear{k}" for k in range(stack.depth)), "out"]):
            weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
            if stack.normed[k]:
                bias = bias + (weight @ params[f"norm{k}.bias"][..., None])[..., 0]
                weight = weight * params[f"norm{k}.weight"][:, None]
            self._weights.append(weight.mT.contiguous().expand(num_nets, -1, -1))
            self._biases.append(bias[:, None].expand(num_nets, -1, -1))

    @torch.inference_mode()
    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps a (B, in_dims[p]) for each network to (P, B, max(out_dims)).

        Outputs beyond ``out_dims[p]`` have no meaning.
        """
        x = self._prepare(inputs)
        layers = zip(self._weights[:-1], self._biases[:-1], self._normed[1:], strict=True)
        with network_products():
            for weight, bias, normed in layers:
                x = self._activation(torch.baddbmm(bias, x, weight))
                x = standardize(x) if normed else x
            return torch.baddbmm(self._biases[-1], x, self._weights[-1])

    def _prepare(self, inputs: Sequence[Tensor]) -> Tensor:
        width = max(self._in_dims)
        if min(self._in_dims) == width:
            stacked = torch.stack(list(inputs))
            return standardize(stacked) if self._normed[0] else stacked
        rows = [standardize(x) if self._normed[0] else x for x in inputs]
        return torch.stack([F.pad(row, (0, width - row.shape[-1])) for row in rows])


def standardize(x: Tensor) -> Tensor:
    """Normalizes each row of (B, d) to mean 0 and variance 1: LayerNorm without its affine part."""
    return F.layer_norm(x, x.shape[-1:])


def _linear(net: Network, k: int, name: str, x: Tensor) -> Tensor:
    """Applies LayerNorm k's affine part, if any, and the layer ``name``. (B, d) -> (B, width)"""
    weight = net[f"{name}.weight"]
    if f"norm{k}.weight" not in net:
        return F.linear(x, weight, net[f"{name}.bias"])
    bias = torch.addmv(net[f"{name}.bias"], weight, net[f"norm{k}.bias"])
    return F.linear(x, weight * net[f"norm{k}.weight"], bias)


def views(flat: Tensor, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Cuts rows (..., K) into views (..., *shape) by name, in order; the rest is not used."""
    cut, start = {}, 0
    for name, shape in shapes.items():
        stop = start + math.prod(shape)
        cut[name] = flat[..., start:stop].view(flat.shape[:-1] + shape)
        start = stop
    return cut


class _Adam(torch.optim.Adam):
    """Adam with a declared flag by which gradient scalers tell it to skip a step."""

    found_inf: Tensor


class FlatAdam:
    """Adam with gradient-norm clipping, row by row, on rows of :class:`Networks`.

    One flat tensor instead of a dozen small ones: a step is a handful of vector operations.
    """

    def __init__(
        self,
        stack: Networks,
        row: int | slice,
        lr: float,
        max_grad_norm: float,
        beta1: float = 0.9,
    ) -> None:
        self.lr = torch.tensor(lr, device=stack.flat.device)
        """Learning rate, a tensor so that it can change without a read of the device. ()"""
        self.gradient = stack.grad[row]
        """Gradient of the rows; :meth:`step` follows it."""
        self._max_grad_norm = max_grad_norm
        self._param = nn.Parameter(stack.flat[row].detach())
        self._param.grad = self.gradient
        self._adam = _Adam([self._param], lr=lr, betas=(beta1, 0.999), eps=1e-5, fused=True)
        self._adam.param_groups[0]["lr"] = self.lr  # given at once, it would be read and checked

    def zero_grad(self) -> None:
        """Clears the gradient in place."""
        self.gradient.zero_()

    @torch.no_grad()
    def step(self, loss: Tensor | None = None) -> Tensor:
        """Clips the gradient and steps, unless the gradient or ``loss`` () is not finite.

        Parameters and moments then stay as they are; nothing is read from the device.

        Returns:
            The norm before clipping, a mean over rows, or NaN if the step was skipped. ()
        """
        norm = torch.linalg.vector_norm(self.gradient, dim=-1, keepdim=True)
        finite = (norm.sum() if loss is None else norm.sum() + loss).isfinite()
        self._adam.found_inf = (~finite).to(norm.dtype)
        self.gradient.mul_((self._max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        self._adam.step()
        return norm.mean().where(finite, torch.nan)

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the moments and the step count."""
        return {k: v.clone() for k, v in self._adam.state.get(self._param, {}).items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restores :meth:`state_dict`, which is empty before the first step."""
        sizes = {"step": (), **dict.fromkeys(("exp_avg", "exp_avg_sq"), self._param.shape)}
        device = self._param.device
        self._adam.state[self._param] = {
            k: state[k].to(device, copy=True).view(size) for k, size in sizes.items() if state
        }
