"""MAMLRegressorCV against plain loops over splits, tasks and draws, with public fits of MAMLRegressor."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from references import same
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    GroupShuffleSplit,
    KFold,
    LeaveOneGroupOut,
    ParameterGrid,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks, estimator_html_repr
from threadpoolctl import threadpool_limits

import sklearn_maml.few_shot as few_shot
import sklearn_maml.linear_model_cv as module
from sklearn_maml import MAMLRegressor, MAMLRegressorCV, SingleTaskWarning, adapt

COMMON = estimator_checks.parametrize_with_checks(
    [
        MAMLRegressorCV(),
        MAMLRegressorCV(inner_step_sizes=[0.1, 0.01], n_inner_steps=[2, 0], l2_regularizations=[0.1], n_jobs=2),
    ]
)
CASES = list(COMMON.args[1])
one_task = pytest.mark.filterwarnings("ignore::sklearn_maml.SingleTaskWarning")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    with threadpool_limits(1):
        yield


def tasks(m=8, n=9, d=3, k=None, seed=0):
    """Tasks that differ in slope and level, of n to n + 2 rows in random order, and their names."""
    rng = np.random.default_rng(seed)
    groups = rng.permutation(np.repeat(np.arange(m), n + np.arange(m) % 3))
    X = rng.normal(size=(len(groups), d))
    w = rng.normal(size=(d + 1, k or 1)) + 0.7 * rng.normal(size=(m, d + 1, k or 1))
    Y = np.einsum("nd,ndk->nk", np.c_[X, np.ones(len(X))], w[groups]) + 0.3 * rng.normal(size=(len(X), k or 1))
    return X, (Y if k else Y[:, 0]), np.array(list("hgfedcba"))[groups] if m == 8 else groups


X, y, G = tasks()
NUMBERS = {"inner_step_sizes": [0.02, 0.1], "n_inner_steps": [1, 2], "l2_regularizations": [0.0, 0.2]}
STEP = np.array([0.1, 0.01, 0.2, 0.15])
FOLDS = {"cv": 3, "adaptations": ["implicit"], "n_repeats": 2}


def supports_of(X, y, n_support, n_repeats, seed=0, weight=None):
    """The draws of one task: masks of the rows in the support."""
    weight, codes = np.ones(len(X)) if weight is None else weight, np.zeros(len(X), dtype=int)
    table = few_shot.Table(X, y.reshape(len(X), -1), weight, codes, True)
    draw_seed = int(np.random.RandomState(seed).randint(np.iinfo(np.int32).max))
    priorities = few_shot.row_priorities(table, n_repeats, draw_seed)
    return [few_shot.in_support(codes, weight, priority, n_support) for priority in priorities]


def by_hand(X, y, groups, splits, model, weight=None):
    """Mean and standard deviation over tasks of the few-shot error, for each candidate of `model`."""
    weight = np.ones(len(y)) if weight is None else weight
    grid = ParameterGrid(
        {
            "inner_step_size": list(model.inner_step_sizes),
            "n_inner_steps": list(model.n_inner_steps),
            "l2_regularization": list(model.l2_regularizations),
            "adaptation": list(model.adaptations),
        }
    )
    results = []
    for params in grid:
        errors = {}
        for train, test in splits:
            fitted = MAMLRegressor(metric=model.metric, fit_intercept=model.fit_intercept, **params).fit(
                X[train], y[train], groups=groups[train], sample_weight=weight[train]
            )
            for task in np.unique(groups[test]):
                rows = np.asarray(test)[groups[test] == task]
                for support in supports_of(X[rows], y[rows], model.n_support, model.n_repeats, weight=weight[rows]):
                    given, query = rows[support], rows[~support]
                    if len(query) == 0:
                        continue
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # of steps that overshoot
                        new = fitted.adapt(X[given], y[given], sample_weight=weight[given])
                    square = (y[query] - new.predict(X[query])) ** 2
                    square = square.reshape(len(query), -1).mean(axis=1)
                    errors.setdefault(task, []).append(np.sum(weight[query] * square) / np.sum(weight[query]))
        of_tasks = [np.mean(each) for each in errors.values()]
        results.append((np.mean(of_tasks), np.std(of_tasks)))
    return np.array(results).T


def check(model, X, y, groups, splits, rtol=1e-10, weight=None):
    model.fit(X, y, groups=groups, sample_weight=weight)
    mean, std = by_hand(X, y, groups, splits, model, weight)
    assert_allclose(model.cv_results_["mean_test_score"], -mean, rtol=rtol)
    assert_allclose(model.cv_results_["std_test_score"], std, rtol=rtol)
    return model


LEFT_OUT = list(LeaveOneGroupOut().split(X, y, G))
BY_GROUP = list(GroupKFold(3).split(X, y, G))


# The error


@pytest.mark.parametrize(("intercept", "k"), [(True, None), (False, 2)])
def test_splitter_is_a_loop(intercept, k):
    X, y, G = tasks(k=k)
    steps = ["auto", 0.1, STEP if intercept else STEP[:3]]
    model = MAMLRegressorCV(
        inner_step_sizes=steps, l2_regularizations=[0.0, 0.2], cv=GroupKFold(2), n_repeats=1, fit_intercept=intercept
    )
    check(model, X, y, G, list(GroupKFold(2).split(X, y, G)))


@pytest.mark.parametrize("metric", ["diag", "full"])
def test_learned_metric_is_learned_without_the_held_out_tasks(metric):
    model = MAMLRegressorCV(cv=3, n_support=4, n_repeats=2, metric=metric, n_inner_steps=[0, 2])
    names = np.unique(G)
    folds = [
        (np.flatnonzero(~np.isin(G, names[test])), np.flatnonzero(np.isin(G, names[test])))
        for _, test in GroupKFold(3).split(names, groups=names)
    ]
    check(model, X, y, G, folds)


@pytest.mark.parametrize(("intercept", "k"), [(True, 2), (False, None)])
def test_closed_form_is_a_loop(intercept, k):
    X, y, G = tasks(k=k)
    numbers = NUMBERS | {"inner_step_sizes": [0.1, STEP if intercept else STEP[:3]], "n_inner_steps": [0, 2]}
    model = MAMLRegressorCV(**numbers, n_repeats=1, fit_intercept=intercept)
    check(model, X, y, G, list(LeaveOneGroupOut().split(X, y, G)), rtol=1e-8)


def test_closed_form_of_a_step_that_overshoots():
    check(MAMLRegressorCV(inner_step_sizes=[2.0], n_inner_steps=[1, 3], n_repeats=1), X, y, G, LEFT_OUT, rtol=1e-6)


@pytest.mark.parametrize("n_tasks", [2, 3])
def test_closed_form_of_few_tasks(n_tasks):
    rows = np.isin(G, list("abc")[:n_tasks])
    splits = list(LeaveOneGroupOut().split(X[rows], y[rows], G[rows]))
    check(MAMLRegressorCV(inner_step_sizes=[0.05], n_inner_steps=[0, 1]), X[rows], y[rows], G[rows], splits, rtol=1e-8)


@pytest.mark.parametrize("numbers", [1, 200])
def test_closed_form_of_short_tasks_in_several_parts(monkeypatch, numbers):
    X, y, G = tasks(m=12, n=4, d=5)
    monkeypatch.setattr("sklearn_maml.tasks.NUMBERS_PER_STACK", 100)
    monkeypatch.setattr(few_shot, "IN_CACHE", numbers)
    model = MAMLRegressorCV(inner_step_sizes=[0.05], n_support=2, n_repeats=2)
    check(model, X, y, G, list(LeaveOneGroupOut().split(X, y, G)), rtol=1e-8)


def test_closed_form_where_the_minimiser_is_open():
    """A feature that is always zero, and one twice: the error is that of fits, which choose the shortest change."""
    Z = np.c_[X, np.zeros(len(X)), X[:, 0]]
    model = MAMLRegressorCV(inner_step_sizes=[0.05], n_inner_steps=[0, 1], n_repeats=1)
    check(model, Z, y, G, LEFT_OUT, rtol=1e-5)


def test_closed_form_where_only_the_held_out_task_knows():
    """A feature that one task alone has: without it, nothing is known of its coefficient, which stays zero."""
    Z = np.c_[X, np.where(G == "a", np.arange(len(G)) / 50, 0.0)]
    model = MAMLRegressorCV(inner_step_sizes=[0.05], n_inner_steps=[0, 1], n_repeats=1)
    check(model, Z, y, G, LEFT_OUT, rtol=1e-5)


def test_large_problems_are_split_into_folds(monkeypatch):
    numbers = {"inner_step_sizes": [0.05], "n_repeats": 2}
    folds, alone = MAMLRegressorCV(cv=5, **numbers).fit(X, y, groups=G), MAMLRegressorCV(**numbers).fit(X, y, groups=G)
    assert folds.best_score_ != alone.best_score_
    monkeypatch.setattr(module, "LARGEST_CLOSED_FORM", 8 * 4**2 - 1)
    assert MAMLRegressorCV(**numbers).fit(X, y, groups=G).best_score_ == folds.best_score_
    monkeypatch.setattr(module, "LARGEST_CLOSED_FORM", 8 * 4**2)
    assert MAMLRegressorCV(**numbers).fit(X, y, groups=G).best_score_ == alone.best_score_


def test_the_best_of_known_steps():
    """Tasks that share their slope and differ in level: steps along the intercept only."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 12)
    Z = rng.normal(size=(360, 2))
    t = Z @ [1.0, 2.0] + 3 * rng.normal(size=30)[groups] + 0.1 * rng.normal(size=360)
    steps = [0.0, 0.5, [0.0, 0.0, 0.5]]
    model = MAMLRegressorCV(inner_step_sizes=steps, adaptations=["gradient"]).fit(Z, t, groups=groups)
    assert model.best_params_["inner_step_size"] == [0.0, 0.0, 0.5]
    assert_array_equal(model.cv_results_["rank_test_score"], [3, 2, 1])
    assert model.best_score_ > -0.02


