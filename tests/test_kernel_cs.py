"""Values and gradients of the kernel divergence against 50 digits, dense float64 and itself."""

import cs_oracle
import pytest
import torch
from cs_oracle import dense
from torch.utils._python_dispatch import TorchDispatchMode

from madpo_isaac.divergence import StateGram, kernel_cs, median_width

VARIANTS = ("yu", "official", "printed")
WIDTHS = (
    (0.1, 0.1), (0.1, 10.0), (10.0, 0.1), (0.5, 0.3), (1.0, 1.0), (1.0, 1000.0),
    (10.0, 10.0), (100.0, 100.0), (1000.0, 1000.0), (2000.0, 2000.0),
)  # fmt: skip


def gradient(function, s_p, a_p, s_q, a_q, **settings):
    a_p = a_p.clone().requires_grad_()
    (grad,) = torch.autograd.grad(function(s_p, a_p, s_q, a_q, **settings), a_p)
    return grad


def relative(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("widths", WIDTHS)
def test_value_against_50_digits(variant, same, widths):
    m = 9 if same or variant == "printed" else 11
    sample = cs_oracle.data(9, m, 3, 2, same=same)
    settings = {"state_width": widths[0], "action_width": widths[1], "variant": variant}
    wanted = float(cs_oracle.oracle(*sample, **settings))
    single = kernel_cs(*sample, **settings, tile=4)
    assert single.dtype == torch.float32 and single.ndim == 0
    assert float(single) == pytest.approx(wanted, rel=1e-4)
    double = kernel_cs(*(x.double() for x in sample), **settings)
    assert float(double) == pytest.approx(wanted, rel=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("widths", [(0.1, 0.1), (1.0, 1.0), (14.0, 1.0), (1000.0, 1000.0)])
@pytest.mark.parametrize("same", [True, False])
def test_single_precision_in_many_dimensions(variant, widths, same):
    sample = cs_oracle.data(150, 150, 111, 6, same=same)
    settings = {"state_width": widths[0], "action_width": widths[1], "variant": variant}
    double = [x.double() for x in sample]
    wanted = kernel_cs(*double, **settings)
    assert float(kernel_cs(*sample, **settings)) == pytest.approx(float(wanted), rel=1e-4)
    expected = gradient(kernel_cs, *double, **settings)
    assert relative(gradient(kernel_cs, *sample, **settings).double(), expected) < 1e-3


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("widths", [(0.3, 0.4), (1.0, 1.0), (5.0, 2.0)])
@pytest.mark.parametrize("same", [True, False])
def test_value_and_gradient_against_dense_autograd(variant, widths, same):
    sample = [x.double() for x in cs_oracle.data(40, 40, 2, 2, same=same)]
    settings = {"state_width": widths[0], "action_width": widths[1], "variant": variant}
    value = kernel_cs(*sample, **settings, tile=16)
    assert float(value) == pytest.approx(float(dense(*sample, **settings)), rel=1e-9)
    grad = gradient(kernel_cs, *sample, **settings, tile=16)
    assert relative(grad, gradient(dense, *sample, **settings)) < 1e-8


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("action_width", [0.1, 1.0, 20.0])
@pytest.mark.parametrize("rows", [None, torch.tensor([4, 0, 3])])
def test_gradcheck(variant, action_width, rows):
    s_p, a_p, s_q, a_q = (x.double() for x in cs_oracle.data(5, 5, 2, 2))

    def function(actions):
        # Scaled, since the finite differences of a wide kernel vanish beside the tolerance.
        return action_width**2 * kernel_cs(
            s_p, actions, s_q, a_q,
            state_width=0.7, action_width=action_width, variant=variant, rows=rows, tile=3,
        )  # fmt: skip

    assert torch.autograd.gradcheck(function, (a_p.requires_grad_(),), eps=1e-5)


def test_gradient_scales_and_reaches_current_actions_only():
    sample = [x.requires_grad_() for x in cs_oracle.data(12, 12, 3, 2)]
    (5.0 * kernel_cs(*sample, state_width=1.0, action_width=1.0)).backward()
    assert [x.grad is None for x in sample] == [True, False, True, True]
    plain = [x.detach() for x in sample]
    once = gradient(kernel_cs, *plain, state_width=1.0, action_width=1.0)
    torch.testing.assert_close(sample[1].grad, 5.0 * once)
    assert not kernel_cs(*plain, state_width=1.0, action_width=1.0).requires_grad


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("same", [True, False])
def test_independent_of_tile_size(variant, same):
    sample = cs_oracle.data(9, 9, 4, 3, same=same)
    settings = {"state_width": 1.5, "action_width": 0.8, "variant": variant}
    value, grad = kernel_cs(*sample, **settings), gradient(kernel_cs, *sample, **settings)
    for tile in (1, 4, 9):
        found = kernel_cs(*sample, **settings, tile=tile)
        torch.testing.assert_close(found, value, rtol=1e-5, atol=0.0)
        assert relative(gradient(kernel_cs, *sample, **settings, tile=tile), grad) < 1e-5


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_gram_reused_equals_recomputed(store, same, variant):
    s_p, a_p, s_q, a_q = cs_oracle.data(20, 20, 4, 3, same=same)
    settings = {"state_width": 1.5, "action_width": 0.8, "variant": variant}
    gram = StateGram(s_p, s_q, width=1.5, tile=8, store=store)
    assert gram.same == same
    rows = torch.arange(0, 20, 3)
    for epoch in range(2):
        moved = a_p + 0.1 * epoch
        for extra in ({}, {"rows": rows}):
            found = gradient(kernel_cs, s_p, moved, s_q, a_q, **settings, **extra, gram=gram)
            wanted = gradient(kernel_cs, s_p, moved, s_q, a_q, **settings, **extra, tile=8)
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)


def test_result_does_not_depend_on_what_the_gram_saw_before():
    s_p, a_p, s_q, a_q = cs_oracle.data(60, 60, 4, 3)
    gram = StateGram(s_p, s_q, width=1.5)
    for action_width in (1.0, 0.1, 1.0, 100.0, 0.2, 0.02, 100.0):
        settings = {"state_width": 1.5, "action_width": action_width}
        found = kernel_cs(s_p, a_p, s_q, a_q, **settings, gram=gram)
        assert float(found) == float(kernel_cs(s_p, a_p, s_q, a_q, **settings))


def test_a_gram_serves_any_actions():
    s_p, a_p, s_q, a_q = cs_oracle.data(20, 20, 4, 3)
    gram = StateGram(s_p, s_q, width=1.5)
    settings = {"state_width": 1.5, "gram": gram}
    kernel_cs(s_p, a_p, s_q, a_q, action_width=1.0, **settings)
    a_q += 1.0  # in place, the same tensor
    for width in (1.0, 2.0):
        found = kernel_cs(s_p, a_p, s_q, a_q, action_width=width, **settings)
        wanted = kernel_cs(s_p, a_p, s_q, a_q, action_width=width, state_width=1.5)
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)
    with torch.inference_mode():
        inference = a_q.clone()
        kernel_cs(s_p, a_p, s_q, inference, action_width=1.0, **settings)
        inference += 1.0
        found = kernel_cs(s_p, a_p, s_q, inference, action_width=1.0, **settings)
    wanted = kernel_cs(s_p, a_p, s_q, a_q + 1.0, action_width=1.0, state_width=1.5)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0.0)


