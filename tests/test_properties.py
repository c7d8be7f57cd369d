"""Any rows, weights, containers, task ids and scales: an answer that is finite and consistent, or a clear error.

``HYPOTHESIS_PROFILE=campaign`` tries thousands of inputs with each test, others every time;
``--hypothesis-show-statistics`` tells how many of them ended how.
"""

import copy
import datetime
import functools
import os
import re
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from hypothesis import HealthCheck, Phase, assume, currently_in_test_context, event, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted
from third_party import MAMLQuantileRegressor

import sklearn_maml
from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, SingleTaskWarning, task_statistics

COMMON = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("suite", max_examples=10, derandomize=True, phases=[Phase.generate], **COMMON)
settings.register_profile("campaign", max_examples=2000, print_blob=True, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

DOCUMENTED = {
    SingleTaskWarning: "ONE task",
    ConvergenceWarning: "Meta-training did not converge|an implicit step did not converge",
    UserWarning: "could not learn how tasks differ|overshoots on the support|further than 10,000 standard deviations|"
    "held-out tasks have too few different rows|partial_fit starts anew",
}
OURS = Path(sklearn_maml.__file__).parent
CHECKS = Path(sklearn.__file__).parent / "utils"


def is_documented(warning):
    return warning.category in DOCUMENTED and re.search(DOCUMENTED[warning.category], str(warning.message))


def is_clear(error):
    """Raised on purpose, by this package or by scikit-learn's checks of arguments, and not by what computes."""
    raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename)
    return type(error) in (ValueError, TypeError) and (OURS in raised_in.parents or CHECKS in raised_in.parents)


def attempt(call, *args, **kwargs):
    """The result and None, or None and the error, a clear one; with no warning but documented ones."""
    result = error = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call(*args, **kwargs)
        except Exception as raised:
            if not is_clear(raised):
                raise
            error = raised
    strange = [f"{each.category.__name__}: {each.message}" for each in caught if not is_documented(each)]
    assert not strange, strange
    if currently_in_test_context():
        for each in caught:
            event(f"warning: {re.search(DOCUMENTED[each.category], str(each.message)).group()}")
        if error is not None:
            event(f"error: {re.sub(r'[0-9.e+-]+', '#', str(error))[:60]}")
    return result, error


# Tables

EXPONENTS = st.sampled_from([0] * 8 + [-12, -9, -6, -3, 3, 6, 9, 12])


def columns(draw, rng, n, d):
    """Features (n, d): some collinear, constant, zero, of different scales, in rows that may be the same."""
    X = rng.normal(size=(n, d))
    for kind in draw(st.sets(st.sampled_from(["collinear", "constant", "zero", "integers", "scales", "rows"]))):
        j = draw(st.integers(0, d - 1))
        if kind == "collinear":
            X[:, j] = X @ rng.normal(size=d)
        elif kind == "constant":
            X[:, j] = draw(st.sampled_from([1.0, -3.0, 1000.0]))
        elif kind == "zero":
            X[:, j] = 0.0
        elif kind == "integers":
            X = np.round(2 * X)
        elif kind == "scales":
            X = X * 10.0 ** rng.integers(-3, 4, size=d)
        else:
            X = X[rng.integers(0, draw(st.integers(1, n)), size=n)]
    return X * 10.0 ** draw(EXPONENTS)


def target(draw, rng, X, codes, k):
    """Targets (n, k): of tasks that differ, or constant, zero, noise."""
    n = len(X)
    of_rows = X / (np.abs(X).max() or 1.0) @ rng.normal(size=(X.shape[1], k))
    kind = draw(st.sampled_from(["tasks", "tasks", "tasks", "no noise", "constant", "zero", "noise", "one outlier"]))
    y = {
        "tasks": of_rows + rng.normal(size=(1 + codes.max(), k))[codes] + 0.3 * rng.normal(size=(n, k)),
        "no noise": of_rows,
        "constant": np.full((n, k), 2.5),
        "zero": np.zeros((n, k)),
        "noise": rng.normal(size=(n, k)),
        "one outlier": np.where(np.arange(n)[:, None] == 0, 1e6, of_rows),
    }[kind]
    return y * 10.0 ** draw(EXPONENTS)


