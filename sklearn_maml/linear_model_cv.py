"""Meta-learned linear regression that chooses its numbers, by how well a few rows adapt it to tasks it has not seen."""

import copy
import warnings
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.model_selection import BaseCrossValidator, GroupKFold, ParameterGrid, check_cv
from sklearn.utils import check_random_state, get_tags
from sklearn.utils.validation import check_is_fitted

from ._sklearn import CallbackSupportMixin, Interval, OriginMixin, StrOptions, is_dispatched, with_callbacks
from ._validation import Matrix, check_inner_step_size, check_weight
from ._warnings import warn_of_one_task
from .exceptions import SingleTaskWarning
from .few_shot import Table, few_shot_errors, fit_others, in_support, leave_one_out, pooled_without, row_priorities
from .groups import check_held_out_as_a_whole
from .linear_model import MAMLRegressor
from .threads import run_parallel
from .training import print_progress

LARGEST_CLOSED_FORM = 10_000_000
"""Most numbers, n_tasks * n_parameters^2, with which each task is left out by itself."""
_OUT_OF_RANGE = "the numbers leave the range of floating point: scale X or y, or choose from smaller inner_step_sizes"

_LISTS = {  # keywords of MAMLRegressor, and the lists that they are chosen from
    "inner_step_size": "inner_step_sizes",
    "n_inner_steps": "n_inner_steps",
    "l2_regularization": "l2_regularizations",
    "adaptation": "adaptations",
}


def _of_best(name, doc):
    def of_best(self: Any) -> Any:
        return getattr(self.best_estimator_, name)

    return property(of_best, doc=doc)


