"""Dumps: what they hold, what they do not, and what comes back, by pickle, joblib, cloudpickle and skops."""

import copy
import functools
import pickle
import re
import subprocess
import sys
import warnings

import cloudpickle
import joblib
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn
import skops.io
from numpy.testing import assert_array_equal
from references import same
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_html_repr
from third_party import MAMLQuantileRegressor

import sklearn_maml
from sklearn_maml import MAMLSVC, BiMAMLMixin, MAMLRegressor, MAMLRegressorCV, adapt, task_statistics
from sklearn_maml.compose import GroupsFromColumn
from sklearn_maml.inspection import (
    AdaptationCurveDisplay,
    LossLandscapeDisplay,
    MetaTrainingDisplay,
    TaskDisplay,
)
from sklearn_maml.metrics import FewShotScorer

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(8), 12)
X = RNG.normal(size=(96, 3))
Y = X @ [1.0, -2.0, 0.5] + RNG.normal(size=8)[GROUPS] + 0.3 * RNG.normal(size=96)
LABELS = np.where(Y > 0, "yes", "no")
TABLE = np.column_stack([X, GROUPS])
DATES = np.datetime64("2020-01-01") + GROUPS
MIXED = [i if i % 2 else str(i) for i in GROUPS.tolist()]


def fit(model, **changed):
    return model.fit(**{"X": X, "y": LABELS if isinstance(model, MAMLSVC) else Y, "groups": GROUPS} | changed)


IMPLICIT = {"adaptation": "implicit", "metric": "full"}
ESTIMATORS = {
    "unfitted": MAMLRegressor,
    "regressor": lambda: fit(MAMLRegressor()),
    "implicit": lambda: fit(MAMLRegressor(**IMPLICIT)),
    "adapted": lambda: fit(MAMLRegressor(**IMPLICIT)).adapt(X[:5], Y[:5]),
    "adapted to tasks": lambda: fit(MAMLRegressor(**IMPLICIT)).adapt(X, Y, groups=GROUPS),
    "adapted to dates": lambda: fit(MAMLRegressor()).adapt(X, Y, groups=DATES),
    "adapted to a mixture": lambda: fit(MAMLRegressor()).adapt(X, Y, groups=MIXED),
    "stream": lambda: MAMLRegressor().partial_fit(X, Y, groups=GROUPS),
    "fitted to statistics": lambda: MAMLRegressor().fit_statistics(task_statistics(X, Y, GROUPS)),
    "classifier": lambda: fit(MAMLSVC(loss="smooth_hinge", tol=1e-2)),
    "classifier adapted to tasks": lambda: fit(MAMLSVC(tol=1e-2)).adapt(X, LABELS, groups=GROUPS),
    "stream of labels": lambda: MAMLSVC().partial_fit(X, LABELS, groups=GROUPS, classes=["no", "yes"]),
    "third party": lambda: fit(MAMLQuantileRegressor(delta=1.0)),
    "choice": lambda: fit(MAMLRegressorCV(inner_step_sizes=["auto", 0.1])),
    "choice adapted": lambda: fit(MAMLRegressorCV()).adapt(X, Y, groups=GROUPS),
    "pipeline": lambda: make_pipeline(StandardScaler(), MAMLRegressor()).fit(X, Y, mamlregressor__groups=GROUPS),
}
WITHOUT_GROUPS = {
    "column": lambda: GroupsFromColumn(MAMLRegressor(), -1).fit(TABLE, Y),
    "scorer": lambda: FewShotScorer("neg_mean_squared_error", n_support=3),
    "search": lambda: GridSearchCV(
        GroupsFromColumn(MAMLRegressor(), -1), {"estimator__n_inner_steps": [0, 1]}, cv=2
    ).fit(TABLE, Y),
}
STATISTICS = {
    "statistics": lambda: task_statistics(X, Y, GROUPS),
    "no statistics": lambda: task_statistics(X[:0], Y[:0], GROUPS[:0]),
    "collapsed": lambda: MAMLRegressor(inner_step_size=0.1).collapse_statistics(task_statistics(X, Y, GROUPS)),
    "prior": lambda: fit(MAMLRegressor())._prior,
}
EVERYTHING = ESTIMATORS | WITHOUT_GROUPS | STATISTICS


