"""FewShotScorer against plain loops over tasks, by itself and in scikit-learn's tools, with routing on and off."""

import pickle
from functools import cache, partial

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from scipy import sparse
from sklearn import __version__, config_context, get_config
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.ensemble import RandomForestRegressor, VotingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.experimental import enable_halving_search_cv as _enabled
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import (
    accuracy_score,
    make_scorer,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    cross_val_score,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from statsmodels.datasets import grunfeld
from third_party import MAMLLogisticRegression

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV
from sklearn_maml.compose import GroupsFromColumn
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.queries import Rows, draws

FIRMS = grunfeld.load_pandas().data.sort_values(["firm", "year"], ignore_index=True)
FEATURES = ["value", "capital", "year"]
FIRMS = FIRMS.assign(**{name: np.log(FIRMS[name]) for name in ("invest", "value", "capital")})
X, y, FIRM = FIRMS[FEATURES].to_numpy(), FIRMS["invest"].to_numpy(), FIRMS["firm"].to_numpy(str)
NEW = np.isin(FIRM, np.unique(FIRM)[7:])
MAE = "neg_mean_absolute_error"


@pytest.fixture(autouse=True)
def _same_configuration():
    before = get_config()
    yield
    assert get_config() == before


def drawn(X, y, groups, n_support, *, n_repeats=1, seed=0, stratify=False):
    """For each repeat a list of the tasks' supports and queries, as row numbers."""
    data = Rows(X, y, groups, classifier=stratify)
    for order, _, sizes in draws(data, n_repeats, seed):
        tasks = np.split(order, np.cumsum(sizes)[:-1])
        yield [(rows[:n_support], rows[n_support:]) for rows in tasks]


def few_shot_by_hand(respond, metric, X, y, groups, n_support=5, **how):
    """The plain loop; respond(X, y, X_query) is what a model says of a query after adaptation to a support."""
    repeats = []
    for tasks in drawn(X, y, groups, n_support, **how):
        scores = [metric(y[query], respond(X[support], y[support], X[query])) for support, query in tasks]
        repeats.append(sum(scores) / len(scores))
    return sum(repeats) / len(repeats)


def negative(metric):
    return lambda y, z: -metric(y, z)


# Models, and by hand how they adapt and predict


def in_pipeline(model, A, b, Q):
    scale = model[0].transform
    return model[-1].adapt(scale(A), b).predict(scale(Q))


def with_target(model, A, b, Q):
    target = model.transformer_
    Z = model.regressor_.adapt(A, target.transform(b[:, None])[:, 0]).predict(Q)
    return target.inverse_transform(Z[:, None])[:, 0]


SCALED = StandardScaler().fit_transform(X)
GRID = {"l2_regularization": [0.0, 0.1]}
MODELS = {
    "regressor": (MAMLRegressor(), lambda m, A, b, Q: m.adapt(A, b).predict(Q), SCALED, y),
    "implicit": (MAMLRegressor(adaptation="implicit"), lambda m, A, b, Q: m.adapt(A, b).predict(Q), SCALED, y),
    "outputs": (MAMLRegressor(), lambda m, A, b, Q: m.adapt(A, b).predict(Q), SCALED[:, [0, 2]], np.c_[y, X[:, 1]]),
    "sparse": (
        MAMLRegressor(),
        lambda m, A, b, Q: m.adapt(A.toarray(), b).predict(Q.toarray()),
        sparse.csr_array(np.where(SCALED > 0, SCALED, 0.0)),
        y,
    ),
    "pipeline": (make_pipeline(StandardScaler(), MAMLRegressor()), in_pipeline, X, y),
    "target": (
        TransformedTargetRegressor(MAMLRegressor(adaptation="implicit"), transformer=StandardScaler()),
        with_target,
        SCALED,
        y,
    ),
    "search": (
        GridSearchCV(MAMLRegressor(), GRID, cv=GroupKFold(2)),
        lambda m, A, b, Q: m.best_estimator_.adapt(A, b).predict(Q),
        SCALED,
        y,
    ),
    "MAMLRegressorCV": (
        MAMLRegressorCV(n_repeats=1),
        lambda m, A, b, Q: m.best_estimator_.adapt(A, b).predict(Q),
        SCALED,
        y,
    ),
}


@cache
def fitted(name):
    """The model fitted to the firms that are not new; by hand its predictions after adaptation; rows of new firms."""
    model, respond, X, y = MODELS[name]
    with config_context(enable_metadata_routing=True):
        model = clone(model).fit(X[~NEW], y[~NEW], groups=FIRM[~NEW])
    return model, partial(respond, model), X[NEW], y[NEW]


def own_scorer(estimator, X, y):
    return -mean_absolute_error(y, estimator.predict(X))


@pytest.mark.parametrize("name", MODELS)
def test_equals_a_plain_loop(name):
    model, respond, X, y = fitted(name)
    how = {"n_support": 6, "n_repeats": 2}
    expected = few_shot_by_hand(respond, negative(mean_absolute_error), X, y, FIRM[NEW], **how)
    r2 = few_shot_by_hand(respond, r2_score, X, y, FIRM[NEW], **how)
    for scoring in MAE, make_scorer(mean_absolute_error, greater_is_better=False), own_scorer:
        score = FewShotScorer(scoring, **how)(model, X, y, groups=FIRM[NEW])
        assert isinstance(score, float)
        assert_allclose(score, expected, rtol=1e-12)
    assert_allclose(FewShotScorer(**how).score(model, X, y, FIRM[NEW]), r2, rtol=1e-12)
    several = {"mae": own_scorer, "r2": "r2"}
    for scoring, names in [([MAE, "r2"], (MAE, "r2")), ((MAE, "r2"), (MAE, "r2")), (several, ("mae", "r2"))]:
        scores = FewShotScorer(scoring, **how)(model, X, y, groups=FIRM[NEW])
        assert_allclose([scores.pop(each) for each in names], [expected, r2], rtol=1e-12)
        assert not scores


def test_adaptation_matters():
    """Otherwise a scorer that does not adapt would pass as well."""
    model, _, X, y = fitted("regressor")
    errors = [-FewShotScorer(MAE, n_support=n, n_repeats=5)(model, X, y, groups=FIRM[NEW]) for n in (0, 8)]
    assert errors[1] < 0.7 * errors[0]


CANCER = load_breast_cancer()
TEXTURE = np.searchsorted(np.quantile(CANCER.data[:, 1], np.arange(1, 8) / 8), CANCER.data[:, 1])
CLASSIFIERS = {
    "svc": (MAMLSVC(), StandardScaler().fit_transform(CANCER.data[:, [0, 4, 8]]), CANCER.target, TEXTURE),
    "third party": (
        MAMLLogisticRegression(),
        StandardScaler().fit_transform(CANCER.data[:, [0, 4, 8]]),
        np.array(["malignant", "benign"])[CANCER.target],
        TEXTURE,
    ),
    "three classes": (
        MAMLSVC(),
        StandardScaler().fit_transform(load_wine().data[:, [0, 2, 6]]),
        load_wine().target,
        np.searchsorted(np.quantile(load_wine().data[:, 1], [0.25, 0.5, 0.75]), load_wine().data[:, 1]),
    ),
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifier_equals_a_plain_loop(name):
    model, X, y, groups = CLASSIFIERS[name]
    new = groups < 2
    model = clone(model).fit(X[~new], y[~new], groups=groups[~new])
    how = {"n_support": 4, "n_repeats": 2}
    loop = partial(few_shot_by_hand, X=X[new], y=y[new], groups=groups[new], stratify=True, **how)
    accuracy = loop(lambda A, b, Q: model.adapt(A, b).predict(Q), accuracy_score)
    for scoring in None, "accuracy", make_scorer(accuracy_score):
        score = FewShotScorer(scoring, **how)(model, X[new], y[new], groups=groups[new])
        assert_allclose(score, accuracy, rtol=1e-12)
    if len(np.unique(y)) > 2:
        return
    auc = loop(lambda A, b, Q: model.adapt(A, b).decision_function(Q), roc_auc_score)
    for scoring in "roc_auc", make_scorer(roc_auc_score, response_method="decision_function"):
        score = FewShotScorer(scoring, **how)(model, X[new], y[new], groups=groups[new])
        assert_allclose(score, auc, rtol=1e-12)
    both = FewShotScorer(["roc_auc", "accuracy"], **how)(model, X[new], y[new], groups=groups[new])
    assert_allclose([both["roc_auc"], both["accuracy"]], [auc, accuracy], rtol=1e-12)


def test_no_support_is_no_adaptation():
    model, _, X, y = fitted("regressor")
    scores = [r2_score(y[FIRM[NEW] == firm], model.predict(X[FIRM[NEW] == firm])) for firm in np.unique(FIRM[NEW])]
    for scoring in None, make_scorer(r2_score):
        score = FewShotScorer(scoring, n_support=0)(model, X, y, groups=FIRM[NEW])
        assert_allclose(score, np.mean(scores), rtol=1e-12)


def test_the_estimator_stays_as_it_is():
    model, _, X, y = fitted("pipeline")
    before = pickle.dumps(model)
    FewShotScorer()(model, X, y, groups=FIRM[NEW])
    assert pickle.dumps(model) == before


# What the estimator is shown: the first column of X is the number of the row


class Spy(RegressorMixin, BaseEstimator):
    """A third party's estimator that adapts to one task at a time; notes the rows of its supports and queries."""

    seen = []

    def fit(self, X, y):
        self.mean_ = np.mean(y)
        return self

    def adapt(self, X, y):
        new = type(self)().fit(X, y)
        new.support_ = X[:, 0].astype(int)
        return new

    def predict(self, X):
        if hasattr(self, "support_"):
            self.seen.append((self.support_.tolist(), X[:, 0].astype(int).tolist()))
        return np.full(len(X), self.mean_)


class SpyClassifier(ClassifierMixin, Spy):
    def __sklearn_tags__(self):
        return super().__sklearn_tags__()

    def fit(self, X, y):
        self.classes_, counts = np.unique(y, return_counts=True)
        self.mean_ = self.classes_[np.argmax(counts)]
        return self


NUMBERED = np.c_[np.arange(len(FIRM)), X]


def observed(scorer, X=NUMBERED, y=y, groups=FIRM, spy=None):
    """Pairs of support and query that the estimator was shown, by task."""
    spy = Spy() if spy is None else spy
    model = spy.fit(X, y)
    Spy.seen.clear()
    scorer(model, X, y, groups=groups)
    id_of = dict(zip(X[:, 0].astype(int).tolist(), groups.tolist(), strict=True))
    shown = {}
    for support, query in Spy.seen:
        (task,) = {id_of[row] for row in [*support, *query]}
        shown.setdefault(task, []).append((support, query))
    return shown


@pytest.mark.parametrize("scoring", [MAE, own_scorer])
def test_support_and_query(scoring):
    mixed = np.random.default_rng(0).permutation(len(FIRM))
    shown = observed(FewShotScorer(scoring, n_support=4, n_repeats=3), NUMBERED[mixed], y[mixed], FIRM[mixed])
    assert set(shown) == set(FIRM)
    for task, splits in shown.items():
        assert len(splits) == 3
        for support, query in splits:
            assert len(support) == len(set(support)) == 4
            assert not set(support) & set(query)
            assert sorted(support + query) == np.flatnonzero(task == FIRM).tolist()
        assert len({frozenset(support) for support, _ in splits}) > 1


def test_hand_loops_here_use_what_is_observed():
    shown = observed(FewShotScorer(MAE, n_support=3, n_repeats=2, random_state=5))
    for repeat, tasks in enumerate(drawn(NUMBERED, y, FIRM, 3, n_repeats=2, seed=5)):
        for task, (support, query) in zip(np.unique(FIRM).tolist(), tasks, strict=True):
            assert shown[task][repeat] == (support.tolist(), query.tolist())


def test_draws_do_not_depend_on_other_tasks():
    """Neither on whether they are there, nor on where their rows are."""
    scorer = FewShotScorer(MAE, n_repeats=2)
    everyone = observed(scorer)
    few = np.isin(FIRM, ["IBM", "Chrysler"])
    assert observed(scorer, NUMBERED[few], y[few], FIRM[few]) == {task: everyone[task] for task in ("IBM", "Chrysler")}
    by_year = np.argsort(X[:, 2], kind="stable")
    assert observed(scorer, NUMBERED[by_year], y[by_year], FIRM[by_year]) == everyone
    with config_context(enable_metadata_routing=True):
        assert observed(scorer) == everyone


def test_draws_differ_between_tasks_and_seeds():
    shown = observed(FewShotScorer(MAE))
    first = {task: [row % 20 for row in splits[0][0]] for task, splits in shown.items()}
    assert len({tuple(rows) for rows in first.values()}) == len(first)
    assert observed(FewShotScorer(MAE)) == shown
    assert observed(FewShotScorer(MAE, random_state=np.random.RandomState(0))) == shown
    assert observed(FewShotScorer(MAE, random_state=1)) != shown


def test_supports_are_nested():
    largest = observed(FewShotScorer(MAE, n_support=12, n_repeats=2))
    for n_support in 1, 5:
        for task, splits in observed(FewShotScorer(MAE, n_support=n_support, n_repeats=2)).items():
            assert [support for support, _ in splits] == [support[:n_support] for support, _ in largest[task]]


def test_every_row_is_drawn_alike():
    counts = np.zeros(20)
    for seed in range(300):
        for support, _ in next(drawn(X[:20], y[:20], FIRM[:20], 5, seed=seed)):
            counts[support] += 1
    assert counts.sum() == 1500
    assert np.all(np.abs(counts - 75) < 4 * np.sqrt(300 * 0.25 * 0.75))


def test_classes_come_in_their_proportions():
    labels = np.array(["rare", "frequent"])[(np.arange(len(FIRM)) % 4 > 0).astype(int)]
    shown = observed(FewShotScorer(n_support=10, n_repeats=12), y=labels, spy=SpyClassifier())
    supports = np.array([support for splits in shown.values() for support, _ in splits])
    assert len(supports) == 11 * 12
    rare = np.cumsum(labels[supports] == "rare", axis=1)
    share = np.arange(1, 11) / 4
    assert np.all(np.abs(rare - share) < 1)
    assert_allclose(rare.mean(axis=0), share, atol=0.2)
    assert np.abs(rare[:, 0].mean() - 0.25) < 0.12  # not always the larger class first


def test_many_classes_come_in_their_proportions():
    """As often as one could wish for two of them: n_a / N_a and n_b / N_b differ by less than 1 / N_a + 1 / N_b."""
    labels = np.repeat(np.arange(4), [30, 14, 10, 6])
    sizes = np.bincount(labels)
    for (order, _), *_ in drawn(np.zeros((60, 1)), labels, np.zeros(60), 60, n_repeats=100, stratify=True):
        drawn_share = np.cumsum(labels[order][:, None] == np.arange(4), axis=0) / sizes
        gap = np.abs(drawn_share[:, :, None] - drawn_share[:, None])
        assert np.all(gap < 1 / sizes + 1 / sizes[:, None] + 1e-12)


def test_targets_of_regressors_are_no_classes():
    whole = np.round(y)
    assert observed(FewShotScorer(MAE), y=whole) == observed(FewShotScorer(MAE))


class Grouped(MAMLRegressor):
    """Notes how many tasks each call of its methods was for."""

    calls = []

    def adapt(self, X, y, groups=None, sample_weight=None):
        self.calls.append(("adapt", 1 if groups is None else len(np.unique(groups))))
        return super().adapt(X, y, groups, sample_weight)

    def predict(self, X, groups=None):
        self.calls.append(("predict", 1 if groups is None else len(np.unique(groups))))
        return super().predict(X, groups)


def test_adapts_to_all_tasks_at_once():
    model = Grouped().fit(SCALED[~NEW], y[~NEW], groups=FIRM[~NEW])
    Grouped.calls.clear()
    at_once = FewShotScorer([MAE, "r2"], n_repeats=2)(model, SCALED[NEW], y[NEW], groups=FIRM[NEW])
    assert Grouped.calls == [("adapt", 4), ("predict", 4)] * 2
    Grouped.calls.clear()
    one_by_one = FewShotScorer(own_scorer, n_repeats=2)(model, SCALED[NEW], y[NEW], groups=FIRM[NEW])
    assert Grouped.calls == [("adapt", 1), ("predict", 1)] * 8
    assert_allclose(at_once[MAE], one_by_one, rtol=1e-12)


# Leaking


@pytest.mark.parametrize(
    "scoring", ["neg_mean_squared_error", make_scorer(mean_squared_error, greater_is_better=False)]
)
def test_query_targets_are_not_adapted_to(scoring):
    """Mirrored at its prediction a target has the same squared error, if the prediction is still the same."""
    model, respond, X, y = fitted("implicit")
    mirrored = y.copy()
    for support, query in next(drawn(X, y, FIRM[NEW], 5)):
        mirrored[query] = 2 * respond(X[support], y[support], X[query]) - y[query]
    assert np.max(np.abs(mirrored - y)) > 1
    scores = [FewShotScorer(scoring)(model, X, targets, groups=FIRM[NEW]) for targets in (y, mirrored)]
    assert_allclose(*scores, rtol=1e-10)


def test_targets_are_not_drawn_by():
    assert observed(FewShotScorer(MAE), y=y[::-1]) == observed(FewShotScorer(MAE))


# Estimators that cannot adapt


@pytest.mark.parametrize("scoring", [MAE, own_scorer])
@pytest.mark.parametrize("model", [Ridge(), RandomForestRegressor(n_estimators=3, random_state=0)])
def test_without_adapt(model, scoring):
    model = clone(model).fit(SCALED[~NEW], y[~NEW])
    ways = {"predict": lambda A, b, Q: model.predict(Q), "refit": lambda A, b, Q: clone(model).fit(A, b).predict(Q)}
    scores = []
    for way, respond in ways.items():
        score = FewShotScorer(scoring, without_adapt=way)(model, SCALED[NEW], y[NEW], groups=FIRM[NEW])
        expected = few_shot_by_hand(respond, negative(mean_absolute_error), SCALED[NEW], y[NEW], FIRM[NEW])
        assert_allclose(score, expected, rtol=1e-12)
        scores.append(score)
    assert np.abs(np.subtract(*scores)) > 0.01


@pytest.mark.parametrize("model", [KNeighborsClassifier(1), make_pipeline(StandardScaler(), LogisticRegression())])
def test_refitted_classifier(model):
    _, X, y, groups = CLASSIFIERS["third party"]
    new = groups < 2
    model = clone(model).fit(X[~new], y[~new])

    def respond(A, b, Q):
        return np.full(len(Q), b[0]) if len(set(b)) == 1 else clone(model).fit(A, b).predict(Q)

    for n_support in 1, 8:
        score = FewShotScorer(n_support=n_support, without_adapt="refit")(model, X[new], y[new], groups=groups[new])
        expected = few_shot_by_hand(respond, accuracy_score, X[new], y[new], groups[new], n_support, stratify=True)
        assert_allclose(score, expected, rtol=1e-12)


def test_scores_of_a_classifier_that_knows_one_class():
    """It ranks no row above another."""
    _, X, y, groups = CLASSIFIERS["svc"]
    model = LogisticRegression().fit(X, y)
    scorer = FewShotScorer("roc_auc", n_support=1, without_adapt="refit")
    assert scorer(model, X, y, groups=groups) == 0.5


def test_refit_is_for_those_that_cannot_adapt():
    model, _, X, y = fitted("pipeline")
    adapted, refitted = (
        FewShotScorer(MAE, without_adapt=way)(model, X, y, groups=FIRM[NEW]) for way in ("predict", "refit")
    )
    assert adapted == refitted


# Where the tasks come from


def test_sources_of_groups():
    model, respond, X, y = fitted("regressor")
    expected = few_shot_by_hand(respond, negative(mean_absolute_error), X, y, FIRM[NEW])
    frame = pd.DataFrame(X, columns=FEATURES)
    by_index = frame.set_index(pd.Index(FIRM[NEW]))
    series = pd.Series(FIRM[NEW], index=frame.index)[::-1]
    assert_allclose(FewShotScorer(MAE, groups="index")(model, by_index.to_numpy(), y, FIRM[NEW]), expected, rtol=1e-12)
    features = make_pipeline(ColumnTransformer([("all", "passthrough", FEATURES)]), MAMLRegressor())
    with_firm = FIRMS[[*FEATURES, "firm"]].assign(**dict(zip(FEATURES, SCALED.T, strict=True)))
    features.fit(with_firm[~NEW], MODELS["regressor"][3][~NEW], mamlregressor__groups=FIRM[~NEW])
    for source, rows in [
        ("index", with_firm.set_index("firm", drop=False)),
        ("firm", with_firm),
        (FIRMS["firm"], with_firm),
    ]:
        assert_allclose(FewShotScorer(MAE, groups=source)(features, rows[NEW], y), expected, rtol=1e-12)
    positioned = GroupsFromColumn(MAMLRegressor(), -1).fit(with_firm[~NEW], MODELS["regressor"][3][~NEW])
    for column in "firm", 3, -1:
        assert_allclose(FewShotScorer(MAE, groups=column)(positioned, with_firm[NEW], y), expected, rtol=1e-12)
    assert_allclose(FewShotScorer(MAE)(positioned, with_firm[NEW], y, FIRM[NEW]), expected, rtol=1e-12)
    array = np.c_[with_firm[FEATURES].to_numpy().astype(object), FIRM]
    positioned = GroupsFromColumn(MAMLRegressor(), -1).fit(array[~NEW], MODELS["regressor"][3][~NEW])
    assert_allclose(FewShotScorer(MAE, groups=-1)(positioned, array[NEW], y), expected, rtol=1e-12)
    assert_allclose(FewShotScorer(MAE, groups=series)(model, frame.to_numpy(), y, FIRM[NEW]), expected, rtol=1e-12)


def test_routed_groups_come_first():
    model, _, X, y = fitted("regressor")
    misleading = pd.DataFrame(X, columns=FEATURES, index=np.arange(len(X)) % 3)
    model = MAMLRegressor().fit(misleading, y, groups=FIRM[NEW])
    scorer = FewShotScorer(MAE, groups="index")
    assert scorer(model, misleading, y, FIRM[NEW]) == FewShotScorer(MAE)(model, misleading, y, FIRM[NEW])
    assert scorer(model, misleading, y) == FewShotScorer(MAE)(model, misleading, y, np.arange(len(X)) % 3)
    assert scorer(model, misleading, y) != scorer(model, misleading, y, FIRM[NEW])


@pytest.mark.parametrize("lib", [pd, pl], ids=["pandas", "polars"])
def test_frames(lib):
    _, respond, *new = fitted("regressor")
    frame = partial(pd.DataFrame, columns=FEATURES) if lib is pd else partial(pl.DataFrame, schema=FEATURES)
    model = MAMLRegressor().fit(frame(SCALED[~NEW]), y[~NEW], groups=FIRM[~NEW])
    expected = few_shot_by_hand(respond, negative(mean_absolute_error), *new, FIRM[NEW])
    for scoring in MAE, own_scorer:
        score = FewShotScorer(scoring)(model, frame(SCALED[NEW]), lib.Series(y[NEW]), groups=lib.Series(FIRM[NEW]))
        assert_allclose(score, expected, rtol=1e-12)


def test_column_of_a_polars_frame():
    rows = pl.DataFrame(FIRMS[[*FEATURES, "firm"]].to_dict("list"))
    model = GroupsFromColumn(make_pipeline(StandardScaler(), MAMLRegressor()), "firm").fit(rows.filter(~NEW), y[~NEW])
    score = FewShotScorer(MAE, groups="firm")(model, rows.filter(NEW), y[NEW])
    _, respond, *new = fitted("pipeline")
    assert_allclose(score, few_shot_by_hand(respond, negative(mean_absolute_error), *new, FIRM[NEW]), rtol=1e-12)


# Requests, weights, parameters


@config_context(enable_metadata_routing=True)
def test_requests():
    scorer = FewShotScorer()
    assert scorer.get_metadata_routing().score.requests == {"groups": True, "sample_weight": None}
    scorer = clone(scorer.set_score_request(sample_weight=True, groups="firm"))
    assert scorer.get_metadata_routing().score.requests == {"groups": "firm", "sample_weight": True}


def test_weights():
    model, _, X, y = fitted("regressor")
    weight = np.random.default_rng(0).uniform(0.5, 3.0, len(y))
    expected = np.mean(
        [
            mean_absolute_error(
                y[query],
                model.adapt(X[support], y[support], sample_weight=weight[support]).predict(X[query]),
                sample_weight=weight[query],
            )
            for support, query in next(drawn(X, y, FIRM[NEW], 5))
        ]
    )
    for scoring in MAE, make_scorer(mean_absolute_error, greater_is_better=False):
        score = FewShotScorer(scoring)(model, X, y, FIRM[NEW], sample_weight=weight)
        assert_allclose(score, -expected, rtol=1e-12)
    assert np.abs(expected + FewShotScorer(MAE)(model, X, y, FIRM[NEW])) > 1e-3


@pytest.mark.parametrize("name", ["regressor", "sparse"])
def test_rows_of_weight_zero_are_not_there(name):
    model, _, X, y = fitted(name)
    weight = np.random.default_rng(0).integers(0, 3, len(y)).astype(float)
    kept = np.flatnonzero(weight)
    score = FewShotScorer(MAE)(model, X, y, FIRM[NEW], sample_weight=weight)
    assert score == FewShotScorer(MAE)(model, X[kept], y[kept], FIRM[NEW][kept], sample_weight=weight[kept])
    assert score != FewShotScorer(MAE)(model, X, y, FIRM[NEW])


def test_weights_of_a_refit():
    model = Ridge().fit(SCALED[~NEW], y[~NEW])
    weight = np.random.default_rng(0).uniform(0.5, 3.0, NEW.sum())
    scorer = FewShotScorer(MAE, without_adapt="refit")
    score = scorer(model, SCALED[NEW], y[NEW], FIRM[NEW], sample_weight=weight)
    expected = np.mean(
        [
            mean_absolute_error(
                y[NEW][query],
                Ridge().fit(SCALED[NEW][support], y[NEW][support], weight[support]).predict(SCALED[NEW][query]),
                sample_weight=weight[query],
            )
            for support, query in next(drawn(SCALED[NEW], y[NEW], FIRM[NEW], 5))
        ]
    )
    assert_allclose(score, -expected, rtol=1e-12)


@config_context(enable_metadata_routing=True)
def test_routed_weights():
    weight = np.random.default_rng(0).integers(1, 4, len(y)).astype(float)
    model = MAMLRegressor().set_fit_request(sample_weight=True)
    scorer = FewShotScorer([MAE, "r2"]).set_score_request(sample_weight=True)
    params = {"groups": FIRM, "sample_weight": weight}
    found = cross_validate(model, SCALED, y, cv=GroupKFold(3), scoring=scorer, params=params)
    for number, (train, test) in enumerate(GroupKFold(3).split(SCALED, y, FIRM)):
        by_hand = MAMLRegressor().fit(SCALED[train], y[train], FIRM[train], weight[train])
        for name in MAE, "r2":
            expected = FewShotScorer(name)(by_hand, SCALED[test], y[test], FIRM[test], weight[test])
            assert_allclose(found[f"test_{name}"][number], expected, rtol=1e-12)


def test_parameters():
    scorer = FewShotScorer("r2", n_support=3, random_state=7)
    assert clone(scorer).get_params() == scorer.get_params()
    assert scorer.get_params() == {
        "scoring": "r2",
        "n_support": 3,
        "n_repeats": 1,
        "groups": None,
        "without_adapt": "predict",
        "on_small_task": "raise",
        "random_state": 7,
    }
    assert repr(scorer) == "FewShotScorer(n_support=3, random_state=7, scoring='r2')"
    model, _, X, y = fitted("regressor")
    again = pickle.loads(pickle.dumps(scorer))
    assert again(model, X, y, FIRM[NEW]) == scorer(model, X, y, FIRM[NEW])
    assert scorer.set_params(n_support=4) is scorer
    assert scorer.n_support == 4


# Errors


@pytest.mark.parametrize(
    ("scorer", "rows", "message"),
    [
        (FewShotScorer(), FIRMS, "got no groups.*params=.*groups.*FewShotScorer\\(groups=\\.\\.\\.\\)"),
        (FewShotScorer(groups="shop"), FIRMS, "one column named 'shop' with the task ids, but has 0"),
        (FewShotScorer(groups="firm"), NUMBERED, "without column names: give the column's position"),
        (FewShotScorer(groups=9), NUMBERED, "no column 9 with task ids: X has 4 columns"),
        (FewShotScorer(groups="index"), NUMBERED, "groups='index' needs X as a pandas DataFrame.*set_output"),
        (FewShotScorer(groups=FIRMS["firm"]), NUMBERED, "groups given as a Series needs X as a pandas DataFrame"),
        (FewShotScorer(groups=FIRMS["firm"][:219]), FIRMS, "no task for 1 rows of X, the first with index 219"),
        (FewShotScorer(groups=pd.Series(FIRM, np.arange(220) // 2)), FIRMS, "an index without duplicates"),
    ],
)
def test_no_tasks(scorer, rows, message):
    model = Spy().fit(NUMBERED, y)
    with pytest.raises(ValueError, match=message):
        scorer(model, rows, y)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_support": -1}, "'n_support' parameter of FewShotScorer"),
        ({"n_support": 2.5}, "'n_support' parameter of FewShotScorer"),
        ({"n_repeats": 0}, "'n_repeats' parameter of FewShotScorer"),
        ({"scoring": 3}, "'scoring' parameter of FewShotScorer"),
        ({"scoring": "no such score"}, "no such score"),
        ({"without_adapt": "drop"}, "'without_adapt' parameter of FewShotScorer"),
        ({"on_small_task": "drop"}, "'on_small_task' parameter of FewShotScorer"),
        ({"random_state": "a"}, "'random_state' parameter of FewShotScorer"),
    ],
)
def test_bad_parameters(changes, message):
    model, _, X, y = fitted("regressor")
    with pytest.raises(ValueError, match=message):
        FewShotScorer().set_params(**changes)(model, X, y, FIRM[NEW])


def test_bad_rows():
    model, _, X, y = fitted("regressor")
    with pytest.raises(ValueError, match="groups must hold one task id for each of the 80 rows"):
        FewShotScorer()(model, X, y, FIRM)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        FewShotScorer()(model, X, y[1:], FIRM[NEW])
    with pytest.raises(ValueError, match="sample_weight must hold one weight for each of 80 rows"):
        FewShotScorer()(model, X, y, FIRM[NEW], sample_weight=np.ones(3))
    with pytest.raises(NotFittedError):
        FewShotScorer()(MAMLRegressor(), X, y, FIRM[NEW])
    with pytest.raises(ValueError, match="'refit' needs n_support > 0"):
        FewShotScorer(without_adapt="refit", n_support=0)(Ridge().fit(X, y), X, y, FIRM[NEW])


UNEVEN = np.flatnonzero(NEW)[np.r_[0:4, 20:35, 40:60]]
"""Rows of three new firms: 4, 15 and 20."""


@pytest.mark.parametrize("scoring", [MAE, own_scorer])
def test_small_tasks(scoring):
    model, respond, *_ = fitted("regressor")
    rows = SCALED[UNEVEN], y[UNEVEN], FIRM[UNEVEN]
    small = FIRM[UNEVEN][0]
    message = f"1 of 3 tasks have no row left to be scored on after n_support=4, the first '{small}' with 4 rows"
    with pytest.raises(ValueError, match=f"{message}: lower n_support.*on_small_task='skip'"):
        FewShotScorer(scoring, n_support=4)(model, *rows)
    skipping = FewShotScorer(scoring, n_support=4, n_repeats=2, on_small_task="skip")
    with pytest.warns(UserWarning, match=f"{message}: they are not scored") as record:
        score = skipping(model, *rows)
    assert {warning.filename for warning in record} == {__file__}
    large = slice(4, None)
    expected = few_shot_by_hand(
        respond, negative(mean_absolute_error), *(each[large] for each in rows), n_support=4, n_repeats=2
    )
    assert_allclose(score, expected, rtol=1e-12)
    assert np.isfinite(FewShotScorer(scoring, n_support=3)(model, *rows))
    with pytest.raises(ValueError, match=r"3 of 3 tasks have no row left.*n_support=20"):
        skipping.set_params(n_support=20)(model, *rows)


@pytest.mark.filterwarnings("ignore:R.2 score is not well-defined")
def test_scores_that_are_not_numbers():
    model, respond, *_ = fitted("regressor")
    rows = SCALED[UNEVEN], y[UNEVEN], FIRM[UNEVEN]
    scorer = FewShotScorer("r2", n_support=3)
    with pytest.raises(
        ValueError, match=f"task '{FIRM[UNEVEN][0]}' on its 1 query row.*choose a metric.*smaller n_supp"
    ):
        scorer(model, *rows)
    scorer.set_params(on_small_task="skip")
    with pytest.warns(UserWarning, match="1 of 3 tasks have a query of one row or class.*not scored") as record:
        score = scorer(model, *rows)
    assert __file__ in {warning.filename for warning in record}
    expected = few_shot_by_hand(respond, r2_score, *(each[4:] for each in rows), n_support=3)
    assert_allclose(score, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="all tasks have a query of one row or class"):
        scorer(model, *(each[:4] for each in rows))
    with pytest.raises(ValueError, match=r"on its 16 query row\(s\) is not a number"):
        FewShotScorer(lambda model, X, y: np.nan, n_support=4, on_small_task="skip")(
            model, SCALED[NEW], MODELS["regressor"][3][NEW], FIRM[NEW]
        )


# In scikit-learn's tools: the same numbers whichever way the tasks come

SIX = FIRMS[:120]
SIX_X, SIX_Y, SIX_FIRM = X[:120], y[:120], FIRM[:120]
FOLDS = list(GroupKFold(2).split(SIX_X, SIX_Y, SIX_FIRM))
SOURCES = {"routed": None, "index": "index", "column": "firm", "position": -1, "series": SIX["firm"]}
PENALTIES = [0.01, 1.0]
STEP = 0.0002


class Way:
    """How the tasks get to splitter, fit and scorer: routed, or out of a column of X."""

    def __init__(self, name):
        self.routing = name == "routed"
        self.scorer = FewShotScorer(MAE, n_support=3, groups=SOURCES[name])
        self.model = make_pipeline(StandardScaler(), MAMLRegressor(inner_step_size=STEP))
        self.l2 = "mamlregressor__l2_regularization"
        self.X, self.cv, self.params, self.fit_params = SIX_X, FOLDS, {}, {}
        if self.routing:
            self.cv, self.params, self.fit_params = (
                GroupKFold(2),
                {"params": {"groups": SIX_FIRM}},
                {"groups": SIX_FIRM},
            )
            return
        self.model, self.l2 = GroupsFromColumn(self.model, -1), f"estimator__{self.l2}"
        self.X = SIX[[*FEATURES, "firm"]]
        if name == "index":
            self.X = self.X.set_index("firm", drop=False)
        elif name == "position":
            self.X = self.X.to_numpy()


every_way = pytest.mark.parametrize("name", SOURCES)
both_modes = pytest.mark.parametrize("name", ["routed", "column"])


@pytest.fixture
def way(name):
    way = Way(name)
    with config_context(enable_metadata_routing=way.routing):
        yield way


def fold_by_hand(train, test, l2=0.0, targets=SIX_Y):
    """Score of one fold."""
    scale = StandardScaler().fit(SIX_X[train]).transform
    model = MAMLRegressor(inner_step_size=STEP, l2_regularization=l2)
    model.fit(scale(SIX_X[train]), targets[train], groups=SIX_FIRM[train])
    return few_shot_by_hand(
        lambda A, b, Q: model.adapt(scale(A), b).predict(scale(Q)),
        negative(mean_absolute_error),
        SIX_X[test],
        targets[test],
        SIX_FIRM[test],
        3,
    )


@cache
def grid_by_hand():
    return np.array([[fold_by_hand(*fold, l2) for fold in FOLDS] for l2 in PENALTIES])


close = partial(assert_allclose, rtol=1e-11)


@every_way
def test_cross_validate(way):
    scores = cross_validate(
        way.model, way.X, SIX_Y, cv=way.cv, scoring=way.scorer, return_train_score=True, **way.params
    )
    close(scores["test_score"], [fold_by_hand(*fold) for fold in FOLDS])
    close(scores["train_score"], [fold_by_hand(train, train) for train, _ in FOLDS])


@both_modes
def test_cross_val_score(way):
    scores = cross_val_score(way.model, way.X, SIX_Y, cv=way.cv, scoring=way.scorer, **way.params)
    close(scores, [fold_by_hand(*fold) for fold in FOLDS])


def check_search(search, way):
    search.fit(way.X, SIX_Y, **way.fit_params)
    tried = [PENALTIES.index(params[way.l2]) for params in search.cv_results_["params"]]
    assert set(tried) == {0, 1}
    for number, fold in enumerate(grid_by_hand().T):
        close(search.cv_results_[f"split{number}_test_score"], fold[tried])
    best = np.argmax(grid_by_hand().mean(axis=1))
    assert search.best_params_[way.l2] == PENALTIES[best]
    close(search.best_score_, grid_by_hand()[best].mean())
    scale = StandardScaler().fit(SIX_X).transform
    refitted = MAMLRegressor(inner_step_size=STEP, l2_regularization=PENALTIES[best]).fit(
        scale(SIX_X), SIX_Y, groups=SIX_FIRM
    )
    close(search.predict(way.X), refitted.predict(scale(SIX_X)))


@both_modes
def test_grid_search(way):
    check_search(GridSearchCV(way.model, {way.l2: PENALTIES}, cv=way.cv, scoring=way.scorer), way)


@both_modes
def test_randomized_search(way):
    grid = {way.l2: PENALTIES}
    check_search(RandomizedSearchCV(way.model, grid, n_iter=2, cv=way.cv, scoring=way.scorer, random_state=0), way)


@both_modes
def test_halving_search(way):
    assert _enabled is not None
    resource = {"resource": way.l2.replace("l2_regularization", "max_iter"), "min_resources": 8, "max_resources": 16}
    grid = {way.l2: PENALTIES}
    check_search(HalvingGridSearchCV(way.model, grid, factor=2, cv=way.cv, scoring=way.scorer, **resource), way)


@both_modes
def test_search_of_several_scores(way):
    way.scorer.set_params(scoring=[MAE, "r2"])
    search = GridSearchCV(way.model, {way.l2: PENALTIES}, cv=way.cv, scoring=way.scorer, refit=MAE)
    search.fit(way.X, SIX_Y, **way.fit_params)
    close(search.cv_results_[f"mean_test_{MAE}"], grid_by_hand().mean(axis=1))
    assert np.all(np.isfinite(search.cv_results_["mean_test_r2"]))


class Recording(FewShotScorer):
    """Notes the rows that it was given, their tasks and the score."""

    calls = []

    def score(self, estimator, X, y, groups=None, sample_weight=None):
        score = super().score(estimator, X, y, groups, sample_weight)
        self.calls.append((estimator, X, y, groups, score))
        return score


@config_context(enable_metadata_routing=True)
def test_halving_search_that_draws_rows():
    """Some tasks have too few of them."""
    Recording.calls.clear()
    scorer = Recording(MAE, n_support=8, on_small_task="skip")
    model = make_pipeline(StandardScaler(), MAMLRegressor(inner_step_size=STEP))
    grid = {"mamlregressor__l2_regularization": PENALTIES}
    search = HalvingGridSearchCV(
        model, grid, cv=GroupKFold(2), scoring=scorer, factor=2, min_resources=110, random_state=0, refit=False
    )
    search.set_params(return_train_score=False)
    with pytest.warns(UserWarning, match="have no row left to be scored on"):
        search.fit(X, y, groups=FIRM)
    assert [len(rows) < 70 for _, rows, *_ in Recording.calls] == [True] * 4 + [False] * 2
    firm_of = {tuple(row): firm for row, firm in zip(X, FIRM, strict=True)}
    assert len(firm_of) == len(X)
    for estimator, rows, targets, groups, score in Recording.calls:
        assert_array_equal(groups, [firm_of[tuple(row)] for row in rows])
        firms, counts = np.unique(groups, return_counts=True)
        large = np.isin(groups, firms[counts > 8])
        respond = partial(in_pipeline, estimator)
        close(
            score,
            few_shot_by_hand(respond, negative(mean_absolute_error), rows[large], targets[large], groups[large], 8),
        )


@both_modes
def test_learning_curve(way):
    sizes, train, test = learning_curve(
        way.model, way.X, SIX_Y, train_sizes=[40, 60], cv=way.cv, scoring=way.scorer, **way.params
    )
    close(test, [[fold_by_hand(rows[:size], held_out) for rows, held_out in FOLDS] for size in sizes])
    close(train, [[fold_by_hand(rows[:size], rows[:size]) for rows, _ in FOLDS] for size in sizes])


@both_modes
def test_validation_curve(way):
    how = {"param_name": way.l2, "param_range": PENALTIES, "cv": way.cv, "scoring": way.scorer}
    _, test = validation_curve(way.model, way.X, SIX_Y, **how, **way.params)
    close(test, grid_by_hand())


@both_modes
def test_permutation_test_score(way):
    score, permuted, p_value = permutation_test_score(
        way.model, way.X, SIX_Y, cv=way.cv, scoring=way.scorer, n_permutations=2, random_state=0, **way.params
    )
    rng = np.random.RandomState(0)
    expected = []
    for _ in range(2):
        shuffled = SIX_Y[rng.permutation(120)]
        expected.append(np.mean([fold_by_hand(*fold, targets=shuffled) for fold in FOLDS]))
    close(score, np.mean([fold_by_hand(*fold) for fold in FOLDS]))
    close(permuted, expected)
    assert p_value == 1 / 3


@both_modes
def test_nested(way):
    """Firms have 20 rows each, one firm after the other, so that KFold holds out whole ones, too."""
    inner, given = (GroupKFold(3), (SIX_FIRM,)) if way.routing else (KFold(3), ())
    search = GridSearchCV(way.model, {way.l2: PENALTIES}, cv=inner, scoring=way.scorer)
    scores = cross_val_score(search, way.X, SIX_Y, cv=way.cv, scoring=way.scorer, **way.params)
    expected = []
    for train, test in FOLDS:
        splits = list(inner.split(train, None, *(each[train] for each in given)))
        means = [np.mean([fold_by_hand(train[a], train[b], l2) for a, b in splits]) for l2 in PENALTIES]
        expected.append(fold_by_hand(train, test, PENALTIES[np.argmax(means)]))
    close(scores, expected)


def test_groups_through_fit_parameters():
    """Routing off, no wrapper: fit gets the tasks as a parameter, the scorer from a column that the pipeline drops."""
    drop = ColumnTransformer([("scale", StandardScaler(), FEATURES)])
    scores = cross_validate(
        make_pipeline(drop, MAMLRegressor(inner_step_size=STEP)),
        SIX,
        SIX_Y,
        groups=SIX_FIRM,
        cv=GroupKFold(2),
        params={"mamlregressor__groups": SIX_FIRM},
        scoring=FewShotScorer(MAE, n_support=3, groups="firm"),
    )
    close(scores["test_score"], [fold_by_hand(*fold) for fold in FOLDS])


@config_context(enable_metadata_routing=True)
def test_diabetes():
    """Patients by sex and age, whose groups are of different sizes, against folds made by hand."""
    X, y = load_diabetes(return_X_y=True)
    age = np.searchsorted(np.quantile(X[:, 0], [0.2, 0.4, 0.6, 0.8]), X[:, 0])
    groups = pd.Series(np.where(X[:, 1] > 0, "woman ", "man ")).str.cat(age.astype(str))
    X = np.delete(X, 1, axis=1)
    scoring = FewShotScorer("neg_mean_squared_error")
    cv = GroupKFold(3)
    scores = cross_val_score(MAMLRegressor(), X, y, cv=cv, scoring=scoring, params={"groups": groups})
    for score, (train, test) in zip(scores, cv.split(X, y, groups), strict=True):
        model = MAMLRegressor().fit(X[train], y[train], groups=groups[train])
        respond = partial(lambda m, A, b, Q: m.adapt(A, b).predict(Q), model)
        by_hand = few_shot_by_hand(respond, mean_squared_error, X[test], y[test], groups.to_numpy()[test])
        close(score, -by_hand)


if Version(__version__) >= Version("1.9"):

    @pytest.mark.parametrize("routing", [True, False])
    @pytest.mark.parametrize("source", ["index", "series"])
    def test_scoring_monitor(source, routing):
        from sklearn.callback import ScoringMonitor

        rows = pd.DataFrame(SCALED, columns=FEATURES, index=FIRM if source == "index" else None)
        groups = "index" if source == "index" else FIRMS["firm"]
        monitor = ScoringMonitor(scoring={"few-shot": FewShotScorer(MAE, groups=groups)})
        model = MAMLRegressor(solver="lbfgs", tol=1e-3)
        with config_context(enable_metadata_routing=routing):
            model.set_callbacks(monitor).fit(rows, y, groups=FIRM)
        logged = {len(row["task_id_path"]): row["few-shot"] for row in monitor.get_logs().data}
        expected = FewShotScorer(MAE)(model, rows, y, FIRM)
        assert len(monitor.get_logs().data) == model.n_iter_ + 1
        close(list(logged.values()), [expected, expected])  # of the whole fit, and of its last iteration


# What a review found


class MeanOfTask(RegressorMixin, BaseEstimator):
    """Predicts the mean target; `how` its adapt goes wrong."""

    def __init__(self, how):
        self.how = how

    def fit(self, X, y):
        self.mean_ = np.mean(y)
        return self

    def adapt(self, X, y):
        self.mean_ = np.mean(y)
        return self if self.how == "in place" else None

    def predict(self, X):
        return np.full(len(X), self.mean_)


@pytest.mark.parametrize("how", ["in place", "nothing"])
def test_adapt_has_to_return_a_new_estimator(how):
    model = MeanOfTask(how).fit(X[~NEW], y[~NEW])
    with pytest.raises(TypeError, match=r"MeanOfTask\.adapt must return a new estimator"):
        FewShotScorer(MAE)(model, X[NEW], y[NEW], FIRM[NEW])


def test_ensemble_does_not_adapt():
    """And says so."""
    model = VotingRegressor([("maml", MAMLRegressor(inner_step_size=STEP)), ("ridge", Ridge())])
    with config_context(enable_metadata_routing=True):
        model.fit(SCALED[~NEW], y[~NEW], groups=FIRM[~NEW])
    with pytest.warns(UserWarning, match="VotingRegressor contains an estimator that adapts, but cannot adapt itself"):
        FewShotScorer(MAE)(model, SCALED[NEW], y[NEW], FIRM[NEW])
    FewShotScorer(MAE, n_support=0)(model, SCALED[NEW], y[NEW], FIRM[NEW])


@pytest.mark.filterwarnings("ignore:Only one class is present in y_true")
def test_queries_of_one_class():
    labels = np.where(y > np.median(y), "high", "low")
    labels[FIRM[NEW][0] == FIRM] = "low"
    model = MAMLSVC(tol=1e-2).fit(SCALED[~NEW], labels[~NEW], groups=FIRM[~NEW])
    rows = SCALED[NEW], labels[NEW], FIRM[NEW]
    scorer = FewShotScorer("roc_auc", n_support=0)
    with pytest.raises(ValueError, match=r"is not a number: choose a metric that is defined .* on one class"):
        scorer(model, *rows)
    one_class = {firm for firm in np.unique(rows[2]) if len(set(rows[1][rows[2] == firm])) == 1}
    others = [firm for firm in np.unique(rows[2]) if firm not in one_class]
    with pytest.warns(UserWarning, match=f"{len(one_class)} of 4 tasks have a query of one row or class"):
        score = scorer.set_params(on_small_task="skip")(model, *rows)
    z = model.decision_function(rows[0])
    assert_allclose(score, np.mean([roc_auc_score(rows[1][rows[2] == i] == "low", z[rows[2] == i]) for i in others]))


def test_ids_draw_the_same_in_any_container():
    model, *_ = fitted("regressor")
    numbers = np.unique(FIRM[NEW], return_inverse=True)[1]
    for ids in (FIRM[NEW], numbers):
        scores = [FewShotScorer(MAE)(model, SCALED[NEW], y[NEW], each) for each in (ids, ids.tolist(), list(ids))]
        assert scores[0] == scores[1] == scores[2]


def test_labels_in_a_column():
    labels = (y > np.median(y)).astype(int)
    model = MAMLSVC(tol=1e-2).fit(SCALED[~NEW], labels[~NEW], groups=FIRM[~NEW])
    scorer = FewShotScorer(n_support=4)
    assert scorer(model, SCALED[NEW], labels[NEW, None], FIRM[NEW]) == scorer(
        model, SCALED[NEW], labels[NEW], FIRM[NEW]
    )


def test_weights_reach_a_scorer_among_others():
    """With metadata routing disabled, too, where scikit-learn hands them on."""
    frame = pd.DataFrame(SCALED, index=FIRM)
    search = GridSearchCV(
        Ridge(), {"alpha": [1.0]}, cv=[(~NEW, NEW)], scoring={"a": FewShotScorer(MAE, groups="index")}
    )
    weight = np.linspace(1, 2, len(y))
    search.set_params(refit="a").fit(frame, y, sample_weight=weight)
    model = Ridge().fit(SCALED[~NEW], y[~NEW], sample_weight=weight[~NEW])
    handed_on = weight[NEW] if Version(__version__) >= Version("1.9") else None
    expected = FewShotScorer(MAE)(model, SCALED[NEW], y[NEW], FIRM[NEW], handed_on)
    assert_allclose(search.best_score_, expected, rtol=1e-12)


def test_wrong_number_of_groups_with_weights_of_zero():
    model, *_ = fitted("regressor")
    with pytest.raises(ValueError, match="groups must hold one task id"):
        FewShotScorer(MAE)(model, SCALED[NEW], y[NEW], FIRM[NEW][:-1], np.arange(NEW.sum()))
