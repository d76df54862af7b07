import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from madpo_isaac.tasks.rotations import (
    quat_about_x_then_y,
    quat_conjugate,
    quat_mul,
    quat_rotate,
    quat_to_rpy,
    wxyz_to_xyzw,
)

# Hamilton's table, row times column: 1 to 4 for 1, i, j, k, with their sign.
PRODUCTS = np.array([[1, 2, 3, 4], [2, -1, 4, -3], [3, -4, -1, 2], [4, 3, -2, -1]])
angles = st.floats(-7.0, 7.0, allow_nan=False)


def draw(count: int, seed: int) -> tuple[Rotation, torch.Tensor]:
    """Random rotations and their wxyz quaternions with random signs."""
    rng = np.random.default_rng(seed)
    wxyz = rng.normal(size=(count, 4))
    wxyz /= np.linalg.norm(wxyz, axis=1, keepdims=True)
    return Rotation.from_quat(wxyz, scalar_first=True), torch.tensor(wxyz)


def same_rotation(quat: torch.Tensor, expected: Rotation) -> None:
    actual = Rotation.from_quat(quat.numpy(), scalar_first=True)
    np.testing.assert_allclose(actual.as_matrix(), expected.as_matrix(), atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(quat.numpy(), axis=-1), 1.0, atol=1e-12)


@pytest.mark.parametrize("row", range(4))
@pytest.mark.parametrize("column", range(4))
def test_product_of_units_is_hamiltons_with_its_sign(row, column):
    units = torch.eye(4, dtype=torch.float64)
    product = quat_mul(units[row], units[column])
    entry = PRODUCTS[row, column]
    np.testing.assert_array_equal(product.numpy(), np.sign(entry) * np.eye(4)[abs(entry) - 1])


def test_product_composes_rotations():
    (ra, a), (rb, b) = draw(200, 0), draw(200, 1)
    same_rotation(quat_mul(a, b), ra * rb)


def test_product_keeps_leading_dimensions_and_broadcasts():
    (_, a), (_, b) = draw(6, 2), draw(1, 3)
    batched = quat_mul(a.view(2, 3, 4), b.view(1, 1, 4))
    assert batched.shape == (2, 3, 4)
    for i in range(6):
        torch.testing.assert_close(batched.view(6, 4)[i], quat_mul(a[i], b[0]))


def test_conjugate_is_the_inverse_rotation():
    rotation, quat = draw(100, 4)
    same_rotation(quat_conjugate(quat), rotation.inv())
    # With the sign kept, so that q * conj(q) is +1 and not -1.
    np.testing.assert_array_equal(quat_conjugate(quat).numpy(), quat.numpy() * [1, -1, -1, -1])


def test_rotate_matches_scipy_and_ignores_the_quaternions_sign():
    rotation, quat = draw(200, 5)
    vectors = np.random.default_rng(6).normal(size=(200, 3)) * 3.0
    expected = rotation.apply(vectors)
    for sign in (1.0, -1.0):
        rotated = quat_rotate(sign * quat, torch.tensor(vectors))
        np.testing.assert_allclose(rotated.numpy(), expected, atol=1e-12)


def test_rotate_quarter_turn_by_hand():
    half = 0.5**0.5
    about_z = torch.tensor([half, 0.0, 0.0, half], dtype=torch.float64)
    turned = quat_rotate(about_z, torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    np.testing.assert_allclose(turned.numpy(), [-2.0, 1.0, 3.0], atol=1e-15)


@settings(max_examples=100, deadline=None)
@given(angles, angles)
def test_about_x_then_y_is_rx_times_ry(angle_x, angle_y):
    expected = Rotation.from_rotvec([angle_x, 0, 0]) * Rotation.from_rotvec([0, angle_y, 0])
    quat = quat_about_x_then_y(
        torch.tensor([angle_x], dtype=torch.float64), torch.tensor([angle_y], dtype=torch.float64)
    )
    assert quat.shape == (1, 4)
    same_rotation(quat[0], expected)


def test_about_x_then_y_turns_the_y_axis_with_x():
    # Rx(90) Ry(90): z goes to x by the inner turn and stays there; x goes to -z and then to y.
    quarter = torch.tensor(np.pi / 2)
    quat = quat_about_x_then_y(quarter, quarter)
    z, x = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    torch.testing.assert_close(quat_rotate(quat, z), x, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        quat_rotate(quat, x), torch.tensor([0.0, 1.0, 0.0]), atol=1e-6, rtol=0
    )


def test_reordering_moves_w_to_the_end():
    wxyz = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]])
    xyzw = torch.tensor([[0.2, 0.3, 0.4, 0.1], [2.0, 3.0, 4.0, 1.0]])
    assert torch.equal(wxyz_to_xyzw(wxyz), xyzw)
    assert torch.equal(wxyz_to_xyzw(wxyz.view(2, 1, 4)), xyzw.view(2, 1, 4))


def test_reordering_agrees_with_scipys_two_orders():
    rotation, quat = draw(50, 7)
    expected = rotation.as_quat(canonical=False, scalar_first=False)
    np.testing.assert_allclose(wxyz_to_xyzw(quat).numpy(), expected, atol=1e-15)


def test_single_precision_stays_single():
    quat = torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    results = (
        quat_mul(quat, quat),
        quat_conjugate(quat),
        quat_rotate(quat, torch.ones(1, 3)),
        quat_about_x_then_y(torch.ones(1), torch.ones(1)),
        wxyz_to_xyzw(quat),
    )
    assert all(result.dtype == torch.float32 for result in results)


def test_roll_pitch_yaw_are_angles_about_fixed_axes():
    rotation, quat = draw(200, 6)
    expected = rotation.as_euler("xyz")
    np.testing.assert_allclose(quat_to_rpy(quat).numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(quat_to_rpy(-quat).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("axis", range(3))
def test_a_turn_about_one_axis_is_that_angle(axis):
    for angle in (-1.5, -0.2, 0.0, 0.9, 1.57):
        rotation = Rotation.from_rotvec(angle * np.eye(3)[axis])
        quat = torch.tensor(rotation.as_quat(scalar_first=True))
        np.testing.assert_allclose(quat_to_rpy(quat).numpy(), angle * np.eye(3)[axis], atol=1e-9)
