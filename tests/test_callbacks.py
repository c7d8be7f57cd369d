"""Callbacks of scikit-learn 1.9 in `fit`, the error they are before it, progress, and the HTML diagrams."""

import functools
import json
import pickle
import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn
from packaging.version import Version
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_squared_error, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from third_party import MAMLLogisticRegression, MAMLQuantileRegressor

import sklearn_maml
from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV

HAS_CALLBACKS = Version(sklearn.__version__).release >= (1, 9)

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(8), 12)
X = RNG.normal(size=(96, 3))
Y = X @ [1.0, -2.0, 0.5] + RNG.normal(size=8)[GROUPS] + 0.3 * RNG.normal(size=96)
LABELS = np.where(Y > 0, "yes", "no")

ESTIMATORS = {
    "exact": MAMLRegressor(),
    "exact alone": MAMLRegressor(algorithm="maml", max_iter=1),
    "exact, one iteration": MAMLRegressor(max_iter=1),
    "gd": MAMLRegressor(solver="gd", tol=1e-2),
    "lbfgs": MAMLRegressor(solver="lbfgs"),
    "newton-cg": MAMLRegressor(solver="newton-cg"),
    "ode of a quadratic": MAMLRegressor(solver="ode", tol=1e-3),
    "first order": MAMLRegressor(solver="gd", algorithm="fomaml", tol=1e-2),
    "svc": MAMLSVC(),
    "svc ode": MAMLSVC(loss="smooth_hinge", solver="ode", tol=0.05),
    "svc newton-cg": MAMLSVC(loss="smooth_hinge", solver="newton-cg", algorithm="maml"),
    "svc subgradient": MAMLSVC(loss="hinge", max_iter=400),
    "svc first order": MAMLSVC(algorithm="fomaml", tol=1e-2),
    "third party": MAMLQuantileRegressor(),
    "third party's classifier": MAMLLogisticRegression(),
}


def target(estimator):
    return LABELS if sklearn.base.is_classifier(estimator) else Y


def fit(estimator, **params):
    return estimator.fit(X, target(estimator), groups=GROUPS, **params)


@functools.cache
def alone(name):
    """Fitted without callbacks."""
    return fit(clone(ESTIMATORS[name]))


class Recorder:
    """Writes down what it is told, asks to stop or raises at a given event."""

    def __init__(self, stop_at=None, raise_at=None):
        self.stop_at, self.raise_at = stop_at, raise_at
        self.events, self.contexts = [], []

    def note(self, hook, context):
        event = (hook, context.task_name, context.task_id)
        self.events.append(event)
        self.contexts.append(context)
        if event == self.raise_at:
            raise RuntimeError("enough of it")
        return event == ("end", "meta-iteration", self.stop_at)

    def setup(self, estimator, context):
        self.note("setup", context)

    def teardown(self, estimator, context):
        self.note("teardown", context)

    def on_fit_task_begin(self, estimator, context):
        self.note("begin", context)

    def on_fit_task_end(self, estimator, context):
        return self.note("end", context)

    def iterations(self, hook="end"):
        return [number for which, name, number in self.events if (which, name) == (hook, "meta-iteration")]


class PropagatedRecorder(Recorder):
    max_propagation_depth = None


