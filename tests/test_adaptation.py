"""`adapt`, the method and the function: explicit and implicit steps, by hand and through other estimators."""

import copy
import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from scipy.optimize import root
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from sklearn_maml import MAMLSVC, MAMLRegressor, adapt

RNG = np.random.default_rng(0)
GROUPS = RNG.permutation(np.repeat(np.arange(4), [9, 3, 20, 8]))
X = RNG.normal(size=(40, 3)) + RNG.normal(size=(4, 3))[GROUPS]
TARGETS = {
    "1-d": X @ [1.0, 2, -1] + 2 * GROUPS + RNG.normal(size=40),
    "2-d": X @ RNG.normal(size=(3, 2)) + 2 * GROUPS[:, None] + RNG.normal(size=(40, 2)),
    "two classes": np.where(X @ [1.0, 2, -1] + GROUPS + RNG.normal(size=40) > 2, "yes", "no"),
    "three classes": (X @ RNG.normal(size=(3, 3)) + RNG.normal(size=(40, 3))).argmax(axis=1),
}
REGRESSION = ["1-d", "2-d"]


def make_tasks(m, n=20, d=3, k=None, seed=0, noise=1.0, sizes=None):
    """Draws of the model of random coefficients: every parameter differs between tasks."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(m), n if sizes is None else sizes))
    Z = 1.0 + rng.normal(size=(len(groups), d)) * np.linspace(0.7, 1.5, d)
    spread = np.linspace(0.5, 1.0, d + 1)[:, None]
    W = rng.normal(size=(d + 1, k or 1)) + spread * rng.normal(size=(m, d + 1, k or 1))
    T = np.einsum("nd,ndk->nk", np.column_stack([Z, np.ones(len(Z))]), W[groups])
    T = T + noise * rng.normal(size=T.shape)
    return Z, T if k else T[:, 0], groups


def make(target, **params):
    if target in REGRESSION:
        return MAMLRegressor(**params)
    return MAMLSVC(**{"loss": "smooth_hinge", "tol": 0.03} | params)


@cache
def fitted(target, step, intercept=True):
    """One fit for whatever adaptation: `adapt` starts from its parameters, wherever they come from."""
    params = {"l2_regularization": 0.2} if target in REGRESSION else {"C": 0.3}
    params |= STEPS[step]
    if step == "array":
        params["inner_step_size"] = params["inner_step_size"][: 3 + intercept]
    return make(target, fit_intercept=intercept, **params).fit(X, TARGETS[target], groups=GROUPS)


def prepared(target, step, intercept=True, **params):
    return copy.copy(fitted(target, step, intercept)).set_params(**params)


def snapshot(estimator):
    return copy.deepcopy(vars(estimator))


def encode(model, y):
    """Targets, (n, k): of classifiers -1 and 1."""
    if not hasattr(model, "classes_"):
        return np.reshape(y, (len(y), -1))
    labels = model.classes_[1:] if len(model.classes_) == 2 else model.classes_
    return np.array([[1.0 if i == label else -1.0 for label in labels] for i in y])


def parameters(coef, intercept, fit_intercept=True):
    """Shape (d, k), the intercept last."""
    W = np.atleast_2d(coef)
    return (np.column_stack([W, np.atleast_1d(intercept)]) if fit_intercept else W).T


def slope(model, y, z):
    """Derivative of the pointwise loss, by the textbook."""
    if isinstance(model, MAMLRegressor):
        return 2 * (z - y)
    if model.loss == "hinge":
        return -y * (y * z < 1)
    if model.loss == "squared_hinge":
        return -2 * y * max(0, 1 - y * z)
    return -y / (1 + np.exp((y * z - 1) / 0.1))


def design(model, X):
    return np.column_stack([X, np.ones(len(X))]) if model.fit_intercept else X


def gradient(model, W, X, Y, weight):
    """grad f of one task, by the textbook."""
    s, Z = weight / weight.sum(), design(model, X)
    G = penalty(model) @ W
    for i in range(len(Z)):
        for k in range(W.shape[1]):
            G[:, k] += s[i] * slope(model, Y[i, k], Z[i] @ W[:, k]) * Z[i]
    return G


def penalty(model):
    l2 = model.l2_regularization_ * np.ones(model.n_features_in_)
    return np.diag(np.r_[l2, 0.0] if model.fit_intercept else l2)


def learned(model):
    """Covariance of the tasks' parameters in units of the noise; the outputs share it."""
    d = model.task_covariance_.shape[-1]
    return model.task_covariance_.reshape(-1, d, d)[0] / np.ravel(model.noise_variance_)[0]


def largest_eigenvalue(A):
    return np.max(np.linalg.eigvals(A).real)


def reach(model, X, weight, G=None):
    """The matrix A of a step from these rows, as in the Notes of MAMLRegressor; `G` in place of what fit learned."""
    if not isinstance(model.inner_step_size, str):
        d = X.shape[1] + model.fit_intercept
        return np.diag(np.broadcast_to(model.inner_step_size, d))
    curvature = slope(model, 1.0, 1.0) - slope(model, 1.0, 0.0)  # of the parabola with the slopes at 0 and at y
    A = weight.sum() / curvature * (learned(model) if G is None else G)
    if model.adaptation == "gradient":
        Z = design(model, X)
        H = curvature * (Z.T * weight) @ Z / weight.sum()
        A = A / (1 + largest_eigenvalue(A @ H) + largest_eigenvalue(A @ penalty(model)))
    return A


def adapted_by_hand(model, X, y, weight=None, W=None, G=None):
    weight = np.ones(len(X)) if weight is None else weight
    Y = encode(model, y)
    W = parameters(model.coef_, model.intercept_, model.fit_intercept) if W is None else W
    A = reach(model, X, weight, G)
    for _ in range(model.n_inner_steps):
        if model.adaptation == "gradient":
            W = W - A @ gradient(model, W, X, Y, weight)
        else:
            W = implicit_step(model, W, A, X, Y, weight)
    return W


def implicit_step(model, W, A, X, Y, weight):
    """The root of w' - w + A grad f(w')."""
    if isinstance(model, MAMLRegressor):
        H = penalty(model) + 2 * (design(model, X).T * weight) @ design(model, X) / weight.sum()
        return W - np.linalg.solve(np.eye(len(A)) + A @ H, A @ gradient(model, W, X, Y, weight))
    columns = []
    for k in range(W.shape[1]):

        def residual(w, k=k):
            return w - W[:, k] + A @ gradient(model, w[:, None], X, Y[:, [k]], weight)[:, 0]

        found = root(residual, W[:, k], method="hybr", tol=1e-14)
        assert np.linalg.norm(residual(found.x)) < 1e-12 * (1 + np.linalg.norm(residual(W[:, k])))
        columns.append(found.x)
    return np.column_stack(columns)


