"""MAMLSVC against plain loops over tasks (`Reference`) and scikit-learn's LinearSVC."""

from functools import lru_cache

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import descend
from scipy import sparse
from sklearn.datasets import load_breast_cancer, load_iris, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC

from sklearn_maml import MAMLSVC

ALGORITHMS = ["maml", "bimaml", "fomaml"]
LOSSES = ["hinge", "squared_hinge", "smooth_hinge"]
CURVATURE = {"hinge": 1.0, "squared_hinge": 2.0, "smooth_hinge": 2.5}


def margin_loss(loss, m):
    """Loss of the margin m = y z and its first two derivatives; the flat side at a kink."""
    if loss == "hinge":
        return np.where(m < 1, 1 - m, 0.0), np.where(m < 1, -1.0, 0.0), 0 * m
    if loss == "squared_hinge":
        return np.where(m < 1, (1 - m) ** 2, 0.0), np.where(m < 1, -2 * (1 - m), 0.0), np.where(m < 1, 2.0, 0.0)
    p = 1 / (1 + np.exp((m - 1) / 0.1))
    return 0.1 * np.log1p(np.exp((1 - m) / 0.1)), -p, p * (1 - p) / 0.1


class Reference:
    """f and F of equation (1.1) for labels y in {-1, 1}, one task and one step at a time."""

    def __init__(
        self, X, y, groups, weight=None, *, loss, C=1.0, intercept=True, alpha="auto", K=1, first_order=False, l2=None
    ):
        self.loss, self.K, self.first_order = loss, K, first_order
        weight = np.ones(len(X)) if weight is None else weight
        present = sorted(set(groups[weight > 0]))
        self.l2 = 1 / (C * weight.sum() / len(present)) if l2 is None else l2
        Z = np.column_stack([X, np.ones(len(X))]) if intercept else X
        self.penalty = np.r_[np.full(X.shape[1], self.l2), np.zeros(int(intercept))]
        self.tasks = []
        for g in present:
            rows = (groups == g) & (weight > 0)
            s = weight[rows] / weight[rows].sum()
            L = np.linalg.eigvalsh(CURVATURE[loss] * (Z[rows].T * s) @ Z[rows])[-1] + self.l2
            self.tasks.append((Z[rows], y[rows], s, 0.5 / L if isinstance(alpha, str) else np.asarray(alpha)))

    def task(self, i, w):
        """Value, gradient and Hessian of f_i."""
        Z, y, s, _ = self.tasks[i]
        value, slope, curvature = margin_loss(self.loss, y * (Z @ w))
        hessian = (Z.T * (s * curvature)) @ Z + np.diag(self.penalty)
        return s @ value + self.penalty @ w**2 / 2, Z.T @ (s * slope * y) + self.penalty * w, hessian

    def adapt(self, i, w):
        for _ in range(self.K):
            w = w - self.tasks[i][3] * self.task(i, w)[1]
        return w

    def f(self, w):
        parts = [self.task(i, w) for i in range(len(self.tasks))]
        return np.mean([part[0] for part in parts]), np.mean([part[1] for part in parts], axis=0)

    def F(self, w):
        values, gradients = [], []
        for i in range(len(self.tasks)):
            v, hessians = w, []
            for _ in range(self.K):
                _, gradient, hessian = self.task(i, v)
                v = v - self.tasks[i][3] * gradient
                hessians.append(hessian)
            value, gradient, _ = self.task(i, v)
            for hessian in hessians[::-1] * (not self.first_order):
                gradient = gradient - hessian @ (self.tasks[i][3] * gradient)
            values.append(value)
            gradients.append(gradient)
        return np.mean(values), np.mean(gradients, axis=0)


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


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("alpha", [0.1, "auto", np.linspace(0.05, 0.3, 5)], ids=["float", "auto", "array"])
def test_reference_against_finite_differences(loss, alpha):
    X, y, groups = make_tasks()
    truth = Reference(X, y, groups, loss=loss, K=2, alpha=alpha)
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


