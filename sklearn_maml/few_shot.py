"""Few-shot errors on held-out tasks: draws of support and query, fits without a task, adaptation and its errors."""

from functools import partial
from hashlib import shake_128
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np
from scipy import sparse
from sklearn.base import clone

from ._validation import check_inner_step_size
from .losses import squared_loss
from .meta import adapt
from .rows import TaskRows
from .steps import inner_step

IN_CACHE = 50_000
"""Numbers of the matrices that are worked on together."""
RIDGE = 1e-10
"""Ridge, relative to the curvature, that makes the minimiser without a task unique."""


class Table(NamedTuple):
    """Validated rows, and the numbers 0, ..., n_tasks - 1 of their tasks."""

    X: np.ndarray | sparse.csr_matrix
    Y: np.ndarray
    weight: np.ndarray
    codes: np.ndarray
    fit_intercept: bool

    @property
    def n_tasks(self):
        return 1 + self.codes.max()

    def take(self, kept):
        """Some of the rows, and the numbers that their tasks have here."""
        tasks, codes = np.unique(self.codes[kept], return_inverse=True)
        return Table(self.X[kept], self.Y[kept], self.weight[kept], codes, self.fit_intercept), tasks

    def by_task(self, l2):
        return TaskRows(self.X, self.Y, self.weight, self.codes, squared_loss, l2, self.fit_intercept)