STEPS = {
    "float": {"inner_step_size": 0.03},
    "array": {"inner_step_size": np.array([0.01, 0.05, 0.0, 0.03])},
    "learned": {},
    "full": {"metric": "full"},
}
ADAPTATIONS = ["gradient", "implicit"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("K", [1, 3])
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_formula(target, step, K, adaptation):
    y = TARGETS[target]
    model = prepared(target, step, adaptation=adaptation, n_inner_steps=K)
    rtol = 1e-10 if adaptation == "gradient" or target in REGRESSION else 1e-8
    before = snapshot(model)
    for rows in ([0], [3, 1], np.arange(9), GROUPS == 2):
        adapted = model.adapt(X[rows], y[rows])
        W = adapted_by_hand(model, X[rows], y[rows])
        assert type(adapted) is type(model)
        assert adapted is not model
        assert_allclose(parameters(adapted.coef_, adapted.intercept_), W, rtol=rtol, atol=1e-2 * rtol)
        assert np.any(adapted.coef_ != model.coef_)
        assert adapted.coef_.shape == model.coef_.shape
        assert np.shape(adapted.intercept_) == np.shape(model.intercept_)
        z = adapted.predict(X) if target in REGRESSION else adapted.decision_function(X)
        assert_allclose(z.reshape(40, -1), np.column_stack([X, np.ones(40)]) @ W, rtol=10 * rtol, atol=rtol)
    assert same(vars(model), before)


@pytest.mark.parametrize(
    ("loss", "adaptation"),
    [*((loss, "gradient") for loss in ("hinge", "squared_hinge", "smooth_hinge")), ("squared_hinge", "implicit")],
)
@pytest.mark.parametrize("intercept", [True, False])
def test_formula_of_the_losses(loss, intercept, adaptation):
    y = TARGETS["two classes"]
    model = MAMLSVC(loss=loss, n_inner_steps=2, fit_intercept=intercept, tol=1e-3, C=0.1, adaptation=adaptation)
    model.fit(X, y, groups=GROUPS)
    for rows in ([0], np.arange(9), y == "yes"):
        adapted = model.adapt(X[rows], y[rows])
        W = adapted_by_hand(model, X[rows], y[rows])
        assert_allclose(parameters(adapted.coef_, adapted.intercept_, intercept), W, rtol=1e-9, atol=1e-11)


def test_auto_step_sizes():
    """Each task's own multiple of what was learned: K / 2 for K rows; explicit steps are bounded by their curvature."""
    y = TARGETS["1-d"]
    model = MAMLRegressor(l2_regularization=0.3).fit(X, y, groups=GROUPS)
    implicit = MAMLRegressor(l2_regularization=0.3, adaptation="implicit").fit(X, y, groups=GROUPS)
    for rows in (np.arange(2), np.arange(30)):
        weight = np.linspace(1, 2, len(rows))
        factor = reach(model, X[rows], weight)[3, 3] / learned(model)[3, 3]
        assert_allclose(model.adapt(X[rows], y[rows], sample_weight=weight).inner_step_size_, factor, rtol=1e-10)
        assert factor < weight.sum() / 2
        factor = weight.sum() / 2
        assert_allclose(implicit.adapt(X[rows], y[rows], sample_weight=weight).inner_step_size_, factor, rtol=1e-12)
    by_task = model.adapt(X, y, groups=GROUPS)
    assert by_task.inner_step_size_.shape == (4,)
    assert_allclose(by_task.inner_step_size_[2], model.adapt(X[GROUPS == 2], y[GROUPS == 2]).inner_step_size_)
    assert_allclose(implicit.adapt(X, y, groups=GROUPS).inner_step_size_, np.bincount(GROUPS) / 2, rtol=1e-12)
    assert_array_equal(implicit.inner_step_size_, 0.5)  # training reckons with one row
    factors = [reach(model, X[i == GROUPS], np.ones(np.sum(i == GROUPS))) for i in range(4)]
    assert np.all(model.inner_step_size_ < 0.5)
    assert np.all(model.inner_step_size_ < [A[3, 3] / learned(model)[3, 3] for A in factors])
    number = MAMLRegressor(inner_step_size=0.01).fit(X, y, groups=GROUPS)
    assert number.adapt(X, y).inner_step_size_ == 0.01


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_auto_with_nothing_learned_is_half_the_inverse_curvature_of_the_support(adaptation):
    y, one = TARGETS["1-d"], np.zeros(40)
    model = MAMLRegressor(l2_regularization=0.3, adaptation=adaptation, n_inner_steps=2).fit(X, y, groups=one)
    assert model.task_covariance_ is None
    for rows in ([4], np.arange(2), np.arange(30)):
        Z = design(model, X[rows])
        L = np.linalg.eigvalsh(2 * Z.T @ Z / len(rows))[-1] + 0.3
        adapted = model.adapt(X[rows], y[rows])
        assert_allclose(adapted.inner_step_size_, 1 / (2 * L), rtol=1e-10)
        model.inner_step_size = 1 / (2 * L)
        W = adapted_by_hand(model, X[rows], y[rows])
        model.inner_step_size = "auto"
        assert_allclose(parameters(adapted.coef_, adapted.intercept_), W, rtol=1e-10)
        assert adapted.task_covariance_ is None


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_many_steps_arrive_at_the_tasks_own_minimiser(step, adaptation):
    Z, y, groups = make_tasks(40)
    rows = groups == 2
    params = STEPS[step] if step != "array" else {"inner_step_size": np.array([0.01, 0.05, 0.02, 0.03])}
    model = MAMLRegressor(l2_regularization=0.1, adaptation=adaptation, **params).fit(Z, y, groups=groups)
    own = Ridge(alpha=20 * 0.1 / 2).fit(Z[rows], y[rows])
    adapted = model.set_params(n_inner_steps=3000).adapt(Z[rows], y[rows])
    assert_allclose(adapted.coef_, own.coef_, rtol=1e-6)
    assert_allclose(adapted.intercept_, own.intercept_, rtol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_no_steps_leave_the_parameters(target):
    y = TARGETS[target]
    model = make(target, n_inner_steps=0).fit(X, y, groups=GROUPS)
    one, tasks = model.adapt(X[:5], y[:5]), model.adapt(X, y, groups=GROUPS)
    assert_array_equal(one.coef_, model.coef_)
    assert_array_equal(one.intercept_, model.intercept_)
    assert_array_equal(tasks.task_coef_, np.broadcast_to(model.coef_, (4, *model.coef_.shape)))
    assert_array_equal(tasks.task_intercept_, np.broadcast_to(model.intercept_, (4, *np.shape(model.intercept_))))
    if target in REGRESSION:
        assert_allclose(tasks.predict(X, groups=GROUPS), model.predict(X), rtol=1e-12)
    else:
        assert_allclose(tasks.decision_function(X, groups=GROUPS), model.decision_function(X), rtol=1e-10, atol=1e-12)
    zero = model.set_params(n_inner_steps=3, inner_step_size=0.0).adapt(X[:5], y[:5])
    assert_array_equal(zero.coef_, model.coef_)


def test_an_adapted_estimator_shares_no_state_that_changes():
    y = TARGETS["1-d"]
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    adapted = model.adapt(X[:5], y[:5])
    coef = adapted.coef_.copy()
    model.fit(X, -y, groups=GROUPS)
    assert_array_equal(adapted.coef_, coef)
    before = snapshot(model)
    adapted.set_params(tol=1.0, algorithm="maml", init=np.ones(4)).fit(X, 2 * y, groups=GROUPS)
    assert same(vars(model), before)
    assert model.tol == 1e-6


# Many tasks


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("step", "intercept", "convert"),
    [
        ("float", True, sparse.csr_array),
        ("array", False, np.asarray),
        ("learned", True, np.asarray),
        ("full", False, sparse.csr_array),
    ],
)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_groups_are_a_loop_over_tasks(target, step, intercept, convert, adaptation):
    y, weight = TARGETS[target], np.linspace(0.5, 2, 40)
    model = prepared(target, step, intercept, adaptation=adaptation, n_inner_steps=2)
    rtol = 1e-10 if adaptation == "gradient" or target in REGRESSION else 1e-8
    before = snapshot(model)
    labels = np.array(["d", "b", "a", "c"])[GROUPS]
    adapted = model.adapt(convert(X), y, groups=labels, sample_weight=weight)
    assert same(vars(model), before)
    assert adapted.tasks_.tolist() == ["a", "b", "c", "d"]
    assert adapted.task_coef_.shape == (4, *model.coef_.shape)
    assert adapted.task_intercept_.shape == (4, *np.shape(model.intercept_))
    assert_array_equal(adapted.coef_, model.coef_)
    assert_array_equal(adapted.intercept_, model.intercept_)
    predicted = adapted.predict(convert(X), groups=labels)
    for i, task in enumerate(adapted.tasks_):
        rows = labels == task
        one = model.adapt(X[rows], y[rows], sample_weight=weight[rows])
        assert_allclose(adapted.task_coef_[i], one.coef_, rtol=rtol, atol=1e-2 * rtol)
        assert_allclose(adapted.task_intercept_[i], one.intercept_, rtol=rtol, atol=1e-2 * rtol)
        W = adapted_by_hand(model, X[rows], y[rows], weight[rows])
        assert_allclose(
            parameters(adapted.task_coef_[i], adapted.task_intercept_[i], intercept), W, rtol=10 * rtol, atol=rtol
        )
        if target in REGRESSION:
            assert_allclose(predicted[rows], one.predict(X[rows]), rtol=1e-9)
        else:
            assert_array_equal(predicted[rows], one.predict(X[rows]))
            decision = adapted.decision_function(convert(X), groups=labels)
            assert_allclose(decision[rows], one.decision_function(X[rows]), rtol=10 * rtol, atol=rtol)


@pytest.mark.parametrize(
    ("target", "coef", "intercept"),
    [
        ("1-d", (4, 3), (4,)),
        ("2-d", (4, 2, 3), (4, 2)),
        ("two classes", (4, 1, 3), (4, 1)),
        ("three classes", (4, 3, 3), (4, 3)),
    ],
)
def test_shapes(target, coef, intercept):
    y = TARGETS[target]
    model = make(target).fit(X, y, groups=GROUPS)
    adapted = model.adapt(X, y, groups=GROUPS)
    assert adapted.task_coef_.shape == coef
    assert adapted.task_intercept_.shape == intercept
    assert_array_equal(adapted.tasks_, np.arange(4))
    for name in ("tasks_", "task_coef_", "task_intercept_"):
        assert not hasattr(model, name)
        assert not hasattr(model.adapt(X, y), name)
    assert (
        make(target, fit_intercept=False).fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS).task_intercept_.tolist()
        == np.zeros(intercept).tolist()
    )


