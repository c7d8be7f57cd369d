"""Made-up and real tasks: formulas, sizes, seeds, what is which digit, and MNIST without a network."""

import hashlib
import inspect
import io
import json
import sys
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_diabetes, load_digits, make_classification
from sklearn.utils import Bunch, check_random_state

from sklearn_maml import datasets
from sklearn_maml.datasets import (
    fetch_mnist_tasks,
    load_diabetes_tasks,
    load_digits_tasks,
    make_classification_tasks,
    make_regression_tasks,
    make_sinusoid_tasks,
    real,
)
from sklearn_maml.datasets.real import digit_pairs

MAKERS = [make_regression_tasks, make_classification_tasks, make_sinusoid_tasks]
PAIRS = {"1 v 2": (1, 2), "3 v 4": (3, 4), "5 v 6": (5, 6), "7 v 8": (7, 8), "9 v 0": (9, 0)}


def test_everything_public_is_tested_here():
    assert set(datasets.__all__) <= set(globals())


@pytest.mark.parametrize("name", datasets.__all__)
def test_options_have_to_be_named(name):
    """Only the sizes of made-up tasks may be given by position."""
    parameters = inspect.signature(getattr(datasets, name)).parameters.values()
    by_position = [p.name for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert by_position == [
        n for n in ("n_tasks", "n_samples", "n_features") if name.startswith("make") and n in by_position
    ]
    assert {"return_X_y_groups"} <= {p.name for p in parameters}


# Made-up tasks


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("n_samples", [6, [3, 1, 5]])
def test_made_up_tasks(make, n_samples):
    data = make(3, n_samples, random_state=0)
    sizes = np.broadcast_to(n_samples, 3)
    assert isinstance(data, Bunch)
    assert data.data.shape == (sizes.sum(), 1 if make is make_sinusoid_tasks else 20)
    assert data.data.dtype == np.float64
    assert data.target.dtype == (np.int64 if make is make_classification_tasks else np.float64)
    np.testing.assert_array_equal(data.groups, np.repeat([0, 1, 2], sizes))
    np.testing.assert_array_equal(data.tasks, [0, 1, 2])
    assert "Simulated" in data.DESCR
    assert "section 5" in data.DESCR
    for array, same in zip(
        (data.data, data.target, data.groups), make(3, n_samples, random_state=0, return_X_y_groups=True), strict=True
    ):
        np.testing.assert_array_equal(array, same)


@pytest.mark.parametrize(
    ("make", "shape", "n_tasks"),
    [
        (make_regression_tasks, (1000, 20), 10),
        (make_classification_tasks, (15000, 20), 50),
        (make_sinusoid_tasks, (1000, 1), 100),
    ],
)
def test_default_sizes_are_those_of_the_papers(make, shape, n_tasks):
    data = make(random_state=0)
    assert data.data.shape == shape
    np.testing.assert_array_equal(np.bincount(data.groups), shape[0] // n_tasks)


@pytest.mark.parametrize("make", MAKERS)
def test_seeds(make):
    def X(n_tasks=2, seed=0):
        return make(n_tasks, 5, random_state=seed, return_X_y_groups=True)[0]

    first = X()
    shared = check_random_state(None)
    shared.random_sample()
    state = shared.get_state()[1:3]
    np.testing.assert_array_equal(first, X())
    np.testing.assert_array_equal(first, X(5)[:10])
    np.testing.assert_equal(state, shared.get_state()[1:3])
    assert not np.any(np.isin(first, X(seed=1)))
    assert len(np.unique(X(5))) == X(5).size
    rng = np.random.RandomState(0)
    np.testing.assert_array_equal(first, X(seed=rng))
    assert not np.any(np.isin(first, X(seed=rng)))


def test_regression_without_noise_is_exact():
    data = make_regression_tasks(4, [5, 1, 30, 7], 3, noise=0, random_state=0)
    assert data.coef.shape == (4, 3)
    for x, y, i in zip(data.data, data.target, data.groups, strict=True):
        assert y == pytest.approx(x @ data.coef[i])


def test_regression_noise():
    """Its standard deviation is `noise`, it is independent of X, and nothing else depends on it."""
    exact = make_regression_tasks(5, 4000, 3, noise=0, random_state=0)
    noisy = make_regression_tasks(5, 4000, 3, noise=2.5, random_state=0)
    np.testing.assert_array_equal(exact.data, noisy.data)
    np.testing.assert_array_equal(exact.coef, noisy.coef)
    error = noisy.target - exact.target
    assert error.std() == pytest.approx(2.5, rel=0.03)
    assert np.abs(np.corrcoef(error, noisy.data.T)[0, 1:]).max() < 0.03


def test_regression_features_are_standard_normal():
    X = make_regression_tasks(2, 20000, 3, random_state=0).data
    np.testing.assert_allclose(X.T @ X / len(X), np.eye(3), atol=0.03)
    np.testing.assert_allclose(X.mean(axis=0), 0, atol=0.03)
    assert np.mean(np.abs(X) < 1) == pytest.approx(0.6827, abs=0.01)


def test_regression_coefficients():
    coef = make_regression_tasks(4000, 1, 2, random_state=0).coef
    np.testing.assert_allclose(coef.mean(axis=0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(coef.T), np.eye(2), atol=0.07)
    assert np.mean(np.abs(coef) < 1) == pytest.approx(0.6827, abs=0.02)
    moved = make_regression_tasks(4000, 1, 2, coef_mean=[3.0, -2.0], coef_std=[0.0, 0.5], random_state=0).coef
    np.testing.assert_allclose(moved, [3.0, -2.0] + coef * [0.0, 0.5])
    np.testing.assert_allclose(
        make_regression_tasks(9, 1, 2, coef_mean=1, coef_std=2, random_state=0).coef, 1 + 2 * coef[:9]
    )


def test_classification_is_make_classification_for_each_task():
    data = make_classification_tasks(3, [50, 20, 80], 6, class_sep=2.0, flip_y=0.3, random_state=7)
    seeds = np.random.RandomState(7).randint(2**31 - 1, size=3)
    for i, (n, seed) in enumerate(zip([50, 20, 80], seeds, strict=True)):
        X, y = make_classification(n, 6, class_sep=2.0, flip_y=0.3, random_state=seed)
        np.testing.assert_array_equal(data.data[data.groups == i], X)
        np.testing.assert_array_equal(data.target[data.groups == i], np.where(y == 1, 1, -1))
    assert "coef" not in data


def test_classification_defaults_are_those_of_scikit_learn():
    X, y, _ = make_classification_tasks(1, 100, random_state=3, return_X_y_groups=True)
    seed = np.random.RandomState(3).randint(2**31 - 1)
    expected, labels = make_classification(random_state=seed)
    np.testing.assert_array_equal(X, expected)
    np.testing.assert_array_equal(y, 2 * labels - 1)


def test_classes_are_evenly_split():
    data = make_classification_tasks(4, 300, flip_y=0, random_state=0)
    assert [data.target[data.groups == i].sum() for i in range(4)] == [0] * 4
    flipped = make_classification_tasks(random_state=0)
    assert np.abs([flipped.target[flipped.groups == i].mean() for i in range(50)]).max() < 0.03


def test_a_task_does_not_depend_on_the_size_of_others():
    few, many = (make_classification_tasks(2, [n, 30], random_state=0) for n in (10, 100))
    np.testing.assert_array_equal(few.data[few.groups == 1], many.data[many.groups == 1])


def test_sinusoids():
    data = make_sinusoid_tasks(500, 20, random_state=0)
    for x, y, i in zip(data.data[:, 0], data.target, data.groups, strict=True):
        assert y == pytest.approx(data.amplitude[i] * np.sin(x - data.phase[i]), abs=1e-12)
    for values, low, high in (data.amplitude, 0.1, 5), (data.phase, 0, np.pi), (data.data, -5, 5):
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert abs(np.corrcoef(data.amplitude, data.phase)[0, 1]) < 0.1


def test_sinusoids_in_other_ranges_and_with_noise():
    ranges = {"amplitude": (2, 2), "phase": (-1, 0), "x_range": (10.0, 11.0)}
    data = make_sinusoid_tasks(30, 200, noise=0.5, random_state=0, **ranges)
    assert np.all(data.amplitude == 2)
    assert -1 <= data.phase.min() < -0.9 < -0.1 < data.phase.max() <= 0
    assert 10 <= data.data.min() < 10.1 < 10.9 < data.data.max() <= 11
    noise = data.target - 2 * np.sin(data.data[:, 0] - data.phase[data.groups])
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    exact = make_sinusoid_tasks(30, 200, random_state=0, **ranges)
    np.testing.assert_array_equal(exact.data, data.data)
    np.testing.assert_array_equal(exact.phase, data.phase)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("n_tasks", [0, -1, 2.0, "2"])
def test_bad_number_of_tasks(make, n_tasks):
    with pytest.raises((TypeError, ValueError), match="n_tasks"):
        make(n_tasks, 5)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("n_samples", [0, -3, 5.0, None, "5", [5, 5, 5], [5], [], [5, 0], [[5, 5]], [5.0, 5.0]])
def test_bad_number_of_rows(make, n_samples):
    with pytest.raises(ValueError, match=r"n_samples must be a positive int, or n_tasks=2 of them"):
        make(2, n_samples)


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (make_regression_tasks, {"n_features": 0}, "n_features == 0, must be >= 1"),
        (make_regression_tasks, {"n_features": 2.0}, "n_features must be an instance of int"),
        (make_classification_tasks, {"n_features": 3}, "n_features == 3, must be >= 4"),
        (make_classification_tasks, {"class_sep": 0}, "class_sep"),
        (make_classification_tasks, {"flip_y": 1.5}, "flip_y"),
        (
            make_regression_tasks,
            {"coef_mean": [1.0, 2.0]},
            "coef_mean must be a finite number, or n_features=20 of them",
        ),
        (make_regression_tasks, {"coef_mean": np.nan}, "coef_mean must be a finite number"),
        (make_regression_tasks, {"coef_std": "1"}, "coef_std must be a finite number"),
        (make_regression_tasks, {"coef_std": np.inf}, "coef_std must be a finite number"),
        (make_regression_tasks, {"coef_std": -1.0}, "coef_std must not be negative"),
        *[
            (make, {"noise": noise}, "noise is a standard deviation")
            for make in (make_regression_tasks, make_sinusoid_tasks)
            for noise in (-0.1, np.nan, np.inf, "1", None, [1.0, 2.0])
        ],
        *[
            (make_sinusoid_tasks, {name: bounds}, f"{name} must be two finite numbers")
            for name in ("amplitude", "phase", "x_range")
            for bounds in ((1, 0), (1,), (0, 1, 2), 3.0, (0, np.inf), (np.nan, 1), ("a", "b"), None)
        ],
        *[(make, {"random_state": "zero"}, "seed") for make in MAKERS],
    ],
)
def test_bad_arguments(make, arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make(2, 5, **arguments)


# Diabetes


def test_diabetes_tasks():
    data = load_diabetes_tasks()
    sizes = {str(task): int(np.sum(data.groups == task)) for task in data.tasks}
    assert sizes == {
        "sex 1, age < 48.5": 125,
        "sex 1, age > 48.5": 110,
        "sex 2, age < 48.5": 77,
        "sex 2, age > 48.5": 130,
    }
    frame = load_diabetes(scaled=False, as_frame=True).frame
    for group, age, sex, y, target in zip(data.groups, frame.age, frame.sex, data.target, frame.target, strict=True):
        assert group == f"sex {int(sex)}, age {'>' if age > frame.age.mean() else '<'} 48.5"
        assert y == target


def test_diabetes_scaling():
    unscaled, scaled = load_diabetes(scaled=False, as_frame=True).data, load_diabetes(as_frame=True).data
    names = ["bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    raw, unit_norm, standard = (load_diabetes_tasks(scaling=s).data for s in ("raw", "unit_norm", "standard"))
    np.testing.assert_array_equal(raw, unscaled[names])
    np.testing.assert_array_equal(unit_norm, scaled[names])
    np.testing.assert_allclose(standard, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-12)
    np.testing.assert_array_equal(load_diabetes_tasks().data, unit_norm)
    assert load_diabetes_tasks().feature_names == names
    assert {each.dtype for each in (raw, unit_norm, standard)} == {np.dtype(np.float64)}


@pytest.mark.parametrize("scaling", ["minmax", None, True])
def test_bad_scaling(scaling):
    with pytest.raises(ValueError, match="scaling must be 'unit_norm', 'standard' or 'raw', got"):
        load_diabetes_tasks(scaling=scaling)


# Digits


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64])
def test_digit_pairs(dtype):
    """Each digit is where the name of its task says, odd ones are +1."""
    rows, y, groups = digit_pairs(np.arange(10, dtype=dtype).repeat(2))
    np.testing.assert_array_equal(rows, np.arange(20))
    for d, label, task in zip(np.arange(10).repeat(2), y, groups, strict=True):
        assert PAIRS[task].index(d) == (0 if label == 1 else 1)
    np.testing.assert_array_equal(y, np.tile([-1, -1, 1, 1], 5))


@pytest.mark.parametrize(("n_samples", "odd", "even"), [(2, 1, 1), (6, 3, 3), (7, 4, 3)])
def test_draw_of_digits(n_samples, odd, even):
    digit = np.random.default_rng(0).integers(10, size=300)
    rows, y, groups = digit_pairs(digit, n_samples, random_state=0)
    assert len(rows) == 5 * n_samples
    assert np.all(np.diff(rows) > 0)
    for task, (first, second) in PAIRS.items():
        own = groups == task
        assert np.sum(digit[rows[own]] == first) == np.sum(y[own] == 1) == odd
        assert np.sum(digit[rows[own]] == second) == np.sum(y[own] == -1) == even
    for seed, same in (0, True), (1, False):
        assert np.array_equal(rows, digit_pairs(digit, n_samples, random_state=seed)[0]) is same


def test_draw_of_digits_is_uniform():
    """Each image is drawn as often as any other."""
    rng = np.random.RandomState(0)
    drawn = np.concatenate([digit_pairs(np.arange(10).repeat(4), 2, rng)[0] for _ in range(400)])
    counts = np.bincount(drawn, minlength=40)
    assert 65 < counts.min() <= counts.max() < 135


@pytest.mark.parametrize("n_samples", [0, 1, -2, 4.0, "4"])
def test_bad_number_of_digits(n_samples):
    with pytest.raises((TypeError, ValueError), match="n_samples"):
        digit_pairs(np.arange(10), n_samples)


def test_too_few_digits():
    with pytest.raises(ValueError, match="n_samples=3 needs 2 images of 1, but there are 1: ask for fewer"):
        digit_pairs(np.arange(10), 3)
    with pytest.raises(ValueError, match="n_samples=400 needs 200 images of 0, but there are 178"):
        load_digits_tasks(n_samples=400)


def test_digits_tasks():
    data, digits = load_digits_tasks(), load_digits()
    np.testing.assert_array_equal(data.data, digits.data)
    np.testing.assert_array_equal(data.digit, digits.target)
    assert (data.data.dtype, data.data.min(), data.data.max()) == (np.float64, 0, 16)
    assert list(data.tasks) == list(PAIRS)
    assert [int(np.sum(data.groups == task)) for task in data.tasks] == [359, 364, 363, 353, 358]
    assert data.feature_names == digits.feature_names
    for d, y, task in zip(digits.target, data.target, data.groups, strict=True):
        assert d == PAIRS[task][0 if y == 1 else 1]


def test_digits_of_the_papers_size():
    """Drawn images keep their own label, whichever rows they are."""
    data, digits = load_digits_tasks(n_samples=200, random_state=0), load_digits()
    label = {image.tobytes(): d for image, d in zip(digits.data, digits.target, strict=True)}
    assert data.data.shape == (1000, 64)
    for image, d, y, task in zip(data.data, data.digit, data.target, data.groups, strict=True):
        assert label[image.tobytes()] == d == PAIRS[task][0 if y == 1 else 1]
    again = load_digits_tasks(n_samples=200, random_state=0, return_X_y_groups=True)[0]
    np.testing.assert_array_equal(again, data.data)


# Both loaders


@pytest.fixture
def _no_pandas(monkeypatch):
    """As if pandas were not installed."""
    monkeypatch.delitem(sys.modules, "pandas")
    monkeypatch.setattr(sys, "path", [])


@pytest.mark.parametrize("load", [load_diabetes_tasks, load_digits_tasks])
def test_returned_types(load):
    data, framed = load(), load(as_frame=True)
    assert isinstance(data, Bunch)
    assert data.frame is None
    assert isinstance(framed.data, pd.DataFrame)
    assert isinstance(framed.target, pd.Series)
    assert isinstance(framed.groups, pd.Series)
    assert list(framed.data.columns) == data.feature_names
    assert list(framed.frame.columns) == [*data.feature_names, "target", "task"]
    np.testing.assert_array_equal(framed.frame["target"], data.target)
    np.testing.assert_array_equal(framed.frame["task"], data.groups)
    for options in {}, {"as_frame": True}:
        whole = load(**options)
        parts = load(return_X_y_groups=True, **options)
        assert isinstance(parts, tuple)
        for name, part in zip(("data", "target", "groups"), parts, strict=True):
            assert type(part) is type(whole[name])
            np.testing.assert_array_equal(part, data[name])
    np.testing.assert_array_equal(np.unique(data.groups), data.tasks)
    assert "Meta Learning in the Continuous Time Limit" in data.DESCR


@pytest.mark.parametrize("load", [load_diabetes_tasks, load_digits_tasks])
@pytest.mark.usefixtures("_no_pandas")
def test_without_pandas(load):
    assert len(load().data)
    with pytest.raises(ImportError, match=rf"{load.__name__}\(as_frame=True\) needs pandas: install it"):
        load(as_frame=True)


def test_what_is_returned_may_be_changed():
    load_digits_tasks().tasks[:] = "x"
    load_digits_tasks().data[:] = 0
    assert list(load_digits_tasks().tasks) == list(PAIRS)
    assert load_digits_tasks().data.max() == 16


# MNIST, whose network is made up

PIXELS = np.random.default_rng(0).integers(256, size=(60, 784))
LABELS = np.random.default_rng(1).permutation(np.arange(60) % 10)


def fake_openml(request):
    """What OpenML answers, of 60 images of noise."""
    names = [f"pixel{i}" for i in range(784)]
    header = [
        "@RELATION m",
        *(f"@ATTRIBUTE {n} real" for n in names),
        "@ATTRIBUTE class {0,1,2,3,4,5,6,7,8,9}",
        "@DATA",
    ]
    rows = [",".join(map(str, [*image, label])) for image, label in zip(PIXELS, LABELS, strict=True)]
    arff = "\n".join([*header, *rows, ""]).encode()
    usual = {"is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
    features = [{"name": n, "data_type": "numeric", "is_target": "false", **usual} for n in names]
    features.append({"name": "class", "data_type": "nominal", "is_target": "true", **usual})
    description = {"name": "mnist_784", "version": "1", "status": "active", "format": "ARFF", "description": "Images"}
    description |= {"file_id": "1", "url": "https://www.openml.org/data/v1/download/1/mnist.arff"}
    description["md5_checksum"] = hashlib.md5(arff).hexdigest()
    answers = {
        "/data_name/mnist_784/": {"data": {"dataset": [{"did": 554, "name": "mnist_784", "version": 1}]}},
        "/features/": {"data_features": {"feature": [{"index": str(i), **f} for i, f in enumerate(features)]}},
        "/qualities/": {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "60.0"}]}},
        "/json/data/554": {"data_set_description": description},
        "/download/": arff,
    }
    answer = next(answer for part, answer in answers.items() if part in request.full_url)
    return FakeResponse(answer if isinstance(answer, bytes) else json.dumps(answer).encode())