IDS = {
    "numbers": lambda codes: codes - 2,
    "large numbers": lambda codes: codes.astype(np.uint64) + np.uint64(2**63),
    "fractions": lambda codes: codes / 7,
    "text": lambda codes: np.array(["", "a", "A", "ä", " ", "0", "task"])[codes],
    "objects": lambda codes: np.array([f"{i}" for i in codes], dtype=object),
    "a mixture": lambda codes: [i if i % 2 else str(i) for i in codes.tolist()],
    "pairs": lambda codes: pd.Series([(i, "x") for i in codes.tolist()]),
    "dates": lambda codes: [datetime.date(2020, 1, 1 + i) for i in codes.tolist()],
    "times": lambda codes: pd.to_datetime(codes, unit="ns"),
    "categories": lambda codes: pd.Categorical.from_codes(codes, categories=list("gfedcba")),
    "truth": lambda codes: codes % 2 == 0,
    "frame": lambda codes: pd.DataFrame({"task": codes}),
}


class Rows:
    """A table: X, y, task number of each row, weights or None."""

    def __init__(self, X, y, codes, weight):
        self.X, self.y, self.codes, self.weight = X, y, codes, weight

    def __repr__(self):
        return f"Rows({self.X!r}, {self.y!r}, {self.codes!r}, {self.weight!r})"

    def take(self, rows):
        return Rows(self.X[rows], self.y[rows], self.codes[rows], None if self.weight is None else self.weight[rows])

    def given(self, ids=None):
        return {"X": self.X, "y": self.y, "groups": self.codes if ids is None else ids, "sample_weight": self.weight}


def weights(draw, rng, n):
    kind = draw(st.sampled_from(["none", "none", "ones", "zeros", "integers", "ratios", "large", "small"]))
    return {
        "none": None,
        "ones": np.ones(n),
        "zeros": rng.integers(0, 2, size=n).astype(float),
        "integers": rng.integers(1, 5, size=n),
        "ratios": 10.0 ** rng.uniform(-12, 12, size=n),
        "large": np.full(n, 1e12),
        "small": np.full(n, 1e-12),
    }[kind]