# cv


def test_forms_of_cv():
    numbers = NUMBERS | {"adaptations": ["implicit"], "n_repeats": 2}
    pairs = [(np.flatnonzero(np.isin(np.arange(len(y)), train)).tolist(), test) for train, test in BY_GROUP]
    masks = [tuple(np.isin(np.arange(len(y)), rows) for rows in pair) for pair in BY_GROUP]
    scores = [
        MAMLRegressorCV(cv=cv, **numbers).fit(X, y, groups=G).cv_results_["mean_test_score"]
        for cv in (GroupKFold(3), pairs, iter(pairs), masks)
    ]
    for other in scores[1:]:
        assert_array_equal(other, scores[0])
    alone = MAMLRegressorCV(**numbers).fit(X, y, groups=G)
    assert_allclose(
        alone.cv_results_["mean_test_score"],
        MAMLRegressorCV(cv=8, **numbers).fit(X, y, groups=G).cv_results_["mean_test_score"],
        rtol=1e-8,
    )


def test_tasks_held_out_more_than_once_or_never():
    cv = GroupShuffleSplit(3, test_size=2, train_size=4, random_state=0)
    splits = list(cv.split(X, y, G))
    assert len(np.unique(np.concatenate([G[test] for _, test in splits]))) not in (6, 8)
    check(MAMLRegressorCV(inner_step_sizes=[0.1], cv=cv), X, y, G, splits)


