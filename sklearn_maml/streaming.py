"""Meta-training from batches of rows that come one after the other: `partial_fit`."""

import copy
import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ._validation import Matrix
from ._warnings import warn_of_one_task, warn_unless_converged
from .arrays import to_host
from .statistics import CollapsedStatistics, TaskStatistics
from .tasks import LARGEST_METRIC
from .training import losses_of_collapsed

_NEW_STREAM = (
    "{}.partial_fit starts anew: fit and adapt keep no statistics of their rows that it could go on from. Meta-train "
    "by partial_fit alone, or by fit alone."
)


class StreamingMixin:
    """The `partial_fit` of :class:`BiMAMLMixin`, which does the rest: what a stream remembers is in `_stream`."""

    _validate_params: Any  # scikit-learn's

    def partial_fit(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Meta-train on one more batch of rows.

        With the squared loss the result is that of `fit` on all rows so far, to rounding, in whatever chunks and order
        they came, the rows of a task spread over any number of them: what is kept of a task is d x d numbers. With
        other losses it is one step of gradient descent on the batch's F (for ``algorithm="bimaml"``, on its f until
        norm(grad f) <= switch_tol on some batch), from the last `coef_`.

        Parameters
        ----------
        X, y, groups, sample_weight :
            As in :meth:`fit`. With ``groups=None`` all rows of all batches are one task.

        Returns
        -------
        self : object
            The estimator, fitted to everything so far.

        Raises
        ------
        ValueError
            As :meth:`fit`.

        Warns
        -----
        SingleTaskWarning
            If `groups` is None.
        UserWarning
            With the squared loss, if the estimator was fitted by `fit` or `adapt`: they keep no statistics to go on
            from, so that a new stream starts.
        """
        self._validate_params()
        warn_of_one_task(self, groups)
        return self._partial_fit(X, y, groups, sample_weight)

    def _partial_fit(self, X, y, groups, sample_weight, classes=None):
        self._check_adaptation()
        if self.task_structure == "quadratic":
            first, meta_train_on = not hasattr(self, "_stream"), StreamingMixin._add_statistics
        else:
            first, meta_train_on = not hasattr(self, "coef_"), StreamingMixin._descend_once
        if first and hasattr(self, "coef_"):
            warnings.warn(_NEW_STREAM.format(type(self).__name__), UserWarning, stacklevel=3)
        new = self._without_fit() if first else copy.copy(self)
        X, y, weight, codes, tasks = new._check_rows(X, y, groups, sample_weight, reset=first)
        if first:
            new._learn_target(y if classes is None else classes)
        elif classes is not None and not np.array_equal(np.unique(classes), new.classes_):
            raise ValueError(f"classes={classes!r} differ from those of the first call, {new.classes_}")
        result = meta_train_on(new, new._task_rows(X, y, weight, codes), tasks)
        new._set_fit(result, X, y.ndim == 1)
        return self._take_fit_of(new)

    def _add_statistics(self, rows, tasks):
        """Add the statistics of these rows to those before, and solve anew."""
        former, w0 = getattr(self, "_stream", (0, None))
        w0 = w0 if w0 is None else to_host(w0)  # which may have been moved with the estimator
        statistics = former + self._statistics(rows, tasks)
        if w0 is None or len(w0) != rows.n_parameters:  # fit_intercept may have been changed
            w0 = self._start(rows)
        self._stream = statistics, w0
        quadratics = statistics._tasks_with(self.l2_regularization_, self.fit_intercept)
        return self._meta_train_on(quadratics, w0, stacklevel=6)

    def _statistics(self, rows, tasks, one_output=True):
        return TaskStatistics._of_rows(rows, tasks, getattr(self, "feature_names_in_", None), one_output)

    def _meta_train_on(self, tasks, w0, stacklevel):
        """Meta-train on the statistics of tasks, which may have been collapsed."""
        if isinstance(tasks, CollapsedStatistics):
            result = self._descend(losses_of_collapsed(tasks), w0)
        else:
            stacks = self._learn_prior(tasks) or tasks.stacks()
            result = self._meta_train(stacks, w0, "one quadratic")
        warn_unless_converged(result, stacklevel)
        return result

    def _descend_once(self, rows, tasks):
        """One step of gradient descent on these rows: on f until its gradient was small once, then on F.

        With inner_step_size="auto" statistics of the tasks are kept, to learn their prior from all rows so far; after
        `fit`, which keeps none, the prior stays that of `fit`.
        """
        phase, switch_tol, statistics = getattr(self, "_stream", (1, self.switch_tol, 0))
        from_the_start = statistics != 0 or not hasattr(self, "coef_")
        if self._learns_prior() and from_the_start and rows.n_parameters <= LARGEST_METRIC:
            statistics = statistics + self._statistics(rows.with_squared_loss(), tasks)
            self._learn_prior(statistics._tasks_with(0.0, self.fit_intercept))
        elif self._learns_prior() and not hasattr(self, "_prior"):
            self._set_prior(None)
        once = {"solver": "gd", "max_iter": 1, "switch_tol": switch_tol}
        if self.algorithm == "bimaml" and phase == 2:
            once["algorithm"] = "maml"
        w0 = to_host(self._parameters()) if hasattr(self, "coef_") else self._start(rows)
        result = self._meta_train(rows.stacks(self.task_structure), w0, self.task_structure, **once)
        self._stream = result.history["phase"][-1], result.switch_tol, statistics
        return result