class Witness(Recorder):
    """Keeps what it is given as well, by hook and task."""

    def __init__(self, **when):
        super().__init__(**when)
        self.given = {}

    def on_fit_task_begin(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.given["begin", context.task_name, context.task_id] = X, y, metadata, fitted_estimator
        self.note("begin", context)

    def on_fit_task_end(self, estimator, context, *, X, y, metadata, fitted_estimator):
        self.given["end", context.task_name, context.task_id] = X, y, metadata, fitted_estimator
        return self.note("end", context)

    def fitted(self, hook, number=0, name="meta-iteration"):
        return self.given[hook, name, number][-1]


def stopped_after(estimator, n_iter):
    """What another fit comes to that is allowed so many iterations."""
    other = clone(estimator).set_callbacks()
    other.max_iter = n_iter  # no parameter of third parties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit(other)


def assert_same_fit(one, other):
    np.testing.assert_array_equal(one.coef_, other.coef_)
    np.testing.assert_array_equal(one.intercept_, other.intercept_)


class TestCallbacks:
    __test__ = HAS_CALLBACKS

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_one_task_for_each_iteration_and_nothing_else_changes(self, name):
        witness = Witness()
        model = fit(clone(ESTIMATORS[name]).set_callbacks(witness))
        n_iter = len(model.history_["phase"]) - 1
        assert n_iter > 0
        if "ode" not in name:
            assert model.n_iter_ == n_iter
        both = [(hook, "meta-iteration", number) for number in range(n_iter) for hook in ("begin", "end")]
        around = [("setup", "fit", 0), ("begin", "fit", 0)], [("end", "fit", 0), ("teardown", "fit", 0)]
        assert witness.events == [*around[0], *both, *around[1]]
        most = witness.contexts[0].max_subtasks
        assert most is None if "ode" in name else most >= n_iter
        assert_same_fit(model, alone(name))
        assert set(vars(model)) - set(vars(alone(name))) == {"_skl_callbacks"}
        for key, numbers in alone(name).history_.items():
            np.testing.assert_array_equal(model.history_[key], numbers)

    @pytest.mark.parametrize(
        "name", ["gd", "lbfgs", "newton-cg", "first order", "svc", "svc subgradient", "third party", "exact"]
    )
    def test_fitted_estimator_is_a_fit_that_stopped_there(self, name):
        witness = Witness()
        model = fit(clone(ESTIMATORS[name]).set_callbacks(witness))
        numbers = [model.n_iter_] if name == "exact" else [*range(1, min(model.n_iter_, 6)), model.n_iter_]
        for number in numbers:
            fitted = witness.fitted("end", number - 1)
            other = model if name == "exact" else stopped_after(model, number)
            assert_same_fit(fitted, other)
            np.testing.assert_array_equal(fitted.predict(X), other.predict(X))
            adapted, also = (each.adapt(X[:6], target(model)[:6], groups=GROUPS[:6] + 50) for each in (fitted, other))
            np.testing.assert_array_equal(adapted.predict(X, groups=GROUPS + 50), also.predict(X, groups=GROUPS + 50))
            assert fitted.n_iter_ == number
            for key, column in other.history_.items():
                np.testing.assert_array_equal(fitted.history_[key], column)
        assert_same_fit(witness.fitted("end", 0, "fit"), model)
        assert witness.fitted("begin", 0, "fit") is None

    @pytest.mark.parametrize("solver", ["gd", "ode", "lbfgs", "newton-cg", "exact"])
    def test_objective_is_that_of_the_fitted_estimator(self, solver):
        witness = Witness()
        model = MAMLRegressor(solver=solver, algorithm="maml", n_inner_steps=0, tol=1e-2)
        fit(model.set_callbacks(witness))
        states = [witness.fitted("begin"), *(witness.fitted("end", number) for number in witness.iterations())]
        np.testing.assert_array_equal(states[0].coef_, np.zeros(3))
        errors = [mean_squared_error(Y, state.predict(X)) for state in states]
        np.testing.assert_allclose(errors, model.history_["objective"], rtol=1e-10)
        assert len(set(errors)) == len(errors)

    @pytest.mark.parametrize("name", ["gd", "svc subgradient", "svc ode", "ode of a quadratic", "exact"])
    def test_a_task_begins_where_the_one_before_ended(self, name):
        witness = Witness()
        fit(clone(ESTIMATORS[name]).set_callbacks(witness))
        numbers = witness.iterations()
        for number in numbers[1:]:
            begin, end = witness.fitted("begin", number), witness.fitted("end", number - 1)
            assert_same_fit(begin, end)
            assert begin.n_iter_ == end.n_iter_
            assert len(begin.history_["phase"]) == len(end.history_["phase"]) == number + 1
        moved = [np.any(witness.fitted(hook).coef_) for hook in ("begin", "end")]
        assert moved == [False, True]

    def test_lazy(self, monkeypatch):
        fits = []
        set_fit = MAMLRegressor._set_fit
        monkeypatch.setattr(MAMLRegressor, "_set_fit", lambda self, *args: fits.append(0) or set_fit(self, *args))
        model = fit(MAMLRegressor(solver="lbfgs").set_callbacks(Recorder()))
        assert len(fits) == 1
        fit(model.set_callbacks(Witness()))
        assert len(fits) == 2 + 1 + 2 * model.n_iter_

    def test_no_tasks_where_nobody_follows(self):
        recorder = PropagatedRecorder()
        recorder.max_propagation_depth = 0
        fit(MAMLRegressorCV(inner_step_sizes=[0.1]).set_callbacks(recorder))
        assert [task.task_name for task in recorder.contexts[0]] == ["fit", "candidate", "candidate", "fit"]

    def test_data_as_given(self):
        frame = pd.DataFrame(X, columns=list("abc"), index=GROUPS)
        y, weight = list(Y), np.where(np.arange(96) % 5 == 0, 0.0, 1.0)
        witness, plain = Witness(), Witness()
        model = MAMLRegressor().set_callbacks(witness).fit(frame, y, groups=GROUPS, sample_weight=weight)
        fit(clone(model).set_callbacks(plain))
        assert len(witness.given) == 6
        for X_given, y_given, metadata, _ in witness.given.values():
            assert X_given is frame
            assert y_given is y
            assert list(metadata) == ["sample_weight"]
            assert metadata["sample_weight"] is weight
        assert all(metadata is None for _, _, metadata, _ in plain.given.values())
        assert witness.fitted("end").feature_names_in_.tolist() == list("abc")

    def test_nothing_of_a_former_fit_is_left(self):
        frame = pd.DataFrame(X, columns=list("abc"))
        adapted = MAMLRegressor(adaptation="implicit").fit(frame, Y, groups=GROUPS).adapt(frame, Y, groups=GROUPS)
        witness = Witness()
        fit(adapted.set_callbacks(witness))
        fresh = fit(MAMLRegressor(adaptation="implicit"))
        fitted = witness.fitted("end", 1)
        assert set(vars(fitted)) - set(vars(fresh)) == {"_skl_callbacks"}
        np.testing.assert_array_equal(fitted.predict(X, groups=GROUPS), fresh.predict(X, groups=GROUPS))
        np.testing.assert_array_equal(fitted.predict(X, return_std=True)[1], fresh.predict(X, return_std=True)[1])

    def test_partial_fit_and_adapt_have_none(self):
        recorder = Recorder()
        model = MAMLRegressor().set_callbacks(recorder).partial_fit(X, Y, groups=GROUPS)
        model.adapt(X, Y, groups=GROUPS)
        assert recorder.events == []

    @pytest.mark.parametrize("name", ESTIMATORS)
    def test_stop(self, name):
        everything = alone(name)
        number = min(3, len(everything.history_["phase"]) - 2)
        witness = Witness(stop_at=number)
        model = fit(clone(ESTIMATORS[name]).set_callbacks(witness))  # a warning would be an error
        assert witness.iterations("begin") == witness.iterations() == list(range(number + 1))
        assert witness.events[-2:] == [("end", "fit", 0), ("teardown", "fit", 0)]
        assert_same_fit(model, witness.fitted("end", number))
        for key, column in everything.history_.items():
            if number < np.sum(everything.history_["phase"] == 1) or np.all(everything.history_["phase"] == 2):
                rows = slice(1, number + 1)  # beyond it, the phase of the switch is that which it goes on with
            else:
                rows = slice(number + 2)
            np.testing.assert_array_equal(model.history_[key][rows], column[rows])
        assert len(model.history_["phase"]) == number + 2
        assert model.meta_step_size_ is None
        assert model.n_iter_ == (np.ceil(model.history_["time"][-1]) if "ode" in name else number + 1)

    def test_stop_in_the_first_phase(self):
        model = fit(MAMLRegressor(solver="gd", tol=1e-2).set_callbacks(Recorder(stop_at=0)))
        assert model.history_["phase"].tolist() == [1, 1]
        assert model.switch_tol_ > 0
        assert model.inner_step_size_.shape == (8,)

    def test_stop_by_one_of_several(self):
        first, second = Recorder(stop_at=4), Recorder(stop_at=2)
        model = fit(MAMLRegressor(solver="gd").set_callbacks(first, second))
        assert model.n_iter_ == 3
        assert first.iterations() == second.iterations() == [0, 1, 2]

    @pytest.mark.parametrize(
        "event",
        [
            ("setup", "fit", 0),
            ("begin", "fit", 0),
            ("begin", "meta-iteration", 2),
            ("end", "meta-iteration", 2),
            ("end", "fit", 0),
        ],
    )
    @pytest.mark.parametrize("solver", ["gd", "lbfgs", "newton-cg", "ode"])
    def test_error(self, event, solver):
        recorder = Recorder(raise_at=event)
        model = fit(MAMLRegressor(solver=solver, tol=1e-3))
        before = dict(vars(model))
        with pytest.raises(RuntimeError, match="enough of it"):
            model.set_callbacks(recorder).fit(2 * X, -Y, groups=GROUPS)
        assert recorder.events[-2:] == [event, ("teardown", "fit", 0)]
        after = dict(vars(model))
        del after["_skl_callbacks"]
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)

    def test_failed_fit_is_torn_down(self):
        recorder = Recorder()
        with pytest.raises(ValueError, match="NaN"):
            MAMLRegressor().set_callbacks(recorder).fit(X * np.nan, Y, groups=GROUPS)
        assert recorder.events[-1] == ("teardown", "fit", 0)

    def test_not_a_callback(self):
        with pytest.raises(TypeError, match="FitCallback"):
            MAMLRegressor().set_callbacks(print)

    def test_clone_and_pickle(self):
        recorder = Recorder()
        model = fit(MAMLRegressor().set_callbacks(recorder))
        fit(clone(model))
        assert len(recorder.events) == 2 * 8
        for each in (model, model.adapt(X[:4], Y[:4])):
            recorder.contexts.clear()
            again = pickle.loads(pickle.dumps(each))
            assert_same_fit(again, each)
        fit(again)
        assert len(again._skl_callbacks[0].events) == 3 * 8

    def test_scoring_monitor(self):
        from sklearn.callback import ScoringMonitor

        monitor = ScoringMonitor(scoring={"r2": "r2", "error": "neg_mean_squared_error"})
        weight = np.linspace(0, 2, 96)
        model = fit(MAMLRegressor(solver="gd", max_iter=20, tol=0.1).set_callbacks(monitor), sample_weight=weight)
        log = [row for row in monitor.get_logs().data if row["task_name"] == "meta-iteration"]
        assert [row["task_id"] for row in log] == list(range(model.n_iter_))
        with pytest.warns(ConvergenceWarning):
            third = fit(clone(model).set_callbacks().set_params(max_iter=3), sample_weight=weight)
        assert log[2]["r2"] == r2_score(Y, third.predict(X), sample_weight=weight)
        assert log[2]["error"] == -mean_squared_error(Y, third.predict(X), sample_weight=weight)
        assert log[-1]["r2"] == model.score(X, Y, sample_weight=weight)

    @pytest.mark.parametrize(
        "estimator", [MAMLRegressor(solver="gd", tol=1e-2), MAMLRegressor(solver="ode"), MAMLSVC(), MAMLRegressorCV()]
    )
    def test_progress_bar(self, estimator, capsys):
        from sklearn.callback import ProgressBar

        fit(clone(estimator).set_callbacks(ProgressBar()))
        out = capsys.readouterr().out
        assert f"{type(estimator).__name__} - fit" in out
        assert "100%" in out
        assert ("refit | MAMLRegressor - fit #10" in out) == isinstance(estimator, MAMLRegressorCV)

    @pytest.mark.parametrize(
        ("last", "score"), [(MAMLRegressor(solver="lbfgs"), "r2"), (MAMLSVC(), "accuracy")], ids=["regressor", "svc"]
    )
    def test_search_over_a_pipeline(self, last, score):
        recorder = PropagatedRecorder()
        pipe = Pipeline([("scale", StandardScaler()), ("last", clone(last))])
        search = GridSearchCV(pipe, {"last__n_inner_steps": [0, 1]}, cv=GroupKFold(3), scoring=score)
        search.set_callbacks(recorder).fit(X, target(last), groups=GROUPS, last__groups=GROUPS)
        root = recorder.contexts[0]
        assert root.estimator_name == "GridSearchCV"
        fits = [task for task in root if task.estimator_name == type(last).__name__ and task.task_name == "fit"]
        assert len(fits) == 2 * 3 + 1
        assert len(list(fits[-1])) - 1 == search.best_estimator_[-1].n_iter_
        assert all(len(list(task)) > 1 for task in fits)
        assert recorder.iterations("begin") == recorder.iterations()
        assert "_parent_callback_ctx" not in vars(search.best_estimator_[-1])
        assert_same_fit(
            search.best_estimator_[-1],
            clone(pipe).set_params(**search.best_params_).fit(X, target(last), last__groups=GROUPS)[-1],
        )

    def test_search_in_two_processes(self):
        from sklearn.callback import ScoringMonitor

        monitor = ScoringMonitor(scoring="r2")
        pipe = make_pipeline(StandardScaler(), MAMLRegressor(solver="lbfgs").set_callbacks(monitor))
        search = GridSearchCV(pipe, {"mamlregressor__n_inner_steps": [0, 1]}, cv=GroupKFold(2), n_jobs=2)
        search.fit(X, Y, groups=GROUPS, mamlregressor__groups=GROUPS)
        log = [row for row in monitor.get_logs().data if row["task_name"] == "meta-iteration"]
        assert len({row["parent_task_id_path"] for row in log}) == 2 * 2 + 1
        last = [row["r2"] for row in log if row["parent_task_id_path"][0:2] == (0, 1)]
        assert len(last) == search.best_estimator_[-1].n_iter_
        assert last[-1] == pytest.approx(search.score(X, Y), rel=1e-12)


