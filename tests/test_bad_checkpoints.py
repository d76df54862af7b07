"""Checkpoints that lack something, or hold what no run writes, are refused in one line."""

import pytest
import torch
from test_resume import (
    first_half,  # noqa: F401
    half,  # noqa: F401
    refused,
    train,
)
from test_runner import (
    _keep_torch_settings,  # noqa: F401
    weights,
)


def without(tree, path):
    *above, name = path
    for key in above:
        tree = tree[key]
    del tree[name]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("tracker", "lengths"), "lacks tracker/lengths"),
        (("algo_state", "order_generator"), "lacks algo_state/order_generator"),
        (
            ("algo_state", "actor_optimisers", 1, "step"),
            "is not of this version (KeyError: 'step')",
        ),
        (("wall_s",), "lacks wall_s"),
        (("state",), "is not of this version (KeyError: 'state')"),
        (("algo_state", "critic"), "is not of this version (KeyError: 'critic')"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_refused(half, tmp_path, capsys, path, message):  # noqa: F811
    content = weights(half)
    without(content, path)
    torch.save(content, half / "nn" / "odd.pth")
    error = refused(capsys, tmp_path, f"checkpoint={half}/nn/odd.pth", "max_iterations=4")
    assert message in error


@pytest.mark.parametrize(
    ("path", "playing"),
    [
        (("moments", "actors", 1, "mean"), True),
        (("moments", "critic", 0, "square"), False),
        (("actor_optimisers", 1, "exp_avg_sq"), False),
        (("critic",), False),
        (("value_norm", "moments"), False),
    ],
    ids=lambda value: str(value),
)
@pytest.mark.parametrize("number", [float("nan"), -float("inf")])
def test_numbers_that_are_not_finite_are_refused(half, tmp_path, capsys, path, playing, number):  # noqa: F811
    """They are named; a policy is played although the numbers of the critic or of Adam are bad."""
    content = weights(half)
    *above, last = path
    node = content["algo_state"]
    for key in above:
        node = node[key]
    node[last].view(-1)[-1:] = number
    torch.save(content, half / "nn" / "odd.pth")
    odd = f"checkpoint={half}/nn/odd.pth"
    error = refused(capsys, tmp_path, odd, "max_iterations=4")
    assert f"odd.pth' has numbers in {'/'.join(map(str, path))} that are not finite" in error
    train(tmp_path, odd, "test=True", code=2 if playing else 0)


def test_a_tensor_of_another_type_or_size_is_refused(half, tmp_path, capsys):  # noqa: F811
    for change in (torch.Tensor.double, lambda x: x[:1], lambda x: x[None]):
        content = weights(half)
        content["tracker"]["returns"] = change(content["tracker"]["returns"])
        torch.save(content, half / "nn" / "odd.pth")
        error = refused(capsys, tmp_path, f"checkpoint={half}/nn/odd.pth", "max_iterations=4")
        assert "lacks tracker/returns, or has it in another size" in error
