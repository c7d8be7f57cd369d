"""Task ids in a column of X: the wrapper is the meta-learner with `groups`, wherever only X and y are handed on."""

import pickle
import warnings
from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from sklearn import config_context
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_classifier, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    AdaBoostClassifier,
    AdaBoostRegressor,
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold, KFold, cross_val_predict, cross_val_score, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, SplineTransformer, StandardScaler
from sklearn.utils import estimator_checks, get_tags
from statsmodels.datasets import grunfeld

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, adapt
from sklearn_maml.compose import GroupsFromColumn
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.model_selection import cross_validate_tasks

GRUNFELD = grunfeld.load_pandas().data.sample(frac=1, random_state=0)  # no firm's rows lie together
FIRM = GRUNFELD["firm"].to_numpy(dtype=object)
NUMBER = np.unique(FIRM, return_inverse=True)[1].astype(float)
OTHERS = StandardScaler().fit_transform(np.log(GRUNFELD[["value", "capital"]].to_numpy()))
Y = np.log(GRUNFELD["invest"].to_numpy())
LARGE = np.where(np.median(Y) < Y, "large", "small")
FRAME = pd.DataFrame({"value": OTHERS[:, 0], "firm": FIRM, "capital": OTHERS[:, 1]})
ARRAY = np.column_stack([OTHERS[:, 0], NUMBER, OTHERS[:, 1]])
FIRM_OF = {tuple(row): firm for row, firm in zip(OTHERS.tolist(), FIRM, strict=True)}
NUMBER_OF = dict(zip(FIRM, NUMBER, strict=True))
KNOWN = np.isin(FIRM, ["IBM", "US Steel"])
SUPPORT = np.flatnonzero(KNOWN)[::5]
FOLDS = KFold(3, shuffle=True, random_state=0)
TASK_FOLDS = GroupKFold(3)
TRAINING = [train for train, _ in TASK_FOLDS.split(OTHERS, Y, FIRM)]
MAML = {"inner_step_size": 0.05}
TRANSFORM = {"func": np.arcsinh, "inverse_func": np.sinh}
CALLS = []
assert_close = partial(assert_allclose, rtol=1e-10)  # rounding depends on how rows lie in memory

REGRESSORS = [
    MAMLRegressor(),
    MAMLRegressor(adaptation="implicit", metric="full"),
    make_pipeline(StandardScaler(), MAMLRegressor(inner_step_size=0.1)),
]
CLASSIFIERS = [MAMLSVC(inner_step_size=0.1), make_pipeline(StandardScaler(), MAMLSVC(C=0.1))]


class Noting:
    """Notes what `fit` of any of its instances, clones included, is called with."""

    def fit(self, X, y, groups=None, sample_weight=None):
        CALLS.append((np.asarray(X), np.asarray(groups), sample_weight))
        return super().fit(X, y, groups=groups, sample_weight=sample_weight)


class Spy(Noting, MAMLRegressor):
    pass


class SpySVC(Noting, MAMLSVC):
    pass


class SpyScaler(StandardScaler):
    """Notes the rows it is fitted to and transforms."""

    def fit(self, X, y=None, sample_weight=None):
        CALLS.append((np.asarray(X), None, sample_weight))
        return super().fit(X, y, sample_weight)

    def transform(self, X, copy=None):
        CALLS.append((np.asarray(X), None, None))
        return super().transform(X, copy)


class ByHand(BaseEstimator):
    """What the wrapper is to do, written down for one kind of estimator and of X."""

    def __init__(self, estimator, column):
        self.estimator = estimator
        self.column = column

    def _others(self, X):
        return np.delete(np.asarray(X), self.column, axis=1).astype(float)

    def fit(self, X, y, sample_weight=None):
        groups = np.asarray(X)[:, self.column]
        self.model_ = clone(self.estimator).fit(self._others(X), y, groups=groups, sample_weight=sample_weight)
        self.n_features_in_ = self.model_.n_features_in_ + 1
        return self

    def predict(self, X):
        return self.model_.predict(self._others(X))


class RegressorByHand(RegressorMixin, ByHand):
    pass