CHOICES = {
    "held out one by one": ({"inner_step_sizes": [0.01, 0.1, 0.3], "adaptations": ["gradient"]}, 3),
    "folds": ({"cv": 3, "inner_step_sizes": ["auto", 0.1], "adaptations": ["implicit"]}, 6),
}


class TestCallbacksOfTheChoice:
    __test__ = HAS_CALLBACKS

    @pytest.mark.parametrize("n_jobs", [None, 2])
    @pytest.mark.parametrize("name", CHOICES)
    def test_one_task_for_each_fit(self, name, n_jobs):
        params, n_fits = CHOICES[name]
        recorder = Recorder()
        model = fit(MAMLRegressorCV(n_jobs=n_jobs, **params).set_callbacks(recorder))
        candidates = [(hook, "candidate", number) for number in range(n_fits) for hook in ("begin", "end")]
        refit = [("begin", "refit", n_fits), ("end", "refit", n_fits)]
        around = [("setup", "fit", 0), ("begin", "fit", 0)], [("end", "fit", 0), ("teardown", "fit", 0)]
        assert recorder.events == [*around[0], *candidates, *refit, *around[1]]
        assert recorder.contexts[0].max_subtasks == n_fits + 1
        alone = fit(MAMLRegressorCV(**params))
        assert_same_fit(model, alone)
        np.testing.assert_array_equal(model.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])

    def test_propagated_to_the_last_fit(self):
        recorder = PropagatedRecorder()
        model = fit(MAMLRegressorCV(inner_step_sizes=[0.1]).set_callbacks(recorder))
        assert recorder.iterations() == list(range(model.best_estimator_.n_iter_)) == [0, 1]
        assert [name for hook, name, _ in recorder.events if hook == "begin"] == [
            "fit",
            "candidate",
            "candidate",
            "fit",  # which is the task "refit", with those of the estimator it fits
            "meta-iteration",
            "meta-iteration",
        ]
        assert not hasattr(model.best_estimator_, "_skl_callbacks")
        assert not hasattr(model.best_estimator_, "_parent_callback_ctx")

    def test_stop_in_the_last_fit(self):
        stopped = fit(MAMLRegressorCV(inner_step_sizes=[0.1]).set_callbacks(PropagatedRecorder(stop_at=0)))
        assert stopped.best_estimator_.n_iter_ == 1
        assert stopped.best_estimator_.history_["phase"].tolist() == [1, 1]

    def test_one_task_is_no_choice(self):
        recorder = Recorder()
        with pytest.warns(UserWarning, match="no groups"):
            MAMLRegressorCV(inner_step_sizes=[0.1]).set_callbacks(recorder).fit(X, Y)
        assert [name for hook, name, _ in recorder.events if hook == "end"] == ["refit", "fit"]

    def test_data_and_fitted_estimator(self):
        witness, weight = Witness(), np.linspace(1, 2, 96)
        model = MAMLRegressorCV(inner_step_sizes=[0.1]).set_callbacks(witness)
        fit(model, sample_weight=weight)
        assert len(witness.given) == 2 * 4
        for X_given, y_given, metadata, _ in witness.given.values():
            assert X_given is X
            assert y_given is Y
            assert metadata["sample_weight"] is weight
        np.testing.assert_array_equal(witness.fitted("end", 0, "fit").predict(X), model.predict(X))

    @pytest.mark.parametrize("n_jobs", [None, 2])
    @pytest.mark.parametrize(
        "event", [("begin", "candidate", 1), ("end", "candidate", 0), ("end", "refit", 2), ("end", "fit", 0)]
    )
    def test_error(self, event, n_jobs):
        recorder = Recorder(raise_at=event)
        model = fit(MAMLRegressorCV(inner_step_sizes=[0.1], n_jobs=n_jobs))
        before = dict(vars(model))
        with pytest.raises(RuntimeError, match="enough of it"):
            model.set_callbacks(recorder).fit(2 * X, -Y, groups=GROUPS)
        assert recorder.events[-2:] == [event, ("teardown", "fit", 0)]
        after = dict(vars(model))
        del after["_skl_callbacks"]
        assert after.keys() == before.keys()
        assert all(after[name] is before[name] for name in before)


