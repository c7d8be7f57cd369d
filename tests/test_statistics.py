"""Statistics of tasks: however rows are spread, their sum is that of all rows, and the fit that of `fit`."""

import functools
import importlib.util
import operator
import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import (
    MAMLSVC,
    CollapsedStatistics,
    MAMLRegressor,
    MAMLRegressorCV,
    SingleTaskWarning,
    TaskStatistics,
    task_statistics,
)
from sklearn_maml import statistics as statistics_module
from sklearn_maml.datasets import make_regression_tasks

RECIPES = Path(__file__).parents[1] / "examples" / "scaling"
RNG = np.random.default_rng(0)
SIZES = np.r_[3, 25, 8, 40, 12, 31, 6, 18]  # some have fewer rows than parameters
X, y, GROUPS = make_regression_tasks(len(SIZES), SIZES, 5, coef_mean=1.0, random_state=0, return_X_y_groups=True)
X += RNG.normal(size=5)
Y = np.column_stack([y, X @ RNG.normal(size=5) + y, RNG.normal(size=len(y))])
WEIGHT = RNG.uniform(0.2, 3, size=len(y))
NAMES = list("abcde")
IDS = np.array([f"task {i}" for i in range(len(SIZES))])[GROUPS]


def parts(n_parts, X=X, y=y, groups=GROUPS, weight=None, seed=0):
    """Statistics of shuffled rows, the rows of a task in any part."""
    for rows in np.array_split(np.random.default_rng(seed).permutation(len(y)), n_parts):
        yield task_statistics(
            *(numbers.iloc[rows] if isinstance(numbers, pd.DataFrame) else numbers[rows] for numbers in (X, y)),
            None if groups is None else groups[rows],
            None if weight is None else weight[rows],
        )


def products(statistics):
    """Weighted sums of x'x, x'y and y'y over each task's rows, x with a one at its end."""
    tasks = statistics._tasks_with(0.0, fit_intercept=True)
    weight = statistics.weight[:, None]
    return tasks.H * weight[..., None] / 2, tasks.C * weight[..., None] / 2, tasks.b * weight


def check_same_fit(model, expected, rtol=1e-10):
    """Every attribute of a fit."""
    assert vars(model).keys() == vars(expected).keys()
    for name in ("coef_", "intercept_", "inner_step_size_", "task_covariance_", "noise_variance_", "meta_step_size_"):
        ours, theirs = getattr(model, name, None), getattr(expected, name, None)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            ours, theirs = np.asarray(ours), np.asarray(theirs)
            assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
            assert_allclose(ours, theirs, rtol=rtol, atol=rtol * np.max(np.abs(theirs)))
    for name in ("n_features_in_", "feature_names_in_", "n_iter_", "l2_regularization_"):
        assert_array_equal(getattr(model, name, None), getattr(expected, name, None))


# The sum


SUMS = {
    "sum": sum,
    "merge": TaskStatistics.merge,
    "reduce": functools.partial(functools.reduce, operator.add),
    "backwards": lambda each: TaskStatistics.merge(list(each)[::-1]),
    "pickled": lambda each: pickle.loads(pickle.dumps(sum(pickle.loads(pickle.dumps(part)) for part in each))),
}


@pytest.mark.parametrize("how", SUMS)
@pytest.mark.parametrize("n_parts", [1, 2, 7, len(y)])
def test_sum_is_that_of_all_rows(how, n_parts):
    total = SUMS[how](parts(n_parts, y=Y, groups=IDS, weight=WEIGHT))
    assert (total.n_tasks, total.n_features, total.n_outputs) == (8, 5, 3)
    assert_array_equal(total.tasks, np.unique(IDS))
    Z = np.c_[X, np.ones(len(y))]
    for i, task in enumerate(total.tasks):
        rows = task == IDS
        scaled = WEIGHT[rows, None] * Z[rows]
        assert_allclose(total.weight[i], WEIGHT[rows].sum(), rtol=1e-12)
        truth = scaled.T @ Z[rows], scaled.T @ Y[rows], WEIGHT[rows] @ Y[rows] ** 2
        for ours, theirs in zip(products(total), truth, strict=True):
            assert_allclose(ours[i], theirs, rtol=1e-11, atol=1e-11)


