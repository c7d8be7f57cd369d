"""Everything wrong is a clear error before any state changes; the bookkeeping of a fit; frames; pickles."""

import copy
import pickle
import re
import warnings
from functools import lru_cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import accuracy_score, r2_score

from sklearn_maml import MAMLSVC, MAMLRegressor, SingleTaskWarning

ESTIMATORS = [MAMLRegressor, MAMLSVC]
RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(3), 10)
X = RNG.normal(size=(30, 3))
Y = {
    MAMLRegressor: X @ [1.0, 2, -1] + GROUPS + RNG.normal(size=30),
    MAMLSVC: np.where(X @ [1.0, 2, -1] + RNG.normal(size=30) > 0, "yes", "no"),
}
NAMES = ["a", "b", "c"]


class Unchanged:
    """Context: the estimator must come out with the state it went in with."""

    def __init__(self, *estimators):
        self.estimators = estimators
        self.before = [copy.deepcopy(vars(estimator)) for estimator in estimators]

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if error[0] is None:
            for estimator, before in zip(self.estimators, self.before, strict=True):
                assert same(vars(estimator), before), f"{estimator} has changed"


def quiet(call, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **kwargs)


@lru_cache
def _pickled_states(cls):
    y, params = Y[cls], {"tol": 1e-3} if cls is MAMLSVC else {}
    fitted = cls(**params).fit(X, y, groups=GROUPS)
    streamed = cls(**params)
    for rows in (np.arange(0, 30, 2), np.arange(1, 30, 2)):
        classes = {"classes": ["no", "yes"]} if cls is MAMLSVC else {}
        streamed.partial_fit(X[rows], y[rows], groups=GROUPS[rows], **classes)
    return pickle.dumps(
        {
            "unfitted": cls(**params),
            "fitted": fitted,
            "streamed": streamed,
            "adapted": fitted.adapt(X[:5], y[:5]),
            "adapted to tasks": fitted.adapt(X, y, groups=GROUPS),
        }
    )


def states(cls):
    """The same estimator unfitted, fitted, streamed, adapted to one task and to several."""
    return pickle.loads(_pickled_states(cls))


def test_same_sees_differences():
    model = MAMLRegressor().fit(X, Y[MAMLRegressor], groups=GROUPS)
    other = copy.deepcopy(model)
    assert same(vars(model), vars(other))
    for change in (
        lambda other: other.coef_.__setitem__(0, 0.0),
        lambda other: other.history_.__setitem__("phase", np.array([1.0])),
        lambda other: other.set_params(tol=1.0),
        lambda other: setattr(other, "new_", 1),
        lambda other: delattr(other, "intercept_"),
    ):
        other = copy.deepcopy(model)
        change(other)
        assert not same(vars(model), vars(other))
        with pytest.raises(AssertionError), Unchanged(other):
            other.coef_ = None


def with_value(array, value, row=7):
    array = np.array(array, dtype=object if isinstance(value, str) else None, copy=True)
    array[row] = value
    return array


ONES = np.ones(30)
BAD_ROWS = {
    "y too short": ({"y": lambda y: y[:-1]}, "inconsistent numbers of samples"),
    "X too short": ({"X": lambda X: X[:-1]}, "inconsistent numbers of samples"),
    "groups too short": ({"groups": lambda g: g[:-1]}, "groups must hold one task id for each of the 30 rows"),
    "groups too long": ({"groups": lambda g: np.r_[g, g]}, "groups must hold one task id for each of the 30 rows"),
    "groups a scalar": ({"groups": lambda g: 1}, "groups must hold one task id"),
    "groups two columns": ({"groups": lambda g: np.column_stack([g, g])}, "groups must hold one task id"),
    "groups NaN": (
        {"groups": lambda g: with_value(g.astype(float), np.nan)},
        "groups.* for 1 rows, the first in row 7",
    ),
    "groups None": ({"groups": lambda g: [None, *g[1:]]}, "groups.* for 1 rows, the first in row 0"),
    "groups unhashable": ({"groups": lambda g: [{}, *g[1:]]}, "groups must hold hashable"),
    "weight too short": ({"sample_weight": lambda _: np.ones(29)}, "sample_weight must hold one weight"),
    "weight two columns": ({"sample_weight": lambda _: np.ones((30, 2))}, "sample_weight must hold one weight"),
    "weight NaN": ({"sample_weight": lambda _: with_value(ONES, np.nan)}, "sample_weight contains NaN"),
    "weight inf": ({"sample_weight": lambda _: with_value(ONES, np.inf)}, "sample_weight contains infinity"),
    "weight negative": ({"sample_weight": lambda _: with_value(ONES, -1e-9)}, "(?i)negative.*sample_weight"),
    "weight -inf": ({"sample_weight": lambda _: with_value(ONES, -np.inf)}, "sample_weight contains infinity"),
    "weight text": ({"sample_weight": lambda _: with_value(ONES, "heavy")}, "could not convert|sample_weight"),
    "weight all zero": ({"sample_weight": lambda _: np.zeros(30)}, "weight.*zero|zero.*weight"),
    "weight scalar zero": ({"sample_weight": lambda _: 0.0}, "weight.*zero|zero.*weight"),
    "X NaN": ({"X": lambda X: with_value(X, np.nan)}, "X contains NaN"),
    "X inf": ({"X": lambda X: with_value(X, np.inf)}, "X contains infinity"),
    "X sparse NaN": ({"X": lambda X: sparse.csr_array(with_value(X, np.nan))}, "contains NaN"),
    "X one-dimensional": ({"X": lambda X: X[:, 0]}, "Expected 2D array"),
    "X three-dimensional": ({"X": lambda X: X[..., None]}, "Found array with dim 3|expected <= 2"),
    "X text": ({"X": lambda X: np.full(X.shape, "a")}, "could not convert|dtype"),
    "X complex": ({"X": lambda X: X + 1j}, "Complex data"),
    "X empty": ({"X": lambda X: X[:0], "y": lambda y: y[:0], "groups": lambda g: g[:0]}, "0 sample"),
    "X without features": ({"X": lambda X: X[:, :0]}, "0 feature"),
    "y missing": ({"y": lambda y: None}, "requires y to be passed"),
    "y sparse": ({"y": lambda y: sparse.csr_array(np.ones((30, 1)))}, "(?i)sparse|dense"),
    "y ragged": ({"y": lambda y: [[1], [1, 2]] * 15}, "inhomogeneous|sequence"),
}
BAD_TARGETS = {
    MAMLRegressor: {
        "y NaN": (lambda y: with_value(y, np.nan), "y contains NaN"),
        "y inf": (lambda y: with_value(y, -np.inf), "y contains infinity"),
        "y text": (lambda y: np.full(30, "a"), "could not convert|dtype"),
        "y three-dimensional": (lambda y: np.ones((30, 2, 2)), "with dim 3"),
        "y without columns": (lambda y: np.ones((30, 0)), "0 feature|0 output"),
    },
    MAMLSVC: {
        "y NaN": (lambda y: with_value(np.arange(30.0) % 2, np.nan), "y contains NaN"),
        "y None": (lambda y: np.array([None, *y[1:]], dtype=object), "label type|y contains"),
        "y continuous": (lambda y: np.linspace(0, 1, 30), "Unknown label type: continuous"),
        "y two columns": (lambda y: np.column_stack([y, y]), "1d array"),
    },
}
for cases in BAD_TARGETS.values():
    for name, (change, message) in cases.items():
        cases[name] = {"y": change}, message


