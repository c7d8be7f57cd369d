"""The mixins: a pointwise `task_loss(y, z)` plus these is a meta-learning estimator."""

import copy
import warnings
from numbers import Integral, Real

import numpy as np
from scipy import sparse
from sklearn.base import ClassifierMixin, RegressorMixin, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data

from ._sklearn import Interval, StrOptions
from .exceptions import SingleTaskWarning
from .groups import encode_groups, find_tasks, merge_tasks
from .meta import adapt, inner_step, run_parallel
from .tasks import LARGEST_MATRIX, NUMBERS_PER_STACK, QuadraticTasks, TaskRows
from .training import TRAINING_PARAMETERS, in_task_order, meta_train

_ONE_TASK = (
    "{}.fit got no groups, so all rows are ONE task and nothing is learned across tasks. Pass groups=, one task id a row. "
    "With scikit-learn's metadata routing off, the groups given to cross_validate, GridSearchCV.fit or a Pipeline do not "
    "reach fit: pass cross_validate(..., params={{'groups': g}}), pipe.fit(X, y, step__groups=g), or enable routing with "
    "sklearn.set_config(enable_metadata_routing=True)."
)
_FLOATS = [np.float64, np.float32]


class BiMAMLMixin:
    """Meta-learning for a linear model with any pointwise loss.

    A subclass defines ``task_loss(self, y, z) -> (value, slope, curvature)``, elementwise: the loss of the prediction
    z = x'coef + intercept for the target y, and its first two derivatives in z. Everything else is inherited: `fit`,
    `partial_fit`, `adapt`, `predict`, `score`, metadata routing. List scikit-learn's ``RegressorMixin`` beside it (for
    classifiers ``ClassifierMixin`` and :class:`BiMAMLClassifierMixin`) and ``BaseEstimator`` last.

    Parameters are those of :class:`MAMLRegressor`; a subclass names in its own ``__init__`` the ones it lets its users
    choose and hands them to ``super().__init__``.

    Attributes
    ----------
    task_structure : {"differentiable", "smooth", "quadratic", "subdifferentiable"}
        What solvers may assume of `task_loss`: its slope is continuous (the default, and the cautious choice); it has
        two continuous derivatives; its curvature is one constant (one returned number, not an array); its slope jumps.

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
        "solver": [StrOptions({"auto", "gd", "ode", "lbfgs", "newton-cg", "exact"})],
        "inner_step_size": [StrOptions({"auto"}), Interval(Real, 0, None, closed="left"), "array-like"],
        "n_inner_steps": [Interval(Integral, 0, None, closed="left")],
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

    def __init__(
        self,
        *,
        algorithm="bimaml",
        solver="auto",
        inner_step_size="auto",
        n_inner_steps=1,
        meta_step_size="auto",
        switch_tol="auto",
        l2_regularization=0.0,
        fit_intercept=True,
        init="zeros",
        warm_start=False,
        max_iter=1000,
        tol=1e-6,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.algorithm = algorithm
        self.solver = solver
        self.inner_step_size = inner_step_size
        self.n_inner_steps = n_inner_steps
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
        super().__init_subclass__(**kwargs)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X, y, groups=None, sample_weight=None):
        """Learn an initialisation from which few rows of a new task suffice.

        Minimises F(w) = mean_i f_i(w - a grad f_i(w)), equation (1.1) of Xu, Chen & Karbasi (2021), where f_i is the
        weighted mean of the loss over the rows of task i.

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
        """
        self._validate_params()
        if groups is None:
            warnings.warn(_ONE_TASK.format(type(self).__name__), SingleTaskWarning, stacklevel=2)
        new = self._without_fit()
        X, y, weight, codes, _ = new._check_rows(X, y, groups, sample_weight, reset=True)
        new._learn_target(y)
        new.l2_regularization_ = new._l2(weight.sum() / (codes.max() + 1))
        rows = new._task_rows(X, y, weight, codes)
        w0 = self._warm_start(rows) if self.warm_start and hasattr(self, "coef_") else self._start(rows)
        structure = self.task_structure
        if structure == "quadratic" and rows.n_parameters <= LARGEST_MATRIX:
            structure = "one quadratic"
        result = meta_train(
            rows.stacks(structure), w0, structure=structure, **self._training_parameters(rows.n_parameters)
        )
        if not result.success:
            warnings.warn(f"Meta-training did not converge: {result.message}.", ConvergenceWarning, stacklevel=2)
        new._set_fit(result, X, y)
        self.__dict__ = new.__dict__
        return self

    def partial_fit(self, X, y, groups=None, sample_weight=None):
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
            As :meth:`fit`, and for squared loss if the estimator was fitted by `fit` or `adapt`, which keep no
            statistics to go on from.
        """
        return self._partial_fit(X, y, groups, sample_weight)

    def _partial_fit(self, X, y, groups, sample_weight, classes=None):
        self._validate_params()
        if groups is None:
            warnings.warn(_ONE_TASK.format(type(self).__name__), SingleTaskWarning, stacklevel=3)
        quadratic = self.task_structure == "quadratic"
        first = not hasattr(self, "_stream") if quadratic else not hasattr(self, "coef_")
        if first and hasattr(self, "coef_"):
            warnings.warn(
                f"partial_fit starts anew: {type(self).__name__}.fit and adapt keep no statistics of their rows that "
                "partial_fit could go on from. Meta-train by partial_fit alone, or by fit alone.",
                UserWarning,
                stacklevel=3,
            )
        new = self._without_fit() if first else copy.copy(self)
        X, y, weight, codes, tasks = new._check_rows(X, y, groups, sample_weight, reset=first)
        if first:
            new._learn_target(y if classes is None else classes)
        new.l2_regularization_ = new._l2(weight.sum() / (codes.max() + 1))
        rows = new._task_rows(X, y, weight, codes)
        if quadratic:
            result = new._add_statistics(rows, tasks)
        else:
            result = new._descend_once(rows)
        new._set_fit(result, X, y)
        self.__dict__ = new.__dict__
        return self

    def _add_statistics(self, rows, tasks):
        """Merge the batch's statistics with those before and solve anew."""
        if rows.n_parameters > LARGEST_MATRIX:
            raise ValueError(
                f"partial_fit keeps d x d numbers for each task, too many for {rows.n_parameters} parameters: use fit"
            )
        statistics = rows.all_statistics()
        if not hasattr(self, "_stream"):
            w0 = self._start(rows)
        else:
            former, former_tasks, w0 = self._stream
            if (tasks is None) != (former_tasks is None):
                raise ValueError("groups must be given to every call of partial_fit, or to none")
            key = np.zeros(2, dtype=int)
            if tasks is not None:
                key, tasks = merge_tasks(tasks, former_tasks)
            statistics = QuadraticTasks.concatenate([statistics, former]).reduce(key)
        self._stream = statistics, tasks, w0
        result = meta_train(
            statistics.stacks(), w0, structure="one quadratic", **self._training_parameters(rows.n_parameters)
        )
        if not result.success:
            warnings.warn(f"Meta-training did not converge: {result.message}.", ConvergenceWarning, stacklevel=4)
        return result

    def _descend_once(self, rows):
        """One step of gradient descent on the batch: on f until its gradient was small once, then on F."""
        phase, switch_tol = getattr(self, "_stream", (1, self.switch_tol))
        parameters = self._training_parameters(rows.n_parameters) | {
            "solver": "gd",
            "max_iter": 1,
            "switch_tol": switch_tol,
        }
        if self.algorithm == "bimaml" and phase == 2:
            parameters["algorithm"] = "maml"
        w0 = self._warm_start(rows) if hasattr(self, "coef_") else self._start(rows)
        structure = self.task_structure
        result = meta_train(rows.stacks(structure), w0, structure=structure, **parameters)
        self._stream = result.history["phase"][-1], result.switch_tol
        return result

    def adapt(self, X, y, groups=None, sample_weight=None):
        """Adapt to a new task from a few of its rows: w <- w - a grad f_support(w), `n_inner_steps` times.

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
            further from where it stands.

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
        X, y, weight, codes, tasks = self._check_rows(X, y, groups, sample_weight, reset=False)
        rows = self._task_rows(X, y, weight, codes)
        new = copy.copy(self)
        vars(new).pop("_stream", None)
        starts = self._starts_of(tasks, rows.shape)
        W, new.inner_step_size_ = self._adapt_rows(rows, starts)
        if tasks is None:
            for name in ("tasks_", "task_coef_", "task_intercept_"):
                vars(new).pop(name, None)
            new.coef_, new.intercept_ = self._from_parameters(W[0], self.coef_.ndim == 1, self.coef_.dtype)
            return new
        if hasattr(self, "tasks_"):  # keep the tasks adapted to before; this adaptation wins
            key, tasks = merge_tasks(tasks, self.tasks_)
            former, latest = self._to_parameters(self.task_coef_, self.task_intercept_), W
            W = np.empty((len(tasks), *latest.shape[1:]))
            W[key[len(latest) :]] = former
            W[key[: len(latest)]] = latest
        new.tasks_ = tasks
        new.task_coef_, new.task_intercept_ = self._from_parameters(W, self.coef_.ndim == 1, self.coef_.dtype)
        return new

    def _starts_of(self, tasks, shape):
        """Where each of the tasks stands, (m, d, k)."""
        starts = np.broadcast_to(self._to_parameters(self.coef_, self.intercept_), shape)
        if tasks is not None and hasattr(self, "tasks_"):
            position = find_tasks(tasks, len(tasks), self.tasks_)
            starts = starts.copy()
            starts[position >= 0] = self._to_parameters(self.task_coef_, self.task_intercept_)[position[position >= 0]]
        return starts

    def _adapt_rows(self, rows, starts):
        """Adapted parameters of all tasks, (m, d, k), and the step sizes used."""
        step_size = self._inner_step_size(rows.n_parameters)
        W = np.empty(rows.shape)
        safe = np.full(rows.shape[0], np.inf)

        def adapt_stack(numbers, build):
            tasks = build()
            step = inner_step(tasks, step_size)
            W[numbers] = adapt(tasks, starts[numbers], step, self.n_inner_steps)[0]
            if not isinstance(step_size, str) and np.ndim(step_size) == 0:
                with np.errstate(divide="ignore"):
                    safe[numbers] = 1 / tasks.smoothness()
            return step

        stacks = rows.stacks(self.task_structure)
        steps = list(run_parallel(self.n_jobs, [(adapt_stack, *stack) for stack in stacks]))
        if not np.all(np.isfinite(W)):
            raise ValueError("adaptation overflows: inner_step_size is far too large for this support, use 'auto'")
        too_far = 0.0 if isinstance(step_size, str) or np.ndim(step_size) else step_size > 2 * safe
        if np.any(too_far) and self.task_structure != "subdifferentiable":
            warnings.warn(
                f"inner_step_size={step_size:.3g} overshoots on the support of {np.sum(too_far)} task(s): their loss is "
                f"too curved for it, and more steps lead away. Use at most {np.min(safe):.3g}, or 'auto'.",
                UserWarning,
                stacklevel=3,
            )
        return W, in_task_order(stacks, steps)

    def predict(self, X, groups=None):
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

    def score(self, X, y, groups=None, sample_weight=None):
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
        return metric(y, self.predict(X, groups), sample_weight=sample_weight)

    def _linear_predictor(self, X, groups):
        """x'coef + intercept, with the parameters of each row's task."""
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=_FLOATS, reset=False)
        Z = X @ np.atleast_2d(self.coef_).T + self.intercept_
        if groups is not None and hasattr(self, "tasks_"):
            position = find_tasks(groups, X.shape[0], self.tasks_)
            coef = self.task_coef_.reshape(len(self.tasks_), -1, X.shape[1])
            intercept = self.task_intercept_.reshape(len(self.tasks_), -1)
            known = np.flatnonzero(position >= 0)
            for rows in np.array_split(known, 1 + coef[0].size * len(known) // NUMBERS_PER_STACK):
                task = position[rows]
                Z[rows] = _row_products(X[rows], coef[task]) + intercept[task]
        elif groups is not None:
            encode_groups(groups, X.shape[0])
        return Z[:, 0] if self.coef_.ndim == 1 else Z

    def _without_fit(self):
        """A copy that is not fitted: what a fit is built in, so that one that fails changes nothing."""
        new = copy.copy(self)
        for name in list(vars(new)):
            if name == "_stream" or (name.endswith("_") and not name.startswith("_")):
                delattr(new, name)
        return new

    def _check_rows(self, X, y, groups, sample_weight, *, reset):
        """Validate; leave out rows of weight zero. Returns X, y, weights, each row's task number, the task ids."""
        X, y = self._validate_xy(X, y, reset)
        n_rows = X.shape[0]
        if groups is not None:
            codes, tasks = encode_groups(groups, n_rows)
        else:
            codes, tasks = np.zeros(n_rows, dtype=np.intp), None
        if sample_weight is None:
            return X, y, np.ones(n_rows), codes, tasks
        weight = _check_weight(sample_weight, n_rows)
        kept = weight > 0
        if not np.all(kept):
            X, y, weight = X[kept], y[kept], weight[kept]
            present, codes = np.unique(codes[kept], return_inverse=True)
            tasks = None if tasks is None else tasks[present]
        return X, y, weight, codes, tasks

    def _validate_xy(self, X, y, reset):
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=_FLOATS, multi_output=True, y_numeric=True, reset=reset
        )
        if sparse.issparse(y):
            raise TypeError("y must be a dense array, got a sparse matrix: use y.toarray()")
        return X, y

    def _learn_target(self, y):
        """Remember what is to be known of y; nothing for regressors."""

    def _encode_target(self, y):
        """y as numbers of shape (n_rows, n_outputs)."""
        return np.asarray(y, dtype=np.float64).reshape(len(y), -1)

    def _l2(self, mean_task_weight):
        return float(self.l2_regularization)

    def _task_rows(self, X, y, weight, codes):
        Y = self._encode_target(y)
        if hasattr(self, "coef_") and Y.shape[1] != len(np.atleast_2d(self.coef_)):
            raise ValueError(f"y has {Y.shape[1]} output(s), but {len(np.atleast_2d(self.coef_))} in fit")
        return TaskRows(X, Y, weight, codes, self.task_loss, self.l2_regularization_, self.fit_intercept)

    def _start(self, rows):
        """Initial parameters, (d, k), from `init`."""
        _, d, k = rows.shape
        if isinstance(self.init, str):
            if self.init == "zeros":
                return np.zeros((d, k))
            return check_random_state(self.random_state).standard_normal((k, d)).T
        init = check_array(self.init, ensure_2d=False, dtype=np.float64, input_name="init")
        if init.shape != (k, d) and (k > 1 or init.shape != (d,)):
            raise ValueError(
                f"init must hold {d} parameters (coefficients, then intercept if there is one) for each of {k} output(s), "
                f"got shape {init.shape}"
            )
        return init.reshape(k, d).T

    def _warm_start(self, rows):
        """Initial parameters, (d, k): the last ones."""
        start = self._to_parameters(self.coef_, self.intercept_)
        if start.shape != rows.shape[1:]:
            raise ValueError(
                f"warm_start: the former fit has parameters of shape {start.shape}, this one needs {rows.shape[1:]}; "
                "set warm_start=False or fit a clone"
            )
        return start

    def _inner_step_size(self, n_parameters):
        if isinstance(self.inner_step_size, str) or np.isscalar(self.inner_step_size):
            return self.inner_step_size
        step = check_array(self.inner_step_size, ensure_2d=False, dtype=np.float64, input_name="inner_step_size")
        check_non_negative(step, "inner_step_size")
        if step.shape != (n_parameters,):
            raise ValueError(
                f"inner_step_size must be a number, 'auto' or one number for each of {n_parameters} parameters "
                f"(coefficients, then intercept if there is one), got shape {step.shape}"
            )
        return step

    def _training_parameters(self, n_parameters):
        parameters = {name: getattr(self, name) for name in TRAINING_PARAMETERS}
        return parameters | {"inner_step_size": self._inner_step_size(n_parameters)}

    def _set_fit(self, result, X, y):
        one_output = y.ndim == 1 and not is_classifier(self)
        self.coef_, self.intercept_ = self._from_parameters(result.x, one_output, X.dtype)
        self.inner_step_size_ = result.inner_step_size
        self.meta_step_size_ = result.step_size
        self.switch_tol_ = result.switch_tol
        self.n_iter_ = int(np.ceil(result.nit))
        self.history_ = result.history

    def _from_parameters(self, W, one_output, dtype):
        """Coefficients and intercepts in their public shapes, out of parameters of shape (..., d, k)."""
        parameters = np.swapaxes(W, -1, -2).astype(dtype)
        if one_output:
            parameters = parameters[..., 0, :]
        if not self.fit_intercept:
            return parameters, np.zeros(parameters.shape[:-1], dtype)[()]
        return np.ascontiguousarray(parameters[..., :-1]), parameters[..., -1].copy()[()]

    def _to_parameters(self, coef, intercept):
        """Parameters of shape (..., d, k), out of coefficients and intercepts in their public shapes."""
        parameters = np.asarray(coef, dtype=np.float64)
        if self.fit_intercept:
            parameters = np.concatenate([parameters, np.asarray(intercept)[..., None]], axis=-1)
        if self.coef_.ndim == 1:
            parameters = parameters[..., None, :]
        return np.swapaxes(parameters, -1, -2)