@st.composite
def tables(draw, classes=0, easy=False):
    """Rows of up to seven tasks; of `classes` labels if there are any, otherwise numbers."""
    sizes = draw(
        st.one_of(
            st.lists(st.integers(1, 12), min_size=1, max_size=7),
            st.integers(1, 7).map(lambda m: [1] * m),
            st.lists(st.integers(8, 20), min_size=4, max_size=7),
        )
    )
    if easy:
        sizes = draw(st.lists(st.integers(8, 20), min_size=4, max_size=7))
    d, k = draw(st.integers(1, 3 if easy else 9)), 1 if classes else draw(st.sampled_from([0, 0, 1, 2]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    n = len(codes)
    if easy:
        X = rng.normal(size=(n, d))
        y = X @ rng.normal(size=(d, max(k, 1))) + rng.normal(size=(7, max(k, 1)))[codes] + 0.3 * rng.normal(size=(n, 1))
    else:
        X = columns(draw, rng, n, d)
        y = target(draw, rng, X, codes, max(k, 1))
    y = y[:, 0] if k == 0 or classes else y
    if classes:
        y = np.digitize(y, np.quantile(y, np.arange(1, classes) / classes))
        y = np.array(["no", "yes", "unsure", "unasked"])[y] if draw(st.booleans()) else y
    weight = None if easy else weights(draw, rng, n)
    return Rows(X, y, codes, weight)


# Estimators

STEPS = st.one_of(st.just("auto"), st.sampled_from([0.0, 1e-12, 1e-3, 0.1, 1.0, 1e3]))
MAML = {
    "algorithm": st.sampled_from(["bimaml", "maml", "fomaml"]),
    "inner_step_size": STEPS,
    "n_inner_steps": st.sampled_from([0, 1, 1, 1, 2, 5]),
    "adaptation": st.sampled_from(["gradient", "implicit"]),
    "metric": st.sampled_from(["diag", "full"]),
    "fit_intercept": st.booleans(),
    "init": st.sampled_from(["zeros", "normal"]),
    "random_state": st.just(0),
    "n_jobs": st.sampled_from([None, None, 2]),
}
SOME = st.lists(STEPS, min_size=1, max_size=2)
PARAMETERS = {
    MAMLRegressor: MAML
    | {
        "solver": st.sampled_from(["auto", "exact", "lbfgs", "newton-cg", "gd", "ode"]),
        "l2_regularization": st.sampled_from([0.0, 0.0, 1e-12, 0.1, 1e6]),
        "max_iter": st.sampled_from([1, 30]),
        "tol": st.sampled_from([0.0, 1e-6, 1.0]),
    },
    MAMLSVC: MAML
    | {
        "loss": st.sampled_from(["squared_hinge", "hinge", "smooth_hinge"]),
        "solver": st.sampled_from(["auto", "lbfgs", "newton-cg", "gd"]),
        "C": st.sampled_from([1e-6, 1.0, 1e6]),
        "max_iter": st.sampled_from([1, 10]),
    },
    MAMLQuantileRegressor: {
        "quantile": st.sampled_from([0.1, 0.5]),
        "delta": st.sampled_from([1e-3, 0.1, 10.0]),
        "inner_step_size": STEPS,
    },
    MAMLRegressorCV: {
        "inner_step_sizes": SOME,
        "n_inner_steps": st.sampled_from([(1,), (0, 2)]),
        "l2_regularizations": st.sampled_from([(0.0,), (0.0, 0.1)]),
        "adaptations": st.sampled_from([("gradient",), ("implicit",)]),
        "metric": st.sampled_from(["diag", "full"]),
        "n_support": st.integers(1, 4),
        "n_repeats": st.integers(1, 2),
        "cv": st.sampled_from([None, 2]),
        "fit_intercept": st.booleans(),
    },
}
CLASSES = list(PARAMETERS)


def estimators(cls):
    return st.builds(cls, **PARAMETERS[cls]).map(few_iterations)


def few_iterations(model):
    """What third parties do not let their users choose is an attribute all the same."""
    if isinstance(model, MAMLQuantileRegressor):
        model.max_iter = 20
    return model


def n_classes(cls):
    return st.integers(2, 4) if issubclass(cls, MAMLSVC) else st.just(0)


def snapshot(model):
    return copy.deepcopy(vars(model))


def is_fitted(model):
    return hasattr(model, "best_estimator_" if isinstance(model, MAMLRegressorCV) else "coef_")


@functools.cache
def former_fit(cls):
    """A fit to other rows, of other features and labels."""
    rng = np.random.default_rng(0)
    groups, X = np.arange(40) % 5, rng.normal(size=(40, 2))
    y = X[:, 0] + 0.1 * groups + 0.1 * rng.normal(size=40)
    model = few_iterations(cls())
    _, error = attempt(model.fit, X, np.where(y > 0, "a", "b") if is_classifier(model) else y, groups=groups)
    assert error is None
    return model


def fitted_to_something(model):
    """The same estimator with a former fit."""
    former = copy.deepcopy(former_fit(type(model)))
    vars(former).update(vars(model))
    return former


def numbers_of(model):
    inner = model.best_estimator_ if isinstance(model, MAMLRegressorCV) else model
    names = ("coef_", "intercept_", "inner_step_size_", "task_covariance_", "noise_variance_", "task_coef_")
    for name in (*names, "task_intercept_"):
        yield name, getattr(inner, name, None)
    yield from inner.history_.items()


def check_finite(model):
    for name, numbers in numbers_of(model):
        assert numbers is None or np.all(np.isfinite(numbers)), f"{name} = {numbers}"


def check_predictions(model, rows, **params):
    """Of the right shape and type, and finite."""
    predicted, error = attempt(model.predict, rows.X, **params)
    assert error is None
    assert predicted.shape == rows.y.shape
    if is_classifier(model):
        assert set(np.unique(predicted)) <= set(model.classes_)
        predicted, _ = attempt(model.decision_function, rows.X, **params)
    assert np.all(np.isfinite(predicted))
    return predicted


# Properties


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_an_answer_or_an_error(cls, data):
    """All of it finite and of the right shapes, or nothing: a fit that fails leaves the one before, or none."""
    model = data.draw(estimators(cls))
    rows = data.draw(n_classes(cls).flatmap(tables))
    ids = IDS[data.draw(st.sampled_from(sorted(IDS)))](rows.codes)
    ids = None if data.draw(st.integers(0, 9)) == 0 else ids
    former = fitted_to_something(model)
    before = snapshot(model), snapshot(former)
    _, error = attempt(model.fit, **rows.given() | {"groups": ids})
    _, again = attempt(former.fit, **rows.given() | {"groups": ids})
    assert type(again) is type(error)
    if error is not None:
        assert same((vars(model), vars(former)), before)
        assert not is_fitted(model)
        return
    event("fitted")
    assert same(vars(model), vars(former))
    check_finite(model)
    check_predictions(model, rows)
    check_is_fitted(model)
    before = snapshot(model)
    for groups in (None, ids):
        adapted, error = attempt(model.adapt, **rows.given() | {"groups": groups})
        assert same(vars(model), before)
        if error is None:
            event("adapted")
            check_finite(adapted)
            check_predictions(adapted, rows, groups=groups)


def shuffled(rows, rng):
    order = rng.permutation(len(rows.codes))
    return rows.take(order), order


def sum_of_squares(y):
    return np.sqrt(np.mean(np.square(np.asarray(y, dtype=float)))) or 1.0


def assert_same_answers(one, other, rows, rtol):
    """Of two fits: before adaptation, and after it to all tasks at once, relative to the size of the target."""
    for groups in (None, rows.codes):
        answers = []
        for model in (one, other):
            model = model if groups is None else attempt(model.adapt, rows.X, rows.y, groups=groups)[0]
            method = model.decision_function if is_classifier(model) else model.predict
            answers.append(attempt(method, rows.X, groups=groups)[0])
        size = 1.0 if is_classifier(one) else sum_of_squares(rows.y)
        assert_allclose(*answers, rtol=rtol, atol=rtol * size)


WELL_POSED = {
    MAMLRegressor: {
        "algorithm": st.sampled_from(["bimaml", "maml", "fomaml"]),
        "inner_step_size": st.sampled_from(["auto", 0.0, 1e-3, 0.1]),
        "n_inner_steps": st.integers(0, 2),
        "adaptation": st.sampled_from(["gradient", "implicit"]),
        "l2_regularization": st.sampled_from([0.0, 0.1]),
        "fit_intercept": st.booleans(),
    },
    MAMLSVC: {
        "loss": st.sampled_from(["squared_hinge", "smooth_hinge"]),
        "inner_step_size": st.sampled_from(["auto", 0.0, 0.01]),
        "n_inner_steps": st.integers(0, 1),
        "C": st.sampled_from([0.1, 1.0]),
        "fit_intercept": st.booleans(),
    },
}


@st.composite
def well_posed(draw, cls):
    """Estimators with one answer that solvers find to many digits, and rows that have it."""
    model = draw(st.builds(cls, **WELL_POSED[cls]))
    if cls is MAMLSVC:
        model.set_params(tol=1e-10)
    return model, draw(tables(classes=2 if cls is MAMLSVC else 0, easy=True))


RTOL = {MAMLRegressor: 1e-8, MAMLSVC: 2e-5}
both = pytest.mark.parametrize("cls", list(WELL_POSED))


def fit_quietly(model, rows, ids=None):
    """A fit of a copy to these rows, which must succeed but where first-order MAML has nowhere to go."""
    model = copy.copy(model)
    _, error = attempt(model.fit, **rows.given(ids))
    assume("F has no minimum" not in str(error))
    assert error is None
    return model


@both
@given(data=st.data())
def test_order_and_names_of_tasks_do_not_matter(cls, data):
    model, rows = data.draw(well_posed(cls))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    other, _ = shuffled(rows, rng)
    ids = IDS[data.draw(st.sampled_from([name for name in IDS if name != "truth"]))](rng.permutation(7)[other.codes])
    assert_same_answers(fit_quietly(model, rows), fit_quietly(model, other, ids), rows, RTOL[cls])


def strided(X):
    return np.repeat(np.repeat(X, 2, axis=0), 3, axis=1)[::2, ::3]


def read_only(X):
    X = X.copy()
    X.flags.writeable = False
    return X


def unsorted(X):
    """With explicit zeros, its columns backwards and halves of each number to be added up."""
    n, d = X.shape
    columns = np.tile(np.arange(d)[::-1].repeat(2), n)
    return sparse.csr_matrix((X[:, ::-1].repeat(2, axis=1).ravel() / 2, columns, np.arange(0, 2 * n * d + 1, 2 * d)))


def long_indices(X):
    csr = sparse.csr_array(X)
    return sparse.csr_array((csr.data, csr.indices.astype(np.int64), csr.indptr.astype(np.int64)), shape=X.shape)


CONTAINERS = {
    "Fortran": np.asfortranarray,
    "strided": strided,
    "backwards": lambda X: X[:, ::-1].copy()[:, ::-1],
    "read-only": read_only,
    "list": np.ndarray.tolist,
    "objects": lambda X: X.astype(object),
    "frame": pd.DataFrame,
    "csr": sparse.csr_array,
    "csr matrix": sparse.csr_matrix,
    "csc": sparse.csc_array,
    "coo": sparse.coo_matrix,
    "lil": sparse.lil_matrix,
    "dok": sparse.dok_array,
    "unsorted csr": unsorted,
    "long indices": long_indices,
}


@both
@given(data=st.data())
def test_containers_do_not_matter(cls, data):
    model, rows = data.draw(well_posed(cls))
    rows.X[np.abs(rows.X) < 0.5] = 0.0
    name = data.draw(st.sampled_from(sorted(CONTAINERS)))
    other = copy.copy(rows)
    other.X = CONTAINERS[name](rows.X)
    one, two = fit_quietly(model, rows), fit_quietly(model, other)
    assert_same_answers(one, two, rows, RTOL[cls])
    predicted = [attempt(one.adapt(rows.X, rows.y).predict, X)[0] for X in (rows.X, other.X)]
    if is_classifier(model):
        assert_array_equal(*predicted)
    else:
        assert_allclose(*predicted, rtol=1e-9, atol=1e-9)


NUMBER_TYPES = [np.int8, np.int64, np.uint8, bool, np.float32, np.float16, object]


@both
@given(data=st.data())
def test_types_of_numbers_do_not_matter(cls, data):
    """Whole numbers that every type has; of float32 the coefficients are so, too."""
    model, rows = data.draw(well_posed(cls))
    dtype = data.draw(st.sampled_from(NUMBER_TYPES))
    rows.X = np.round(rows.X) > 0 if dtype is bool else np.round(np.abs(rows.X))
    if not is_classifier(model):
        rows.y = np.round(rows.y).clip(0 if np.dtype(dtype).kind in "ub" else -100, 1 if dtype is bool else 100)
    reference, other = copy.copy(rows), copy.copy(rows)
    reference.X, other.X = rows.X.astype(float), rows.X.astype(dtype)
    if not is_classifier(model):
        other.y = rows.y.astype(dtype)
    one, two = fit_quietly(model, reference), fit_quietly(model, other)
    # scikit-learn's choice: float32 stays as it is
    assert two.coef_.dtype == (np.float32 if dtype is np.float32 else np.float64)
    assert_same_answers(one, two, reference, 1e-4 if dtype is np.float32 else RTOL[cls])


@both
@given(data=st.data())
def test_weights_are_repetition(cls, data):
    model, rows = data.draw(well_posed(cls))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    weight = rng.integers(data.draw(st.integers(0, 1)), 4, size=len(rows.codes))
    weight[rows.codes == 0] *= data.draw(st.integers(0, 1))
    labels = rows.y[weight > 0]
    assume(not is_classifier(model) or len(np.unique(labels)) == 2)
    repeated = rows.take(np.repeat(np.arange(len(weight)), weight))
    rows.weight = weight.astype(data.draw(st.sampled_from([float, int, np.uint8, object])))
    one, two = fit_quietly(model, rows), fit_quietly(model, repeated)
    assert_same_answers(one, two, repeated, RTOL[cls])
    adapted = [m.adapt(r.X, r.y, r.codes, sample_weight=r.weight) for m, r in ((one, rows), (two, repeated))]
    assert_array_equal(adapted[0].tasks_, adapted[1].tasks_)
    assert_allclose(adapted[0].task_coef_, adapted[1].task_coef_, rtol=100 * RTOL[cls], atol=100 * RTOL[cls])


@given(data=st.data())
def test_units_do_not_matter(data):
    """With the learned step: what is learned from rows in other units is the same in these units."""
    x_exponent, y_exponent = data.draw(st.integers(-12, 12)), data.draw(st.integers(-12, 12))
    model, rows = data.draw(well_posed(MAMLRegressor))
    model.set_params(inner_step_size="auto", n_inner_steps=max(1, model.n_inner_steps), l2_regularization=0.0)
    other = copy.copy(rows)
    other.X, other.y = rows.X * 10.0**x_exponent, rows.y * 10.0**y_exponent
    one, two = fit_quietly(model, rows), copy.copy(model)
    assume(one._prior is not None)
    _, error = attempt(two.fit, **other.given())
    assert error is None
    scale = 10.0**y_exponent
    for groups in (None, rows.codes):
        before, after = (
            fitted if groups is None else attempt(fitted.adapt, each.X, each.y, groups=groups)[0]
            for fitted, each in ((one, rows), (two, other))
        )
        expected = before.predict(rows.X, groups=groups)
        assert_allclose(
            after.predict(other.X, groups=groups) / scale, expected, rtol=1e-6, atol=1e-6 * sum_of_squares(rows.y)
        )
    assert_allclose(two.noise_variance_, one.noise_variance_ * scale**2, rtol=1e-6)


# Streams and statistics


def split(draw, n):
    """Rows cut into parts, some of them empty."""
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=4)))
    return np.split(np.arange(n), cuts)


