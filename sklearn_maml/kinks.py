"""Descent where the gradient jumps: along the shortest vector in the convex hull of the gradients nearby.

At a minimum on a kink the gradient does not vanish, but some weighted mean of the gradients around it does (Clarke).
"""

import numpy as np
from scipy.optimize import nnls

RADII = 10.0 ** -np.arange(2, 8)
"""How far around a point gradients are gathered, in units of 1 + norm(x)."""
SUFFICIENT = 1e-2
"""Part of the decrease promised by the shortest vector that a step has to bring."""
GATHERED = 10
"""Largest number of gradients gathered at one radius."""


def step_across_kinks(fun, x, tol):
    """Look for a lower point near a point from which the negative gradient does not lead down.

    A step of Wolfe's (1975) bundle method at each of some radii: where the shortest vector in the hull of the gradients
    does not lead down, the gradient found there joins them.

    Parameters
    ----------
    fun : callable
        ``fun(x)`` returns value and gradient.
    x : ndarray
        The point.
    tol : float
        Length below which the shortest vector counts as zero.

    Returns
    -------
    lower : ndarray or None
        A point of lower value; None if there is none in sight.
    shortest : float
        Length of the shortest vector found last: near zero at a minimum.
    """
    value, gradient = fun(x)
    for radius in RADII * (1 + np.linalg.norm(x)):
        nearby = [gradient]
        while True:
            direction = _shortest_in_hull(np.array(nearby))
            length = np.linalg.norm(direction)
            if length <= tol or len(nearby) == GATHERED:
                break
            there = x - radius / length * direction
            value_there, gradient_there = fun(there)
            if value_there < value - SUFFICIENT * radius * length:
                return there, length
            nearby.append(gradient_there)
    return None, length


def _shortest_in_hull(vectors):
    """The point nearest to zero in the convex hull of the rows of `vectors`."""
    size = np.linalg.norm(vectors, axis=1).max()
    if not 0 < size < np.inf:
        return vectors[0]
    weight, _ = nnls(np.vstack([vectors.T / size, np.ones(len(vectors))]), np.eye(vectors.shape[1] + 1)[-1])
    return weight / weight.sum() @ vectors