FURTHER = [
    *((target, step, "gradient") for target in TARGETS for step in ("float", "learned")),
    *((target, step, "implicit") for target in REGRESSION for step in STEPS),
    ("two classes", "float", "implicit"),
]


def left_over(model, X):
    """What is left of G after rows of one task, if what is learned of it is kept; otherwise None, for G as it was."""
    if model.adaptation == "gradient" or not isinstance(model.inner_step_size, str):
        return None
    G, Z = learned(model), design(model, X)
    return G - G @ Z.T @ np.linalg.solve(np.eye(len(Z)) + Z @ G @ Z.T, Z @ G)


@pytest.mark.parametrize(("target", "step", "adaptation"), FURTHER)
def test_adapt_further_without_groups(target, step, adaptation):
    y = TARGETS[target]
    once = make(target, adaptation=adaptation, n_inner_steps=1, **STEPS[step])
    model = once.fit(X, y, groups=GROUPS)
    rows, other = np.arange(6), np.arange(6, 16)
    if left_over(model, X[rows]) is None:  # two steps on the same rows
        further = model.adapt(X[rows], y[rows]).adapt(X[rows], y[rows])
        expected = copy.copy(model).set_params(n_inner_steps=2).adapt(X[rows], y[rows])
        assert_allclose(further.coef_, expected.coef_, rtol=1e-8, atol=1e-10)
        assert_allclose(further.intercept_, expected.intercept_, rtol=1e-8, atol=1e-10)
    further = model.adapt(X[rows], y[rows]).adapt(X[other], y[other])
    W, G = adapted_by_hand(model, X[rows], y[rows]), left_over(model, X[rows])
    W = adapted_by_hand(model, X[other], y[other], W=W, G=G)
    assert_allclose(parameters(further.coef_, further.intercept_), W, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(("target", "step", "adaptation"), FURTHER)
def test_adapt_further_with_groups(target, step, adaptation):
    """Tasks that were adapted to go on from where they stand, new ones from the initialisation; all are kept."""
    y = TARGETS[target]
    model = make(target, adaptation=adaptation, **STEPS[step]).fit(X, y, groups=GROUPS)
    labels = np.array(["d", "b", "a", "c"])[GROUPS]
    first = np.isin(labels, ["a", "d"])
    second = np.isin(labels, ["b", "d"])
    one = model.adapt(X[first], y[first], groups=labels[first])
    before = snapshot(one)
    two = one.adapt(X[second], y[second], groups=labels[second])
    assert same(vars(one), before)
    assert one.tasks_.tolist() == ["a", "d"]
    assert two.tasks_.tolist() == ["a", "b", "d"]
    rows = {task: labels == task for task in "abcd"}
    W = {task: adapted_by_hand(model, X[rows[task]], y[rows[task]]) for task in "abd"}
    W["d"] = adapted_by_hand(model, X[rows["d"]], y[rows["d"]], W=W["d"], G=left_over(model, X[rows["d"]]))
    for i, task in enumerate("abd"):
        assert_allclose(parameters(two.task_coef_[i], two.task_intercept_[i]), W[task], rtol=1e-8, atol=1e-10)
    assert_array_equal(two.coef_, model.coef_)
    assert_array_equal(two.predict(X, groups=labels)[rows["c"]], model.predict(X[rows["c"]]))
    three = two.adapt(X[rows["c"]], y[rows["c"]], groups=labels[rows["c"]])
    assert three.tasks_.tolist() == ["a", "b", "c", "d"]
    assert_array_equal(three.task_coef_[[0, 1, 3]], two.task_coef_)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_without_groups_after_groups_is_one_task_from_the_initialisation(step, adaptation):
    y = TARGETS["1-d"]
    model = MAMLRegressor(adaptation=adaptation, **STEPS[step]).fit(X, y, groups=GROUPS)
    one = model.adapt(X, y, groups=GROUPS).adapt(X[:5], y[:5])
    assert_allclose(one.coef_, model.adapt(X[:5], y[:5]).coef_, rtol=1e-12)
    assert not hasattr(one, "tasks_")
    assert_array_equal(one.predict(X, groups=GROUPS), one.predict(X))
    # and with groups after one task: from that task's parameters
    after = model.adapt(X[:5], y[:5]).adapt(X, y, groups=GROUPS)
    W, G = adapted_by_hand(model, X[:5], y[:5]), left_over(model, X[:5])
    for i in range(4):
        rows = i == GROUPS
        expected = adapted_by_hand(model, X[rows], y[rows], W=W, G=G)
        assert_allclose(parameters(after.task_coef_[i], after.task_intercept_[i]), expected, rtol=1e-8)


def test_adapting_again_with_ids_of_another_kind_is_an_error():
    y = TARGETS["1-d"]
    model = MAMLRegressor().fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS)
    before = snapshot(model)
    with pytest.raises(ValueError, match="groups holds ids of type"):
        model.adapt(X, y, groups=GROUPS.astype(str))
    assert same(vars(model), before)
    assert_array_equal(model.adapt(X, y, groups=GROUPS.astype(float)).tasks_, np.arange(4))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", ["float", "learned"])
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_weights_are_repetition(target, step, adaptation):
    y = TARGETS[target]
    weight = np.random.default_rng(0).integers(0, 4, size=40)
    weight[GROUPS == 1] = 0
    rows = np.repeat(np.arange(40), weight)
    model = prepared(target, step, n_inner_steps=3, adaptation=adaptation)
    atol = 1e-10 if adaptation == "gradient" or target in REGRESSION else 1e-8
    for groups in (None, GROUPS):
        a = model.adapt(X, y, groups=groups, sample_weight=weight)
        b = model.adapt(X[rows], y[rows], groups=None if groups is None else groups[rows])
        names = ["coef_", "intercept_"] if groups is None else ["task_coef_", "task_intercept_", "tasks_"]
        for name in names:
            assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=atol)
        unweighted = model.adapt(X, y, groups=groups)
        assert np.shape(getattr(unweighted, names[0])) != np.shape(getattr(a, names[0])) or np.any(
            np.abs(getattr(unweighted, names[0]) - getattr(a, names[0])) > 1e-3
        )
    assert a.tasks_.tolist() == [0, 2, 3]
    seven, repeated = model.adapt(X, y, sample_weight=7), model.adapt(np.tile(X, (7, 1)), np.concatenate([y] * 7))
    assert_allclose(seven.coef_, repeated.coef_, rtol=0, atol=atol)
    if step == "float":
        assert_allclose(seven.coef_, model.adapt(X, y).coef_, rtol=0, atol=atol)
    else:  # more rows are more to go by
        assert np.max(np.abs(seven.coef_ - model.adapt(X, y).coef_)) > 1e-6


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_order_of_rows_and_labels_of_tasks_do_not_matter(step, adaptation):
    y = TARGETS["1-d"]
    model = MAMLRegressor(adaptation=adaptation, **STEPS[step]).fit(X, y, groups=GROUPS)
    expected = model.adapt(X, y, groups=GROUPS).predict(X, groups=GROUPS)
    rows, names = np.random.default_rng(0).permutation(40), np.array([7, 2, 5, 3])
    shuffled = model.adapt(X[rows], y[rows], groups=names[GROUPS[rows]])
    assert_allclose(shuffled.predict(X, groups=names[GROUPS]), expected, rtol=1e-10)