@given(data=st.data())
def test_statistics_of_any_parts_are_those_of_all_rows(data):
    model, rows = data.draw(well_posed(MAMLRegressor))
    assume(model.algorithm != "fomaml")  # of few rows its F may have no minimum, which is an error
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    rows.weight = rng.uniform(0.5, 2, size=len(rows.codes)) if data.draw(st.booleans()) else None
    parts = [rows.take(part) for part in split(data.draw, len(rows.codes))]
    statistics = [task_statistics(*part.given().values()) for part in parts]
    shuffle = data.draw(st.permutations(statistics))
    one, two, three = fit_quietly(model, rows), copy.copy(model), copy.copy(model)
    assert attempt(two.fit_statistics, sum(shuffle))[1] is None
    assert_same_answers(one, two, rows, RTOL[MAMLRegressor])
    for part in parts:
        before = snapshot(three)
        _, error = attempt(three.partial_fit, **part.given())
        assert (error is None) == (len(part.X) > 0)
        if error is not None:
            assert "0 sample" in str(error)
            assert same(vars(three), before)
    assert_same_answers(one, three, rows, RTOL[MAMLRegressor])


@given(data=st.data())
def test_statistics_of_any_rows(data):
    """As `test_an_answer_or_an_error`, for fits to statistics and batches."""
    model, rows = data.draw(estimators(MAMLRegressor)), data.draw(tables())
    statistics, error = attempt(task_statistics, rows.X, rows.y, rows.codes, rows.weight)
    assert error is None
    calls = [(model.fit_statistics, (statistics,)), (model.partial_fit, tuple(rows.given().values()))]
    collapsed, error = attempt(model.collapse_statistics, statistics)
    assert (error is None) == (model.inner_step_size != "auto" or not model.n_inner_steps) or "range" in str(error)
    if error is None:
        calls.append((model.fit_statistics, (collapsed,)))
    for call, arguments in calls:
        before = snapshot(model)
        _, error = attempt(call, *arguments)
        if error is not None:
            assert same(vars(model), before)
        else:
            event("fitted")
            check_finite(model)
            check_predictions(model, rows)


