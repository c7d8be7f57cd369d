"""Statistics of tasks: all that the squared loss needs to know of their rows, made where the rows are and added up."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import reduce
from operator import add, iadd
from typing import Any, Self, TypeVar

import numpy as np

from .arrays import namespace
from .groups import merge_tasks
from .tasks import LARGEST_MATRIX, QuadraticTasks

Part = TypeVar("Part", bound="Summable")


class Summable(ABC):
    """What can be made where rows are, and added up: has n_tasks, n_features, n_outputs and feature_names."""

    def __add__(self, other: Self) -> Self:
        if type(other) is not type(self):
            return NotImplemented
        self._check_like(other)
        if not self.n_tasks or not other.n_tasks:
            return self if self.n_tasks else other
        return self._plus(other)

    def __radd__(self, other: int) -> Self:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where sum() begins

    @property
    @abstractmethod
    def n_tasks(self) -> int:
        """The number of tasks; 0 if they are of no row."""

    @abstractmethod
    def _plus(self, other):
        """The sum; each of the two has a task."""

    @staticmethod
    def merge(parts: Iterable[Part]) -> Part:
        """Add up any number of parts, which may come one by one.

        Parts of similar size are added first, so that a stream of many small parts is not copied for each of them.

        Parameters
        ----------
        parts : iterable
            The parts, at least one, all of them of this class.

        Returns
        -------
        total : object
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
        return reduce(add, reversed(sums))

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


class TaskStatistics(Summable):
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
    MAMLRegressor.collapse_statistics : Makes less of them, if the inner step is given and the tasks are whole.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import task_statistics
    >>> X, y, groups = np.arange(8.0).reshape(4, 2), [1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]
    >>> statistics = task_statistics(X[:3], y[:3], groups[:3]) + task_statistics(X[3:], y[3:], groups[3:])
    >>> statistics.tasks.tolist(), statistics.weight.tolist()
    (['a', 'b'], [2.0, 2.0])
    """

    def __init__(
        self,
        quadratics: QuadraticTasks,
        tasks: np.ndarray | None,
        feature_names: np.ndarray | None,
        dtype: Any,
        one_output: bool,
    ):
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
        dtype = np.float32 if rows.X.dtype == namespace(rows.X).float32 else np.float64
        with np.errstate(over="ignore", invalid="ignore"):  # fitting looks for numbers that are not finite
            statistics = rows.with_intercept().all_statistics()
        return cls(statistics, tasks, feature_names, dtype, one_output)

    @classmethod
    def _of_no_row(cls, n_features, n_outputs, tasks, feature_names):
        """Statistics of an empty table."""
        d, k = n_features + 1, n_outputs
        numbers = map(np.zeros, [(0, d, d), (0, d, k), (0, k), (0,), (d, 1)])
        return cls(QuadraticTasks(*numbers), tasks, feature_names, np.float64, True)

    @property
    def _output(self):
        """An array of the type of coef_, and whether y had one dimension: what `fit` knows of X and y beside."""
        return np.empty(0, self._dtype), self._one_output

    @property
    def weight(self) -> np.ndarray:
        """Total weight of each task's rows: their number, unless they were weighted; of shape (n_tasks,)."""
        return self._quadratics.weight

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return len(self._quadratics.weight)

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self._quadratics.shape[1] - 1

    @property
    def n_outputs(self) -> int:
        """Number of columns of y."""
        return self._quadratics.shape[2]

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        q = self._quadratics
        return sum(numbers.nbytes for numbers in (q.H, q.C, q.b, q.weight, q.scale))

    def __repr__(self):
        return (
            f"TaskStatistics(n_tasks={self.n_tasks}, n_features={self.n_features}, n_outputs={self.n_outputs}, "
            f"weight={self.weight.sum():.12g}, nbytes={self.nbytes})"
        )

    def _plus(self, other):
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

    def _check_like(self, other):
        super()._check_like(other)
        if (self.tasks is None) != (other.tasks is None):
            raise ValueError("groups must be given to every call of partial_fit or task_statistics, or to none")

    def _tasks_with(self, l2, fit_intercept):
        """The tasks as a stack of quadratics, with a penalty and with or without an intercept."""
        q, d = self._quadratics, self.n_features + fit_intercept
        penalty = np.append(np.full(self.n_features, float(l2)), np.zeros(int(fit_intercept)))[:, None]
        return QuadraticTasks(q.H[:, :d, :d], q.C[:, :d], q.b, q.weight, penalty, curvature=q.mean_curvature)


