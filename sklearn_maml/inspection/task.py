"""One new task: its rows, the initialisation, and what adaptation makes of it."""

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from scipy.special import ndtri
from sklearn.base import is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_array

from ..adaptation import adapt
from .figure import axes_for, neutral


class TaskDisplay:
    """One new task along one feature: support and query rows, initialisation, adapted fit, predictive interval.

    :meth:`from_estimator` computes and draws it; :meth:`plot` draws it again. Arguments are stored as attributes.

    Parameters
    ----------
    grid : ndarray of shape (n_grid,)
        Values of the feature.
    initial, adapted : ndarray of shape (n_grid,)
        Predictions at these before and after adaptation; decision values of a binary classifier.
    support, query : ndarray of shape (n_rows, 2)
        Feature and target of the rows that were adapted to and of other rows of the task, of which there may be none;
        targets of a binary classifier as -1 and 1.
    adapted_std : ndarray of shape (n_grid,), default=None
        Standard deviation of a new row's target around `adapted`, if there is one.
    coverage : float, default=0.9
        Probability of the interval that is drawn, that of a normal distribution.
    feature_name, target_name : str, default=None
        Labels of the axes.
    classes : sequence of two labels, default=None
        What -1 and 1 stand for, if the task is one of binary classification.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.
    figure_ : matplotlib Figure
        The figure.
    initial_, adapted_ : Line2D
        The fits.
    support_, query_ : Line2D
        The rows; `query_` is None if there are none.
    band_ : PolyCollection or None
        The predictive interval.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.inspection import TaskDisplay
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(11), 20)
    >>> X = rng.uniform(0, 5, size=(220, 1))
    >>> y = X[:, 0] + 3 * rng.normal(size=11)[groups] + rng.normal(size=220)
    >>> old, support, query = groups < 10, slice(200, 203), slice(203, 220)
    >>> model = MAMLRegressor(adaptation="implicit").fit(X[old], y[old], groups=groups[old])
    >>> display = TaskDisplay.from_estimator(model, X[support], y[support], X[query], y[query])
    >>> display.band_ is not None
    True
    """

    def __init__(
        self,
        *,
        grid: np.ndarray,
        initial: np.ndarray,
        adapted: np.ndarray,
        support: np.ndarray,
        query: np.ndarray,
        adapted_std: np.ndarray | None = None,
        coverage: float = 0.9,
        feature_name: str | None = None,
        target_name: str | None = None,
        classes: Sequence | np.ndarray | None = None,
    ):
        self.grid = grid
        self.initial = initial
        self.adapted = adapted
        self.support = support
        self.query = query
        self.adapted_std = adapted_std
        self.coverage = coverage
        self.feature_name = feature_name
        self.target_name = target_name
        self.classes = classes

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X_support: Any,
        y_support: ArrayLike,
        X_query: Any = None,
        y_query: ArrayLike | None = None,
        *,
        feature: int | str = 0,
        grid_resolution: int = 100,
        coverage: float = 0.9,
        ax: Any = None,
    ) -> Self:
        """Adapt a fitted estimator to a task, and draw both along one feature.

        Other features are held at their mean over the rows of the task, those that are not numbers at their most
        frequent value. With several features the rows therefore scatter around the fit even where it is perfect.

        Parameters
        ----------
        estimator : object
            A fitted regressor or binary classifier that :func:`sklearn_maml.adapt` can adapt: a meta-learner, or a
            Pipeline, search or TransformedTargetRegressor that contains one.
        X_support : array-like or DataFrame of shape (n_support, n_features)
            The rows to adapt to.
        y_support : array-like of shape (n_support,)
            Their targets.
        X_query, y_query : array-like, default=None
            Other rows of the task and their targets, to compare with; both or none.
        feature : int or str, default=0
            Position or, in a DataFrame, name of the feature.
        grid_resolution : int, default=100
            Number of its values at which the fits are evaluated.
        coverage : float, default=0.9
            Probability of the predictive interval. It is drawn where ``predict(X, return_std=True)`` tells a standard
            deviation (``MAMLRegressor(adaptation="implicit")``, also as the last step of a Pipeline or in a search).
        ax : matplotlib Axes, default=None
            Where to draw. None is a new figure.

        Returns
        -------
        display : TaskDisplay
            The picture and its numbers.

        Raises
        ------
        ValueError
            For more than two classes, several outputs, query rows without targets, `coverage` outside (0, 1), or a
            feature that is not there or is no number.
        """
        if not 0 < coverage < 1:
            raise ValueError(f"coverage must lie between 0 and 1, got {coverage!r}")
        if (X_query is None) != (y_query is None):
            raise ValueError("X_query and y_query belong together: pass both, or none")
        columns, rebuild = _columns(X_support)
        name = _name(feature, list(columns))
        classes = _two_classes(estimator) if is_classifier(estimator) else None
        queries, _ = _columns(X_support if X_query is None else X_query)
        if list(queries) != list(columns):
            raise ValueError("X_query must have the columns of X_support, in the same order")
        support = np.column_stack([_numbers(columns[name], name), _targets(y_support, classes)])
        query = np.empty((0, 2))
        if X_query is not None:
            query = np.column_stack([_numbers(queries[name], name), _targets(y_query, classes)])
            columns = {key: np.concatenate([column, queries[key]]) for key, column in columns.items()}
        low, high = np.min(columns[name]), np.max(columns[name])
        grid = np.linspace(low, high, grid_resolution)
        X_grid = rebuild({key: grid if key == name else _held(column, len(grid)) for key, column in columns.items()})
        respond = "predict" if classes is None else "decision_function"
        adapted = adapt(estimator, X_support, y_support)
        lines = [np.asarray(getattr(each, respond)(X_grid)) for each in (estimator, adapted)]
        if lines[0].ndim == 2:
            raise ValueError(f"TaskDisplay draws one output, but the estimator has {lines[0].shape[1]}")
        return cls(
            grid=grid,
            initial=lines[0],
            adapted=lines[1],
            support=support,
            query=query,
            adapted_std=_predictive_std(adapted, X_grid) if classes is None else None,
            coverage=coverage,
            feature_name=name if isinstance(name, str) else f"feature {name}",
            target_name=getattr(y_support, "name", None),
            classes=classes,
        ).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to draw. None is a new figure.

        Returns
        -------
        display : TaskDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        [ax] = axes_for(self, ax)
        self.band_ = self.query_ = None
        if self.adapted_std is not None:
            half = ndtri((1 + self.coverage) / 2) * self.adapted_std
            self.band_ = ax.fill_between(
                self.grid,
                self.adapted - half,
                self.adapted + half,
                color="C0",
                alpha=0.2,
                linewidth=0,
                label=f"{100 * self.coverage:.3g} % interval",
            )
        if self.classes is not None:
            ax.axhline(0, color=neutral(), linewidth=0.8, alpha=0.5)
        [self.initial_] = ax.plot(self.grid, self.initial, "--", color="C1", label="initialisation")
        [self.adapted_] = ax.plot(self.grid, self.adapted, color="C0", label="adapted")
        if len(self.query):
            [self.query_] = ax.plot(*self.query.T, "o", color=neutral(), alpha=0.5, markersize=4, label="query rows")
        [self.support_] = ax.plot(*self.support.T, "s", color=neutral(), markersize=6, label="support rows")
        ax.set_xlabel("feature" if self.feature_name is None else self.feature_name)
        target = "target" if self.target_name is None else str(self.target_name)
        if self.classes is not None:
            target = f"decision value (-1: {self.classes[0]}, 1: {self.classes[1]})"
        ax.set_ylabel(target)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _columns(X):
    """The columns of X by name or position, and the function that makes an X of the same type out of such columns."""
    if hasattr(X, "columns"):
        return {name: np.asarray(X[name]) for name in X.columns}, type(X)
    if sparse.issparse(X):
        X = X.toarray()
    X = check_array(X, dtype=None, ensure_all_finite=False, input_name="X")
    return dict(enumerate(X.T)), lambda columns: np.column_stack(list(columns.values()))