# Wrong input

MISSING = [None, np.nan, float("nan"), np.datetime64("NaT"), pd.NaT, pd.NA]
METHODS = ["fit", "partial_fit", "adapt", "predict", "score"]


def call_of(model, method, rows, **changed):
    given = rows.given() | changed
    if method == "predict":
        return model.predict, {name: given[name] for name in ("X", "groups")}
    if method == "partial_fit" and is_classifier(model):
        given["classes"] = np.unique(rows.y)
    return getattr(model, method), given


@both
@given(data=st.data())
def test_missing_task_ids(cls, data):
    missing, method = data.draw(st.sampled_from(MISSING)), data.draw(st.sampled_from(METHODS))
    model, rows = data.draw(well_posed(cls))
    model = fit_quietly(model, rows)
    row = data.draw(st.integers(0, len(rows.codes) - 1))
    ids = list(IDS[data.draw(st.sampled_from([name for name in IDS if name != "frame"]))](rows.codes))
    ids[row] = missing
    container = data.draw(st.sampled_from([list, tuple, pd.Series, lambda ids: np.fromiter(ids, object, len(ids))]))
    call, given = call_of(model, method, rows, groups=container(ids))
    before = snapshot(model)
    _, error = attempt(call, **given)
    assert same(vars(model), before)
    assert f"groups holds missing task ids, for 1 rows, the first in row {row}:" in str(error)


