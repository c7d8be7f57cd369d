"""What several test files compare with."""

import numpy as np

from sklearn_maml.tasks import QuadraticTasks


def same(one, other):
    """Deep, exact equality: of arrays also type and shape."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return (
            all(map(same, one, other))
            if one.dtype == object
            else np.array_equal(one, other, equal_nan=one.dtype.kind in "fc")
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if hasattr(one, "__dict__"):
        return same(vars(one), vars(other))
    return one == other or (one != one and other != other)


def descend(truth, w, step, n_iter, switch_tol=None):
    """Gradient descent on truth.F or, given `switch_tol`, BI-MAML (Algorithm 1, latched): the end, every record."""
    phase, records = (2 if switch_tol is None else 1), []
    for _ in range(n_iter + 1):
        if phase == 1 and np.linalg.norm(truth.f(w)[1]) <= switch_tol:
            phase = 2
        value, gradient = truth.F(w) if phase == 2 else truth.f(w)
        records.append((phase, value, np.linalg.norm(gradient)))
        last, w = w, w - step * gradient
    phases, values, norms = zip(*records, strict=True)
    return last, np.array(phases), np.array(values), np.array(norms)


def summed_up(tasks):
    """The same tasks, of a quadratic loss, as statistics."""
    weight = tasks.S[..., 0] * tasks.weight[:, None]
    return QuadraticTasks.of_rows(tasks.X, tasks.Y, weight, tasks.loss, tasks.penalty)