@pytest.mark.parametrize("adaptation", ADAPTATIONS)
def test_twenty_thousand_tasks(adaptation):
    rng = np.random.default_rng(0)
    m, n, d = 20_000, 5, 20
    Z, y, groups = rng.normal(size=(m * n, d)), rng.normal(size=m * n), rng.permutation(np.repeat(np.arange(m), n))
    train = groups < 100
    model = MAMLRegressor(n_inner_steps=2, adaptation=adaptation).fit(Z[train], y[train], groups=groups[train])
    adapted = model.adapt(Z, y, groups=groups)
    predicted = adapted.predict(Z, groups=groups)
    assert adapted.task_coef_.shape == (m, d)
    for task in (0, 1, 777, 12_345, m - 1):
        rows = groups == task
        one = model.adapt(Z[rows], y[rows])
        assert adapted.tasks_[task] == task
        assert_allclose(adapted.task_coef_[task], one.coef_, rtol=1e-9, atol=1e-12)
        assert_allclose(adapted.task_intercept_[task], one.intercept_, rtol=1e-9, atol=1e-12)
        assert_allclose(predicted[rows], one.predict(Z[rows]), rtol=1e-9)
        W = adapted_by_hand(model, Z[rows], y[rows])
        assert_allclose(np.r_[one.coef_, one.intercept_], W[:, 0], rtol=1e-9, atol=1e-12)


# The learned metric: the model of random coefficients

INTERCEPT = [True, False]
METRICS = ["diag", "full"]


def prior_of(model):
    """S (k, d, d) and s2 (k,), whatever the number of outputs."""
    S = model.task_covariance_
    return S.reshape(-1, *S.shape[-2:]), np.ravel(model.noise_variance_)


def blup(model, Z, T, weight=None, W=None, S=None):
    """w + S Z'(Z S Z' + s2 I)^-1 (y - Z w), output by output, and what is left of S; a weight divides s2."""
    W = parameters(model.coef_, model.intercept_, model.fit_intercept) if W is None else W
    (known, noise), Z, T = prior_of(model), design(model, Z), T.reshape(len(Z), -1)
    S = known if S is None else S
    weight = np.ones(len(Z)) if weight is None else weight
    columns, left = [], []
    for k in range(T.shape[1]):
        gain = S[k] @ Z.T @ np.linalg.inv(Z @ S[k] @ Z.T + np.diag(noise[k] / weight))
        columns.append(W[:, k] + gain @ (T[:, k] - Z @ W[:, k]))
        left.append(S[k] - gain @ Z @ S[k])
    return np.column_stack(columns), np.array(left)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fit_intercept", INTERCEPT)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_one_implicit_step_is_the_blup(metric, fit_intercept, k, weighted):
    Z, T, groups = make_tasks(30, n=10, k=k)
    model = MAMLRegressor(adaptation="implicit", metric=metric, fit_intercept=fit_intercept).fit(Z, T, groups=groups)
    S, _ = prior_of(model)
    assert np.all(np.diagonal(S, axis1=1, axis2=2) > 0.01)
    new, target, tasks = make_tasks(6, k=k, seed=1, sizes=[1, 2, 3, 5, 8, 40])
    weight = np.random.default_rng(0).uniform(0.2, 3, size=len(new)) if weighted else None
    by_task = model.adapt(new, target, groups=tasks, sample_weight=weight)
    for i in range(6):
        rows = tasks == i
        w = None if weight is None else weight[rows]
        W, left = blup(model, new[rows], target[rows], w)
        one = model.adapt(new[rows], target[rows], sample_weight=w)
        assert_allclose(parameters(one.coef_, one.intercept_, fit_intercept), W, rtol=1e-9, atol=1e-10)
        assert_allclose(prior_of(one)[0], left, rtol=1e-8, atol=1e-10)
        assert_array_equal(one.noise_variance_, model.noise_variance_)
        found = parameters(by_task.task_coef_[i], by_task.task_intercept_[i], fit_intercept)
        assert_allclose(found, W, rtol=1e-9, atol=1e-10)
    assert_array_equal(by_task.task_covariance_, model.task_covariance_)  # that of a task without rows


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fit_intercept", INTERCEPT)
def test_one_explicit_step_is_as_noted(metric, fit_intercept):
    """w - S grad f / (2 s2 / K + lambda_max(S^1/2 H S^1/2)), K the total weight."""
    Z, T, groups = make_tasks(30, n=10, k=2)
    model = MAMLRegressor(metric=metric, fit_intercept=fit_intercept).fit(Z, T, groups=groups)
    S, noise = (numbers[0] for numbers in prior_of(model))
    values, Q = np.linalg.eigh(S)
    root = Q @ np.diag(np.sqrt(values.clip(0))) @ Q.T
    W = parameters(model.coef_, model.intercept_, fit_intercept)
    for rows in (groups == 3, np.arange(2), np.arange(1)):
        weight = np.linspace(0.5, 2, len(Z[rows]))
        D = design(model, Z[rows])
        H = 2 * (D.T * weight) @ D / weight.sum()
        G = H @ W - 2 * (D.T * weight) @ T[rows] / weight.sum()
        expected = W - S @ G / (2 * noise / weight.sum() + np.linalg.eigvalsh(root @ H @ root)[-1])
        one = model.adapt(Z[rows], T[rows], sample_weight=weight)
        assert_allclose(parameters(one.coef_, one.intercept_, fit_intercept), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [None, 2])