def row_priorities(table, n_repeats, seed):
    """Random numbers (n_repeats, n_rows), a hash of each row: equal rows have equal ones, whatever else there is."""
    n_rows, n_features = table.X.shape
    starts = range(0, n_rows, 1 + IN_CACHE // n_features)
    rows = chain.from_iterable(_as_bytes(table, slice(start, start + starts.step)) for start in starts)
    seed = seed.to_bytes(8, "little")
    hashes = b"".join(shake_128(seed + row).digest(8 * n_repeats) for row in rows)
    return np.frombuffer(hashes, dtype=np.uint64).reshape(-1, n_repeats).T


def _as_bytes(table, part):
    """Each of these rows as bytes: its targets, and its features that are not zero."""
    X = sparse.csr_array(table.X[part], dtype=np.float64, copy=True)
    X.sum_duplicates()
    X.eliminate_zeros()
    width, stops = 8 * table.Y.shape[1], 8 * X.indptr.astype(np.int64)
    targets, columns, numbers = (
        np.ascontiguousarray(each).tobytes() for each in (table.Y[part] + 0.0, X.indices.astype(np.int64), X.data)
    )
    for i, (a, b) in enumerate(pairwise(stops.tolist())):
        yield targets[i * width : (i + 1) * width] + columns[a:b] + numbers[a:b]


def in_support(codes, weight, priority, n_support):
    """Which rows of each task are drawn: in order of priority, equal rows at once, until their weight is enough."""
    order = np.lexsort([priority, codes])
    codes, priority, weight = codes[order], priority[order], weight[order]
    new_task = np.r_[True, codes[1:] != codes[:-1]]
    new_row = new_task | np.r_[True, priority[1:] != priority[:-1]]
    before = np.cumsum(weight) - weight
    of_row, of_task = (np.maximum.accumulate(np.where(new, before, 0.0)) for new in (new_row, new_task))
    support = np.empty(len(order), dtype=bool)
    support[order] = of_row - of_task < n_support * (1 - 1e-9)  # sums of weights are rounded
    return support


@np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are looked for at the end
def fit_others(model, table, train):
    """What held-out tasks are adapted from, parameters (d, k) and prior: by a fit to the rows `train`."""
    rows, _ = table.take(train)
    model = clone(model).fit(rows.X, rows.Y, groups=rows.codes, sample_weight=rows.weight)
    return model._parameters(), model._prior if model._learns_prior() else None


@np.errstate(over="ignore", invalid="ignore")
def pooled_without(table, l2):
    """Statistics of the tasks, and for each the minimiser of f without it, (m, d, k)."""
    tasks = table.by_task(l2).all_statistics()
    return tasks, minimise_others(tasks, None, 0, np.zeros(tasks.shape))


def leave_one_out(model, tasks, pooled):
    """The same for tasks that are each left out by themselves: parameters (m, d, k), in closed form, and no prior."""
    step_size = check_inner_step_size(model.inner_step_size, tasks.shape[1])
    step_of = partial(inner_step, step_size=step_size, adaptation=model.adaptation)
    return minimise_others(tasks, step_of, model.n_inner_steps, pooled), None


@np.errstate(over="ignore", invalid="ignore")
def minimise_others(tasks, step_of, n_steps, centre):
    """For each task the minimiser of the other tasks' losses after adaptation, nearest to `centre`, (m, d, k)."""
    m, d, _ = tasks.shape
    parts = np.array_split(np.arange(m), min(m, -(-m * d * d // IN_CACHE)))
    losses = []
    for part in parts:
        stack = tasks.take(part)
        step = step_of(stack) if n_steps else None
        losses.append((*after_adaptation(stack, step, n_steps), stack.scale))
    elsewhere = [
        sum_of_others(np.array([each.sum(axis=0) for each in numbers])) for numbers in zip(*losses, strict=True)
    ]
    w = np.array(centre)
    for i, part in enumerate(parts):
        A, b, scale = (sum_of_others(own) + other[i] for own, other in zip(losses[i], elsewhere, strict=True))
        scale[scale == 0] = 1.0
        ridge = RIDGE * scale * np.max(np.diagonal(A, axis1=1, axis2=2) / scale, axis=1, keepdims=True, initial=1.0)
        slope = b - A @ w[part]
        A[:, *np.diag_indices(d)] += ridge
        w[part] += np.linalg.solve(A, slope)
    return w


def sum_of_others(numbers):
    """For each entry the sum of all others, added up from both ends: nothing of it is left, not even by rounding."""
    before, after = np.zeros_like(numbers), np.zeros_like(numbers)
    before[1:], after[:-1] = np.cumsum(numbers[:-1], axis=0), np.cumsum(numbers[:0:-1], axis=0)[::-1]
    return before + after


def after_adaptation(tasks, step, n_steps):
    """A = B'HB and b = B'(c - Hu) of tasks with the loss w'Hw / 2 - c'w that are adapted by w -> Bw + u."""
    H, C = tasks.H + np.diagflat(tasks.penalty), tasks.C
    B, HB, u, Hu = np.eye(tasks.shape[1]), H, 0.0, 0.0
    for _ in range(n_steps):
        B, u = B - step.product(HB), u + step.product(C - Hu)
        HB, Hu = H @ B, H @ u
    return B.mT @ HB, B.mT @ (C - Hu)


def few_shot_errors(models, starts, table, held_out, support):
    """Numbers of the tasks that have a query, and their mean squared errors on it, for each model; (n_models, m).

    `held_out` says which rows of the table are held out, `support` which of these are adapted to.
    """
    rows = np.flatnonzero(held_out)
    (given, tasks), (asked, scored) = table.take(rows[support]), table.take(rows[~support])
    errors = np.empty((len(models), len(scored)))
    with np.errstate(over="ignore", invalid="ignore"):
        adapted = [adapt_to(model, given, *start) for model, start in zip(models, starts, strict=True)]
        for numbers, build in asked.by_task(0.0).stacks("quadratic"):
            stack = build()
            for error, W in zip(errors, adapted, strict=True):
                error[numbers] = stack.value(W[np.searchsorted(tasks, scored[numbers])]) / W.shape[2]
    return scored, errors


def adapt_to(model, support, start, prior):
    """Parameters of each task after adaptation to its support, (m, d, k)."""
    rows = support.by_task(model.l2_regularization)
    start = np.broadcast_to(start, rows.shape)
    step_size = check_inner_step_size(model.inner_step_size, rows.n_parameters)
    W = np.empty(rows.shape)
    for numbers, build in rows.stacks(model._structure(rows)):
        tasks = build()
        step = inner_step(tasks, step_size, model.adaptation, prior, tasks.weight)
        W[numbers], _ = adapt(tasks, start[numbers], step, model.n_inner_steps)
    return W
