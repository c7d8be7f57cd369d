"""Pointwise losses: how wrong the prediction z is for the target y.

Each is a function ``loss(y, z) -> (value, slope, curvature)``, elementwise: the loss and its first two derivatives
with respect to z = X @ w. At a kink the derivative is taken from the flat side (relu'(0) = 0).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import expit

from .arrays import divide, is_numpy, like, namespace, positive_part, to_host

PointwiseLoss = Callable[[Any, Any], tuple[Any, Any, Any]]
"""``loss(y, z) -> (value, slope, curvature)``."""

STRUCTURES = "quadratic", "smooth", "differentiable", "subdifferentiable"
"""What solvers may assume of a loss: one constant curvature; a continuous curvature; a continuous slope; neither."""

SMOOTHING = 0.1
"""Width of the smooth hinge's rounded corner, in units of the margin y z."""


def squared_loss(y: Any, z: Any) -> tuple[Any, Any, Any]:
    """Squared error (y - z)^2 and its first two derivatives in z.

    Parameters
    ----------
    y, z : ndarray
        Targets and predictions.

    Returns
    -------
    value, slope, curvature : ndarray
        Of shapes that broadcast to that of z.
    """
    residual = z - y
    return residual * residual, 2 * residual, 2.0


def hinge_loss(y, z):
    """max(0, 1 - y z)."""
    xp, margin = namespace(z), y * z
    violated = xp.asarray(margin < 1, dtype=z.dtype)
    return violated * (1 - margin), -y * violated, xp.zeros_like(z)


def squared_hinge_loss(y, z):
    """max(0, 1 - y z)^2."""
    gap = positive_part(1 - y * z)
    return gap * gap, -2 * y * gap, 2.0 * namespace(gap).asarray(gap > 0, dtype=gap.dtype)


def smooth_hinge_loss(y, z):
    """The hinge, its corner rounded by a softplus: s log(1 + exp((1 - y z) / s)) with s = 0.1."""
    t = (1 - y * z) / SMOOTHING
    active, xp = _sigmoid(t), namespace(t)
    return SMOOTHING * xp.logaddexp(t, xp.zeros_like(t)), -y * active, active * _sigmoid(-t) / SMOOTHING


def _sigmoid(t):
    """1 / (1 + exp(-t))."""
    return expit(t) if is_numpy(t) else 0.5 + 0.5 * namespace(t).tanh(t / 2)


def working_curvature(loss, y):
    """Curvature of the parabola that has the slopes of ``loss(y, .)`` at z = 0 and at z = y, for each y.

    That is the loss seen from where learning starts: also for the hinge, which has no curvature, and for losses that
    are very curved near y only. Where y = 0 and the two points meet, the curvature there.
    """
    _, slope_y, curvature = loss(y, y)
    slope_0 = loss(y, namespace(y).zeros_like(y))[1]
    return divide(slope_y - slope_0, y, y != 0, curvature)


def curvature_bound(loss, y):
    """How fast the slope of ``loss(y, .)`` changes, for each y: what a safe step size has to reckon with.

    The largest curvature at z = 0, at y/2 and at y, from both sides, where the losses in use are most curved; and the
    change of slope between 0 and y, which is all the curvature that a hinge has.
    """
    xp = namespace(y)
    _, slope_y, bound = loss(y, y)
    if not getattr(bound, "ndim", 0):
        return xp.full_like(y, float(bound))
    _, slope_0, curvature_0 = loss(y, xp.zeros_like(y))
    bound = xp.maximum(bound, curvature_0)
    aside = 1e-6 * (1 + xp.abs(y))
    for z in (y / 2, y - aside, y + aside):
        bound = xp.maximum(bound, loss(y, z)[2])
    return xp.maximum(bound, divide(slope_y - slope_0, y, y != 0))


def on_host(loss):
    """A loss that knows NumPy only, of arrays that may be elsewhere: they travel, a number for each row and output."""

    def travelling_loss(y, z):
        parts = loss(to_host(y), to_host(z))
        return tuple(like(part, z) if np.ndim(part) else float(part) for part in parts)

    return travelling_loss
