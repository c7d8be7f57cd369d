"""Cross-validation over tasks and adaptation curves, against loops by hand over folds, draws and tasks."""

from functools import partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn import config_context, get_config
from sklearn.base import clone
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression, Ridge, RidgeCV
from sklearn.metrics import accuracy_score, make_scorer, mean_absolute_error, r2_score, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from statsmodels.datasets import grunfeld

from sklearn_maml import MAMLSVC, MAMLRegressor
from sklearn_maml.compose import GroupsFromColumn
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.model_selection import adaptation_curve, cross_validate_tasks
from sklearn_maml.queries import Rows, draws

FIRMS = grunfeld.load_pandas().data.sort_values(["firm", "year"], ignore_index=True)[:120]
FEATURES = ["value", "capital", "year"]
FIRMS = FIRMS.assign(**{name: np.log(FIRMS[name]) for name in ("invest", "value", "capital")})
X, y, FIRM = FIRMS[FEATURES].to_numpy(), FIRMS["invest"].to_numpy(), FIRMS["firm"].to_numpy(str)
SCALED = StandardScaler().fit_transform(X)
MAE = "neg_mean_absolute_error"
STEP = 0.0002


@pytest.fixture(autouse=True)
def _same_configuration():
    before = get_config()
    yield
    assert get_config() == before


def negative_mae(y, z):
    return -mean_absolute_error(y, z)


def tasks_of_draws(X, y, groups, *, n_repeats=1, seed=0, stratify=False):
    """For each repeat the row numbers of each task, in the order of the draw."""
    data = Rows(X, y, groups, classifier=stratify)
    return [np.split(order, np.cumsum(sizes)[:-1]) for order, _, sizes in draws(data, n_repeats, seed)]


# cross_validate_tasks


def fold_by_hand(train, test, *, metric=negative_mae, n_support=5, n_repeats=1, seed=0):
    scale = StandardScaler().fit(X[train]).transform
    model = MAMLRegressor(inner_step_size=STEP).fit(scale(X[train]), y[train], groups=FIRM[train])
    scores = []
    for tasks in tasks_of_draws(X[test], y[test], FIRM[test], n_repeats=n_repeats, seed=seed):
        for rows in tasks:
            support, query = test[rows[:n_support]], test[rows[n_support:]]
            adapted = model.adapt(scale(X[support]), y[support])
            scores.append(metric(y[query], adapted.predict(scale(X[query]))))
    return np.mean(scores)


PIPELINE = make_pipeline(StandardScaler(), MAMLRegressor(inner_step_size=STEP))
HOW = {"n_support": 4, "n_repeats": 2, "random_state": 3}
BY_HAND = {"n_support": 4, "n_repeats": 2, "seed": 3}


@pytest.mark.parametrize("routing", [True, False])
def test_equals_a_plain_loop(routing):
    with config_context(enable_metadata_routing=routing):
        scores = cross_validate_tasks(PIPELINE, X, y, FIRM, scoring=MAE, **HOW)
    folds = list(GroupKFold(5).split(X, y, FIRM))
    assert scores.keys() == {"fit_time", "score_time", "test_score"}
    assert_allclose(scores["test_score"], [fold_by_hand(*fold, **BY_HAND) for fold in folds], rtol=1e-11)


def test_returns_what_cross_validate_returns():
    scoring = ["r2", MAE]
    keep = {"return_train_score": True, "return_estimator": True, "return_indices": True}
    found = cross_validate_tasks(PIPELINE, X, y, FIRM, cv=3, scoring=scoring, **keep, **HOW)
    with config_context(enable_metadata_routing=True):
        scorer = FewShotScorer(scoring, **HOW)
        by_scorer = cross_validate(PIPELINE, X, y, cv=GroupKFold(3), scoring=scorer, params={"groups": FIRM}, **keep)
    assert found.keys() == by_scorer.keys()
    for name in "test_r2", f"test_{MAE}", "train_r2":
        assert_array_equal(found[name], by_scorer[name])
    folds = list(GroupKFold(3).split(X, y, FIRM))
    for number, (train, test) in enumerate(folds):
        assert_array_equal(found["indices"]["train"][number], train)
        assert_array_equal(found["indices"]["test"][number], test)
        assert_allclose(found["test_r2"][number], fold_by_hand(train, test, metric=r2_score, **BY_HAND), rtol=1e-11)
        assert_allclose(found[f"train_{MAE}"][number], fold_by_hand(train, train, **BY_HAND), rtol=1e-11)