def arguments(cls, changes):
    given = {"X": X, "y": Y[cls], "groups": GROUPS, "sample_weight": None}
    return given | {name: change(given[name]) for name, change in changes.items()}


def check_errors(cls, changes, message, methods=("fit", "partial_fit", "adapt"), given=None, **params):
    bad = arguments(cls, changes) if given is None else given
    for state, model in states(cls).items():
        model.set_params(**params)
        for method in methods:
            if method == "adapt" and state == "unfitted":
                continue
            extra = {"classes": ["no", "yes"]} if cls is MAMLSVC and method == "partial_fit" else {}
            with Unchanged(model), pytest.raises((ValueError, TypeError), match=message):
                quiet(getattr(model, method), **bad, **extra)
            if state == "unfitted":
                with pytest.raises(NotFittedError):
                    model.predict(X)


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_bad_rows(cls, case):
    check_errors(cls, *BAD_ROWS[case])


@pytest.mark.parametrize(("cls", "case"), [(cls, case) for cls in ESTIMATORS for case in BAD_TARGETS[cls]])
def test_bad_targets(cls, case):
    check_errors(cls, *BAD_TARGETS[cls][case])


PARAMETERS = 4  # three coefficients and an intercept
BAD_PARAMETERS = {
    "init too short": ({"init": np.zeros(PARAMETERS - 1)}, r"init must hold 4 parameters"),
    "init too long": ({"init": np.zeros(PARAMETERS + 1)}, r"init must hold 4 parameters"),
    "init of two outputs": ({"init": np.zeros((2, PARAMETERS))}, r"init must hold 4 parameters"),
    "init as a column": ({"init": np.zeros((PARAMETERS, 1))}, r"init must hold 4 parameters"),
    "init NaN": ({"init": [np.nan, 0, 0, 0]}, "init contains NaN"),
    "init unknown": ({"init": "ones"}, "init"),
    "algorithm": ({"algorithm": "reptile"}, "algorithm"),
    "solver": ({"solver": "sgd"}, "solver"),
    "meta_step_size zero": ({"meta_step_size": 0.0}, "meta_step_size"),
    "meta_step_size negative": ({"meta_step_size": -1.0}, "meta_step_size"),
    "switch_tol negative": ({"switch_tol": -1.0}, "switch_tol"),
    "max_iter": ({"max_iter": 0}, "max_iter"),
    "tol": ({"tol": -1e-3}, "tol"),
    "tol NaN": ({"tol": np.nan}, "tol"),
    "adaptation": ({"adaptation": "explicit"}, "adaptation"),
    "adaptation None": ({"adaptation": None}, "adaptation"),
    "metric": ({"metric": "identity"}, "metric"),
    "random_state": ({"random_state": "seed", "init": "normal"}, "random_state"),
}
BAD_STEPS = {
    "step array too short": ({"inner_step_size": np.full(PARAMETERS - 1, 0.1)}, "inner_step_size must be"),
    "step array too long": ({"inner_step_size": np.full(PARAMETERS + 1, 0.1)}, "inner_step_size must be"),
    "step array of one": ({"inner_step_size": [0.1]}, "inner_step_size must be"),
    "step array 2-d": ({"inner_step_size": np.full((1, PARAMETERS), 0.1)}, "inner_step_size must be"),
    "step array negative": ({"inner_step_size": [0.1, 0.1, -0.1, 0.1]}, "(?i)negative.*inner_step_size"),
    "step array NaN": ({"inner_step_size": [0.1, np.nan, 0.1, 0.1]}, "inner_step_size contains NaN"),
    "step array inf": ({"inner_step_size": [0.1, np.inf, 0.1, 0.1]}, "inner_step_size contains infinity"),
    "step negative": ({"inner_step_size": -0.1}, "inner_step_size"),
    "step NaN": ({"inner_step_size": np.nan}, "inner_step_size"),
    "step inf": ({"inner_step_size": np.inf}, "inner_step_size"),
    "step unknown": ({"inner_step_size": "learned"}, "inner_step_size"),
    "n_inner_steps negative": ({"n_inner_steps": -1}, "n_inner_steps"),
    "n_inner_steps fraction": ({"n_inner_steps": 1.5}, "n_inner_steps"),
}