def test_all_rows_equal_no_rows():
    sample = cs_oracle.data(25, 25, 3, 2)
    for variant in VARIANTS:
        settings = {"state_width": 1.0, "action_width": 1.0, "variant": variant}
        found = kernel_cs(*sample, **settings, rows=torch.randperm(25))
        torch.testing.assert_close(found, kernel_cs(*sample, **settings), rtol=1e-5, atol=0.0)


def test_row_subsampling_is_unbiased_where_subsampling_both_sides_is_not():
    s_p, a_p, s_q, a_q = cs_oracle.data(400, 400, 6, 2, same=True, shift=0.2)
    settings = {"state_width": 1.7, "action_width": 1.0}
    full = float(kernel_cs(s_p, a_p, s_q, a_q, **settings))
    generator = torch.Generator().manual_seed(1)
    gram = StateGram(s_p, width=1.7)
    rows, both = [], []
    for _ in range(40):
        draw = {"rows": 50, "generator": generator, "gram": gram}
        rows.append(float(kernel_cs(s_p, a_p, s_q, a_q, **settings, **draw)))
        pick = torch.randperm(400, generator=generator)[:50]
        both.append(float(kernel_cs(s_p[pick], a_p[pick], s_q[pick], a_q[pick], **settings)))
    rows, both = torch.tensor(rows), torch.tensor(both)
    error = float(rows.std()) / 40**0.5
    assert abs(float(rows.mean()) - full) < 3.0 * error + 0.02 * full
    assert float(both.mean()) > 1.5 * full


