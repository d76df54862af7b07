"""The setting ``precision``: which products it reaches, and which processors it is refused on."""

import pytest
import torch
from test_runner import _keep_torch_settings  # noqa: F401
from torch.utils._python_dispatch import TorchDispatchMode
from toy import CPU, ToyEnv, build, collect, settings, train

from madpo_isaac.__main__ import main
from madpo_isaac.algos import ALGO_SCHEMAS, ALGORITHMS
from madpo_isaac.config.overrides import compose
from madpo_isaac.errors import UserError
from madpo_isaac.models import NETWORKS, NetworkSettings
from madpo_isaac.system import device, precision

PRODUCTS = ("mm", "addmm", "bmm", "baddbmm")
ROUNDS = precision.rounds_to_bf16()
"""This processor multiplies in bfloat16."""


@pytest.fixture(autouse=True)
def _float32_afterwards():
    torch.set_float32_matmul_precision("highest")
    yield
    precision.choose("float32", "cpu")


@pytest.fixture
def amx(monkeypatch):
    """Lets this processor pass for one that multiplies in bfloat16."""
    monkeypatch.setattr(precision, "rounding_error", lambda: 2e-3)


class Products(TorchDispatchMode):
    """Records torch's precision at every product, those of backward passes included."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in PRODUCTS:
            self.seen.append(torch.get_float32_matmul_precision())
        return func(*args, **(kwargs or {}))


def learner(name="happo", **changed):
    return build(ALGORITHMS[name], settings(ALGO_SCHEMAS[name], **changed), ToyEnv())


# What it reaches --------------------------------------------------------------------------------


def test_the_precision_holds_inside_and_is_put_back(amx):
    precision.choose("bf16", "cpu")
    for before in ("highest", "medium"):
        torch.set_float32_matmul_precision(before)
        with pytest.raises(KeyError), precision.network_products():
            assert torch.get_float32_matmul_precision() == "medium"
            assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
            raise KeyError
        assert torch.get_float32_matmul_precision() == before


@pytest.mark.parametrize("chosen", ["float32", "auto"])
def test_nothing_is_touched_without_it(amx, chosen):
    precision.choose("bf16", "cpu")
    precision.choose(chosen, "cpu")
    with precision.network_products():
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("network", ["mlp", "residual"])
def test_acting_and_the_update_use_it_for_every_product_of_a_network(amx, network):
    """The last product of acting sums the log-density over each agent's actions."""
    precision.choose("bf16", "cpu")
    algo, env = learner(network=network, value_aux_coef=1.0), ToyEnv()
    rollout, state = collect(algo, env, env.reset())
    policy = algo.freeze()
    with Products() as acting:
        policy(env.observations(state))
    assert acting.seen == ["medium"] * (len(acting.seen) - 1) + ["highest"]
    with Products() as learning:
        algo.update(rollout)
    assert set(learning.seen) == {"medium"}
    assert min(len(acting.seen) - 3, len(learning.seen) - 50) > 0


def test_divergences_stay_exact(amx, monkeypatch):
    precision.choose("bf16", "cpu")
    algo = learner("madpo", divergence={"preset": "printed"})
    used = []
    for name in ("intra", "inter"):
        own = getattr(algo.comparison, name)

        def watched(*args, own=own):
            with Products() as products:
                found = own(*args)
            used.extend(products.seen)
            return found

        monkeypatch.setattr(algo.comparison, name, watched)
    train(algo, ToyEnv(), 1)
    assert set(used) == {"highest"}


@pytest.mark.skipif(ROUNDS, reason="this processor rounds")
def test_where_the_processor_does_not_round_nothing_else_changes(amx):
    exact, found = trained("float32"), trained("bf16")
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(exact, found, strict=True) for name in a
    )


def trained(chosen):
    """The metrics of two iterations."""
    precision.choose(chosen, "cpu")
    return train(learner(), ToyEnv(), 2)


@pytest.mark.skipif(not ROUNDS, reason="this processor has no products in bfloat16")
def test_networks_differ_by_the_rounding_and_repeat_themselves():
    """Eight significant bits round by at most 2^-9; three layers of sums stay near that."""
    generator = torch.Generator().manual_seed(0)
    networks = NetworkSettings([128, 128], "elu", generator, CPU)
    stack = NETWORKS["mlp"](networks, [64], [8], output_gain=1.0)
    x = torch.randn(256, 64, generator=generator)
    prepared = stack.prepare(x)  # which fold() does itself
    exact = stack.apply(0, prepared).detach()
    precision.choose("bf16", "cpu")
    for run in (lambda: stack.apply(0, prepared).detach(), lambda: stack.fold()([x])[0]):
        found = run()
        error = torch.linalg.matrix_norm(found - exact) / torch.linalg.matrix_norm(exact)
        assert 2.0**-12 < error < 2.0**-5
        assert torch.equal(found, run())
    first, again = trained("bf16"), trained("bf16")
    assert all(
        torch.equal(a[name], b[name]) for a, b in zip(first, again, strict=True) for name in a
    )


# Refusals ---------------------------------------------------------------------------------------


def test_a_processor_without_such_products_is_refused(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(precision, "rounding_error", lambda: 3e-7)
    small = ["num_envs=2", "algo.horizon=4", "algo.hidden=[4]", f"runs_dir={tmp_path}"]
    assert main(["train", "precision=bf16", *small]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "precision=bf16 has no effect on this processor" in error
    assert "precision=float32" in error
    assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize(("capability", "good"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_tf32_takes_a_gpu_that_has_it(monkeypatch, capability, good):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda name: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda name: f"GPU of {name}")
    if good:
        device.configure(1, "cuda:0", "tf32")
        with precision.network_products():
            assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        return
    with pytest.raises(UserError, match="tf32 has no effect on GPU of cuda:0"):
        device.configure(1, "cuda:0", "tf32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("precision=bf61", "'bf61'. Did you mean 'bf16'?"),
        ("precision=bfloat16", "'bfloat16'. Did you mean 'bf16'?"),
        ("precision=fp32", "'fp32'. Did you mean 'float32'?"),
        ("precision=32", "'32'. Did you mean 'float32'?"),
        ("precision=tf32", "precision=tf32 does not work on sim_device=cpu"),
        ("precision=bf16 sim_device=cuda:0", "float32, tf32"),
        ("precision=bf16 algo=hatrpo", "does not work with algo=hatrpo"),
        ("precision=bf16 algo=ppo", "does not work with algo=ppo"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(UserError) as refused:
        compose(arguments.split())
    assert message in str(refused.value)


def test_a_configuration_may_be_for_another_machine():
    assert compose(["precision=bf16"]).precision == "bf16"
