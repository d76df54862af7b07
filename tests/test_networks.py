"""Networks of any kind: the protocol, ordinary modules behind it, and learners that use them."""

import json

import pytest
import torch
from test_runner import _keep_torch_settings  # noqa: F401
from tiny_run import ONCE
from torch import nn
from torch.func import jvp
from toy import CPU, ToyEnv, build, check_it_continues, check_it_learns, settings

from madpo_isaac.__main__ import main
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.models import (
    NETWORKS,
    NetworkSettings,
    NetworkSpec,
    ResidualNetwork,
    register_network,
)
from madpo_isaac.models.modules import ModuleStack

IN, OUT, HIDDEN = (3, 7, 5), (2, 4, 1), (6, 9)


def make(seed=0, kind=ResidualNetwork, activation="elu", input_norm=True, **changed):
    generator = torch.Generator().manual_seed(seed)
    settings = NetworkSettings(HIDDEN, activation, generator, CPU, input_norm)
    options = {"output_gain": 1.0, "vectors": {"log_std": 4}, **changed}
    return ModuleStack(kind, settings, IN, OUT, **options)


def scatter(stack):
    generator = torch.Generator().manual_seed(3)
    stack.flat += 0.3 * torch.randn(stack.flat.shape, generator=generator)


def alone(stack, p, width_in, width_out):
    """Network p as a module of its own, with copies of its parameters."""
    spec = NetworkSpec(width_in, width_out, HIDDEN, nn.ELU(), True, 1.0)
    module = ResidualNetwork(spec)
    with torch.no_grad():
        for name, value in module.named_parameters():
            value.copy_(stack.nets[p][f"module.{name}"])
    return module


def inputs():
    generator = torch.Generator().manual_seed(5)
    return [2.0 * torch.randn(11, width, generator=generator) + 1.0 for width in IN]


@pytest.mark.parametrize("normed", [False, True])
def test_a_stack_of_modules_computes_what_the_modules_do(normed):
    stack, seen = make(input_norm=normed), inputs()
    scatter(stack)
    folded = stack.fold()(seen)
    for p, x in enumerate(seen):
        z = nn.functional.layer_norm(x, x.shape[-1:]) if normed else x
        expected = alone(stack, p, IN[p], OUT[p])(z)
        torch.testing.assert_close(stack.apply(p, stack.prepare(x)), expected)
        torch.testing.assert_close(folded[p, :, : OUT[p]], expected)
        torch.testing.assert_close(stack.module(p)(x), expected)


def test_gradients_land_in_the_row_of_the_network():
    stack, x = make(input_norm=False), inputs()[1]
    scatter(stack)
    module = alone(stack, 1, IN[1], OUT[1])
    (stack.apply(1, x) ** 2).sum().backward()
    (module(x) ** 2).sum().backward()
    for name, value in module.named_parameters():
        torch.testing.assert_close(stack.nets[1][f"module.{name}"].grad, value.grad)
    used = sum(value.numel() for value in module.parameters())
    assert stack.grad[1].count_nonzero() <= used and not stack.grad[[0, 2]].any()
    assert stack.grad[1].norm().item() == pytest.approx(
        torch.cat([v.grad.flatten() for v in module.parameters()]).norm().item(), rel=1e-5
    )


def test_other_parameters_and_their_derivatives():
    """HATRPO's: the output at any parameters, and its directional derivative."""
    stack, x = make(input_norm=False), inputs()[0]
    generator = torch.Generator().manual_seed(8)
    flat, way = (torch.randn(stack.flat.shape[1], generator=generator) for _ in range(2))
    step = 1e-3
    found = jvp(lambda row: stack.apply(0, x, stack.unpack(0, row)), (flat,), (way,))[1]
    ends = [stack.apply(0, x, stack.unpack(0, flat + sign * step * way)) for sign in (1, -1)]
    torch.testing.assert_close(found, (ends[0] - ends[1]) / (2 * step), rtol=2e-2, atol=2e-2)


def test_shared_modules_are_one_of_the_largest_widths():
    stack, seen = make(shared=True, input_norm=False), inputs()
    scatter(stack)
    assert stack.num_rows == 1
    module = alone(stack, 0, max(IN), max(OUT))
    for p, x in enumerate(seen):
        wide = nn.functional.pad(x, (0, max(IN) - IN[p]))
        torch.testing.assert_close(stack.apply(p, x), module(wide)[:, : OUT[p]])
        torch.testing.assert_close(stack.module(p)(x), module(wide)[:, : OUT[p]])