@functools.cache
def made(name):
    """Made once; nobody may change it."""
    return EVERYTHING[name]()


def assert_same_model(one, other):
    """Of the same state, and so of the same answers; both go on."""
    assert same(one, other)
    if not hasattr(one, "predict") or not hasattr(one, "n_features_in_"):
        return
    rows = X if one.n_features_in_ == 3 else TABLE
    y = LABELS if hasattr(one, "classes_") else Y
    assert_array_equal(one.predict(rows), other.predict(rows))
    one, other = adapt(one, rows[:4], y[:4]), adapt(other, rows[:4], y[:4])
    assert_array_equal(one.predict(rows), other.predict(rows))
    if "_stream" in vars(one):
        one, other = (each.partial_fit(X, y, groups=GROUPS) for each in (one, other))
        assert_array_equal(one.coef_, other.coef_)


def by_skops(model):
    return skops.io.loads(data := skops.io.dumps(model), trusted=skops.io.get_untrusted_types(data=data))


WAYS = {
    f"pickle {protocol}": lambda model, p=protocol: pickle.loads(pickle.dumps(model, p)) for protocol in range(2, 6)
}
WAYS |= {
    "cloudpickle": lambda model: pickle.loads(cloudpickle.dumps(model)),
    "skops": by_skops,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", EVERYTHING)
def test_what_comes_back(name, way):
    model = made(name)
    before = copy.deepcopy(vars(model))
    back = WAYS[way](model)
    assert same(vars(model), before)
    assert_same_model(back, model)
    if name in ESTIMATORS | WITHOUT_GROUPS:
        unfitted = clone(back)
        assert repr(unfitted) == repr(clone(model))
        assert not hasattr(unfitted, "n_features_in_")
    if name == "collapsed":
        assert (back + model).n_tasks == 16
    if name == "statistics":
        assert_array_equal((back + model).weight, 2 * model.weight)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol(protocol):
    model = made("adapted to dates")
    assert_same_model(pickle.loads(pickle.dumps(model, protocol)), model)


@pytest.mark.parametrize("name", ["implicit", "third party", "choice", "pipeline", "column"])
def test_diagram_of_what_comes_back(name):
    ids = re.compile("sk-[a-z-]+-[0-9]+")
    one, two = (ids.sub("", estimator_html_repr(model)) for model in (made(name), copy.deepcopy(made(name))))
    assert one == two
    assert "Fitted" in one


@pytest.mark.parametrize("name", EVERYTHING)
def test_mapped_from_a_file(name, tmp_path):
    """joblib, the arrays left in the file: predict and adapt read them, and write to none."""
    model = made(name)
    joblib.dump(model, tmp_path / "model")
    mapped = joblib.load(tmp_path / "model", mmap_mode="r")
    inner = getattr(mapped, "best_estimator_", mapped)
    if name in ESTIMATORS and hasattr(inner, "coef_"):
        assert isinstance(inner.coef_, np.memmap)
        assert not inner.coef_.flags.writeable
    if hasattr(model, "n_features_in_"):
        rows = X if model.n_features_in_ == 3 else TABLE
        y = LABELS if hasattr(model, "classes_") else Y
        assert_array_equal(mapped.predict(rows), model.predict(rows))
        assert_array_equal(adapt(mapped, rows[:4], y[:4]).predict(rows), adapt(model, rows[:4], y[:4]).predict(rows))
    if hasattr(model, "tasks_"):
        assert_array_equal(
            mapped.predict(X, groups=model.tasks_[GROUPS]), model.predict(X, groups=model.tasks_[GROUPS])
        )
    if "_stream" in vars(model):
        y = LABELS if hasattr(model, "classes_") else Y
        assert_array_equal(*(copy.copy(each).partial_fit(X, y, groups=GROUPS).coef_ for each in (mapped, model)))


def test_data_mapped_from_a_file(tmp_path):
    """Rows, targets, weights and task ids that are in files, read-only."""
    given = {"X": X, "y": Y, "groups": GROUPS, "sample_weight": np.ones(96)}
    joblib.dump(given, tmp_path / "data")
    mapped = joblib.load(tmp_path / "data", mmap_mode="r")
    assert isinstance(mapped["X"], np.memmap)
    assert not mapped["X"].flags.writeable
    for make in (MAMLRegressor, MAMLRegressorCV):
        assert_array_equal(make().fit(**mapped).coef_, make().fit(**given).coef_)
    one, two = (fit(MAMLRegressor()).adapt(**rows) for rows in (mapped, given))
    assert_array_equal(one.task_coef_, two.task_coef_)
    statistics = [task_statistics(*rows.values()) for rows in (mapped, given)]
    assert same(*statistics)


# Classes that no module has

IN_MAIN = """
import sys
import cloudpickle
import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn_maml import BiMAMLMixin

class LogCosh(RegressorMixin, BiMAMLMixin, BaseEstimator):
    def __init__(self, *, inner_step_size="auto", width=1.0):
        super().__init__(inner_step_size=inner_step_size)
        self.width = width

    def task_loss(self, y, z):
        r = (z - y) / self.width
        return np.logaddexp(r, -r) - np.log(2), np.tanh(r) / self.width, 1 / np.cosh(r) ** 2 / self.width**2

model = LogCosh(width=2.0).fit(np.arange(12.0).reshape(-1, 1) / 12, np.arange(12.0) % 5, groups=[0, 1, 2] * 4)
sys.stdout.buffer.write(cloudpickle.dumps((model, model.predict([[0.5]]))))
"""


def test_a_class_of_main():
    """Defined in a script: its dump is read where there is no such script."""
    dump = subprocess.run([sys.executable, "-c", IN_MAIN], capture_output=True, check=True).stdout
    assert not hasattr(sys.modules["__main__"], "LogCosh")
    model, predicted = pickle.loads(dump)
    assert type(model).__name__ == "LogCosh"
    assert_array_equal(model.predict([[0.5]]), predicted)
    assert model.adapt([[0.1], [0.2]], [9.0, 9.0]).predict([[0.5]]) != predicted
    assert clone(model).get_params()["width"] == 2.0


def test_a_class_of_a_function():
    width = 2.0

    class LogCosh(RegressorMixin, BiMAMLMixin, BaseEstimator):
        def task_loss(self, y, z):
            r = (z - y) / width
            return np.logaddexp(r, -r) - np.log(2), np.tanh(r) / width, 1 / np.cosh(r) ** 2 / width**2

    model = fit(LogCosh(tol=1e-3))
    with pytest.raises((AttributeError, pickle.PicklingError)):
        pickle.dumps(model)
    back = pickle.loads(cloudpickle.dumps(model))
    assert_array_equal(back.predict(X), model.predict(X))
    assert_array_equal(back.adapt(X[:5], Y[:5]).coef_, model.adapt(X[:5], Y[:5]).coef_)


# Types that skops has to be told to trust

TO_TRUST = {
    "MAMLRegressor": {"sklearn_maml.linear_model.MAMLRegressor", "sklearn_maml.prior.Prior"},
    "MAMLSVC": {"sklearn_maml.svm.MAMLSVC", "sklearn_maml.prior.Prior"},
    "MAMLRegressorCV": {
        "sklearn_maml.linear_model_cv.MAMLRegressorCV",
        "sklearn_maml.linear_model.MAMLRegressor",
        "sklearn_maml.prior.Prior",
    },
    "GroupsFromColumn": {"sklearn_maml.compose.GroupsFromColumn"},
    "FewShotScorer": {"sklearn_maml.metrics.FewShotScorer"},
    "TaskStatistics": {"sklearn_maml.statistics.TaskStatistics", "sklearn_maml.tasks.QuadraticTasks"},
    "CollapsedStatistics": {"sklearn_maml.statistics.CollapsedStatistics", "sklearn_maml.meta.QuadraticSum"},
}
"""What ``skops.io.load(..., trusted=[...])`` needs to be told, by class: classes of this package only.

An estimator meta-trained by ``partial_fit`` has statistics in it, and a wrapper the types of what it wraps.
"""


@pytest.mark.parametrize("name", [name for name in EVERYTHING if name not in {"third party", "prior", "search"}])
def test_untrusted_types_are_classes_of_this_package(name):
    model = made(name)
    untrusted = set(skops.io.get_untrusted_types(data=skops.io.dumps(model)))
    inner = [model, getattr(model, "estimator", None), *getattr(model, "named_steps", {}).values()]
    inner += [getattr(getattr(model, "estimator", None), "estimator", None)]
    names = {type(each).__name__ for each in inner} & TO_TRUST.keys()
    names |= {"TaskStatistics"} if "stream" in name else set()
    assert untrusted <= set().union(*(TO_TRUST[each] for each in names))
    if name in {"stream", "choice", "collapsed", "column", "scorer"}:
        assert untrusted >= TO_TRUST[type(model).__name__]


def test_skops_does_not_load_what_is_not_trusted():
    data = skops.io.dumps(fit(MAMLRegressor()))
    with pytest.raises(skops.io.exceptions.UntrustedTypesFoundException, match=r"sklearn_maml\.prior\.Prior"):
        skops.io.loads(data, trusted=["sklearn_maml.linear_model.MAMLRegressor"])


# What is in a dump


def many_rows(n_rows, n_tasks=10, d=5):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(n_rows, d))
    return {"X": rows, "y": rows[:, 0] + rng.normal(size=n_rows), "groups": np.arange(n_rows) % n_tasks}