def test_part_of_a_task_held_out():
    splits = [(train, test[::2]) for train, test in BY_GROUP]
    check(MAMLRegressorCV(inner_step_sizes=[0.1], cv=splits, n_support=2), X, y, G, splits)


def test_default_of_auto_is_five_folds():
    model = MAMLRegressorCV(inner_step_sizes=["auto", 0.1], n_repeats=1, adaptations=["gradient"])
    explicit = clone(model).set_params(cv=5).fit(X, y, groups=G)
    assert same(model.fit(X, y, groups=G).cv_results_, explicit.cv_results_)
    few = np.isin(G, list("abc"))
    explicit = clone(model).set_params(cv=3).fit(X[few], y[few], groups=G[few])
    assert same(clone(model).fit(X[few], y[few], groups=G[few]).cv_results_, explicit.cv_results_)


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored by KFold:UserWarning")
def test_a_task_on_both_sides():
    splits = [(np.flatnonzero(G != "b"), np.flatnonzero((G == "b") | (np.arange(len(G)) == np.argmax(G == "c"))))]
    for cv, name in ((splits, "'c'"), (KFold(3), "'a'")):
        with pytest.raises(ValueError, match=f"rows of task {name} on both sides.*GroupKFold"):
            MAMLRegressorCV(cv=cv).fit(X, y, groups=G)


def test_more_folds_than_tasks():
    with pytest.raises(ValueError, match=r"cv=9 folds take .* there are 8: lower cv"):
        MAMLRegressorCV(cv=9).fit(X, y, groups=G)


@pytest.mark.parametrize("empty", [0, 1])
def test_empty_side(empty):
    split = [np.flatnonzero(G == "a"), np.flatnonzero(G == "b")]
    split[empty] = []
    with pytest.raises(ValueError, match="without training rows, or without held-out rows"):
        MAMLRegressorCV(cv=[split]).fit(X, y, groups=G)


# Nothing leaks


def adapted_in_search(monkeypatch, X, y, **params):
    """What each held-out task was adapted from and to, in the order of the calls."""
    calls = []

    def spy(model, support, start, prior):
        W = original(model, support, start, prior)
        calls.append((support.X, support.Y, np.broadcast_to(start, W.shape), W))
        return W

    original = few_shot.adapt_to
    monkeypatch.setattr(few_shot, "adapt_to", spy)
    MAMLRegressorCV(**params).fit(X, y, groups=G)
    monkeypatch.setattr(few_shot, "adapt_to", original)
    return calls


@pytest.mark.parametrize(
    "params",
    [
        {"cv": LeaveOneGroupOut(), "adaptations": ["implicit"], "n_repeats": 2},
        {"inner_step_sizes": [0.05], "n_inner_steps": [0, 2]},
    ],
    ids=["fits", "closed form"],
)
def test_fits_never_see_the_task_they_are_scored_on(monkeypatch, params):
    wild_X, wild_y = X.copy(), y.copy()
    wild_X[G == "d"] *= 100
    wild_y[G == "d"] += 1000 * np.arange(np.sum(G == "d"))
    tame, wild = (adapted_in_search(monkeypatch, *data, **params) for data in ((X, y), (wild_X, wild_y)))
    assert len(tame) == len(wild)
    d = np.unique(G).tolist().index("d")
    for i, ((_, _, start, _), (_, _, wild_start, _)) in enumerate(zip(tame, wild, strict=True)):
        if "cv" not in params:
            assert_array_equal(wild_start[d], start[d])
            assert not np.allclose(np.delete(wild_start, d, axis=0), np.delete(start, d, axis=0), rtol=1e-2)
        elif i // 2 == d:
            assert_array_equal(wild_start, start)
        else:
            assert not np.allclose(wild_start, start, rtol=1e-2)


