"""MAMLSVC against plain loops over tasks (`Reference`) and scikit-learn's LinearSVC."""

from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import descend, same
from scipy import optimize, sparse
from scipy.special import expit
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC

from sklearn_maml import MAMLSVC, MAMLRegressor, SingleTaskWarning

ALGORITHMS = ["maml", "bimaml", "fomaml"]
LOSSES = ["hinge", "squared_hinge", "smooth_hinge"]
SMOOTH = ["squared_hinge", "smooth_hinge"]
CURVATURE = {"hinge": 1.0, "squared_hinge": 2.0, "smooth_hinge": 2.5}
WORKING_CURVATURE = {"hinge": 1.0, "squared_hinge": 2.0, "smooth_hinge": expit(10) - 0.5}
"""That of the parabola with the slopes of the loss at margins 0 and 1."""


def margin_loss(loss, m):
    """Loss of the margin m = y z and its first two derivatives; the flat side at a kink."""
    if loss == "hinge":
        return np.where(m < 1, 1 - m, 0.0), np.where(m < 1, -1.0, 0.0), 0 * m
    if loss == "squared_hinge":
        return np.where(m < 1, (1 - m) ** 2, 0.0), np.where(m < 1, -2 * (1 - m), 0.0), np.where(m < 1, 2.0, 0.0)
    p = 1 / (1 + np.exp((m - 1) / 0.1))
    return 0.1 * np.log1p(np.exp((1 - m) / 0.1)), -p, p * (1 - p) / 0.1


class Reference:
    """f and F for labels y in {-1, 1}, one task and one step at a time; a step w' = w - A grad f(w or, implicit, w').

    `alpha` is a number, one for each parameter, "auto" for 1 / (2 L_i), or the matrix G of the learned metric: then A
    is `shots` / c G, if explicit divided by 1 + lambda_max, and a tenth of f belongs to F.
    """

    def __init__(
        self,
        X,
        y,
        groups,
        weight=None,
        *,
        loss,
        C=1.0,
        intercept=True,
        alpha=0.05,
        K=1,
        first_order=False,
        l2=None,
        adaptation="gradient",
        shots=1.0,
    ):
        self.loss, self.K, self.first_order, self.adaptation = loss, K, first_order, adaptation
        weight = np.ones(len(X)) if weight is None else weight
        present = sorted(set(groups[weight > 0]))
        self.l2 = 1 / (C * weight.sum() / len(present)) if l2 is None else l2
        Z = np.column_stack([X, np.ones(len(X))]) if intercept else X
        self.penalty = np.r_[np.full(X.shape[1], self.l2), np.zeros(int(intercept))]
        self.zero_shot = 0.1 if np.ndim(alpha) == 2 and K else 0.0
        self.tasks, self.sizes = [], []
        for g in present:
            rows = (groups == g) & (weight > 0)
            s = weight[rows] / weight[rows].sum()
            gram = (Z[rows].T * s) @ Z[rows]
            if isinstance(alpha, str):
                size = 0.5 / (CURVATURE[loss] * np.linalg.eigvalsh(gram)[-1] + self.l2)
                A = size * np.eye(len(gram))
            elif np.ndim(alpha) == 2:
                size, R = shots / WORKING_CURVATURE[loss], root(alpha)
                if adaptation == "gradient":
                    parts = WORKING_CURVATURE[loss] * R.T @ gram @ R, R.T @ np.diag(self.penalty) @ R
                    size /= 1 + size * sum(np.linalg.eigvalsh(part)[-1] for part in parts)
                A = size * alpha
            else:
                size, A = alpha, np.diag(np.broadcast_to(alpha, len(gram)))
            self.sizes.append(size)
            self.tasks.append((Z[rows], y[rows], s, A))

    def task(self, i, w):
        """Value, gradient and Hessian of f_i."""
        Z, y, s, _ = self.tasks[i]
        value, slope, curvature = margin_loss(self.loss, y * (Z @ w))
        hessian = (Z.T * (s * curvature)) @ Z + np.diag(self.penalty)
        return s @ value + self.penalty @ w**2 / 2, Z.T @ (s * slope * y) + self.penalty * w, hessian

    def step(self, i, w):
        """One step, and its transposed derivative."""
        A = self.tasks[i][3]
        if self.adaptation == "gradient":
            _, gradient, hessian = self.task(i, w)
            return w - A @ gradient, np.eye(len(w)) - hessian @ A
        w = proximal_point(lambda v: self.task(i, v), A, w)
        return w, np.linalg.inv(np.eye(len(w)) + self.task(i, w)[2] @ A)

    def adapt(self, i, w):
        for _ in range(self.K):
            w, _ = self.step(i, w)
        return w

    def f(self, w):
        parts = [self.task(i, w) for i in range(len(self.tasks))]
        return np.mean([part[0] for part in parts]), np.mean([part[1] for part in parts], axis=0)

    def F(self, w):
        values, gradients = [], []
        for i in range(len(self.tasks)):
            v, corrections = w, []
            for _ in range(self.K):
                v, correction = self.step(i, v)
                corrections.append(correction)
            value, gradient, _ = self.task(i, v)
            for correction in corrections[::-1] * (not self.first_order):
                gradient = correction @ gradient
            values.append(value)
            gradients.append(gradient)
        before = self.f(w)
        return tuple(
            np.mean(part, axis=0) + self.zero_shot * f for part, f in zip((values, gradients), before, strict=True)
        )


def root(A):
    """R with A = RR'."""
    variance, Q = np.linalg.eigh(A)
    return Q * np.sqrt(variance.clip(0))


def proximal_point(function, A, w):
    """argmin f(v) + (v - w)'A^-1(v - w) / 2 over v = w + Ru, A = RR'; ``function(v)`` is f, gradient, Hessian."""
    R = root(A)

    def value(u):
        return function(w + R @ u)[0] + u @ u / 2

    def gradient(u):
        return R.T @ function(w + R @ u)[1] + u

    def hessian(u):
        return R.T @ function(w + R @ u)[2] @ R + np.eye(len(u))

    near = optimize.minimize(value, np.zeros(len(w)), jac=gradient, hess=hessian, method="trust-exact").x
    u = optimize.root(gradient, near, jac=hessian, tol=1e-14).x
    assert np.linalg.norm(gradient(u)) < 1e-10
    return w + R @ u


def learned_metric(model):
    """G of the learned metric: the covariance of the tasks' parameters in units of the noise."""
    if model.task_covariance_.ndim == 2:
        return model.task_covariance_ / model.noise_variance_
    return model.task_covariance_[0] / model.noise_variance_[0]