class MAMLRegressorCV(RegressorMixin, OriginMixin, CallbackSupportMixin, BaseEstimator):
    """MAMLRegressor that chooses step size, number of steps, penalty and adaptation by few-shot error.

    `MAMLRegressor` with its defaults needs no tuning. Use this one where you want numbers chosen: a fixed step size, a
    penalty, one of the two adaptations. It tries every combination of the given lists: it meta-trains on some tasks,
    adapts to each held-out task from a few of its rows (the support), and takes the combination with the least squared
    error on the others (the query). No row is in both: judged by the rows that it has seen, the largest step would win.

    Parameters
    ----------
    inner_step_sizes : sequence of "auto", floats or arrays of shape (n_parameters,), default=("auto",)
        Step sizes to choose from, see `inner_step_size` of :class:`MAMLRegressor`.
    n_inner_steps : sequence of int, default=(1,)
        Numbers of adaptation steps to choose from.
    l2_regularizations : sequence of float, default=(0.0,)
        Ridge penalties of a task's loss to choose from.
    adaptations : sequence of {"gradient", "implicit"}, default=("gradient", "implicit")
        Adaptations to choose from.
    metric : {"diag", "full"}, default="diag"
        What the step size "auto" learns, see :class:`MAMLRegressor`.
    n_support : int, default=5
        Number of rows (total weight) to adapt from: as many as you expect of a new task.
    n_repeats : int, default=5
        How often each held-out task is split into support and query; the splits are the same for all combinations.
    cv : int, splitter, iterable or None, default=None
        Which tasks are held out together.

        - None: each task by itself if all step sizes are numbers and n_tasks * n_parameters^2 <= 1e7, by the formula in
          Notes. Otherwise as the int min(5, n_tasks): "auto" has to learn anew, without the held-out tasks, how tasks
          differ; no formula does that, and each split takes a whole fit.
        - int: number of folds that the tasks are dealt out to, equally many to each.
        - splitter by groups, such as GroupKFold() or LeaveOneGroupOut(): called with the rows of positive weight and
          the numbers of their tasks.
        - iterable: pairs (train, test) of row numbers.
    fit_intercept : bool, default=True
        Whether to learn an intercept. It is never penalised.
    n_jobs : int, default=None
        Number of threads. None is one; -1 is all cores.
    random_state : int, RandomState instance or None, default=0
        Seed of the splits into support and query. Rows are drawn in the order of a hash of the seed and their own
        numbers: neither the order of the rows nor other tasks matter, and equal rows of a task stay together.
    verbose : int, default=0
        If positive, print how many of the fits are made, and what the last one on all tasks and `adapt` print, see
        :class:`MAMLRegressor`.

    Attributes
    ----------
    best_estimator_ : MAMLRegressor
        Fitted on all tasks with `best_params_`.
    best_params_ : dict
        What was chosen: "adaptation", "inner_step_size", "l2_regularization", "n_inner_steps".
    best_index_ : int
        Its place in `cv_results_`; of equally good ones, the first.
    best_score_ : float
        Its "mean_test_score"; NaN if there was one task only.
    cv_results_ : dict of ndarray
        One entry for each combination, in the order of scikit-learn's ParameterGrid (`n_inner_steps` changes fastest,
        then penalty, step size, adaptation): "params"; "param_adaptation", "param_inner_step_size", ...;
        "mean_test_score", minus the mean squared error, a weighted mean over a query's rows, then a mean over outputs,
        splits and tasks; "std_test_score", the standard deviation over tasks; "rank_test_score".
    coef_, intercept_, inner_step_size_, task_covariance_, noise_variance_ : ndarray, float or None
        Those of `best_estimator_`.
    tasks_, task_coef_, task_intercept_ : ndarray
        Those of `best_estimator_`, after :meth:`adapt` with groups.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had names that are all strings.

    See Also
    --------
    MAMLRegressor : The same with given numbers, or what it learns by itself.
    sklearn.linear_model.RidgeCV : One model for all tasks, with a chosen penalty.

    Notes
    -----
    Adaptation is an affine map w -> B_i w + u_i for a task with loss w'H_iw / 2 - c_i'w. With given step sizes F is the
    mean of the quadratics A_i = B_i'H_iB_i, b_i = B_i'(c_i - H_iu_i), and its minimiser without task i is

        v_i = (sum A - A_i + r I)^-1 (sum b - b_i + r v_0),

    one small linear system for each task. I is in units of the curvature of f, v_0 the minimiser of f without task i,
    and r so small that it matters only where the other tasks leave the minimiser open.

    Examples
    --------
    Forty tasks of ten rows that differ in their slope: which step size is best for five labelled rows?

    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressorCV
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(40), 10)
    >>> X = rng.normal(size=(400, 1))
    >>> y = (1 + rng.normal(size=40)[groups]) * X[:, 0] + 0.5 * rng.normal(size=400)
    >>> model = MAMLRegressorCV(inner_step_sizes=[0.01, 0.1, 1.0], adaptations=["implicit"])
    >>> model.fit(X, y, groups=groups).best_params_["inner_step_size"]
    1.0
    >>> print(model.cv_results_["mean_test_score"].round(2))
    [-1.63 -1.3  -0.63]
    >>> model.adapt(X[:5], y[:5]).predict(X[5:7]).shape
    (2,)
    """

    __metadata_request__fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    _parameter_constraints = {
        **{name: ["array-like"] for name in _LISTS.values()},
        "metric": [StrOptions({"diag", "full"})],
        "n_support": [Interval(Integral, 1, None, closed="left")],
        "n_repeats": [Interval(Integral, 1, None, closed="left")],
        "cv": ["cv_object"],
        "fit_intercept": ["boolean"],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    coef_ = _of_best("coef_", "Coefficients.")
    intercept_ = _of_best("intercept_", "Intercept.")
    inner_step_size_ = _of_best("inner_step_size_", "Inner step size that was used.")
    task_covariance_ = _of_best("task_covariance_", "Covariance of the tasks' parameters.")
    noise_variance_ = _of_best("noise_variance_", "Variance of the noise.")
    tasks_ = _of_best("tasks_", "Tasks adapted to.")
    task_coef_ = _of_best("task_coef_", "Their coefficients.")
    task_intercept_ = _of_best("task_intercept_", "Their intercepts.")
    n_features_in_ = _of_best("n_features_in_", "Number of features.")
    feature_names_in_ = _of_best("feature_names_in_", "Names of the features.")

    def __init__(
        self,
        *,
        inner_step_sizes: Sequence[Literal["auto"] | float | ArrayLike] = ("auto",),
        n_inner_steps: Sequence[int] = (1,),
        l2_regularizations: Sequence[float] = (0.0,),
        adaptations: Sequence[Literal["gradient", "implicit"]] = ("gradient", "implicit"),
        metric: Literal["diag", "full"] = "diag",
        n_support: int = 5,
        n_repeats: int = 5,
        cv: int | BaseCrossValidator | Iterable[tuple[ArrayLike, ArrayLike]] | None = None,
        fit_intercept: bool = True,
        n_jobs: int | None = None,
        random_state: Any = 0,
        verbose: int = 0,
    ):
        self.inner_step_sizes = inner_step_sizes
        self.n_inner_steps = n_inner_steps
        self.l2_regularizations = l2_regularizations
        self.adaptations = adaptations
        self.metric = metric
        self.n_support = n_support
        self.n_repeats = n_repeats
        self.cv = cv
        self.fit_intercept = fit_intercept
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self):
        tags = get_tags(MAMLRegressor())
        tags.array_api_support = False
        return tags

    @with_callbacks
    def fit(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Choose by few-shot error on held-out tasks, then fit on all tasks.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows of all tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        groups : array-like of shape (n_samples,), default=None
            The task each row belongs to. With None, or one task, there is nothing to hold out, and the first of each
            list is taken.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights; a weight of 2 is the same as the row twice, 0 the same as its absence.

        Returns
        -------
        self : object
            The fitted estimator; an estimator that was fitted before keeps its former fit if an error is raised.

        Raises
        ------
        ValueError
            For unusable input or parameters, a split with rows of one task on both sides, held-out tasks that all have
            too few rows, or a step size so large that numbers leave the range of floating point.

        Warns
        -----
        SingleTaskWarning
            If there is one task only.
        UserWarning
            If some held-out tasks have too few rows to be scored; they are trained on all the same.

        Notes
        -----
        With scikit-learn 1.9 or newer, callbacks (``set_callbacks``) follow it: one task "candidate" for each
        combination in each split, then one "refit", the fit on all tasks. Those that scikit-learn propagates, such as
        ProgressBar, follow its iterations too, and may stop them; the choice itself needs all combinations.
        """
        self._validate_params()
        if is_dispatched(X):
            raise TypeError(
                "MAMLRegressorCV takes NumPy arrays: convert X; MAMLRegressor, with what was chosen, takes others"
            )
        params, models = self._candidates()
        warn_of_one_task(self, groups, stacklevel=4)
        X_valid, y_valid, weight, codes, tasks = models[0]._check_rows(X, y, groups, sample_weight, reset=True)
        for model in models:
            check_inner_step_size(model.inner_step_size, X_valid.shape[1] + self.fit_intercept)
        n_rows = len(np.asarray(y))
        table = Table(X_valid, models[0]._encode_target(y_valid), weight, codes, self.fit_intercept)
        splits = []
        if table.n_tasks > 1:
            splits = self._splits(models, table, check_weight(sample_weight, n_rows) > 0, tasks)
        elif groups is not None:
            warnings.warn(
                "groups holds ONE task: nothing can be held out, and MAMLRegressorCV takes the first of each list",
                SingleTaskWarning,
                stacklevel=3,
            )
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        given = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        context = self._init_callback_context(max_subtasks=len(splits) * len(models) + 1)
        context.call_on_fit_task_begin(**given)
        errors = np.full((len(models), 1), np.nan)
        if splits:
            errors = self._errors(models, table, splits, context, given)
        mean = errors.mean(axis=1)
        best = int(np.argmin(mean))
        groups = np.zeros(n_rows) if groups is None else groups  # has been warned of
        best_estimator = models[best].set_params(n_jobs=self.n_jobs, verbose=self.verbose)
        task = context.subcontext(task_name="refit")
        with task.propagate_callback_context(best_estimator):
            task.call_on_fit_task_begin(**given)
            best_estimator.fit(X, y, groups, sample_weight)
            task.call_on_fit_task_end(**given)
        fitted = {
            "best_estimator_": best_estimator,
            "best_index_": best,
            "best_params_": params[best],
            "best_score_": float(-mean[best]),
            "cv_results_": _results(params, errors),
        }
        context.call_on_fit_task_end(**given, reconstruction_attributes=fitted)
        self.__dict__.update(fitted)
        return self

    def adapt(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Adapt to a new task, or tasks, from a few rows.

        Parameters
        ----------
        X, y, groups, sample_weight :
            The support, see :meth:`MAMLRegressor.adapt`.

        Returns
        -------
        adapted : object
            A NEW estimator, whose `best_estimator_` is adapted; this one is left as it is.
        """
        check_is_fitted(self)
        new = copy.copy(self)
        new.best_estimator_ = self.best_estimator_.adapt(X, y, groups=groups, sample_weight=sample_weight)
        return new

    @overload
    def predict(self, X: Matrix, groups: ArrayLike | None = None, return_std: Literal[False] = False) -> np.ndarray: ...

    @overload
    def predict(
        self, X: Matrix, groups: ArrayLike | None = None, *, return_std: Literal[True]
    ) -> tuple[np.ndarray, np.ndarray]: ...

    @overload
    def predict(
        self, X: Matrix, groups: ArrayLike | None = None, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]: ...

    def predict(
        self, X: Matrix, groups: ArrayLike | None = None, return_std: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Predict with `best_estimator_`.

        Parameters
        ----------
        X, groups, return_std :
            See :meth:`MAMLRegressor.predict`.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions; with `return_std` a tuple of these and their standard deviations.
        """
        check_is_fitted(self)
        return self.best_estimator_.predict(X, groups=groups, return_std=return_std)

    def score(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """R^2 of `predict`.

        Parameters
        ----------
        X, y, groups, sample_weight :
            See :meth:`MAMLRegressor.score`.

        Returns
        -------
        score : float
            The score.
        """
        check_is_fitted(self)
        return self.best_estimator_.score(X, y, groups=groups, sample_weight=sample_weight)

    def _candidates(self):
        """Keywords of MAMLRegressor for each combination, and the models."""
        grid = {keyword: getattr(self, name) for keyword, name in _LISTS.items()}
        for keyword, values in grid.items():
            if isinstance(values, str) or len(values) == 0:
                raise ValueError(f"{_LISTS[keyword]} must be a list of at least one value, got {values!r}")
        params = list(ParameterGrid({keyword: list(values) for keyword, values in grid.items()}))
        models = [MAMLRegressor(metric=self.metric, fit_intercept=self.fit_intercept, **each) for each in params]
        for model in models:
            model._validate_params()
        return params, models

    def _splits(self, models, table, kept, tasks):
        """Training rows, or None if each task is left out by itself, and held-out rows, as masks."""
        cv = self.cv
        if cv is None:
            learned = any(isinstance(model.inner_step_size, str) for model in models)
            if not learned and table.n_tasks * (table.X.shape[1] + self.fit_intercept) ** 2 <= LARGEST_CLOSED_FORM:
                return [(None, np.ones(len(table.codes), dtype=bool))]
            cv = min(5, table.n_tasks)
        if isinstance(cv, Integral):
            numbers = np.arange(table.n_tasks)
            if cv > len(numbers):
                raise ValueError(f"cv={cv} folds take at least as many tasks, but there are {len(numbers)}: lower cv")
            folds = GroupKFold(cv).split(numbers, groups=numbers)
            return [(np.isin(table.codes, train), np.isin(table.codes, test)) for train, test in folds]
        given = not hasattr(cv, "split")  # numbers of given rows count those of weight zero
        splits = []
        for split in check_cv(cv).split(table.X, table.Y, table.codes):
            masks = np.zeros((2, len(kept) if given else len(table.codes)), dtype=bool)
            try:
                for mask, rows in zip(masks, split, strict=True):
                    mask[rows] = True
            except IndexError as error:
                raise ValueError(f"cv holds row numbers that X does not have: {error}") from None
            train, test = masks[:, kept] if given else masks
            check_held_out_as_a_whole(table.codes[train], table.codes[test], tasks)
            if not (np.any(train) and np.any(test)):
                raise ValueError("cv makes a split without training rows, or without held-out rows")
            splits.append((train, test))
        if not splits:
            raise ValueError("cv holds no split: give at least one pair of training and held-out rows")
        return splits

    def _errors(self, models, table, splits, context, given):
        """Mean squared errors (n_models, n_scored) on the queries of the held-out tasks that have one."""
        draws, n_draws = self._draws(table, splits)
        errors = np.zeros((len(models), table.n_tasks))
        try:
            if splits[0][0] is None:
                pooled = {l2: pooled_without(table, l2) for l2 in {model.l2_regularization for model in models}}
                fits = [(leave_one_out, model, *pooled[model.l2_regularization]) for model in models]
            else:
                fits = [(fit_others, model, table, train) for train, _ in splits for model in models]
            fitted = self._followed(run_parallel(self.n_jobs, fits), len(fits), context, given)
            starts = [[next(fitted) for _ in models] for _ in splits]
            calls = [(few_shot_errors, models, starts[i], table, splits[i][1], support) for i, support in draws]
            for scored, error in run_parallel(self.n_jobs, calls):
                errors[:, scored] += error
        except np.linalg.LinAlgError:
            raise ValueError(_OUT_OF_RANGE) from None
        diverged = ~np.all(np.isfinite(errors), axis=1)
        if np.all(diverged):
            raise ValueError(_OUT_OF_RANGE)
        errors[diverged] = np.inf
        return errors[:, n_draws > 0] / n_draws[n_draws > 0]

    def _draws(self, table, splits):
        """Pairs of a split's number and which of its held-out rows are support; in how many a task has a query."""
        seed = int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))
        priorities = row_priorities(table, self.n_repeats, seed)
        draws, n_draws = [], np.zeros(table.n_tasks)
        for split, (_, test) in enumerate(splits):
            codes, weight = table.codes[test], table.weight[test]
            for priority in priorities[:, test]:
                support = in_support(codes, weight, priority, self.n_support)
                draws.append((split, support))
                n_draws[np.unique(codes[~support])] += 1
        held_out = np.any([test for _, test in splits], axis=0)
        self._check_queries(n_draws[np.unique(table.codes[held_out])])
        return draws, n_draws

    def _followed(self, results, total, context, given):
        """Hand on the results of fits as they come, and report them."""
        for done in range(total):
            task = context.subcontext(task_name="candidate")
            task.call_on_fit_task_begin(**given)
            result = next(results)
            task.call_on_fit_task_end(**given)
            if self.verbose:
                print_progress("made {} of {} fits", done, done + 1, total)
            yield result

    def _check_queries(self, n_draws):
        """Raise if no held-out task can be scored, warn of those that cannot, given in how many draws each can."""
        few = np.sum(n_draws == 0)
        if few == 0:
            return
        message = (
            f"{few} of {len(n_draws)} held-out tasks have too few different rows for n_support={self.n_support} rows "
            "(total sample_weight) to adapt from and others to score: "
        )
        if few == len(n_draws):
            raise ValueError(message + "lower n_support")
        warnings.warn(
            message + "they are trained on, but have no part in the choice. Lower n_support to score them.",
            UserWarning,
            stacklevel=6,
        )


def _results(params, errors):
    """What `cv_results_` holds, from errors of shape (n_models, n_scored)."""
    with np.errstate(over="ignore", invalid="ignore"):  # of candidates that diverge
        mean, std = errors.mean(axis=1), errors.std(axis=1)
    results = {"params": params}
    for name in sorted(_LISTS):
        results[f"param_{name}"] = _as_array([each[name] for each in params])
    results["mean_test_score"] = -mean
    results["std_test_score"] = std
    results["rank_test_score"] = rankdata(np.nan_to_num(mean), method="min").astype(np.int32)
    return results


def _as_array(values):
    """Values of a parameter: numbers or strings as an array of their type, arrays or a mixture as objects."""
    if len({isinstance(value, str) for value in values}) == 1 and not any(np.ndim(value) for value in values):
        return np.array(values)
    return np.fromiter(values, dtype=object, count=len(values))