def test_from_one_row_both_adaptations_are_the_blup(metric, k):
    Z, T, groups = make_tasks(20, n=8, k=k)
    model = MAMLRegressor(metric=metric).fit(Z, T, groups=groups)
    for row in range(3):
        W, _ = blup(model, Z[[row]], T[[row]])
        for adaptation in ADAPTATIONS:
            one = copy.copy(model).set_params(adaptation=adaptation).adapt(Z[[row]], T[[row]])
            assert_allclose(parameters(one.coef_, one.intercept_), W, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("metric", METRICS)
def test_from_very_many_rows_an_implicit_step_is_least_squares(metric):
    Z, T, groups = make_tasks(40, n=10, k=2)
    model = MAMLRegressor(metric=metric, adaptation="implicit").fit(Z, T, groups=groups)
    rows = groups == 1
    own = LinearRegression().fit(Z[rows], T[rows])
    adapted = model.adapt(Z[rows], T[rows], sample_weight=1e8)  # every row a hundred million times
    assert_allclose(adapted.coef_, own.coef_, rtol=1e-5)
    assert_allclose(adapted.intercept_, own.intercept_, rtol=1e-5)
    assert np.max(np.abs(adapted.task_covariance_)) < 1e-5


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [None, 2])
def test_adapting_twice_is_adapting_to_all_rows(metric, k):
    Z, T, groups = make_tasks(20, n=12, k=k)
    model = MAMLRegressor(metric=metric, adaptation="implicit").fit(Z, T, groups=groups)
    new, target, tasks = make_tasks(5, n=6, k=k, seed=1)
    weight = np.random.default_rng(0).uniform(0.3, 2, size=30)
    first, second, third = np.array_split(np.random.default_rng(1).permutation(30), 3)

    def check(model, expected, **groups):
        assert_allclose(model.predict(new, **groups), expected.predict(new, **groups), rtol=1e-8, atol=1e-10)
        std, expected_std = (m.predict(new, **groups, return_std=True)[1] for m in (model, expected))
        assert_allclose(std, expected_std, rtol=1e-8)

    bit_by_bit = model
    for rows in (first, second, third):
        before = snapshot(bit_by_bit)
        further = bit_by_bit.adapt(new[rows], target[rows], sample_weight=weight[rows])
        assert further is not bit_by_bit
        assert same(vars(bit_by_bit), before)
        bit_by_bit = further
    at_once = model.adapt(new, target, sample_weight=weight)
    check(bit_by_bit, at_once)
    assert_allclose(bit_by_bit.task_covariance_, at_once.task_covariance_, rtol=1e-7, atol=1e-10)
    # with groups: some tasks known before, some new
    bit_by_bit, at_once = model, model.adapt(new, target, groups=tasks, sample_weight=weight)
    part = np.where(
        tasks < 2, 0, np.where(tasks < 3, 1, np.arange(30) % 2)
    )  # 0 and 1 at first, 2 later, others in both
    for rows in (part == 0, part == 1):
        before = snapshot(bit_by_bit)
        further = bit_by_bit.adapt(new[rows], target[rows], groups=tasks[rows], sample_weight=weight[rows])
        assert same(vars(bit_by_bit), before)
        bit_by_bit = further
    assert bit_by_bit.tasks_.tolist() == at_once.tasks_.tolist()
    assert_allclose(bit_by_bit.task_coef_, at_once.task_coef_, rtol=1e-8, atol=1e-10)
    assert_allclose(bit_by_bit.task_intercept_, at_once.task_intercept_, rtol=1e-8, atol=1e-10)
    check(bit_by_bit, at_once, groups=tasks)
    check(bit_by_bit, at_once, groups=tasks + 3)  # of which three are unknown
    # first one task without groups, then many that start from it
    one, rest = np.arange(4), np.arange(4, 30)
    started = model.adapt(new[one], target[one]).adapt(new[rest], target[rest], groups=tasks[rest])
    for i in range(5):
        rows = np.r_[one, rest[tasks[rest] == i]]
        check(started, model.adapt(new, target, groups=np.where(np.isin(np.arange(30), rows), i, 99)), groups=[i] * 30)


# Uncertainty


def std_by_hand(model, Z, C):
    """sqrt(s2 + x'Cx), row by row and output by output, of the shape of the prediction."""
    _, noise = prior_of(model)
    D = design(model, Z)
    std = np.array([[np.sqrt(noise[k] + x @ C[k] @ x) for k in range(len(noise))] for x in D])
    return std if np.ndim(model.noise_variance_) else std[:, 0]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("fit_intercept", INTERCEPT)
@pytest.mark.parametrize("k", [None, 2])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_predictive_std(metric, fit_intercept, k, convert):
    Z, T, groups = make_tasks(30, n=10, k=k)
    model = MAMLRegressor(adaptation="implicit", metric=metric, fit_intercept=fit_intercept).fit(Z, T, groups=groups)
    new, target, tasks = make_tasks(4, k=k, seed=1, sizes=[1, 3, 6, 10])
    y_pred, y_std = model.predict(convert(new), return_std=True)
    assert_array_equal(y_pred, model.predict(convert(new)))
    assert y_std.shape == y_pred.shape == target.shape
    prior, _ = prior_of(model)
    assert_allclose(y_std, std_by_hand(model, new, prior), rtol=1e-10)
    for groups_ in (tasks, np.full(len(new), "unknown")):
        assert_array_equal(model.predict(convert(new), groups=groups_, return_std=True)[1], y_std)
    some = tasks != 2
    adapted = model.adapt(convert(new)[some], target[some], groups=tasks[some])
    y_pred, y_std = adapted.predict(convert(new), groups=tasks, return_std=True)
    assert_array_equal(y_pred, adapted.predict(convert(new), groups=tasks))
    for i in range(4):
        rows = tasks == i
        _, left = blup(model, new[rows], target[rows])
        expected = std_by_hand(model, new[rows], prior if i == 2 else left)
        assert_allclose(y_std[rows], expected, rtol=1e-8)
        if i != 2:
            one = model.adapt(convert(new)[rows], target[rows])
            assert_allclose(one.predict(convert(new)[rows], return_std=True)[1], expected, rtol=1e-8)
            assert_allclose(one.predict(convert(new)[rows], tasks[rows], return_std=True)[1], expected, rtol=1e-8)
    assert_allclose(adapted.predict(convert(new), return_std=True)[1], std_by_hand(model, new, prior), rtol=1e-10)