def make_tasks(sizes=(10, 25, 14, 9, 30), d=4, seed=0, n_classes=2):
    """Tasks with directions of their own and labels that overlap."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    X = rng.normal(size=(len(groups), d)) + 0.5 * rng.normal(size=(len(sizes), d))[groups]
    W = rng.normal(size=(d, n_classes)) + 0.7 * rng.normal(size=(len(sizes), d, n_classes))
    Z = np.einsum("nd,ndk->nk", X, W[groups]) + rng.normal(size=(len(groups), n_classes))
    y = Z.argmax(axis=1)
    return X, (2 * y - 1 if n_classes == 2 else y), groups


def parameters(model):
    """Of two classes, the intercept last."""
    return np.r_[model.coef_[0], model.intercept_] if model.fit_intercept else model.coef_[0]


STEPS = [(0.05, "gradient"), ("auto", "gradient"), (0.3, "implicit"), ("auto", "implicit")]
"""What adaptation can be, in tests against the reference."""

SCATTER = np.diag([1.0, 0.3, 0.0, 2.0, 0.5]) + 0.2 * np.outer([1, 1, 0, 1, 1], [1, 1, 0, 1, 1])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize(
    "alpha", [0.1, "auto", np.linspace(0.05, 0.3, 5), SCATTER], ids=["float", "auto", "array", "metric"]
)
def test_reference_against_finite_differences(loss, adaptation, alpha):
    X, y, groups = make_tasks()
    if loss == "hinge" and adaptation == "implicit":
        loss = "smooth_hinge"
    truth = Reference(X, y, groups, loss=loss, K=2, alpha=alpha, adaptation=adaptation)
    w, v = 0.3 * np.random.default_rng(0).normal(size=(2, 5))
    for function in (truth.f, truth.F):
        slope = (function(w + 1e-6 * v)[0] - function(w - 1e-6 * v)[0]) / 2e-6
        assert_allclose(function(w)[1] @ v, slope, rtol=1e-6)


# LinearSVC


@pytest.fixture(scope="module")
def one_task():
    X, y = make_classification(120, 6, n_informative=4, flip_y=0.15, class_sep=0.7, random_state=0)
    return X, y, np.zeros(120)


def linear_svc_objective(model, X, y, loss, C):
    loss = margin_loss(loss, np.where(y == 1, 1, -1) * (X @ model.coef_[0]))[0]
    return np.sum(model.coef_**2) / 2 + C * np.sum(loss)


@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("K", [0, 1, 2])
def test_one_task_is_linear_svc(one_task, C, K):
    X, y, groups = one_task
    svc = LinearSVC(C=C, fit_intercept=False, tol=1e-10, max_iter=1_000_000).fit(X, y)
    model = MAMLSVC(C=C, fit_intercept=False, n_inner_steps=K, tol=1e-7).fit(X, y, groups=groups)
    assert_allclose(model.coef_, svc.coef_, rtol=0, atol=2e-5)
    assert model.coef_.shape == svc.coef_.shape
    assert_array_equal(model.classes_, svc.classes_)
    assert_array_equal(model.predict(X), svc.predict(X))
    assert_allclose(model.decision_function(X), svc.decision_function(X), rtol=0, atol=1e-4)
    assert model.l2_regularization_ == 1 / (C * 120)


@pytest.mark.parametrize("C", [0.01, 0.3])
def test_one_task_is_linear_svc_with_the_hinge(one_task, C):
    X, y, groups = one_task
    svc = LinearSVC(loss="hinge", C=C, fit_intercept=False, tol=1e-10, max_iter=1_000_000).fit(X, y)
    model = MAMLSVC(loss="hinge", C=C, fit_intercept=False, n_inner_steps=0, tol=1e-8, max_iter=20_000)
    model.fit(X, y, groups=groups)
    lowest = linear_svc_objective(svc, X, y, "hinge", C)
    assert lowest <= linear_svc_objective(model, X, y, "hinge", C) < 1.002 * lowest
    assert_allclose(model.coef_, svc.coef_, rtol=0, atol=0.05 * np.max(np.abs(svc.coef_)))
    assert np.mean(model.predict(X) == svc.predict(X)) > 0.95


def test_one_weighted_task_is_linear_svc(one_task):
    X, y, groups = one_task
    weight = np.random.default_rng(0).uniform(0, 2, size=120)
    svc = LinearSVC(fit_intercept=False, tol=1e-10, max_iter=1_000_000).fit(X, y, sample_weight=weight)
    model = MAMLSVC(fit_intercept=False, tol=1e-7).fit(X, y, groups=groups, sample_weight=weight)
    assert_allclose(model.coef_, svc.coef_, rtol=0, atol=2e-5)


def test_one_task_with_a_free_intercept(one_task):
    """LinearSVC penalises its intercept; a large intercept_scaling makes that penalty small."""
    X, y, groups = one_task
    svc = LinearSVC(intercept_scaling=1000, tol=1e-10, dual=False, max_iter=1_000_000).fit(X, y)
    model = MAMLSVC(tol=1e-7).fit(X, y, groups=groups)
    assert_allclose(model.coef_, svc.coef_, rtol=0, atol=1e-4)
    assert_allclose(model.intercept_, svc.intercept_, rtol=0, atol=1e-4)
    assert model.intercept_.shape == svc.intercept_.shape


# The objective


@pytest.mark.parametrize("C", [0.1, 4.0, np.inf])
def test_l2_regularization(C):
    X, y, groups = make_tasks()  # 88 rows in 5 tasks
    model = MAMLSVC(C=C, tol=1e-2).fit(X, y, groups=groups)
    assert_allclose(model.l2_regularization_, 5 / (C * 88))
    weight = np.linspace(0.5, 3, 88)
    model.fit(X, y, groups=groups, sample_weight=weight)
    assert_allclose(model.l2_regularization_, 5 / (C * weight.sum()))
    weight[groups == 2] = 0
    model.fit(X, y, groups=groups, sample_weight=weight)
    assert_allclose(model.l2_regularization_, 4 / (C * weight.sum()))


@pytest.mark.parametrize(("loss", "C"), [(SMOOTH[0], 0.2), (SMOOTH[0], np.inf), (SMOOTH[1], 0.2)])
@pytest.mark.parametrize(
    ("K", "alpha", "adaptation"),
    [(0, 0.1, "gradient"), *((1, *step) for step in STEPS), *((2, *step) for step in STEPS[1:3])],
)
def test_stationary_point_of_the_reference(loss, C, K, alpha, adaptation):
    X, y, groups = make_tasks(sizes=(20, 35, 24, 19, 30))
    model = MAMLSVC(loss=loss, C=C, n_inner_steps=K, inner_step_size=alpha, adaptation=adaptation, tol=1e-6)
    model.fit(X, y, groups=groups)
    alpha = learned_metric(model) if alpha == "auto" else alpha
    truth = Reference(X, y, groups, loss=loss, C=C, K=K, alpha=alpha, adaptation=adaptation)
    value, gradient = truth.F(parameters(model))
    assert np.linalg.norm(gradient) < (1e-5 if loss == "smooth_hinge" else 1e-3)
    assert_allclose(model.history_["objective"][-1], value, rtol=1e-9)
    rng = np.random.default_rng(0)
    for size in (0.01, 0.1, 1):
        assert all(truth.F(parameters(model) + size * rng.normal(size=5))[0] > value for _ in range(3))
    start = truth.F(np.zeros(5))
    assert value < 0.95 * start[0]


def test_infinite_c_is_no_penalty():
    X, y, groups = make_tasks()
    free, limit = (MAMLSVC(loss="smooth_hinge", C=C).fit(X, y, groups=groups) for C in (np.inf, 1e9))
    assert_allclose(free.coef_, limit.coef_, rtol=0, atol=1e-3)
    assert np.linalg.norm(MAMLSVC(loss="smooth_hinge", C=0.1).fit(X, y, groups=groups).coef_) < np.linalg.norm(
        free.coef_
    )


@pytest.mark.parametrize(
    ("loss", "adaptation"), [*((loss, "gradient") for loss in LOSSES), *((loss, "implicit") for loss in SMOOTH)]
)
@pytest.mark.parametrize(
    ("algorithm", "intercept", "weighted"), [("maml", True, True), ("maml", False, False), ("fomaml", True, False)]
)
def test_value_and_gradient_at_the_start(loss, adaptation, algorithm, intercept, weighted):
    X, y, groups = make_tasks()
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.1, 2, size=len(y)) if weighted else None
    settings = {"loss": loss, "C": 0.7, "adaptation": adaptation}
    for K, alpha, metric in (
        (0, "auto", "diag"),
        (1, np.linspace(0.05, 0.4, 4 + intercept), "diag"),
        (1, "auto", "full"),
        (3, 0.2, "diag"),
        (3, "auto", "diag"),
    ):
        w = rng.normal(size=4 + intercept)
        model = MAMLSVC(
            algorithm=algorithm,
            solver="gd",
            init=w,
            n_inner_steps=K,
            inner_step_size=alpha,
            metric=metric,
            fit_intercept=intercept,
            tol=1e9,
            **settings,
        ).fit(X, y, groups=groups, sample_weight=weight)
        assert hasattr(model, "task_covariance_") == (K > 0 and isinstance(alpha, str))
        truth = Reference(
            X,
            y,
            groups,
            weight,
            K=K,
            alpha=learned_metric(model) if K and isinstance(alpha, str) else alpha,
            intercept=intercept,
            first_order=algorithm == "fomaml",
            **settings,
        )
        value, gradient = truth.F(w)
        assert model.n_iter_ == 0
        assert_allclose(model.history_["objective"], [value], rtol=1e-8)
        assert_allclose(model.history_["grad_norm"], [np.linalg.norm(gradient)], rtol=1e-8)
        if K:
            assert_allclose(model.inner_step_size_, truth.sizes if isinstance(alpha, str) else alpha, rtol=1e-7)


@pytest.mark.parametrize(
    ("loss", "alpha", "adaptation"),
    [
        ("hinge", 0.3, "gradient"),
        ("hinge", "auto", "gradient"),
        *((loss, *step) for loss in SMOOTH for step in [(0.3, "gradient"), *STEPS[1:]]),
    ],
)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradient_descent_iterate_by_iterate(loss, alpha, adaptation, algorithm):
    X, y, groups = make_tasks()
    w0 = np.random.default_rng(3).normal(size=5)
    switch_tol = 0.97 * np.linalg.norm(Reference(X, y, groups, loss=loss, C=np.inf).f(w0)[1])
    model = MAMLSVC(
        loss=loss,
        C=np.inf,
        algorithm=algorithm,
        solver="gd",
        inner_step_size=alpha,
        adaptation=adaptation,
        meta_step_size=0.1,
        switch_tol=switch_tol,
        init=w0,
        max_iter=10,
        tol=0.0,
    )
    with pytest.warns(ConvergenceWarning, match="max_iter|meta_step_size"):
        model.fit(X, y, groups=groups)
    truth = Reference(
        X,
        y,
        groups,
        loss=loss,
        C=np.inf,
        alpha=learned_metric(model) if alpha == "auto" else alpha,
        adaptation=adaptation,
        first_order=algorithm == "fomaml",
    )
    w, phase, value, norm = descend(truth, w0, 0.1, 10, switch_tol if algorithm == "bimaml" else None)
    assert set(phase) == ({1, 2} if algorithm == "bimaml" else {2})
    assert_array_equal(model.history_["phase"], phase)
    assert_allclose(model.history_["objective"], value, rtol=1e-8)
    assert_allclose(model.history_["grad_norm"], norm, rtol=1e-7)
    assert_allclose(parameters(model), w, rtol=1e-8, atol=1e-9)
    assert_array_equal(np.diff(model.history_["n_hessp"])[phase[1:] == 1], 0)
    if algorithm == "maml":
        assert_array_equal(model.history_["n_gradients"], (2 + (alpha == "auto")) * np.arange(1, 12))
        assert_array_equal(model.history_["n_hessp"], np.arange(1, 12))


def test_hinge_has_no_correction():
    """The hinge without penalty has no curvature: MAML and first-order MAML walk the same path."""
    X, y, groups = make_tasks()
    histories, coefs = [], []
    for algorithm in ("maml", "fomaml"):
        model = MAMLSVC(
            loss="hinge",
            C=np.inf,
            algorithm=algorithm,
            solver="gd",
            inner_step_size=0.3,
            meta_step_size=0.1,
            init="normal",
            random_state=0,
            max_iter=50,
        )
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y, groups=groups)
        histories.append(model.history_)
        coefs.append(model.coef_)
    assert_array_equal(coefs[0], coefs[1])
    assert_array_equal(histories[0]["objective"], histories[1]["objective"])
    assert_array_equal(histories[0]["grad_norm"], histories[1]["grad_norm"])
    assert len(np.unique(histories[0]["objective"])) == 51


def test_squared_hinge_has_a_correction():
    X, y, groups = make_tasks()
    coefs = []
    for algorithm in ("maml", "fomaml"):
        model = MAMLSVC(algorithm=algorithm, solver="gd", inner_step_size=0.3, meta_step_size=0.1, max_iter=50)
        with pytest.warns(ConvergenceWarning):
            coefs.append(model.fit(X, y, groups=groups).coef_)
    assert np.max(np.abs(coefs[0] - coefs[1])) > 1e-3


@lru_cache
def precise_solution(alpha=0.1, adaptation="gradient"):
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    return MAMLSVC(loss="smooth_hinge", C=0.1, inner_step_size=alpha, adaptation=adaptation, tol=1e-8).fit(
        X, y, groups=groups
    )


def agrees_with_the_precise_solution(model, alpha, adaptation):
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    expected = precise_solution(alpha, adaptation)
    model.set_params(loss="smooth_hinge", C=0.1, inner_step_size=alpha, adaptation=adaptation, max_iter=20_000)
    model.set_params(tol=1e-5).fit(X, y, groups=groups)
    alpha = learned_metric(model) if alpha == "auto" else alpha
    truth = Reference(X, y, groups, loss="smooth_hinge", C=0.1, alpha=alpha, adaptation=adaptation)
    assert np.linalg.norm(truth.F(parameters(model))[1]) < 1.1e-5
    assert np.linalg.norm(truth.F(parameters(expected))[1]) < 1.1e-8
    assert_allclose(parameters(model), parameters(expected), rtol=0, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["maml", "bimaml"])
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "gd", "ode"])
def test_smooth_hinge_solvers_agree(algorithm, solver):
    agrees_with_the_precise_solution(MAMLSVC(algorithm=algorithm, solver=solver), 0.1, "gradient")


@pytest.mark.parametrize(("alpha", "adaptation"), STEPS[1:])
@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_smooth_hinge_solvers_agree_about_every_adaptation(solver, alpha, adaptation):
    agrees_with_the_precise_solution(MAMLSVC(solver=solver), alpha, adaptation)


@pytest.mark.parametrize(("alpha", "adaptation"), STEPS)
def test_squared_hinge_solvers_agree(alpha, adaptation):
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    settings = {"C": 0.3, "inner_step_size": alpha, "adaptation": adaptation}
    models = [
        MAMLSVC(solver=solver, max_iter=20_000, tol=1e-4, **settings).fit(X, y, groups=groups)
        for solver in ("lbfgs", "newton-cg", "gd")
    ]
    alpha = learned_metric(models[0]) if alpha == "auto" else alpha
    truth = Reference(X, y, groups, loss="squared_hinge", C=0.3, alpha=alpha, adaptation=adaptation)
    values = [truth.F(parameters(model))[0] for model in models]
    assert_allclose(values, min(values), rtol=1e-6)


@pytest.mark.parametrize("alpha", [0.05, "auto"])
def test_hinge_keeps_the_best_iterate(alpha):
    X, y, groups = make_tasks()
    model = MAMLSVC(loss="hinge", algorithm="maml", inner_step_size=alpha, max_iter=5000).fit(X, y, groups=groups)
    truth = Reference(X, y, groups, loss="hinge", alpha=learned_metric(model) if alpha == "auto" else alpha)
    assert_allclose(truth.F(parameters(model))[0], np.min(model.history_["objective"]), rtol=1e-9)
    assert model.history_["objective"][-1] > np.min(model.history_["objective"])
    assert np.min(model.history_["objective"]) < 0.95 * model.history_["objective"][0]


@pytest.mark.parametrize("seed", [0, 1])
def test_bimaml_has_small_gradients_first(seed):
    """Fig. 2c/2g, squared hinge: at iteration 30 norm(grad F) is .49 of its start with MAML, .06 with BI-MAML."""
    rng = np.random.default_rng(seed)
    tables = [make_classification(300, 20, random_state=100 * seed + i) for i in range(50)]
    X, y = np.vstack([X for X, _ in tables]), np.concatenate([y for _, y in tables])
    groups, w0 = np.repeat(np.arange(50), 300), rng.normal(size=20)
    ratio = {}
    for algorithm in ("maml", "bimaml"):
        model = MAMLSVC(
            C=np.inf,
            algorithm=algorithm,
            solver="gd",
            inner_step_size=0.3,
            meta_step_size=0.1,
            fit_intercept=False,
            init=w0,
            max_iter=30,
        )
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y, groups=groups)
        truth = Reference(X, 2 * y - 1, groups, loss="squared_hinge", C=np.inf, intercept=False, alpha=0.3)
        ratio[algorithm] = np.linalg.norm(truth.F(parameters(model))[1]) / np.linalg.norm(truth.F(w0)[1])
    assert ratio["bimaml"] < 0.3
    assert ratio["bimaml"] < ratio["maml"] / 2


# Labels


@pytest.mark.parametrize("loss", SMOOTH)
def test_one_versus_rest_is_separate_fits(loss):
    X, y, groups = make_tasks(sizes=(90,), n_classes=3)
    settings = {"loss": loss, "C": 0.5, "tol": 1e-7, "n_inner_steps": 1}
    model = MAMLSVC(**settings).fit(X, y, groups=groups)
    assert model.coef_.shape == (3, 4)
    assert model.intercept_.shape == (3,)
    assert model.decision_function(X).shape == (90, 3)
    for k in range(3):
        one = MAMLSVC(**settings).fit(X, y == k, groups=groups)
        assert_allclose(model.coef_[k], one.coef_[0], rtol=0, atol=1e-4)
        assert_allclose(model.intercept_[k], one.intercept_[0], rtol=0, atol=1e-4)
    assert_array_equal(model.predict(X), model.decision_function(X).argmax(axis=1))


def test_one_versus_rest_is_linear_svc():
    X, y, groups = make_tasks(sizes=(90,), n_classes=4)
    svc = LinearSVC(fit_intercept=False, tol=1e-10, max_iter=1_000_000).fit(X, y)
    model = MAMLSVC(fit_intercept=False, tol=1e-7).fit(X, y, groups=groups)
    assert_allclose(model.coef_, svc.coef_, rtol=0, atol=1e-4)
    assert_array_equal(model.predict(X), svc.predict(X))
    assert model.coef_.shape == svc.coef_.shape == (4, 4)


@pytest.mark.parametrize(
    "names",
    [np.array(["no", "yes"]), np.array(["b", "a"], dtype=object), [False, True], [7, -3], [0.0, 1.0]],
    ids=["str", "object", "bool", "int", "float"],
)
def test_labels_of_any_kind(names):
    X, y, groups = make_tasks()
    names = np.asarray(names)
    labels = names[(y > 0).astype(int)]
    model = MAMLSVC(tol=1e-2).fit(X, labels, groups=groups)
    assert_array_equal(model.classes_, np.sort(names))
    sign = 1 if model.classes_[1] == names[1] else -1
    expected = MAMLSVC(tol=1e-2).fit(X, sign * y, groups=groups)
    assert_array_equal(model.coef_, expected.coef_)
    z = model.decision_function(X)
    assert z.shape == (len(y),)
    assert_allclose(z, X @ model.coef_[0] + model.intercept_[0], rtol=1e-12)
    predicted = model.predict(X)
    assert predicted.dtype == labels.dtype
    assert_array_equal(predicted, [model.classes_[1] if value > 0 else model.classes_[0] for value in z])
    assert model.score(X, labels) == np.mean(predicted == labels)
    adapted = model.adapt(X[:4], labels[:4])
    assert set(adapted.predict(X)) <= set(names)
    by_task = model.adapt(X, labels, groups=groups)
    assert by_task.score(X, labels, groups=groups) == np.mean(by_task.predict(X, groups=groups) == labels)


def test_multiclass_strings_and_predictions():
    X, y, groups = make_tasks(n_classes=3)
    names = np.array(["c", "a", "b"])
    model = MAMLSVC(tol=1e-2).fit(X, names[y], groups=groups)
    assert model.classes_.tolist() == ["a", "b", "c"]
    Z = model.decision_function(X)
    assert_allclose(Z, X @ model.coef_.T + model.intercept_, rtol=1e-10)
    assert_array_equal(model.predict(X), model.classes_[Z.argmax(axis=1)])
    assert model.score(X, names[y]) > 0.5
    assert model.decision_function(X[:1]).shape == (1, 3)


@pytest.mark.parametrize("loss", LOSSES)
def test_tasks_of_a_single_class(loss):
    X, y, groups = make_tasks()
    y[groups == 1], y[groups == 3] = 1, -1
    model = MAMLSVC(loss=loss, solver="gd", algorithm="maml", meta_step_size=0.05, inner_step_size=0.2, max_iter=30)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y, groups=groups)
    truth = Reference(X, y, groups, loss=loss, alpha=0.2)
    w, _, value, _ = descend(truth, np.zeros(5), 0.05, 30)
    assert_allclose(parameters(model), w, rtol=1e-9, atol=1e-11)
    assert value[-1] < value[0]
    adapted = model.adapt(X[groups == 1], y[groups == 1])
    assert_allclose(parameters(adapted), truth.adapt(1, w), rtol=1e-8, atol=1e-10)


def test_every_task_of_a_single_class():
    X, y, groups = make_tasks()
    groups = 10 * (y > 0) + groups
    model = MAMLSVC(tol=1e-4).fit(X, y, groups=groups)
    assert model.score(X, y) > 0.6


# Data


def standardised(load):
    X, y = load(return_X_y=True)
    rng = np.random.default_rng(0)
    rows = rng.permutation(len(y))[:300]
    return scale(X)[rows][:, :10], y[rows]


@pytest.mark.parametrize("load", [load_breast_cancer, load_iris])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_beats_chance(load, loss, algorithm):
    X, y = standardised(load)
    groups = np.arange(len(y)) % 4
    test = groups == 3
    model = MAMLSVC(loss=loss, algorithm=algorithm, C=0.1, max_iter=5000, tol=1e-2)
    model.fit(X[~test], y[~test], groups=groups[~test])
    chance = np.bincount(y[test]).max() / np.sum(test)
    assert chance < 0.65
    assert model.score(X[test], y[test]) > max(0.7, chance)
    adapted = model.adapt(X[test][:10], y[test][:10])
    assert adapted.score(X[test][10:], y[test][10:]) > max(0.7, chance)
    assert model.history_["objective"][model.history_["phase"] == 2].min() < model.history_["objective"][0]


# Weights and storage


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_weights_are_repetition(loss, algorithm, n_classes):
    X, y, groups = make_tasks(n_classes=n_classes)
    weight = np.random.default_rng(1).integers(0, 4, size=len(X)).astype(float)
    weight[groups == 3] = 0
    rows = np.repeat(np.arange(len(X)), weight.astype(int))
    settings = {"loss": loss, "algorithm": algorithm, "solver": "gd", "max_iter": 12, "tol": 0.0, "switch_tol": 0.5}
    settings["inner_step_size"] = 0.1
    weighted, repeated = MAMLSVC(**settings), MAMLSVC(**settings)
    with pytest.warns(ConvergenceWarning):
        weighted.fit(X, y, groups=groups, sample_weight=weight)
    with pytest.warns(ConvergenceWarning):
        repeated.fit(X[rows], y[rows], groups=groups[rows])
    assert_allclose(weighted.coef_, repeated.coef_, rtol=0, atol=1e-10)
    assert_allclose(weighted.intercept_, repeated.intercept_, rtol=0, atol=1e-10)
    assert_allclose(weighted.l2_regularization_, repeated.l2_regularization_)
    assert_allclose(weighted.inner_step_size_, repeated.inner_step_size_)
    unweighted = MAMLSVC(**settings)
    with pytest.warns(ConvergenceWarning):
        unweighted.fit(X, y, groups=groups)
    assert np.max(np.abs(unweighted.coef_ - repeated.coef_)) > 1e-3
    a = weighted.adapt(X, y, groups=groups, sample_weight=weight)
    b = repeated.adapt(X[rows], y[rows], groups=groups[rows])
    assert_array_equal(a.tasks_, [0, 1, 2, 4])
    assert_allclose(a.task_coef_, b.task_coef_, rtol=0, atol=1e-10)


def test_a_class_of_weight_zero_is_absent():
    X, y, groups = make_tasks(n_classes=3)
    model = MAMLSVC(tol=1e-3).fit(X, y, groups=groups, sample_weight=(y != 1).astype(float))
    assert_array_equal(model.classes_, [0, 2])
    with pytest.raises(ValueError, match="class"):
        model.fit(X, y, groups=groups, sample_weight=(y == 1).astype(float))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("convert", [sparse.csr_array, sparse.csc_matrix])
def test_sparse_is_dense(loss, convert):
    X, y, groups = make_tasks(n_classes=3, d=6)
    X = X * (np.random.default_rng(0).uniform(size=X.shape) < 0.5)
    S = convert(X)
    settings = {"loss": loss, "solver": "gd", "max_iter": 10, "tol": 0.0, "C": 0.3}
    dense, model = MAMLSVC(**settings), MAMLSVC(**settings)
    with pytest.warns(ConvergenceWarning):
        dense.fit(X, y, groups=groups)
    with pytest.warns(ConvergenceWarning):
        model.fit(S, y, groups=groups)
    assert_allclose(model.coef_, dense.coef_, rtol=0, atol=1e-10)
    assert_allclose(model.decision_function(S), dense.decision_function(X), rtol=0, atol=1e-9)
    assert_allclose(model.inner_step_size_, dense.inner_step_size_, rtol=1e-9)
    adapted, expected = model.adapt(S, y, groups=groups), dense.adapt(X, y, groups=groups)
    assert_allclose(adapted.task_coef_, expected.task_coef_, rtol=0, atol=1e-9)
    assert_allclose(
        adapted.decision_function(S, groups=groups), expected.decision_function(X, groups=groups), rtol=0, atol=1e-8
    )


def test_float32_is_kept():
    X, y, groups = make_tasks()
    model = MAMLSVC(loss="smooth_hinge").fit(X.astype(np.float32), y, groups=groups)
    expected = MAMLSVC(loss="smooth_hinge").fit(X, y, groups=groups)
    assert model.coef_.dtype == model.intercept_.dtype == np.float32
    assert model.decision_function(X.astype(np.float32)).dtype == np.float32
    assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-4)


# partial_fit


def step_of(truth, w, phase, step):
    return w - step * (truth.F(w) if phase == 2 else truth.f(w))[1]


def test_partial_fit_needs_classes_first():
    X, y, groups = make_tasks()
    model = MAMLSVC()
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        model.partial_fit(X, y, groups=groups)
    assert not hasattr(model, "coef_")
    model.partial_fit(X, y, groups=groups, classes=[-1, 1])
    model.partial_fit(X[:3], y[:3], groups=groups[:3])
    assert_array_equal(model.classes_, [-1, 1])
    with pytest.raises(ValueError, match="not seen"):
        model.partial_fit(X, y + 5, groups=groups)


def test_partial_fit_of_a_batch_with_some_classes():
    X, y, groups = make_tasks(n_classes=3)
    model = MAMLSVC()
    rows = y == 1
    model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=np.array([2, 0, 1]))
    assert_array_equal(model.classes_, [0, 1, 2])
    assert model.coef_.shape == (3, 4)
    assert np.all(model.predict(X[rows]) == 1)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_partial_fit_is_one_outer_step(loss, algorithm):
    X, y, groups = make_tasks()
    w = np.random.default_rng(3).normal(size=5)
    model = MAMLSVC(
        loss=loss, algorithm=algorithm, C=0.4, init=w, meta_step_size=0.07, inner_step_size=0.2, switch_tol=0.0
    )
    l2 = None  # the first batch decides about the penalty
    for i, rows in enumerate(np.split(np.arange(len(y)), [20, 50, 60])):
        out = model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=None if i else [-1, 1])
        truth = Reference(
            X[rows], y[rows], groups[rows], loss=loss, C=0.4, alpha=0.2, first_order=algorithm == "fomaml", l2=l2
        )
        l2 = truth.l2
        w = step_of(truth, w, 1 if algorithm == "bimaml" else 2, 0.07)
        assert out is model
        assert model.n_iter_ == 1
        assert_allclose(parameters(model), w, rtol=1e-9, atol=1e-11)
        assert_allclose(model.l2_regularization_, truth.l2)
        assert model.history_["phase"][-1] == (1 if algorithm == "bimaml" else 2)


def test_partial_fit_latches_the_phase():
    """norm(grad f) falls below switch_tol on the second batch; the third is descended by F though its f is steep."""
    X, y, groups = make_tasks()
    w = np.array([1.0, -1, 0.5, 0, 0])
    Z = X @ w[:4]
    steep = np.flatnonzero(Z * y < 0)  # rows on the wrong side
    flat = np.flatnonzero(Z * y > 1.5)  # rows that are right and cost nothing
    batches, phases = [steep[::2], flat, steep[1::2]], [1, 2, 2]
    model = MAMLSVC(C=1e4, init=w, meta_step_size=0.01, inner_step_size=0.2, switch_tol=0.01)
    l2 = None
    for i, (rows, phase) in enumerate(zip(batches, phases, strict=True)):
        truth = Reference(X[rows], y[rows], groups[rows], loss="squared_hinge", C=1e4, alpha=0.2, l2=l2)
        l2 = truth.l2
        norm = np.linalg.norm(truth.f(w)[1])
        assert norm < 0.01 if i == 1 else norm > 0.5
        w = step_of(truth, w, phase, 0.01)
        model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=[-1, 1])
        assert model.history_["phase"][-1] == phase
        assert_allclose(parameters(model), w, rtol=1e-9, atol=1e-12)


def test_partial_fit_auto_switch_tol_is_that_of_the_first_batch():
    X, y, groups = make_tasks()
    model = MAMLSVC(C=1e4, meta_step_size=0.01).partial_fit(X, y, groups=groups, classes=[-1, 1])
    truth = Reference(X, y, groups, loss="squared_hinge", C=1e4)
    switch_tol = 0.1 * np.linalg.norm(truth.f(np.zeros(5))[1])
    assert_allclose(model.switch_tol_, switch_tol, rtol=1e-9)
    model.partial_fit(X[:20], y[:20], groups=groups[:20])
    assert_allclose(model.switch_tol_, switch_tol, rtol=1e-9)


def test_partial_fit_goes_on_from_fit():
    X, y, groups = make_tasks()
    model = MAMLSVC(meta_step_size=0.05, inner_step_size=0.2, algorithm="maml", tol=1e-3).fit(X, y, groups=groups)
    w = parameters(model)
    model.partial_fit(X[:30], -y[:30], groups=groups[:30])
    truth = Reference(X[:30], -y[:30], groups[:30], loss="squared_hinge", alpha=0.2, l2=5 / 88)
    assert_allclose(parameters(model), step_of(truth, w, 2, 0.05), rtol=1e-9)


def test_partial_fit_learns():
    X, y, groups = make_tasks(sizes=(40,) * 10, seed=1)
    model = MAMLSVC()
    for rows in np.array_split(np.random.default_rng(0).permutation(400), 20):
        model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=[-1, 1])
    expected = MAMLSVC(tol=1e-3).fit(X, y, groups=groups)
    assert model.score(X, y) > expected.score(X, y) - 0.05 > 0.6


@pytest.mark.parametrize("loss", SMOOTH)
@pytest.mark.parametrize("alpha", [0.05, "auto"])
def test_warm_start(loss, alpha):
    X, y, groups = make_tasks()
    model = MAMLSVC(loss=loss, algorithm="maml", solver="gd", warm_start=True, max_iter=10, meta_step_size=0.1)
    model.set_params(inner_step_size=alpha)
    for n in (1, 2):
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y, groups=groups)
        truth = Reference(X, y, groups, loss=loss, alpha=learned_metric(model) if alpha == "auto" else alpha)
        w = descend(truth, np.zeros(5), 0.1, 10 * n)[0]
        assert_allclose(parameters(model), w, rtol=1e-8, atol=1e-10)
    coef = model.coef_
    for labels in (np.where(y > 0, 7, 5), np.arange(len(y)) % 3):
        with pytest.raises(ValueError, match="warm_start"):
            model.fit(X, labels, groups=groups)
    assert_array_equal(model.coef_, coef)
    assert_array_equal(model.classes_, [-1, 1])


# The learned metric


def one_versus_rest(y):
    """Targets -1 and +1, a column for each decision function."""
    labels = np.unique(y)
    return np.where(y[:, None] == (labels[1:] if len(labels) == 2 else labels), 1.0, -1.0)


@lru_cache
def regression_of_the_labels(metric, n_classes):
    X, y, groups = make_tasks(n_classes=n_classes)
    rows = {"groups": groups, "sample_weight": np.random.default_rng(0).uniform(0.1, 2, size=len(y))}
    return MAMLRegressor(metric=metric).fit(X, np.squeeze(one_versus_rest(y)), **rows)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("metric", ["diag", "full"])
@pytest.mark.parametrize("loss", LOSSES)
def test_metric_is_that_of_a_regression_of_the_labels(loss, metric, n_classes):
    X, y, groups = make_tasks(n_classes=n_classes)
    weight = np.random.default_rng(0).uniform(0.1, 2, size=len(y))
    rows = {"groups": groups, "sample_weight": weight}
    model = MAMLSVC(loss=loss, metric=metric, tol=1e3).fit(X, y, **rows)
    expected = regression_of_the_labels(metric, n_classes)
    shape = {2: (5, 5), 3: (3, 5, 5)}[n_classes]
    assert model.task_covariance_.shape == shape
    assert np.shape(model.noise_variance_) == shape[:-2]
    assert_allclose(model.task_covariance_, expected.task_covariance_, rtol=1e-6, atol=1e-9)
    assert_allclose(model.noise_variance_, expected.noise_variance_, rtol=1e-6)
    assert np.max(model.task_covariance_) > 0.01
    if n_classes == 3:  # the classes share it, in units of their noise
        scatter = model.task_covariance_ / model.noise_variance_[:, None, None]
        assert_allclose(scatter, np.broadcast_to(scatter[0], shape), rtol=1e-9)
        assert len(np.unique(model.noise_variance_)) == 3


@pytest.mark.parametrize(("n_classes", "K"), [(2, 3), (3, 1)])
@pytest.mark.parametrize("metric", ["diag", "full"])
@pytest.mark.parametrize("loss", LOSSES)
def test_automatic_gradient_step(loss, metric, n_classes, K):
    X, y, groups = make_tasks(n_classes=n_classes)
    model = MAMLSVC(loss=loss, metric=metric, C=0.3, n_inner_steps=K, solver="gd", max_iter=5, tol=1e3)
    model.fit(X[:70], y[:70], groups=groups[:70])
    support, labels = X[70:76], one_versus_rest(y)[70:76]
    weight = np.array([1.0, 2, 0.5, 1, 3, 1])
    model.coef_ = np.random.default_rng(0).normal(size=model.coef_.shape)
    adapted = model.adapt(support, y[70:76], sample_weight=weight)
    for k, sign in enumerate(labels.T):
        truth = Reference(
            support,
            sign,
            np.zeros(6),
            weight,
            loss=loss,
            K=K,
            alpha=learned_metric(model),
            shots=weight.sum(),
            l2=model.l2_regularization_,
        )
        w = truth.adapt(0, np.r_[model.coef_[k], model.intercept_[k]])
        assert_allclose(np.r_[adapted.coef_[k], adapted.intercept_[k]], w, rtol=0, atol=1e-9)
        assert_allclose(adapted.inner_step_size_, truth.sizes, rtol=1e-9)
    assert_array_equal(adapted.task_covariance_, model.task_covariance_)
    assert adapted.inner_step_size_.shape == (1,)


@pytest.mark.parametrize("metric", ["diag", "full"])
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
def test_automatic_steps_go_down(metric, adaptation):
    """Whatever the support and its units; a further step, too."""
    X, y, groups = make_tasks()
    rng = np.random.default_rng(0)
    model = MAMLSVC(metric=metric, adaptation=adaptation, tol=1e-2).fit(X, y, groups=groups)
    for n_rows in (1, 2, 5, 40):
        for units in (1e-3, 1, 1e3):
            support, labels = units * rng.normal(size=(n_rows, 4)), rng.choice([-1, 1], size=n_rows)
            truth = Reference(support, labels, np.zeros(n_rows), loss="squared_hinge", l2=model.l2_regularization_)
            values = [truth.f(parameters(model))[0]]
            for K in (1, 2, 3):
                adapted = model.set_params(n_inner_steps=K).adapt(support, labels)
                values.append(truth.f(parameters(adapted))[0])
            assert np.all(np.diff(values) < 1e-12 * values[0])
            assert values[-1] < values[0]


@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_threads_change_nothing(alpha):
    X, y, groups = make_tasks(sizes=(10, 25, 14, 9, 60, 120), n_classes=2)
    models = [
        MAMLSVC(adaptation="implicit", inner_step_size=alpha, n_jobs=n_jobs, tol=1e-2).fit(X, y, groups=groups)
        for n_jobs in (None, 2)
    ]
    assert_array_equal(models[0].coef_, models[1].coef_)
    assert_array_equal(*(model.adapt(X, y, groups=groups).task_coef_ for model in models))


@pytest.mark.parametrize("alpha", ["float", "array", "auto", "full"])
@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("loss", SMOOTH)
@pytest.mark.parametrize(("convert", "K"), [(np.asarray, 2), (sparse.csr_array, 1)], ids=["dense", "sparse"])
def test_implicit_step_minimises_the_proximal_sum(loss, n_classes, convert, alpha, K):
    """Written out: argmin of mean_j loss(y_j z_j) + l2/2 norm(coef)^2 + (w' - w)'A^-1(w' - w) / 2, K times."""
    X, y, groups = make_tasks(n_classes=n_classes)
    step_size = {"float": 20.0, "array": np.array([0.3, 1, 5, 0, 2.0])}.get(alpha, "auto")
    metric = "full" if alpha == "full" else "diag"
    settings = {"loss": loss, "metric": metric, "C": 0.2, "inner_step_size": step_size, "n_inner_steps": K}
    model = MAMLSVC(adaptation="implicit", solver="gd", max_iter=5, tol=1e3, **settings)
    model.fit(convert(X[:70]), y[:70], groups=groups[:70])
    assert_allclose(model.l2_regularization_, 5 / (0.2 * 70))
    support, labels = X[70:77], one_versus_rest(y)[70:77]
    model.coef_ = np.random.default_rng(0).normal(size=model.coef_.shape)
    adapted = model.adapt(convert(support), y[70:77])
    if isinstance(step_size, str):
        A = 7 / WORKING_CURVATURE[loss] * learned_metric(model)
    else:
        A = np.diag(np.broadcast_to(step_size, 5))

    def support_loss(w, sign):
        value, slope, curvature = margin_loss(loss, sign * (support @ w[:4] + w[4]))
        Z, penalty = np.c_[support, np.ones(7)], np.diag(model.l2_regularization_ * np.r_[np.ones(4), 0])
        gradient = Z.T @ (sign * slope) / 7 + penalty @ w
        return np.mean(value) + w @ penalty @ w / 2, gradient, (Z.T * curvature) @ Z / 7 + penalty

    for k, sign in enumerate(labels.T):
        w = start = np.r_[model.coef_[k], model.intercept_[k]]
        for _ in range(K):
            w = proximal_point(lambda v, sign=sign: support_loss(v, sign), A, w)
        assert_allclose(np.r_[adapted.coef_[k], adapted.intercept_[k]], w, rtol=0, atol=1e-8)
        assert np.linalg.norm(w - start) > 0.1
    if alpha == "array":
        assert_array_equal(adapted.coef_[:, 3], model.coef_[:, 3])


@pytest.mark.parametrize("alpha", [0.5, "auto"])
@pytest.mark.parametrize("loss", SMOOTH)
def test_two_implicit_steps_are_two_adaptations(loss, alpha):
    """What is known of how tasks differ stays as it is: only the squared loss tells how uncertain a step leaves it."""
    X, y, groups = make_tasks()
    model = MAMLSVC(loss=loss, adaptation="implicit", inner_step_size=alpha, tol=0.1).fit(X, y, groups=groups)
    once = model.adapt(X[:8], y[:8])
    twice = once.adapt(X[:8], y[:8])
    if alpha == "auto":
        assert_array_equal(once.task_covariance_, model.task_covariance_)
    at_once = model.set_params(n_inner_steps=2).adapt(X[:8], y[:8])
    assert_allclose(twice.coef_, at_once.coef_, rtol=0, atol=1e-9)
    assert np.max(np.abs(twice.coef_ - once.coef_)) > 1e-3


def test_hinge_cannot_adapt_implicitly():
    X, y, groups = make_tasks()
    model = MAMLSVC(loss="hinge", tol=0.1, max_iter=5, algorithm="maml", init="normal", random_state=0)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y, groups=groups)
    model.set_params(adaptation="implicit")
    before = dict(vars(model))
    for call in (
        lambda: model.fit(X, y, groups=groups),
        lambda: model.partial_fit(X, y, groups=groups),
        lambda: model.adapt(X, y),
        lambda: model.set_params(inner_step_size=0.1).adapt(X, y, groups=groups),
    ):
        with pytest.raises(ValueError, match=r"adaptation='implicit' needs a loss whose slope is continuous.*smooth_h"):
            call()
    model.set_params(inner_step_size="auto")
    assert same(vars(model), before)
    assert set(model.predict(X)) == {-1, 1}
    model.set_params(loss="smooth_hinge").fit(X, y, groups=groups)


def test_hinge_without_steps_has_nothing_to_adapt():
    X, y, groups = make_tasks()
    settings = {"loss": "hinge", "n_inner_steps": 0, "max_iter": 20_000, "tol": 1e-3}
    model = MAMLSVC(adaptation="implicit", **settings).fit(X, y, groups=groups)
    expected = MAMLSVC(**settings).fit(X, y, groups=groups)
    assert_array_equal(model.coef_, expected.coef_)
    assert_array_equal(model.adapt(X[:5], y[:5]).coef_, model.coef_)
    assert_array_equal(model.partial_fit(X, y, groups=groups).classes_, [-1, 1])


@pytest.mark.parametrize(
    ("loss", "metric", "adaptation"),
    [  # every pair of choices, not their product
        ("squared_hinge", "diag", "implicit"),
        ("squared_hinge", "full", "gradient"),
        ("smooth_hinge", "diag", "gradient"),
        ("smooth_hinge", "full", "implicit"),
    ],
)
def test_learned_metric_and_weights_order_and_storage(loss, metric, adaptation):
    """Weights are repetition; the order of rows and tasks, the tasks' names, sparse or dense do not matter."""
    X, y, groups = make_tasks(n_classes=3, d=2)
    X = X * (np.random.default_rng(0).uniform(size=X.shape) < 0.7)
    weight = np.random.default_rng(1).integers(0, 4, size=len(X)).astype(float)
    weight[groups == 3] = 0
    order = np.random.default_rng(2).permutation(len(X))
    repeated = np.repeat(np.arange(len(X)), weight.astype(int))
    settings = {"loss": loss, "metric": metric, "adaptation": adaptation, "tol": 1e-7 if loss[1] == "m" else 1e-3}
    settings |= {"max_iter": 4, "solver": "gd", "algorithm": "maml", "meta_step_size": 0.1}

    def fit(X, y, groups, sample_weight=None):
        model = MAMLSVC(**settings)
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y, groups=groups, sample_weight=sample_weight)
        return model, model.adapt(X, y, groups=groups, sample_weight=sample_weight)

    model, adapted = fit(X, y, groups, weight)
    assert_array_equal(adapted.tasks_, [0, 1, 2, 4])
    for name, variant in {
        "repetition": (X[repeated], y[repeated], groups[repeated]),
        "order of rows": (X[order], y[order], groups[order], weight[order]),
        "names of tasks": (X, y, 9 - groups, weight),
        "storage": (sparse.csr_array(X), y, groups, weight),
    }.items():
        other, other_adapted = fit(*variant)
        tasks = np.argsort(9 - adapted.tasks_) if name == "names of tasks" else slice(None)
        for attribute in ("coef_", "intercept_", "task_covariance_", "noise_variance_"):
            values = getattr(other, attribute), getattr(model, attribute)
            assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=f"{name}: {attribute}")
        for attribute in ("task_coef_", "task_intercept_", "inner_step_size_"):
            values = getattr(other_adapted, attribute), getattr(adapted, attribute)[tasks]
            assert_allclose(*values, rtol=1e-5, atol=1e-6, err_msg=f"{name}: {attribute}")
    unweighted, _ = fit(X, y, groups)
    assert np.max(np.abs(unweighted.coef_ - model.coef_)) > 1e-3


