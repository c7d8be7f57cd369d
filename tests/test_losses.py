"""Pointwise losses against textbook formulas, written out for one number, and against finite differences."""

import math

import numpy as np
import pytest
from scipy.special import expit

from sklearn_maml import losses
from sklearn_maml.losses import (
    curvature_bound,
    hinge_loss,
    smooth_hinge_loss,
    squared_hinge_loss,
    squared_loss,
    working_curvature,
)

LABELS = [-1.0, 1.0]
TEXTBOOK = {  # loss: (formula, targets, whether it has a kink at margin 1)
    squared_loss: (lambda y, z: (y - z) ** 2, [-2.3, 0.0, 0.7], False),
    hinge_loss: (lambda y, z: max(0.0, 1 - y * z), LABELS, True),
    squared_hinge_loss: (lambda y, z: max(0.0, 1 - y * z) ** 2, LABELS, True),
    smooth_hinge_loss: (lambda y, z: 0.1 * math.log1p(math.exp((1 - y * z) / 0.1)), LABELS, False),
}
every_loss = pytest.mark.parametrize("loss", TEXTBOOK, ids=lambda loss: loss.__name__)
hinges = pytest.mark.parametrize("loss", [hinge_loss, squared_hinge_loss, smooth_hinge_loss])


def points(loss, apart=0.01):
    """Pairs y, z, those near a kink left out."""
    _, targets, kink = TEXTBOOK[loss]
    Y, Z = (a.ravel() for a in np.meshgrid(targets, np.linspace(-3, 3, 241)))
    keep = np.abs(1 - Y * Z) > apart if kink else np.full(Y.shape, True)
    return Y[keep], Z[keep]


@every_loss
def test_value_is_the_textbook_formula(loss):
    Y, Z = points(loss, apart=-1)
    expected = [TEXTBOOK[loss][0](y, z) for y, z in zip(Y, Z, strict=True)]
    np.testing.assert_allclose(loss(Y, Z)[0], expected, rtol=1e-13, atol=1e-15)