def size(model):
    return len(pickle.dumps(model))


WITHOUT_ROWS = {
    "fit": lambda given: MAMLRegressor().fit(**given),
    "adapt": lambda given: MAMLRegressor(**IMPLICIT).fit(**given).adapt(given["X"], given["y"]),
    "adapt to tasks": lambda given: MAMLRegressor(**IMPLICIT).fit(**given).adapt(**given),
    "choose": lambda given: MAMLRegressorCV(inner_step_sizes=[0.1], n_repeats=1).fit(**given),
    "stream": lambda given: MAMLRegressor().partial_fit(**given),
    "statistics": lambda given: task_statistics(**given),
    "classify": lambda given: MAMLSVC(solver="gd", tol=10.0).fit(**given | {"y": given["y"] > 0}),
}


@pytest.mark.parametrize("way", WITHOUT_ROWS)
def test_no_training_data_in_a_dump(way):
    """A hundred times the rows: the same size, but for a few digits."""
    small, large = (size(WITHOUT_ROWS[way](many_rows(n_rows))) for n_rows in (200, 20_000))
    assert abs(large - small) < 50
    assert small < 8000


def test_sizes_grow_with_tasks_only_where_tasks_are_kept():
    """Of a fit one number a task, the size of its automatic step; of tasks adapted to, or streamed, theirs."""
    few, many = (many_rows(4000, n_tasks=n_tasks) for n_tasks in (100, 1000))

    def growth(make):
        return (size(make(many)) - size(make(few))) / 900

    assert growth(lambda given: MAMLRegressor(inner_step_size=0.1).fit(**given)) < 0.1
    assert 7.9 < growth(lambda given: MAMLRegressor().fit(**given)) < 9
    assert growth(lambda given: MAMLRegressor().fit(**given).adapt(many["X"][:9], many["y"][:9])) < 0.1
    assert growth(lambda given: MAMLRegressor().fit(**many).adapt(**given)) < 8 * (6 + 2) + 1
    assert growth(lambda given: MAMLRegressor().partial_fit(**given)) < 8 * (6 * 8 + 3) + 10 + 8
    statistics = task_statistics(**many)
    assert statistics.nbytes < size(statistics) < statistics.nbytes + 8 * 1000 + 2000
    collapse = MAMLRegressor(inner_step_size=0.1).collapse_statistics
    assert growth(lambda given: collapse(task_statistics(**given))) < 0.1