class FakeResponse(io.BytesIO):
    """An answer that is not compressed."""

    def info(self):
        return {}


@pytest.mark.parametrize("fixture", ["monkeypatch", "_no_pandas"])
def test_mnist_through_the_whole_of_fetch_openml(fixture, request, monkeypatch, tmp_path):
    request.getfixturevalue(fixture)
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", fake_openml)
    data = fetch_mnist_tasks(n_samples=None, data_home=tmp_path)
    assert data.data.dtype == np.float64
    np.testing.assert_array_equal(data.data, PIXELS / 255)
    np.testing.assert_array_equal(data.digit, LABELS)
    assert data.feature_names == [f"pixel{i}" for i in range(784)]
    assert list(data.tasks) == list(PAIRS)
    for d, y, task in zip(LABELS, data.target, data.groups, strict=True):
        assert d == PAIRS[task][0 if y == 1 else 1]
    assert "mnist_784" in data.DESCR
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", None)  # from here on only the cache
    X, y, groups = fetch_mnist_tasks(n_samples=5, random_state=0, data_home=tmp_path, return_X_y_groups=True)
    rows, labels, tasks = digit_pairs(LABELS, 5, random_state=0)
    np.testing.assert_array_equal(X, PIXELS[rows] / 255)
    np.testing.assert_array_equal(y, labels)
    np.testing.assert_array_equal(groups, tasks)