class ClassifierByHand(ClassifierMixin, ByHand):
    def fit(self, X, y, sample_weight=None):
        super().fit(X, y, sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def decision_function(self, X):
        return self.model_.decision_function(self._others(X))


@pytest.fixture(params=[False, True], ids=["routing_off", "routing_on"])
def routing(request):
    with config_context(enable_metadata_routing=request.param):
        yield request.param


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def fit_with_groups(estimator, rows=slice(None), y=Y, X=OTHERS, ids=FIRM, **params):
    """The estimator without the wrapper: `groups` handed over by metadata routing."""
    with config_context(enable_metadata_routing=True):
        return clone(estimator).fit(X[rows], y[rows], groups=ids[rows], **params)


def last(estimator):
    return estimator[-1] if isinstance(estimator, Pipeline) else estimator


def assert_own_tasks(calls, at_least=1):
    """All fits saw several tasks, and of each row the task it is of; the last two features tell the row."""
    assert len(calls) >= at_least
    for X, groups, _ in calls:
        firms = [FIRM_OF[tuple(row)] for row in X[:, -2:].tolist()]
        expected = [NUMBER_OF[firm] for firm in firms] if groups.dtype.kind == "f" else firms
        assert_array_equal(groups, expected)
        assert len(np.unique(groups)) > 2


def test_data():
    assert len(FIRM_OF) == len(Y) == 220
    assert len(np.unique(FIRM)) == 11
    assert 4 <= len(SUPPORT) < KNOWN.sum()


# The wrapper is the estimator with groups

CONTAINERS = {
    "name": (FRAME, "firm"),
    "position": (FRAME, 1),
    "position from the end": (FRAME, -2),
    "polars": (pl.DataFrame({"value": OTHERS[:, 0], "firm": FIRM.tolist(), "capital": OTHERS[:, 1]}), "firm"),
    "array": (ARRAY, 1),
    "array from the end": (np.column_stack([OTHERS, NUMBER]), -1),
    "first": (np.column_stack([NUMBER, OTHERS]), 0),
    "objects": (FRAME.to_numpy(dtype=object), 1),
    "lists": (FRAME.to_numpy(dtype=object).tolist(), 1),
    "lists of numbers": (ARRAY.tolist(), -2),
    "sparse": (sparse.csr_array(ARRAY), 1),
    "sparse matrix": (sparse.csc_matrix(ARRAY), -2),
    "sparse in coordinates": (sparse.coo_array(ARRAY), 1),
    "integers": (FRAME.assign(firm=NUMBER.astype(int)), "firm"),
    "categories": (FRAME.assign(firm=pd.Categorical(FIRM)), "firm"),
    "dates": (FRAME.assign(firm=pd.Timestamp("2020-01-01") + pd.to_timedelta(NUMBER, "D")), "firm"),
    "numbers that may be missing": (FRAME.assign(firm=pd.array(NUMBER.astype(int), dtype="Int64")), "firm"),
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_container(name):
    X, column = CONTAINERS[name]
    close = partial(assert_close, rtol=1e-7)  # what is learned of the tasks is searched for, to a tolerance
    direct = MAMLRegressor(adaptation="implicit").fit(OTHERS, Y, groups=FIRM)
    model = GroupsFromColumn(MAMLRegressor(adaptation="implicit"), column).fit(X, Y)
    close(model.estimator_.coef_, direct.coef_)
    close(model.predict(X), direct.predict(OTHERS))
    close(model.score(X, Y), direct.score(OTHERS, Y))
    adapted, adapted_direct = model.adapt(X, Y), direct.adapt(OTHERS, Y, groups=FIRM)
    for got, expected in zip(
        adapted.predict(X, return_std=True),
        adapted_direct.predict(OTHERS, groups=FIRM, return_std=True),
        strict=True,
    ):
        close(got, expected)
    assert model.n_features_in_ == 3


def test_float32():
    X = ARRAY.astype(np.float32)
    model = GroupsFromColumn(MAMLRegressor(), 1).fit(X, Y)
    direct = MAMLRegressor().fit(X[:, [0, 2]], Y, groups=X[:, 1])
    assert model.estimator_.coef_.dtype == model.predict(X).dtype == np.float32
    assert_close(model.estimator_.coef_, direct.coef_)
    assert_close(model.predict(X), direct.predict(X[:, [0, 2]]))


@pytest.mark.parametrize("estimator", REGRESSORS, ids=repr)
def test_regressors(estimator, routing):
    direct = fit_with_groups(estimator)
    model = GroupsFromColumn(estimator, 1).fit(FRAME.to_numpy(dtype=object), Y)
    assert_close(last(model.estimator_).coef_, last(direct).coef_)
    assert_close(last(model.estimator_).inner_step_size_, last(direct).inner_step_size_)
    assert_close(model.predict(FRAME.to_numpy(dtype=object)), direct.predict(OTHERS))
    assert_close(model.score(FRAME.to_numpy(dtype=object), Y), r2_score(Y, direct.predict(OTHERS)))
    assert not hasattr(model, "decision_function")
    assert not hasattr(model, "predict_proba")
    assert not hasattr(model, "classes_")


@pytest.mark.parametrize("estimator", CLASSIFIERS, ids=repr)
def test_classifiers(estimator, routing):
    direct = fit_with_groups(estimator, y=LARGE)
    model = GroupsFromColumn(estimator, 1).fit(ARRAY, LARGE)
    assert_close(last(model.estimator_).coef_, last(direct).coef_)
    assert_array_equal(model.classes_, ["large", "small"])
    assert_array_equal(model.predict(ARRAY), direct.predict(OTHERS))
    assert_close(model.decision_function(ARRAY), direct.decision_function(OTHERS))
    assert_close(model.score(ARRAY, LARGE), accuracy_score(LARGE, direct.predict(OTHERS)))
    assert not hasattr(model, "predict_proba")
    adapted = model.adapt(ARRAY[KNOWN], LARGE[KNOWN])
    with config_context(enable_metadata_routing=True):
        expected = adapt(direct, OTHERS[KNOWN], LARGE[KNOWN], groups=FIRM[KNOWN])
        values = expected.decision_function(OTHERS, groups=FIRM)
    assert_close(adapted.decision_function(ARRAY), values)
    assert_array_equal(adapted.predict(ARRAY), np.where(values > 0, "small", "large"))
    assert_close(values[~KNOWN], direct.decision_function(OTHERS)[~KNOWN])
    assert np.all(values[KNOWN] != direct.decision_function(OTHERS)[KNOWN])


def test_several_outputs():
    targets = np.column_stack([Y, np.log(GRUNFELD["capital"].to_numpy()) - Y])
    direct = MAMLRegressor(**MAML).fit(OTHERS, targets, groups=FIRM)
    model = GroupsFromColumn(MAMLRegressor(**MAML), "firm").fit(FRAME, targets)
    assert_close(model.estimator_.coef_, direct.coef_)
    assert_close(model.score(FRAME, targets), r2_score(targets, direct.predict(OTHERS)))
    assert model.adapt(FRAME, targets).predict(FRAME).shape == targets.shape


def test_an_estimator_without_tasks():
    """Its metric is that of the same rows without the column; probabilities come through."""
    model = GroupsFromColumn(Ridge(), "firm").fit(FRAME, Y)
    assert_close(model.predict(FRAME), Ridge().fit(OTHERS, Y).predict(OTHERS))
    assert not hasattr(model, "adapt")
    assert not hasattr(GroupsFromColumn(make_pipeline(StandardScaler(), Ridge()), "firm").fit(FRAME, Y), "adapt")
    model = GroupsFromColumn(LogisticRegression(), "firm").fit(FRAME, LARGE)
    direct = LogisticRegression().fit(OTHERS, LARGE)
    assert_close(model.predict_proba(FRAME), direct.predict_proba(OTHERS))
    assert_close(model.decision_function(FRAME), direct.decision_function(OTHERS))


# Containers that hand on X and y alone: the wrapper in them is what is written by hand above

INSIDE_REGRESSORS = {
    "voting": (FRAME, lambda wrap: VotingRegressor([("maml", wrap(1)), ("more", wrap(1, l2_regularization=0.1))])),
    "stacking": (
        FRAME,
        lambda wrap: StackingRegressor(
            [("maml", wrap(1)), ("more", wrap(1, l2_regularization=0.1))], LinearRegression(), cv=FOLDS
        ),
    ),
    "last of a stack": (
        ARRAY,
        lambda wrap: StackingRegressor([("linear", LinearRegression())], wrap(-2), cv=FOLDS, passthrough=True),
    ),
    "bagging": (ARRAY, lambda wrap: BaggingRegressor(wrap(1), n_estimators=3, random_state=0)),
    "boosting": (ARRAY, lambda wrap: AdaBoostRegressor(wrap(1), n_estimators=3, random_state=0)),
    "target": (FRAME, lambda wrap: TransformedTargetRegressor(wrap(1), **TRANSFORM)),
    "search": (FRAME, lambda wrap: GridSearchCV(wrap(1), {"estimator__l2_regularization": [0.0, 1.0]}, cv=FOLDS)),
    "pipeline": (FRAME, lambda wrap: make_pipeline(FunctionTransformer(), wrap(1))),
}
INSIDE_CLASSIFIERS = {
    "voting": (
        FRAME,
        lambda wrap: VotingClassifier([("maml", wrap(1)), ("c", wrap(1, C=0.01)), ("d", wrap(1, fit_intercept=False))]),
    ),
    "stacking": (FRAME, lambda wrap: StackingClassifier([("maml", wrap(1))], LogisticRegression(), cv=FOLDS)),
    "last of a stack": (
        ARRAY,
        lambda wrap: StackingClassifier([("linear", LogisticRegression())], wrap(-2), cv=FOLDS, passthrough=True),
    ),
    "bagging": (ARRAY, lambda wrap: BaggingClassifier(wrap(1), n_estimators=3, random_state=0)),
    "boosting": (ARRAY, lambda wrap: AdaBoostClassifier(wrap(1), n_estimators=3, random_state=0)),
}


def as_column(wrapper, estimator, X):
    """Wraps the estimator, changed by some parameters; by the column's name where that is possible."""
    name = "firm" if wrapper is GroupsFromColumn and X is FRAME else None
    return lambda position, **params: wrapper(clone(estimator).set_params(**params), name or position)


@pytest.mark.parametrize("name", INSIDE_REGRESSORS)
def test_way_column_inside_regressors(name, calls, routing):
    X, container = INSIDE_REGRESSORS[name]
    model = container(as_column(GroupsFromColumn, Spy(**MAML), X)).fit(X, Y)
    assert_own_tasks(calls)
    expected = container(as_column(RegressorByHand, MAMLRegressor(**MAML), X)).fit(X, Y)
    assert_close(model.predict(X), expected.predict(X))
    assert model.score(X, Y) > 0.7


@pytest.mark.parametrize("name", INSIDE_CLASSIFIERS)
def test_way_column_inside_classifiers(name, calls, routing):
    X, container = INSIDE_CLASSIFIERS[name]
    model = container(as_column(GroupsFromColumn, SpySVC(**MAML), X)).fit(X, LARGE)
    assert_own_tasks(calls)
    expected = container(as_column(ClassifierByHand, MAMLSVC(**MAML), X)).fit(X, LARGE)
    assert_array_equal(model.predict(X), expected.predict(X))
    assert model.score(X, LARGE) > 0.7


def test_way_column_in_cross_val_score(calls, routing):
    model = GroupsFromColumn(Spy(**MAML), "firm")
    scores = cross_val_score(model, FRAME, Y, cv=FOLDS, params={}, error_score="raise")
    predictions = cross_val_predict(model, FRAME, Y, cv=FOLDS, params={})
    assert_own_tasks(calls, at_least=6)
    for score, (train, test) in zip(scores, FOLDS.split(FRAME), strict=True):
        expected = fit_with_groups(MAMLRegressor(**MAML), train).predict(OTHERS[test])
        assert_close(score, r2_score(Y[test], expected))
        assert_close(predictions[test], expected)


def test_way_column_with_whole_tasks_held_out(calls, routing):
    """The splitter gets its groups as ever; with routing enabled they go to `score` too, which may have them."""
    groups = {"params": {"groups": FIRM}} if routing else {"groups": FIRM}
    scores = cross_val_score(
        GroupsFromColumn(Spy(**MAML), "firm"), FRAME, Y, cv=TASK_FOLDS, error_score="raise", **groups
    )
    assert_own_tasks(calls, at_least=3)
    for score, train in zip(scores, TRAINING, strict=True):
        test = np.setdiff1d(np.arange(len(Y)), train)
        assert_close(score, fit_with_groups(MAMLRegressor(**MAML), train).score(OTHERS[test], Y[test]))


def test_way_column_with_a_few_shot_scorer(calls, routing):
    """Scored by the same column: as without the wrapper, with groups."""
    groups = {"params": {"groups": FIRM}} if routing else {"groups": FIRM}
    scorer = FewShotScorer("neg_mean_squared_error", groups="firm")
    scores = cross_val_score(
        GroupsFromColumn(Spy(**MAML), "firm"), FRAME, Y, cv=TASK_FOLDS, scoring=scorer, error_score="raise", **groups
    )
    assert_own_tasks(calls, at_least=3)
    direct = FewShotScorer("neg_mean_squared_error")
    for score, train in zip(scores, TRAINING, strict=True):
        test = np.setdiff1d(np.arange(len(Y)), train)
        fitted = fit_with_groups(MAMLRegressor(**MAML), train)
        assert_close(score, direct(fitted, OTHERS[test], Y[test], groups=FIRM[test]))


# The other ways, each in its shortest form

BY_TASK = {"cv": TASK_FOLDS, "groups": FIRM, "error_score": "raise"}


def spying_pipeline():
    return Pipeline([("keep", FunctionTransformer()), ("maml", Spy(**MAML))])


def test_way_bare_fit(calls, routing):
    Spy(**MAML).fit(OTHERS, Y, groups=FIRM)
    assert_own_tasks(calls)


def test_way_pipeline_with_the_name_of_the_step(calls):
    spying_pipeline().fit(OTHERS, Y, maml__groups=FIRM)
    assert_own_tasks(calls)


def test_way_cross_validate_with_params(calls):
    cross_validate(Spy(**MAML), OTHERS, Y, params={"groups": FIRM}, **BY_TASK)
    cross_validate(spying_pipeline(), OTHERS, Y, params={"maml__groups": FIRM}, **BY_TASK)
    assert_own_tasks(calls, at_least=6)


@pytest.mark.parametrize("model", [Spy(**MAML), spying_pipeline()], ids=["estimator", "pipeline"])
def test_way_cross_validate_tasks(model, calls, routing):
    scores = cross_validate_tasks(model, OTHERS, Y, FIRM, scoring="neg_mean_squared_error", error_score="raise")
    assert_own_tasks(calls, at_least=5)
    assert len(scores["test_score"]) == 5


def test_way_search_over_a_pipeline(calls):
    search = GridSearchCV(spying_pipeline(), {"maml__l2_regularization": [0.0, 0.1]}, cv=TASK_FOLDS)
    search.fit(OTHERS, Y, groups=FIRM, maml__groups=FIRM)
    assert_own_tasks(calls, at_least=7)


def test_way_routing_enabled(calls):
    grid = {"maml__l2_regularization": [0.0, 0.1]}
    with config_context(enable_metadata_routing=True):
        spying_pipeline().fit(OTHERS, Y, groups=FIRM)
        GridSearchCV(spying_pipeline(), grid, cv=TASK_FOLDS).fit(OTHERS, Y, groups=FIRM)
        cross_validate(spying_pipeline(), OTHERS, Y, cv=TASK_FOLDS, params={"groups": FIRM}, error_score="raise")
    assert_own_tasks(calls, at_least=1 + 7 + 3)


def test_way_few_shot_scorer_with_groups_of_its_own(calls):
    frame = pd.DataFrame(OTHERS, index=FIRM, columns=["value", "capital"])
    by_row = pd.Series(FIRM, index=np.arange(len(Y)))
    scores = [
        cross_val_score(Spy(**MAML), X, Y, params={"groups": FIRM}, scoring=FewShotScorer(groups=source), **BY_TASK)
        for X, source in ((frame, "index"), (frame.reset_index(drop=True), by_row))
    ]
    assert_own_tasks(calls, at_least=6)
    assert_array_equal(*scores)


# What is inside

PIPELINE = make_pipeline(SpyScaler(), SplineTransformer(n_knots=3, degree=2), MAMLRegressor(inner_step_size=0.1))


def test_no_transformer_sees_the_ids(calls, routing):
    model = GroupsFromColumn(PIPELINE, "firm").fit(FRAME, Y)
    model.adapt(FRAME[KNOWN], Y[KNOWN]).predict(FRAME)
    rows = [seen for seen, _, _ in calls]
    assert len(rows) == 4  # fit, and transform in fit, adapt, predict
    for seen, expected in zip(rows, [OTHERS, OTHERS, OTHERS[KNOWN], OTHERS], strict=True):
        assert_array_equal(seen, expected)
    assert model.estimator_[0].feature_names_in_.tolist() == ["value", "capital"]


GRID = {"cv": TASK_FOLDS, "error_score": "raise"}
INSIDE = {
    "pipeline": PIPELINE,
    "target": TransformedTargetRegressor(MAMLRegressor(**MAML), transformer=StandardScaler()),
    "target of a pipeline": TransformedTargetRegressor(PIPELINE, **TRANSFORM),
    "cv": MAMLRegressorCV(inner_step_sizes=[0.01, 0.1], adaptations=["implicit"]),
    "search": GridSearchCV(MAMLRegressor(**MAML), {"l2_regularization": [0.0, 0.1]}, **GRID),
    "search of a pipeline": GridSearchCV(PIPELINE, {"mamlregressor__inner_step_size": [0.01, 0.1]}, **GRID),
    "search of a target": GridSearchCV(
        TransformedTargetRegressor(
            make_pipeline(StandardScaler(), MAMLRegressor(**MAML)), transformer=StandardScaler()
        ),
        {"regressor__mamlregressor__l2_regularization": [0.0, 0.1]},
        scoring=FewShotScorer("neg_mean_squared_error"),
        **GRID,
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_inside(name, routing):
    """As by hand, in whose adapted predictions each row has its task adapted to by itself."""
    direct = fit_with_groups(INSIDE[name])
    model = GroupsFromColumn(INSIDE[name], 1).fit(ARRAY, Y)
    before = model.predict(ARRAY)
    assert_close(before, direct.predict(OTHERS))
    adapted = model.adapt(ARRAY[SUPPORT], Y[SUPPORT])
    expected = direct.predict(OTHERS)
    for firm in ("IBM", "US Steel"):
        rows = np.flatnonzero(firm == FIRM)
        support = np.intersect1d(SUPPORT, rows)
        own = adapt(direct, OTHERS[support], Y[support])
        expected[rows] = own.predict(OTHERS[rows])
    assert_close(adapted.predict(ARRAY), expected)
    assert_close(adapted.predict(ARRAY)[~KNOWN], before[~KNOWN])
    assert np.all(adapted.predict(ARRAY)[KNOWN] != before[KNOWN])
    assert_array_equal(model.predict(ARRAY), before)
    assert_close(model.score(ARRAY, Y), r2_score(Y, before))
    assert_close(adapted.score(ARRAY, Y), r2_score(Y, expected))


@pytest.mark.parametrize(
    "outside",
    [
        lambda model: TransformedTargetRegressor(model, **TRANSFORM),
        lambda model: make_pipeline(FunctionTransformer(), model),
        lambda model: GridSearchCV(model, {"estimator__l2_regularization": [0.0, 0.1]}, cv=FOLDS),
    ],
    ids=["target", "pipeline", "search"],
)
def test_adapt_from_outside(outside, routing):
    model = outside(GroupsFromColumn(MAMLRegressor(inner_step_size=0.2), "firm")).fit(FRAME, Y)
    before = model.predict(FRAME)
    predicted = adapt(model, FRAME[KNOWN], Y[KNOWN]).predict(FRAME)
    assert_array_equal(predicted[~KNOWN], before[~KNOWN])
    assert r2_score(Y[KNOWN], predicted[KNOWN]) > r2_score(Y[KNOWN], before[KNOWN]) + 0.1


# Weights

WEIGHT = np.random.default_rng(0).integers(0, 4, size=len(Y)).astype(float)
REPEATED = np.repeat(np.arange(len(Y)), WEIGHT.astype(int))


@pytest.mark.parametrize(
    "estimator",
    [
        MAMLRegressor(),
        make_pipeline(StandardScaler(), MAMLRegressor(adaptation="implicit")),
        TransformedTargetRegressor(make_pipeline(StandardScaler(), MAMLRegressor()), **TRANSFORM),
        GridSearchCV(make_pipeline(StandardScaler(), MAMLRegressor(**MAML)), {"mamlregressor__n_inner_steps": [1, 2]}),
    ],
    ids=["bare", "pipeline", "target", "search"],
)
def test_weights_are_repetition(estimator, routing):
    if isinstance(estimator, GridSearchCV):  # the same rows in the same folds, however often they are repeated
        folds = np.arange(len(Y)) % 2
        weighted, repeated = (
            clone(estimator).set_params(cv=[(np.flatnonzero(f != i), np.flatnonzero(f == i)) for i in range(2)])
            for f in (folds, folds[REPEATED])
        )
    else:
        weighted, repeated = estimator, estimator
    weighted = GroupsFromColumn(weighted, "firm").fit(FRAME, Y, sample_weight=WEIGHT)
    repeated = GroupsFromColumn(repeated, "firm").fit(FRAME.iloc[REPEATED], Y[REPEATED])
    plain = GroupsFromColumn(repeated.estimator, "firm")
    assert_close(weighted.predict(FRAME), repeated.predict(FRAME))
    if not isinstance(estimator, GridSearchCV):
        assert not np.allclose(plain.fit(FRAME, Y).predict(FRAME), repeated.predict(FRAME), rtol=1e-4)
    else:
        scores = [model.estimator_.cv_results_["mean_test_score"] for model in (weighted, repeated)]
        assert_close(*scores)
    assert_close(
        weighted.adapt(FRAME, Y, sample_weight=WEIGHT).predict(FRAME),
        repeated.adapt(FRAME.iloc[REPEATED], Y[REPEATED]).predict(FRAME),
        rtol=1e-10,
    )
    assert_close(weighted.score(FRAME, Y, sample_weight=WEIGHT), repeated.score(FRAME.iloc[REPEATED], Y[REPEATED]))


def test_weights_reach_scaler_and_meta_learner(calls, routing):
    model = GroupsFromColumn(Pipeline([("scale", SpyScaler()), ("maml", Spy(**MAML))]), "firm")
    model.fit(FRAME, Y, sample_weight=WEIGHT)
    assert_close(model.estimator_["scale"].mean_, np.average(OTHERS, axis=0, weights=WEIGHT))
    scaler, _, meta_learner = calls
    assert_array_equal(scaler[2], WEIGHT)
    assert_array_equal(meta_learner[2], WEIGHT)


def test_a_step_that_wants_no_weights_gets_none(calls):
    with config_context(enable_metadata_routing=True):
        scaler = SpyScaler().set_fit_request(sample_weight=False)
    pipe = Pipeline([("scale", scaler), ("maml", Spy(**MAML))])
    model = GroupsFromColumn(pipe, "firm").fit(FRAME, Y, sample_weight=WEIGHT)
    assert_close(model.estimator_["scale"].mean_, OTHERS.mean(axis=0))
    assert calls[0][2] is None
    assert_array_equal(calls[2][2], WEIGHT)


def test_weights_leave_the_parameters_alone():
    """The requests are made on a clone: the pipeline that was handed over asks for what it did before."""
    pipe = make_pipeline(StandardScaler(), MAMLRegressor())
    GroupsFromColumn(pipe, "firm").fit(FRAME, Y, sample_weight=WEIGHT)
    assert pipe[0].get_metadata_routing().fit.requests["sample_weight"] is None
    assert not hasattr(pipe[0], "mean_")


# Adaptation


def test_adapt():
    model = GroupsFromColumn(MAMLRegressor(inner_step_size=0.01), "firm").fit(FRAME, Y)
    before = pickle.dumps(model)
    adapted = model.adapt(FRAME.iloc[SUPPORT], Y[SUPPORT])
    assert adapted is not model
    assert isinstance(adapted, GroupsFromColumn)
    assert pickle.dumps(model) == before
    inner = adapted.estimator_
    assert_array_equal(inner.tasks_, ["IBM", "US Steel"])
    expected = OTHERS @ model.estimator_.coef_ + model.estimator_.intercept_
    for i, firm in enumerate(inner.tasks_):
        rows = np.flatnonzero(firm == FIRM)
        expected[rows] = OTHERS[rows] @ inner.task_coef_[i] + inner.task_intercept_[i]
    assert_close(adapted.predict(FRAME), expected)
    order = np.random.default_rng(0).permutation(len(Y))
    assert_array_equal(adapted.predict(FRAME.iloc[order]), adapted.predict(FRAME)[order])


def test_adapt_goes_on_from_an_adapted_one():
    model = GroupsFromColumn(MAMLRegressor(**MAML), "firm").fit(FRAME, Y)
    steel, ibm = FIRM == "US Steel", FIRM == "IBM"
    twice = model.adapt(FRAME[steel], Y[steel]).adapt(FRAME[ibm], Y[ibm])
    once = model.adapt(FRAME[KNOWN], Y[KNOWN])
    assert_close(twice.predict(FRAME), once.predict(FRAME))


def test_groups_take_the_place_of_the_column():
    model = GroupsFromColumn(MAMLRegressor(**MAML), "firm").fit(FRAME, Y)
    period = (np.arange(len(Y)) % 20) // 10
    adapted = model.adapt(FRAME, Y, groups=period)
    direct = MAMLRegressor(**MAML).fit(OTHERS, Y, groups=FIRM).adapt(OTHERS, Y, groups=period)
    expected = direct.predict(OTHERS, groups=period)
    assert_array_equal(adapted.estimator_.tasks_, [0, 1])
    assert_array_equal(adapted.predict(FRAME, groups=period), expected)
    assert_close(adapted.score(FRAME, Y, groups=period), r2_score(Y, expected))
    classifier = GroupsFromColumn(MAMLSVC(**MAML), "firm").fit(FRAME, LARGE).adapt(FRAME, LARGE, groups=period)
    direct = MAMLSVC(**MAML).fit(OTHERS, LARGE, groups=FIRM).adapt(OTHERS, LARGE, groups=period)
    assert_close(classifier.decision_function(FRAME, groups=period), direct.decision_function(OTHERS, groups=period))


def test_groups_are_routed_to_what_predicts():
    model = GroupsFromColumn(MAMLRegressor(), "firm")
    for method in ("predict", "decision_function", "predict_proba", "score"):
        assert model.get_metadata_routing().consumes(method, ["groups"]) == {"groups"}
    period = (np.arange(len(Y)) % 20) // 10
    with config_context(enable_metadata_routing=True):
        pipe = make_pipeline(FunctionTransformer(), model).fit(FRAME, Y)
        adapted = adapt(pipe, FRAME, Y, groups=period)
        assert_array_equal(adapted.predict(FRAME, groups=period), adapted[-1].predict(FRAME, groups=period))
        assert not np.allclose(adapted.predict(FRAME, groups=period), pipe.predict(FRAME))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), GridSearchCV(MAMLRegressor(), {"n_inner_steps": [1]}, cv=TASK_FOLDS)),
        make_pipeline(
            StandardScaler(),
            make_pipeline(StandardScaler(), GridSearchCV(MAMLRegressor(), {"n_inner_steps": [1]}, cv=TASK_FOLDS)),
        ),
    ],
    ids=["pipeline", "nested"],
)
def test_a_pipeline_that_ends_in_a_search_cannot_adapt(estimator):
    model = GroupsFromColumn(estimator, "firm").fit(FRAME, Y)
    assert model.predict(FRAME).shape == Y.shape
    with pytest.raises(TypeError, match="cannot be told the rows' tasks, so that it would ignore"):
        model.adapt(FRAME, Y)


