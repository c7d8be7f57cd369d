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


def curvature_bound(loss, y):
    """How fast the slope of ``loss(y, .)`` changes, for each y: what a safe step size has to reckon with.

    The largest curvature at z = 0, y/2 and y, where the losses in use are most curved, and the change of slope between
    0 and y, which is all the curvature that a hinge has. The second derivative itself where it is constant.
    """
    points = [loss(y, t * y) for t in (0.0, 0.5, 1.0)]
    bounds = [np.broadcast_to(curvature, y.shape) for _, _, curvature in points]
    secant = np.divide(points[2][1] - points[0][1], y, out=np.zeros(y.shape), where=y != 0)
    return np.maximum.reduce([*bounds, secant])
