"""Few-shot score against the number of support rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike

from ..model_selection import adaptation_curve
from .figure import axes_for

LINEAR_UNTIL = 1
"""The axis of support sizes is logarithmic beyond 1 row and linear between 0 and 1, so that 0 has a place on it."""
NARROWEST = 0.05
"""Smallest distance of two ticks, as a share of the axis."""


class AdaptationCurveDisplay:
    """Score on new tasks against the number of rows that were adapted to.

    :meth:`from_estimator` computes and draws it; :meth:`plot` draws it again. Arguments are stored as attributes.

    Parameters
    ----------
    n_support : array-like of shape (n_sizes,)
        Numbers of support rows.
    scores : dict of str to ndarray of shape (n_sizes, n_repeats, n_tasks)
        Scores of each method; NaN where it has none.
    score_name : str, default=None
        Name of the score, such as "r2" or "neg_mean_squared_error".

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of str to Line2D
        The line of each method: the mean score over tasks, each task's the mean over repeats.
    bands_ : dict of str to PolyCollection
        The band of each method: one standard error of that mean to each side, where two tasks or more have a score.
        Repeats of a task are not independent, so that only tasks count. Empty if there is one task.

    See Also
    --------
    sklearn_maml.model_selection.adaptation_curve : What computes the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.inspection import AdaptationCurveDisplay
    >>> scores = {"adapted": np.array([[[0.2, 0.4]], [[0.5, 0.6]]]), "pooled": np.array([[[0.2, 0.3]], [[0.2, 0.3]]])}
    >>> display = AdaptationCurveDisplay(n_support=[0, 5], scores=scores, score_name="r2").plot()
    >>> display.lines_["adapted"].get_ydata().round(2).tolist()
    [0.3, 0.55]
    """

    def __init__(self, *, n_support: ArrayLike, scores: dict[str, np.ndarray], score_name: str | None = None):
        self.n_support = n_support
        self.scores = scores
        self.score_name = score_name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        groups: ArrayLike,
        *,
        n_support: Sequence[int] = (0, 1, 2, 5, 10),
        cv: Any = None,
        scoring: Any = None,
        n_repeats: int = 5,
        baselines: Iterable[Literal["pooled", "alone"]] | Mapping[str, Any] = ("pooled", "alone"),
        on_small_task: Literal["raise", "skip"] = "raise",
        n_jobs: int | None = None,
        verbose: int = 0,
        random_state: Any = 0,
        ax: Any = None,
        negate_score: bool = False,
        score_name: str | None = None,
    ) -> Self:
        """Compute the curve of an estimator and of baselines on tasks it was not fitted to, and draw it.

        Parameters
        ----------
        estimator, X, y, groups, n_support, cv, scoring, n_repeats, baselines, on_small_task, n_jobs, verbose, \
random_state :
            See :func:`sklearn_maml.model_selection.adaptation_curve`.
        ax, negate_score, score_name :
            See :meth:`plot`.

        Returns
        -------
        display : AdaptationCurveDisplay
            The picture and its numbers.
        """
        curve = adaptation_curve(
            estimator,
            X,
            y,
            groups,
            n_support=n_support,
            cv=cv,
            scoring=scoring,
            n_repeats=n_repeats,
            baselines=baselines,
            on_small_task=on_small_task,
            n_jobs=n_jobs,
            verbose=verbose,
            random_state=random_state,
        )
        display = cls(n_support=curve.n_support, scores=curve.scores, score_name=curve.score_name)
        return display.plot(ax=ax, negate_score=negate_score, score_name=score_name)

    def plot(self, ax: Any = None, *, negate_score: bool = False, score_name: str | None = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None is a new figure.
        negate_score : bool, default=False
            Draw minus the score: the error, for a score such as "neg_mean_squared_error".
        score_name : str, default=None
            Label of the vertical axis. None is made of the name of the score, without ``neg_`` if it is negated.

        Returns
        -------
        display : AdaptationCurveDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If scores are not one of shape (n_sizes, n_repeats, n_tasks) for each method.
        """
        n_support = np.asarray(self.n_support)
        for name, scores in self.scores.items():
            if np.ndim(scores) != 3 or len(scores) != len(n_support):
                raise ValueError(
                    f"scores[{name!r}] must have shape (n_sizes, n_repeats, n_tasks) with n_sizes={len(n_support)} as "
                    f"in n_support, got {np.shape(scores)}"
                )
        [ax] = axes_for(self, ax)
        self.lines_, self.bands_ = {}, {}
        for name, scores in self.scores.items():
            mean, error = _mean_over_tasks(-np.asarray(scores) if negate_score else np.asarray(scores))
            [line] = ax.plot(n_support, mean, marker="o", markersize=4, label=name)
            self.lines_[name] = line
            if not np.all(np.isnan(error)):
                band = mean - error, mean + error
                self.bands_[name] = ax.fill_between(n_support, *band, color=line.get_color(), alpha=0.2, linewidth=0)
        ax.set_xscale("symlog", linthresh=LINEAR_UNTIL, linscale=0.5)
        ticks = _readable(n_support, ax.transData)
        ax.set_xticks(ticks, [str(size) for size in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("support rows")
        ax.set_ylabel(_axis_label(self.score_name, negate_score) if score_name is None else score_name)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _mean_over_tasks(scores):
    """Mean (n_sizes,) over tasks of the means over repeats, and its standard error; NaN where there is none."""
    by_task, _ = _mean(scores, axis=1)
    mean, n = _mean(by_task, axis=1)
    variance, _ = _mean((by_task - mean[:, None]) ** 2, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):  # no standard error of one task
        return mean, np.where(n > 1, np.sqrt(variance / (n - 1)), np.nan)


def _mean(numbers, axis):
    """Mean of the numbers that are not NaN, NaN if there are none, and how many there are."""
    n = np.sum(~np.isnan(numbers), axis=axis)
    total = np.nansum(numbers, axis=axis)
    return np.divide(total, n, out=np.full(total.shape, np.nan), where=n > 0), n


def _readable(n_support, transform):
    """The sizes, without those whose label would run into the one before."""
    n_support = np.sort(n_support)
    x = transform.transform(np.column_stack([n_support, np.zeros(len(n_support))]))[:, 0]
    kept = []
    for i in range(len(x)):
        if not kept or x[i] - x[kept[-1]] >= NARROWEST * np.ptp(x):
            kept.append(i)
    return n_support[kept]


def _axis_label(score_name, negate_score):
    """Negative mean squared error, or, negated, mean squared error."""
    name = "score" if score_name is None else score_name
    if name.startswith("neg_"):
        name = name[4:] if negate_score else f"negative {name[4:]}"
    elif negate_score:
        name = f"negative {name}"
    return name.replace("_", " ")