def test_predictive_std_of_one_column():
    Z, T, groups = make_tasks(20, n=8, k=1)
    model = MAMLRegressor(adaptation="implicit").fit(Z, T, groups=groups)
    flat = MAMLRegressor(adaptation="implicit").fit(Z, T[:, 0], groups=groups)
    for column, plain in ((model, flat), (model.adapt(Z, T, groups=groups), flat.adapt(Z, T[:, 0], groups=groups))):
        y_pred, y_std = column.predict(Z, groups=groups, return_std=True)
        assert y_std.shape == y_pred.shape == (160, 1)
        assert_allclose(y_std[:, 0], plain.predict(Z, groups=groups, return_std=True)[1], rtol=1e-12)


def test_predictive_std_of_float32():
    Z, T, groups = make_tasks(20, n=8)
    model = MAMLRegressor(adaptation="implicit").fit(Z.astype(np.float32), T.astype(np.float32), groups=groups)
    expected = MAMLRegressor(adaptation="implicit").fit(Z, T, groups=groups)
    for one, other in ((model, expected), (model.adapt(Z, T), expected.adapt(Z, T))):
        y_std = one.predict(Z.astype(np.float32), return_std=True)[1]
        assert y_std.dtype == np.float32
        assert_allclose(y_std, other.predict(Z, return_std=True)[1], rtol=1e-4)
    by_task = model.adapt(Z, T, groups=groups).predict(Z, groups=groups, return_std=True)[1]
    assert_allclose(by_task, expected.adapt(Z, T, groups).predict(Z, groups, return_std=True)[1], rtol=1e-4)


def test_predictive_std_does_not_grow_with_rows():
    Z, T, groups = make_tasks(20, n=8)
    model = MAMLRegressor(adaptation="implicit", metric="full").fit(Z, T, groups=groups)
    new, target, _ = make_tasks(1, n=25, seed=1)
    former = model.predict(Z, return_std=True)[1]
    for n in range(1, 26):
        y_std = model.adapt(new[:n], target[:n]).predict(Z, return_std=True)[1]
        assert np.all(y_std <= former * (1 + 1e-10))
        former = y_std
    assert np.all(former > np.sqrt(model.noise_variance_))
    _, y_std = model.adapt(new, target, sample_weight=1e8).predict(Z, return_std=True)
    assert_allclose(y_std, np.sqrt(model.noise_variance_), rtol=1e-6)


def test_nine_in_ten_intervals_hold_nine_in_ten_targets():
    Z, T, groups = make_tasks(6000, n=8, d=2)
    train = groups < 1000
    model = MAMLRegressor(adaptation="implicit", metric="full").fit(Z[train], T[train], groups=groups[train])
    order = np.argsort(groups, kind="stable").reshape(6000, 8)[1000:]
    query = order[:, 4:].ravel()
    for n_support in (0, 1, 4):
        support = order[:, :n_support].ravel()
        adapted = model.adapt(Z[support], T[support], groups=groups[support]) if n_support else model
        y_pred, y_std = adapted.predict(Z[query], groups=groups[query], return_std=True)
        covered = np.mean(np.abs(T[query] - y_pred) < 1.6449 * y_std)
        assert 0.88 < covered < 0.92
        assert_allclose(np.mean((T[query] - y_pred) ** 2), np.mean(y_std**2), rtol=0.06)


NO_STD = "return_std=True needs adaptation='implicit', inner_step_size='auto' and n_inner_steps=1"


@pytest.mark.parametrize(
    "params",
    [
        {"adaptation": "gradient"},
        {"inner_step_size": 0.05},
        {"inner_step_size": np.full(4, 0.05)},
        {"n_inner_steps": 2},
        {"n_inner_steps": 0},
    ],
    ids=str,
)
def test_no_predictive_std(params):
    Z, T, groups = make_tasks(12, n=8)
    rows = np.argsort(np.sum(Z * Z, axis=1))[:4]
    model = MAMLRegressor(**{"adaptation": "implicit"} | params).fit(Z, T, groups=groups)
    for fitted in (model, model.adapt(Z[rows], T[rows]), model.adapt(Z[rows], T[rows], groups=groups[rows])):
        before = snapshot(fitted)
        with pytest.raises(ValueError, match=NO_STD):
            fitted.predict(Z, return_std=True)
        with pytest.raises(ValueError, match=NO_STD):
            fitted.predict(Z, groups=groups, return_std=True)
        assert same(vars(fitted), before)
    # and not either, if that was how the estimator was adapted
    model = MAMLRegressor(adaptation="implicit").fit(Z, T, groups=groups)
    for tasks in (None, groups[rows]):
        adapted = copy.copy(model).set_params(**params).adapt(Z[rows], T[rows], groups=tasks)
        adapted.set_params(adaptation="implicit", inner_step_size="auto", n_inner_steps=1)
        with pytest.raises(ValueError, match=NO_STD):
            adapted.predict(Z, groups=groups, return_std=True)
        further = adapted.adapt(Z[rows], T[rows], groups=tasks)
        with pytest.raises(ValueError, match=NO_STD):
            further.predict(Z, return_std=True)


def test_no_predictive_std_of_one_task_or_before_fit():
    Z, T, groups = make_tasks(12, n=8)
    with pytest.raises(NotFittedError):
        MAMLRegressor(adaptation="implicit").predict(Z, return_std=True)
    model = MAMLRegressor(adaptation="implicit").fit(Z, T, groups=np.zeros(96))
    for fitted in (model, model.adapt(Z, T), model.adapt(Z, T, groups=groups)):
        with pytest.raises(ValueError, match=NO_STD):
            fitted.predict(Z, return_std=True)
    model.fit(Z, T, groups=groups).predict(Z, return_std=True)


def test_predictive_std_of_a_changed_parameter():
    """Explicit steps and then none: the prior is still that of a task without rows."""
    Z, T, groups = make_tasks(12, n=8)
    model = MAMLRegressor().fit(Z, T, groups=groups).set_params(adaptation="implicit")
    expected, _ = prior_of(model)
    assert_allclose(model.predict(Z, return_std=True)[1], std_by_hand(model, Z, expected), rtol=1e-10)


# Overshooting


def support_curvature(rows, l2=0.0):
    Z = np.column_stack([X[rows], np.ones(len(rows))])
    return np.linalg.eigvalsh(2 * Z.T @ Z / len(rows) + np.diag([l2, l2, l2, 0]))[-1]


