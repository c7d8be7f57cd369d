"""`adapt`, the method and the function: w <- w - a grad f_support(w), by hand and through other estimators."""

import copy
import time
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import Ridge
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


def make(target, **params):
    if target in REGRESSION:
        return MAMLRegressor(**params)
    return MAMLSVC(**{"loss": "smooth_hinge", "tol": 0.03} | params)


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


def gradient(model, W, X, Y, weight):
    """grad f of one task, by the textbook; and a bound of the curvature."""
    s = weight / weight.sum()
    Z = np.column_stack([X, np.ones(len(X))]) if model.fit_intercept else X
    penalty = np.zeros((len(W), 1))
    penalty[: X.shape[1]] = model.l2_regularization_
    G = penalty * W
    for i in range(len(Z)):
        for k in range(W.shape[1]):
            z, y = Z[i] @ W[:, k], Y[i, k]
            if isinstance(model, MAMLRegressor):
                slope = 2 * (z - y)
            elif model.loss == "hinge":
                slope = -y * (y * z < 1)
            elif model.loss == "squared_hinge":
                slope = -2 * y * max(0, 1 - y * z)
            else:
                slope = -y / (1 + np.exp((y * z - 1) / 0.1))
            G[:, k] += s[i] * slope * Z[i]
    curvature = {"hinge": 1, "squared_hinge": 2, "smooth_hinge": 2.5}[model.loss] if hasattr(model, "loss") else 2
    L = curvature * np.linalg.eigvalsh((Z.T * s) @ Z)[-1] + model.l2_regularization_
    return G, L


def adapted_by_hand(model, X, y, weight=None, W=None):
    weight = np.ones(len(X)) if weight is None else weight
    Y = encode(model, y)
    W = parameters(model.coef_, model.intercept_, model.fit_intercept) if W is None else W
    step = model.inner_step_size
    for _ in range(model.n_inner_steps):
        G, L = gradient(model, W, X, Y, weight)
        W = W - (0.5 / L if isinstance(step, str) else np.reshape(step, (-1, 1))) * G
    return W


STEPS = {"float": 0.03, "array": np.array([0.01, 0.05, 0.0, 0.03]), "auto": "auto"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("K", [1, 3])
def test_formula(target, step, K):
    y = TARGETS[target]
    params = {"l2_regularization": 0.2} if target in REGRESSION else {"C": 0.3}
    model = make(target, inner_step_size=STEPS[step], n_inner_steps=K, **params).fit(X, y, groups=GROUPS)
    before = snapshot(model)
    for rows in ([0], [3, 1], np.arange(9), GROUPS == 2):
        adapted = model.adapt(X[rows], y[rows])
        W = adapted_by_hand(model, X[rows], y[rows])
        assert type(adapted) is type(model)
        assert adapted is not model
        assert_allclose(parameters(adapted.coef_, adapted.intercept_), W, rtol=1e-10, atol=1e-12)
        assert np.any(adapted.coef_ != model.coef_)
        assert adapted.coef_.shape == model.coef_.shape
        assert np.shape(adapted.intercept_) == np.shape(model.intercept_)
        z = adapted.predict(X) if target in REGRESSION else adapted.decision_function(X)
        assert_allclose(z.reshape(40, -1), np.column_stack([X, np.ones(40)]) @ W, rtol=1e-9, atol=1e-10)
    assert same(vars(model), before)


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge", "smooth_hinge"])
@pytest.mark.parametrize("intercept", [True, False])
def test_formula_of_the_losses(loss, intercept):
    y = TARGETS["two classes"]
    model = MAMLSVC(loss=loss, n_inner_steps=2, fit_intercept=intercept, tol=1e-3, C=0.1).fit(X, y, groups=GROUPS)
    for rows in ([0], np.arange(9), y == "yes"):
        adapted = model.adapt(X[rows], y[rows])
        W = adapted_by_hand(model, X[rows], y[rows])
        assert_allclose(parameters(adapted.coef_, adapted.intercept_, intercept), W, rtol=1e-10, atol=1e-12)


def test_auto_is_half_the_inverse_curvature_of_the_support():
    y = TARGETS["1-d"]
    model = MAMLRegressor(l2_regularization=0.3).fit(X, y, groups=GROUPS)
    for rows in (np.arange(2), np.arange(30)):
        Z = np.column_stack([X[rows], np.ones(len(rows))])
        L = np.linalg.eigvalsh(2 * Z.T @ Z / len(rows))[-1] + 0.3
        assert_allclose(model.adapt(X[rows], y[rows]).inner_step_size_, 1 / (2 * L), rtol=1e-10)
    by_task = model.adapt(X, y, groups=GROUPS)
    assert by_task.inner_step_size_.shape == (4,)
    assert_allclose(by_task.inner_step_size_[2], model.adapt(X[GROUPS == 2], y[GROUPS == 2]).inner_step_size_)
    assert MAMLRegressor(inner_step_size=0.01).fit(X, y, groups=GROUPS).adapt(X, y).inner_step_size_ == 0.01


def test_many_steps_arrive_at_the_tasks_own_minimiser():
    y, rows = TARGETS["1-d"], GROUPS == 2
    model = MAMLRegressor(l2_regularization=0.1).fit(X, y, groups=GROUPS)
    own = Ridge(alpha=20 * 0.1 / 2).fit(X[rows], y[rows])
    adapted = model.set_params(n_inner_steps=3000).adapt(X[rows], y[rows])
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
        ("auto", True, np.asarray),
        ("auto", False, sparse.csr_array),
    ],
)
def test_groups_are_a_loop_over_tasks(target, step, intercept, convert):
    y, step = TARGETS[target], STEPS[step]
    step = step[: 3 + intercept] if isinstance(step, np.ndarray) else step
    weight = np.linspace(0.5, 2, 40)
    model = make(target, inner_step_size=step, n_inner_steps=2, fit_intercept=intercept).fit(X, y, groups=GROUPS)
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
        assert_allclose(adapted.task_coef_[i], one.coef_, rtol=1e-10, atol=1e-12)
        assert_allclose(adapted.task_intercept_[i], one.intercept_, rtol=1e-10, atol=1e-12)
        W = adapted_by_hand(model, X[rows], y[rows], weight[rows])
        assert_allclose(parameters(adapted.task_coef_[i], adapted.task_intercept_[i], intercept), W, rtol=1e-9)
        if target in REGRESSION:
            assert_allclose(predicted[rows], one.predict(X[rows]), rtol=1e-9)
        else:
            assert_array_equal(predicted[rows], one.predict(X[rows]))
            decision = adapted.decision_function(convert(X), groups=labels)
            assert_allclose(decision[rows], one.decision_function(X[rows]), rtol=1e-9, atol=1e-11)


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