def _name(feature, names):
    """Name, or number, of the column that `feature` stands for."""
    if feature in names:
        return feature
    if not isinstance(feature, str) and -len(names) <= feature < len(names):
        return names[feature]
    raise ValueError(f"feature={feature!r} is no column of X, whose columns are {names}")


def _numbers(column, name):
    """The chosen feature, which has to be one that can be laid out along an axis."""
    if np.asarray(column).dtype.kind not in "iuf" or not np.all(np.isfinite(column)):
        raise ValueError(f"feature {name!r} must hold finite numbers to be drawn along: choose another feature")
    return np.asarray(column, dtype=float)


def _held(column, n):
    """A column of n times the mean, or the most frequent value of what are not numbers."""
    if column.dtype.kind in "iuf":
        return np.full(n, np.nanmean(column))
    return np.repeat(np.array([Counter(column.tolist()).most_common(1)[0][0]], dtype=column.dtype), n)


def _two_classes(estimator):
    if len(estimator.classes_) != 2:
        raise ValueError(f"TaskDisplay draws classifiers of two classes, but there are {len(estimator.classes_)}")
    return estimator.classes_


def _targets(y, classes):
    """Targets as numbers, labels as -1 and 1."""
    y = np.asarray(y)
    if y.ndim != 1:
        raise ValueError(f"TaskDisplay draws one output: y must have shape (n_rows,), got {y.shape}")
    if classes is None:
        return y.astype(float)
    if not np.all(np.isin(y, classes)):
        raise ValueError(f"y contains labels that were not seen in fit: {np.setdiff1d(y, classes).tolist()}")
    return np.where(y == classes[1], 1.0, -1.0)


def _predictive_std(estimator, X):
    """Standard deviations of new targets, None if the estimator knows of none."""
    if isinstance(estimator, Pipeline):
        X = estimator[:-1].transform(X) if len(estimator.steps) > 1 else X
        return _predictive_std(estimator.steps[-1][1], X)
    if hasattr(estimator, "best_estimator_"):
        return _predictive_std(estimator.best_estimator_, X)
    if "return_std" not in inspect.signature(estimator.predict).parameters:
        return None
    try:
        return estimator.predict(X, return_std=True)[1]
    except ValueError:  # it has nothing to tell them from
        return None