# Versions


def restored(dump):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = pickle.loads(dump)
    assert all(each.category is InconsistentVersionWarning for each in caught)
    return model, [str(each.message) for each in caught]


@pytest.mark.parametrize("name", ["regressor", "adapted to tasks", "classifier", "third party", "column", "scorer"])
@pytest.mark.parametrize("package", [sklearn_maml, sklearn])
def test_other_versions_warn(monkeypatch, name, package):
    """As scikit-learn's own estimators do; the same versions do not."""
    model = made(name)
    dumps = {"here": pickle.dumps(model)}
    for version in ("0.0.1", "99.0"):
        with monkeypatch.context() as patch:
            patch.setattr(package, "__version__", version)
            dumps[version] = pickle.dumps(model)
    assert restored(dumps.pop("here"))[1] == []
    written = {sklearn_maml: "sklearn-maml", sklearn: "scikit-learn"}[package]
    for version, dump in dumps.items():
        back, messages = restored(dump)
        assert messages
        assert {type(model).__name__} <= {message.split("estimator ")[1].split(" ")[0] for message in messages}
        for message in messages:
            assert f"from version {written} {version} when using version {written} {package.__version__}." in message
        assert same(vars(back), vars(model))


def test_a_dump_without_versions_warns():
    """From before there were any."""
    model = fit(MAMLRegressor())
    new = MAMLRegressor.__new__(MAMLRegressor)
    with pytest.warns(InconsistentVersionWarning) as record:
        new.__setstate__(dict(vars(model)))
    versions = [re.search("from version (.*) when", str(each.message)).group(1) for each in record]
    assert versions == ["sklearn-maml unknown", "scikit-learn unknown"]
    assert same(vars(new), vars(model))