def test_statistics_are_left_as_they_are():
    one, two = parts(2)
    before = pickle.dumps((one, two))
    assert one + two is not one
    assert pickle.dumps((one, two)) == before


@pytest.mark.parametrize(
    "convert", [sparse.csr_array, sparse.csc_matrix, np.float32, np.asfortranarray, pd.DataFrame, pl.DataFrame, list]
)
def test_containers(convert):
    expected = products(task_statistics(np.float32(X) if convert is np.float32 else X, y, GROUPS))
    for ours, theirs in zip(products(task_statistics(convert(X), list(y), list(GROUPS))), expected, strict=True):
        assert ours.dtype == np.float64
        assert_allclose(ours, theirs, rtol=1e-13, atol=1e-13)


def test_float32_features_are_multiplied_in_float64():
    far = np.float32(1e4) + np.float32(X)
    (gram, *_) = products(task_statistics(far, y, np.zeros(len(y))))
    assert_allclose(gram[0, :5, :5], far.T.astype(float) @ far.astype(float), rtol=1e-12)


def test_weights_are_repetitions_and_zero_is_absence():
    counts = np.random.default_rng(1).integers(0, 3, size=len(y))
    weighted = task_statistics(X, y, GROUPS, counts)
    repeated = task_statistics(*(np.repeat(numbers, counts, axis=0) for numbers in (X, y, GROUPS)))
    assert_array_equal(weighted.tasks, repeated.tasks)
    for ours, theirs in zip(products(weighted), products(repeated), strict=True):
        assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("names", [None, NAMES])
def test_no_rows(names):
    """An empty part of a table, or one without weight, adds nothing; nor do several."""
    table = X if names is None else pd.DataFrame(X, columns=names)
    whole = task_statistics(table, y, IDS)
    empty = task_statistics(table[:0], y[:0], IDS[:0])
    for nothing in (empty, task_statistics(table, y, IDS, np.zeros(len(y))), TaskStatistics.merge([empty, empty])):
        assert (nothing.n_tasks, nothing.n_features, nothing.n_outputs, nothing.weight.sum()) == (0, 5, 1, 0)
        for total in (whole + nothing, nothing + whole, sum([nothing, whole, nothing])):
            assert_array_equal(total.feature_names, names)
            assert_array_equal(total.tasks, whole.tasks)
            for ours, theirs in zip(products(total), products(whole), strict=True):
                assert_array_equal(ours, theirs)
        with pytest.raises(ValueError, match="those of no row"):
            MAMLRegressor().fit_statistics(nothing)
    assert task_statistics(X[:0], Y[:0], GROUPS[:0]).n_outputs == 3


def test_size():
    statistics = task_statistics(X, Y, IDS)
    assert statistics.nbytes == 8 * 8 * (6 * 6 + 6 * 3 + 3 + 1 + 6)
    assert repr(statistics) == f"TaskStatistics(n_tasks=8, n_features=5, n_outputs=3, weight=143, nbytes={8 * 8 * 64})"
    assert len(pickle.dumps(statistics)) < statistics.nbytes + 2_000
    model = MAMLRegressor().fit_statistics(statistics)
    assert len(pickle.dumps(model)) < 5_000
    assert len(pickle.dumps(task_statistics(np.tile(X, (100, 1)), np.tile(y, 100), np.tile(GROUPS, 100)))) < 6_000


def test_a_stream_of_tasks_is_not_copied_for_each_part(monkeypatch):
    copied, add = [], TaskStatistics.__add__

    def counting(one, other):
        total = add(one, other)
        copied.append(total.n_tasks)
        return total

    monkeypatch.setattr(TaskStatistics, "__add__", counting)
    n = 64
    total = TaskStatistics.merge(task_statistics(X[:2], y[:2], [i, i]) for i in range(n))
    assert_array_equal(total.tasks, np.arange(n))
    assert sum(copied) == n * np.log2(n)  # one by one: n^2 / 2


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (lambda: task_statistics(X[:, :4], y, GROUPS), "n_features=5 and of n_features=4"),
        (lambda: task_statistics(X, Y, GROUPS), "n_outputs=1 and of n_outputs=3"),
        (lambda: task_statistics(pd.DataFrame(X, columns=NAMES), y, GROUPS), r"features None and of features \['a'"),
        (lambda: task_statistics(X, y, None), "groups must be given to every call"),
    ],
)
def test_statistics_that_cannot_be_added(other, message):
    with pytest.raises(ValueError, match=message):
        task_statistics(X, y, GROUPS) + other()