def test_default_score():
    scores = cross_validate_tasks(PIPELINE, X, y, FIRM, cv=2)
    folds = GroupKFold(2).split(X, y, FIRM)
    expected = [fold_by_hand(*fold, metric=r2_score) for fold in folds]
    assert_allclose(scores["test_score"], expected, rtol=1e-11)


@pytest.mark.parametrize("cv", [LeaveOneGroupOut(), "pairs", "masks"])
def test_splitters(cv):
    folds = list(cv.split(X, y, FIRM)) if not isinstance(cv, str) else list(GroupKFold(2).split(X, y, FIRM))
    if cv == "pairs":
        cv = iter(folds)
    elif cv == "masks":
        cv = [tuple(np.isin(np.arange(len(y)), rows) for rows in fold) for fold in folds]
    scores = cross_validate_tasks(PIPELINE, X, y, FIRM, cv=cv, scoring=MAE)
    assert_allclose(scores["test_score"], [fold_by_hand(*fold) for fold in folds], rtol=1e-11)


def test_few_tasks_make_few_folds():
    rows = np.arange(60)
    assert len(cross_validate_tasks(PIPELINE, X[rows], y[rows], FIRM[rows], scoring=MAE)["test_score"]) == 3


@pytest.mark.parametrize("way", ["predict", "refit"])
def test_estimators_that_cannot_adapt(way):
    scores = cross_validate_tasks(Ridge(), SCALED, y, FIRM, cv=2, scoring=MAE, without_adapt=way)
    for score, (train, test) in zip(scores["test_score"], GroupKFold(2).split(X, y, FIRM), strict=True):
        expected = []
        for rows in tasks_of_draws(SCALED[test], y[test], FIRM[test])[0]:
            fitted_to = train if way == "predict" else test[rows[:5]]
            model = Ridge().fit(SCALED[fitted_to], y[fitted_to])
            expected.append(negative_mae(y[test[rows[5:]]], model.predict(SCALED[test[rows[5:]]])))
        assert_allclose(score, np.mean(expected), rtol=1e-12)


def test_search():
    """The grid search inside gets the tasks, too, for its own folds and its own few-shot scores."""
    grid = {"mamlregressor__l2_regularization": [0.01, 1.0]}
    search = GridSearchCV(PIPELINE, grid, cv=GroupKFold(2), scoring=FewShotScorer(MAE))
    found = cross_validate_tasks(search, X, y, FIRM, cv=2, scoring=MAE, return_estimator=True)
    for fitted, score, (train, test) in zip(
        found["estimator"], found["test_score"], GroupKFold(2).split(X, y, FIRM), strict=True
    ):
        for params, inner in zip(fitted.cv_results_["params"], fitted.cv_results_["mean_test_score"], strict=True):
            model = clone(PIPELINE).set_params(**params)
            again = cross_validate_tasks(model, X[train], y[train], FIRM[train], cv=2, scoring=MAE)
            assert_allclose(inner, again["test_score"].mean(), rtol=1e-11)
        best = cross_validate_tasks(fitted.best_estimator_, X, y, FIRM, cv=[(train, test)], scoring=MAE)
        assert_allclose(score, best["test_score"], rtol=1e-11)


def test_held_out_tasks_do_not_touch_the_fit():
    found = cross_validate_tasks(MAMLRegressor(), SCALED, y, FIRM, cv=3, return_estimator=True, return_indices=True)
    task = FIRM[0] == FIRM
    other_X, other_y = SCALED.copy(), y.copy()
    other_X[task], other_y[task] = 1 - 2 * SCALED[task], 7 + y[task] ** 2
    changed = cross_validate_tasks(MAMLRegressor(), other_X, other_y, FIRM, cv=3, return_estimator=True)
    for before, after, train in zip(found["estimator"], changed["estimator"], found["indices"]["train"], strict=True):
        assert np.array_equal(before.coef_, after.coef_) == (0 not in train)
        assert np.array_equal(before.intercept_, after.intercept_) == (0 not in train)
    assert sum(0 not in train for train in found["indices"]["train"]) == 1