@pytest.mark.parametrize("rows", [[0], [1, 2, 3], list(range(10, 30))])
def test_overshooting_warns_with_a_step_that_does_not(rows):
    y = TARGETS["1-d"]
    L = support_curvature(rows)
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    for step in (2.02 / L, 10 / L):
        model.set_params(inner_step_size=step)
        with pytest.warns(UserWarning, match="inner_step_size=.* overshoots") as record:
            adapted = model.adapt(X[rows], y[rows])
        assert len(record) == 1
        assert record[0].filename == __file__
        assert f"{1 / L:.3g}" in str(record[0].message)
        assert "'auto'" in str(record[0].message)
        W = adapted_by_hand(model, X[rows], y[rows])  # the step is taken as it was asked for
        assert_allclose(parameters(adapted.coef_, adapted.intercept_), W, rtol=1e-9)
    for step in (1.98 / L, 1 / L, "auto", np.full(4, 0.5 / L)):
        model.set_params(inner_step_size=step).adapt(X[rows], y[rows])  # no warning
    model.set_params(inner_step_size=float(f"{1 / L:.3g}"), n_inner_steps=50)
    error = np.sum((model.adapt(X[rows], y[rows]).predict(X[rows]) - y[rows]) ** 2)
    assert error <= np.sum((model.predict(X[rows]) - y[rows]) ** 2)


def test_overshooting_of_some_tasks():
    y = TARGETS["1-d"]
    L = np.array([support_curvature(np.flatnonzero(i == GROUPS)) for i in range(4)])
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    for n_tasks in (1, 2, 4):
        step = 2 / np.sort(L)[::-1][n_tasks - 1] * 1.01
        assert np.sum(step * L > 2) == n_tasks
        with pytest.warns(UserWarning, match=rf"overshoots .* {n_tasks} task") as record:
            model.set_params(inner_step_size=step).adapt(X, y, groups=GROUPS)
        assert f"{1 / L.max():.3g}" in str(record[0].message)
    model.set_params(inner_step_size=1.98 / L.max()).adapt(X, y, groups=GROUPS)


def test_overshooting_with_a_penalty():
    y, rows = TARGETS["1-d"], list(range(10))
    L = support_curvature(rows, l2=3.0)
    model = MAMLRegressor(l2_regularization=3.0).fit(X, y, groups=GROUPS)
    bound = support_curvature(rows) + 3  # what is checked: a bound of the largest eigenvalue
    assert bound >= L
    with pytest.warns(UserWarning, match="overshoots"):
        model.set_params(inner_step_size=2.02 / L).adapt(X[rows], y[rows])
    model.set_params(inner_step_size=1.98 / bound).adapt(X[rows], y[rows])


def test_overshooting_of_a_classifier():
    y, rows = TARGETS["two classes"], list(range(10))
    model = MAMLSVC(C=1e9, tol=1e-2).fit(X, y, groups=GROUPS)
    L = support_curvature(rows)
    with pytest.warns(UserWarning, match="overshoots"):
        model.set_params(inner_step_size=2.1 / L).adapt(X[rows], y[rows])
    model.set_params(inner_step_size=1.9 / L).adapt(X[rows], y[rows])


