"""Meta-learned linear regression."""

from typing import Literal, Self, overload

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import validate_data

from ._validation import Matrix, check_is_local, to_numpy
from ._warnings import warn_of_one_task, warn_without_prior
from .base import BiMAMLMixin
from .losses import squared_loss
from .statistics import CollapsedStatistics, TaskStatistics
from .threads import small_products
from .training import OUT_OF_RANGE, sum_losses


class MAMLRegressor(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """Linear regression that is meta-learned over tasks and adapts to a new task from a few of its rows.

    `fit` minimises the mean loss after adaptation, F(w) = mean_i f_i(w - a grad f_i(w)), equation (1.1) of Xu, Chen &
    Karbasi (2021), where f_i(w) = mean_j (y_ij - x_ij'w)^2 + l2/2 norm(coef)^2 over the rows of task i (a weighted mean
    with `sample_weight`). All tasks count the same, whatever their size. F is one quadratic: its minimiser has a closed
    form, and an iteration costs the same for any number of tasks and rows.

    Parameters
    ----------
    algorithm : {"bimaml", "maml", "fomaml"}, default="bimaml"
        "maml" descends F, the mean loss after adaptation. "bimaml" first descends f, the mean loss without adaptation,
        until norm(grad f) <= `switch_tol`, then F (Algorithm 1 of the paper, with a switch that is never taken back).
        "fomaml" leaves the Hessian correction out of grad F.
    solver : {"auto", "exact", "lbfgs", "newton-cg", "gd", "ode"}, default="auto"
        How to descend.

        - "gd": gradient descent with step `meta_step_size`, the paper's algorithms.
        - "ode": the gradient flow dw/dt = -beta grad F(w), (3.2), integrated by a stiff method; exactly, by a matrix
          exponential, for quadratic F. Time is measured in steps of "gd" and bounded by `max_iter`.
        - "lbfgs", "newton-cg": SciPy's quasi-Newton and Newton methods. Not for first-order MAML, whose direction is no
          gradient, unless F is quadratic.
        - "exact": the minimiser nearest to the start, by one linear solve; quadratic F (the squared loss) only. For
          "bimaml" the start is the minimiser of f.
        - "auto": "exact".
    inner_step_size : "auto", float or array-like of shape (n_parameters,), default="auto"
        Step size alpha of the adaptation, in training and in `adapt`. A float is taken as it is, an array is one step
        for each parameter: coefficients, then the intercept if there is one. "auto" learns from the training tasks how
        tasks differ, and takes a step in that metric; see Notes.
    n_inner_steps : int, default=1
        Number K of adaptation steps. 0 is no adaptation: F is f, the pooled risk, each task with the same weight.
    adaptation : {"gradient", "implicit"}, default="gradient"
        How a task's parameters move: by explicit or by implicit Euler steps of the gradient flow of its loss.

        - "gradient": w <- w - a grad f(w), MAML.
        - "implicit": w <- argmin f(w') + norm(w' - w)^2 / (2a), a proximal step (iMAML). With the
          learned metric it is the best linear unbiased prediction (BLUP) of a mixed model with random slopes.
    metric : {"diag", "full"}, default="diag"
        What ``inner_step_size="auto"`` learns of how tasks differ: the variance of each coefficient, and of a task's
        level at the mean row, by themselves ("diag"), or their full covariance.
    meta_step_size : "auto" or float, default="auto"
        Step size beta of "gd" and "ode"; other solvers have none. "auto" is 1 / L of the function descended.
    switch_tol : "auto" or float, default="auto"
        "bimaml" switches from f to F when norm(grad f) <= `switch_tol`. "auto" is a tenth of that norm at the start.
    l2_regularization : float, default=0.0
        Ridge penalty l2 of each task's loss. With one task, Ridge(alpha=n_samples * l2 / 2).
    fit_intercept : bool, default=True
        Whether to learn an intercept. It is never penalised.
    init : {"zeros", "normal"} or array-like of shape (n_parameters,) or (n_outputs, n_parameters), default="zeros"
        Where to start: zeros, standard normal numbers from `random_state` (the paper's choice), or these parameters:
        coefficients, then the intercept if there is one.
    warm_start : bool, default=False
        Whether `fit` starts from the last `coef_` and `intercept_` instead of `init`.
    max_iter : int, default=1000
        Largest number of iterations, over both phases.
    tol : float, default=1e-6
        Stop when norm(grad F) <= `tol`, an absolute number in units of the loss per unit of parameter.
    n_jobs : int, default=None
        Number of threads that work on stacks of tasks. None is one; -1 is all cores.
    random_state : int, RandomState instance or None, default=None
        For ``init="normal"``.
    verbose : int, default=0
        If positive, print objective and gradient norm, less and less often, and in `adapt` how many tasks are done.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients of the initialisation; after `adapt` without groups, of the task.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept of the initialisation; after `adapt` without groups, of the task.
    inner_step_size_ : float or ndarray
        Inner step size that was used: as given, or for "auto" of shape (n_tasks,), each task's own multiple of
        ``task_covariance_ / noise_variance_``.
    task_covariance_ : ndarray of shape (n_parameters, n_parameters) or (n_outputs, n_parameters, n_parameters) or None
        With ``inner_step_size="auto"``: covariance of the tasks' parameters (coefficients, then the intercept if there
        is one) around their mean; after `adapt` without groups and with one implicit step, what is left of it for this
        task. None if there was nothing to learn it from.
    noise_variance_ : float or ndarray of shape (n_outputs,) or None
        With ``inner_step_size="auto"``: variance of the noise, what remains within a task; 0 for one of several outputs
        that never varies.
    meta_step_size_ : float, ndarray of shape (2,) or None
        Meta step size that was used: for "auto" and "bimaml" one for each phase; None for solvers without one,
        and if a callback stopped training.
    switch_tol_ : float or "auto"
        The `switch_tol` that was used; as given if there is one phase only.
    l2_regularization_ : float
        Weight of the penalty in the task loss.
    n_iter_ : int
        Number of iterations; with solver "ode" the time, rounded up.
    history_ : dict of ndarray
        A record of training, entry 0 the start and one entry for each iterate: "phase" (1 while f is descended, 2 for
        F), "grad_norm" and "objective" of the function descended, "n_gradients" and "n_hessp", the evaluations of every
        task's gradient and Hessian product up to then (an implicit step counts as one of each). For solver "ode" also
        "time".
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, if X had names that are all strings.
    tasks_ : ndarray of shape (n_tasks,)
        After `adapt` with groups: the tasks adapted to.
    task_coef_ : ndarray of shape (n_tasks, ...)
        After `adapt` with groups: their coefficients, each of the shape of `coef_`.
    task_intercept_ : ndarray of shape (n_tasks, ...)
        After `adapt` with groups: their intercepts, each of the shape of `intercept_`.

    See Also
    --------
    MAMLSVC : The same for classification.
    adapt : Adapt a pipeline or a search that contains a meta-learner.
    sklearn.linear_model.Ridge : One model for all tasks.

    Notes
    -----
    With ``inner_step_size="auto"`` the tasks are taken for draws of a model of random coefficients, y = Xw + noise with
    w ~ N(mean, S) (`task_covariance_`) and noise ~ N(0, s2) (`noise_variance_`), which is estimated by restricted
    maximum likelihood, as in mixed models. Several outputs share S / s2. For K rows (total weight K) of a task with
    loss f, H = Hess f and g = grad f(w), the step is

    - "gradient": w - S g / (2 s2 / K + lambda_max(S^1/2 H S^1/2)), which no task can make overshoot (with a penalty
      the sum of the largest eigenvalues of its two parts takes the place of lambda_max);
    - "implicit": w - (H + 2 s2 / K S^-1)^-1 g, the BLUP around w.

    For K = 1 the two are the same. Neither depends on the units or the origin of the features, if there is no
    penalty. Training reckons with one row of a new task, and minimises

        mean_i f_i(w - P_i grad f_i(w)) + mean_i f_i(w) / 10,

    where P_i makes a step as above with K = 1. The second term, a tenth of the loss before adaptation, decides where
    adaptation makes up for anything: without it the initialisation is a poor model of a task without labels. With one
    task, tasks of one row each, or more parameters than rows (total weight) or than 500, nothing can be learned of how
    tasks differ, and the step is
    1 / (2 L_i) for all parameters, where L_i is the largest eigenvalue of the task's Hessian (plus
    `l2_regularization`), within the bound alpha < 1 / (2L) of Theorems 3.6 and 3.8 of the paper.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Aravind Rajeswaran, Chelsea Finn, Sham Kakade, Sergey Levine, "Meta-Learning with Implicit Gradients", NeurIPS 2019.

    Nan M. Laird, James H. Ware, "Random-Effects Models for Longitudinal Data", Biometrics 38 (1982).

    Examples
    --------
    Ten tasks that differ in their intercept; five rows of an eleventh are enough to correct for its own.

    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(11), 20)
    >>> X = rng.normal(size=(220, 2))
    >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=11)[groups] + rng.normal(size=220)
    >>> train, support, query = groups < 10, np.arange(200, 205), np.arange(205, 220)
    >>> model = MAMLRegressor().fit(X[train], y[train], groups=groups[train])
    >>> before = model.score(X[query], y[query])
    >>> after = model.adapt(X[support], y[support]).score(X[query], y[query])
    >>> print(f"R2 {before:.2f} before, {after:.2f} after adaptation")
    R2 0.72 before, 0.83 after adaptation

    The implicit step also tells how uncertain a prediction is:

    >>> model = MAMLRegressor(adaptation="implicit").fit(X[train], y[train], groups=groups[train])
    >>> _, before = model.predict(X[query[:1]], return_std=True)
    >>> _, after = model.adapt(X[support], y[support]).predict(X[query[:1]], return_std=True)
    >>> print(f"standard deviation {before[0]:.2f} before, {after[0]:.2f} after adaptation")
    standard deviation 2.49 before, 1.08 after adaptation
    """

    task_structure = "quadratic"

    def fit_statistics(self, statistics: TaskStatistics | CollapsedStatistics) -> Self:
        """Learn an initialisation from statistics of rows, which may be anywhere and need not fit in memory.

        The result is that of :meth:`fit` on the rows, to rounding, whatever chunks, machines and order they came from.

        Parameters
        ----------
        statistics : TaskStatistics or CollapsedStatistics
            The sum of the statistics of all rows, see :func:`task_statistics`, or of all tasks, see
            :meth:`collapse_statistics`.

        Returns
        -------
        self : object
            The fitted estimator, which keeps nothing of the statistics: to go on with more rows, add theirs. Callbacks
            do not follow it.

        Raises
        ------
        TypeError
            If `statistics` are something else.
        ValueError
            As :meth:`fit`, and for statistics that were collapsed for other parameters.

        Warns
        -----
        SingleTaskWarning
            If the statistics were made without `groups`.
        ConvergenceWarning
            As :meth:`fit`.

        Examples
        --------
        A table that comes in chunks, the rows of a task in any of them:

        >>> import numpy as np
        >>> from sklearn_maml import MAMLRegressor, task_statistics
        >>> rng = np.random.default_rng(0)
        >>> groups = rng.integers(10, size=200)
        >>> X = rng.normal(size=(200, 2))
        >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=10)[groups] + rng.normal(size=200)
        >>> chunks = np.split(np.arange(200), 4)
        >>> statistics = sum(task_statistics(X[rows], y[rows], groups[rows]) for rows in chunks)
        >>> statistics
        TaskStatistics(n_tasks=10, n_features=2, n_outputs=1, weight=200, nbytes=1360)
        >>> model = MAMLRegressor().fit_statistics(statistics)
        >>> np.allclose(model.coef_, MAMLRegressor().fit(X, y, groups=groups).coef_, rtol=1e-10)
        True
        """
        self._validate_params()
        self._check_adaptation()
        if not isinstance(statistics, CollapsedStatistics):
            self._check_statistics(statistics)
        if not statistics.n_tasks:
            raise ValueError("the statistics are those of no row: X was empty, or all weights were zero")
        l2, tasks = float(self.l2_regularization), statistics
        if isinstance(statistics, CollapsedStatistics):
            statistics._check_made_for(self._collapse_parameters(statistics.n_features), "the estimator has")
        else:
            warn_of_one_task(self, statistics.tasks)
            tasks = statistics._tasks_with(l2, self.fit_intercept)
        new = self._without_fit()
        new.n_features_in_ = statistics.n_features
        if statistics.feature_names is not None:
            new.feature_names_in_ = statistics.feature_names
        new.l2_regularization_ = l2
        w0 = self._warm_parameters(new, tasks) if self.warm_start and hasattr(self, "coef_") else self._start(tasks)
        result = new._meta_train_on(tasks, w0, stacklevel=4)
        warn_without_prior(new, tasks, stacklevel=3)
        new._set_fit(result, *statistics._output)
        return self._take_fit_of(new)

    def collapse_statistics(self, statistics: TaskStatistics) -> CollapsedStatistics:
        """Make of statistics of WHOLE tasks what fitting with a given inner step needs of them: d x d numbers for all.

        To be called where the statistics were made, if that is where all rows of their tasks are: what then travels
        does not grow with the number of tasks. The sum goes into :meth:`fit_statistics`.

        Parameters
        ----------
        statistics : TaskStatistics
            The statistics of all rows of some tasks. The ids of the tasks are left behind: a task of which other rows
            are in another part would count as two, and that cannot be noticed.

        Returns
        -------
        collapsed : CollapsedStatistics
            The sums over the tasks of what :meth:`fit_statistics` descends. They hold for this estimator's
            `inner_step_size`, `n_inner_steps`, `adaptation`, `l2_regularization`, `fit_intercept`, and for
            ``algorithm="fomaml"`` or the two others; what else it has can be changed afterwards.

        Raises
        ------
        TypeError
            If `statistics` are something else.
        ValueError
            If ``inner_step_size="auto"`` (it is learned from all tasks), if the statistics were made without groups, or
            if numbers leave the range of floating point.

        Examples
        --------
        Two machines, each with all rows of its tasks:

        >>> import numpy as np
        >>> from sklearn_maml import MAMLRegressor, task_statistics
        >>> rng = np.random.default_rng(0)
        >>> groups = np.repeat(np.arange(100), 8)
        >>> X = rng.normal(size=(800, 2))
        >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=100)[groups] + rng.normal(size=800)
        >>> model = MAMLRegressor(inner_step_size=0.1)
        >>> statistics = [task_statistics(X[part], y[part], groups[part]) for part in (groups < 50, groups >= 50)]
        >>> collapsed = sum(model.collapse_statistics(each) for each in statistics)
        >>> collapsed.n_tasks, collapsed.nbytes, sum(statistics).nbytes
        (100, 240, 13600)
        >>> model.fit_statistics(collapsed).coef_.round(2)
        array([ 0.97, -2.02])
        """
        self._validate_params()
        self._check_adaptation()
        self._check_statistics(statistics)
        if statistics.tasks is None:
            raise ValueError(
                "statistics made without groups are those of one task, which may have rows elsewhere: give groups to "
                "task_statistics, or the statistics as they are to fit_statistics"
            )
        parameters, sums = self._collapse_parameters(statistics.n_features), []
        if statistics.n_tasks:
            tasks = statistics._tasks_with(parameters["l2_regularization"], self.fit_intercept)
            d, first_order = tasks.shape[1], parameters["first_order"]
            try:
                how = self._adaptation(d) | {"first_order": first_order, "n_jobs": self.n_jobs}
                with np.errstate(over="ignore", invalid="ignore"), small_products(d, self.n_jobs):
                    sums, _ = sum_losses(tasks.stacks(), **how)
            except np.linalg.LinAlgError:
                raise ValueError(OUT_OF_RANGE) from None
        return CollapsedStatistics(
            sums,
            statistics.n_features,
            statistics.n_outputs,
            statistics.feature_names,
            statistics._output,
            parameters,
        )

    def _check_statistics(self, statistics):
        if not isinstance(statistics, TaskStatistics):
            raise TypeError(
                f"statistics must be TaskStatistics, got {type(statistics).__name__}: make them with "
                "sklearn_maml.task_statistics"
            )
        if self.task_loss is not squared_loss:
            raise TypeError(
                f"{type(self).__name__} has a task_loss of its own, but statistics are those of the squared loss: use "
                "fit or partial_fit"
            )

    def _collapse_parameters(self, n_features):
        """The parameters that decide f and F."""
        if self._learns_prior():
            raise ValueError(
                "inner_step_size='auto' is learned from the statistics of every task: give a number to collapse them, "
                "or fit to the TaskStatistics themselves"
            )
        adaptation = self._adaptation(n_features + self.fit_intercept)
        return {name: adaptation[name] for name in ("inner_step_size", "n_inner_steps", "adaptation")} | {
            "l2_regularization": float(self.l2_regularization),
            "fit_intercept": bool(self.fit_intercept),
            "first_order": self.algorithm == "fomaml",
        }

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
        """Predict, with standard deviations if asked for.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, after :meth:`adapt` with groups: each row is predicted with its own task's parameters, rows
            of unknown tasks with the initialisation. None: the initialisation or, after :meth:`adapt` without groups,
            the adapted parameters.
        return_std : bool, default=False
            Whether to return the standard deviation of a new row's y around its prediction, sqrt(s2 + x'Cx): s2 is
            `noise_variance_`, C the covariance of the task's parameters, `task_covariance_` before adaptation and
            (S^-1 + X'X / s2)^-1 after it. Needs the learned metric, ``adaptation="implicit"`` and one inner step. The
            uncertainty of S, s2 and the mean themselves is not in it.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        y_std : ndarray of the same shape
            Standard deviations, if `return_std`.

        Raises
        ------
        ValueError
            If `return_std` and there is nothing to tell it from; the message says what is missing.
        """
        y_pred = self._linear_predictor(X, groups)
        return (y_pred, self._predictive_std(X, groups)) if return_std else y_pred

    task_loss_takes_any_array = True

    task_loss = staticmethod(squared_loss)


def task_statistics(
    X: Matrix, y: ArrayLike, groups: ArrayLike | None, sample_weight: ArrayLike | None = None
) -> TaskStatistics:
    """Statistics of rows: what :class:`MAMLRegressor` needs to know of them, a few numbers for each task.

    To be called wherever rows are, for any part of them; a task's rows may be in several parts. The sum of all parts'
    statistics goes into :meth:`MAMLRegressor.fit_statistics`.

    Parameters
    ----------
    X : {array-like, sparse matrix} of shape (n_samples, n_features)
        Rows; none at all are fine.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    groups : array-like of shape (n_samples,) or None
        The task each row belongs to. None, in all parts, is one task.
    sample_weight : array-like of shape (n_samples,), default=None
        Row weights within a task.

    Returns
    -------
    statistics : TaskStatistics
        The statistics, in float64. Mean products of features, y and a column of ones: of features or a target whose
        mean is more than 10,000 standard deviations from zero too few digits are left, and fitting warns of it.

    Raises
    ------
    TypeError
        If something given is spread over a cluster.
    ValueError
        For unusable input, as in :meth:`MAMLRegressor.fit`, and more than 2000 features.

    Examples
    --------
    >>> from sklearn_maml import task_statistics
    >>> one = task_statistics([[1.0], [2.0], [4.0]], [1.0, 3.0, 2.0], groups=["a", "a", "b"])
    >>> two = task_statistics([[3.0], [5.0]], [2.0, 1.0], groups=["b", "c"])
    >>> (one + two).tasks.tolist(), (one + two).weight.tolist()
    (['a', 'b', 'c'], [2.0, 2.0, 1.0])
    """
    model = MAMLRegressor()
    check_is_local("task_statistics", X=X, y=y, groups=groups, sample_weight=sample_weight)
    n_rows = X.shape[0] if hasattr(X, "shape") else len(X)
    if not n_rows or (sample_weight is not None and not np.any(to_numpy(sample_weight))):
        X = validate_data(model, X, accept_sparse="csr", ensure_min_samples=0)
        tasks = None if groups is None else np.array([], dtype=object)
        n_outputs = np.shape(y)[1] if np.ndim(y) == 2 else 1
        return TaskStatistics._of_no_row(X.shape[1], n_outputs, tasks, getattr(model, "feature_names_in_", None))
    X, y, weight, codes, tasks = model._check_rows(X, y, groups, sample_weight, reset=True)
    return model._statistics(model._task_rows(X, y, weight, codes), tasks, np.ndim(y) == 1)