@pytest.mark.parametrize("lib", [pd, pl], ids=["pandas", "polars"])
def test_frames(lib):
    frame = FIRMS[FEATURES] if lib is pd else pl.DataFrame(FIRMS[FEATURES].to_dict("list"))
    scores = cross_validate_tasks(PIPELINE, frame, lib.Series(y), lib.Series(FIRM), cv=2, scoring=MAE)
    expected = [fold_by_hand(*fold) for fold in GroupKFold(2).split(X, y, FIRM)]
    assert_allclose(scores["test_score"], expected, rtol=1e-11)


def test_weights():
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    model = MAMLRegressor()
    with config_context(enable_metadata_routing=True):
        model.set_fit_request(sample_weight=True)
    params = {"sample_weight": weight}
    with config_context(enable_metadata_routing=True):
        scorer = FewShotScorer(MAE).set_score_request(sample_weight=True)
        expected = cross_validate(
            model, SCALED, y, cv=GroupKFold(2), scoring=scorer, params={"groups": FIRM, **params}, return_estimator=True
        )
    for fitted, (train, _) in zip(expected["estimator"], GroupKFold(2).split(SCALED, y, FIRM), strict=True):
        by_hand = MAMLRegressor().fit(SCALED[train], y[train], FIRM[train], weight[train])
        assert_allclose(fitted.coef_, by_hand.coef_, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ["one"] * 120}, "groups holds one task, 'one': it takes at least two"),
        ({"cv": KFold(7)}, "both sides of a split: tasks have to be held out as a whole.*GroupKFold"),
        ({"cv": 7}, "Cannot have number of splits n_splits=7 greater than the number of groups: 6"),
        ({"groups": FIRM[:7]}, "groups must hold one task id for each of the 120 rows"),
        ({"groups": None}, "groups"),
    ],
)
@pytest.mark.parametrize("function", [cross_validate_tasks, adaptation_curve])
@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold")
def test_splits_that_cannot_be(function, changes, message):
    with pytest.raises((ValueError, TypeError), match=message):
        function(PIPELINE, X, y, **{"groups": FIRM, **changes})


@pytest.mark.parametrize(
    ("changes", "message"), [({"n_support": 20}, "6 of 6|2 of 2"), ({"n_repeats": 0}, "n_repeats")]
)
def test_errors_of_the_scorer(changes, message):
    with pytest.raises(ValueError, match=message):
        cross_validate_tasks(PIPELINE, X, y, FIRM, cv=3, error_score="raise", **changes)


# adaptation_curve: by hand, what each method learns from the training rows and then says of a query


def ridge():
    return make_pipeline(StandardScaler(with_mean=False), RidgeCV(np.logspace(-3, 3, 13)))


def adapted(train, X=SCALED, y=y, groups=FIRM, model=None):
    model = clone(MAMLRegressor() if model is None else model).fit(X[train], y[train], groups=groups[train])
    return lambda A, b, Q: (model.adapt(A, b) if len(b) else model).predict(Q)


def pooled(train, X=SCALED, y=y, model=None):
    model = (ridge() if model is None else clone(model)).fit(X[train], y[train])
    return lambda A, b, Q: model.predict(Q)


def alone(train):
    def respond(A, b, Q):
        return np.full((Q.shape[0], *b.shape[1:]), b[0]) if len(b) == 1 else ridge().fit(A, b).predict(Q)

    return respond


def curve_by_hand(learn, sizes, folds, X=SCALED, y=y, groups=FIRM, metric=negative_mae, **how):
    """Scores (n_sizes, n_repeats, n_tasks), the plain loop; of tasks held out several times the mean."""
    ids = np.unique(groups)
    drawn = tasks_of_draws(X, y, groups, **how)
    scores = [[[[] for _ in ids] for _ in drawn] for _ in sizes]
    for train, test in folds:
        respond = learn(train)
        for repeat, tasks in enumerate(drawn):
            for number, rows in enumerate(tasks):
                if rows[0] not in test:
                    continue
                query = rows[max(sizes) :]
                for i, size in enumerate(sizes):
                    support = rows[:size]
                    scores[i][repeat][number].append(metric(y[query], respond(X[support], y[support], X[query])))
    return np.array([[[np.mean(found) for found in repeat if found] for repeat in size] for size in scores])