@pytest.mark.parametrize("case", BAD_PARAMETERS)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_bad_parameters(cls, case):
    params, message = BAD_PARAMETERS[case]
    check_errors(cls, {}, message, methods=["fit"], **params)


@pytest.mark.parametrize("case", BAD_STEPS)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_bad_inner_steps(cls, case):
    params, message = BAD_STEPS[case]
    check_errors(cls, {}, message, **params)


@pytest.mark.parametrize("C", [0, -1.0, np.nan, "large"])
def test_bad_c(C):
    check_errors(MAMLSVC, {}, "'C'", methods=["fit"], C=C)


def test_bad_l2():
    check_errors(MAMLRegressor, {}, "l2_regularization", methods=["fit"], l2_regularization=-1.0)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_wrong_number_of_features(cls):
    for name, model in states(cls).items():
        if name == "unfitted":
            continue
        for wrong in (X[:, :2], np.column_stack([X, X]), sparse.csr_array(X[:, :2])):
            with Unchanged(model):
                methods = [model.predict] if cls is MAMLRegressor else [model.predict, model.decision_function]
                for method in methods:
                    for groups in (None, GROUPS):
                        with pytest.raises(ValueError, match="features"):
                            method(wrong, groups=groups)
                for method in [model.adapt, model.score] + [model.partial_fit] * (name == "streamed"):
                    with pytest.raises(ValueError, match="features"):
                        method(wrong, Y[cls], groups=GROUPS)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame])
def test_feature_names(cls, frame):
    y, table = Y[cls], frame({name: X[:, i] for i, name in enumerate(NAMES)})
    model, plain = cls().fit(table, y, groups=GROUPS), cls().fit(X, y, groups=GROUPS)
    assert_array_equal(model.feature_names_in_, NAMES)
    assert not hasattr(plain, "feature_names_in_")
    assert_array_equal(model.coef_, plain.coef_)
    adapted = model.adapt(table, y, groups=GROUPS)
    assert_array_equal(adapted.feature_names_in_, NAMES)
    assert_array_equal(
        adapted.predict(table, groups=GROUPS), plain.adapt(X, y, groups=GROUPS).predict(X, groups=GROUPS)
    )
    for wrong in (table[["b", "a", "c"]], frame(dict.fromkeys(("a", "b", "z"), X[:, 0]))):
        with Unchanged(model, adapted):
            for call in (
                lambda wrong=wrong: model.predict(wrong),
                lambda wrong=wrong: model.adapt(wrong, y),
                lambda wrong=wrong: model.score(wrong, y),
                lambda wrong=wrong: adapted.predict(wrong, groups=GROUPS),
            ):
                with pytest.raises(ValueError, match="feature names should match"):
                    call()
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X)


def test_feature_names_in_a_stream():
    y, table = Y[MAMLRegressor], pd.DataFrame(X, columns=NAMES)
    model = MAMLRegressor().partial_fit(table[:20], y[:20], groups=GROUPS[:20])
    with Unchanged(model), pytest.raises(ValueError, match="feature names should match"):
        model.partial_fit(table[["b", "a", "c"]], y, groups=GROUPS)
    model.partial_fit(table[20:], y[20:], groups=GROUPS[20:])
    assert_allclose(model.coef_, MAMLRegressor().fit(X, y, groups=GROUPS).coef_, rtol=1e-9)
    assert_array_equal(model.feature_names_in_, NAMES)


@pytest.mark.parametrize("frame", ["pandas", "polars"])
def test_columns_of_frames_as_y_groups_and_weight(frame):
    rng = np.random.default_rng(0)
    columns = {"y": Y[MAMLRegressor], "g": [f"task {g}" for g in GROUPS], "w": rng.uniform(1, 2, size=30)}
    table = pd.DataFrame(columns, index=rng.permutation(30)) if frame == "pandas" else pl.DataFrame(columns)
    model = MAMLRegressor().fit(X, table["y"], groups=table["g"], sample_weight=table["w"])
    expected = MAMLRegressor().fit(X, columns["y"], groups=GROUPS, sample_weight=columns["w"])
    assert_allclose(model.coef_, expected.coef_, rtol=1e-12)
    adapted = model.adapt(X, table["y"], groups=table["g"], sample_weight=table["w"])
    expected = expected.adapt(X, columns["y"], groups=GROUPS, sample_weight=columns["w"])
    assert_allclose(adapted.task_coef_, expected.task_coef_, rtol=1e-12)
    assert_allclose(adapted.predict(X, groups=table["g"]), expected.predict(X, groups=GROUPS), rtol=1e-12)
    assert adapted.tasks_.tolist() == ["task 0", "task 1", "task 2"]


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_not_fitted(cls):
    model = cls()
    for call in (
        lambda: model.predict(X),
        lambda: model.predict(X, groups=GROUPS),
        lambda: model.adapt(X, Y[cls]),
        lambda: model.adapt(X, Y[cls], groups=GROUPS),
        lambda: model.score(X, Y[cls]),
    ):
        with Unchanged(model), pytest.raises(NotFittedError, match=f"This {cls.__name__} instance is not fitted"):
            call()
    if cls is MAMLSVC:
        with pytest.raises(NotFittedError):
            model.decision_function(X)


def test_unseen_labels():
    for name, model in states(MAMLSVC).items():
        if name == "unfitted":
            continue
        y = Y[MAMLSVC].astype(object)
        y[3] = "maybe"
        for wrong in (y, np.full(30, "never"), np.arange(30) % 2):
            with Unchanged(model):
                with pytest.raises(ValueError, match="labels that were not seen in fit") as error:
                    model.adapt(X, wrong, groups=GROUPS)
                assert str(next(i for i in wrong if i not in ("yes", "no"))) in str(error.value)
                with pytest.raises(ValueError, match="labels that were not seen in fit"):
                    model.partial_fit(X, wrong, groups=GROUPS)