@both
@given(data=st.data())
def test_numbers_that_are_none(cls, data):
    """NaN and infinity, in any container, are named."""
    method = data.draw(st.sampled_from(METHODS))
    model, rows = data.draw(well_posed(cls))
    model = fit_quietly(model, rows)
    choices = ["X", "sample_weight"] if rows.y.dtype.kind == "U" else ["X", "y", "sample_weight"]
    where = data.draw(st.sampled_from(["X"] if method == "predict" else choices))
    bad = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    row = data.draw(st.integers(0, len(rows.codes) - 1))
    if where == "X":
        X = rows.X.copy()
        X[row, -1] = bad
        changed = {"X": CONTAINERS[data.draw(st.sampled_from(sorted(CONTAINERS)))](X)}
    else:
        numbers = np.ones(len(rows.codes)) if where == "sample_weight" else rows.y.copy()
        numbers = numbers.astype(float)
        numbers[row] = bad
        changed = {where: numbers}
    assume(method != "score" or where == "X")  # scikit-learn's metrics check the others
    call, given = call_of(model, method, rows, **changed)
    before = snapshot(model)
    _, error = attempt(call, **given)
    assert same(vars(model), before)
    assert re.search("(?i)nan|inf", str(error)), error


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("method", ["fit", "adapt", "predict"])
def test_no_rows(cls, method):
    model = fitted_to_something(cls())
    before = snapshot(model)
    given = {"X": np.empty((0, 2)), "y": np.empty(0), "groups": []}
    _, error = attempt(getattr(model, method), **{n: v for n, v in given.items() if method != "predict" or n == "X"})
    assert "0 sample" in str(error)
    assert same(vars(model), before)