@pytest.mark.parametrize("target", TARGETS)
def test_adapt_further_without_groups(target):
    y = TARGETS[target]
    once, twice = make(target, n_inner_steps=1), make(target, n_inner_steps=2)
    model = once.fit(X, y, groups=GROUPS)
    rows, other = np.arange(6), np.arange(6, 16)
    further = model.adapt(X[rows], y[rows]).adapt(X[rows], y[rows])
    expected = copy.copy(model).set_params(**twice.get_params()).adapt(X[rows], y[rows])
    assert_allclose(further.coef_, expected.coef_, rtol=1e-10)
    assert_allclose(further.intercept_, expected.intercept_, rtol=1e-10)
    further = model.adapt(X[rows], y[rows]).adapt(X[other], y[other])
    W = adapted_by_hand(model, X[other], y[other], W=adapted_by_hand(model, X[rows], y[rows]))
    assert_allclose(parameters(further.coef_, further.intercept_), W, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("target", TARGETS)
def test_adapt_further_with_groups(target):
    """Tasks that were adapted to go on from where they stand, new ones from the initialisation; all are kept."""
    y = TARGETS[target]
    model = make(target).fit(X, y, groups=GROUPS)
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
    W["d"] = adapted_by_hand(model, X[rows["d"]], y[rows["d"]], W=W["d"])
    for i, task in enumerate("abd"):
        assert_allclose(parameters(two.task_coef_[i], two.task_intercept_[i]), W[task], rtol=1e-9, atol=1e-12)
    assert_array_equal(two.coef_, model.coef_)
    assert_array_equal(two.predict(X, groups=labels)[rows["c"]], model.predict(X[rows["c"]]))
    three = two.adapt(X[rows["c"]], y[rows["c"]], groups=labels[rows["c"]])
    assert three.tasks_.tolist() == ["a", "b", "c", "d"]
    assert_array_equal(three.task_coef_[[0, 1, 3]], two.task_coef_)


def test_without_groups_after_groups_is_one_task_from_the_initialisation():
    y = TARGETS["1-d"]
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    one = model.adapt(X, y, groups=GROUPS).adapt(X[:5], y[:5])
    assert_allclose(one.coef_, model.adapt(X[:5], y[:5]).coef_, rtol=1e-12)
    assert not hasattr(one, "tasks_")
    assert_array_equal(one.predict(X, groups=GROUPS), one.predict(X))
    # and with groups after one task: from that task's parameters
    after = model.adapt(X[:5], y[:5]).adapt(X, y, groups=GROUPS)
    W = adapted_by_hand(model, X[:5], y[:5])
    for i in range(4):
        rows = i == GROUPS
        expected = adapted_by_hand(model, X[rows], y[rows], W=W)
        assert_allclose(parameters(after.task_coef_[i], after.task_intercept_[i]), expected, rtol=1e-9)


def test_adapting_again_with_ids_of_another_kind_is_an_error():
    y = TARGETS["1-d"]
    model = MAMLRegressor().fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS)
    before = snapshot(model)
    with pytest.raises(ValueError, match="groups holds ids of type"):
        model.adapt(X, y, groups=GROUPS.astype(str))
    assert same(vars(model), before)
    assert_array_equal(model.adapt(X, y, groups=GROUPS.astype(float)).tasks_, np.arange(4))