def test_no_warning_in_training():
    y = TARGETS["1-d"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MAMLRegressor(inner_step_size=0.3).fit(X, y, groups=GROUPS)
        model = MAMLRegressor(inner_step_size=0.3, adaptation="implicit").fit(X, y, groups=GROUPS)
        for step in (0.3, 1e9):  # an implicit step cannot overshoot
            adapted = model.set_params(inner_step_size=step).adapt(X, y)
        assert_allclose(adapted.coef_, LinearRegression().fit(X, y).coef_, rtol=1e-6)


# The function


def by_hand(scale_x, scale_y, model, support, y, queries):
    """Predictions of scaled, adapted, scaled back."""
    adapted = model.adapt(scale_x(support), scale_y.transform(np.reshape(y, (len(y), -1))).reshape(np.shape(y)))
    predicted = adapted.predict(scale_x(queries))
    return scale_y.inverse_transform(np.reshape(predicted, (len(queries), -1))).reshape(len(queries), *np.shape(y)[1:])


def test_of_a_meta_learner_is_its_method():
    for target, y in TARGETS.items():
        model = make(target).fit(X, y, groups=GROUPS)
        assert_array_equal(adapt(model, X[:6], y[:6]).coef_, model.adapt(X[:6], y[:6]).coef_)
        weight = np.arange(40.0)
        one, other = adapt(model, X, y, GROUPS, weight), model.adapt(X, y, groups=GROUPS, sample_weight=weight)
        assert_array_equal(one.task_coef_, other.task_coef_)
        assert np.any(one.task_coef_ != model.adapt(X, y, groups=GROUPS).task_coef_)


@pytest.mark.parametrize("target", TARGETS)
def test_pipeline(target):
    y = TARGETS[target]
    pipe = make_pipeline(StandardScaler(), PCA(2), make(target))
    name = pipe.steps[-1][0]
    pipe.fit(X, y, **{f"{name}__groups": GROUPS})
    before = snapshot(pipe)
    adapted = adapt(pipe, X[:6], y[:6])
    transform = pipe[:-1].transform
    expected = pipe[-1].adapt(transform(X[:6]), y[:6])
    assert type(adapted) is Pipeline
    assert adapted is not pipe
    assert_array_equal(adapted.predict(X), expected.predict(transform(X)))
    assert np.any(adapted[-1].intercept_ != pipe[-1].intercept_)
    assert_array_equal(adapted[-1].coef_, expected.coef_)
    assert same(vars(pipe), before)
    assert adapted[0] is pipe[0]  # transformers stay as they were fitted
    by_task = adapt(pipe, X, y, groups=GROUPS, sample_weight=np.arange(40.0))
    expected = pipe[-1].adapt(transform(X), y, groups=GROUPS, sample_weight=np.arange(40.0))
    assert_array_equal(by_task[-1].task_coef_, expected.task_coef_)
    assert_array_equal(by_task.predict(X, groups=GROUPS), expected.predict(transform(X), groups=GROUPS))
    assert same(vars(pipe), before)
    further = adapt(adapted, X[:6], y[:6])
    expected = pipe[-1].adapt(transform(X[:6]), y[:6]).adapt(transform(X[:6]), y[:6])
    assert_array_equal(further[-1].coef_, expected.coef_)


def test_nested_pipelines_and_other_inputs():
    y = TARGETS["1-d"]
    rows = [{"a": a, "b": b, "c": c} for a, b, c in X]
    pipe = Pipeline([("vectorise", DictVectorizer()), ("inner", make_pipeline("passthrough", MAMLRegressor()))])
    pipe.fit(rows, y, inner__mamlregressor__groups=GROUPS)
    adapted = adapt(pipe, rows[:6], y[:6])
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    assert_allclose(adapted.predict(rows), model.adapt(X[:6], y[:6]).predict(X), rtol=1e-9)
    assert_allclose(pipe.predict(rows), model.predict(X), rtol=1e-9)
    alone = Pipeline([("maml", MAMLRegressor())]).fit(X, y, maml__groups=GROUPS)
    assert_array_equal(adapt(alone, X[:6], y[:6]).predict(X), model.adapt(X[:6], y[:6]).predict(X))


def test_pipeline_on_frames():
    y = TARGETS["1-d"]
    frame = pd.DataFrame(X, columns=["a", "b", "c"])
    columns = ColumnTransformer([("scale", StandardScaler(), ["b", "a"])], remainder="passthrough")
    pipe = make_pipeline(columns, MAMLRegressor()).fit(frame, y, mamlregressor__groups=GROUPS)
    adapted = adapt(pipe, frame[:6], y[:6])
    expected = pipe[-1].adapt(pipe[0].transform(frame[:6]), y[:6])
    assert_array_equal(adapted.predict(frame), expected.predict(pipe[0].transform(frame)))


@pytest.mark.parametrize("target", [*REGRESSION, "column"])
def test_transformed_target(target):
    y = TARGETS["1-d"][:, None] if target == "column" else TARGETS[target]
    y = 100 * y + 50
    wrapped = TransformedTargetRegressor(MAMLRegressor(), transformer=StandardScaler()).fit(X, y, groups=GROUPS)
    before = snapshot(wrapped)
    adapted = adapt(wrapped, X[:6], y[:6])
    expected = by_hand(np.asarray, wrapped.transformer_, wrapped.regressor_, X[:6], y[:6], X)
    assert type(adapted) is TransformedTargetRegressor
    assert_allclose(adapted.predict(X), expected, rtol=1e-10)
    assert adapted.predict(X).shape == y.shape
    assert np.max(np.abs(adapted.predict(X) - wrapped.predict(X))) > 1
    assert same(vars(wrapped), before)
    by_task = adapt(wrapped, X, y, groups=GROUPS)
    assert by_task.regressor_.task_coef_.shape == (4, *wrapped.regressor_.coef_.shape)
    assert_allclose(by_task.predict(X, groups=GROUPS).shape, y.shape)
    rows = GROUPS == 2
    expected = by_hand(np.asarray, wrapped.transformer_, wrapped.regressor_, X[rows], y[rows], X[rows])
    assert_allclose(by_task.predict(X, groups=GROUPS)[rows], expected, rtol=1e-9)


def test_transformed_target_by_functions():
    y = np.exp(0.3 * TARGETS["1-d"])
    wrapped = TransformedTargetRegressor(MAMLRegressor(), func=np.log, inverse_func=np.exp).fit(X, y, groups=GROUPS)
    expected = wrapped.regressor_.adapt(X[:6], np.log(y[:6]))
    assert_allclose(adapt(wrapped, X[:6], y[:6]).predict(X), np.exp(expected.predict(X)), rtol=1e-10)
    assert_allclose(adapt(wrapped, X[:6].tolist(), y[:6].tolist()).predict(X), np.exp(expected.predict(X)), rtol=1e-10)
    flat = TransformedTargetRegressor(MAMLRegressor(), transformer=FunctionTransformer(np.ravel), check_inverse=False)
    flat.fit(X, y, groups=GROUPS)
    assert_array_equal(adapt(flat, X[:6], y[:6]).predict(X), flat.regressor_.adapt(X[:6], y[:6]).predict(X))


@pytest.mark.parametrize("search", [GridSearchCV, RandomizedSearchCV])
def test_search(search):
    y = TARGETS["1-d"]
    extra = {"n_iter": 2, "random_state": 0} if search is RandomizedSearchCV else {}
    pipe = Pipeline([("maml", MAMLRegressor())])
    found = search(pipe, {"maml__l2_regularization": [0.01, 1.0]}, cv=2, **extra).fit(X, y, maml__groups=GROUPS)
    before, former = snapshot(found), found.best_estimator_
    adapted = adapt(found, X[:6], y[:6])
    expected = found.best_estimator_["maml"].adapt(X[:6], y[:6])
    assert type(adapted) is search
    assert_array_equal(adapted.predict(X), expected.predict(X))
    assert adapted.best_params_ == found.best_params_
    assert found.best_estimator_ is former
    assert same(vars(found), before)
    assert np.any(adapted.predict(X) != found.predict(X))


@pytest.mark.parametrize("target", REGRESSION)
def test_all_of_them_at_once(target):
    """A search over a pipeline of a scaler and a transformed target around a pipeline of a scaler and the learner."""
    y = 100 * TARGETS[target] + 50
    inner = Pipeline([("scale", StandardScaler()), ("maml", MAMLRegressor())])
    wrapped = TransformedTargetRegressor(inner, transformer=StandardScaler())
    pipe = Pipeline([("pca", PCA(2)), ("target", wrapped)])
    found = GridSearchCV(pipe, {"target__regressor__maml__l2_regularization": [0.01, 1.0]}, cv=2)
    found.fit(X, y, target__maml__groups=GROUPS)
    before = snapshot(found)
    adapted = adapt(found, X[:6], y[:6])
    best = found.best_estimator_
    pipe = best["target"].regressor_

    def scale(Z):
        return pipe["scale"].transform(best["pca"].transform(Z))

    expected = by_hand(scale, best["target"].transformer_, pipe["maml"], X[:6], y[:6], X)
    assert_allclose(adapted.predict(X), expected, rtol=1e-10)
    assert np.max(np.abs(adapted.predict(X) - found.predict(X))) > 1
    assert same(vars(found), before)
    further = adapt(adapted, X[6:9], y[6:9])
    assert np.any(further.predict(X) != adapted.predict(X))
    assert not same(vars(further.best_estimator_), vars(adapted.best_estimator_))


def test_without_adapt_is_a_type_error():
    y = TARGETS["1-d"]
    ridge = Ridge().fit(X, y)
    estimators = [
        ridge,
        make_pipeline(StandardScaler(), Ridge()).fit(X, y),
        TransformedTargetRegressor(Ridge(), transformer=StandardScaler()).fit(X, y),
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2).fit(X, y),
        make_pipeline(PCA(2), make_pipeline(StandardScaler(), Ridge())).fit(X, y),
    ]
    for estimator in estimators:
        before = snapshot(estimator)
        with pytest.raises(TypeError, match="Ridge cannot adapt: it has no method adapt"):
            adapt(estimator, X[:5], y[:5])
        assert same(vars(estimator), before)


def test_a_search_without_refit_is_a_type_error():
    y = TARGETS["1-d"]
    pipe = Pipeline([("maml", MAMLRegressor())])
    found = GridSearchCV(pipe, {"maml__tol": [1e-6]}, cv=2, refit=False).fit(X, y, maml__groups=GROUPS)
    with pytest.raises(TypeError, match="refit=True"):
        adapt(found, X[:5], y[:5])


@pytest.mark.parametrize(
    "estimator",
    [
        MAMLRegressor(),
        make_pipeline(StandardScaler(), MAMLRegressor()),
        TransformedTargetRegressor(MAMLRegressor()),
        GridSearchCV(MAMLRegressor(), {"tol": [1e-6]}),
        Pipeline([("maml", MAMLRegressor())]),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_before_fit(estimator):
    estimator = clone(estimator)
    with pytest.raises(NotFittedError):
        adapt(estimator, X[:5], TARGETS["1-d"][:5])


def test_errors_pass_through():
    y = TARGETS["1-d"]
    pipe = make_pipeline(StandardScaler(), MAMLRegressor()).fit(X, y, mamlregressor__groups=GROUPS)
    before = snapshot(pipe)
    for support, target, message in (
        (X[:5, :2], y[:5], "features"),
        (X[:5], y[:4], "inconsistent"),
        (X[:5], np.full(5, np.nan), "NaN"),
        (X[:5], np.ones((5, 2)), "output"),
    ):
        with pytest.raises(ValueError, match=message):
            adapt(pipe, support, target)
    assert same(vars(pipe), before)