@given(data=st.data())
def test_folds_without_rows(data):
    """Splits that leave nothing on a side, or tasks on both."""
    _, rows = data.draw(well_posed(MAMLRegressor))
    n = len(rows.codes)
    sides = st.sets(st.integers(0, n - 1), max_size=n).map(sorted)
    model = MAMLRegressorCV(adaptations=["implicit"], cv=[(data.draw(sides), data.draw(sides))])
    (train, test), fresh = model.cv[0], snapshot(model)
    _, error = attempt(model.fit, rows.X, rows.y, groups=rows.codes)
    torn = set(rows.codes[train]) & set(rows.codes[test])
    if torn or not train or not test:
        assert re.search("both sides|without training rows, or without held-out rows", str(error))
    if error is not None:
        assert same(vars(model), fresh)


# What campaigns have found

HUGE = np.array([[0.0, -1.71e14, -3.7e13, -1.168e15, 2e15]])


@pytest.mark.parametrize("cls", [MAMLRegressor, MAMLSVC])
@pytest.mark.parametrize("metric", ["diag", "full"])
def test_no_intercept_and_features_that_are_zero(cls, metric):
    """Nothing to learn from, which is a warning."""
    model = cls(fit_intercept=False, metric=metric)
    with pytest.warns(UserWarning, match="could not learn how tasks differ"):
        model.fit(np.zeros((4, 2)), [0, 1, 0, 1], groups=[0, 0, 1, 1])
    assert not np.any(model.coef_)
    assert model.task_covariance_ is None