def test_adapt_is_there_where_the_estimator_can():
    for estimator in (MAMLRegressor(), PIPELINE, MAMLRegressorCV()):
        assert hasattr(GroupsFromColumn(estimator, "firm"), "adapt")
    for estimator in (Ridge(), make_pipeline(StandardScaler(), Ridge()), GridSearchCV(Ridge(), {})):
        assert not hasattr(GroupsFromColumn(estimator, "firm"), "adapt")
    search = GroupsFromColumn(GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=FOLDS), "firm").fit(FRAME, Y)
    with pytest.raises(AttributeError, match="has no attribute 'adapt'"):
        search.adapt(FRAME, Y)


# Errors

FITTED = GroupsFromColumn(MAMLRegressor(**MAML), "firm").fit(FRAME, Y)
WITH_GAP = FRAME.assign(firm=[None, *FIRM[1:]])
FIT_ERRORS = {
    "no such column": (FRAME, "town", ValueError, "one column named 'town'.*has 0"),
    "two columns": (pd.concat([FRAME, FRAME[["firm"]]], axis=1), "firm", ValueError, "named 'firm'.*has 2"),
    "name in an array": (ARRAY, "firm", ValueError, "ndarray without column names: give the column's position"),
    "position": (FRAME, 3, ValueError, "no column 3 with task ids: X has 3 columns"),
    "bool": (FRAME, True, TypeError, "a name or a position, got True"),
    "float": (ARRAY, 1.0, TypeError, "a name or a position, got 1.0"),
    "one dimension": (ARRAY[:, 0], 0, ValueError, r"rows and columns.*got shape \(220,\)"),
    "only ids": (ARRAY[:, [1]], 0, ValueError, r"0 feature\(s\)"),
    "missing text": (WITH_GAP, "firm", ValueError, "missing task ids, for 1 rows, the first in row 0"),
    "missing number": (np.where(ARRAY == 2, np.nan, ARRAY), 1, ValueError, "missing task ids, for 20 rows"),
    "too many rows": (pd.concat([FRAME, FRAME]), "firm", ValueError, "inconsistent numbers of samples"),
}
PREDICT_ERRORS = {
    "fewer columns": (FRAME[["value", "firm"]], "now missing.*\n- capital"),
    "more columns": (FRAME.assign(year=1.0), "unseen at fit time.*\n- year"),
    "other order": (FRAME[["firm", "value", "capital"]], "same order"),
    "other names": (FRAME.rename(columns={"firm": "shop"}), "now missing.*\n- firm"),
    "missing ids": (WITH_GAP, "missing task ids"),
    "array": (FRAME.to_numpy(), "ndarray without column names"),
    "one dimension": (ARRAY[:, 0], r"got shape \(220,\). Reshape your data"),
}