def test_numbers_for_labels_that_are_strings():
    model = MAMLSVC().fit(X, (Y[MAMLSVC] == "yes").astype(int), groups=GROUPS)
    with Unchanged(model), pytest.raises(ValueError, match="labels that were not seen in fit"):
        model.adapt(X, Y[MAMLSVC])
    assert model.adapt(X, (Y[MAMLSVC] == "yes").astype(float)).classes_.tolist() == [0, 1]


def test_one_class():
    for name, model in states(MAMLSVC).items():
        with Unchanged(model):
            with pytest.raises(ValueError, match="class"):
                model.fit(X, np.full(30, "yes"), groups=GROUPS)
            with pytest.raises(ValueError, match="class"):  # nothing else is left by the weights
                model.fit(X, Y[MAMLSVC], groups=GROUPS, sample_weight=(Y[MAMLSVC] == "yes").astype(float))
            if name in ("unfitted",):
                with pytest.raises(ValueError, match="class"):
                    model.partial_fit(X, np.full(30, "yes"), groups=GROUPS, classes=["yes"])
                with pytest.raises(ValueError, match="classes"):
                    model.partial_fit(X, Y[MAMLSVC], groups=GROUPS)
            else:  # a support may hold one class only
                assert model.adapt(X[:3], ["yes"] * 3).classes_.tolist() == ["no", "yes"]


@pytest.mark.parametrize("n_outputs", [None, 1, 2])
def test_wrong_number_of_outputs(n_outputs):
    y = Y[MAMLRegressor]
    targets = {None: y, 1: y[:, None], 2: np.column_stack([y, -y]), 3: np.column_stack([y, -y, y])}
    model = MAMLRegressor().partial_fit(X, targets[n_outputs], groups=GROUPS)
    for k, wrong in targets.items():
        if (k or 1) == (n_outputs or 1):
            continue
        with Unchanged(model):
            for method in (model.adapt, model.partial_fit):
                with pytest.raises(ValueError, match=rf"y has {k or 1} output.*{n_outputs or 1}"):
                    method(X, wrong, groups=GROUPS)


def test_solvers_that_cannot():
    y = Y[MAMLSVC]
    for loss in ("hinge", "squared_hinge", "smooth_hinge"):
        for algorithm in ("maml", "bimaml", "fomaml"):
            model = MAMLSVC(loss=loss, algorithm=algorithm, solver="exact")
            with Unchanged(model), pytest.raises(ValueError, match=r"solver='exact' needs a quadratic F"):
                model.fit(X, y, groups=GROUPS)
        for solver in ("lbfgs", "newton-cg"):
            model = MAMLSVC(loss=loss, algorithm="fomaml", solver=solver)
            with Unchanged(model), pytest.raises(ValueError, match=r"first-order MAML .* use solver='gd'"):
                model.fit(X, y, groups=GROUPS)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("algorithm", ["maml", "bimaml", "fomaml"])
def test_divergence_names_a_stable_step(cls, algorithm):
    params = {"algorithm": algorithm, "max_iter": 5000, "tol": 1e-3}
    params |= {"C": 1e3} if cls is MAMLSVC else {}
    model = cls(**params).fit(X, Y[cls], groups=GROUPS)
    model.set_params(solver="gd", meta_step_size=987.0, init="normal", random_state=0)
    with Unchanged(model), pytest.raises(ValueError, match=r"diverges.*meta_step_size=987.*stable") as error:
        model.fit(X, Y[cls], groups=GROUPS)
    stable = float(re.search(r"a stable one is (\S+)", str(error.value)).group(1))
    model.set_params(meta_step_size=stable).fit(X, Y[cls], groups=GROUPS)
    assert np.all(np.isfinite(model.coef_))


def test_divergence_to_infinity_in_few_steps():
    model = MAMLRegressor(solver="gd", meta_step_size=1e200)
    with Unchanged(model), pytest.raises(ValueError, match=r"meta_step_size=1e\+200"):
        quiet(model.fit, X, Y[MAMLRegressor], groups=GROUPS)


def test_an_inner_step_that_is_far_too_large():
    """Features that were not scaled, the paper's step size and many steps: (alpha L)^2K overflows."""
    y = Y[MAMLRegressor]
    for solver in ("auto", "gd", "lbfgs", "newton-cg", "ode"):
        model = MAMLRegressor(solver=solver, inner_step_size=0.3, n_inner_steps=40)
        with Unchanged(model), pytest.raises(ValueError, match="inner_step_size"):
            quiet(model.fit, 1e3 * X, y, groups=GROUPS)
    model = MAMLRegressor().fit(X, y, groups=GROUPS).set_params(inner_step_size=0.3, n_inner_steps=80)
    with Unchanged(model), pytest.raises(ValueError, match="inner_step_size"):
        quiet(model.adapt, 1e3 * X, y)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_intercept_is_not_lost_by_changing_the_parameter(cls):
    model = cls().fit(X, Y[cls], groups=GROUPS).set_params(fit_intercept=False, warm_start=True)
    with pytest.raises(ValueError, match="fit_intercept was changed"):
        model.adapt(X, Y[cls])
    with pytest.raises(ValueError, match="fit_intercept was changed"):
        model.fit(X, Y[cls], groups=GROUPS)
    model.set_params(warm_start=False).fit(X, Y[cls], groups=GROUPS)
    assert not np.any(model.adapt(X, Y[cls]).intercept_)


NOT_CONVERGED = {
    "gd": ({"solver": "gd", "algorithm": "maml", "max_iter": 3}, "raise max_iter"),
    "first phase": ({"solver": "gd", "switch_tol": 1e-9, "max_iter": 3}, "first phase.* switch_tol=1.0e-09.*raise"),
    "ode": ({"solver": "ode", "algorithm": "maml", "max_iter": 3}, "raise max_iter"),
    "lbfgs": ({"solver": "lbfgs", "algorithm": "maml", "max_iter": 1}, "raise max_iter"),
    "newton-cg": ({"solver": "newton-cg", "algorithm": "maml", "max_iter": 1, "tol": 1e-14}, "raise (max_iter|tol)"),
}


