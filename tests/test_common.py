"""scikit-learn's common checks, with metadata routing off and on, with one task and several; and those left out."""

import pickle
from collections import Counter
from numbers import Real

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, issparse
from sklearn import config_context
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.utils import check_array, estimator_checks, estimator_html_repr, get_tags
from third_party import MAMLLogisticRegression, MAMLQuantileRegressor

from sklearn_maml import MAMLSVC, BiMAMLMixin, MAMLRegressor
from sklearn_maml._sklearn import DISPATCHES

ESTIMATORS = [  # every algorithm, solver and loss; not their product, and small budgets where steps are many
    MAMLRegressor(),
    MAMLRegressor(algorithm="maml", solver="exact", n_inner_steps=3, n_jobs=2),
    MAMLRegressor(algorithm="maml", solver="lbfgs", inner_step_size=0.01, fit_intercept=False),
    MAMLRegressor(algorithm="fomaml", solver="newton-cg", init="normal", random_state=0),
    MAMLRegressor(solver="ode", l2_regularization=0.1, max_iter=50),
    MAMLRegressor(n_inner_steps=0, warm_start=True),
    MAMLRegressor(adaptation="implicit"),
    MAMLRegressor(adaptation="implicit", metric="full", solver="gd", algorithm="maml", max_iter=100),
    MAMLRegressor(adaptation="implicit", metric="full", solver="lbfgs", n_inner_steps=2, l2_regularization=0.01),
    MAMLSVC(),
    MAMLSVC(loss="hinge", max_iter=20, fit_intercept=False),
    MAMLSVC(loss="smooth_hinge", algorithm="maml", solver="newton-cg", C=0.1, max_iter=20),
    MAMLSVC(adaptation="implicit", algorithm="fomaml", solver="gd", max_iter=10),
    MAMLSVC(loss="smooth_hinge", adaptation="implicit", metric="full", inner_step_size=0.1, max_iter=5),
    MAMLQuantileRegressor(),
    MAMLLogisticRegression(),
]
DEFAULTS = [MAMLRegressor(), MAMLSVC(), MAMLQuantileRegressor(), MAMLLogisticRegression()]
IMPLICIT = [
    MAMLRegressor(adaptation="implicit", metric="full"),
    MAMLSVC(adaptation="implicit"),
    MAMLLogisticRegression(adaptation="implicit"),
]
NOT_OURS = {
    Ridge: set() if DISPATCHES else {"check_array_api_input"},
    LinearSVC: {
        "check_class_weight_classifiers",
        "check_class_weight_balanced_linear_classifier",
        "check_sparsify_coefficients",
    },
}
"""Checks of what our estimators do not have: class_weight, sparsify, and other arrays if scikit-learn is old."""


def check_name(check):
    while hasattr(check, "func"):
        check = check.func
    return check.__name__


def cases_of(common):
    """Pairs of estimator and check, without those for arrays of other libraries, which are in array_api_cases.py."""
    return [case for case in common.args[1] if "array_api" not in check_name(case[1])]


COMMON = estimator_checks.parametrize_with_checks(ESTIMATORS)
CASES = cases_of(COMMON)
ROUTED = [case for case in CASES if repr(case[0]) in map(repr, DEFAULTS)]
"""Of each class one estimator: no algorithm, solver or loss knows of routing."""


def tasks_of(X):
    """Task ids that depend on nothing but a row's numbers: not on its place, its copies, the container or the type."""
    try:
        first = check_array(X, accept_sparse="csr", dtype=np.float32, ensure_all_finite=False)[:, [0]]
    except (TypeError, ValueError):  # fit has to say what is wrong
        return None
    first = first.toarray() if issparse(first) else first
    return np.nan_to_num(np.floor(3 * first[:, 0]), posinf=0, neginf=0) % 3


class InTasks:
    """Has the checks, which know no groups, fit several tasks."""

    def fit(self, X, y, groups=None, sample_weight=None):
        return super().fit(X, y, groups=tasks_of(X), sample_weight=sample_weight)


