"""Predictions of a table whose rows belong to tasks: each row with what is known of its own task."""

import math

import numpy as np
from scipy import sparse

from .arrays import einsum, is_numpy, is_on_cpu, like, namespace, take
from .rows import NUMBERS_ON_DEVICE
from .tasks import NUMBERS_PER_STACK


def predict_by_task(X, shared, own, position):
    """Evaluate z = x'coef + intercept of each row, (n_rows, k), with the parameters of its own task.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_rows, n_features)
        Rows.
    shared : (ndarray of shape (k, n_features), ndarray of shape (k,))
        Coefficients and intercepts for rows of no known task.
    own : (ndarray of shape (m, k, n_features), ndarray of shape (m, k)) or None
        Coefficients and intercepts of the tasks.
    position : ndarray of shape (n_rows,) or None
        The row's task, in 0, ..., m - 1, or -1; None is -1 for all.
    """
    coef, intercept = shared

    def of_task(rows, task):
        coef, intercept = (take(numbers, task) for numbers in own)
        return _row_products(X[rows, :], coef) + intercept

    return _by_task(X @ coef.T + intercept, position, math.prod(coef.shape), of_task)


def predictive_std(X, prior, task_scatter, position):
    """Standard deviation of each row's y around its prediction, (n_rows, k): sqrt(s2 (1 + x'G x)).

    Parameters
    ----------
    X : ndarray of shape (n_rows, d)
        Rows, with a column of ones if there is an intercept.
    prior : Prior
        G, the scatter of tasks in units of the noise, and the noise s2, (k,).
    task_scatter : ndarray of shape (m, d, d) or None
        What adaptation left of G, for each task.
    position : ndarray of shape (n_rows,) or None
        As in :func:`predict_by_task`.
    """
    scatter = einsum("nd,nd->n", X @ like(prior.covariance(), X), X)[:, None]

    def of_task(rows, task):
        return einsum("nd,nde,ne->n", X[rows, :], take(task_scatter, task), X[rows, :])[:, None]

    scatter = _by_task(scatter, position, X.shape[1] ** 2, of_task)
    return namespace(X).sqrt(like(prior.noise, X) * (1 + scatter))


def _by_task(shared, position, size, of_task):
    """What all rows have, (n_rows, k), but ``of_task(rows, tasks)`` for rows of known tasks, which have `size` numbers.

    In chunks of rows, so that no more than some tasks' numbers are repeated for their rows.
    """
    if position is None or not np.any(position >= 0):
        return shared
    xp, parts = namespace(shared), []
    chunk = max(1, (NUMBERS_PER_STACK if is_on_cpu(shared) else NUMBERS_ON_DEVICE) // size)
    for start in range(0, len(position), chunk):
        rows = slice(start, min(start + chunk, len(position)))
        part, known = shared[rows, :], position[rows] >= 0
        if np.any(known):
            part = xp.where(like(known[:, None], part), of_task(rows, position[rows].clip(0)), part)
        parts.append(part)
    return xp.concat(parts)


def _row_products(X, coef):
    """x_r'coef_r for rows X (n, d), dense or sparse, and coefficients (n, k, d) of their own."""
    if sparse.issparse(X):
        return np.stack([np.asarray(X.multiply(column).sum(axis=1)).ravel() for column in coef.swapaxes(0, 1)], axis=1)
    X = np.ascontiguousarray(X) if is_numpy(X) else X  # sums in one order, whatever the container
    return einsum("nd,nkd->nk", X, coef)