def test_adaptation_never_sees_the_query(monkeypatch):
    """Other targets of the query of every draw, with the draws held: the adapted parameters are the same."""
    rows = np.flatnonzero(G == "d")
    split = [(np.flatnonzero(G != "d"), rows)]
    order = np.random.default_rng(0).permutation(len(rows))
    priorities = np.zeros((1, len(y)), dtype=np.uint64)
    priorities[0, rows] = order
    monkeypatch.setattr(module, "row_priorities", lambda *_: priorities)
    other = y.copy()
    other[rows[order >= 5]] += 1000
    (tame,), (wild,) = (
        adapted_in_search(monkeypatch, X, target, cv=split, adaptations=["implicit"]) for target in (y, other)
    )
    assert_array_equal(np.sort(tame[1].ravel()), np.sort(y[rows[order < 5]]))
    assert_array_equal(wild[3], tame[3])


def test_support_and_query_are_disjoint(monkeypatch):
    calls = adapted_in_search(monkeypatch, X, y, inner_step_sizes=[0.1], adaptations=["gradient"], n_repeats=4)
    assert len(calls) == 4
    supports = [frozenset(Y.ravel().tolist()) for _, Y, _, _ in calls]
    assert len(set(supports)) == 4  # other rows in each draw
    assert {len(support) for support in supports} == {8 * 5}


# The draws


def test_draws_of_a_task():
    Z, t = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    supports = np.array(supports_of(Z, t, 3, 2000))
    assert_array_equal(supports.sum(axis=1), 3)
    assert_allclose(supports.mean(axis=0), 0.3, atol=0.04)  # four standard deviations
    pairs = supports.T.astype(float) @ supports / 2000
    assert_allclose(pairs[~np.eye(10, dtype=bool)], 0.3 * 2 / 9, atol=0.025)
    assert_array_equal(supports_of(Z, t, 3, 7), supports[:7])  # more repeats only add draws
    assert not np.array_equal(supports_of(Z, t, 3, 7, seed=1), supports[:7])


def test_a_row_is_drawn_whatever_its_place():
    Z, t = np.arange(20.0).reshape(10, 2), np.arange(10.0)
    order = np.random.default_rng(0).permutation(10)
    moved = supports_of(Z[order], t[order], 3, 20)
    assert_array_equal(moved, np.array(supports_of(Z, t, 3, 20))[:, order])


def test_equal_rows_stay_together():
    Z, t = np.arange(12.0).reshape(6, 2), np.arange(6.0)
    copies = np.repeat(np.arange(6), [1, 3, 1, 2, 1, 1])
    weight = np.bincount(copies).astype(float)
    for single, repeated in zip(
        supports_of(Z, t, 3, 50, weight=weight), supports_of(Z[copies], t[copies], 3, 50), strict=True
    ):
        assert_array_equal(repeated, single[copies])
        assert 3 <= weight[single].sum() <= 5


def test_negative_zero_is_zero():
    Z, t = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 3.0]]), np.array([-0.0, 0.0, 1.0])
    for support in supports_of(Z, t, 1, 10):
        assert support[0] == support[1] != support[2]


def test_weights_that_round():
    Z, t = np.arange(30.0)[:, None], np.arange(30.0)
    for support in supports_of(Z, t, 3, 20, weight=np.full(30, 1 / 3)):
        assert support.sum() == 9


@pytest.mark.parametrize("params", [NUMBERS, FOLDS], ids=["closed form", "folds"])
def test_weights_are_repetition(params):
    weight = np.random.default_rng(0).integers(0, 4, size=len(y))
    weight[G == "e"] = 0
    copies = np.random.default_rng(1).permutation(np.repeat(np.arange(len(y)), weight))
    model = MAMLRegressorCV(n_support=4, **params)
    weighted = clone(model).fit(X, y, groups=G, sample_weight=weight)
    repeated = clone(model).fit(X[copies], y[copies], groups=G[copies])
    for key in ("mean_test_score", "std_test_score"):
        assert_allclose(weighted.cv_results_[key], repeated.cv_results_[key], rtol=1e-5 if "cv" in params else 1e-8)
    assert weighted.best_params_ == repeated.best_params_
    assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-5)


def test_weighted_error_is_a_loop():
    weight = np.random.default_rng(0).uniform(0.3, 2, size=len(y))
    check(MAMLRegressorCV(**FOLDS | {"cv": BY_GROUP}), X, y, G, BY_GROUP, weight=weight)
    check(MAMLRegressorCV(inner_step_sizes=[0.1]), X, y, G, LEFT_OUT, rtol=1e-8, weight=weight)


def test_given_rows_count_those_of_weight_zero():
    weight = np.random.default_rng(0).integers(0, 3, size=len(y)).astype(float)
    kept = np.flatnonzero(weight)
    cut = [tuple(np.flatnonzero(np.isin(kept, rows)) for rows in pair) for pair in BY_GROUP]
    given = MAMLRegressorCV(**FOLDS | {"cv": BY_GROUP}).fit(X, y, groups=G, sample_weight=weight)
    left = MAMLRegressorCV(**FOLDS | {"cv": cut}).fit(X[kept], y[kept], groups=G[kept], sample_weight=weight[kept])
    assert_array_equal(given.cv_results_["mean_test_score"], left.cv_results_["mean_test_score"])


