"""From the rows of a table to stacks of tasks: sorted by task, cut into stacks of similar sizes, built one by one."""

import copy
from functools import partial

import numpy as np
from scipy import sparse

from .losses import squared_loss
from .tasks import LARGEST_METRIC, NUMBERS_PER_STACK, BlockDiagonal, FewRowTasks, LinearTasks, QuadraticTasks


class TaskRows:
    """The rows of a table, by task: cuts the tasks into stacks of similar size and builds one stack at a time.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_rows, n_features)
        Features; never copied as a whole.
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
        self.order = np.argsort(codes, kind="stable")
        self.sizes = np.bincount(codes)
        self.starts = np.cumsum(self.sizes) - self.sizes
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
        """The same rows with the squared loss and no penalty."""
        rows = copy.copy(self)
        rows.loss, rows.penalty = squared_loss, np.zeros_like(self.penalty)
        return rows

    def stacks(self, structure):
        """The tasks in stacks of similar sizes: pairs of task numbers and the function that builds the stack."""
        d = self.n_parameters
        if structure == "one quadratic":
            fewest = d if np.any(self.penalty) else 1
            return [(tasks, partial(self.quadratic, tasks)) for tasks in self._cut(lambda n: max(n, fewest) * d)]
        stays_sparse = sparse.issparse(self.X) and d > LARGEST_METRIC
        density, more = (2 + self.X.nnz // self.X.shape[0], d) if stays_sparse else (d, 0)
        return [(tasks, partial(self.linear, tasks)) for tasks in self._cut(lambda n: n * density + more)]

    def _cut(self, numbers):
        """Task numbers in runs of similar sizes; ``numbers(n)`` is how many a task of n rows adds to a stack."""
        by_size = np.argsort(self.sizes, kind="stable")
        sizes = self.sizes[by_size]
        start, runs = 0, []
        while start < len(sizes):
            longest = int(1.25 * sizes[start])
            n_tasks = max(1, NUMBERS_PER_STACK // numbers(longest))
            stop = min(np.searchsorted(sizes, longest, side="right"), start + n_tasks)
            runs.append(by_size[start:stop])
            start = stop
        return runs

    def _gather(self, rows, weight, kind=LinearTasks):
        """A stack of the rows given by number, shape (m, n)."""
        m, n = rows.shape
        if sparse.issparse(self.X):
            X = self.X[rows.ravel()].astype(np.float64)
            if self.fit_intercept:
                X = sparse.hstack([X, np.ones((m * n, 1))], format="csr")
            X = BlockDiagonal.from_rows(X, m)
        else:
            X = np.ones((m, n, self.n_parameters))
            X[..., : self.X.shape[1]] = self.X[rows]
        return kind(X, self.Y[rows], weight, self.loss, self.penalty)

    def linear(self, tasks, kind=LinearTasks):
        """The stack of these tasks, row by row; short tasks are padded with their first row, of weight zero."""
        sizes = self.sizes[tasks][:, None]
        position = np.arange(sizes.max())
        padding = position >= sizes
        rows = self.order[self.starts[tasks][:, None] + np.where(padding, 0, position)]
        return self._gather(rows, np.where(padding, 0.0, self.weight[rows]), kind)

    def all_statistics(self):
        """Statistics of all tasks, in order."""
        stacks = self.stacks("one quadratic")
        parts = QuadraticTasks.concatenate([self.statistics(tasks) for tasks, _ in stacks])
        return parts.reduce(np.concatenate([tasks for tasks, _ in stacks]))

    def quadratic(self, tasks):
        """The stack of these tasks in its smaller form: statistics if a task has more rows than parameters."""
        if self.sizes[tasks].max() < self.n_parameters:
            return self.linear(tasks, FewRowTasks)
        return self.statistics(tasks)

    def statistics(self, tasks):
        """The stack of these tasks as statistics; a task too large for one stack is summed up in parts."""
        if len(tasks) > 1:
            return self.linear(tasks).quadratic()
        start, size = self.starts[tasks[0]], self.sizes[tasks[0]]
        n_parts = min(size, 1 + size * self.n_parameters // NUMBERS_PER_STACK)
        parts = []
        for rows in np.array_split(self.order[start : start + size], n_parts):
            parts.append(self._gather(rows[None], self.weight[rows][None]).quadratic())
        return QuadraticTasks.concatenate(parts).reduce(np.zeros(n_parts, dtype=int))