@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_float32_is_kept_by_every_adaptation(alpha, adaptation):
    X, y, groups = make_tasks()
    settings = {"loss": "smooth_hinge", "adaptation": adaptation, "inner_step_size": alpha}
    model = MAMLSVC(**settings).fit(X.astype(np.float32), y, groups=groups)
    expected = MAMLSVC(**settings).fit(X, y, groups=groups)
    one, many = model.adapt(X[:8].astype(np.float32), y[:8]), model.adapt(X, y, groups=groups)
    for fitted in (model, one, many):
        assert fitted.coef_.dtype == fitted.intercept_.dtype == np.float32
    assert many.task_coef_.dtype == many.task_intercept_.dtype == np.float32
    assert_allclose(model.coef_, expected.coef_, rtol=0, atol=1e-4)
    assert_allclose(one.coef_, expected.adapt(X[:8], y[:8]).coef_, rtol=0, atol=1e-4)


@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("alpha", [0.1, "auto"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_adapting_to_many_tasks_is_a_loop(n_classes, alpha, adaptation):
    X, y, groups = make_tasks(n_classes=n_classes)
    model = MAMLSVC(loss="smooth_hinge", adaptation=adaptation, inner_step_size=alpha, tol=0.1)
    model.fit(X, y, groups=groups)
    before = dict(vars(model))
    adapted = model.adapt(X, y, groups=groups)
    assert type(adapted) is MAMLSVC
    assert same(vars(model), before)
    Z, predicted = adapted.decision_function(X, groups=groups), adapted.predict(X, groups=groups)
    for i, task in enumerate(adapted.tasks_):
        rows = groups == task
        one = model.adapt(X[rows], y[rows])
        assert_allclose(adapted.task_coef_[i], one.coef_, rtol=0, atol=1e-9)
        assert_allclose(adapted.task_intercept_[i], one.intercept_, rtol=0, atol=1e-9)
        assert_allclose(Z[rows], one.decision_function(X[rows]), rtol=0, atol=1e-8)
        assert_array_equal(predicted[rows], one.predict(X[rows]))
    assert_array_equal(adapted.coef_, model.coef_)


@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("loss", SMOOTH)
@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_labels_that_a_task_lacks(loss, alpha, adaptation):
    """In training a task may lack classes; a support may have one only, and moves the model towards it."""
    X, y, groups = make_tasks(n_classes=3)
    names = np.array(["one", "three", "two"])
    y[(groups == 1) & (y == 2)], y[groups == 3] = 1, 0
    model = MAMLSVC(loss=loss, adaptation=adaptation, inner_step_size=alpha, tol=0.1).fit(X, names[y], groups=groups)
    for k, name in enumerate(names):
        adapted = model.adapt(X[:10], np.full(10, name))
        change = adapted.decision_function(X[:10]) - model.decision_function(X[:10])
        assert np.mean(change[:, k]) > 0 > np.max(np.mean(np.delete(change, k, axis=1), axis=0))
        assert set(adapted.predict(X)) <= set(names)
        assert adapted.predict(X).dtype == names.dtype
    with pytest.raises(ValueError, match=r"not seen in fit.*four"):
        model.adapt(X[:2], ["four", "one"])


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_partial_fit_learns_the_metric_of_all_rows(loss, n_classes):
    X, y, groups = make_tasks(n_classes=n_classes)
    weight = np.random.default_rng(0).uniform(0.1, 2, size=len(y))
    model, classes = MAMLSVC(loss=loss), np.unique(y)
    for rows in np.array_split(np.random.default_rng(1).permutation(len(y)), 4):
        model.partial_fit(X[rows], y[rows], groups=groups[rows], sample_weight=weight[rows], classes=classes)
    expected = MAMLSVC(loss=loss, tol=1e3).fit(X, y, groups=groups, sample_weight=weight)
    assert np.max(expected.task_covariance_) > 0.01
    assert_allclose(model.task_covariance_, expected.task_covariance_, rtol=1e-4, atol=1e-6)
    assert_allclose(model.noise_variance_, expected.noise_variance_, rtol=1e-5)


def test_partial_fit_steps_with_the_metric_known_by_then():
    X, y, groups = make_tasks()
    model, w, l2 = MAMLSVC(C=0.4, algorithm="maml", meta_step_size=0.07), np.zeros(5), None
    for rows in (np.flatnonzero(groups == 1), np.arange(20), np.arange(20, 60), np.arange(60, len(y))):
        model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=[-1, 1])
        alpha = "auto" if model.task_covariance_ is None else learned_metric(model)
        truth = Reference(X[rows], y[rows], groups[rows], loss="squared_hinge", C=0.4, alpha=alpha, l2=l2)
        l2 = truth.l2
        w = step_of(truth, w, 2, 0.07)
        assert (model.task_covariance_ is None) == (len(np.unique(groups[rows])) == 1)
        assert_allclose(parameters(model), w, rtol=1e-8, atol=1e-10)


def test_partial_fit_of_many_features():
    """Beyond 500 parameters there is no metric to learn, as in fit."""
    X, y, groups = make_tasks(d=550)
    model = MAMLSVC(meta_step_size=0.01, algorithm="maml").partial_fit(X, y, groups=groups, classes=[-1, 1])
    truth = Reference(X, y, groups, loss="squared_hinge", alpha="auto")
    assert_allclose(parameters(model), step_of(truth, np.zeros(551), 2, 0.01), rtol=1e-8, atol=1e-12)
    assert model.task_covariance_ is None
    model.adapt(X[:5], y[:5])


def test_partial_fit_keeps_the_metric_of_a_former_fit():
    """A batch of one task tells nothing of how tasks differ: what fit has learned holds."""
    X, y, groups = make_tasks()
    model = MAMLSVC(tol=1e-3).fit(X, y, groups=groups)
    covariance = model.task_covariance_
    rows = groups == 1
    model.partial_fit(X[rows], y[rows], groups=groups[rows])
    assert_array_equal(model.task_covariance_, covariance)


@pytest.mark.parametrize("alpha", [0.1, "auto"])
def test_partial_fit_that_fails_changes_nothing(alpha):
    X, y, groups = make_tasks()
    model = MAMLSVC(inner_step_size=alpha)
    model.partial_fit(X[:50], y[:50], groups=groups[:50], classes=[-1, 1])
    before = dict(vars(model))
    rows = slice(50, None)
    for match, X_new, y_new, settings in (
        ("not seen", X[rows], y[rows] + 5, {}),
        ("features", X[rows, :2], y[rows], {}),
        ("classes=.* differ", X[rows], y[rows], {"classes": [0, 1]}),
        ("NaN", np.where(X[rows] > 1, np.nan, X[rows]), y[rows], {}),
        ("Negative", X[rows], y[rows], {"sample_weight": -np.ones(len(y) - 50)}),
        ("inner_step_size must be a number", X[rows], y[rows], {}),
    ):
        if "inner" in match:
            model.set_params(inner_step_size=[0.1, 0.2])
        with pytest.raises(ValueError, match=match):
            model.partial_fit(X_new, y_new, **({"groups": groups[rows]} | settings))
        model.set_params(inner_step_size=alpha)
        assert same(vars(model), before)
    again = MAMLSVC(inner_step_size=alpha).partial_fit(X[:50], y[:50], groups=groups[:50], classes=[-1, 1])
    for each in (model, again):
        each.partial_fit(X[rows], y[rows], groups=groups[rows])
    assert_array_equal(model.coef_, again.coef_)


def test_partial_fit_with_and_without_groups_does_not_mix():
    X, y, groups = make_tasks()
    model = MAMLSVC().partial_fit(X, y, groups=groups, classes=[-1, 1])
    before = dict(vars(model))
    with pytest.warns(SingleTaskWarning), pytest.raises(ValueError, match="groups must be given to every call"):
        model.partial_fit(X, y)
    assert same(vars(model), before)


def test_more_parameters_than_rows():
    X, y, groups = make_tasks(d=120)
    model = MAMLSVC(tol=1e-2)
    with pytest.warns(UserWarning, match="could not learn how tasks differ from 5 tasks with 121 parameters"):
        model.fit(X, y, groups=groups)
    assert model.task_covariance_ is None
    assert model.noise_variance_ is None
    truth = Reference(X, y, groups, loss="squared_hinge", alpha="auto")
    assert_allclose(model.inner_step_size_, truth.sizes, rtol=1e-9)
    assert_allclose(model.history_["objective"][-1], truth.F(parameters(model))[0], rtol=1e-9)  # without a tenth of f
    adapted = model.adapt(X[groups == 1], y[groups == 1])
    assert_allclose(parameters(adapted), truth.adapt(1, parameters(model)), rtol=0, atol=1e-9)


def classification_family(differences, n_tasks, seed):
    """Tasks of 60 rows whose intercepts and slopes scatter by `differences`, labels with noise."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_tasks), 60)
    X = rng.normal(size=(len(groups), 3))
    W = np.array([1.5, -1.0, 0.5, 0.2]) + differences * rng.normal(size=(n_tasks, 4)) * [1, 0.3, 0.3, 2]
    z = np.sum(np.c_[X, np.ones(len(X))] * W[groups], axis=1) + 0.5 * rng.normal(size=len(X))
    return X, np.where(z > 0, "yes", "no"), groups


@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("metric", ["diag", "full"])
@pytest.mark.parametrize("loss", SMOOTH)
def test_adaptation_helps_where_tasks_differ(loss, metric, adaptation):
    gain = []
    for differences in (1.0, 0.0):
        X, y, groups = classification_family(differences, 60, seed=0)
        train = groups < 40
        support = ~train & (np.arange(len(y)) % 60 < 5)
        query = ~train & ~support
        model = MAMLSVC(loss=loss, metric=metric, adaptation=adaptation, tol=1e-3)
        model.fit(X[train], y[train], groups=groups[train])
        before = model.score(X[query], y[query])
        adapted = model.adapt(X[support], y[support], groups=groups[support])
        gain.append(adapted.score(X[query], y[query], groups=groups[query]) - before)
    assert gain[0] > 0.05
    assert abs(gain[1]) < 0.01