@pytest.mark.parametrize("params", [NUMBERS, FOLDS], ids=["closed form", "folds"])
def test_order_of_rows_and_names_of_tasks_do_not_matter(params):
    model = MAMLRegressorCV(**params).fit(X, y, groups=G)
    order = np.random.default_rng(0).permutation(len(y))
    moved = MAMLRegressorCV(**params).fit(X[order], y[order], groups=G[order])
    assert_allclose(moved.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"], rtol=1e-7)
    assert moved.best_params_ == model.best_params_
    if "cv" not in params:
        renamed = MAMLRegressorCV(**params).fit(X, y, groups=np.random.default_rng(3).permutation(256)[[*map(ord, G)]])
        assert_allclose(renamed.cv_results_["mean_test_score"], model.cv_results_["mean_test_score"], rtol=1e-8)


def test_seed():
    def scores(seed):
        return MAMLRegressorCV(inner_step_sizes=[0.1], random_state=seed).fit(X, y, groups=G).cv_results_

    assert same(scores(0), scores(0))
    assert same(scores(0), scores(np.random.RandomState(0)))
    assert scores(0)["mean_test_score"][0] != scores(1)["mean_test_score"][0]
    assert np.isfinite(scores(None)["mean_test_score"][0])


# Few rows


def test_tasks_too_small_to_score():
    small = np.isin(G, ["a", "b"])
    kept = np.ones(len(y), dtype=bool)
    for name, n in (("a", 5), ("b", 1)):
        kept[np.flatnonzero(np.equal(G, name))[n:]] = False
    model = MAMLRegressorCV(inner_step_sizes=[0.05, 0.1], n_repeats=2)
    with pytest.warns(
        UserWarning, match="^2 of 8 held-out tasks have too few different rows for n_support=5"
    ) as caught:
        model.fit(X[kept], y[kept], groups=G[kept])
    assert [warning.filename for warning in caught] == [__file__]
    train = LeaveOneGroupOut().split(X[kept], y[kept], G[kept])
    mean, std = by_hand(X[kept], y[kept], G[kept], list(train), model)
    assert_allclose(model.cv_results_["mean_test_score"], -mean, rtol=1e-8)
    assert_allclose(model.cv_results_["std_test_score"], std, rtol=1e-8)
    without = clone(model).fit(X[~small], y[~small], groups=G[~small])
    assert without.best_score_ != model.best_score_  # they are trained on


def test_no_task_large_enough():
    with pytest.raises(ValueError, match=r"8 of 8 held-out tasks have too few .* n_support=11 .* lower n_support"):
        MAMLRegressorCV(n_support=11).fit(X, y, groups=G)
    with pytest.raises(ValueError, match="lower n_support"):
        MAMLRegressorCV().fit(np.ones_like(X), np.ones_like(y), groups=G)  # one row, many times


def test_a_task_with_a_query_in_some_draws():
    """A row of weight 5 is a support by itself; drawn last, it leaves no query."""
    rows = np.isin(G, ["a", "b", "c"])
    Z, t, groups = X[rows], y[rows], G[rows]
    weight = np.ones(len(t))
    small = np.flatnonzero(groups == "a")
    weight[small[2:]] = 0
    weight[small[0]] = 5
    splits = list(LeaveOneGroupOut().split(Z, t, groups))
    kept = weight > 0
    draws = supports_of(Z[small[:2]], t[small[:2]], 5, 5, weight=weight[small[:2]])
    assert 0 < sum(np.all(support) for support in draws) < 5
    splits = list(LeaveOneGroupOut().split(Z[kept], t[kept], groups[kept]))
    check(MAMLRegressorCV(inner_step_sizes=[0.05]), Z[kept], t[kept], groups[kept], splits, 1e-8, weight[kept])


@pytest.mark.parametrize("groups", [None, ["one"] * 9], ids=["none", "one"])
def test_single_task(groups):
    model = MAMLRegressorCV(inner_step_sizes=[0.1, "auto"], l2_regularizations=[0.3, 0.1], adaptations=["implicit"])
    with pytest.warns(SingleTaskWarning) as caught:
        model.fit(X[:9], y[:9], groups=groups)
    assert [warning.filename for warning in caught] == [__file__]
    assert "MAMLRegressorCV" in str(caught[0].message)
    expected = {"adaptation": "implicit", "inner_step_size": 0.1, "l2_regularization": 0.3, "n_inner_steps": 1}
    assert model.best_params_ == expected
    assert model.best_index_ == 0
    assert np.isnan(model.best_score_)
    assert np.all(np.isnan(model.cv_results_["mean_test_score"]))
    assert_array_equal(model.cv_results_["rank_test_score"], 1)
    by_hand = MAMLRegressor(**expected).fit(X[:9], y[:9], groups=["one"] * 9)
    assert_array_equal(model.coef_, by_hand.coef_)


def test_first_of_equals():
    model = MAMLRegressorCV(inner_step_sizes=[0.3, 0.1], n_inner_steps=[0], adaptations=["implicit", "gradient"])
    model.fit(X, y, groups=G)
    assert_array_equal(model.cv_results_["rank_test_score"], 1)
    assert model.best_index_ == 0
    assert model.best_params_ == {
        "adaptation": "implicit",
        "inner_step_size": 0.3,
        "l2_regularization": 0.0,
        "n_inner_steps": 0,
    }


# Results


def test_cv_results():
    model = MAMLRegressorCV(**NUMBERS).fit(X, y, groups=G)
    results = model.cv_results_
    assert results["params"] == list(
        ParameterGrid(
            {
                "inner_step_size": [0.02, 0.1],
                "n_inner_steps": [1, 2],
                "l2_regularization": [0.0, 0.2],
                "adaptation": ["gradient", "implicit"],
            }
        )
    )
    names = ["adaptation", "inner_step_size", "l2_regularization", "n_inner_steps"]
    for name in names:
        assert results[f"param_{name}"].tolist() == [params[name] for params in results["params"]]
    assert [results[f"param_{name}"].dtype.kind for name in names] == list("Uffi")
    assert list(results) == [
        "params",
        *[f"param_{name}" for name in names],
        *[f"{which}_test_score" for which in ("mean", "std", "rank")],
    ]
    assert pd.DataFrame(results).shape == (16, 8)
    order = np.argsort(-results["mean_test_score"])
    assert_array_equal(results["rank_test_score"][order], np.arange(1, 17))
    assert model.best_index_ == order[0]
    assert model.best_params_ == results["params"][order[0]]
    assert model.best_score_ == results["mean_test_score"].max() < 0
    fitted = MAMLRegressor(**model.best_params_).fit(X, y, groups=G)
    assert_array_equal(model.coef_, fitted.coef_)
    assert model.intercept_ == fitted.intercept_
    assert type(model.best_estimator_) is MAMLRegressor


def test_columns_of_a_mixture():
    model = MAMLRegressorCV(inner_step_sizes=["auto", 0.1, STEP], cv=3, n_repeats=1).fit(X, y, groups=G)
    column = model.cv_results_["param_inner_step_size"]
    assert column.dtype == object
    assert column[0] == "auto"
    assert column[1] == 0.1
    assert column[2] is STEP


def test_predict_score_and_adapt():
    model = MAMLRegressorCV(adaptations=["implicit"]).fit(X, y, groups=G)
    best = model.best_estimator_
    before = pickle.dumps(model)
    assert_array_equal(model.predict(X), best.predict(X))
    assert_array_equal(model.predict(X, return_std=True), best.predict(X, return_std=True))
    assert model.score(X, y) == r2_score(y, best.predict(X))
    for name in ("inner_step_size_", "task_covariance_", "noise_variance_", "n_features_in_"):
        assert_array_equal(getattr(model, name), getattr(best, name))
    one = model.adapt(X[:5], y[:5])
    assert type(one) is MAMLRegressorCV
    assert_array_equal(one.predict(X, return_std=True), best.adapt(X[:5], y[:5]).predict(X, return_std=True))
    assert one.cv_results_ is model.cv_results_
    weight = np.arange(1.0, len(y) + 1)
    many, expected = (each.adapt(X, y, groups=G, sample_weight=weight) for each in (model, best))
    assert_array_equal(many.predict(X, groups=G), expected.predict(X, groups=G))
    assert many.score(X, y, groups=G, sample_weight=weight) == expected.score(X, y, groups=G, sample_weight=weight)
    for name in ("tasks_", "task_coef_", "task_intercept_"):
        assert_array_equal(getattr(many, name), getattr(expected, name))
        assert not hasattr(model, name)
    assert pickle.dumps(model) == before
    assert not hasattr(model, "feature_names_in_")


def test_not_fitted():
    model = MAMLRegressorCV()
    for call in (model.predict, lambda X: model.score(X, y), lambda X: model.adapt(X, y)):
        with pytest.raises(NotFittedError, match="MAMLRegressorCV"):
            call(X)
    for name in ("coef_", "n_features_in_", "best_estimator_"):
        assert not hasattr(model, name)


def test_a_failed_fit_changes_nothing():
    model = MAMLRegressorCV(n_repeats=1, cv=3).fit(X, y, groups=G)
    before = pickle.dumps(model)
    for bad in ({"y": y[:-1]}, {"y": np.r_[y[:-1], np.nan]}, {"groups": G[1:]}):
        with pytest.raises(ValueError, match=r"inconsistent numbers of samples|contains NaN|one task id for each"):
            model.fit(**({"X": X[:, 1:], "y": y, "groups": G} | bad))
        assert pickle.dumps(model) == before


# Errors


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"inner_step_sizes": []}, r"inner_step_sizes must be a list of at least one value, got \[\]"),
        ({"n_inner_steps": ()}, "n_inner_steps must be a list of at least one value"),
        ({"l2_regularizations": np.array([])}, "l2_regularizations must be a list of at least one value"),
        ({"adaptations": "gradient"}, "adaptations.* must be .*'gradient'"),
        ({"inner_step_sizes": "auto"}, "inner_step_sizes.* must be .*'auto'"),
        ({"inner_step_sizes": 0.1}, "'inner_step_sizes' parameter of MAMLRegressorCV must be an array-like"),
        ({"inner_step_sizes": [0.1, -1.0]}, "'inner_step_size' parameter of MAMLRegressor must be .* Got -1.0"),
        ({"inner_step_sizes": ["large"]}, "'inner_step_size' parameter of MAMLRegressor must be .* Got 'large'"),
        ({"inner_step_sizes": [[0.1, 0.1]]}, r"one number for each of 4 parameters .* got shape \(2,\)"),
        ({"inner_step_sizes": [[0.1, 0.1, 0.1, -0.1]]}, "[Nn]egative"),
        ({"n_inner_steps": [1, -1]}, "'n_inner_steps' parameter of MAMLRegressor must be .* Got -1"),
        ({"n_inner_steps": [1.5]}, "'n_inner_steps' parameter of MAMLRegressor must be .* Got 1.5"),
        ({"l2_regularizations": [-1.0]}, "'l2_regularization' parameter of MAMLRegressor must be .* Got -1.0"),
        (
            {"adaptations": ["gradient", "explicit"]},
            "'adaptation' parameter of MAMLRegressor must be .* Got 'explicit'",
        ),
        ({"metric": "other"}, "'metric' parameter of MAMLRegressorCV"),
        ({"n_support": 0}, "'n_support' parameter of MAMLRegressorCV"),
        ({"n_repeats": 0}, "'n_repeats' parameter of MAMLRegressorCV"),
        ({"cv": 1}, "'cv' parameter of MAMLRegressorCV"),
        ({"cv": []}, "cv holds no split"),
        ({"cv": [([0, 1], [10_000])]}, "cv holds row numbers that X does not have"),
        (
            {"inner_step_sizes": [1e200], "adaptations": ["gradient"]},
            "leave the range of floating point.*inner_step_size",
        ),
        ({"inner_step_sizes": [1e200], "cv": 3}, "leave the range of floating point.*inner_step_size"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        MAMLRegressorCV(**params).fit(X, y, groups=G)


# Kinds of input


@pytest.mark.parametrize("params", [{"inner_step_sizes": [0.05, 0.1]}, FOLDS], ids=["closed form", "folds"])
@pytest.mark.parametrize("kind", [sparse.csr_array, sparse.csc_matrix, sparse.coo_array])
def test_sparse_is_dense(params, kind):
    Z = np.where(np.abs(X) > 0.7, X, 0.0)
    dense = MAMLRegressorCV(**params).fit(Z, y, groups=G)
    model = MAMLRegressorCV(**params).fit(kind(Z), y, groups=G)
    assert_allclose(model.cv_results_["mean_test_score"], dense.cv_results_["mean_test_score"], rtol=1e-8)
    assert_allclose(model.adapt(kind(Z[:5]), y[:5]).predict(kind(Z)), dense.adapt(Z[:5], y[:5]).predict(Z), rtol=1e-6)


def test_sparse_with_zeros_and_duplicates():
    data, column, row = [1.0, 2.0, 3.0, 0.0, 5.0], [0, 0, 1, 1, 0], [0, 0, 0, 1, 1]
    Z = sparse.coo_array((data, (row, column)), shape=(2, 2))
    raw = sparse.csr_array((data, [1, 0, 0, 1, 0], [0, 3, 5]), shape=(2, 2))
    raw.data[:3] = [3.0, 1.0, 2.0]
    before = raw.data.copy()

    def hashes(X):
        return few_shot.row_priorities(few_shot.Table(X, np.zeros((2, 1)), None, None, True), 3, 0)

    assert_array_equal(hashes(raw), hashes(Z.toarray()))
    assert_array_equal(raw.data, before)


def test_float32():
    model = MAMLRegressorCV(inner_step_sizes=[0.05, 0.1], cv=3).fit(
        X.astype(np.float32), y.astype(np.float32), groups=G
    )
    assert model.coef_.dtype == np.float32
    assert_allclose(model.coef_, MAMLRegressor(**model.best_params_).fit(X, y, groups=G).coef_, rtol=1e-4)
    assert model.predict(X.astype(np.float32)).dtype == np.float32
    alone = MAMLRegressorCV(inner_step_sizes=[0.1], n_repeats=1)
    check(alone, X.astype(np.float32), y, G, LEFT_OUT, rtol=1e-4)


def test_frames():
    frame = pd.DataFrame(X, columns=["one", "two", "three"])
    model = MAMLRegressorCV(**FOLDS).fit(frame, pd.Series(y), groups=pd.Series(G))
    assert_array_equal(model.feature_names_in_, ["one", "two", "three"])
    assert same(model.cv_results_, MAMLRegressorCV(**FOLDS).fit(X, y, groups=G).cv_results_)
    with pytest.raises(ValueError, match="in the same order"):
        model.predict(frame[["two", "one", "three"]])
    model.fit(X, y, groups=G)
    assert not hasattr(model, "feature_names_in_")


@pytest.mark.parametrize("params", [NUMBERS, FOLDS | {"n_inner_steps": [1, 2]}], ids=["closed form", "folds"])
def test_threads(params):
    one, two = (MAMLRegressorCV(n_jobs=n_jobs, **params).fit(X, y, groups=G) for n_jobs in (None, 2))
    assert same(one.cv_results_, two.cv_results_)
    assert_array_equal(one.coef_, two.coef_)


# scikit-learn


@pytest.mark.parametrize("routing", [False, True], ids=["routing_off", "routing_on"])
@pytest.mark.parametrize(COMMON.args[0], CASES, **COMMON.kwargs)
@one_task
def test_common_checks(estimator, check, routing):
    with config_context(enable_metadata_routing=routing):
        check(estimator)


def test_number_of_common_checks():
    assert not any(getattr(case, "marks", ()) for case in CASES)
    assert len(CASES) >= 2 * 55


@one_task
def test_checks_that_are_left_out():
    for check in ("param_validation", "dataframe_column_names_consistency", "inplace_ensure_writeable"):
        getattr(estimator_checks, f"check_{check}")("MAMLRegressorCV", MAMLRegressorCV())


def test_clone_pickle_and_repr():
    model = MAMLRegressorCV(inner_step_sizes=[0.1], cv=GroupKFold(3)).fit(X, y, groups=G)
    copy = clone(model)
    assert copy.get_params().keys() == model.get_params().keys()
    assert vars(copy).keys() == copy.get_params(deep=False).keys()
    assert same(copy.fit(X, y, groups=G).cv_results_, model.cv_results_)
    for each in (model, model.adapt(X, y, groups=G)):
        again = pickle.loads(pickle.dumps(each))
        assert_array_equal(again.predict(X, groups=G), each.predict(X, groups=G))
        assert_array_equal(again.adapt(X[:3], y[:3]).coef_, each.adapt(X[:3], y[:3]).coef_)
    assert repr(MAMLRegressorCV()) == "MAMLRegressorCV()"
    for each in (MAMLRegressorCV(), model, make_pipeline(StandardScaler(), model)):
        assert "MAMLRegressorCV" in estimator_html_repr(each)


@pytest.mark.parametrize("routing", [False, True])
def test_pipeline(routing):
    pipe = make_pipeline(StandardScaler(), MAMLRegressorCV(**FOLDS))
    with config_context(enable_metadata_routing=routing):
        pipe.fit(X, y, **{"groups" if routing else "mamlregressorcv__groups": G})
        Z = StandardScaler().fit_transform(X)
        model = MAMLRegressorCV(**FOLDS).fit(Z, y, groups=G)
        assert same(pipe[-1].cv_results_, model.cv_results_)
        new, expected = adapt(pipe, X, y, groups=G), model.adapt(Z, y, groups=G)
        assert_array_equal(new[-1].predict(Z, groups=G), expected.predict(Z, groups=G))
        assert_array_equal(adapt(pipe, X[:5], y[:5]).predict(X), model.adapt(Z[:5], y[:5]).predict(Z))
        if routing:
            assert_array_equal(new.predict(X, groups=G), expected.predict(Z, groups=G))


@pytest.mark.parametrize("routing", [False, True])
def test_search_and_cross_validate(routing):
    by_task = GroupKFold(2)
    with config_context(enable_metadata_routing=routing):
        search = GridSearchCV(MAMLRegressorCV(inner_step_sizes=[0.1]), {"n_support": [2, 4]}, cv=by_task)
        if routing:
            search.fit(X, y, groups=G)
            assert search.best_estimator_.cv_results_["params"]
            task = adapt(search, X[:5], y[:5]).predict(X)
            assert_array_equal(task, search.best_estimator_.adapt(X[:5], y[:5]).predict(X))
        else:
            with pytest.warns(SingleTaskWarning, match="GridSearchCV"):
                search.fit(X, y, groups=G)
        given = {} if routing else {"groups": G}
        model = MAMLRegressorCV(**FOLDS)
        result = cross_validate(model, X, y, cv=by_task, params={"groups": G}, return_estimator=True, **given)
        for fitted, (train, _) in zip(result["estimator"], by_task.split(X, y, G), strict=True):
            assert same(fitted.cv_results_, clone(model).fit(X[train], y[train], groups=G[train]).cv_results_)


def test_requests():
    routing = MAMLRegressorCV().get_metadata_routing()
    for method in ("fit", "predict", "score"):
        assert getattr(routing, method).requests["groups"] is True


def test_zero_shot_is_least_squares():
    """No adaptation and one task left: the initialisation is least squares on the other task."""
    rows = np.isin(G, ["a", "b"])
    Z, t, groups = X[rows], y[rows], G[rows]
    model = MAMLRegressorCV(inner_step_sizes=[0.1], n_inner_steps=[0], adaptations=["gradient"], n_repeats=3)
    errors = []
    for name in ("a", "b"):
        other = LinearRegression().fit(Z[groups != name], t[groups != name])
        here = np.flatnonzero(groups == name)
        residual = (t[here] - other.predict(Z[here])) ** 2
        errors.append(np.mean([residual[~support].mean() for support in supports_of(Z[here], t[here], 5, 3)]))
    assert_allclose(model.fit(Z, t, groups=groups).best_score_, -np.mean(errors), rtol=1e-8)
