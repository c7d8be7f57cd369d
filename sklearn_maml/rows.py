"""From the rows of a table to stacks of tasks: sorted by task, cut into stacks of similar sizes, built one by one."""

import copy
from functools import cache, partial

import numpy as np
from scipy import sparse

from .arrays import InParts, in_double, is_numpy, is_on_cpu, like, namespace, take
from .groups import rows_by_task
from .losses import squared_loss
from .tasks import (
    LARGEST_METRIC,
    NUMBERS_IN_CACHE,
    NUMBERS_PER_STACK,
    BlockDiagonal,
    FewRowTasks,
    LinearTasks,
    QuadraticTasks,
    stays_rows,
)

LARGEST_SUM = 1_000_000
"""Most numbers of rows that are made one d x d matrix at once."""
NUMBERS_ON_DEVICE = 8_000_000
"""Size of stacks and parts in the memory of a device: every call there has its price, and caches have none."""


class TaskRows:
    """The rows of a table, by task: cuts the tasks into stacks of similar size and builds one stack at a time.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_rows, n_features)
        Features; never copied as a whole. Of an array of another library, `Y` and `weight` are where it is.
    Y : ndarray of shape (n_rows, k)
        Targets.
    weight : ndarray of shape (n_rows,)
        Positive row weights.
    codes : ndarray of shape (n_rows,)
        Each row's task, in 0, ..., n_tasks - 1; every task has a row.
    loss : callable
        Pointwise loss.
    l2 : float
        Ridge penalty of the coefficients. The intercept is free.
    fit_intercept : bool
        Whether the last parameter is an intercept: the column of ones is appended here and nowhere else.
    """

    def __init__(self, X, Y, weight, codes, loss, l2, fit_intercept):
        self.X, self.Y, self.weight, self.loss = X, Y, weight, loss
        self.order, self.starts = rows_by_task(codes)
        self.sizes = np.diff(self.starts)
        self.fit_intercept = fit_intercept
        self.n_parameters = X.shape[1] + fit_intercept
        self.penalty = np.full((self.n_parameters, 1), float(l2))
        if fit_intercept:
            self.penalty[-1] = 0.0

    @property
    def shape(self):
        """Numbers of tasks, parameters and outputs."""
        return len(self.sizes), self.n_parameters, self.Y.shape[1]

    def with_squared_loss(self):
        """The same rows with the squared loss and no penalty: itself, if it has these."""
        if self.loss is squared_loss and not np.any(self.penalty):
            return self
        rows = copy.copy(self)
        rows.loss, rows.penalty = squared_loss, np.zeros_like(self.penalty)
        return rows

    def with_intercept(self):
        """The same rows with an intercept and no penalty."""
        rows = copy.copy(self)
        rows.fit_intercept, rows.n_parameters = True, self.X.shape[1] + 1
        rows.penalty = np.zeros((rows.n_parameters, 1))
        return rows

    def stacks(self, structure):
        """The tasks in stacks of similar sizes: pairs of task numbers and the function that builds the stack."""
        d = self.n_parameters
        if structure == "one quadratic":
            fewest = d if np.any(self.penalty) else 1
            most = min(max(NUMBERS_IN_CACHE, d * d), LARGEST_SUM)  # not many sums of d x d numbers
            cut = self._cut(lambda n: max(min(n, d), fewest) * d, self._most(most))
            return [(tasks, partial(self.quadratic, tasks)) for tasks in cut]
        stays_sparse = sparse.issparse(self.X) and d > LARGEST_METRIC
        density, more = (2 + self.X.nnz // self.X.shape[0], d) if stays_sparse else (d, 0)
        cut = self._cut(lambda n: n * density + more, self._most(NUMBERS_PER_STACK))
        return [(tasks, partial(self.linear, tasks)) for tasks in cut]

    def kept_stacks(self):
        """The same for the squared loss, to be built repeatedly: statistics, few numbers that take long, are kept."""
        stacks = self.stacks("one quadratic")
        return [(tasks, build if self._stay_rows(tasks) else cache(build)) for tasks, build in stacks]

    def _most(self, numbers):
        """Most numbers at once, given how many the processor's cache holds."""
        return numbers if is_on_cpu(self.Y) else NUMBERS_ON_DEVICE

    def _cut(self, numbers, most):
        """Task numbers in runs of similar sizes, `most` numbers in each; a task of n rows counts for ``numbers(n)``."""
        by_size = np.argsort(self.sizes, kind="stable")
        sizes = self.sizes[by_size]
        start, runs = 0, []
        while start < len(sizes):
            longest = int(1.25 * sizes[start])
            n_tasks = max(1, most // numbers(longest))
            stop = min(np.searchsorted(sizes, longest, side="right"), start + n_tasks)
            runs.append(by_size[start:stop])
            start = stop
        return runs

    def _rows_of(self, tasks):
        """Numbers of the rows of these tasks and their weights, (m, n); short ones padded with their first row."""
        sizes = self.sizes[tasks][:, None]
        position = np.arange(sizes[-1, 0] if len(tasks) == 1 else sizes.max())
        padding = position >= sizes
        rows = self._numbers(self.starts[tasks][:, None] + np.where(padding, 0, position))
        weight = _take(self.weight, rows)
        return rows, namespace(weight).where(like(padding, weight), 0.0, weight)

    def _numbers(self, positions):
        """Numbers of the rows at these positions among the rows sorted by task."""
        return positions if self.order is None else self.order[positions]

    def _features(self, rows):
        """The rows of X given by number, (m, n), in double precision: a view of X where it can be."""
        if not is_numpy(self.Y):
            return in_double(_take(self.X, rows))
        m, rows = len(rows), rows.ravel()
        if _are_adjacent(rows):
            X = self.X[rows[0] : rows[-1] + 1]
        elif sparse.issparse(self.X) or not self.X.flags.c_contiguous:
            X = self.X[rows]
        else:
            X = np.take(self.X, rows, axis=0)  # four times faster, but it would copy all of any other X
        if sparse.issparse(X):
            return BlockDiagonal.from_rows(X.astype(np.float64), m)
        return np.ascontiguousarray(X, dtype=np.float64).reshape(m, len(rows) // m, -1)

    def linear(self, tasks, kind=LinearTasks):
        """The stack of these tasks, row by row; short tasks are padded with their first row, of weight zero."""
        rows, weight = self._rows_of(tasks)
        X = self._features(rows)
        if self.fit_intercept:
            xp = namespace(self.Y)
            X = X.with_ones() if sparse.issparse(self.X) else xp.concat([X, xp.ones_like(X[..., :1])], axis=2)
        return kind(X, _take(self.Y, rows), weight, self.loss, like(self.penalty, self.Y))

    def all_statistics(self):
        """Statistics of all tasks, in order, in NumPy."""
        whole = [InParts(len(self.sizes)) for _ in range(5)]  # they can be larger than the rows: one copy of them
        for tasks, _ in self.stacks("one quadratic"):
            part = self.statistics(tasks).on_host()
            for numbers, some in zip(whole, part._numbers, strict=True):
                numbers.add(tasks, some)
        H, C, b, weight, scale = (numbers.whole() for numbers in whole)
        return QuadraticTasks(H, C, b, weight, part.penalty, scale, part.mean_curvature)

    def quadratic(self, tasks):
        """The stack of these tasks in its smaller form: statistics if a task has more rows than parameters."""
        return self.linear(tasks, FewRowTasks) if self._stay_rows(tasks) else self.statistics(tasks)

    def _stay_rows(self, tasks):
        return stays_rows(self.sizes[tasks].max(), self.n_parameters, np.any(self.penalty))

    def statistics(self, tasks):
        """The stack of these tasks as statistics, from parts that fit the cache."""
        parts, key, penalty = [], [], like(self.penalty, self.Y)
        for part, rows, weight in self._parts(tasks):
            X, Y = self._features(rows), _take(self.Y, rows)
            parts.append(QuadraticTasks.of_rows(X, Y, weight, self.loss, penalty, self.fit_intercept))
            key.append(part)
        return parts[0] if len(parts) == 1 else QuadraticTasks.concatenate(parts).reduce(np.concatenate(key))

    def _parts(self, tasks):
        """Positions in `tasks`, numbers of rows and weights, (m, n): of several tasks, or of a part of a large one."""
        m, size = len(tasks), self.sizes[tasks].max() * self.n_parameters
        copied = self.order is not None or np.any(np.diff(tasks) != 1) or np.any(np.diff(self.sizes[tasks]))
        most = self._most(NUMBERS_IN_CACHE if copied else LARGEST_SUM)
        for part in np.array_split(np.arange(m), min(m, 1 + m * size // most)):
            if len(part) > 1 or size <= most:
                yield part, *self._rows_of(tasks[part])
                continue
            start, stop = self.starts[tasks[part[0]] : tasks[part[0]] + 2]
            n_rows = max(1, most // self.n_parameters)
            for first in range(start, stop, n_rows):
                rows = self._numbers(np.arange(first, min(stop, first + n_rows)))
                yield part, rows[None], _take(self.weight, rows[None])


def _are_adjacent(rows):
    """Whether rows, given by number, lie one after the other."""
    return rows[-1] - rows[0] == len(rows) - 1 and np.all(rows[1:] > rows[:-1])


def _take(table, rows):
    """Rows of Y or the weights, or of X on a device, given by number, (m, n)."""
    if is_numpy(table):
        return table[rows]
    flat = rows.ravel()
    part = table[int(flat[0]) : int(flat[-1]) + 1, ...] if _are_adjacent(flat) else take(table, flat)
    return namespace(part).reshape(part, (*rows.shape, *table.shape[1:]))