@pytest.mark.parametrize("case", NOT_CONVERGED)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_convergence_warning_says_what_to_change(cls, case):
    params, message = NOT_CONVERGED[case]
    with pytest.warns(ConvergenceWarning, match=message) as record:
        model = cls(**params).fit(X, Y[cls], groups=GROUPS)
    assert len(record) == 1
    assert record[0].filename == __file__
    assert np.all(np.isfinite(model.coef_))


def test_convergence_warning_of_a_rising_loss():
    model = MAMLRegressor(solver="gd", algorithm="maml", max_iter=2, meta_step_size=1.0)
    with pytest.warns(ConvergenceWarning, match=r"the loss rose from .* lower meta_step_size"):
        model.fit(X, Y[MAMLRegressor], groups=GROUPS)


def test_convergence_warning_of_subgradients():
    with pytest.warns(ConvergenceWarning, match="raise max_iter"):
        MAMLSVC(loss="hinge", algorithm="maml", max_iter=5).fit(X, Y[MAMLSVC], groups=GROUPS)


def test_partial_fit_with_other_losses_does_not_warn_of_convergence():
    MAMLSVC().partial_fit(X, Y[MAMLSVC], groups=GROUPS, classes=["no", "yes"])


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_single_task_warning(cls):
    extra = {"classes": ["no", "yes"]} if cls is MAMLSVC else {}
    for method, kwargs in (("fit", {}), ("partial_fit", extra)):
        with pytest.warns(SingleTaskWarning) as record:
            getattr(cls(), method)(X, Y[cls], **kwargs)
        assert len(record) == 1
        assert record[0].filename == __file__
        message = str(record[0].message)
        for word in (cls.__name__, "groups", "ONE task", "cross_validate", "GridSearchCV", "enable_metadata_routing"):
            assert word in message
        getattr(cls(), method)(X, Y[cls], groups=np.zeros(30), **kwargs)  # one task, but on purpose: no warning
    with pytest.warns(SingleTaskWarning):
        model = cls().fit(X, Y[cls])
    assert_array_equal(model.coef_, cls().fit(X, Y[cls], groups=["only"] * 30).coef_)
    model.adapt(X, Y[cls]).predict(X)  # neither warns
    assert issubclass(SingleTaskWarning, UserWarning)


@pytest.mark.parametrize(
    ("solver", "error"),
    [("auto", KeyboardInterrupt), ("gd", KeyboardInterrupt), ("newton-cg", ZeroDivisionError), ("ode", MemoryError)],
)
def test_interrupted(error, solver):
    """An error in the middle of the work leaves the former fit, whole."""
    left = [np.inf]

    class Interrupted(MAMLSVC):
        def task_loss(self, y, z):
            left[0] -= 1
            if left[0] < 0:
                raise error
            return super().task_loss(y, z)

    y = Y[MAMLSVC]
    model = Interrupted(loss="smooth_hinge").fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS)
    model.set_params(C=0.1, solver=solver)
    new = Interrupted(loss="smooth_hinge", solver=solver)
    for n_calls in (0, 3, 12):
        for call in (model.fit, new.fit):
            left[0] = n_calls
            with Unchanged(model, new), pytest.raises(error):
                call(X, y, groups=GROUPS)
            assert left[0] == -1
    for n_calls in (0, 1):
        left[0] = n_calls
        with Unchanged(model), pytest.raises(error):
            model.adapt(X, y, groups=GROUPS)
        left[0] = n_calls
        with Unchanged(model), pytest.raises(error):
            model.partial_fit(X, y, groups=GROUPS)


