"""Meta-learned linear support vector classification."""

from numbers import Real
from typing import Any, Literal

from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin

from ._sklearn import Interval, StrOptions
from .classifier import BiMAMLClassifierMixin
from .losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss

LOSSES = {
    "hinge": (hinge_loss, "subdifferentiable"),
    "squared_hinge": (squared_hinge_loss, "differentiable"),
    "smooth_hinge": (smooth_hinge_loss, "smooth"),
}


class MAMLSVC(ClassifierMixin, BiMAMLClassifierMixin, BaseEstimator):
    """Linear support vector machine that is meta-learned over tasks and adapts to a new task from a few of its rows.

    `fit` minimises the mean loss after adaptation, F(w) = mean_i f_i(w - a grad f_i(w)), equation (1.1) of Xu, Chen &
    Karbasi (2021), where f_i(w) = mean_j loss(y_ij x_ij'w) + l2/2 norm(coef)^2 over the rows of task i (a weighted mean
    with `sample_weight`), y in {-1, +1}, and l2 = 1 / (C * mean number of rows of a task). With one task this is the
    objective of LinearSVC, but for the intercept, which is not penalised here. More than two classes are learned one
    versus the rest.

    Parameters
    ----------
    loss : {"squared_hinge", "hinge", "smooth_hinge"}, default="squared_hinge"
        max(0, 1 - yz)^2; max(0, 1 - yz); or s log(1 + exp((1 - yz) / s)) with s = 0.1, which is infinitely often
        differentiable. The hinge has no curvature, so that its F jumps and "maml" and "fomaml" are the same.
    C : float, default=1.0
        Inverse strength of the penalty. ``np.inf`` is no penalty, the paper's loss.
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
        - "auto": "lbfgs". For the squared hinge, whose grad F jumps, a point where the gradients nearby cancel out and
          F cannot be decreased further counts as converged, like norm(grad F) <= `tol`. For the hinge, whose F jumps,
          subgradient descent with decreasing steps, of which the best iterate is kept. For "fomaml" "gd".
    inner_step_size : "auto", float or array-like of shape (n_parameters,), default="auto"
        Step size alpha of the adaptation, in training and in `adapt`. A float is taken as it is, an array is one step
        for each parameter: coefficients, then the intercept if there is one. "auto" learns from the training tasks how
        tasks differ and takes a step in that metric, see :class:`MAMLRegressor`, with the labels -1 and +1 as targets
        of the model of random coefficients, and in place of the curvature 2 of the squared loss that of the parabola
        with the slopes that the loss has at z = 0 and z = y (2, 1 and 0.5). It also adds a tenth of f, the loss before
        adaptation, to F. Without several tasks to learn from it is 1 / (2 L_i), L_i the largest eigenvalue of
        X'diag(weights * c)X plus l2, where c bounds the curvature of the loss (2, 1 and 2.5).
    n_inner_steps : int, default=1
        Number K of adaptation steps. 0 is no adaptation: F is f, the pooled risk, each task with the same weight.
    adaptation : {"gradient", "implicit"}, default="gradient"
        How a task's parameters move: by explicit or by implicit Euler steps of the gradient flow of its loss.

        - "gradient": w <- w - a grad f(w), MAML.
        - "implicit": w <- argmin f(w') + norm(w' - w)^2 / (2a), a proximal step (iMAML). Not for the hinge.
    metric : {"diag", "full"}, default="diag"
        What ``inner_step_size="auto"`` learns of how tasks differ: the variance of each coefficient, and of a task's
        level at the mean row, by themselves ("diag"), or their full covariance.
    meta_step_size : "auto" or float, default="auto"
        Step size beta of "gd" and "ode"; other solvers have none. "auto" is 1 / L of the function descended.
    switch_tol : "auto" or float, default="auto"
        "bimaml" switches from f to F when norm(grad f) <= `switch_tol`. "auto" is a tenth of that norm at the start.
    fit_intercept : bool, default=True
        Whether to learn an intercept. It is never penalised.
    init : {"zeros", "normal"} or array-like of shape (n_parameters,) or (n_classes, n_parameters), default="zeros"
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
    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features)
        Coefficients of the initialisation; after `adapt` without groups, of the task.
    intercept_ : ndarray of shape (1,) or (n_classes,)
        Intercept of the initialisation; after `adapt` without groups, of the task.
    classes_ : ndarray of shape (n_classes,)
        The labels.
    inner_step_size_ : float or ndarray
        Inner step size that was used: as given, or for "auto" of shape (n_tasks,), each task's own multiple of
        ``task_covariance_ / noise_variance_``.
    task_covariance_ : ndarray of shape (n_parameters, n_parameters) or (n_classes, n_parameters, n_parameters) or None
        With ``inner_step_size="auto"``: covariance of the tasks' parameters around their mean, in the model of random
        coefficients for the labels -1 and +1; None if there was nothing to learn it from.
    noise_variance_ : float or ndarray of shape (n_classes,) or None
        With ``inner_step_size="auto"``: variance of the noise in that model.
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
    MAMLRegressor : The same for regression.
    adapt : Adapt a pipeline or a search that contains a meta-learner.
    sklearn.svm.LinearSVC : One model for all tasks.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLSVC
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(11), 30)
    >>> X = rng.normal(size=(330, 2))
    >>> y = np.where(X[:, 0] > rng.normal(size=11)[groups], "above", "below")
    >>> train, support, query = groups < 10, np.arange(300, 305), np.arange(305, 330)
    >>> model = MAMLSVC().fit(X[train], y[train], groups=groups[train])
    >>> before = model.score(X[query], y[query])
    >>> after = model.adapt(X[support], y[support]).score(X[query], y[query])
    >>> print(f"accuracy {before:.2f} before, {after:.2f} after adaptation")
    accuracy 0.88 before, 0.96 after adaptation
    """

    _parameter_constraints = BiMAMLClassifierMixin._parameter_constraints | {
        "loss": [StrOptions(set(LOSSES))],
        "C": [Interval(Real, 0, None, closed="right")],
    }
    del _parameter_constraints["l2_regularization"]

    def __init__(
        self,
        *,
        loss: Literal["squared_hinge", "hinge", "smooth_hinge"] = "squared_hinge",
        C: float = 1.0,
        algorithm: Literal["bimaml", "maml", "fomaml"] = "bimaml",
        solver: Literal["auto", "exact", "lbfgs", "newton-cg", "gd", "ode"] = "auto",
        inner_step_size: Literal["auto"] | float | ArrayLike = "auto",
        n_inner_steps: int = 1,
        adaptation: Literal["gradient", "implicit"] = "gradient",
        metric: Literal["diag", "full"] = "diag",
        meta_step_size: Literal["auto"] | float = "auto",
        switch_tol: Literal["auto"] | float = "auto",
        fit_intercept: bool = True,
        init: Literal["zeros", "normal"] | ArrayLike = "zeros",
        warm_start: bool = False,
        max_iter: int = 1000,
        tol: float = 1e-6,
        n_jobs: int | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ):
        self.loss = loss
        self.C = C
        self.algorithm = algorithm
        self.solver = solver
        self.inner_step_size = inner_step_size
        self.n_inner_steps = n_inner_steps
        self.adaptation = adaptation
        self.metric = metric
        self.meta_step_size = meta_step_size
        self.switch_tol = switch_tol
        self.fit_intercept = fit_intercept
        self.init = init
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    task_loss_takes_any_array = True

    @property
    def task_structure(self) -> str:  # type: ignore[override]
        """What solvers may assume of the loss."""
        return LOSSES[self.loss][1]

    def task_loss(self, y: Any, z: Any) -> tuple[Any, Any, Any]:
        """Hinge of the margin y z, and its first two derivatives in z.

        Parameters
        ----------
        y, z : ndarray
            Targets, -1 or +1, and decision values.

        Returns
        -------
        value, slope, curvature : ndarray
            Of the shape of z.
        """
        return LOSSES[self.loss][0](y, z)

    def _l2(self, mean_task_weight):
        return 1 / (self.C * mean_task_weight)
