"""Meta-learned linear regression."""

from sklearn.base import BaseEstimator, RegressorMixin

from .base import BiMAMLMixin
from .losses import squared_loss


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
        for each parameter: coefficients, then the intercept if there is one. "auto" is 1 / (2 L_i), where L_i is the
        smoothness constant of the task at hand: the largest eigenvalue of its Hessian (plus
        `l2_regularization`).
    n_inner_steps : int, default=1
        Number K of adaptation steps. 0 is no adaptation: F is f, the pooled risk, each task with the same weight.
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
        If positive, print objective and gradient norm, less and less often.

    Attributes
    ----------
    coef_ : ndarray of shape (n_features,) or (n_outputs, n_features)
        Coefficients of the initialisation; after `adapt` without groups, of the task.
    intercept_ : float or ndarray of shape (n_outputs,)
        Intercept of the initialisation; after `adapt` without groups, of the task.
    inner_step_size_ : float or ndarray
        Inner step size that was used: as given, or for "auto" of shape (n_tasks,), each task's own.
    meta_step_size_ : float, ndarray of shape (2,) or None
        Meta step size that was used: for "auto" and "bimaml" one for each phase; None for solvers without one.
    switch_tol_ : float or "auto"
        The `switch_tol` that was used; as given if there is one phase only.
    l2_regularization_ : float
        Weight of the penalty in the task loss.
    n_iter_ : int
        Number of iterations; with solver "ode" the time, rounded up.
    history_ : dict of ndarray
        A record of training, entry 0 the start and one entry for each iterate: "phase" (1 while f is descended, 2 for
        F), "grad_norm" and "objective" of the function descended, "n_gradients" and "n_hessp", the evaluations of every
        task's gradient and Hessian product up to then. For solver "ode" also "time".
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

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    Ten tasks that differ in their intercept; five rows of an eleventh are enough to correct for its own.

    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(11), 20)
    >>> X = rng.normal(size=(220, 2))
    >>> y = X @ [1.0, -2.0] + 3.0 * rng.normal(size=11)[groups]
    >>> train, support, query = groups < 10, np.arange(200, 205), np.arange(205, 220)
    >>> model = MAMLRegressor(n_inner_steps=5).fit(X[train], y[train], groups=groups[train])
    >>> before = model.score(X[query], y[query])
    >>> after = model.adapt(X[support], y[support]).score(X[query], y[query])
    >>> print(f"R2 {before:.2f} before, {after:.2f} after adaptation")
    R2 0.48 before, 0.59 after adaptation
    """

    task_structure = "quadratic"

    def task_loss(self, y, z):
        """Squared error (y - z)^2 and its first two derivatives in z.

        Parameters
        ----------
        y, z : ndarray
            Targets and predictions.

        Returns
        -------
        value, slope, curvature : ndarray
            Of shapes that broadcast to that of z.
        """
        return squared_loss(y, z)
