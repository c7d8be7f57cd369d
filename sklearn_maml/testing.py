"""Checks for estimators of third parties."""

from functools import partial
from typing import Any

import numpy as np
from sklearn.base import is_classifier

from .losses import STRUCTURES
from .probing import find_jump, points_around

__all__ = ["check_task_loss"]

SCALES = 1.0, 10.0
"""Standard deviations of z: what is wrong far out shows as well."""
NAMES = "value", "slope", "curvature"


def check_task_loss(estimator: Any, *, n_points: int = 1000, random_state: int = 0) -> None:
    """Check an estimator's ``task_loss`` against finite differences, and for jumps.

    Parameters
    ----------
    estimator : object
        An estimator with a method ``task_loss(y, z) -> (value, slope, curvature)``, see
        :class:`~sklearn_maml.BiMAMLMixin`.
    n_points : int, default=1000
        Number of random points (y, z) to compare at, once with normal z of standard deviation 1, once of 10; y is in
        {-1, +1} for classifiers, standard normal for others.
    random_state : int, default=0
        Seed of the points.

    Raises
    ------
    AssertionError
        If a result is not finite or not of the shape of z; if slope or curvature is not the derivative in z of value or
        slope; if the value jumps, or what must not by the estimator's `task_structure`: the slope, unless it is
        "subdifferentiable", and the curvature if it is "smooth"; if it is "quadratic" and the curvature is not one
        constant; or if it is none of these.

    Notes
    -----
    Jumps are looked for in each cell of a grid around 0 and a few values of y, up to a distance of 10: in ever smaller
    parts of it, around the largest and the steepest change.

    Examples
    --------
    >>> from sklearn_maml import MAMLSVC
    >>> from sklearn_maml.testing import check_task_loss
    >>> check_task_loss(MAMLSVC(loss="smooth_hinge"))
    """
    name, structure = type(estimator).__name__, getattr(estimator, "task_structure", "differentiable")
    if structure not in STRUCTURES:
        raise AssertionError(f"{name}.task_structure is {structure!r}: it must be one of {', '.join(STRUCTURES)}")
    rng = np.random.default_rng(random_state)
    shape = (1, n_points, 1)
    y = rng.choice([-1.0, 1.0], size=shape) if is_classifier(estimator) else rng.normal(size=shape)
    name = f"{name}.task_loss"
    loss = partial(_loss, estimator, name)
    for scale in SCALES:
        _check_derivatives(name, loss, structure, y, scale * rng.normal(size=shape))
    _check_jumps(name, loss, structure, np.unique(y[:, :2]))


def _loss(estimator, name, y, z):
    """Value, slope and curvature, of the right shapes."""
    found = estimator.task_loss(y, z)
    if not isinstance(found, tuple | list) or len(found) != 3:
        raise AssertionError(f"{name} must return value, slope and curvature, got {type(found).__name__} {found!r:.60}")
    for what, numbers in zip(NAMES, found, strict=True):
        if np.shape(numbers) != z.shape and not (what == "curvature" and np.ndim(numbers) == 0):
            raise AssertionError(f"{name}: {what} has shape {np.shape(numbers)} for y and z of shape {z.shape}")
    return found


def _check_derivatives(name, loss, structure, y, z, h=1e-6):
    """Compare with central differences."""
    given, low, high = loss(y, z), loss(y, z - h), loss(y, z + h)
    if structure == "quadratic" and np.ndim(given[2]):
        raise AssertionError(f"{name} is called quadratic: its curvature must be one number, got {np.shape(given[2])}")
    for what, numbers in zip(NAMES, given, strict=True):
        finite = np.broadcast_to(np.isfinite(numbers), z.shape)
        if not np.all(finite):
            raise AssertionError(f"{name}: {what} is not finite at {_first(y, z, ~finite)}")
    for what, derivative, before, after in zip(NAMES[1:], given[1:], low, high, strict=False):
        difference = (after - before) / (2 * h)
        wrong = np.abs(derivative - difference) > 1e-4 * np.abs(difference) + 1e-5 * np.abs(difference).max()
        if np.any(wrong):
            raise AssertionError(
                f"{name}: {what} is not the derivative in z (finite differences) at {_first(y, z, wrong)}: "
                f"{np.broadcast_to(derivative, z.shape)[wrong][0]:.6g} instead of {difference[wrong][0]:.6g}"
            )


def _check_jumps(name, loss, structure, y):
    """Raise if what must not jump does."""
    z = points_around(y, max(SCALES))
    low, high, y = z[:-1].ravel(), z[1:].ravel(), np.tile(y, len(z) - 1)
    cells = low + (high - low) * np.linspace(0, 1, 9)[:, None]  # each is searched by itself

    def at(z):
        return [np.broadcast_to(numbers, z.shape) for numbers in loss(np.broadcast_to(y, z.shape), z)]

    advice = {
        "value": "a loss must be continuous",
        "slope": "say so by task_structure = 'subdifferentiable'",
        "curvature": "say so by task_structure = 'differentiable'",
    }
    may_jump = {"subdifferentiable": NAMES[1:], "differentiable": NAMES[2:]}.get(structure, ())
    jump = find_jump(at, cells, y)
    if jump and NAMES[jump[0]] not in may_jump:
        what = NAMES[jump[0]]
        raise AssertionError(
            f"{name}: {what} jumps near y={jump[2]:.6g}, z={jump[1]:.6g}, and task_structure is {structure!r}: "
            f"{advice[what]}"
        )


def _first(y, z, where):
    return f"y={y[where][0]:.6g}, z={z[where][0]:.6g}"