@pytest.mark.parametrize("loss", ["squared_hinge", "smooth_hinge"])
@pytest.mark.parametrize("C", [0.2, np.inf])
@pytest.mark.parametrize("K", [0, 1, 2])
def test_stationary_point_of_the_reference(loss, C, K):
    X, y, groups = make_tasks(sizes=(20, 35, 24, 19, 30))
    model = MAMLSVC(loss=loss, C=C, n_inner_steps=K, tol=1e-6).fit(X, y, groups=groups)
    truth = Reference(X, y, groups, loss=loss, C=C, K=K)
    value, gradient = truth.F(parameters(model))
    assert np.linalg.norm(gradient) < (1e-5 if loss == "smooth_hinge" else 1e-3)
    assert_allclose(model.history_["objective"][-1], value, rtol=1e-10)
    rng = np.random.default_rng(0)
    for size in (0.01, 0.1, 1):
        assert all(truth.F(parameters(model) + size * rng.normal(size=5))[0] > value for _ in range(5))
    start = truth.F(np.zeros(5))
    assert value < 0.95 * start[0]


def test_infinite_c_is_no_penalty():
    X, y, groups = make_tasks()
    free, limit = (MAMLSVC(loss="smooth_hinge", C=C).fit(X, y, groups=groups) for C in (np.inf, 1e9))
    assert_allclose(free.coef_, limit.coef_, rtol=0, atol=1e-3)
    assert np.linalg.norm(MAMLSVC(loss="smooth_hinge", C=0.1).fit(X, y, groups=groups).coef_) < np.linalg.norm(
        free.coef_
    )


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ["maml", "fomaml"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_value_and_gradient_at_the_start(loss, algorithm, intercept, weighted):
    X, y, groups = make_tasks()
    rng = np.random.default_rng(0)
    weight = rng.uniform(0.1, 2, size=len(y)) if weighted else None
    for K in (0, 1, 3):
        for alpha in (0.2, np.linspace(0.05, 0.4, 4 + intercept), "auto"):
            w = rng.normal(size=4 + intercept)
            truth = Reference(
                X,
                y,
                groups,
                weight,
                loss=loss,
                C=0.7,
                K=K,
                alpha=alpha,
                intercept=intercept,
                first_order=algorithm == "fomaml",
            )
            model = MAMLSVC(
                loss=loss,
                C=0.7,
                algorithm=algorithm,
                solver="gd",
                init=w,
                n_inner_steps=K,
                inner_step_size=alpha,
                fit_intercept=intercept,
                tol=1e9,
            ).fit(X, y, groups=groups, sample_weight=weight)
            value, gradient = truth.F(w)
            assert model.n_iter_ == 0
            assert_allclose(model.history_["objective"], [value], rtol=1e-9)
            assert_allclose(model.history_["grad_norm"], [np.linalg.norm(gradient)], rtol=1e-9)
            if K:
                steps = [task[3] for task in truth.tasks] if isinstance(alpha, str) else alpha
                assert_allclose(model.inner_step_size_, steps, rtol=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradient_descent_iterate_by_iterate(loss, algorithm):
    X, y, groups = make_tasks()
    w0 = np.random.default_rng(3).normal(size=5)
    truth = Reference(X, y, groups, loss=loss, C=np.inf, alpha=0.3, first_order=algorithm == "fomaml")
    switch_tol = 0.8 * np.linalg.norm(truth.f(w0)[1])
    model = MAMLSVC(
        loss=loss,
        C=np.inf,
        algorithm=algorithm,
        solver="gd",
        inner_step_size=0.3,
        meta_step_size=0.1,
        switch_tol=switch_tol,
        init=w0,
        max_iter=40,
        tol=0.0,
    )
    with pytest.warns(ConvergenceWarning, match="max_iter|meta_step_size"):
        model.fit(X, y, groups=groups)
    w, phase, value, norm = descend(truth, w0, 0.1, 40, switch_tol if algorithm == "bimaml" else None)
    assert set(phase) == ({1, 2} if algorithm == "bimaml" else {2})
    assert_array_equal(model.history_["phase"], phase)
    assert_allclose(model.history_["objective"], value, rtol=1e-9)
    assert_allclose(model.history_["grad_norm"], norm, rtol=1e-8)
    assert_allclose(parameters(model), w, rtol=1e-9, atol=1e-10)
    assert_array_equal(np.diff(model.history_["n_hessp"])[phase[1:] == 1], 0)
    if algorithm == "maml":
        assert_array_equal(model.history_["n_gradients"], 2 * np.arange(1, 42))
        assert_array_equal(model.history_["n_hessp"], np.arange(1, 42))


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
def precise_solution():
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    return MAMLSVC(loss="smooth_hinge", C=0.3, inner_step_size=0.1, tol=1e-8).fit(X, y, groups=groups)


@pytest.mark.parametrize("algorithm", ["maml", "bimaml"])
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton-cg", "gd", "ode"])
def test_smooth_hinge_solvers_agree(algorithm, solver):
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    expected = precise_solution()
    model = MAMLSVC(
        loss="smooth_hinge", C=0.3, algorithm=algorithm, solver=solver, inner_step_size=0.1, max_iter=20_000, tol=1e-5
    ).fit(X, y, groups=groups)
    truth = Reference(X, y, groups, loss="smooth_hinge", C=0.3, alpha=0.1)
    assert np.linalg.norm(truth.F(parameters(model))[1]) < 1.1e-5
    assert np.linalg.norm(truth.F(parameters(expected))[1]) < 1.1e-8
    assert_allclose(parameters(model), parameters(expected), rtol=0, atol=1e-3)


def test_squared_hinge_solvers_agree():
    X, y, groups = make_tasks(sizes=(20, 35, 24), d=3)
    truth = Reference(X, y, groups, loss="squared_hinge", C=0.3)
    values = [
        truth.F(parameters(MAMLSVC(C=0.3, solver=solver, max_iter=20_000, tol=1e-4).fit(X, y, groups=groups)))[0]
        for solver in ("lbfgs", "newton-cg", "gd")
    ]
    assert_allclose(values, min(values), rtol=1e-6)


def test_hinge_keeps_the_best_iterate():
    X, y, groups = make_tasks()
    model = MAMLSVC(loss="hinge", algorithm="maml", max_iter=5000).fit(X, y, groups=groups)
    truth = Reference(X, y, groups, loss="hinge")
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


@pytest.mark.parametrize("loss", ["squared_hinge", "smooth_hinge"])
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
    settings = {"loss": loss, "solver": "gd", "max_iter": 30, "tol": 0.0, "C": 0.3}
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
    for rows in np.array_split(np.random.default_rng(0).permutation(400), 40):
        model.partial_fit(X[rows], y[rows], groups=groups[rows], classes=[-1, 1])
    expected = MAMLSVC(tol=1e-3).fit(X, y, groups=groups)
    assert model.score(X, y) > expected.score(X, y) - 0.05 > 0.6


@pytest.mark.parametrize("loss", ["squared_hinge", "smooth_hinge"])
def test_warm_start(loss):
    X, y, groups = make_tasks()
    model = MAMLSVC(loss=loss, algorithm="maml", solver="gd", warm_start=True, max_iter=10, meta_step_size=0.1)
    for n in (1, 2):
        with pytest.warns(ConvergenceWarning):
            model.fit(X, y, groups=groups)
        w = descend(Reference(X, y, groups, loss=loss), np.zeros(5), 0.1, 10 * n)[0]
        assert_allclose(parameters(model), w, rtol=1e-9, atol=1e-11)
    coef = model.coef_
    for labels in (np.where(y > 0, 7, 5), np.arange(len(y)) % 3):
        with pytest.raises(ValueError, match="warm_start"):
            model.fit(X, labels, groups=groups)
    assert_array_equal(model.coef_, coef)
    assert_array_equal(model.classes_, [-1, 1])