class CollapsedStatistics(Summable):
    """What meta-training with a GIVEN inner step needs to know of WHOLE tasks: d x d numbers for all of them together.

    Made by :meth:`MAMLRegressor.collapse_statistics`: the mean losses before and after adaptation, f and F, each of
    which is one quadratic. ``+``, ``sum(parts)`` and :meth:`merge` add those of other tasks. They know the number of
    their tasks, but not which they are: a task whose rows are in two parts would count as two tasks, and nobody would
    notice.

    Attributes
    ----------
    n_tasks, n_features, n_outputs : int
        Numbers of tasks, features and columns of y.
    feature_names : ndarray of shape (n_features,) or None
        The names of the features, if X had names that are all strings.
    parameters : dict
        What they were made for: the parameters of the estimator that decide f and F. One with others cannot be fitted
        to them.
    nbytes : int
        Memory: 16 d (d + k + 1) bytes and a little, for d parameters and k outputs, whatever the number of tasks; half
        as much again for ``algorithm="fomaml"``.

    See Also
    --------
    MAMLRegressor.fit_statistics : Fits to them.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor, task_statistics
    >>> X, y, groups = np.arange(8.0).reshape(4, 2), [1.0, 2.0, 3.0, 4.0], ["a", "a", "b", "b"]
    >>> model = MAMLRegressor(inner_step_size=0.01)
    >>> parts = (task_statistics(X[rows], y[rows], groups[rows]) for rows in (slice(0, 2), slice(2, 4)))
    >>> collapsed = sum(model.collapse_statistics(part) for part in parts)
    >>> collapsed.n_tasks
    2
    >>> np.allclose(model.fit_statistics(collapsed).coef_, model.fit(X, y, groups=groups).coef_)
    True
    """

    def __init__(
        self,
        sums: list,
        n_features: int,
        n_outputs: int,
        feature_names: np.ndarray | None,
        output: tuple[np.ndarray, bool],
        parameters: dict[str, Any],
    ):
        self._sums, self._output = sums, output  # no sums of no task
        self.n_features, self.n_outputs, self.feature_names = n_features, n_outputs, feature_names
        self.parameters = parameters

    @property
    def n_tasks(self) -> int:
        """Number of tasks."""
        return self._sums[0].n_tasks if self._sums else 0

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of tasks, parameters and outputs, as of the tasks themselves."""
        return self.n_tasks, self.n_features + self.parameters["fit_intercept"], self.n_outputs

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(numbers.nbytes for each in self._sums for numbers in (each.A, each.b, each.scale))

    def __repr__(self):
        return (
            f"CollapsedStatistics(n_tasks={self.n_tasks}, n_features={self.n_features}, n_outputs={self.n_outputs}, "
            f"parameters={self.parameters}, nbytes={self.nbytes})"
        )

    def _plus(self, other):
        (array, one_output), (other_array, other_one_output) = self._output, other._output
        return CollapsedStatistics(
            [iadd(copy.deepcopy(one), two) for one, two in zip(self._sums, other._sums, strict=True)],
            self.n_features,
            self.n_outputs,
            self.feature_names,
            (np.empty(0, np.result_type(array, other_array)), one_output and other_one_output),
            self.parameters,
        )

    def _check_like(self, other):
        super()._check_like(other)
        self._check_made_for(other.parameters, "others for")

    def _check_made_for(self, parameters, name):
        """Raise unless these are the parameters they were made for."""
        for key, value in self.parameters.items():
            if not np.array_equal(value, parameters[key]):
                raise ValueError(
                    f"the statistics were collapsed for {key}={value!r}, {name} {key}={parameters[key]!r}: "
                    "collapse all parts with the estimator that is to be fitted"
                )
