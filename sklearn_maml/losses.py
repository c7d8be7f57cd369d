"""Pointwise losses: how wrong the prediction z is for the target y.

Each is a function ``loss(y, z) -> (value, slope, curvature)``, elementwise: the loss and its first two derivatives
with respect to z = X @ w. At a kink the derivative is taken from the flat side (relu'(0) = 0).
"""

import numpy as np
from scipy.special import expit

SMOOTHING = 0.1
"""Width of the smooth hinge's rounded corner, in units of the margin y z."""


def squared_loss(y, z):
    """(y - z)^2."""
    residual = z - y
    return residual * residual, 2 * residual, np.asarray(2.0)


def hinge_loss(y, z):
    """max(0, 1 - y z)."""
    violated = y * z < 1
    return violated * (1 - y * z), -y * violated, np.zeros_like(z)


def squared_hinge_loss(y, z):
    """max(0, 1 - y z)^2."""
    gap = np.maximum(0, 1 - y * z)
    return gap * gap, -2 * y * gap, 2.0 * (gap > 0)


def smooth_hinge_loss(y, z):
    """The hinge, its corner rounded by a softplus: s log(1 + exp((1 - y z) / s)) with s = 0.1."""
    t = (1 - y * z) / SMOOTHING
    active = expit(t)
    return SMOOTHING * np.logaddexp(0, t), -y * active, active * expit(-t) / SMOOTHING


def working_curvature(loss, y):
    """Curvature of the parabola that has the slopes of ``loss(y, .)`` at z = 0 and at z = y, for each y.

    That is the loss seen from where learning starts: also for the hinge, which has no curvature, and for losses that
    are very curved near y only. Where y = 0 and the two points meet, the curvature there.
    """
    _, slope_y, curvature = loss(y, y)
    slope_0 = loss(y, np.zeros(y.shape))[1]
    return np.divide(slope_y - slope_0, y, out=np.array(np.broadcast_to(curvature, y.shape), float), where=y != 0)


def curvature_bound(loss, y):
    """How fast the slope of ``loss(y, .)`` changes, for each y: what a safe step size has to reckon with.

    The largest curvature at z = 0, at y/2 and at y, from both sides, where the losses in use are most curved; and the
    change of slope between 0 and y, which is all the curvature that a hinge has.
    """
    _, slope_y, bound = loss(y, y)
    if np.ndim(bound) == 0:
        return np.full(y.shape, bound)
    _, slope_0, curvature_0 = loss(y, np.zeros(y.shape))
    bound = np.maximum(bound, curvature_0)
    aside = 1e-6 * (1 + np.abs(y))
    for z in (y / 2, y - aside, y + aside):
        bound = np.maximum(bound, loss(y, z)[2])
    return np.maximum(bound, np.divide(slope_y - slope_0, y, out=np.zeros(y.shape), where=y != 0))