WITHOUT_CALLBACKS = """
import json, sys, warnings
import numpy as np
import sklearn_maml  # and all of scikit-learn that it needs, which needs what is then hidden from sklearn_maml
for name in [name for name in sys.modules if name.split(".")[0] == "sklearn_maml"]:
    del sys.modules[name]
sys.modules["sklearn.callback"] = None
from sklearn_maml import MAMLRegressor, MAMLRegressorCV, MAMLSVC, SingleTaskWarning
X, y, groups = np.load(sys.argv[1])["X"], np.load(sys.argv[1])["y"], np.load(sys.argv[1])["groups"]
report = {}
for model in (MAMLRegressor(), MAMLRegressorCV(inner_step_sizes=[0.1]), MAMLSVC()):
    given = y > 0 if isinstance(model, MAMLSVC) else y
    name = type(model).__name__
    report[name] = model.fit(X, given, groups=groups).coef_.ravel().tolist()
    for callbacks in ([], [print]):
        try:
            model.set_callbacks(*callbacks)
        except ImportError as error:
            report[f"{name} {len(callbacks)}"] = str(error)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SingleTaskWarning)
        model.fit(X, given)
    report[f"{name} warns"] = [warning.filename for warning in caught]
print(json.dumps(report))
"""


def test_scikit_learn_without_callbacks(tmp_path):
    np.savez(tmp_path / "data.npz", X=X, y=Y, groups=GROUPS)
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_CALLBACKS, str(tmp_path / "data.npz")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(sklearn_maml.__file__).parents[1],
    )
    report = json.loads(run.stdout)
    for model in (MAMLRegressor(), MAMLRegressorCV(inner_step_sizes=[0.1]), MAMLSVC()):
        name = type(model).__name__
        here = model.fit(X, Y > 0 if name == "MAMLSVC" else Y, groups=GROUPS)
        np.testing.assert_allclose(report[name], here.coef_.ravel(), rtol=1e-12)
        message = (
            f"{name}.set_callbacks needs scikit-learn 1.9 or newer, but {sklearn.__version__} is installed: upgrade "
            "scikit-learn, or follow the training by verbose=1 and history_"
        )
        assert report[f"{name} 0"] == report[f"{name} 1"] == message
        assert report[f"{name} warns"][0] == "<string>"