@every_loss
def test_slope_and_curvature_are_derivatives(loss):
    Y, Z = points(loss)
    h = 1e-5
    below, above = loss(Y, Z - h), loss(Y, Z + h)
    _, slope, curvature = loss(Y, Z)
    np.testing.assert_allclose(slope, (above[0] - below[0]) / (2 * h), rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(
        np.broadcast_to(curvature, Z.shape), (above[1] - below[1]) / (2 * h), rtol=1e-6, atol=1e-7
    )


@every_loss
def test_elementwise_for_any_shape(loss):
    Y, Z = points(loss)
    shape = (2, -1, 3)
    Y, Z = Y[: len(Y) // 6 * 6], Z[: len(Z) // 6 * 6]
    for whole, flat in zip(loss(Y.reshape(shape), Z.reshape(shape)), loss(Y, Z), strict=True):
        np.testing.assert_array_equal(np.ravel(whole), flat)


@pytest.mark.parametrize("y", LABELS)
def test_kinks_take_the_flat_side(y):
    y = np.array([y])
    value, slope, curvature = hinge_loss(y, y)
    assert value == slope == curvature == 0
    value, slope, curvature = squared_hinge_loss(y, y)
    assert value == slope == curvature == 0
    assert hinge_loss(y, y * (1 - 1e-12))[1] == -y
    assert squared_hinge_loss(y, y * (1 - 1e-12))[2] == 2


@pytest.mark.parametrize("smoothing", [0.1, 0.01, 0.001])
def test_smooth_hinge_tends_to_the_hinge(monkeypatch, smoothing):
    monkeypatch.setattr(losses, "SMOOTHING", smoothing)
    Y, Z = points(hinge_loss, apart=-1)
    smooth, sharp = smooth_hinge_loss(Y, Z), hinge_loss(Y, Z)
    gap = smooth[0] - sharp[0]
    assert np.all(gap >= -1e-14)
    np.testing.assert_allclose(gap.max(), smoothing * math.log(2), rtol=1e-12)  # at the corner
    away = np.abs(1 - Y * Z) > 15 * smoothing
    assert 0 < away.sum() < len(away)
    assert np.max(np.abs(smooth[1] - sharp[1])[away]) < 1e-6
    assert np.max(smooth[2][away]) < 1e-6 / smoothing


@hinges
@pytest.mark.parametrize("y", LABELS)
def test_no_overflow_far_out(loss, y):
    y, far = np.array([y]), 1e6
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        right, wrong = loss(y, y * far), loss(y, -y * far)
    np.testing.assert_array_equal(np.ravel(right), 0)
    if loss is squared_hinge_loss:
        np.testing.assert_allclose(np.ravel(wrong), [(1 + far) ** 2, -2 * y[0] * (1 + far), 2], rtol=1e-15)
    else:
        np.testing.assert_allclose(np.ravel(wrong), [1 + far, -y[0], 0], rtol=1e-15)


def test_squared_loss_far_out():
    value, slope, curvature = squared_loss(np.array([1.0]), np.array([-1e6]))
    assert (value[0], slope[0], curvature) == ((1e6 + 1) ** 2, -2 * (1e6 + 1), 2)


@pytest.mark.parametrize(
    ("loss", "bound"), [(squared_loss, 2), (hinge_loss, 1), (squared_hinge_loss, 2), (smooth_hinge_loss, 2.5)]
)
def test_curvature_bound(loss, bound):
    Y = np.array(TEXTBOOK[loss][1]).reshape(1, -1, 1)
    bounds = curvature_bound(loss, Y)
    assert bounds.shape == Y.shape
    np.testing.assert_allclose(bounds, bound, rtol=1e-14)
    Z = np.linspace(-5, 5, 2001)
    _, slope, curvature = loss(Y, Z)
    assert np.all(curvature <= bounds * (1 + 1e-14))
    if loss is not hinge_loss:  # the slope of a hinge jumps: no bound holds for it between close points
        assert np.all(np.abs(np.diff(slope)) <= bounds * np.diff(Z) * (1 + 1e-9))


def pinball_loss(quantile):
    """The quantile loss, smoothed over |y - z| < 0.1."""

    def loss(y, z):
        r = y - z
        side, near = np.where(r >= 0, quantile, 1 - quantile), np.abs(r) < 0.1
        value = side * np.where(near, r * r / 0.2, np.abs(r) - 0.05)
        return value, -side * np.clip(r / 0.1, -1, 1), side * near / 0.1

    return loss


def logistic_loss(y, z):
    p = expit(-y * z)
    return np.logaddexp(0, -y * z), -y * p, p * (1 - p)


def poisson_loss(y, z):
    return np.exp(z) - y * z, np.exp(z) - y, np.exp(z)


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_curvature_bound_looks_at_both_sides(quantile):
    """The smoothed quantile loss is more curved on one side of y than on the other."""
    Y = np.array([-1.0, 0.0, 0.3, 100.0])
    np.testing.assert_allclose(curvature_bound(pinball_loss(quantile), Y), 10 * max(quantile, 1 - quantile), rtol=1e-12)


@pytest.mark.parametrize(
    ("loss", "curvature", "error"),
    [
        (squared_loss, 2, 1e-14),
        (squared_hinge_loss, 2, 1e-14),
        (hinge_loss, 1, 1e-14),
        (smooth_hinge_loss, 0.5, 1e-4),
        (logistic_loss, 1 / (1 + math.exp(-1)) - 0.5, 1e-14),
    ],
)
def test_working_curvature(loss, curvature, error):
    """Of labels everywhere the same, as is that of the squared loss for any target."""
    Y = np.array(TEXTBOOK[loss][1] if loss in TEXTBOOK else LABELS).reshape(1, -1, 1)
    actual = working_curvature(loss, Y)
    assert actual.shape == Y.shape
    np.testing.assert_allclose(actual, curvature, rtol=error)


@pytest.mark.parametrize("loss", [pinball_loss(0.1), pinball_loss(0.5), poisson_loss, logistic_loss])
def test_working_curvature_joins_two_slopes(loss):
    """A parabola of that curvature which has the slope of the loss at 0 has it at y, too."""
    Y = np.array([[-3.0, -0.2, -0.01, 0.02, 0.4, 5.0]])
    actual = working_curvature(loss, Y)
    for y, c in zip(Y[0], actual[0], strict=True):
        slope_0, slope_y = (float(loss(np.array(y), np.array(z))[1]) for z in (0.0, y))
        assert slope_0 + c * y == pytest.approx(slope_y, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("loss", "curvature"), [(squared_loss, 2), (pinball_loss(0.3), 3), (poisson_loss, 1)])
@pytest.mark.parametrize("others", [[], [-2.0, 1.0], [0.0], [8.0, 3.0]])
def test_working_curvature_of_a_target_of_zero(loss, curvature, others):
    """That of the loss there, where the two points meet; of no concern to it are the targets beside it."""
    actual = working_curvature(loss, np.array([[0.0, *others]]))
    np.testing.assert_allclose(actual[0, 0], curvature, rtol=1e-14)