@pytest.mark.parametrize("case", FIT_ERRORS)
def test_errors_in_fit(case):
    X, column, error, message = FIT_ERRORS[case]
    model = GroupsFromColumn(MAMLRegressor(), column)
    with pytest.raises(error, match=message):
        model.fit(X, Y)
    assert set(vars(model)) == {"estimator", "column"}
    model = clone(FITTED).fit(FRAME, Y)
    before = pickle.dumps(vars(model))
    model.column = column
    with pytest.raises(error, match=message):
        model.fit(X, Y)
    model.column = "firm"
    assert pickle.dumps(vars(model)) == before


@pytest.mark.parametrize("case", PREDICT_ERRORS)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning")
def test_errors_in_predict(case):
    X, message = PREDICT_ERRORS[case]
    for model in (FITTED, FITTED.adapt(FRAME, Y)):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            model.predict(X)
    for call in (FITTED.adapt, FITTED.score):
        with pytest.raises(ValueError, match=f"(?s){message}"):
            call(X, Y)


def test_other_numbers_of_columns_and_other_ids():
    model = GroupsFromColumn(MAMLRegressor(), 1).fit(ARRAY, Y)
    for X in (ARRAY[:, :2], ARRAY[:, [0, 1, 2, 2]]):
        with pytest.raises(ValueError, match=f"X has {X.shape[1]} features, but GroupsFromColumn is expecting 3"):
            model.predict(X)
    with pytest.raises(ValueError, match="ids of type float64, but the tasks known here are of type"):
        FITTED.adapt(FRAME, Y).predict(FRAME.assign(firm=NUMBER))


