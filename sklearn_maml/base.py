"""The mixin: a pointwise `task_loss(y, z)` plus this is a meta-learning estimator."""

import copy
import inspect
from numbers import Integral, Real
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils.validation import check_is_fitted, validate_data

from ._sklearn import (
    DISPATCHES,
    CallbackSupportMixin,
    Interval,
    OriginMixin,
    StrOptions,
    check_namespace,
    has_callbacks,
    is_dispatched,
    with_callbacks,
)
from ._validation import (
    Matrix,
    check_inner_step_size,
    check_is_local,
    check_weight,
    from_parameters,
    initial_parameters,
    to_numpy,
    to_parameters,
)
from ._warnings import warn_of_one_task, warn_of_overshooting, warn_unless_converged, warn_without_prior
from .arrays import float_types, in_double, is_numpy, like, move, namespace, take, to_host
from .groups import encode_groups, find_tasks, merge_tasks
from .losses import STRUCTURES, on_host
from .prediction import predict_by_task, predictive_std
from .prior import learn_prior
from .rows import TaskRows
from .solvers import SOLVERS
from .streaming import StreamingMixin
from .tasks import LARGEST_MATRIX, LARGEST_METRIC
from .threads import small_products
from .training import OUT_OF_RANGE, TRAINING_PARAMETERS, adapt_all, meta_losses, meta_train

_PER_TASK = ("tasks_", "task_coef_", "task_intercept_", "_task_scatter")
_FITTED = (
    "n_features_in_",
    "feature_names_in_",
    "classes_",
    "coef_",
    "intercept_",
    "l2_regularization_",
    "inner_step_size_",
    "meta_step_size_",
    "switch_tol_",
    "task_covariance_",
    "noise_variance_",
    "_prior",
    "_knows_scatter",
    "n_iter_",
    "history_",
    "_has_intercept",
    "_stream",
    *_PER_TASK,
)


