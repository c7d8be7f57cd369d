"""Few-shot scores: adapt on a few rows of a task that the estimator has never seen, score on its other rows."""

import warnings
import zlib
from functools import cache, wraps
from itertools import repeat
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state, indexable
from sklearn.utils.metadata_routing import UNUSED

from ._sklearn import DocLinkMixin, Interval, StrOptions, safe_indexing
from ._validation import check_weight
from .adaptation import adapt, can_adapt, contains_one_that_adapts, fit_by_task, respond_by_task, responds_by_task
from .columns import ids_of_rows
from .groups import encode_groups

RESPONSES = ("predict", "decision_function", "predict_proba", "predict_log_proba")
"""What scikit-learn's own scorers ask an estimator for."""


class FewShotScorer(DocLinkMixin, BaseEstimator):
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
        y = targets(estimator, y)
        if groups is None:
            groups = self._own_groups(X)
        if sample_weight is not None:
            sample_weight = check_weight(sample_weight, len(y))
        data = Rows(X, y, groups, sample_weight)
        strata = data.y if is_classifier(estimator) and y.ndim == 1 else None
        refit = self.without_adapt == "refit" and not can_adapt(estimator)
        if refit and self.n_support == 0:
            raise ValueError("without_adapt='refit' needs n_support > 0: without rows there is nothing to fit to")
        totals = []
        for order, rank, n_rows in draws(data, strata, self.n_repeats, self.random_state):
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


def targets(estimator, y):
    """Targets as an array; labels in one column as those of any classifier."""
    y = np.asarray(y)
    return y[:, 0] if is_classifier(estimator) and y.ndim == 2 and y.shape[1] == 1 else y


class Rows:
    """Rows to be scored and their tasks; rows of weight zero are left out."""

    def __init__(self, X, y, groups, weight=None):
        codes, tasks = encode_groups(groups, len(y))
        if weight is not None and not np.all(weight):
            kept = np.flatnonzero(weight)
            X, y, weight = (safe_indexing(each, kept) for each in (X, y, weight))
            present, codes = np.unique(codes[kept], return_inverse=True)
            tasks = tasks[present]
        self.X, self.y, self.weight, self.codes, self.tasks = X, y, weight, codes, tasks

    @property
    def ids(self):
        """Task id of each row."""
        return self.tasks[self.codes]

    def xy(self, rows):
        """X and y of some rows."""
        return safe_indexing(self.X, rows), self.y[rows]

    def weights(self, rows):
        """Their weights, if there are any, as a keyword."""
        return {} if self.weight is None else {"sample_weight": self.weight[rows]}


def draws(data, strata, n_repeats, random_state):
    """For each repeat: the rows sorted by task, each task's in the order of the draw; their places in it; tasks' sizes.

    The first K rows of a task are its support: those for a smaller K are among those for a larger one.
    """
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    by_task = np.argsort(data.codes, kind="stable")
    n_rows = np.bincount(data.codes)
    starts = np.cumsum(n_rows) - n_rows
    rank = np.arange(len(by_task)) - np.repeat(starts, n_rows)
    ids = (task.item() if isinstance(task, np.generic) else task for task in data.tasks.tolist())
    names = [zlib.crc32(repr(task).encode()) for task in ids]
    for number in range(n_repeats):
        order = by_task.copy()
        for name, start, n in zip(names, starts, n_rows, strict=True):
            rows = by_task[start : start + n]
            rng = np.random.default_rng([seed, number, name])
            order[start : start + n] = rows[_shuffled(n, None if strata is None else strata[rows], rng)]
        yield order, rank, n_rows


def _shuffled(n, strata, rng):
    """A random order of n rows; with strata one whose every beginning has about their proportions."""
    order = rng.permutation(n)
    if strata is None:
        return order
    _, stratum, sizes = np.unique(strata[order], return_inverse=True, return_counts=True)
    rank = np.empty(n)
    rank[np.argsort(stratum, kind="stable")] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.argsort((rank + rng.random(len(sizes))[stratum]) / sizes[stratum], kind="stable")]


def large_enough(data, n_rows, n_support, on_small_task):
    """Which tasks have a row left after the support; raises, or warns, if some have not."""
    large = n_rows > n_support
    if np.all(large):
        return large
    small = data.tasks[~large].tolist()
    message = (
        f"{len(small)} of {len(large)} tasks have no row left to be scored on after n_support={n_support}, the first "
        f"{small[0]!r} with {n_rows[~large][0]} rows"
    )
    if on_small_task == "raise" or not np.any(large):
        raise ValueError(f"{message}: lower n_support, leave them out, or use on_small_task='skip'")
    warnings.warn(f"{message}: they are not scored", UserWarning, stacklevel=4)
    return large


