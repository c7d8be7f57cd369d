"""Cross-validation over tasks: held-out tasks are adapted to from a few of their rows, and scored on the others."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold, check_cv, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch, get_tags, indexable
from sklearn.utils.metaestimators import available_if
from sklearn.utils.parallel import Parallel, delayed

from .adaptation import can_adapt, fit_by_task, request_weights
from .compose import GroupsFromColumn
from .groups import check_held_out_as_a_whole, encode_groups
from .metrics import FewShotScorer
from .queries import Rows, draws, fit_alone, large_enough, score_tasks, scoring_of

__all__ = ["adaptation_curve", "cross_validate_tasks"]


def cross_validate_tasks(
    estimator: Any,
    X: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    cv: Any = None,
    scoring: Any = None,
    n_support: int = 5,
    n_repeats: int = 1,
    without_adapt: Literal["predict", "refit"] = "predict",
    on_small_task: Literal["raise", "skip"] = "raise",
    random_state: Any = 0,
    params: dict[str, Any] | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    pre_dispatch: int | str = "2*n_jobs",
    return_train_score: bool = False,
    return_estimator: bool = False,
    return_indices: bool = False,
    error_score: Literal["raise"] | float = "raise",
) -> dict[str, np.ndarray]:
    """Cross-validate over tasks: fit to some, adapt to a few rows of each of the others, score on their other rows.

    It is scikit-learn's ``cross_validate`` with :class:`~sklearn_maml.metrics.FewShotScorer`, a splitter that holds out
    whole tasks, and `groups` handed to splitter, estimator and scorer, whether metadata routing is enabled or not.

    Parameters
    ----------
    estimator : estimator
        A meta-learner, a pipeline or search that contains one, or, for comparison, any other estimator.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        Rows of all tasks.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    groups : array-like of shape (n_samples,)
        Task of each row.
    cv : int, splitter, iterable or None, default=None
        Which tasks are held out together. None is ``GroupKFold`` with 5 folds (fewer if there are fewer tasks), an int
        ``GroupKFold`` with that many. A splitter has to hold out whole tasks.
    scoring, n_support, n_repeats, without_adapt, on_small_task, random_state :
        See :class:`~sklearn_maml.metrics.FewShotScorer`.
    params : dict, default=None
        Further metadata for whatever requests them. ``{"sample_weight": w}`` reaches all that takes weights, the
        scorer and every step of a pipeline, unless ``set_fit_request(sample_weight=False)`` says otherwise.
    n_jobs, verbose, pre_dispatch, return_train_score, return_estimator, return_indices :
        See :func:`sklearn.model_selection.cross_validate`.
    error_score : "raise" or float, default="raise"
        What to do if a fit or a score fails: raise the error, or take this number as its score and warn.

    Returns
    -------
    scores : dict of ndarray of shape (n_splits,)
        What ``cross_validate`` returns: "test_score" (or "test_<name>" for several), "fit_time", "score_time", ...

    Raises
    ------
    ValueError
        If there is one task only, or a split has rows of one task on both sides.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.model_selection import cross_validate_tasks
    >>> rng = np.random.default_rng(0)
    >>> shop = np.repeat(np.arange(20), 12)
    >>> X = rng.normal(size=(240, 2))
    >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=20)[shop] + rng.normal(size=240)
    >>> for model in Ridge(), MAMLRegressor():
    ...     scores = cross_validate_tasks(model, X, y, shop, scoring="neg_root_mean_squared_error")
    ...     print(f"{type(model).__name__}: {scores['test_score'].mean():.2f}")
    Ridge: -2.47
    MAMLRegressor: -0.96
    """
    X, y = indexable(X, y)
    scorer = FewShotScorer(
        scoring,
        n_support=n_support,
        n_repeats=n_repeats,
        without_adapt=without_adapt,
        on_small_task=on_small_task,
        random_state=random_state,
    )
    with config_context(enable_metadata_routing=True):
        if "sample_weight" in (params or {}):
            estimator = clone(estimator)
            request_weights(estimator)
            scorer.set_score_request(sample_weight=True)
        return cross_validate(
            estimator,
            X,
            y,
            cv=_splits(cv, X, y, groups),
            scoring=scorer,
            params={**(params or {}), "groups": groups},
            n_jobs=n_jobs,
            verbose=verbose,
            pre_dispatch=pre_dispatch,
            return_train_score=return_train_score,
            return_estimator=return_estimator,
            return_indices=return_indices,
            error_score=error_score,
        )


def adaptation_curve(
    estimator: Any,
    X: ArrayLike,
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
) -> Bunch:
    """Scores on held-out tasks against the number of their rows that are adapted to.

    Each fold is fitted once. Each of its held-out tasks is put in a random order `n_repeats` times; its first K rows
    are the support, for each K of `n_support`, and the rows after the largest K the query, the same for all sizes and
    methods.

    Parameters
    ----------
    estimator : estimator
        A meta-learner, or a pipeline or search that contains one.
    X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
        Rows of all tasks.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    groups : array-like of shape (n_samples,)
        Task of each row.
    n_support : sequence of int, default=(0, 1, 2, 5, 10)
        Numbers of support rows.
    cv : int, splitter, iterable or None, default=None
        Which tasks are held out together, see :func:`cross_validate_tasks`.
    scoring : str or callable, default=None
        One score, see :class:`~sklearn_maml.metrics.FewShotScorer`.
    n_repeats : int, default=5
        How often the support is drawn.
    baselines : sequence of {"pooled", "alone"} or dict, default=("pooled", "alone")
        What to compare with, under the same draws. Both named ones are the same pipeline with a plain linear model in
        place of the meta-learner, after a StandardScaler: RidgeCV for regression, LogisticRegression for
        classification. "pooled" is fitted to all training rows, "alone" to the support rows of the task (of one or two
        rows it predicts the mean; of one class, that class). A dict maps names to estimators of your own, which are
        fitted to the training rows, and adapted if they can.
    on_small_task : {"raise", "skip"}, default="raise"
        What to do about tasks with no row beyond the largest of `n_support`.
    n_jobs : int, default=None
        Number of processes over folds.
    verbose : int, default=0
        Verbosity of joblib: whether to report finished folds.
    random_state : int, RandomState instance or None, default=0
        Seed of the draws.

    Returns
    -------
    curve : Bunch
        n_support : ndarray of shape (n_sizes,)
            The numbers of support rows, in ascending order.
        scores : dict of ndarray of shape (n_sizes, n_repeats, n_tasks)
            Scores of "adapted" and of each baseline; those of "alone" without rows are NaN.
        tasks : ndarray of shape (n_tasks,)
            Ids of the tasks that were scored.
        score_name : str
            Name of the score.

    See Also
    --------
    sklearn_maml.inspection.AdaptationCurveDisplay : Draws it.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.model_selection import adaptation_curve
    >>> rng = np.random.default_rng(0)
    >>> shop = np.repeat(np.arange(20), 12)
    >>> X = rng.normal(size=(240, 2))
    >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=20)[shop] + rng.normal(size=240)
    >>> curve = adaptation_curve(
    ...     MAMLRegressor(), X, y, shop, n_support=[0, 1, 5], scoring="neg_root_mean_squared_error", n_repeats=2
    ... )
    >>> for name, scores in curve.scores.items():
    ...     print(name, scores.mean(axis=(1, 2)).round(2))
    adapted [-2.46 -1.28 -1.  ]
    pooled [-2.47 -2.47 -2.47]
    alone [  nan -3.48 -1.65]
    """
    if isinstance(scoring, list | tuple | dict | set):
        raise ValueError("adaptation_curve takes one score: call it once for each of several")
    sizes = _check_sizes(n_support)
    FewShotScorer(n_repeats=n_repeats, on_small_task=on_small_task, random_state=random_state)._validate_params()
    X, y = indexable(X, y)
    data = Rows(X, y, groups, classifier=is_classifier(estimator))
    models = _models(estimator, baselines)
    drawn = list(draws(data, n_repeats, random_state))
    large = large_enough(data, drawn[0][2], sizes[-1], on_small_task)
    splits = _splits(cv, X, data.y, groups)
    for _, test in splits:
        left_out = np.setdiff1d(np.flatnonzero(np.isin(data.codes, data.codes[test])), test)
        if len(left_out):
            task = data.tasks.tolist()[data.codes[left_out[0]]]
            raise ValueError(f"cv holds out some rows of task {task!r} and leaves out others: drop those from X before")
    parallel = Parallel(n_jobs=n_jobs, verbose=verbose)
    folds = parallel(
        delayed(_score_fold)(models, scoring, data, train, test, sizes, drawn, large, on_small_task)
        for train, test in splits
    )
    scores = {}
    for name in models:
        found = np.array([fold[name] for fold in folds])
        n_found = np.sum(~np.isnan(found), axis=0)
        scores[name] = np.divide(
            np.nansum(found, axis=0), n_found, out=np.full(n_found.shape, np.nan), where=n_found > 0
        )
    scored = np.any(~np.isnan(scores["adapted"]), axis=(0, 1))
    scoring = scoring_of(estimator, scoring)
    return Bunch(
        n_support=sizes,
        scores={name: values[:, :, scored] for name, values in scores.items()},
        tasks=data.tasks[scored],
        score_name=scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score"),
    )


def _check_sizes(n_support):
    sizes = np.unique(n_support)
    if sizes.ndim != 1 or len(sizes) == 0 or sizes.dtype.kind not in "iu" or sizes[0] < 0:
        raise ValueError(f"n_support must be one or more whole numbers of rows, none negative, got {n_support!r}")
    return sizes


def _splits(cv, X, y, groups):
    """Pairs of training and held-out rows; no task has rows on both sides."""
    codes, tasks = encode_groups(groups, len(y))
    if len(tasks) < 2:
        raise ValueError(f"groups holds one task, {tasks.tolist()[0]!r}: it takes at least two to hold one out")
    if cv is None or isinstance(cv, Integral):
        cv = GroupKFold(min(5, len(tasks)) if cv is None else cv)
    splits = list(check_cv(cv).split(X, y, codes))
    for train, test in splits:
        check_held_out_as_a_whole(codes[train], codes[test], tasks)
    return splits


def _models(estimator, baselines):
    """What is fitted to each fold, by name."""
    if not isinstance(baselines, Mapping):
        linear = make_pipeline(
            StandardScaler(with_mean=False),  # for sparse data, too; the intercept takes care of the mean
            LogisticRegression(max_iter=1000) if is_classifier(estimator) else RidgeCV(np.logspace(-3, 3, 13)),
        )
        known = {"pooled": linear, "alone": _Refitted(linear)}
        unknown = [name for name in baselines if name not in known]
        if isinstance(baselines, str) or unknown:
            raise ValueError(f"baselines must be of {list(known)} or a dict of estimators, got {baselines!r}")
        baselines = {name: _with_head(estimator, known[name]) for name in baselines}
    elif {"adapted", "alone"} & set(baselines):
        raise ValueError("'adapted' and 'alone' have a meaning of their own: give your baselines other names")
    return {"adapted": estimator, **baselines}


def _with_head(estimator, head):
    """The same estimator with another one in place of the meta-learner inside."""
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        return clone(estimator).set_params(**{name: _with_head(last, head)})
    if isinstance(estimator, TransformedTargetRegressor):
        return clone(estimator).set_params(regressor=_with_head(estimator.regressor, head))
    if isinstance(estimator, GroupsFromColumn):
        return clone(estimator).set_params(estimator=_with_head(estimator.estimator, head))
    if hasattr(estimator, "estimator"):  # a search: its grid is for the meta-learner
        return _with_head(estimator.estimator, head)
    return clone(head)


class _Refitted(BaseEstimator):
    """An estimator whose adaptation forgets what it has learned and fits to the task alone."""

    def __init__(self, estimator):
        self.estimator = estimator

    def __sklearn_tags__(self):
        return copy.deepcopy(get_tags(self.estimator))

    @property
    def classes_(self):
        return self.estimator_.classes_

    def fit(self, X, y):
        self.estimator_ = clone(self.estimator).fit(X, y)
        return self

    def predict(self, X):
        return self.estimator_.predict(X)

    @available_if(lambda self: hasattr(self.estimator_, "decision_function"))
    def decision_function(self, X):
        return self.estimator_.decision_function(X)

    @available_if(lambda self: hasattr(self.estimator_, "predict_proba"))
    def predict_proba(self, X):
        return self.estimator_.predict_proba(X)

    def adapt(self, X, y):
        new = copy.copy(self)
        if len(y) < 3 and not is_classifier(self):  # leaving one out of two rows tells nothing of the penalty
            new.estimator_ = DummyRegressor().fit(X, y)
        else:
            new.estimator_ = fit_alone(self.estimator_, X, y)
        return new


def _score_fold(models, scoring, data, train, test, sizes, drawn, large, on_small_task):
    """Scores (n_sizes, n_repeats, n_tasks) of each model, NaN for tasks that are not held out here."""
    held_out = np.zeros(len(data.tasks), dtype=bool)
    held_out[data.codes[test]] = True
    held_out &= large
    scores = {name: np.full((len(sizes), len(drawn), len(data.tasks)), np.nan) for name in models}
    for name, model in models.items():
        fitted = fit_by_task(clone(model), *data.xy(train), data.ids[train])
        if name == "adapted" and not can_adapt(fitted):
            raise TypeError(f"{type(model).__name__} cannot adapt, so that there is no curve to draw")
        for repeat, (order, rank, _) in enumerate(drawn):
            mine = held_out[data.codes[order]]
            query = order[mine & (rank >= sizes[-1])]
            if not len(query):
                continue
            for i, size in enumerate(sizes):
                if not size and name == "alone":
                    continue
                if i and not can_adapt(fitted):
                    scores[name][i, repeat] = scores[name][0, repeat]
                    continue
                support = order[mine & (rank < size)]
                tasks, found = score_tasks(fitted, scoring, data, support, query, on_small_task=on_small_task)
                if None not in found:
                    raise ValueError(f"adaptation_curve takes one score, but {scoring!r} gives several")
                scores[name][i, repeat, tasks] = found[None]
    return scores
