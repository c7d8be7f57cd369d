"""Statistics of tasks: all that the squared loss needs to know of their rows, made where the rows are and added up."""

import numpy as np

from .groups import merge_tasks
from .tasks import LARGEST_MATRIX, QuadraticTasks


class TaskStatistics:
    """What meta-training with the squared loss needs to know of the rows of tasks: d x d numbers for each task.

    Made by :func:`task_statistics`. ``+`` merges the statistics of other rows, whether of the same tasks or of others,
    in any order: it is the same, to rounding, as the statistics of all rows at once. ``sum(parts)`` does so with many,
    :meth:`merge` faster, and for parts that come one by one. They are pickled to about ``nbytes``.

    Attributes
    ----------
    tasks : ndarray of shape (n_tasks,) or None
        The ids of the tasks, sorted; None if all rows are one task.
    weight : ndarray of shape (n_tasks,)
        Total weight of each task's rows: their number, unless they were weighted.
    n_tasks, n_features, n_outputs : int
        Numbers of tasks, features and columns of y.
    feature_names : ndarray of shape (n_features,) or None
        The names of the features, if X had names that are all strings.
    nbytes : int
        Memory: 8 (n_features + 1) (n_features + 1 + n_outputs) bytes for each task, and a little.

    See Also
    --------
    task_statistics : Makes them.
    MAMLRegressor.fit_statistics : Fits to them.
    """

    def __init__(self, quadratics, tasks, feature_names, dtype, one_output):
        # always with a column of ones, so that an estimator with or without intercept can use them; no penalty
        self._quadratics, self.tasks, self.feature_names = quadratics, tasks, feature_names
        self._dtype, self._one_output = dtype, one_output  # of coef_, as after `fit`

    @classmethod
    def _of_rows(cls, rows, tasks, feature_names, one_output):
        """Statistics of :class:`TaskRows`, in the loss of these rows.

        Raises
        ------
        ValueError
            If there are too many features.
        """
        d = rows.X.shape[1] + 1
        if d > LARGEST_MATRIX:
            raise ValueError(
                f"statistics are d x d numbers for each task, too many for {d} parameters: use fit, not partial_fit or "
                "task_statistics"
            )
        return cls(rows.with_intercept().all_statistics(), tasks, feature_names, rows.X.dtype, one_output)

    @classmethod
    def _of_no_row(cls, n_features, n_outputs, tasks, feature_names):
        """Statistics of an empty table."""
        d, k = n_features + 1, n_outputs
        numbers = map(np.zeros, [(0, d, d), (0, d, k), (0, k), (0,), (d, 1)])
        return cls(QuadraticTasks(*numbers), tasks, feature_names, np.float64, True)

    @property
    def _output(self):
        """The type of coef_, and whether y had one dimension: what `fit` knows of X and y beside."""
        return self._dtype, self._one_output

    @property
    def weight(self):
        return self._quadratics.weight

    @property
    def n_tasks(self):
        return len(self._quadratics.weight)

    @property
    def n_features(self):
        return self._quadratics.shape[1] - 1

    @property
    def n_outputs(self):
        return self._quadratics.shape[2]

    @property
    def nbytes(self):
        q = self._quadratics
        return sum(numbers.nbytes for numbers in (q.H, q.C, q.b, q.weight, q.scale))

    def __repr__(self):
        return (
            f"TaskStatistics(n_tasks={self.n_tasks}, n_features={self.n_features}, n_outputs={self.n_outputs}, "
            f"weight={self.weight.sum():.12g}, nbytes={self.nbytes})"
        )

    def __add__(self, other):
        if not isinstance(other, TaskStatistics):
            return NotImplemented
        self._check_like(other)
        if not self.n_tasks or not other.n_tasks:
            return self if self.n_tasks else other
        key, tasks = [0, 0], None
        if self.tasks is not None:
            key, tasks = merge_tasks(self.tasks, other.tasks)
        return TaskStatistics(
            QuadraticTasks.concatenate([self._quadratics, other._quadratics]).reduce(key),
            tasks,
            self.feature_names,
            np.result_type(self._dtype, other._dtype),
            self._one_output and other._one_output,
        )

    def __radd__(self, other):
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where sum() begins

    @staticmethod
    def merge(parts):
        """Add up any number of statistics, which may come one by one.

        Parts of similar size are added first, so that a stream of many small parts is not copied for each of them.

        Parameters
        ----------
        parts : iterable of TaskStatistics
            The parts, at least one.

        Returns
        -------
        statistics : TaskStatistics
            Their sum.

        Raises
        ------
        ValueError
            If there is no part, or if parts have different features or outputs.
        """
        sums = []
        for part in parts:
            sums.append(part)
            while len(sums) > 1 and sums[-2].n_tasks <= sums[-1].n_tasks:
                last = sums.pop()
                sums[-1] = sums[-1] + last
        if not sums:
            raise ValueError("there are no statistics to merge")
        return sum(reversed(sums))

    def _check_like(self, other):
        for name in ("n_features", "n_outputs"):
            one, two = getattr(self, name), getattr(other, name)
            if one != two:
                raise ValueError(f"statistics of {name}={one} and of {name}={two} cannot be added")
        if not np.array_equal(self.feature_names, other.feature_names):
            raise ValueError(
                f"statistics of features {self.feature_names} and of features {other.feature_names} cannot be added: "
                "give all parts of X the same columns, in the same order"
            )
        if (self.tasks is None) != (other.tasks is None):
            raise ValueError("groups must be given to every call of partial_fit or task_statistics, or to none")

    def _tasks_with(self, l2, fit_intercept):
        """The tasks as a stack of quadratics, with a penalty and with or without an intercept."""
        q, d = self._quadratics, self.n_features + fit_intercept
        penalty = np.append(np.full(self.n_features, float(l2)), np.zeros(int(fit_intercept)))[:, None]
        return QuadraticTasks(q.H[:, :d, :d], q.C[:, :d], q.b, q.weight, penalty, curvature=q.mean_curvature)
