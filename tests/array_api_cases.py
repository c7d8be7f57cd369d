"""Arrays of other libraries, on other devices: the same numbers as with NumPy's, where X is.

SciPy has to be told of them before it is imported: SCIPY_ARRAY_API=1 pytest tests/array_api_cases.py (which is what
test_array_api.py does). Libraries and devices that are not here are skipped, and said to be.
"""

import math
import os
import pickle
import warnings
from unittest import SkipTest

import array_api_strict
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import estimator_checks_generator
from third_party import MAMLLogisticRegression, MAMLQuantileRegressor

import sklearn_maml.arrays as arrays_module
import sklearn_maml.rows as rows_module
from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, task_statistics
from sklearn_maml._sklearn import array_device, array_namespace
from sklearn_maml.arrays import to_host
from sklearn_maml.compose import GroupsFromColumn

pytestmark = pytest.mark.skipif(
    "SCIPY_ARRAY_API" not in os.environ, reason="SCIPY_ARRAY_API=1 has to be set before SciPy is imported"
)


class Place:
    """A library and a device."""

    def __init__(self, library, device, dtype="float64"):
        self.library, self.dtype = library, dtype
        self.device = library.Device(device) if library is array_api_strict else device

    def __call__(self, numbers):
        numbers = np.array(numbers)
        numbers = numbers.astype(self.dtype) if numbers.dtype.kind == "f" else numbers
        return array_namespace(self.library.asarray(0)).asarray(numbers, device=self.device)

    def check(self, array, dtype=None):
        """It is here, and of this type."""
        example = self(np.zeros(1, dtype or self.dtype))
        assert array_namespace(array) is array_namespace(example)
        assert array_device(array) == array_device(example)
        if dtype is None:
            assert array.dtype == example.dtype


def places():
    """Those that are here; the others as skipped."""
    yield pytest.param(Place(array_api_strict, "device1"), id="strict")
    for name, device in (("torch", "cpu"), ("torch", "cuda"), ("cupy", None)):
        try:
            library = pytest.importorskip(name)
            if device == "cuda" and not library.cuda.is_available():
                pytest.skip("torch has no CUDA device here")
        except pytest.skip.Exception as reason:
            yield pytest.param(None, id=f"{name} {device}", marks=pytest.mark.skip(reason=str(reason)))
        else:
            yield pytest.param(Place(library, device), id=f"{name} {device}")


everywhere = pytest.mark.parametrize("place", list(places()))
STRICT = Place(array_api_strict, "device1")
ESTIMATORS = [
    MAMLRegressor(),
    MAMLRegressor(inner_step_size=0.01),
    MAMLRegressor(inner_step_size=0.01, solver="gd", algorithm="maml", max_iter=5, tol=0, fit_intercept=False),
    MAMLRegressor(inner_step_size=0.01, algorithm="fomaml", n_inner_steps=3, l2_regularization=0.1),
    MAMLRegressor(inner_step_size=[0.01, 0.02, 0.01, 0.03, 0.1], init=[1.0, 2.0, 3.0, 4.0, 5.0], solver="lbfgs"),
    MAMLRegressor(n_inner_steps=0),
    MAMLRegressor(adaptation="implicit", n_jobs=2),
    MAMLRegressor(adaptation="implicit", metric="full", l2_regularization=0.1, n_inner_steps=2),
    MAMLRegressor(adaptation="implicit", inner_step_size=0.1),
    MAMLSVC(max_iter=3),
    MAMLSVC(loss="hinge", max_iter=3, fit_intercept=False),
    MAMLSVC(loss="smooth_hinge", solver="newton-cg", inner_step_size=0.01, C=np.inf, max_iter=3),
    MAMLSVC(adaptation="implicit", max_iter=2),
    MAMLLogisticRegression(),
    MAMLQuantileRegressor(inner_step_size=0.001),
]
each = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)