def test_interrupted_stream():
    left = [np.inf]

    class Interrupted(MAMLRegressor):
        def task_loss(self, y, z):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return super().task_loss(y, z)

    y = Y[MAMLRegressor]
    model = Interrupted().partial_fit(X[:20], y[:20], groups=GROUPS[:20])
    left[0] = 0
    with Unchanged(model), pytest.raises(KeyboardInterrupt):
        model.partial_fit(X[20:], y[20:], groups=GROUPS[20:])
    left[0] = np.inf
    model.partial_fit(X[20:], y[20:], groups=GROUPS[20:])
    assert_allclose(model.coef_, MAMLRegressor().fit(X, y, groups=GROUPS).coef_, rtol=1e-9)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_read_only_memmap(cls, tmp_path):
    mapped = {}
    for name, array in {"X": X, "w": np.arange(30.0), "g": GROUPS}.items():
        np.save(tmp_path / name, array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    y = Y[cls].copy()
    y.flags.writeable = False
    for order in ("C", "F"):
        Z = np.asarray(mapped["X"], order=order)
        Z.flags.writeable = False
        for table in (mapped["X"], Z):
            model = cls().fit(table, y, groups=mapped["g"], sample_weight=mapped["w"])
            expected = cls().fit(X, y, groups=GROUPS, sample_weight=np.arange(30.0))
            assert_allclose(model.coef_, expected.coef_, rtol=1e-6)
            adapted = model.adapt(table, y, groups=mapped["g"], sample_weight=mapped["w"])
            assert_allclose(adapted.task_coef_, expected.adapt(X, y, GROUPS, np.arange(30.0)).task_coef_, rtol=1e-5)
            assert_array_equal(adapted.predict(table, groups=mapped["g"]), adapted.predict(X, groups=GROUPS))
    assert_array_equal(mapped["X"], X)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_input_is_not_written_to(cls):
    given = {"X": X.copy(), "y": Y[cls].copy(), "groups": GROUPS.copy(), "sample_weight": np.arange(30.0)}
    before = copy.deepcopy(given)
    init, step = np.zeros(4), np.full(4, 0.01)
    model = cls(init=init, inner_step_size=step).fit(**given)
    model.adapt(**given).predict(given["X"], groups=given["groups"])
    assert same(given, before)
    assert model.init is init
    assert model.inner_step_size is step
    assert_array_equal(init, 0)
    assert_array_equal(step, 0.01)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_verbose(cls, capsys):
    model = cls(verbose=0).fit(X, Y[cls], groups=GROUPS)
    assert capsys.readouterr().out == ""
    model.set_params(verbose=1, solver="gd", tol=1e-3, max_iter=5000).fit(X, Y[cls], groups=GROUPS)
    lines = capsys.readouterr().out.splitlines()
    assert 10 < len(lines) < 60
    for line in lines:
        assert re.fullmatch(r"iteration +\d+  phase [12]  objective +\S+e\S+  gradient norm \S+e\S+", line)
    first = float(re.search(r"objective (\S+)", lines[0]).group(1))
    assert_allclose(first, model.history_["objective"][0], rtol=1e-5)
    assert "phase 1" in lines[0]
    assert "phase 2" in lines[-1]


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("again", ["fit", "partial_fit"])
def test_refit_forgets_the_tasks(cls, again):
    model = cls().fit(X, Y[cls], groups=GROUPS).adapt(X, Y[cls], groups=GROUPS)
    assert model.task_coef_.shape[0] == 3
    extra = {"classes": ["no", "yes"]} if again == "partial_fit" and cls is MAMLSVC else {}
    quiet(getattr(model, again), X, Y[cls], groups=GROUPS, **extra)
    if again == "fit" or cls is MAMLRegressor:
        expected = quiet(getattr(cls(), again), X, Y[cls], groups=GROUPS, **extra)
        assert_array_equal(model.coef_, expected.coef_)
    for name in ("tasks_", "task_coef_", "task_intercept_"):
        assert not hasattr(model, name)
    assert_array_equal(model.predict(X, groups=GROUPS), model.predict(X))


def test_refit_with_other_features_and_outputs():
    y = Y[MAMLRegressor]
    model = MAMLRegressor().fit(pd.DataFrame(X, columns=NAMES), y, groups=GROUPS)
    model.fit(X[:, :2], np.column_stack([y, y]), groups=GROUPS)
    assert model.n_features_in_ == 2
    assert model.coef_.shape == (2, 2)
    assert not hasattr(model, "feature_names_in_")


# Bookkeeping


@pytest.mark.parametrize("algorithm", ["maml", "bimaml", "fomaml"])
@pytest.mark.parametrize("solver", ["auto", "gd", "lbfgs", "newton-cg", "exact", "ode"])
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
def test_history(algorithm, solver, adaptation):
    model = MAMLRegressor(algorithm=algorithm, solver=solver, adaptation=adaptation, max_iter=5000)
    model.fit(X, Y[MAMLRegressor], groups=GROUPS)
    history = model.history_
    keys = ["phase", "grad_norm", "objective", "n_gradients", "n_hessp"] + ["time"] * (solver == "ode")
    assert sorted(history) == sorted(keys)
    lengths = {len(column) for column in history.values()}
    assert len(lengths) == 1
    assert all(isinstance(column, np.ndarray) for column in history.values())
    assert isinstance(model.n_iter_, int)
    if solver == "ode":
        assert model.n_iter_ == np.ceil(history["time"][-1])
        assert history["time"][0] == 0
        assert np.all(np.diff(history["time"]) > 0)
    else:
        assert lengths == {model.n_iter_ + 1}
    assert history["phase"][0] == (1 if algorithm == "bimaml" else 2)
    assert history["phase"][-1] == 2
    assert np.all(np.diff(history["phase"]) >= 0)
    assert history["grad_norm"][-1] <= 1e-6 * (1 + 1e-6)
    assert np.all(np.diff(history["n_gradients"]) >= 0)
    assert np.all(np.diff(history["n_hessp"]) >= 0)
    assert history["n_gradients"][0] == (1 if algorithm == "bimaml" else 3)
    if solver not in ("newton-cg", "ode"):  # which ask for products of their own
        assert history["n_hessp"][0] == (algorithm == "maml")
    if solver == "gd":  # a descent in each phase
        for phase in (1, 2):
            assert np.all(np.diff(history["objective"][history["phase"] == phase]) < 1e-9)


@pytest.mark.parametrize("solver", ["gd", "lbfgs", "newton-cg", "ode"])
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_max_iter_bounds_both_phases(cls, solver):
    params = {"C": 1e3, "loss": "smooth_hinge"} if cls is MAMLSVC else {}
    model = cls(solver=solver, switch_tol=0.3, **params)
    for max_iter in (1, 2, 4, 7, 12):
        with warnings.catch_warnings(record=True) as record:
            warnings.simplefilter("always")
            model.set_params(max_iter=max_iter).fit(X, Y[cls], groups=GROUPS)
        assert model.n_iter_ <= max_iter
        converged = model.history_["phase"][-1] == 2 and model.history_["grad_norm"][-1] <= 1.0001e-6
        assert bool(record) != converged
        if solver != "ode":
            assert len(model.history_["phase"]) == model.n_iter_ + 1
        if not converged and solver == "gd":
            assert model.n_iter_ == max_iter
    if solver == "gd":
        assert {1, 2} == set(model.history_["phase"])


def test_nothing_to_do():
    """At a stationary point of both f and F there is nothing to iterate."""
    y = X @ [1.0, 2, -1] + 3
    for solver in ("gd", "lbfgs", "newton-cg", "ode", "exact"):
        model = MAMLRegressor(solver=solver, init=[1.0, 2, -1, 3], switch_tol=1e-6).fit(X, y, groups=GROUPS)
        assert model.n_iter_ <= (2 if solver == "exact" else 0)
        assert_allclose(model.coef_, [1, 2, -1], atol=1e-9)


def test_implicit_steps_of_the_hinge_are_an_error():
    y = Y[MAMLSVC]
    model = MAMLSVC(loss="hinge").fit(X, y, groups=GROUPS).set_params(adaptation="implicit")
    for call in (model.fit, model.partial_fit, model.adapt):
        with Unchanged(model), pytest.raises(ValueError, match="adaptation='implicit' needs a loss"):
            call(X, y, groups=GROUPS)
    model.set_params(n_inner_steps=0).fit(X, y, groups=GROUPS)  # no step is taken


# What is learned of the tasks

PRIOR = ("task_covariance_", "noise_variance_")


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("metric", ["diag", "full"])
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_shapes_of_what_is_learned(cls, metric, adaptation, fit_intercept):
    d = 3 + fit_intercept
    model = cls(metric=metric, adaptation=adaptation, fit_intercept=fit_intercept).fit(X, Y[cls], groups=GROUPS)
    assert model.task_covariance_.shape == (d, d)
    assert np.ndim(model.noise_variance_) == 0
    assert model.noise_variance_ > 0
    assert np.linalg.eigvalsh(model.task_covariance_)[0] > -1e-12
    y = np.column_stack([Y[cls], X[:, 0]]) if cls is MAMLRegressor else np.argsort(X, axis=1)[:, 0]
    model.fit(X, y, groups=GROUPS)
    k = 2 if cls is MAMLRegressor else 3
    assert model.task_covariance_.shape == (k, d, d)
    assert model.noise_variance_.shape == (k,)
    shared = model.task_covariance_ / model.noise_variance_[:, None, None]
    assert_allclose(shared, np.broadcast_to(shared[:1], shared.shape), rtol=1e-12, atol=1e-15)
    if cls is MAMLRegressor:
        model.fit(X, Y[cls][:, None], groups=GROUPS)
        assert np.reshape(model.task_covariance_, (-1,)).shape == (d * d,)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("params", [{"inner_step_size": 0.05}, {"inner_step_size": [0.05] * 4}, {"n_inner_steps": 0}])
def test_refit_without_learning_forgets_what_was_learned(cls, params):
    """There is nothing to learn for a given step, or without one."""
    model = cls().fit(X, Y[cls], groups=GROUPS)
    assert all(getattr(model, name) is not None for name in PRIOR)
    model.set_params(**params).fit(X, Y[cls], groups=GROUPS)
    assert not any(hasattr(model, name) for name in (*PRIOR, "_prior"))
    assert not any(hasattr(model.adapt(X[:2], Y[cls][:2]), name) for name in PRIOR)
    model.set_params(inner_step_size="auto", n_inner_steps=1)
    with Unchanged(model), pytest.raises(ValueError, match=r"inner_step_size='auto'.*fit again"):
        model.adapt(X, Y[cls], groups=GROUPS)
    model.fit(X, Y[cls], groups=GROUPS).adapt(X, Y[cls], groups=GROUPS)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_one_task_has_nothing_to_learn_from(cls):
    model = cls().fit(X, Y[cls], groups=GROUPS).fit(X, Y[cls], groups=np.zeros(30))
    for fitted in (model, model.adapt(X, Y[cls]), model.adapt(X, Y[cls], groups=GROUPS)):
        assert all(getattr(fitted, name) is None for name in PRIOR)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
def test_a_fit_that_fails_keeps_what_was_learned(cls, adaptation):
    model = cls(adaptation=adaptation).fit(X, Y[cls], groups=GROUPS)
    model.set_params(solver="gd", meta_step_size=987.0, init="normal", random_state=0, max_iter=5000)
    before = copy.deepcopy([getattr(model, name) for name in PRIOR])
    with Unchanged(model), pytest.raises(ValueError, match="diverges"):
        model.fit(3 * X, Y[cls], groups=GROUPS[::-1] * 2)
    assert same([getattr(model, name) for name in PRIOR], before)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_know_what_was_learned(cls, adaptation, copied):
    y = Y[cls]
    model = cls(adaptation=adaptation).fit(X, y, groups=GROUPS)
    assert not any(hasattr(clone(model), name) for name in (*PRIOR, "coef_"))
    for fitted in (model, model.adapt(X[:5], y[:5]), model.adapt(X, y, groups=GROUPS)):
        other = copied(fitted)
        assert same(vars(fitted), vars(other))
        assert same(vars(fitted.adapt(X[:7], y[:7])), vars(other.adapt(X[:7], y[:7])))
        assert same(vars(fitted.adapt(X, y, GROUPS)), vars(other.adapt(X, y, GROUPS)))
        if cls is MAMLRegressor and adaptation == "implicit":
            assert same(fitted.predict(X, GROUPS, return_std=True), other.predict(X, GROUPS, return_std=True))


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("fitted", ["gradient", "implicit"])
def test_adaptation_may_be_changed_after_fit(cls, fitted):
    z = X[:, 0] * np.array([3.0, -3.0, 0.5])[GROUPS]  # tasks do differ
    y = Y[cls] + z if cls is MAMLRegressor else np.where(z > 0.1, "yes", "no")
    model = cls(adaptation=fitted).fit(X, y, groups=GROUPS)
    other = "implicit" if fitted == "gradient" else "gradient"
    before = copy.deepcopy(model)
    expected = model.adapt(X, y)
    changed = copy.copy(model).set_params(adaptation=other).adapt(X, y)
    assert (
        np.max(np.abs(np.r_[np.ravel(changed.coef_ - expected.coef_), changed.intercept_ - expected.intercept_])) > 1e-6
    )
    assert same(vars(model), vars(before))
    back = copy.copy(model).set_params(adaptation=other).set_params(adaptation=fitted).adapt(X, y)
    assert same(vars(back), vars(expected))


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("order", ["gradient, implicit, implicit", "implicit, gradient, implicit, implicit"])
def test_adaptation_may_be_changed_between_tasks(cls, order):
    """Each task goes on from where it stands, by whatever step is asked for."""
    y = Y[cls]
    model = cls().fit(X, y, groups=GROUPS)
    for i, adaptation in enumerate(order.split(", ")):
        rows = np.isin(GROUPS, [[0, 1, 2], [2], [1], [2]][i])
        former = getattr(model, "task_coef_", np.broadcast_to(model.coef_, (3, *model.coef_.shape)))
        model = model.set_params(adaptation=adaptation).adapt(X[rows], y[rows], groups=GROUPS[rows])
        assert model.tasks_.tolist() == [0, 1, 2]
        assert model.task_coef_.shape == (3, *model.coef_.shape)
        still = [g for g in range(3) if g not in GROUPS[rows]]
        assert_array_equal(model.task_coef_[still], former[still])
        assert np.all(np.isfinite(model.task_intercept_))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_parameters_are_stored_as_given_and_clones_are_unfitted(cls):
    model = cls(algorithm="maml", inner_step_size=0.01).fit(X, Y[cls], groups=GROUPS)
    params = model.get_params()
    assert params == cls(**params).get_params()
    assert not hasattr(clone(model.adapt(X, Y[cls])), "coef_")
    assert model.inner_step_size_ == 0.01
    again = clone(model).fit(X, Y[cls], groups=GROUPS)
    assert_array_equal(again.coef_, model.coef_)


# predict and score


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("groups", [GROUPS, [f"task {g}" for g in GROUPS], pd.Series(GROUPS).astype("category")])
def test_predict_with_groups_before_adapt(cls, groups):
    model = cls().fit(X, Y[cls], groups=groups)
    assert_array_equal(model.predict(X, groups=groups), model.predict(X))
    assert model.score(X, Y[cls], groups=groups) == model.score(X, Y[cls])
    one = model.adapt(X[:4], Y[cls][:4])
    assert_array_equal(one.predict(X, groups=groups), one.predict(X))


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_predict_with_groups_checks_them(cls):
    model = cls().fit(X, Y[cls], groups=GROUPS)
    for fitted in (model, model.adapt(X[:4], Y[cls][:4]), model.adapt(X, Y[cls], groups=GROUPS)):
        for wrong, message in (
            (GROUPS[:-1], "one task id for each of the 30 rows"),
            ([None] * 30, "missing task ids, for 30 rows"),
            (3, "one task id"),
        ):
            with pytest.raises(ValueError, match=message):
                fitted.predict(X, groups=wrong)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_unknown_tasks_are_predicted_by_the_initialisation(cls):
    y = Y[cls]
    model = cls(n_inner_steps=20, inner_step_size=0.1).fit(X, y, groups=GROUPS)
    some = GROUPS > 0
    adapted = model.adapt(X[some], y[some], groups=GROUPS[some])
    raw = (lambda m, *a: m.predict(*a)) if cls is MAMLRegressor else (lambda m, *a: m.decision_function(*a))
    z = raw(adapted, X, GROUPS)
    assert_array_equal(z[~some], raw(model, X)[~some])
    assert np.all(z[some] != raw(model, X)[some])
    assert_array_equal(raw(adapted, X), raw(model, X))
    assert_array_equal(raw(adapted, X, GROUPS + 10), raw(model, X))
    for g in (1, 2):
        i = adapted.tasks_.tolist().index(g)
        expected = X @ np.ravel(adapted.task_coef_[i]) + np.ravel(adapted.task_intercept_[i])
        assert_allclose(z[g == GROUPS], expected[g == GROUPS], rtol=1e-12)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_score(cls):
    y, weight = Y[cls], np.linspace(0, 2, 30)
    model = cls(n_inner_steps=20, inner_step_size=0.05).fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS)
    metric = r2_score if cls is MAMLRegressor else accuracy_score
    assert model.score(X, y) == metric(y, model.predict(X))
    assert model.score(X, y, groups=GROUPS) == metric(y, model.predict(X, groups=GROUPS))
    assert model.score(X, y, sample_weight=weight) == metric(y, model.predict(X), sample_weight=weight)
    assert model.score(X, y, GROUPS, weight) == metric(y, model.predict(X, groups=GROUPS), sample_weight=weight)
    assert len({model.score(X, y, g, w) for g in (None, GROUPS) for w in (None, weight)}) > 2