class BiMAMLClassifierMixin(BiMAMLMixin):
    """Meta-learning for a linear classifier with any pointwise loss of the target -1 or +1 and the decision value z.

    With more than two classes there is one decision function, and one column of -1 and +1, for each: one versus rest.
    See :class:`BiMAMLMixin`; ``task_loss(self, y, z)`` gets y in {-1, +1}.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import expit
    >>> from sklearn.base import BaseEstimator, ClassifierMixin
    >>> from sklearn_maml import BiMAMLClassifierMixin
    >>> class MAMLLogisticRegression(ClassifierMixin, BiMAMLClassifierMixin, BaseEstimator):
    ...     task_structure = "smooth"
    ...
    ...     def __init__(self, *, l2_regularization=0.01):
    ...         super().__init__(l2_regularization=l2_regularization)
    ...
    ...     def task_loss(self, y, z):
    ...         p = expit(-y * z)
    ...         return np.logaddexp(0, -y * z), -y * p, p * (1 - p)
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = MAMLLogisticRegression().fit(X, ["no", "yes", "no", "yes"], groups=[1, 1, 2, 2])
    >>> model.predict([[3.0]])
    array(['yes'], dtype='<U3')
    """

    __metadata_request__decision_function = {"groups": True}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags

    def partial_fit(self, X, y, groups=None, sample_weight=None, classes=None):
        """Meta-train on one more batch of rows: one step of gradient descent, see :meth:`BiMAMLMixin.partial_fit`.

        Parameters
        ----------
        X, y, groups, sample_weight :
            As in :meth:`fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever occur; required in the first call.

        Returns
        -------
        self : object
            The estimator.
        """
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("classes must be passed on the first call to partial_fit")
        return self._partial_fit(X, y, groups, sample_weight, classes)

    def decision_function(self, X, groups=None):
        """Decision values x'coef + intercept.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, see :meth:`predict`.

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Positive for ``classes_[1]`` if there are two classes; otherwise one column for each class.
        """
        Z = self._linear_predictor(X, groups)
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def predict(self, X, groups=None):
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, after :meth:`adapt` with groups: each row is predicted with its own task's parameters, rows
            of unknown tasks with the initialisation.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
            Labels.
        """
        Z = self.decision_function(X, groups)
        return self.classes_[(Z > 0).astype(int) if Z.ndim == 1 else Z.argmax(axis=1)]

    def _validate_xy(self, X, y, reset):
        X, y = validate_data(self, X, y, accept_sparse="csr", dtype=_FLOATS, reset=reset)
        check_classification_targets(y)
        return X, y

    def _learn_target(self, y):
        """Remember the labels."""
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes, but y contains only one class: "
                f"{self.classes_[0]!r}"
            )

    def _encode_target(self, y):
        """-1 and +1, one column for two classes, otherwise one for each."""
        unseen = np.setdiff1d(y, self.classes_)
        if len(unseen):
            raise ValueError(f"y contains labels that were not seen in fit: {unseen.tolist()}")
        labels = self.classes_[1:] if len(self.classes_) == 2 else self.classes_
        return np.where(y[:, None] == labels, 1.0, -1.0)


def _check_weight(sample_weight, n_rows):
    """Row weights as an array; zeros mean absent rows."""
    if np.isscalar(sample_weight):
        sample_weight = np.full(n_rows, sample_weight)
    weight = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight must hold one weight for each of {n_rows} rows, got shape {weight.shape}")
    check_non_negative(weight, "sample_weight")
    if not np.any(weight):
        raise ValueError("all weights in sample_weight are zero: no row is left")
    return weight


def _row_products(X, coef):
    """x_r'coef_r for rows X (n, d), dense or sparse, and coefficients (n, k, d) of their own."""
    if sparse.issparse(X):
        return np.stack([np.asarray(X.multiply(column).sum(axis=1)).ravel() for column in coef.swapaxes(0, 1)], axis=1)
    return np.einsum("nd,nkd->nk", X, coef)