def test_curve_equals_a_plain_loop():
    sizes = [0, 1, 4]
    curve = adaptation_curve(MAMLRegressor(), SCALED, y, FIRM, n_support=(4, 0, 1), cv=3, scoring=MAE, n_repeats=2)
    assert curve.keys() == {"n_support", "scores", "tasks", "score_name"}
    assert_array_equal(curve.n_support, sizes)
    assert_array_equal(curve.tasks, np.unique(FIRM))
    assert curve.score_name == MAE
    assert list(curve.scores) == ["adapted", "pooled", "alone"]
    by_hand = partial(curve_by_hand, folds=list(GroupKFold(3).split(X, y, FIRM)), n_repeats=2)
    assert_allclose(curve.scores["adapted"], by_hand(adapted, sizes), rtol=1e-12)
    assert_allclose(curve.scores["pooled"], by_hand(pooled, sizes), rtol=1e-12)
    assert_allclose(curve.scores["alone"][1:], by_hand(alone, [1, 4]), rtol=1e-12)
    assert np.all(np.isnan(curve.scores["alone"][0]))
    assert np.ptp(curve.scores["pooled"], axis=0).max() == 0


@pytest.mark.parametrize(
    ("scoring", "metric", "name"),
    [
        (None, r2_score, "r2"),
        (make_scorer(mean_absolute_error, greater_is_better=False), negative_mae, "score"),
        ("neg_max_error", lambda y, z: -np.max(np.abs(y - z)), "neg_max_error"),
    ],
)
def test_scoring(scoring, metric, name):
    how = {"cv": 2, "n_repeats": 1, "baselines": (), "random_state": 5}
    curve = adaptation_curve(MAMLRegressor(), SCALED, y, FIRM, n_support=[0, 3], scoring=scoring, **how)
    assert curve.score_name == name
    assert list(curve.scores) == ["adapted"]
    expected = curve_by_hand(adapted, [0, 3], GroupKFold(2).split(X, y, FIRM), metric=metric, seed=5)
    assert_allclose(curve.scores["adapted"], expected, rtol=1e-12)


CANCER = load_breast_cancer()
TEXTURE = np.searchsorted(np.quantile(CANCER.data[:, 1], [0.2, 0.4, 0.6, 0.8]), CANCER.data[:, 1])
TUMOURS = StandardScaler().fit_transform(CANCER.data[:, [0, 4, 8]]), CANCER.target, TEXTURE


def logistic(train, X, y):
    model = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=1000))
    return model.fit(X[train], y[train])


def test_curve_of_a_classifier():
    X, y, groups = TUMOURS
    curve = adaptation_curve(MAMLSVC(), X, y, groups, n_support=[1, 4], cv=2, n_repeats=1)
    assert curve.score_name == "accuracy"
    folds = list(GroupKFold(2).split(X, y, groups))
    by_hand = partial(
        curve_by_hand, sizes=[1, 4], folds=folds, X=X, y=y, groups=groups, metric=accuracy_score, stratify=True
    )

    def alone(train):
        def respond(A, b, Q):
            return np.full(len(Q), b[0]) if len(set(b)) == 1 else logistic(slice(None), A, b).predict(Q)

        return respond

    def pooled(train):
        model = logistic(train, X, y)
        return lambda A, b, Q: model.predict(Q)

    maml = partial(adapted, X=X, y=y, groups=groups, model=MAMLSVC())
    for name, learn in {"adapted": maml, "pooled": pooled, "alone": alone}.items():
        assert_allclose(curve.scores[name], by_hand(learn), rtol=1e-12)