# progress


def adapting(n_jobs=None, verbose=1):
    """An estimator to adapt to tasks of different sizes, which are worked on one size after the other."""
    return fit(MAMLRegressor(inner_step_size=0.1)).set_params(n_jobs=n_jobs, verbose=verbose)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_progress_of_adapt(n_jobs, capsys):
    sizes = np.repeat(2 ** np.arange(6), [30, 20, 5, 3, 1, 1])
    groups = np.repeat(np.arange(60), sizes)
    rows = np.arange(len(groups)) % 96
    adapting(n_jobs).adapt(X[rows], Y[rows], groups=groups)
    done = [int(re.fullmatch(r"adapted (\d+) of 60 tasks", line)[1]) for line in capsys.readouterr().out.splitlines()]
    assert done == sorted(set(done))
    assert done[-1] == 60
    assert 1 < len(done) <= 6


@pytest.mark.parametrize(("model", "rows"), [(adapting(), 12), (adapting(verbose=0), 96)])
def test_no_progress_of_one_stack_or_unasked(model, rows, capsys):
    model.adapt(X[:rows], Y[:rows], groups=np.arange(96)[:rows] // 20)
    assert capsys.readouterr().out == ""


def test_progress_of_the_choice(capsys):
    sizes = list(np.linspace(0.01, 0.3, 7))
    model = fit(MAMLRegressorCV(inner_step_sizes=sizes, cv=4, verbose=1))
    lines = capsys.readouterr().out.splitlines()
    fits = [line for line in lines if line.startswith("made")]
    assert fits == [f"made {-(-56 * tenth // 10)} of 56 fits" for tenth in range(1, 11)]
    assert [line.split()[0] for line in lines[10:]] == ["iteration"] * 4
    assert model.best_estimator_.verbose == 1
    fit(model.set_params(verbose=0))
    assert capsys.readouterr().out == ""


# HTML


class Derived(MAMLRegressor):
    """Somebody else's."""


@pytest.mark.parametrize("cls", [MAMLRegressor, MAMLRegressorCV, MAMLSVC])
def test_diagram_links_to_the_documentation(cls):
    page = f"https://sklearn-maml.readthedocs.io/en/stable/_generated/sklearn_maml.{cls.__name__}.html"
    assert f'href="{page}"' in cls()._repr_html_()
    assert f'href="{page}"' in make_pipeline(StandardScaler(), cls())._repr_html_()
    assert f'href="{page}"' in fit(cls())._repr_html_()
    assert f"   {cls.__name__}\n" in (Path(__file__).parents[1] / "doc" / "api.rst").read_text(encoding="utf-8")


@pytest.mark.parametrize("model", [MAMLQuantileRegressor(), MAMLLogisticRegression(), Derived()])
def test_no_link_for_classes_of_others(model):
    assert "readthedocs" not in model._repr_html_()
    assert type(model).__name__ in model._repr_html_()


@pytest.mark.parametrize("cls", [MAMLRegressor, MAMLRegressorCV, MAMLSVC])
def test_every_parameter_has_a_tooltip(cls):
    html = cls()._repr_html_()
    told = re.findall(r'<span class="param-doc-description"\s[^>]*>\s*(\w+): [^<]+<br><br>\S', html)
    parameters = [name for name in told if name in cls().get_params()]
    assert sorted(parameters) == (sorted(cls().get_params()) if HAS_CALLBACKS else [])