@pytest.mark.parametrize("method", ["predict", "score", "adapt", "decision_function"])
def test_before_fit(method):
    estimator = MAMLSVC() if method == "decision_function" else MAMLRegressor()
    arguments = (FRAME, Y) if method in ("score", "adapt") else (FRAME,)
    with pytest.raises(NotFittedError, match="GroupsFromColumn"):
        getattr(GroupsFromColumn(estimator, "firm"), method)(*arguments)


# An estimator like others


def test_attributes():
    assert FITTED.n_features_in_ == 3
    assert FITTED.feature_names_in_.tolist() == ["value", "firm", "capital"]
    assert FITTED.estimator_.feature_names_in_.tolist() == ["value", "capital"]
    refitted = clone(FITTED).fit(FRAME, Y).set_params(column=-1).fit(np.column_stack([OTHERS, OTHERS, NUMBER]), Y)
    assert refitted.n_features_in_ == 5
    assert not hasattr(refitted, "feature_names_in_")


def test_parameters():
    inner = make_pipeline(StandardScaler(), MAMLRegressor())
    model = GroupsFromColumn(inner, column="firm")
    assert model.get_params(deep=False) == {"estimator": inner, "column": "firm"}
    assert model.get_params()["estimator__mamlregressor__n_inner_steps"] == 1
    model.set_params(estimator__mamlregressor__n_inner_steps=3, column=-1)
    copied = clone(model)
    assert copied.column == -1
    assert copied.estimator is not inner
    assert copied.estimator[-1].n_inner_steps == 3
    assert repr(GroupsFromColumn(MAMLRegressor(), "firm")) == (
        "GroupsFromColumn(column='firm', estimator=MAMLRegressor())"
    )