def test_copies_do_not_keep_the_versions():
    model = fit(MAMLRegressor())
    names = vars(model).keys()
    for other in (copy.copy(model), copy.deepcopy(model), pickle.loads(pickle.dumps(model)), by_skops(model)):
        assert vars(other).keys() == names


# Pictures


@pytest.mark.parametrize("cls", [MetaTrainingDisplay, TaskDisplay, LossLandscapeDisplay, AdaptationCurveDisplay])
def test_displays(cls):
    """Drawn or not, and drawn again from the dump."""
    matplotlib.use("agg")
    model = MAMLRegressor(inner_step_size=0.1).fit(X[:, :1], Y, groups=GROUPS)
    display = {
        MetaTrainingDisplay: lambda: MetaTrainingDisplay.from_estimator(model),
        TaskDisplay: lambda: TaskDisplay.from_estimator(model, X[:12, :1], Y[:12]),
        LossLandscapeDisplay: lambda: LossLandscapeDisplay.from_estimator(model, X[:, :1], Y, GROUPS),
        AdaptationCurveDisplay: lambda: AdaptationCurveDisplay(n_support=[0, 1], scores={"one": np.ones((2, 3, 4))}),
    }[cls]()
    arrays = {name: value for name, value in vars(display).items() if not name.endswith("_")}
    assert arrays
    for way in (pickle, cloudpickle):
        back = pickle.loads(way.dumps(display))
        assert same({name: vars(back)[name] for name in arrays}, arrays)
        back.plot()
    plt.close("all")