class BiMAMLMixin(StreamingMixin, OriginMixin, CallbackSupportMixin):
    """Meta-learning for a linear model with any pointwise loss.

    A subclass defines ``task_loss(self, y, z) -> (value, slope, curvature)``, elementwise: the loss of the prediction
    z = x'coef + intercept for the target y, and its first two derivatives in z. Everything else is inherited: `fit`,
    `partial_fit`, `adapt`, `predict`, `score`, metadata routing. List scikit-learn's ``RegressorMixin`` beside it (for
    classifiers ``ClassifierMixin`` and :class:`BiMAMLClassifierMixin`) and ``BaseEstimator`` last.

    Parameters are those of :class:`MAMLRegressor`. A subclass with parameters of its own has an ``__init__``, which
    names beside them those that its users may choose, and hands these to ``super().__init__``; without one it has all.

    Attributes
    ----------
    task_structure : {"differentiable", "smooth", "quadratic", "subdifferentiable"}
        What solvers may assume of `task_loss`: its slope is continuous (the default, and the cautious choice); it has
        two continuous derivatives; its curvature is one constant (one returned number, not an array); its slope jumps.
    task_loss_takes_any_array : bool
        Whether `task_loss` takes arrays of other libraries than NumPy: whether it is written with operators and the
        functions of their namespaces. Of arrays for which it does not (the default), predictions travel to the host
        and back, one number for each row and output.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.base import BaseEstimator, RegressorMixin
    >>> from sklearn_maml import BiMAMLMixin
    >>> class LogCoshRegressor(RegressorMixin, BiMAMLMixin, BaseEstimator):
    ...     def __init__(self, *, inner_step_size="auto"):
    ...         super().__init__(inner_step_size=inner_step_size)
    ...
    ...     def task_loss(self, y, z):
    ...         r = z - y
    ...         return np.logaddexp(r, -r) - np.log(2), np.tanh(r), 1 / np.cosh(r) ** 2
    >>> X = np.arange(12.0).reshape(-1, 1) / 12
    >>> y = np.r_[X[:6, 0], 1 + X[6:, 0]]
    >>> model = LogCoshRegressor().fit(X, y, groups=["a"] * 6 + ["b"] * 6)
    >>> model.adapt(X[:2], y[:2] + 3).predict(X[:1]).shape
    (1,)
    """

    __metadata_request__fit = {"groups": True}
    __metadata_request__partial_fit = {"groups": True}
    __metadata_request__predict = {"groups": True}
    __metadata_request__score = {"groups": True}

    _parameter_constraints = {
        "algorithm": [StrOptions({"maml", "bimaml", "fomaml"})],
        "solver": [StrOptions({"auto", *SOLVERS})],
        "inner_step_size": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left"), "array-like"],
        "n_inner_steps": [Interval(Integral, 0, None, closed="left")],
        "adaptation": [StrOptions({"gradient", "implicit"})],
        "metric": [StrOptions({"diag", "full"})],
        "meta_step_size": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "switch_tol": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left")],
        "l2_regularization": [Interval(Real, 0, None, closed="left")],
        "fit_intercept": ["boolean"],
        "init": [StrOptions({"zeros", "normal"}), "array-like"],
        "warm_start": ["boolean"],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_jobs": [Integral, None],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    task_structure = "differentiable"
    task_loss_takes_any_array = False

    def __init__(
        self,
        *,
        algorithm: Literal["bimaml", "maml", "fomaml"] = "bimaml",
        solver: Literal["auto", "exact", "lbfgs", "newton-cg", "gd", "ode"] = "auto",
        inner_step_size: Literal["auto"] | float | ArrayLike = "auto",
        n_inner_steps: int = 1,
        adaptation: Literal["gradient", "implicit"] = "gradient",
        metric: Literal["diag", "full"] = "diag",
        meta_step_size: Literal["auto"] | float = "auto",
        switch_tol: Literal["auto"] | float = "auto",
        l2_regularization: float = 0.0,
        fit_intercept: bool = True,
        init: Literal["zeros", "normal"] | ArrayLike = "zeros",
        warm_start: bool = False,
        max_iter: int = 1000,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.algorithm = algorithm
        self.solver = solver
        self.inner_step_size = inner_step_size
        self.n_inner_steps = n_inner_steps
        self.adaptation = adaptation
        self.metric = metric
        self.meta_step_size = meta_step_size
        self.switch_tol = switch_tol
        self.l2_regularization = l2_regularization
        self.fit_intercept = fit_intercept
        self.init = init
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def __init_subclass__(cls, **kwargs):
        if cls.score in (RegressorMixin.score, ClassifierMixin.score):  # listed first, and cannot take groups
            cls.score = BiMAMLMixin.score
        if "_parameter_constraints" not in vars(cls):  # those of the parameters that this class has
            names = list(inspect.signature(cls).parameters)
            cls._parameter_constraints = {n: cls._parameter_constraints.get(n, "no_validation") for n in names}
        super().__init_subclass__(**kwargs)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        tags.array_api_support = DISPATCHES
        return tags

    @with_callbacks
    def fit(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn an initialisation from which few rows of a new task suffice.

        Minimises F(w) = mean_i f_i(w - a grad f_i(w)), equation (1.1) of Xu, Chen & Karbasi (2021), where f_i is the
        weighted mean of the loss over the rows of task i. With ``inner_step_size="auto"`` a is the learned metric, and
        a tenth of f = mean_i f_i is added, for the tasks of which there will be no labelled row.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows of all tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets; labels for classifiers.
        groups : array-like of shape (n_samples,), default=None
            The task each row belongs to. None is ONE task, with a :class:`SingleTaskWarning`.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights within a task; a weight of 2 is the same as the row twice, 0 the same as its absence.

        Returns
        -------
        self : object
            The fitted estimator; an estimator that was fitted before keeps its former fit if an error is raised.

        Raises
        ------
        ValueError
            For unusable input (lengths, NaN, missing task ids, negative or only zero weights), a loss that solver
            "exact" cannot take, or a descent that diverges.

        Warns
        -----
        SingleTaskWarning
            If `groups` is None.
        ConvergenceWarning
            If norm(grad F) <= tol was not reached; it says what to change.

        Notes
        -----
        With scikit-learn 1.9 or newer, callbacks (``set_callbacks``) follow it: one task "meta-iteration" for each
        iteration, for solver "ode" for each recorded iterate. One that asks to stop ends training, in whichever phase,
        with this iterate; `meta_step_size_` is then None.
        """
        self._validate_params()
        self._check_adaptation()
        warn_of_one_task(self, groups, stacklevel=4)
        new = self._without_fit()
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        given = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        context = self._init_callback_context(max_subtasks=self._most_iterations())
        context.call_on_fit_task_begin(**given)
        X, y, weight, codes, _ = new._check_rows(X, y, groups, sample_weight, reset=True)
        new._learn_target(y)
        rows = new._task_rows(X, y, weight, codes)
        structure = self._structure(rows)
        w0 = self._warm_parameters(new, rows) if self.warm_start and hasattr(self, "coef_") else self._start(rows)
        squared = rows.with_squared_loss()
        built = new._learn_prior(squared)
        stacks = built if squared is rows and built else rows.stacks(structure)
        warn_without_prior(new, rows, stacklevel=4)

        def fit_of(result):
            fitted = copy.copy(new)
            fitted._set_fit(result, X, np.ndim(y) == 1)
            return {"__dict__": vars(fitted)}  # as a whole, so that nothing of a former fit of `self` is left in it

        def on_iteration(before, after):
            task = context.subcontext(task_name="meta-iteration")
            task.call_on_fit_task_begin(**given, reconstruction_attributes=lambda: fit_of(before()))
            return task.call_on_fit_task_end(**given, reconstruction_attributes=lambda: fit_of(after()))

        follow = {"on_iteration": on_iteration} if has_callbacks(self) else {}
        result = new._meta_train(stacks, w0, structure, **follow)
        warn_unless_converged(result, stacklevel=4)
        context.call_on_fit_task_end(**given, reconstruction_attributes=lambda: fit_of(result))
        new._set_fit(result, X, np.ndim(y) == 1)
        return self._take_fit_of(new)

    def _most_iterations(self):
        """A bound of their number, None if there is none: the flow counts time, not iterates."""
        if self.solver == "ode":
            return None
        if self.solver == "exact" or (self.solver == "auto" and self.task_structure == "quadratic"):
            return 2 if self.algorithm == "bimaml" else 1
        return self.max_iter

    def adapt(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Adapt to a new task from a few of its rows: `n_inner_steps` steps down its loss, see `adaptation`.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The support: labelled rows of the new task, or tasks.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Their targets; for classifiers labels that `fit` has seen, not necessarily all of them.
        groups : array-like of shape (n_samples,), default=None
            Task ids, to adapt to many tasks at once. None is one task.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        adapted : object
            A NEW estimator; this one is left as it is. Without `groups`, its `coef_` and `intercept_` are those of the
            task. With `groups`, it holds every task's in `task_coef_` and `task_intercept_`, in the order of `tasks_`;
            ``predict(X, groups=g)`` uses each row's own, and the initialisation for tasks it does not know. It adapts
            further from where it stands; with the squared loss, the learned metric, one implicit step and no penalty to
            where all rows together would have led.

        Raises
        ------
        NotFittedError
            If the estimator is not fitted.
        ValueError
            For unusable input, such as labels that `fit` has not seen.

        Warns
        -----
        UserWarning
            If a given inner step overshoots on this support, with a step size that does not.
        """
        check_is_fitted(self)
        self._validate_params()
        self._check_adaptation()
        check_namespace(X, self, "adapt")
        X, y, weight, codes, tasks = self._check_rows(X, y, groups, sample_weight, reset=False)
        rows = self._task_rows(X, y, weight, codes)
        step_size = check_inner_step_size(self.inner_step_size, rows.n_parameters)
        prior = self._prior_of(tasks) if self._learns_prior() else None
        W, steps, safe, left = adapt_all(
            rows.stacks(self._structure(rows)),
            self._starts(rows, tasks),
            step_size,
            self.adaptation,
            self.n_inner_steps,
            prior,
            self.n_jobs,
            scatter=prior is not None and self._knows_scatter and self._tells_scatter(),
            verbose=self.verbose,
        )
        if self.n_inner_steps and self.task_structure != "subdifferentiable":
            warn_of_overshooting(step_size, safe)
        new = copy.copy(self)
        for name in ("_stream", *_PER_TASK):
            new.__dict__.pop(name, None)
        new.inner_step_size_ = steps
        new._knows_scatter = left is not None
        public = {"like_X": self.coef_, "one_output": self.coef_.ndim == 1, "fit_intercept": self.fit_intercept}
        if tasks is None:
            new.coef_, new.intercept_ = from_parameters(W[0, ...], **public)
            if left is not None:
                new._set_prior(self._prior.with_covariance(to_host(left)[0]))
            new._move_results(self.coef_)
            return new
        new._move_results(self.coef_)
        if hasattr(self, "tasks_"):  # tasks adapted to before stay; those adapted again have moved
            key, tasks = merge_tasks(self.tasks_, tasks)
            W = _overwrite(self._parameters(self.task_coef_, self.task_intercept_), W, key)
            if left is not None:
                left = _overwrite(self._task_scatter, left, key)
        new.tasks_ = tasks
        new.task_coef_, new.task_intercept_ = from_parameters(W, **public)
        if left is not None:
            new._task_scatter = left
        return new

    def predict(self, X: Matrix, groups: ArrayLike | None = None) -> np.ndarray:
        """Predict.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, after :meth:`adapt` with groups: each row is predicted with its own task's parameters, rows
            of unknown tasks with the initialisation. None: the initialisation or, after :meth:`adapt` without groups,
            the adapted parameters.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions.
        """
        return self._linear_predictor(X, groups)

    def score(
        self, X: Matrix, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """R^2 of `predict` for regressors, accuracy for classifiers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, see :meth:`predict`.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        score : float
            The score.
        """
        metric = accuracy_score if is_classifier(self) else r2_score
        y, y_pred, sample_weight = map(to_numpy, (y, self.predict(X, groups), sample_weight))
        return metric(y, y_pred, sample_weight=sample_weight)

    def _linear_predictor(self, X, groups, method="predict"):
        """Evaluate z = x'coef + intercept with the parameters of each row's task."""
        check_is_fitted(self)
        check_is_local(type(self).__name__, X=X, groups=groups)
        check_namespace(X, self, method)
        X = validate_data(self, X, accept_sparse="csr", dtype=float_types(X), reset=False)
        shared, own = self._by_output(self.coef_, self.intercept_), None
        if hasattr(self, "tasks_"):
            own = self._by_output(self.task_coef_, self.task_intercept_, len(self.tasks_))
        Z = predict_by_task(X, shared, own, self._positions(groups, X.shape[0]))
        return Z[:, 0] if self.coef_.ndim == 1 else Z

    def _by_output(self, coef, intercept, *n_tasks):
        """Coefficients (..., k, n_features) and intercepts (..., k), whether or not there is one output only."""
        xp, shape = namespace(coef), (*n_tasks, self._n_outputs)
        return xp.reshape(coef, (*shape, -1)), xp.reshape(xp.asarray(intercept), shape)

    @property
    def _n_outputs(self):
        return self.coef_.shape[0] if self.coef_.ndim == 2 else 1

    def _positions(self, groups, n_rows):
        """Each row's task among those adapted to, -1 for another; None if no groups are given."""
        if groups is None:
            return None
        return find_tasks(to_numpy(groups), n_rows, getattr(self, "tasks_", np.array([], dtype=object)))

    def _predictive_std(self, X, groups):
        """Standard deviation of a row's y around its prediction."""
        if not (self._tells_scatter() and self._learns_prior() and self._knows_scatter):
            raise ValueError(
                "return_std=True needs adaptation='implicit', inner_step_size='auto' and n_inner_steps=1, now and in "
                "every adapt, and a fit with enough tasks and rows to learn how tasks differ"
            )
        self._parameters()  # raises if fit_intercept was changed
        X = validate_data(self, X, accept_sparse="csr", dtype=float_types(X), reset=False)
        X = in_double(X.toarray() if sparse.issparse(X) else X)
        if self.fit_intercept:
            xp = namespace(X)
            X = xp.concat([X, xp.ones_like(X[:, :1])], axis=1)
        scatter = getattr(self, "_task_scatter", None)
        std = predictive_std(X, self._prior, scatter, self._positions(groups, X.shape[0]))
        std = namespace(std).asarray(std, dtype=self.coef_.dtype)
        return std[:, 0] if self.coef_.ndim == 1 else std

    def _without_fit(self):
        """A copy that is not fitted: what a fit is built in, so that one that fails changes nothing."""
        new = copy.copy(self)
        for name in _FITTED:
            new.__dict__.pop(name, None)
        return new

    def _take_fit_of(self, new):
        """Take over what `new` has learned, at the end of a fit that succeeded, in one step: it may be interrupted."""
        own = {name: value for name, value in vars(self).items() if name not in _FITTED}
        self.__dict__ = own | {name: vars(new)[name] for name in _FITTED if name in vars(new)}
        return self

    def _structure(self, rows):
        """What stacks and solvers may assume: "one quadratic" if d x d matrices are in order."""
        if self.task_structure == "quadratic" and rows.n_parameters <= LARGEST_MATRIX:
            return "one quadratic"
        return self.task_structure

    def _check_rows(self, X, y, groups, sample_weight, *, reset):
        """Validate, and leave out rows of weight zero: X, y, weights, each row's task number, the task ids."""
        check_is_local(type(self).__name__, X=X, y=y, groups=groups, sample_weight=sample_weight)
        X, y = self._validate_xy(X, y, reset)
        codes, tasks = np.zeros(X.shape[0], dtype=np.intp), None
        if groups is not None:
            codes, tasks = encode_groups(to_numpy(groups), X.shape[0])
        weight = check_weight(sample_weight, X.shape[0])
        kept = weight > 0
        if not np.all(kept):
            rows = np.flatnonzero(kept)
            X, y, weight = take(X, rows), take(y, rows), weight[kept]
            present, codes = np.unique(codes[kept], return_inverse=True)
            tasks = None if tasks is None else tasks[present]
        return X, y, weight, codes, tasks

    def _validate_xy(self, X, y, reset):
        if sparse.issparse(y):
            raise TypeError("y must be a dense array, got a sparse matrix: use y.toarray()")
        y = to_numpy(y) if not is_dispatched(X) else move(y if is_dispatched(y) else np.asarray(y), X)
        return validate_data(
            self, X, y, accept_sparse="csr", dtype=float_types(X), multi_output=True, y_numeric=True, reset=reset
        )

    def _learn_target(self, y):
        """Remember what has to be known of y: nothing, for regressors."""

    def _encode_target(self, y):
        """Targets as numbers of shape (n_rows, n_outputs)."""
        return namespace(y).reshape(in_double(y), (y.shape[0], -1))

    def _l2(self, mean_task_weight):
        """Penalty of a task's loss, given the mean total weight of a task."""
        return float(self.l2_regularization)

    def _task_rows(self, X, y, weight, codes):
        """The validated rows, by task. What `fit` decided, the penalty and the number of outputs, holds in `adapt`."""
        Y = like(self._encode_target(y), X)
        if hasattr(self, "coef_") and Y.shape[1] != self._n_outputs:
            raise ValueError(f"y has {Y.shape[1]} output(s), but {self._n_outputs} in fit")
        l2 = getattr(self, "l2_regularization_", None)
        if l2 is None:
            l2 = self.l2_regularization_ = self._l2(weight.sum() / (codes.max() + 1))
        loss = self.task_loss if is_numpy(X) or self.task_loss_takes_any_array else on_host(self.task_loss)
        return TaskRows(X, Y, like(weight, X), codes, loss, l2, self.fit_intercept)

    def _start(self, rows):
        """Where `init` says to start, (d, k)."""
        return initial_parameters(self.init, self.random_state, *rows.shape[1:])

    def _warm_parameters(self, new, rows):
        """Where the last fit ended, (d, k)."""
        parameters = to_host(self._parameters())
        if parameters.shape != rows.shape[1:] or not np.array_equal(
            getattr(self, "classes_", None), getattr(new, "classes_", None)
        ):
            raise ValueError(
                "warm_start=True needs the features, outputs and classes of the former fit: set warm_start=False, or "
                "fit a clone"
            )
        return parameters

    def _parameters(self, coef=None, intercept=None):
        """Parameters, (..., d, k), of the initialisation or of these coefficients and intercepts."""
        if self._has_intercept != self.fit_intercept:
            raise ValueError("fit_intercept was changed after fit: set it back, or fit again")
        if coef is None:
            coef, intercept = self.coef_, self.intercept_
        return to_parameters(coef, intercept, one_output=self.coef_.ndim == 1, fit_intercept=self.fit_intercept)

    def _starts(self, rows, tasks):
        """Where each task stands before it is adapted, (m, d, k)."""
        parameters = self._parameters()
        xp = namespace(parameters)
        starts = xp.broadcast_to(parameters, rows.shape)
        if tasks is not None and hasattr(self, "tasks_"):
            position = find_tasks(tasks, len(tasks), self.tasks_)
            own = take(self._parameters(self.task_coef_, self.task_intercept_), position.clip(0))
            starts = xp.where(like((position >= 0)[:, None, None], own), own, starts)
        return starts

    def _check_adaptation(self):
        if self.task_structure not in STRUCTURES:
            raise ValueError(
                f"{type(self).__name__}.task_structure is {self.task_structure!r}: it must be one of "
                f"{', '.join(STRUCTURES)}"
            )
        if self.adaptation == "implicit" and self.n_inner_steps and self.task_structure == "subdifferentiable":
            raise ValueError(
                "adaptation='implicit' needs a loss whose slope is continuous: use another loss (for MAMLSVC "
                "'squared_hinge' or 'smooth_hinge'), or adaptation='gradient'"
            )

    def _learns_prior(self):
        """Whether the metric of the adaptation is learned."""
        return self.n_inner_steps > 0 and isinstance(self.inner_step_size, str)

    def _tells_scatter(self):
        """Whether adaptation tells how uncertain it leaves a task's parameters."""
        return self.task_structure == "quadratic" and self.adaptation == "implicit" and self.n_inner_steps == 1

    def _learn_prior(self, tasks):
        """Learn how tasks scatter, from rows with the squared loss or their statistics; the stacks, for training."""
        if not self._learns_prior():
            return None
        prior = stacks = None
        if tasks.shape[0] > 1 and tasks.shape[1] <= LARGEST_METRIC:
            stacks = tasks.kept_stacks()
            try:
                with np.errstate(over="ignore", invalid="ignore"), small_products(tasks.shape[1]):
                    prior = learn_prior((build().on_host() for _, build in stacks), self.metric, self.fit_intercept)
            except np.linalg.LinAlgError:
                raise ValueError(OUT_OF_RANGE) from None
        self._set_prior(prior)
        return stacks

    def _set_prior(self, prior):
        self._prior = prior
        self.task_covariance_ = self.noise_variance_ = None
        if prior is not None:
            with np.errstate(over="ignore", invalid="ignore"):
                covariance = prior.noise[:, None, None] * prior.covariance()
            if not np.all(np.isfinite(covariance)):
                raise ValueError(OUT_OF_RANGE)
            one_output = len(prior.noise) == 1
            self.noise_variance_ = prior.noise[0] if one_output else prior.noise
            self.task_covariance_ = covariance[0] if one_output else covariance

    def _prior_of(self, tasks):
        """What is known of each task before it is adapted."""
        if not hasattr(self, "_prior"):
            raise ValueError(
                "inner_step_size='auto' with n_inner_steps > 0 needs what fit learns of the tasks, but this estimator "
                "was fitted without: fit again"
            )
        if tasks is None or not hasattr(self, "_task_scatter"):
            return self._prior
        position = find_tasks(tasks, len(tasks), self.tasks_)
        scatter = np.repeat(self._prior.covariance()[None], len(tasks), axis=0)
        scatter[position >= 0] = to_host(self._task_scatter)[position[position >= 0]]
        return self._prior.with_covariance(scatter)

    def _adaptation(self, n_parameters):
        """How tasks adapt in training."""
        return {
            "inner_step_size": check_inner_step_size(self.inner_step_size, n_parameters),
            "n_inner_steps": self.n_inner_steps,
            "adaptation": self.adaptation,
            "prior": self._prior if self._learns_prior() else None,
        }

    def _meta_train(self, stacks, w0, structure, **changes):
        how = self._adaptation(len(w0)) | {"first_order": self.algorithm == "fomaml", "n_jobs": self.n_jobs}
        with small_products(len(w0), self.n_jobs):
            return self._descend(meta_losses(stacks, structure, **how), w0, **changes)

    def _descend(self, losses, w0, **changes):
        return meta_train(losses, w0, **{name: getattr(self, name) for name in TRAINING_PARAMETERS} | changes)

    def _set_fit(self, result, like_X, one_output):
        one_output = one_output and not is_classifier(self)
        for name in _PER_TASK:
            vars(self).pop(name, None)
        self.coef_, self.intercept_ = from_parameters(
            result.x, like_X, one_output=one_output, fit_intercept=self.fit_intercept
        )
        self._has_intercept = self.fit_intercept
        if not self._learns_prior():
            for name in ("_prior", "task_covariance_", "noise_variance_"):
                vars(self).pop(name, None)
        self._knows_scatter = getattr(self, "_prior", None) is not None
        self.inner_step_size_ = result.inner_step_size
        self._move_results(like_X)
        self.meta_step_size_ = result.step_size
        self.switch_tol_ = result.switch_tol
        self.n_iter_ = int(np.ceil(result.nit))
        self.history_ = result.history

    def _move_results(self, like_X):
        """Put what was learned, and told in public, where X is."""
        for name in ("inner_step_size_", "task_covariance_", "noise_variance_"):
            if isinstance(getattr(self, name, None), np.ndarray):
                setattr(self, name, like(getattr(self, name), like_X))


def losses_of(estimator, X, y, groups, sample_weight, structure=None):
    """The rows of a fitted meta-learner by task, and its f and F as meta-training has them, or of another structure."""
    if not isinstance(estimator, BiMAMLMixin):
        raise TypeError(
            f"f and F are those of a meta-learner that has a task_loss, got {type(estimator).__name__}: of a Pipeline "
            "or a search pass the fitted meta-learner inside, and X as it gets it"
        )
    check_is_fitted(estimator)
    X, y, weight, codes, _ = estimator._check_rows(X, y, groups, sample_weight, reset=False)
    rows = estimator._task_rows(X, y, weight, codes)
    own = estimator._structure(rows)
    how = estimator._adaptation(rows.n_parameters) | {"first_order": False, "n_jobs": estimator.n_jobs}
    losses = meta_losses(rows.stacks(own), structure or own, **how)
    return rows, losses.f, losses.F


def _overwrite(former, new, key):
    """Numbers by task: the former ones, and over them the new, at the positions `key`."""
    last = np.empty(1 + np.max(key), dtype=np.intp)
    last[key] = np.arange(len(key))
    return take(namespace(new).concat([former, new]), last)