def test_weights_follow_from_the_generator_alone():
    torch.manual_seed(1)
    first, state = make(7), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(make(7).flat, first.flat) and not torch.equal(make(8).flat, first.flat)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)  # nor do they move the global one


def test_a_residual_network_by_hand():
    """Two blocks on a width of 6; at the start they change nothing."""
    module = ResidualNetwork(NetworkSpec(3, 2, HIDDEN, nn.Tanh(), False, 1.0))
    x = inputs()[0]
    torch.testing.assert_close(module(x), module.out(torch.tanh(module.first(x))))
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.1)
    y = module.first(x)
    for rise, fall in zip(module.rise, module.fall, strict=True):
        y = y + torch.tanh(y @ rise.weight.T + rise.bias) @ fall.weight.T + fall.bias
    torch.testing.assert_close(module(x), module.out(torch.tanh(y)))


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_every_algorithm_goes_on_exactly_with_modules(algo, tmp_path):
    def learner(seed=1):
        config = settings(ALGO_SCHEMAS[algo], network="residual")
        return build(ALGORITHMS[algo], config, ToyEnv(), seed)

    check_it_continues(learner, tmp_path / "state.pth")


def test_modules_learn():
    check_it_learns(
        lambda **changed: build(
            ALGORITHMS["happo"],
            settings(ALGO_SCHEMAS["happo"], network="residual", actor_lr=5e-3, **changed),
            ToyEnv(),
        )
    )


def test_a_network_with_buffers_is_refused():
    class Counting(nn.Module):
        def __init__(self, spec):
            super().__init__()
            self.norm = nn.BatchNorm1d(spec.in_dim)

    with pytest.raises(UserError, match=r"class Counting has the buffer 'norm\.running_mean'"):
        make(kind=Counting)


class Odd(nn.Module):
    """A layer that is no network: ``change`` says what is wrong with it."""

    def __init__(self, spec, change):
        super().__init__()
        self.change = change
        wide = spec.out_dim + (change == "wide")
        self.layer = nn.Linear(spec.in_dim, 1 if change == "narrow" else wide)
        self.scale = nn.Parameter(torch.ones(()), requires_grad=change != "frozen")
        if change == "none":
            del self.layer, self.scale

    def forward(self, x):
        if self.change == "raises":
            raise ValueError("not today")
        output = self.scale * self.layer(x)
        return (output, None) if self.change == "tuple" else output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("narrow", r"class Odd maps \(2, \d\) to \(2, 1\); it must be \(2, 2\)"),
        ("wide", r"class Odd maps \(2, \d\) to \(2, 3\); it must be \(2, 2\)"),
        ("frozen", r"class Odd has the frozen parameter 'scale'"),
        ("none", r"class Odd has no parameters"),
        ("tuple", r"class Odd maps \(2, \d\) to tuple; it must be"),
        ("raises", r"class Odd cannot map \(2, \d\): not today"),
    ],
)
def test_a_module_that_is_no_network_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        make(kind=lambda spec: Odd(spec, change))


def test_names_of_networks():
    assert {"mlp", "residual"} <= set(NETWORKS)
    with pytest.raises(UserError, match=r"algo\.network 'residal'\. Did you mean 'residual'"):
        compose(["algo.network=residal"])
    with pytest.raises(UserError, match="There is a network 'mlp' already"):
        register_network("mlp")(ResidualNetwork)


def test_a_run_with_modules_is_continued_and_exported(tmp_path, capsys):
    run = tmp_path / "x"
    small = ("num_envs=2", "num_threads=1", "algo.horizon=4", "algo.hidden=[8]", *ONCE)
    argv = ["train", "task=HalfCheetah-2x3", "algo=happo", "algo.network=residual", *small]
    where = [f"runs_dir={tmp_path}", "experiment=x"]
    assert main([*argv, *where, "max_iterations=1"]) == 0
    assert main(["train", f"checkpoint={run}", "max_iterations=2"]) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == [1, 2]
    assert main(["export", str(run), "--format", "torchscript", "--out", str(tmp_path / "o")]) == 0
    assert any((tmp_path / "o").glob("*.pt"))
    capsys.readouterr()
    assert main(["train", f"checkpoint={run}", "algo.network=mlp", "max_iterations=3"]) == 2
    assert "was made with algo.network=residual" in capsys.readouterr().err