def test_rows_of_samples_of_different_sizes():
    sample = cs_oracle.data(60, 80, 3, 2)
    draw = {"rows": 60, "generator": torch.Generator().manual_seed(0)}
    value = kernel_cs(*sample, state_width=1.0, action_width=1.0, **draw)
    full = kernel_cs(*sample, state_width=1.0, action_width=1.0)
    assert float(value) == pytest.approx(float(full), rel=0.3)


def test_mask_leaves_padding_out():
    s_p, a_p, s_q, a_q = cs_oracle.data(15, 15, 3, 2)
    pad = torch.randn(15, 1)
    padded = [torch.cat((a, factor * pad), 1) for a, factor in ((a_p, 9.0), (a_q, -9.0))]
    mask = torch.tensor([1.0, 1.0, 0.0])
    settings = {"state_width": 1.0, "action_width": 1.0}
    found = kernel_cs(s_p, padded[0], s_q, padded[1], **settings, mask=mask)
    torch.testing.assert_close(found, kernel_cs(s_p, a_p, s_q, a_q, **settings))
    grad = gradient(kernel_cs, s_p, padded[0], s_q, padded[1], **settings, mask=mask)
    assert not grad[:, 2].any() and bool(grad[:, :2].all())


class Largest(TorchDispatchMode):
    """Notes the number of elements of the largest tensor that any operation returns."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.size = max(self.size, value.numel())
        return result


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("action_width", "same"),
    [
        (0.05, False),
        pytest.param(0.05, True, marks=pytest.mark.slow),
        (1.0, True),
        pytest.param(1.0, False, marks=pytest.mark.slow),
    ],
)
def test_no_tensor_grows_with_the_square(variant, action_width, same):
    n, tile = 200, 25
    sample = cs_oracle.data(n, n, 3, 2, same=same)
    sample[1].requires_grad_()
    with Largest() as largest:
        settings = {"state_width": 1.0, "action_width": action_width, "variant": variant}
        kernel_cs(*sample, **settings, tile=tile).backward()
    assert n < largest.size <= max(tile * tile, 10 * n)


def test_stored_gram_of_equal_states_is_half_a_matrix():
    states = cs_oracle.data(200, 1, 3, 1)[0]
    gram = StateGram(states, states.clone(), width=1.0, tile=20)
    assert gram.same
    assert sum(tile.numel() for tile in gram._tiles.values()) == 20 * 20 * 55


def test_median_width():
    line = torch.tensor([[0.0], [1.0], [3.0]])
    assert median_width(line) == 2.0
    assert median_width(line[:1], line[1:]) == 2.0
    normal = torch.randn(3000, 111, generator=torch.Generator().manual_seed(0))
    width = median_width(normal, num_samples=300, generator=torch.Generator().manual_seed(1))
    assert width == pytest.approx((2.0 * 111.0) ** 0.5, rel=0.02)
    again = median_width(normal, num_samples=300, generator=torch.Generator().manual_seed(1))
    assert width == again