class RegressorInTasks(InTasks, MAMLRegressor):
    pass


class SVCInTasks(InTasks, MAMLSVC):
    pass


class LogisticRegressionInTasks(InTasks, MAMLLogisticRegression):
    pass


IN_TASKS = [
    RegressorInTasks(),
    RegressorInTasks(adaptation="implicit", metric="full"),
    SVCInTasks(loss="smooth_hinge", adaptation="implicit", max_iter=3),
    LogisticRegressionInTasks(),
]
COMMON_IN_TASKS = estimator_checks.parametrize_with_checks(IN_TASKS)
CASES_IN_TASKS = cases_of(COMMON_IN_TASKS)

each = pytest.mark.parametrize("estimator", DEFAULTS + IMPLICIT, ids=repr)
one_task = pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")


@pytest.mark.parametrize(COMMON.args[0], CASES, **COMMON.kwargs)
@one_task
@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:partial_fit starts anew:UserWarning"
)
def test_common_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(COMMON.args[0], ROUTED, **COMMON.kwargs)
@one_task
@pytest.mark.filterwarnings("ignore:partial_fit starts anew:UserWarning")
def test_common_checks_with_routing(estimator, check):
    with config_context(enable_metadata_routing=True):
        check(estimator)


@pytest.mark.parametrize(COMMON_IN_TASKS.args[0], CASES_IN_TASKS, **COMMON_IN_TASKS.kwargs)
@one_task
@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    "ignore:partial_fit starts anew:UserWarning",
    "ignore:inner_step_size='auto' could not learn:UserWarning",
)
def test_common_checks_with_several_tasks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", IN_TASKS, ids=repr)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_several_tasks_are_several(estimator):
    X, y, _ = tasks()
    assert_array_equal(np.unique(tasks_of(X)), [0, 1, 2])
    model = clone(estimator).fit(X, y > 0 if is_classifier(estimator) else y)
    if isinstance(model.inner_step_size, str):
        assert model.task_covariance_ is not None


def test_number_of_common_checks():
    assert not any(getattr(case, "marks", ()) for case in CASES)  # the mark of an expected failure
    number = Counter(repr(estimator) for estimator, _ in CASES)
    assert number.keys() == {repr(estimator) for estimator in ESTIMATORS}
    assert min(number.values()) >= 55
    assert len(CASES) >= 58 * len(ESTIMATORS)
    assert {type(estimator) for estimator, _ in ROUTED} == {type(estimator) for estimator in ESTIMATORS}
    assert len(ROUTED) == sum(number[repr(estimator)] for estimator in DEFAULTS) >= 58 * len(DEFAULTS)
    assert not any(getattr(case, "marks", ()) for case in CASES_IN_TASKS)
    assert len(CASES_IN_TASKS) >= 58 * len(IN_TASKS)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
def test_common_checks_are_those_of_scikit_learn(estimator):
    theirs = LinearSVC() if is_classifier(estimator) else Ridge()
    names, expected = (
        {check_name(check) for _, check in estimator_checks.estimator_checks_generator(model)}
        for model in (estimator, theirs)
    )
    assert names >= expected - NOT_OURS[type(theirs)]
    assert len(expected - NOT_OURS[type(theirs)]) >= 55


def test_every_choice_is_checked():
    constraints = MAMLRegressor._parameter_constraints | MAMLSVC._parameter_constraints
    for name in ("algorithm", "solver", "loss", "adaptation", "metric"):
        used = {getattr(estimator, name) for estimator in ESTIMATORS if name in estimator.get_params()}
        assert used == set(constraints[name][0].options)


# What parametrize_with_checks leaves out


@pytest.mark.parametrize("estimator", [MAMLRegressor(), MAMLSVC()], ids=repr)
@one_task
def test_parameter_validation(estimator):
    estimator_checks.check_param_validation(type(estimator).__name__, estimator)