def test_ranking_of_those_who_know_one_class():
    """A metric of decision values or probabilities finds no row above another."""
    X, y, groups = TUMOURS
    curve = adaptation_curve(MAMLSVC(), X, y, groups, n_support=[0, 1, 6], cv=2, n_repeats=1, scoring="roc_auc")
    assert np.all(curve.scores["alone"][1] == 0.5)
    assert np.any(curve.scores["alone"][2] != 0.5)
    model = MAMLSVC()
    train, test = next(GroupKFold(2).split(X, y, groups))
    model.fit(X[train], y[train], groups=groups[train])
    for number, rows in enumerate(tasks_of_draws(X, y, groups, stratify=True)[0]):
        if rows[0] in test:
            z = model.adapt(X[rows[:6]], y[rows[:6]]).decision_function(X[rows[6:]])
            assert_allclose(curve.scores["adapted"][2, 0, number], roc_auc_score(y[rows[6:]], z), rtol=1e-12)


CURVED = make_pipeline(StandardScaler(), FunctionTransformer(np.tanh), MAMLRegressor(inner_step_size=STEP))


def test_pipeline_keeps_its_transformers():
    """The baselines stand in for the meta-learner alone: rows are transformed as was learned from training rows."""
    curve = adaptation_curve(CURVED, X, y, FIRM, n_support=[0, 1, 5], cv=2, scoring=MAE, n_repeats=1)

    def scaled(learn):
        def learn_scaled(train):
            scale = clone(CURVED[:-1]).fit(X[train]).transform
            respond = learn(train, scale)
            return lambda A, b, Q: respond(scale(A) if len(b) else A, b, scale(Q))

        return learn_scaled

    folds = list(GroupKFold(2).split(X, y, FIRM))
    by_hand = partial(curve_by_hand, folds=folds, X=X)
    maml = scaled(lambda train, scale: adapted(train, scale(X), model=CURVED[-1]))
    ridges = scaled(lambda train, scale: pooled(train, scale(X)))
    by_itself = scaled(lambda train, scale: alone(train))
    assert_allclose(curve.scores["adapted"], by_hand(maml, [0, 1, 5]), rtol=1e-10)
    assert_allclose(curve.scores["pooled"], by_hand(ridges, [0, 1, 5]), rtol=1e-10)
    assert_allclose(curve.scores["alone"][1:], by_hand(by_itself, [1, 5]), rtol=1e-10)


def test_column_of_tasks():
    """The column is no feature of the baselines either."""
    frame = FIRMS[[*FEATURES, "firm"]]
    how = {"n_support": [0, 1, 5], "cv": 2, "scoring": MAE, "n_repeats": 1}
    bare = adaptation_curve(CURVED, X, y, FIRM, **how)
    wrapped = adaptation_curve(GroupsFromColumn(CURVED, "firm"), frame, y, FIRM, **how)
    for name, scores in bare.scores.items():
        assert_allclose(wrapped.scores[name], scores, rtol=1e-10)


def test_target_transformer():
    how = {"n_support": [1, 5], "cv": 2, "scoring": MAE, "n_repeats": 1}
    model = TransformedTargetRegressor(MAMLRegressor(), func=np.sinh, inverse_func=np.arcsinh)
    curve = adaptation_curve(model, SCALED, y / 2, FIRM, **how)

    def transformed(learn):
        def learn_transformed(train):
            respond = learn(train, y=np.sinh(y / 2))
            return lambda A, b, Q: np.arcsinh(respond(A, np.sinh(b), Q))

        return learn_transformed

    by_hand = partial(curve_by_hand, sizes=[1, 5], folds=list(GroupKFold(2).split(X, y, FIRM)), y=y / 2)
    for name, learn in {"adapted": adapted, "pooled": pooled, "alone": lambda train, y: alone(train)}.items():
        assert_allclose(curve.scores[name], by_hand(transformed(learn)), rtol=1e-10)


def test_curve_of_a_search():
    """Baselines stand in for the estimator whose parameters are searched."""
    how = {"n_support": [1, 5], "cv": 2, "scoring": MAE, "n_repeats": 1}
    scorer = FewShotScorer(MAE)
    grid = {"mamlregressor__l2_regularization": [0.1]}
    curve = adaptation_curve(GridSearchCV(CURVED, grid, cv=GroupKFold(2), scoring=scorer), X, y, FIRM, **how)
    best = clone(CURVED).set_params(mamlregressor__l2_regularization=0.1)
    expected = adaptation_curve(best, X, y, FIRM, **how)
    for name, scores in expected.scores.items():
        assert_allclose(curve.scores[name], scores, rtol=1e-12)