def tasks():
    """Twelve tasks of 1 to 30 rows in any order, their targets and weights; four features."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat([f"task {i}" for i in range(12)], rng.integers(1, 30, size=12)))
    X = rng.normal(size=(len(groups), 4))
    slopes = dict(zip(np.unique(groups), rng.normal(size=(12, 4)), strict=True))
    y = X @ [1.0, -1.0, 0.5, 0.0] + np.array([x @ slopes[g] for x, g in zip(X, groups, strict=True)])
    return X, y + rng.normal(size=len(y)), groups, rng.integers(0, 3, size=len(y)).astype(float)


def target(estimator, y):
    return (y > 0).astype(int) if is_classifier(estimator) else y


def same(array, expected, place, tol=1e-10, dtype=None):
    place.check(array, dtype)
    assert_allclose(to_host(array), expected, rtol=0, atol=tol * (1 + np.max(np.abs(expected))))


@pytest.fixture(autouse=True)
def _short_training(monkeypatch):
    """Small budgets are meant; and the size of an array is a method, as it is in torch."""
    monkeypatch.setattr(type(array_api_strict.asarray(0)), "size", lambda array: math.prod(array.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@each
@everywhere
def test_fit_adapt_predict(estimator, place):
    X, y, groups, weight = tasks()
    y = target(estimator, y)
    support, more, new = slice(0, 40), slice(20, 60), slice(60, 70)

    def results(put):
        """Every public number, by name."""
        model = clone(estimator).fit(put(X), put(y), groups=groups, sample_weight=put(weight))
        adapted = model.adapt(put(X[support]), put(y[support]), groups=groups[support])
        again = adapted.adapt(put(X[more]), put(y[more]), groups=groups[more], sample_weight=put(weight[more] + 1))
        one = model.adapt(put(X[new]), put(y[new]))
        unknown = np.where(np.arange(len(X)) % 3, groups, "another task")
        names = ("coef_", "intercept_", "inner_step_size_", "task_covariance_", "noise_variance_")
        found = {name: getattr(model, name, None) for name in names}
        found |= {f"adapted {name}": getattr(adapted, name) for name in ("task_coef_", "task_intercept_")}
        found |= {f"again {name}": getattr(again, name) for name in ("task_coef_", "task_intercept_")}
        found |= {"one coef_": one.coef_, "one intercept_": one.intercept_, "steps": one.inner_step_size_}
        for method in ("predict", "decision_function") if is_classifier(estimator) else ("predict",):
            call = {name: getattr(each_model, method) for name, each_model in (("f", model), ("again", again))}
            found |= {method: call["f"](put(X)), f"{method} by task": call["again"](put(X), groups=unknown)}
        scores = [model.score(put(X), put(y)), again.score(put(X), put(y), groups=groups, sample_weight=put(weight))]
        history = {name: numbers for name, numbers in model.history_.items() if name != "n_hessp"}
        return {name: value for name, value in found.items() if value is not None}, scores, history

    expected, expected_scores, expected_history = results(lambda numbers: numbers)
    with config_context(array_api_dispatch=True):
        found, scores, history = results(place)
    assert found.keys() == expected.keys() >= {"coef_", "again task_coef_", "predict by task"}
    for name, value in expected.items():
        if isinstance(found[name], float):  # told, not predicted
            assert_allclose(found[name], value, rtol=1e-10)
        else:
            same(found[name], value, place, dtype=np.int64 if value.dtype.kind == "i" else None)
    assert_allclose(scores, expected_scores, rtol=1e-10)
    for name, numbers in expected_history.items():
        assert_allclose(history[name], numbers, rtol=1e-6, atol=1e-10)


@everywhere
@pytest.mark.parametrize("numbers", [8_000_000, 60], ids=["at once", "in parts"])
def test_stacks_of_a_device(monkeypatch, place, numbers):
    """What has memory of its own gets larger stacks; a large task is summed up in parts."""
    X, y, groups, weight = tasks()
    expected = MAMLRegressor().fit(X, y, groups=groups, sample_weight=weight).adapt(X, y, groups=groups)
    monkeypatch.setattr(rows_module, "is_on_cpu", lambda array: False)
    monkeypatch.setattr(rows_module, "NUMBERS_ON_DEVICE", numbers)
    cut, sizes = rows_module.TaskRows._cut, set()
    monkeypatch.setattr(rows_module.TaskRows, "_cut", lambda self, n, most: sizes.add(most) or cut(self, n, most))
    with config_context(array_api_dispatch=True):
        model = MAMLRegressor().fit(place(X), place(y), groups=groups, sample_weight=place(weight))
        adapted = model.adapt(place(X), place(y), groups=groups)
        same(adapted.coef_, expected.coef_, place)
        same(adapted.task_coef_, expected.task_coef_, place)
    assert sizes == {numbers}


@everywhere
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
def test_fewer_rows_than_features(place, adaptation, fit_intercept):
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(30, 12)), np.repeat(np.arange(6), 5)
    Y = X @ rng.normal(size=(12, 2)) + rng.normal(size=(6, 2))[groups] + rng.normal(size=(30, 2))
    estimator = MAMLRegressor(adaptation=adaptation, fit_intercept=fit_intercept, n_inner_steps=2, inner_step_size=0.05)
    expected = clone(estimator).fit(X, Y, groups=groups)
    with config_context(array_api_dispatch=True):
        model = estimator.fit(place(X), place(Y), groups=place(groups))
        same(model.coef_, expected.coef_, place)
        same(model.intercept_, expected.intercept_, place)
        same(model.predict(place(X)), expected.predict(X), place)


@everywhere
def test_what_travels(monkeypatch, place):
    """With a given step no more comes to the host than d x d numbers of a stack, and one of each task."""
    X, y, groups, _ = tasks()
    convert, travelled = arrays_module.convert_to_numpy, []

    def count(array, xp):
        travelled.append(int(np.prod(array.shape)))
        return convert(array, xp)

    monkeypatch.setattr(arrays_module, "convert_to_numpy", count)
    with config_context(array_api_dispatch=True):
        model = MAMLRegressor(inner_step_size=0.01).fit(place(X), place(y), groups=groups)
        assert max(travelled) == 5 * 5
        travelled.clear()
        model.adapt(place(X), place(y), groups=groups).predict(place(X), groups=groups)
        assert max(travelled) == 12  # the largest safe step of each task
        travelled.clear()
        MAMLSVC(inner_step_size=0.01, max_iter=3).fit(place(X), target(MAMLSVC(), y), groups=groups)
        assert max(travelled) == 5 * 5


@everywhere
@pytest.mark.parametrize("estimator", [MAMLRegressor(), MAMLSVC(), MAMLLogisticRegression()], ids=repr)
def test_streams(place, estimator):
    X, y, groups, weight = tasks()
    y, expected, model = target(estimator, y), clone(estimator), clone(estimator)
    classes = {"classes": [0, 1]} if is_classifier(estimator) else {}
    for rows in np.array_split(np.arange(len(X)), 3):
        given = {"groups": groups[rows], **classes}
        expected.partial_fit(X[rows], y[rows], sample_weight=weight[rows], **given)
        with config_context(array_api_dispatch=True):
            model.partial_fit(place(X[rows]), place(y[rows]), sample_weight=place(weight[rows]), **given)
        same(model.coef_, expected.coef_, place)
        model = pickle.loads(pickle.dumps(model)) if "strict" not in str(place.library) else model


@everywhere
def test_statistics(place):
    X, y, groups, weight = tasks()
    expected = MAMLRegressor().fit(X, y, groups=groups, sample_weight=weight)
    with config_context(array_api_dispatch=True):
        parts = [
            task_statistics(place(X[rows]), place(y[rows]), groups[rows], place(weight[rows]))
            for rows in np.array_split(np.arange(len(X)), 3)
        ]
    model = MAMLRegressor().fit_statistics(sum(parts))  # statistics are the host's
    assert_allclose(model.coef_, expected.coef_, rtol=1e-10)
    assert model.coef_.dtype == np.float64


@everywhere
def test_standard_deviations(place):
    X, y, groups, _ = tasks()
    expected = MAMLRegressor(adaptation="implicit").fit(X, y, groups=groups)
    with config_context(array_api_dispatch=True):
        model = MAMLRegressor(adaptation="implicit").fit(place(X), place(y), groups=groups)
        same(model.predict(place(X), return_std=True)[1], expected.predict(X, return_std=True)[1], place)
        some = groups != groups[0]
        adapted, expected = (
            each.adapt(put(X[some]), put(y[some]), groups=groups[some])
            for each, put in ((model, place), (expected, np.array))
        )
        for one, other in zip(
            adapted.predict(place(X), groups=groups, return_std=True),
            expected.predict(X, groups=groups, return_std=True),
            strict=True,
        ):
            same(one, other, place)


@pytest.mark.parametrize(
    "estimator", [MAMLRegressor(), MAMLSVC(max_iter=2), MAMLSVC(adaptation="implicit", max_iter=2)], ids=repr
)
def test_single_precision(estimator):
    """float32 stays float32, and is reckoned in float64 where the device has it."""
    warnings.filterwarnings("error", message="an implicit step did not converge")
    X, y, groups, _ = tasks()
    X, y = X.astype(np.float32), target(estimator, y)
    expected = clone(estimator).fit(X, y, groups=groups)
    for device, tol in (("device1", 1e-7), ("no_float64", 1e-3)):
        place = Place(array_api_strict, device, "float32")
        with config_context(array_api_dispatch=True):
            model = clone(estimator).fit(place(X), place(y), groups=groups)
            same(model.coef_, expected.coef_, place, tol)
            if isinstance(estimator, MAMLRegressor):
                assert model.history_["grad_norm"][-1] < 1e-10  # solved on the host, in double precision
            adapted = model.adapt(place(X), place(y), groups=groups)
            same(adapted.task_coef_, expected.adapt(X, y, groups=groups).task_coef_, place, tol)
            if not is_classifier(estimator):
                same(adapted.predict(place(X), groups), expected.adapt(X, y, groups).predict(X, groups), place, tol)


def test_warm_start_and_labels():
    X, y, groups, _ = tasks()
    labels = np.where(y > 1, "high", np.where(y < -1, "low", "middle"))
    expected = MAMLSVC(warm_start=True, max_iter=2).fit(X, labels, groups=groups).fit(X, labels, groups=groups)
    with config_context(array_api_dispatch=True):
        model = MAMLSVC(warm_start=True, max_iter=2).fit(STRICT(X), labels, groups=groups)
        model.fit(STRICT(X), labels, groups=groups)
        same(model.coef_, expected.coef_, STRICT)
        assert_array_equal(model.predict(STRICT(X)), expected.predict(X))  # strings are the host's
        model.set_params(warm_start=False)
        numbers = np.unique(labels, return_inverse=True)[1] + 1.0
        model.fit(STRICT(X), STRICT(numbers), groups=groups)
        assert set(to_host(model.predict(STRICT(X))).tolist()) <= {1.0, 2.0, 3.0}


def test_everything_follows_the_features():
    X, y, groups, weight = tasks()
    expected = MAMLRegressor().fit(X, y, groups=groups, sample_weight=weight)
    codes = np.unique(groups, return_inverse=True)[1]
    with config_context(array_api_dispatch=True):
        other = Place(array_api_strict, "device2")
        for put_X, put in ((STRICT, np.array), (STRICT, list), (np.array, STRICT), (STRICT, other)):
            model = MAMLRegressor().fit(put_X(X), put(y), groups=put(codes), sample_weight=put(weight))
            assert_allclose(to_host(model.coef_), expected.coef_, rtol=1e-10)
            assert isinstance(model.coef_, np.ndarray) == (put_X is np.array)
            assert isinstance(model.score(put_X(X), put(y)), float)


def test_errors():
    X, y, groups, _ = tasks()
    with config_context(array_api_dispatch=True):
        model = MAMLRegressor().fit(STRICT(X), STRICT(y), groups=groups)
        for method in (model.predict, lambda X: model.adapt(X, y), lambda X: model.score(X, y)):
            with pytest.raises(ValueError, match=r"MAMLRegressor\.(predict|adapt)\(\) must use the same namespace"):
                method(X)
        with pytest.raises(ValueError, match="NaN"):
            model.adapt(STRICT(np.where(X > 2, np.nan, X)), STRICT(y))
        single = Place(array_api_strict, "device1", "float32")
        with pytest.raises(ValueError, match=r"the parameters leave the range of array_api_strict\.float32"):
            MAMLRegressor(inner_step_size=0.01).fit(single(X), STRICT(1e100 * y), groups=groups)
        with pytest.raises(TypeError, match="MAMLRegressorCV takes NumPy arrays"):
            MAMLRegressorCV().fit(STRICT(X), STRICT(y), groups=groups)
    with pytest.raises(ValueError, match=r"fitted to arrays of array_api_strict: call predict in .*array_api_dispatch"):
        model.predict(X)
    assert not get_tags(MAMLRegressorCV()).array_api_support
    assert not get_tags(GroupsFromColumn(MAMLRegressor(), 0)).array_api_support


@pytest.mark.parametrize("estimator", [MAMLRegressor(), MAMLSVC(max_iter=3), MAMLLogisticRegression()], ids=repr)
def test_moved_to_the_host(estimator):
    """Fitted there, put to use here."""
    from sklearn.utils._array_api import move_estimator_to  # what scikit-learn's error message tells users to call

    X, y, groups, _ = tasks()
    y = target(estimator, y)
    expected = clone(estimator).fit(X, y, groups=groups)
    with config_context(array_api_dispatch=True):
        model = move_estimator_to(clone(estimator).fit(STRICT(X), STRICT(y), groups=groups), np, "cpu")
    adapted = model.adapt(X[:40], y[:40], groups=groups[:40])
    expected = expected.adapt(X[:40], y[:40], groups=groups[:40])
    assert_allclose(adapted.task_coef_, expected.task_coef_, atol=1e-9)
    assert_allclose(adapted.predict(X, groups=groups), expected.predict(X, groups=groups), atol=1e-9)


def test_a_stream_that_moves():
    from sklearn.utils._array_api import move_estimator_to

    X, y, groups, _ = tasks()
    expected = MAMLRegressor().fit(X, y, groups=groups)
    model = MAMLRegressor().partial_fit(X[:50], y[:50], groups=groups[:50])
    with config_context(array_api_dispatch=True):
        model = move_estimator_to(model, array_api_strict, STRICT.device)
        same(model.partial_fit(STRICT(X[50:]), STRICT(y[50:]), groups=groups[50:]).coef_, expected.coef_, STRICT)


@pytest.mark.parametrize(
    "estimator",
    [
        MAMLRegressor(),
        MAMLRegressor(adaptation="implicit"),
        MAMLSVC(),
        MAMLSVC(adaptation="implicit", max_iter=2),
        MAMLLogisticRegression(),
        MAMLQuantileRegressor(),
    ],
    ids=repr,
)
def test_checks_of_scikit_learn(estimator):
    """Those for arrays; the ones for libraries or devices that are not here skip themselves."""
    ran = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model, check in estimator_checks_generator(clone(estimator)):
            if "check_array_api" in str(check):
                try:
                    check(model)
                    ran.append(str(check))
                except (SkipTest, pytest.skip.Exception):
                    pass
    for name in ("array_namespace='numpy'", "device_name='CPU_DEVICE'", "device_name='device1'", "same_namespace"):
        assert any(name in check for check in ran), name