class Declared(MAMLQuantileRegressor):
    """A third party that declares what its parameters may be."""

    _parameter_constraints = {
        "quantile": [Real],
        "delta": [Real],
        "inner_step_size": BiMAMLMixin._parameter_constraints["inner_step_size"],
        "switch_tol": BiMAMLMixin._parameter_constraints["switch_tol"],
    }


@one_task
def test_parameter_validation_of_third_parties():
    estimator_checks.check_param_validation("Declared", Declared())
    for undeclared in (MAMLQuantileRegressor(inner_step_size=-1.0), MAMLLogisticRegression(inner_step_size="large")):
        with pytest.raises(ValueError, match=r"The 'inner_step_size' parameter of MAML.* must be"):
            undeclared.fit([[0.0], [1.0]], [0, 1])


@each
@one_task
def test_feature_names(estimator):
    estimator_checks.check_dataframe_column_names_consistency(type(estimator).__name__, estimator)


@each
@one_task
def test_input_stays_as_it_is(estimator):
    estimator_checks.check_inplace_ensure_writeable(type(estimator).__name__, estimator)


def tasks():
    """Three tasks of two features, which differ in where y (or its sign) changes."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 10)
    X = rng.normal(size=(30, 2))
    return X, X @ [1.0, -1.0] + np.repeat([0.0, 0.5, -0.5], 10), groups


def fitted(estimator):
    X, y, groups = tasks()
    return clone(estimator).fit(X, y > 0 if is_classifier(estimator) else y, groups=groups)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_what_must_not_matter_with_several_tasks(estimator):
    """Weights are repetition, of weight zero is absence; order, container, type, names of tasks mean nothing."""
    X, y, groups = tasks()
    rng = np.random.default_rng(1)
    X, y = X.astype(np.float32).astype(float), y + 0.5 * rng.normal(size=30)
    y = np.where(y > 0, "yes", "no") if is_classifier(estimator) else y
    weight, order = rng.integers(0, 4, size=30).astype(float), rng.permutation(30)
    copies = np.repeat(np.arange(30), weight.astype(int))

    def parameters(X, y, groups, sample_weight=None):
        model = clone(estimator).fit(X, y, groups=groups, sample_weight=sample_weight)
        adapted = model.adapt(X, y, groups=groups, sample_weight=sample_weight)
        assert adapted.task_coef_.shape[0] == 3
        return [np.ravel(part) for part in (model.coef_, model.intercept_, adapted.task_coef_, adapted.task_intercept_)]

    expected = parameters(X, y, groups, weight)
    for name, rows in {
        "weights": (X[copies], y[copies], groups[copies]),
        "order": (X[order], y[order], groups[order], weight[order]),
        "container": (csr_array(X), list(y), list(groups), list(weight)),
        "type": (X.astype(np.float32), y, groups, weight.astype(int)),
        "names": (X, y, np.where(groups == "a", 1, np.where(groups == "b", 2, 3)), weight),
    }.items():
        for value, other in zip(expected, parameters(*rows), strict=True):
            assert_allclose(other, value, rtol=0, atol=1e-4, err_msg=name)


@each
@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_frames(estimator, frame):
    X, y, groups = tasks()
    if is_classifier(estimator):
        y = np.where(y > 0, "yes", "no")
    data = frame({"one": X[:, 0], "two": X[:, 1]})
    model = clone(estimator).fit(data, frame({"y": y})["y"], groups=frame({"g": groups})["g"])
    assert_array_equal(model.feature_names_in_, ["one", "two"])
    assert_array_equal(model.coef_, clone(estimator).fit(X, y, groups=groups).coef_)
    adapted = model.adapt(data[:4], y[:4])
    assert_array_equal(adapted.feature_names_in_, ["one", "two"])
    for swapped in (model, adapted):
        with pytest.raises(ValueError, match="in the same order"):
            swapped.predict(data[["two", "one"]])
    with pytest.raises(ValueError, match="unseen at fit time"):
        model.adapt(frame({"one": X[:4, 0], "three": X[:4, 1]}), y[:4])


@each
@pytest.mark.parametrize("output", ["pandas", "polars"])
def test_behind_a_transformer_that_outputs_frames(estimator, output):
    X, y, groups = tasks()
    y = y > 0 if is_classifier(estimator) else y
    frame = {"pandas": pd, "polars": pl}[output].DataFrame({"one": X[:, 0], "two": X[:, 1]})
    last = type(estimator).__name__.lower()
    pipe = make_pipeline(StandardScaler(), clone(estimator)).set_output(transform=output)
    pipe.fit(frame, y, **{f"{last}__groups": groups})
    assert_array_equal(pipe[-1].feature_names_in_, ["one", "two"])
    arrays = make_pipeline(StandardScaler(), clone(estimator)).fit(X, y, **{f"{last}__groups": groups})
    assert_allclose(pipe.predict(frame), arrays.predict(X), rtol=1e-9)
    assert not hasattr(estimator, "set_output")  # there is nothing to transform


# What an estimator is


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_clone(estimator):
    model = fitted(estimator)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert vars(copy) == vars(type(model)(**model.get_params()))  # nothing of the fit is left
    with pytest.raises(NotFittedError):
        copy.predict(tasks()[0])


@each
def test_pickle(estimator):
    X, y, groups = tasks()
    y = y > 0 if is_classifier(estimator) else y
    model = fitted(estimator)
    for each_model in (model, model.adapt(X[:4], y[:4]), model.adapt(X, y, groups=groups)):
        copy = pickle.loads(pickle.dumps(each_model))
        assert copy.get_params() == each_model.get_params()
        assert vars(copy).keys() == vars(each_model).keys()
        assert_array_equal(copy.predict(X, groups=groups), each_model.predict(X, groups=groups))
        again = copy.adapt(X[:2], y[:2], groups=groups[:2])
        assert_array_equal(again.task_coef_, each_model.adapt(X[:2], y[:2], groups=groups[:2]).task_coef_)


def test_repr():
    assert repr(MAMLRegressor()) == "MAMLRegressor()"
    assert repr(MAMLSVC(C=2.0, loss="hinge")) == "MAMLSVC(C=2.0, loss='hinge')"
    assert repr(MAMLQuantileRegressor(quantile=0.9)) == "MAMLQuantileRegressor(quantile=0.9)"
    with config_context(print_changed_only=False):
        assert repr(MAMLLogisticRegression()) == (
            "MAMLLogisticRegression(adaptation='gradient', inner_step_size='auto',\n"
            "                       l2_regularization=0.01, n_inner_steps=1)"
        )


@each
def test_html(estimator):
    name = type(estimator).__name__
    for model in (estimator, fitted(estimator), make_pipeline(StandardScaler(), estimator)):
        assert name in estimator_html_repr(model)


def test_parameters_of_third_parties():
    model = MAMLQuantileRegressor(delta=0.5)
    assert model.get_params() == {"quantile": 0.5, "delta": 0.5, "inner_step_size": 0.1, "switch_tol": "auto"}
    assert model.set_params(quantile=0.9).quantile == 0.9
    with pytest.raises(ValueError, match="Invalid parameter 'solver'"):
        model.set_params(solver="gd")
    for name, default in MAMLRegressor().get_params().items():  # what it does not name has the mixin's default
        assert getattr(model, name) == (0.1 if name == "inner_step_size" else default)


@each
def test_tags(estimator):
    tags = get_tags(estimator)
    assert is_classifier(estimator) != is_regressor(estimator)
    assert tags.input_tags.sparse
    assert not tags.input_tags.allow_nan
    assert tags.target_tags.required
    assert tags.target_tags.multi_output == is_regressor(estimator)
    assert not tags.non_deterministic
    assert not tags.no_validation