def test_sparse_rows():
    rows = sparse.csc_array(np.where(SCALED > 0, SCALED, 0.0))
    how = {"n_support": [1, 5], "cv": 2, "scoring": MAE, "n_repeats": 1}
    curve = adaptation_curve(MAMLRegressor(), rows, y, FIRM, **how)
    rows = sparse.csr_array(rows)
    by_hand = partial(curve_by_hand, sizes=[1, 5], folds=list(GroupKFold(2).split(X, y, FIRM)), X=rows)
    for name, learn in {"adapted": partial(adapted, X=rows), "pooled": partial(pooled, X=rows), "alone": alone}.items():
        assert_allclose(curve.scores[name], by_hand(learn), rtol=1e-10)


def test_several_outputs():
    targets = np.c_[y, X[:, 1]]
    rows = SCALED[:, [0, 2]]
    how = {"n_support": [1, 5], "cv": 2, "scoring": MAE, "n_repeats": 1}
    curve = adaptation_curve(MAMLRegressor(), rows, targets, FIRM, **how)
    by_hand = partial(curve_by_hand, sizes=[1, 5], folds=list(GroupKFold(2).split(X, y, FIRM)), X=rows, y=targets)
    maml, ridges = partial(adapted, X=rows, y=targets), partial(pooled, X=rows, y=targets)
    for name, learn in {"adapted": maml, "pooled": ridges, "alone": alone}.items():
        assert_allclose(curve.scores[name], by_hand(learn), rtol=1e-12)


class Counting(MAMLRegressor):
    """Notes the tasks of each fit, and supports and queries of each call."""

    calls = []

    def fit(self, X, y, groups=None, sample_weight=None):
        self.calls.append(("fit", np.unique(groups).tolist()))
        return super().fit(X, y, groups, sample_weight)

    def adapt(self, X, y, groups=None, sample_weight=None):
        self.calls.append(("adapt", sorted(zip(groups.tolist(), X[:, 0].tolist(), strict=True))))
        return super().adapt(X, y, groups, sample_weight)

    def predict(self, X, groups=None):
        self.calls.append(("predict", sorted(X[:, 0].tolist())))
        return super().predict(X, groups)


def test_calls():
    """One fit for each fold; one adaptation, of all held-out tasks, for each draw and size; always the same query."""
    Counting.calls.clear()
    rows = np.c_[np.arange(120) / 120, SCALED]
    adaptation_curve(Counting(), rows, y, FIRM, n_support=[0, 2, 5], cv=3, scoring=MAE, n_repeats=2, baselines=())
    calls = list(Counting.calls)
    assert [name for name, _ in calls] == ["fit", *["predict", "adapt", "predict", "adapt", "predict"] * 2] * 3
    for number, (train, test) in enumerate(GroupKFold(3).split(X, y, FIRM)):
        fold = calls[11 * number : 11 * (number + 1)]
        assert fold[0][1] == np.unique(FIRM[train]).tolist()
        queries = []
        for first in 1, 6:
            (_, at_0), (_, support_2), (_, at_2), (_, support_5), (_, at_5) = fold[first : first + 5]
            assert at_0 == at_2 == at_5
            assert set(support_2) < set(support_5)
            held_out = np.unique(FIRM[test]).tolist()
            for support, size in [(support_2, 2), (support_5, 5)]:
                assert sorted({task for task, _ in support}) == held_out
                assert len(support) == size * len(held_out)
            assert sorted([*at_0, *(value for _, value in support_5)]) == rows[test, 0].tolist()
            queries.append(at_0)
        assert queries[0] != queries[1]


