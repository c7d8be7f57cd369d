"""Checks for estimators of third parties."""

from typing import Any

import numpy as np
from sklearn.base import is_classifier

__all__ = ["check_task_loss"]


def check_task_loss(estimator: Any, *, n_points: int = 1000, random_state: int = 0) -> None:
    """Check an estimator's ``task_loss`` against finite differences.

    Parameters
    ----------
    estimator : object
        An estimator with a method ``task_loss(y, z) -> (value, slope, curvature)``, see :class:`BiMAMLMixin`.
    n_points : int, default=1000
        Number of random points (y, z) to check at: standard normal z, and y in {-1, +1} for classifiers, standard
        normal for others.
    random_state : int, default=0
        Seed of the points.

    Raises
    ------
    AssertionError
        If a result is not finite or not of the shape of z, if slope or curvature is not the derivative in z of value
        or slope, or if the estimator calls its loss "quadratic" and its curvature is not one constant.

    Examples
    --------
    >>> from sklearn_maml import MAMLSVC
    >>> from sklearn_maml.testing import check_task_loss
    >>> check_task_loss(MAMLSVC(loss="smooth_hinge"))
    """
    name = f"{type(estimator).__name__}.task_loss"
    rng = np.random.default_rng(random_state)
    shape = (1, n_points, 1)
    y = rng.choice([-1.0, 1.0], size=shape) if is_classifier(estimator) else rng.normal(size=shape)
    z = rng.normal(size=shape)
    h = 1e-6
    value, slope, curvature = estimator.task_loss(y, z)
    (low, low_slope, _), (high, high_slope, _) = estimator.task_loss(y, z - h), estimator.task_loss(y, z + h)
    if getattr(estimator, "task_structure", None) == "quadratic" and np.ndim(curvature):
        raise AssertionError(f"{name} is called quadratic: its curvature must be one number, got {np.shape(curvature)}")
    checks = {"slope": (slope, (high - low) / (2 * h)), "curvature": (curvature, (high_slope - low_slope) / (2 * h))}
    for what, numbers in {"value": value, "slope": slope, "curvature": curvature}.items():
        numbers = np.broadcast_to(numbers, z.shape) if np.ndim(numbers) == 0 else np.asarray(numbers)
        if numbers.shape != z.shape:
            raise AssertionError(f"{name}: {what} has shape {numbers.shape} for y and z of shape {z.shape}")
        if not np.all(np.isfinite(numbers)):
            raise AssertionError(f"{name}: {what} is not finite at {_first(y, z, ~np.isfinite(numbers))}")
    for what, (given, difference) in checks.items():
        wrong = np.abs(given - difference) > 1e-4 * np.abs(difference) + 1e-5 * np.abs(difference).max()
        if np.any(wrong):
            raise AssertionError(
                f"{name}: {what} is not the derivative in z (finite differences) at {_first(y, z, wrong)}: "
                f"{np.broadcast_to(given, z.shape)[wrong][0]:.6g} instead of {difference[wrong][0]:.6g}"
            )


def _first(y, z, where):
    return f"y={y[where][0]:.6g}, z={z[where][0]:.6g}"