def test_columns_in_another_order_cannot_be_added():
    one, two = (task_statistics(pd.DataFrame(X, columns=names), y, GROUPS) for names in (NAMES, NAMES[::-1]))
    with pytest.raises(ValueError, match=r"features \['a' 'b' .* same order"):
        one + two


def test_other_summands():
    statistics = task_statistics(X, y, GROUPS)
    for other in (1, None, "a", np.zeros(2)):
        with pytest.raises(TypeError):
            statistics + other
    with pytest.raises(TypeError):
        1 + statistics
    with pytest.raises(ValueError, match="no statistics"):
        TaskStatistics.merge([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.where(X > 2, np.nan, X)}, "NaN"),
        ({"y": y[:-1]}, "inconsistent numbers of samples"),
        ({"groups": GROUPS[:-1]}, "one task id for each"),
        ({"sample_weight": -WEIGHT}, "[Nn]egative"),
    ],
)
def test_unusable_rows(change, message):
    with pytest.raises(ValueError, match=message):
        task_statistics(**({"X": X, "y": y, "groups": GROUPS} | change))


def test_too_many_features(monkeypatch):
    monkeypatch.setattr(statistics_module, "LARGEST_MATRIX", 5)
    with pytest.raises(ValueError, match="too many for 6 parameters: use fit"):
        task_statistics(X, y, GROUPS)