def test_baselines_of_ones_own():
    baselines = {"ridge": Ridge(), "implicit": MAMLRegressor(adaptation="implicit")}
    how = {"n_support": [0, 3], "cv": 2, "scoring": MAE, "n_repeats": 1}
    curve = adaptation_curve(MAMLRegressor(), SCALED, y, FIRM, baselines=baselines, **how)
    assert list(curve.scores) == ["adapted", "ridge", "implicit"]
    by_hand = partial(curve_by_hand, sizes=[0, 3], folds=list(GroupKFold(2).split(X, y, FIRM)))
    assert_allclose(curve.scores["adapted"], by_hand(adapted), rtol=1e-12)
    assert_allclose(curve.scores["ridge"], by_hand(partial(pooled, model=Ridge())), rtol=1e-12)
    implicit = partial(adapted, model=baselines["implicit"])
    assert_allclose(curve.scores["implicit"], by_hand(implicit), rtol=1e-12)


def test_tasks_that_are_held_out_twice():
    cv = GroupShuffleSplit(4, test_size=0.5, random_state=1)
    folds = list(cv.split(X, y, FIRM))
    times = np.sum([np.isin(np.unique(FIRM), FIRM[test]) for _, test in folds], axis=0)
    assert times.min() > 0
    assert times.max() > 1
    how = {"n_support": [0, 3], "scoring": MAE, "n_repeats": 1, "baselines": ["pooled"]}
    curve = adaptation_curve(MAMLRegressor(), SCALED, y, FIRM, cv=cv, **how)
    assert_allclose(curve.scores["adapted"], curve_by_hand(adapted, [0, 3], folds), rtol=1e-12)
    assert_allclose(curve.scores["pooled"], curve_by_hand(pooled, [0, 3], folds), rtol=1e-12)


def test_tasks_that_are_never_held_out():
    rows = np.arange(120)
    curve = adaptation_curve(
        MAMLRegressor(), SCALED, y, FIRM, n_support=[0, 3], cv=[(rows[40:], rows[:40])], scoring=MAE, n_repeats=1
    )
    assert_array_equal(curve.tasks, np.unique(FIRM[:40]))
    assert {scores.shape for scores in curve.scores.values()} == {(2, 1, 2)}


UNEVEN = np.r_[0:5, 20:120]
"""Five rows of the first firm, 20 of the others."""