def test_fit_leaves_the_estimator_alone():
    inner = MAMLRegressor()
    before = dict(vars(inner))
    model = GroupsFromColumn(inner, "firm").fit(FRAME, Y)
    assert vars(inner) == before
    assert model.estimator is inner


def test_tags():
    for estimator in (MAMLRegressor(), MAMLSVC(), PIPELINE, MAMLRegressorCV(), LogisticRegression(), INSIDE["search"]):
        model = GroupsFromColumn(estimator, "firm")
        assert is_regressor(model) == is_regressor(estimator)
        assert is_classifier(model) == is_classifier(estimator)
        assert is_regressor(model) != is_classifier(model)
        expected = get_tags(estimator)
        expected.array_api_support = False
        assert same(get_tags(model), expected)
    assert get_tags(GroupsFromColumn(MAMLRegressor(), 0)).input_tags.sparse


def test_pickle():
    for model in (FITTED, FITTED.adapt(FRAME, Y)):
        assert_array_equal(pickle.loads(pickle.dumps(model)).predict(FRAME), model.predict(FRAME))


def test_html():
    model = GroupsFromColumn(make_pipeline(StandardScaler(), MAMLRegressor()), "firm")
    for each in (model, model.fit(FRAME, Y)):
        html = each._repr_html_()
        for name in ("GroupsFromColumn", "StandardScaler", "MAMLRegressor"):
            assert name in html


NOT_WITHOUT_THE_COLUMN = {
    "check_estimators_empty_data_messages",  # X without columns: the message says that there is no such column
    "check_fit2d_1feature",  # the one column has the ids
    "check_classifiers_train",  # one of two features has the ids, and less can be learned
}
CHECKED = [
    GroupsFromColumn(MAMLRegressor(inner_step_size=0.1), column=-1),
    GroupsFromColumn(MAMLSVC(n_inner_steps=0, max_iter=30), column=-1),
]


def check_name(check):
    while hasattr(check, "func"):
        check = check.func
    return check.__name__


@pytest.mark.parametrize("model", CHECKED, ids=repr)
def test_common_checks(model):
    """Each row is a task of its own there, as the column with ids is a feature like others."""
    checks = [
        (estimator, check)
        for estimator, check in estimator_checks.estimator_checks_generator(model)
        if check_name(check) not in NOT_WITHOUT_THE_COLUMN and "array_api" not in check_name(check)
    ]
    assert len(checks) >= 55
    for estimator, check in checks:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(estimator)