# The fit


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"adaptation": "implicit"},
        {"fit_intercept": False},
        {"inner_step_size": 0.05, "n_inner_steps": 3},
        {"inner_step_size": 0.05, "algorithm": "fomaml", "l2_regularization": 0.2},
        {"inner_step_size": 0.05, "solver": "gd", "max_iter": 20_000, "tol": 1e-10, "algorithm": "maml"},
        {"inner_step_size": 0.05, "solver": "ode", "fit_intercept": False},
        {"n_inner_steps": 0, "l2_regularization": 0.1},
        {"inner_step_size": 0.05, "n_jobs": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("many", [False, True])
def test_same_as_fit(params, many):
    target, weight = (Y, WEIGHT) if many else (y, None)
    statistics = TaskStatistics.merge(parts(6, y=target, weight=weight))
    model = MAMLRegressor(**params)
    assert model.fit_statistics(statistics) is model
    expected = MAMLRegressor(**params).fit(X, target, groups=GROUPS, sample_weight=weight)
    rtol = 1e-10 if "inner_step_size" in params else 1e-8  # the learned step is the end of an iteration
    check_same_fit(model, expected, rtol)
    assert_allclose(model.predict(X), expected.predict(X), rtol=10 * rtol, atol=10 * rtol)


@pytest.mark.parametrize("convert", [np.float32, lambda X: pd.DataFrame(X, columns=NAMES)])
@pytest.mark.parametrize("column", [False, True])
def test_attributes_are_those_of_fit(convert, column):
    table, target = convert(X), y[:, None] if column else y
    model = MAMLRegressor(inner_step_size=0.1).fit_statistics(sum(parts(3, table, target)))
    expected = MAMLRegressor(inner_step_size=0.1).fit(table, target, groups=GROUPS)
    check_same_fit(model, expected, rtol=1e-6 if convert is np.float32 else 1e-10)
    assert_allclose(model.adapt(table[:5], target[:5]).coef_, expected.adapt(table[:5], target[:5]).coef_, rtol=1e-5)


def test_a_column_and_a_plain_target():
    """One part with a column of targets makes the parameters those of a column."""
    half = slice(70), slice(70, None)
    for one, two in (half, half[::-1]):
        statistics = task_statistics(X[one], y[one], GROUPS[one]) + task_statistics(X[two], y[two, None], GROUPS[two])
        assert MAMLRegressor(inner_step_size=0.1).fit_statistics(statistics).coef_.shape == (1, 5)


def test_start():
    """With fewer rows than features there are many minimisers, and the start decides."""
    few = np.flatnonzero(GROUPS < 2)[:4]
    statistics = task_statistics(X[few], y[few], GROUPS[few])
    fits = []
    for params in ({"init": np.arange(6.0)}, {"init": "normal", "random_state": 3}, {}):
        model = MAMLRegressor(inner_step_size=0.01, **params)
        check_same_fit(
            model.fit_statistics(statistics),
            MAMLRegressor(inner_step_size=0.01, **params).fit(X[few], y[few], groups=GROUPS[few]),
        )
        fits.append(model.coef_)
    assert not np.allclose(fits[0], fits[2])
    assert not np.allclose(fits[1], fits[2])
    warm = MAMLRegressor(inner_step_size=0.01, init=np.arange(6.0)).fit_statistics(statistics)
    warm.set_params(init="zeros", warm_start=True).fit_statistics(statistics)
    assert_allclose(warm.coef_, fits[0], rtol=1e-10)
    with pytest.raises(ValueError, match="warm_start=True needs the features"):
        warm.fit_statistics(task_statistics(X[:, :4], y, GROUPS))
    assert_allclose(warm.coef_, fits[0], rtol=1e-10)


def test_intercept_is_decided_when_fitting():
    statistics = sum(parts(3))
    for fit_intercept in (True, False):
        params = {"fit_intercept": fit_intercept, "inner_step_size": 0.1}
        expected = MAMLRegressor(**params).fit(X, y, groups=GROUPS)
        check_same_fit(MAMLRegressor(**params).fit_statistics(statistics), expected)
    model = MAMLRegressor(inner_step_size=0.1, fit_intercept=True).partial_fit(X[:70], y[:70], groups=GROUPS[:70])
    model.set_params(fit_intercept=False).partial_fit(X[70:], y[70:], groups=GROUPS[70:])
    assert_allclose(model.coef_, expected.coef_, rtol=1e-10)


def test_a_former_fit_is_replaced_as_a_whole_or_not_at_all():
    statistics = task_statistics(X, y, GROUPS)
    table = pd.DataFrame(Y, columns=list("uvw"))
    model = MAMLRegressor().fit(table, y, groups=GROUPS).adapt(table, y, groups=GROUPS)
    before = pickle.dumps(model)
    for wrong, error in ((sum(parts(2)).tasks, TypeError), (task_statistics(X[:0], y[:0], GROUPS[:0]), ValueError)):
        with pytest.raises(error, match="statistics"):
            model.fit_statistics(wrong)
    with pytest.raises(ValueError, match="max_iter"):
        model.set_params(max_iter=0).fit_statistics(statistics)
    assert pickle.dumps(model.set_params(max_iter=1000)) == before
    check_same_fit(model.fit_statistics(statistics), MAMLRegressor().fit(X, y, groups=GROUPS))


class DoubledLoss(MAMLRegressor):
    def task_loss(self, y, z):
        return 2 * (z - y) ** 2, 4 * (z - y), 4.0


def test_a_subclass_with_a_loss_of_its_own():
    statistics = task_statistics(X, y, GROUPS)
    model = DoubledLoss(inner_step_size=0.05)  # half of the step down twice the loss
    for call in (model.fit_statistics, model.collapse_statistics):
        with pytest.raises(TypeError, match=r"DoubledLoss has a task_loss of its own, .* use fit or partial_fit"):
            call(statistics)
    coef = MAMLRegressor(inner_step_size=0.1).fit(X, y, groups=GROUPS).coef_
    for fit in (model.partial_fit, model.fit):
        assert_allclose(fit(X, y, groups=GROUPS).coef_, coef, rtol=1e-10)


def test_warnings_point_at_the_caller():
    few = task_statistics(X[:4], y[:4], [0, 0, 1, 1])
    cases = [
        (SingleTaskWarning, "ONE task", {"inner_step_size": 0.1}, task_statistics(X, y, None)),
        (ConvergenceWarning, "used up max_iter", {"solver": "gd", "max_iter": 1}, task_statistics(X, y, GROUPS)),
        (UserWarning, "could not learn how tasks differ from 2 tasks with 6 parameters", {}, few),
    ]
    for category, message, params, statistics in cases:
        with pytest.warns(category, match=message) as record:
            MAMLRegressor(**params).fit_statistics(statistics)
        assert [warning.filename for warning in record] == [__file__]
    expected = MAMLRegressor(inner_step_size=0.1).fit(X, y, groups=np.zeros(len(y)))
    with pytest.warns(SingleTaskWarning):
        one = MAMLRegressor(inner_step_size=0.1).fit_statistics(sum(parts(3, groups=None)))
    check_same_fit(one, expected)


def test_partial_fit_after_it_starts_anew():
    model = MAMLRegressor().fit_statistics(task_statistics(X, 5 * y, GROUPS))
    with pytest.warns(UserWarning, match="partial_fit starts anew"):
        model.partial_fit(X, y, groups=GROUPS)
    assert_allclose(model.coef_, MAMLRegressor().fit(X, y, groups=GROUPS).coef_, rtol=1e-10)


# Collapsed where the tasks are whole


def collapsed_parts(model, n_parts=3, X=X, y=y, groups=IDS, weight=None):
    """What each of some machines makes of its tasks, in no order."""
    machine = np.random.default_rng(2).permutation(np.arange(len(SIZES)) % n_parts)[GROUPS]
    for number in range(n_parts):
        rows = machine == number
        chunks = np.array_split(np.flatnonzero(rows), 2)  # a task's rows in any chunk of one machine
        yield model.collapse_statistics(
            sum(
                task_statistics(X[chunk], y[chunk], groups[chunk], None if weight is None else weight[chunk])
                for chunk in chunks
            )
        )


STEP = {"inner_step_size": 0.05}


@pytest.mark.parametrize(
    "params",
    [
        STEP,
        STEP | {"n_inner_steps": 3, "algorithm": "maml"},
        STEP | {"algorithm": "fomaml", "l2_regularization": 0.2},
        STEP | {"adaptation": "implicit", "l2_regularization": 0.3, "n_inner_steps": 2},
        STEP | {"fit_intercept": False, "n_jobs": 2},
        STEP | {"solver": "gd", "max_iter": 20_000, "tol": 1e-10, "init": "normal", "random_state": 3},
        STEP | {"solver": "ode", "algorithm": "maml"},
        {"inner_step_size": [0.1, 0.02, 0.05, 0.0, 0.01, 0.2]},
        {"n_inner_steps": 0, "l2_regularization": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("many", [False, True])
def test_collapsed_is_the_same_as_fit(params, many):
    target, weight = (Y, WEIGHT) if many else (y, None)
    model = MAMLRegressor(**params)
    total = sum(pickle.loads(pickle.dumps(part)) for part in collapsed_parts(model, y=target, weight=weight))
    assert (total.n_tasks, total.n_features, total.n_outputs) == (8, 5, 3 if many else 1)
    assert model.fit_statistics(total) is model
    expected = MAMLRegressor(**params).fit(X, target, groups=GROUPS, sample_weight=weight)
    check_same_fit(model, expected)
    for name, numbers in expected.history_.items():
        assert_allclose(model.history_[name], numbers, rtol=1e-8, atol=1e-9, err_msg=name)
    assert_allclose(model.adapt(X[:9], target[:9]).coef_, expected.adapt(X[:9], target[:9]).coef_, rtol=1e-9)


def test_what_was_collapsed_fits_whatever_it_holds_for():
    """The parameters that f and F do not depend on can be changed afterwards."""
    total = CollapsedStatistics.merge(collapsed_parts(MAMLRegressor(**STEP)))
    for params in ({"algorithm": "maml"}, {"solver": "gd", "tol": 1e-3, "verbose": 0}, {"init": np.arange(6.0)}):
        expected = MAMLRegressor(**STEP, **params).fit(X, y, groups=GROUPS)
        check_same_fit(MAMLRegressor(**STEP, **params).fit_statistics(total), expected)
    warm = MAMLRegressor(**STEP, warm_start=True, solver="gd", max_iter=3)
    for fit in (lambda: warm.fit(X, y, groups=GROUPS), lambda: warm.fit_statistics(total)):
        with pytest.warns(ConvergenceWarning, match="used up max_iter") as record:
            fit()
        assert [warning.filename for warning in record] == [__file__]
    expected = MAMLRegressor(**STEP, solver="gd", max_iter=3)
    with pytest.warns(ConvergenceWarning):
        start = expected.fit(X, y, groups=GROUPS)
    start = np.append(start.coef_, start.intercept_)
    with pytest.warns(ConvergenceWarning):
        expected.set_params(init=start).fit(X, y, groups=GROUPS)
    assert_allclose(warm.coef_, expected.coef_, rtol=1e-10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("inner_step_size", 0.06),
        ("inner_step_size", [0.05] * 6),
        ("n_inner_steps", 2),
        ("adaptation", "implicit"),
        ("l2_regularization", 0.1),
        ("fit_intercept", False),
        ("algorithm", "fomaml"),
    ],
)
def test_collapsed_for_other_parameters(name, value):
    total = sum(collapsed_parts(MAMLRegressor(**STEP)))
    other = MAMLRegressor(**(STEP | {name: value}))
    shown = "first_order=False, .* first_order=True" if name == "algorithm" else rf"{name}=.*, .* {name}="
    with pytest.raises(ValueError, match=f"collapsed for {shown}.*with the estimator that is to be fitted"):
        other.fit_statistics(total)
    with pytest.raises(ValueError, match=f"collapsed for {shown}"):
        total + next(collapsed_parts(other))
    assert not hasattr(other, "coef_")


def test_collapsed_needs_a_given_step_and_task_ids():
    statistics = task_statistics(X, y, GROUPS)
    with pytest.raises(ValueError, match="'auto' is learned from the statistics of every task"):
        MAMLRegressor().collapse_statistics(statistics)
    with pytest.raises(ValueError, match="'auto' is learned from the statistics of every task"):
        MAMLRegressor().fit_statistics(MAMLRegressor(**STEP).collapse_statistics(statistics))
    with pytest.raises(ValueError, match="without groups are those of one task"):
        MAMLRegressor(**STEP).collapse_statistics(task_statistics(X, y, None))
    with pytest.raises(TypeError, match="must be TaskStatistics, got ndarray"):
        MAMLRegressor(**STEP).collapse_statistics(X)
    with pytest.raises(ValueError, match="inner_step_size must be a number"):
        MAMLRegressor(inner_step_size=[0.1]).collapse_statistics(statistics)
    with pytest.raises(ValueError, match="max_iter"):
        MAMLRegressor(**STEP, max_iter=0).collapse_statistics(statistics)
    collapsed = MAMLRegressor(**STEP).collapse_statistics(statistics)
    for other in (1, statistics):
        with pytest.raises(TypeError):
            collapsed + other
        with pytest.raises(TypeError):
            other + collapsed


def test_collapsed_parts_that_differ_or_are_empty():
    model = MAMLRegressor(**STEP)
    table = pd.DataFrame(X, columns=NAMES)
    whole, empty = (model.collapse_statistics(task_statistics(table[:n], y[:n], IDS[:n])) for n in (None, 0))
    before = pickle.dumps((whole, empty))
    for total in (whole + empty, empty + whole, CollapsedStatistics.merge([empty, whole, empty]), sum([whole])):
        assert total.n_tasks == 8
        assert model.fit_statistics(total).feature_names_in_.tolist() == NAMES
    twice = whole + whole  # nobody can know
    assert twice.n_tasks == 16
    assert_allclose(MAMLRegressor(**STEP).fit_statistics(twice).coef_, model.coef_, rtol=1e-10)
    assert pickle.dumps((whole, empty)) == before
    with pytest.raises(ValueError, match="those of no row"):
        model.fit_statistics(empty + empty)
    for rows, target, message in ((X, y, "features"), (table, Y, "n_outputs=1 and of n_outputs=3")):
        with pytest.raises(ValueError, match=message):
            whole + model.collapse_statistics(task_statistics(rows, target, IDS))


def test_type_of_collapsed_parameters_is_that_of_fit():
    model = MAMLRegressor(**STEP)
    for table, target in ((np.float32(X), y), (X, y[:, None])):
        expected = MAMLRegressor(**STEP).fit(table, target, groups=GROUPS)
        total = sum(collapsed_parts(model, X=table, y=target))
        check_same_fit(model.fit_statistics(total), expected, rtol=1e-6 if table is not X else 1e-10)
    mixed = [next(collapsed_parts(model, 1, *each)) for each in ((X, y), (np.float32(X), y[:, None]))]
    coef = model.fit_statistics(sum(mixed)).coef_
    assert (coef.shape, coef.dtype) == ((1, 5), np.float64)


def test_collapsed_size_does_not_grow_with_the_tasks():
    for algorithm, n_sums in (("maml", 2), ("fomaml", 3)):
        for n_tasks in (2, 8):
            rows = n_tasks > GROUPS
            statistics = task_statistics(X[rows], Y[rows], IDS[rows])
            collapsed = MAMLRegressor(**STEP, algorithm=algorithm).collapse_statistics(statistics)
            assert collapsed.n_tasks == n_tasks
            assert collapsed.nbytes == n_sums * 8 * 6 * (6 + 3 + 1)
            assert len(pickle.dumps(collapsed)) < collapsed.nbytes + 1_500
    assert repr(collapsed).startswith("CollapsedStatistics(n_tasks=8, n_features=5, n_outputs=3, parameters={'inner_")


def test_numbers_out_of_range_when_collapsed():
    model = MAMLRegressor(inner_step_size=1e200, n_inner_steps=2)
    total = sum(collapsed_parts(model))
    with pytest.raises(ValueError, match="leave the range of floating point"):
        model.fit_statistics(total)


# What is spread over a cluster


@pytest.mark.parametrize("module", ["dask.dataframe.core", "dask_expr._collection", "pyspark.sql", "ray.data.dataset"])
@pytest.mark.parametrize("argument", ["X", "y", "groups", "sample_weight"])
def test_a_table_on_a_cluster_is_not_downloaded(module, argument):
    def download(self, *args, **kwargs):
        raise AssertionError("downloaded")

    spread = type("Frame", (), {"__module__": module, "__array__": download, "__len__": download})()
    given = {"X": X, "y": (y > 1).astype(int), "groups": GROUPS, "sample_weight": WEIGHT} | {argument: spread}
    fitted = MAMLRegressor().fit(X, y, groups=GROUPS)
    calls = [
        *(cls().fit for cls in (MAMLRegressor, MAMLSVC, MAMLRegressorCV)),
        MAMLRegressor().partial_fit,
        functools.partial(MAMLSVC().partial_fit, classes=[0, 1]),
        fitted.adapt,
        task_statistics,
    ]
    if argument in ("X", "groups"):
        calls.append(lambda X, groups, **_: fitted.predict(X, groups=groups))
    engine = module.partition(".")[0]
    for call in calls:
        with pytest.raises(TypeError, match=rf"got a {engine} Frame as {argument}.*fit_statistics.*scaling\.html"):
            call(**given)


# Recipes


def recipe(name):
    spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fit_in_little_memory(statistics_of):
    """A fit, and the most memory that it and the statistics took."""
    tracemalloc.start()
    try:
        model = MAMLRegressor(inner_step_size=0.02).fit_statistics(statistics_of())
        return model, tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_map_larger_than_memory(tmp_path):
    module = recipe("stream_memmap")
    paths = module.write(tmp_path, n_tasks=40, n_samples=1500, n_features=20)
    mapped = [np.load(path, mmap_mode="r") for path in paths]
    model, peak = fit_in_little_memory(lambda: module.statistics_of(*mapped, chunk=1_000))
    assert peak < sum(path.stat().st_size for path in paths) / 3
    X, y, groups = map(np.array, mapped)
    check_same_fit(model, MAMLRegressor(inner_step_size=0.02).fit(X, y, groups=groups))


def test_parquet_file_larger_than_memory(tmp_path):
    module, path = recipe("stream_parquet"), tmp_path / "table.parquet"
    module.write(path, n_tasks=40, n_samples=1500, n_features=20)
    model, peak = fit_in_little_memory(lambda: module.statistics_of(path, target="y", task="task", batch_size=1_000))
    assert peak < path.stat().st_size / 3
    table = pd.read_parquet(path)
    features = table.drop(columns=["y", "task"])
    check_same_fit(model, MAMLRegressor(inner_step_size=0.02).fit(features, table["y"], groups=table["task"]))
    assert model.feature_names_in_.tolist() == [f"x{j}" for j in range(20)]