@pytest.mark.parametrize("cv", [2, LeaveOneGroupOut()])
def test_small_tasks(cv):
    """A task that is too small is trained on, but not scored; it may be all that its fold holds out."""
    rows = SCALED[UNEVEN], y[UNEVEN], FIRM[UNEVEN]
    how = {"n_support": [0, 5], "scoring": MAE, "n_repeats": 1, "baselines": ["pooled"]}
    message = "1 of 6 tasks have no row left to be scored on after n_support=5"
    with pytest.raises(ValueError, match=message):
        adaptation_curve(MAMLRegressor(), *rows, cv=cv, **how)
    with pytest.warns(UserWarning, match=message) as record:
        curve = adaptation_curve(MAMLRegressor(), *rows, cv=cv, on_small_task="skip", **how)
    assert len(record) == 1
    assert_array_equal(curve.tasks, np.unique(FIRM)[1:])
    splitter = GroupKFold(2) if cv == 2 else cv
    folds = list(splitter.split(*rows))
    data = dict(zip(["X", "y", "groups"], rows, strict=True))
    large = np.arange(100) + 5
    folds = [(train, np.intersect1d(test, large)) for train, test in splitter.split(*rows)]
    data = dict(zip(["X", "y", "groups"], rows, strict=True))
    expected = curve_by_hand(partial(adapted, **data), [0, 5], [fold for fold in folds if len(fold[1])], **data)
    assert_allclose(curve.scores["adapted"], expected, rtol=1e-12)
    assert not np.any(np.isnan(curve.scores["pooled"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_support": []}, "n_support must be one or more whole numbers"),
        ({"n_support": [1, -1]}, "n_support must be one or more whole numbers.*none negative"),
        ({"n_support": [0.5]}, "n_support must be one or more whole numbers"),
        ({"n_support": "all"}, "n_support must be one or more whole numbers"),
        ({"n_support": [0, 20]}, "6 of 6 tasks have no row left to be scored on after n_support=20"),
        ({"n_repeats": 0}, "n_repeats"),
        ({"on_small_task": "drop"}, "on_small_task"),
        ({"scoring": ["r2", MAE]}, "one score: call it once for each"),
        ({"scoring": FewShotScorer(["r2", MAE], groups=None)}, "got no groups"),
        ({"scoring": lambda model, X, y: {"a": 1.0, "b": 2.0}}, "takes one score, but .* gives several"),
        ({"baselines": "pooled"}, "baselines must be of .*'pooled', 'alone'.* or a dict"),
        ({"baselines": ["nearest"]}, "baselines must be of .*'pooled', 'alone'.* or a dict"),
        ({"baselines": {"adapted": Ridge()}}, "give your baselines other names"),
        ({"baselines": {"alone": Ridge()}}, "give your baselines other names"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(ValueError, match=message):
        adaptation_curve(MAMLRegressor(), SCALED, y, FIRM, **{"cv": 2, "n_support": [0, 2], **changes})


def test_estimator_without_adapt():
    with pytest.raises(TypeError, match="Ridge cannot adapt, so that there is no curve to draw"):
        adaptation_curve(Ridge(), SCALED, y, FIRM, n_support=[0, 2])


def test_routing_makes_no_difference():
    how = {"n_support": [0, 3], "cv": 2, "scoring": MAE, "n_repeats": 1}
    curves = []
    for routing in True, False:
        with config_context(enable_metadata_routing=routing):
            curves.append(adaptation_curve(PIPELINE, X, y, FIRM, **how))
    for name, scores in curves[0].scores.items():
        assert_array_equal(curves[1].scores[name], scores)


def test_several_processes():
    how = {"n_support": [0, 3], "cv": 2, "scoring": MAE, "n_repeats": 1}
    one, two = (adaptation_curve(PIPELINE, X, y, FIRM, n_jobs=n_jobs, **how) for n_jobs in (None, 2))
    for name, scores in one.scores.items():
        assert_array_equal(two.scores[name], scores)
    one, two = (cross_validate_tasks(PIPELINE, X, y, FIRM, cv=2, scoring=MAE, n_jobs=n_jobs) for n_jobs in (None, 2))
    assert_array_equal(one["test_score"], two["test_score"])


@pytest.mark.parametrize(
    "model", [MAMLRegressor(), make_pipeline(StandardScaler(), MAMLRegressor())], ids=["bare", "pipe"]
)
@pytest.mark.parametrize("routing", [False, True])
def test_weights_reach_everything(model, routing):
    """They reach fit, every step of a pipeline, adaptation and metric."""
    weight = np.where(np.arange(len(y)) % 4, np.linspace(0.5, 2, len(y)), 0.0)
    with config_context(enable_metadata_routing=routing):
        scores = cross_validate_tasks(model, X, y, FIRM, cv=2, scoring=MAE, params={"sample_weight": weight})
    kept = weight > 0
    for score, (train, test) in zip(scores["test_score"], GroupKFold(2).split(X, y, FIRM), strict=True):
        with config_context(enable_metadata_routing=True):
            fitted = clone(model)
            for each in fitted if hasattr(fitted, "steps") else [fitted]:
                each.set_fit_request(sample_weight=True)
            fitted.fit(X[train], y[train], groups=FIRM[train], sample_weight=weight[train])
        rows = np.intersect1d(test, np.flatnonzero(kept))
        expected = FewShotScorer(MAE)(fitted, X[rows], y[rows], FIRM[rows], weight[rows])
        assert_allclose(score, expected, rtol=1e-10)


def test_errors_are_raised():
    """Unless asked for a number."""
    rows = X[12:], y[12:], FIRM[12:]
    with pytest.raises(ValueError, match="no row left to be scored on"):
        cross_validate_tasks(MAMLRegressor(), *rows, cv=2, n_support=10, scoring=[MAE, "r2"])
    with pytest.warns(UserWarning, match="no row left to be scored on"):
        scores = cross_validate_tasks(MAMLRegressor(), *rows, cv=2, n_support=10, scoring=MAE, error_score=-1.0)
    assert np.min(scores["test_score"]) == -1.0


def test_curve_wants_whole_tasks():
    train, test = next(GroupKFold(2).split(X, y, FIRM))
    with pytest.raises(ValueError, match=r"cv holds out some rows of task .* and leaves out others"):
        adaptation_curve(MAMLRegressor(), X, y, FIRM, cv=[(train, test[1:])], n_support=[0, 1])