@pytest.mark.parametrize("seed", [565, 658, 1208, 1352])
def test_weights_of_very_different_sizes(seed):
    """Rounding leaves nothing of a feature in the likelihood, or of the statistics."""
    rng = np.random.default_rng(seed)
    X, weight = rng.integers(-3, 4, size=(8, 2)).astype(float), 10.0 ** rng.uniform(-12, 12, size=8)
    model = MAMLRegressor()
    _, error = attempt(model.fit, X, rng.normal(size=8), groups=np.repeat([0, 1], 4), sample_weight=weight)
    assert error is None or "range of floating point" in str(error)
    if error is None:
        check_finite(model)


@pytest.mark.parametrize("other", [3.0, np.nan, "maybe"])
def test_labels_of_another_type_in_adapt(other):
    model = copy.deepcopy(former_fit(MAMLSVC))
    before = snapshot(model)
    _, error = attempt(model.adapt, [[0.0, 1.0], [1.0, 0.0]], np.array(["a", other], dtype=object))
    assert re.search("not seen in fit|cannot be compared|mix of type|NaN", str(error))
    assert same(vars(model), before)


def test_statistics_too_large_to_collapse():
    statistics = task_statistics(HUGE, [1.7], groups=[0])
    model = MAMLRegressor(adaptation="implicit", inner_step_size=0.1, l2_regularization=1e6, fit_intercept=False)
    with pytest.raises(ValueError, match="range of floating point") as caught:
        model.collapse_statistics(statistics)
    assert is_clear(caught.value)


def test_a_gradient_beyond_the_range_of_floating_point():
    """Of a descent whose losses are finite."""
    X = np.array([[-1.4e7, 0.0, -3.68e8, 1e7], [4e6, 0.0, 5e7, -3e7]])
    model = MAMLRegressor(algorithm="maml", inner_step_size=0.1, n_inner_steps=5, init="normal", random_state=0)
    for solver in ("gd", "ode", "newton-cg"):
        with pytest.raises(ValueError, match=r"range of floating point|not finite"):
            model.set_params(solver=solver).fit(X, [2.5, 2.5], groups=[0, 1])
        assert not is_fitted(model)


@pytest.mark.parametrize("exponent", [-200, -100, 20, 100, 150, 200])
@pytest.mark.parametrize("solver", ["exact", "lbfgs", "gd", "ode"])
@pytest.mark.parametrize("step", ["auto", 0.1])
def test_scales_beyond_reason(exponent, solver, step):
    """No warning of NumPy's, and an answer that is finite, or an error."""
    rng = np.random.default_rng(0)
    groups, X = np.arange(30) % 5, rng.normal(size=(30, 2)) * 10.0**exponent
    model = MAMLRegressor(solver=solver, inner_step_size=step)
    _, error = attempt(model.fit, X, rng.normal(size=30), groups=groups)
    assert (error is None) == is_fitted(model)
    if error is None:
        check_finite(model)
    else:
        assert re.search("range of floating point|not finite|no minimum|diverges|MAMLRegressor", str(error)), error


@pytest.mark.parametrize("cls", CLASSES)
@given(data=st.data())
def test_any_scale_at_all(cls, data):
    """The same for features and targets that leave the range of floating point once they are squared."""
    model, rows = data.draw(estimators(cls)), data.draw(tables(easy=True))
    sizes = st.sampled_from([-300, -200, -160, -100, -50, 0, 0, 50, 100, 160, 200, 300])
    X, y = rows.X * 10.0 ** data.draw(sizes), rows.y * 10.0 ** data.draw(sizes)
    y = np.ravel(y)[: len(X)] > 0 if is_classifier(model) else y
    _, error = attempt(model.fit, X, y, groups=rows.codes)
    assert (error is None) == is_fitted(model)
    if error is not None:
        return
    check_finite(model)
    adapted, error = attempt(model.adapt, X, y, groups=rows.codes)
    if error is None:
        predicted, error = attempt(adapted.predict, X, groups=rows.codes)
        assert error is None
        assert is_classifier(model) or np.all(np.isfinite(predicted))