def score_tasks(estimator, scoring, data, support, query, *, refit=False, on_small_task="raise"):
    """Scores of the tasks in `query`, each after adaptation to its rows in `support`.

    `support` and `query` are row numbers, sorted by task, of the same tasks; no support is no adaptation. With `refit`
    a clone is fitted to each support instead. Returns the numbers of the tasks that have a score, and a dict of arrays
    of their scores; None is the name of a single score.
    """
    scoring = ("accuracy" if is_classifier(estimator) else "r2") if scoring is None else scoring
    scorer = check_scoring(estimator, scoring)
    if len(support) and not refit and not can_adapt(estimator) and contains_one_that_adapts(estimator):
        warnings.warn(
            f"{type(estimator).__name__} contains an estimator that adapts, but cannot adapt itself: scored as it is",
            UserWarning,
            stacklevel=4,
        )
    parts = _by_task(data, query)
    models = _models(estimator, scoring, data, support, parts, refit)
    tasks, found = [], []
    for model, rows in zip(models, parts, strict=True):
        with config_context(enable_metadata_routing=False):  # the scorer gets the weights, and nothing else
            score = scorer(model, *data.xy(rows), **data.weights(rows))
        scores = score if isinstance(score, dict) else {None: score}
        if not np.any(np.isnan(list(scores.values()))):
            tasks.append(data.codes[rows[0]])
            found.append(scores)
        elif on_small_task == "raise" or (len(rows) > 1 and not _is_of_one_class(estimator, data.y[rows])):
            task = data.tasks.tolist()[data.codes[rows[0]]]
            raise ValueError(
                f"the score of task {task!r} on its {len(rows)} query row(s) is not a number: choose a metric that is "
                "defined on so few rows and on one class, or a smaller n_support"
            )
    if not found:
        raise ValueError("all tasks have a query of one row or class, whose score is not a number: lower n_support")
    if len(found) < len(parts):
        warnings.warn(
            f"{len(parts) - len(found)} of {len(parts)} tasks have a query of one row or class, whose score is not a "
            "number: they are not scored",
            UserWarning,
            stacklevel=4,
        )
    return np.array(tasks), {name: np.array([scores[name] for scores in found]) for name in found[0]}


def _is_of_one_class(estimator, y):
    return is_classifier(estimator) and len(np.unique(y)) == 1


def _by_task(data, rows):
    """Row numbers that are sorted by task as one array for each task."""
    return np.split(rows, np.flatnonzero(np.diff(data.codes[rows])) + 1)


def _models(estimator, scoring, data, support, parts, refit):
    """For each task what is to be scored on its query.

    One call adapts to all tasks, and one predicts all queries, where scikit-learn's own scorers, given by name, ask for
    nothing but predictions. Any other callable gets an estimator of its task alone.
    """
    adapts = can_adapt(estimator) and not refit
    at_once = _is_named(scoring)
    if len(support) and adapts and at_once:
        at_once = all(responds_by_task(estimator, name) for name in RESPONSES if hasattr(estimator, name))
    if len(support) and (refit or (adapts and not at_once)):
        fit = fit_alone if refit else adapt
        for rows in _by_task(data, support):
            yield fit(estimator, *data.xy(rows), **data.weights(rows))
        return
    query, groups = np.concatenate(parts), None
    if len(support) and adapts:
        estimator = adapt(estimator, *data.xy(support), groups=data.ids[support], **data.weights(support))
        groups = data.ids[query]
    if not at_once:
        yield from repeat(estimator, len(parts))
        return
    X = safe_indexing(data.X, query)

    @cache
    def respond(name):
        return getattr(estimator, name)(X) if groups is None else respond_by_task(estimator, name, X, groups)

    ends = np.cumsum([len(rows) for rows in parts])
    for rows, end in zip(parts, ends, strict=True):
        yield _Answers(estimator, respond, slice(end - len(rows), end))


def _is_named(scoring):
    """Whether scikit-learn's scorers are asked for by name."""
    if isinstance(scoring, dict):
        scoring = list(scoring.values())
    return isinstance(scoring, str) or (isinstance(scoring, list | tuple) and all(isinstance(s, str) for s in scoring))


def fit_alone(estimator, X, y, sample_weight=None):
    """A clone that is fitted to one task alone; of a single class a classifier predicts that one."""
    if is_classifier(estimator) and len(np.unique(y)) == 1:
        classes = getattr(estimator, "classes_", y)
        return DummyClassifier(strategy="constant", constant=y[0]).fit(np.zeros((len(classes), 1)), classes)
    return fit_by_task(clone(estimator), X, y, np.zeros(len(y)), sample_weight)


class _Answers:
    """An estimator whose responses to one task's query are known already."""

    def __init__(self, estimator, respond, rows):
        self._estimator, self._respond, self._rows = estimator, respond, rows

    def __getattr__(self, name):
        attribute = getattr(self._estimator, name)
        if name not in RESPONSES:
            return attribute
        return wraps(attribute)(lambda X: self._respond(name)[self._rows])