# Pickles


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("learn", ["fit", "partial_fit"])
def test_pickle_of_an_adapted_estimator(cls, learn):
    rng = np.random.default_rng(0)
    groups, Z = np.arange(3000) % 100, rng.normal(size=(3000, 20))
    y = Z[:, 0] + rng.normal(size=3000)
    y = y if cls is MAMLRegressor else (y > 0).astype(int)
    extra = {"classes": [0, 1]} if learn == "partial_fit" and cls is MAMLSVC else {}
    model = getattr(cls(), learn)(Z, y, groups=groups, **extra)
    adapted = model.adapt(Z[:1000], y[:1000])
    dump = pickle.dumps(adapted)
    assert len(dump) < 10_000  # the rows are half a megabyte, the statistics of the tasks as much
    assert_array_equal(pickle.loads(dump).predict(Z), adapted.predict(Z))
    assert_array_equal(pickle.loads(dump).adapt(Z[:5], y[:5]).coef_, adapted.adapt(Z[:5], y[:5]).coef_)
    by_task = model.adapt(Z, y, groups=groups)
    dump = pickle.dumps(by_task)
    assert len(dump) < 10_000 + 8 * 100 * 24
    assert_array_equal(pickle.loads(dump).predict(Z, groups=groups), by_task.predict(Z, groups=groups))
    if learn == "fit":
        assert len(pickle.dumps(model)) < 15_000


def test_pickle_of_a_stream_goes_on():
    y = Y[MAMLRegressor]
    model = MAMLRegressor().partial_fit(X[:20], y[:20], groups=GROUPS[:20])
    model = pickle.loads(pickle.dumps(model)).partial_fit(X[20:], y[20:], groups=GROUPS[20:])
    assert_allclose(model.coef_, MAMLRegressor().fit(X, y, groups=GROUPS).coef_, rtol=1e-9)