def test_arguments_reach_fetch_openml(monkeypatch):
    calls = []

    def fetch(name, **options):
        calls.append((name, options))
        n = 10 * 110
        return Bunch(data=np.full((n, 784), 51.0), target=(np.arange(n) % 10).astype(str), feature_names=["pixel1"])

    monkeypatch.setattr(real, "fetch_openml", fetch)
    data = fetch_mnist_tasks(data_home="here", cache=False, n_retries=7, delay=0.5, random_state=0)
    ((name, options),) = calls
    assert name == "mnist_784"
    expected = {"version": 1, "as_frame": False, "data_home": "here", "cache": False, "n_retries": 7, "delay": 0.5}
    assert expected.items() <= options.items()
    assert data.data.shape == (1000, 784)
    assert np.all(data.data == 0.2)
    np.testing.assert_array_equal(np.bincount(data.digit), 100)
    np.testing.assert_array_equal([np.sum(data.groups == task) for task in data.tasks], 200)


def test_no_network(monkeypatch, tmp_path):
    def offline(request):
        raise URLError("Name or service not known")

    monkeypatch.setattr("sklearn.datasets._openml.urlopen", offline)
    with (
        pytest.warns(UserWarning, match="network error"),
        pytest.raises(OSError, match=r"MNIST from OpenML \(.*not known.*\).* load_digits_tasks") as raised,
    ):
        fetch_mnist_tasks(data_home=tmp_path, n_retries=1, delay=1e-3)
    assert isinstance(raised.value.__cause__, URLError)