@pytest.mark.parametrize("target", TARGETS)
def test_weights_are_repetition(target):
    y = TARGETS[target]
    weight = np.random.default_rng(0).integers(0, 4, size=40)
    weight[GROUPS == 1] = 0
    rows = np.repeat(np.arange(40), weight)
    model = make(target, n_inner_steps=3).fit(X, y, groups=GROUPS)
    for groups in (None, GROUPS):
        a = model.adapt(X, y, groups=groups, sample_weight=weight)
        b = model.adapt(X[rows], y[rows], groups=None if groups is None else groups[rows])
        names = ["coef_", "intercept_"] if groups is None else ["task_coef_", "task_intercept_", "tasks_"]
        for name in names:
            assert_allclose(getattr(a, name), getattr(b, name), rtol=0, atol=1e-10)
        unweighted = model.adapt(X, y, groups=groups)
        assert np.shape(getattr(unweighted, names[0])) != np.shape(getattr(a, names[0])) or np.any(
            np.abs(getattr(unweighted, names[0]) - getattr(a, names[0])) > 1e-3
        )
    assert a.tasks_.tolist() == [0, 2, 3]
    constant = model.adapt(X, y, sample_weight=7.5)
    assert_allclose(constant.coef_, model.adapt(X, y).coef_, rtol=1e-12)


def test_order_of_rows_and_labels_of_tasks_do_not_matter():
    y = TARGETS["1-d"]
    model = MAMLRegressor().fit(X, y, groups=GROUPS)
    expected = model.adapt(X, y, groups=GROUPS).predict(X, groups=GROUPS)
    rows, names = np.random.default_rng(0).permutation(40), np.array([7, 2, 5, 3])
    shuffled = model.adapt(X[rows], y[rows], groups=names[GROUPS[rows]])
    assert_allclose(shuffled.predict(X, groups=names[GROUPS]), expected, rtol=1e-10)


def test_twenty_thousand_tasks():
    rng = np.random.default_rng(0)
    m, n, d = 20_000, 5, 20
    Z, y, groups = rng.normal(size=(m * n, d)), rng.normal(size=m * n), rng.permutation(np.repeat(np.arange(m), n))
    train = groups < 100
    model = MAMLRegressor(n_inner_steps=2).fit(Z[train], y[train], groups=groups[train])
    start = time.perf_counter()
    adapted = model.adapt(Z, y, groups=groups)
    predicted = adapted.predict(Z, groups=groups)
    assert time.perf_counter() - start < 10  # a loop over tasks takes longer; measured below one second
    assert adapted.task_coef_.shape == (m, d)
    for task in (0, 1, 777, 12_345, m - 1):
        rows = groups == task
        one = model.adapt(Z[rows], y[rows])
        assert adapted.tasks_[task] == task
        assert_allclose(adapted.task_coef_[task], one.coef_, rtol=1e-9)
        assert_allclose(adapted.task_intercept_[task], one.intercept_, rtol=1e-9)
        assert_allclose(predicted[rows], one.predict(Z[rows]), rtol=1e-9)
        W = adapted_by_hand(model, Z[rows], y[rows])
        assert_allclose(np.r_[one.coef_, one.intercept_], W[:, 0], rtol=1e-9)


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
    assert np.any(adapted[-1].coef_ != pipe[-1].coef_)
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
