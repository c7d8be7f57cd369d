"""Few-shot scores: adapt on a few rows of a task that the estimator has never seen, score on its other rows."""

from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, is_classifier
from sklearn.utils import indexable
from sklearn.utils.metadata_routing import UNUSED

from ._sklearn import Interval, OriginMixin, StrOptions
from ._validation import check_weight
from .adaptation import can_adapt
from .columns import ids_of_rows
from .queries import Rows, draws, large_enough, score_tasks

__all__ = ["FewShotScorer"]


class FewShotScorer(OriginMixin, BaseEstimator):
    """Scorer for tasks that the estimator has not seen: adapts it to a few rows of each, and scores it on the others.

    Pass it as `scoring` to ``cross_validate``, ``GridSearchCV``, ``learning_curve``, ..., with a splitter that holds
    out whole tasks, such as ``GroupKFold()``. For each task among the rows to be scored it

    1. draws `n_support` rows, the support; for classifiers in the proportions of the task's classes;
    2. adapts the fitted estimator, or the one inside a pipeline, transformed target or search, to them
       (:func:`sklearn_maml.adapt`: the estimator itself stays as it is);
    3. scores the adapted one on the task's other rows, the query, with `scoring`;

    and returns the mean over tasks, each counting the same, and over repeats.

    Parameters
    ----------
    scoring : str, callable, list, tuple, dict or None, default=None
        What to score a task's query with, as in scikit-learn: a name, such as "neg_mean_squared_error", a callable
        ``scorer(estimator, X, y)``, or several of them, of which the scorer then returns a dict. None is "accuracy" for
        classifiers and "r2" for others. R^2 compares with the mean of the task's own query: where queries have few rows
        prefer an error. Where several scores may fail in a search, it needs ``error_score="raise"``.
    n_support : int, default=5
        Number of rows of a task to adapt from. 0 scores all rows without adaptation.
    n_repeats : int, default=1
        How often the support is drawn.
    groups : "index", str, int or Series, default=None
        Where to find the tasks of the rows if no `groups` are routed to the scorer: the index of X, a column of X given
        by name or position, or a pandas Series that has them under the index of X. A column that is no feature has
        to be taken out before the estimator: see :class:`sklearn_maml.compose.GroupsFromColumn`.
    without_adapt : {"predict", "refit"}, default="predict"
        What to do with an estimator that cannot adapt, so that it is scored on the same rows: "predict" scores it as it
        is, "refit" a clone of it that is fitted to the support alone.
    on_small_task : {"raise", "skip"}, default="raise"
        What to do about tasks with no rows left for a query, or a query of one row or one class on which `scoring` is
        NaN: raise an error, or leave them out and warn.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws; with an int all calls draw the same. A task's draw depends on the seed, its id (what ``repr``
        says of it) and its own rows in their order, whatever other tasks there are and wherever its rows are.

    See Also
    --------
    sklearn_maml.model_selection.cross_validate_tasks : Cross-validation with this scorer, in one line.
    sklearn_maml.model_selection.adaptation_curve : Scores against the number of support rows.

    Notes
    -----
    With metadata routing enabled, `groups` is requested by default: ``cross_validate(model, X, y, cv=GroupKFold(),
    scoring=FewShotScorer(), params={"groups": g})``. With routing disabled scikit-learn hands nothing to scorers, and
    the parameter `groups` is the way.

    Weights, if ``set_score_request(sample_weight=True)`` routes them here, are those of adaptation and of `scoring`.
    Rows of weight zero are left out; `n_support` counts the others as one row each, whatever their weight.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.metrics import FewShotScorer
    >>> rng = np.random.default_rng(0)
    >>> shop = np.repeat(np.arange(20), 12)
    >>> X = rng.normal(size=(240, 2))
    >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=20)[shop] + rng.normal(size=240)
    >>> model = MAMLRegressor().fit(X[shop < 15], y[shop < 15], groups=shop[shop < 15])
    >>> new = shop >= 15
    >>> for n_support in 0, 1, 5:
    ...     scorer = FewShotScorer("neg_mean_squared_error", n_support=n_support)
    ...     print(n_support, round(scorer(model, X[new], y[new], groups=shop[new]), 2))
    0 -11.11
    1 -1.42
    5 -1.05
    """

    __metadata_request__score = {"estimator": UNUSED, "groups": True}

    _parameter_constraints = {
        "scoring": [str, callable, list, tuple, dict, None],
        "n_support": [Interval(Integral, 0, None, closed="left")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "groups": "no_validation",
        "without_adapt": [StrOptions({"predict", "refit"})],
        "on_small_task": [StrOptions({"raise", "skip"})],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        scoring: Any = None,
        *,
        n_support: int = 5,
        n_repeats: int = 1,
        groups: Any = None,
        without_adapt: Literal["predict", "refit"] = "predict",
        on_small_task: Literal["raise", "skip"] = "raise",
        random_state: Any = 0,
    ):
        self.scoring = scoring
        self.n_support = n_support
        self.n_repeats = n_repeats
        self.groups = groups
        self.without_adapt = without_adapt
        self.on_small_task = on_small_task
        self.random_state = random_state

    def __call__(
        self,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float | dict[str, float]:
        """The same as :meth:`score`, which is where metadata routing sends `groups`."""
        return self.score(estimator, X, y, groups=groups, sample_weight=sample_weight)

    def score(
        self,
        estimator: Any,
        X: ArrayLike,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> float | dict[str, float]:
        """Mean score over the tasks of these rows.

        Parameters
        ----------
        estimator : estimator
            Fitted estimator. It is not changed.
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Rows of tasks that it was not fitted to.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets.
        groups : array-like of shape (n_samples,), default=None
            Task of each row. None: where the parameter `groups` says.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        score : float or dict of float
            The mean; a dict of means if `scoring` is several.

        Raises
        ------
        ValueError
            If there are no groups, tasks are too small, or a task's score is NaN.
        """
        self._validate_params()
        X, y = indexable(X, y)
        if groups is None:
            groups = self._own_groups(X)
        if sample_weight is not None:
            sample_weight = check_weight(sample_weight, np.shape(y)[0])
        data = Rows(X, y, groups, sample_weight, classifier=is_classifier(estimator))
        refit = self.without_adapt == "refit" and not can_adapt(estimator)
        if refit and self.n_support == 0:
            raise ValueError("without_adapt='refit' needs n_support > 0: without rows there is nothing to fit to")
        totals = []
        for order, rank, n_rows in draws(data, self.n_repeats, self.random_state):
            large = large_enough(data, n_rows, self.n_support, self.on_small_task)
            kept = large[data.codes[order]]
            support, query = order[kept & (rank < self.n_support)], order[kept & (rank >= self.n_support)]
            _, scores = score_tasks(
                estimator, self.scoring, data, support, query, refit=refit, on_small_task=self.on_small_task
            )
            totals.append({name: values.mean() for name, values in scores.items()})
        means = {name: float(np.mean([each[name] for each in totals])) for name in totals[0]}
        return means.get(None, means)

    def _accept_sample_weight(self):
        """Tell scikit-learn, which asks the scorers in a dict, that they may get weights."""
        return True

    def _own_groups(self, X):
        if self.groups is None:
            raise ValueError(
                "FewShotScorer got no groups, so it cannot know which rows belong to a task. With metadata routing "
                "enabled pass them to whatever calls it, such as cross_validate(..., params={'groups': g}) or "
                "search.fit(X, y, groups=g). With routing disabled, scikit-learn hands no groups to scorers: use "
                "FewShotScorer(groups=...), the 'index' of X, a column of X or a Series with the index of X, or "
                "sklearn_maml.model_selection.cross_validate_tasks"
            )
        return ids_of_rows(X, self.groups)
