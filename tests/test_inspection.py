"""The Displays: what they draw is what a hand-written loop finds, and what they refuse."""

import sys
from functools import partial

import matplotlib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm
from sklearn.compose import TransformedTargetRegressor, make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, adapt
from sklearn_maml.inspection import AdaptationCurveDisplay, LossLandscapeDisplay, MetaTrainingDisplay, TaskDisplay
from sklearn_maml.model_selection import adaptation_curve


@pytest.fixture(autouse=True)
def plt():
    """Pyplot without a screen; figures are closed in the end."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def tasks(m=6, n=12, d=2, seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m), n)
    X = rng.normal(size=(m * n, d))
    coef = np.ones(d) + 0.5 * rng.normal(size=(m, d))
    y = np.sum(X * coef[groups], axis=1) + 2 * rng.normal(size=m)[groups] + 0.5 * rng.normal(size=m * n)
    return X, y, groups


def band_limits(band):
    """Lower and upper limits of a fill_between at each of its x, in their order."""
    vertices = np.unique(band.get_paths()[0].vertices, axis=0)
    x = np.unique(vertices[:, 0])
    limits = [vertices[vertices[:, 0] == each, 1] for each in x]
    return x, np.array([low.min() for low in limits]), np.array([high.max() for high in limits])


def legend_of(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


class Smooth:
    """A function out of a value and a gradient."""

    def __init__(self, value, gradient):
        self.value, self.gradient = value, gradient


# adaptation curve


def curve_scores():
    rng = np.random.default_rng(0)
    scores = {name: -rng.uniform(size=(3, 4, 5)) for name in ("adapted", "alone")}
    scores["alone"][0] = np.nan
    scores["adapted"][2, :, 1] = np.nan  # a task without a score at one size
    scores["adapted"][1, 2, 0] = np.nan  # and one without a score in one repeat
    return scores


@pytest.mark.parametrize("negate", [False, True])
def test_curve_is_mean_and_standard_error_over_tasks(negate):
    scores = curve_scores()
    display = AdaptationCurveDisplay(n_support=[0, 2, 5], scores=scores, score_name="neg_mean_squared_error")
    assert display.plot(negate_score=negate) is display
    sign = -1 if negate else 1
    for name, values in scores.items():
        means, errors = [], []
        for at_size in values:
            by_task = [np.mean([s for s in at_size[:, t] if s == s]) for t in range(5) if np.any(at_size[:, t] < 0)]
            means.append(sign * np.mean(by_task) if by_task else np.nan)
            errors.append(np.std(by_task, ddof=1) / np.sqrt(len(by_task)) if by_task else np.nan)
        line = display.lines_[name]
        assert line.get_label() == name
        assert_array_equal(line.get_xdata(), [0, 2, 5])
        assert_allclose(line.get_ydata(), means, rtol=1e-12)
        x, low, high = band_limits(display.bands_[name])
        there = ~np.isnan(means)
        assert_array_equal(x, np.array([0, 2, 5])[there])
        assert_allclose(high, np.add(means, errors)[there], rtol=1e-12)
        assert_allclose(low, np.subtract(means, errors)[there], rtol=1e-12)
    label = "mean squared error" if negate else "negative mean squared error"
    assert display.ax_.get_ylabel() == label
    assert legend_of(display.ax_) == ["adapted", "alone"]


def test_curve_of_one_task_has_no_band(plt):
    _, ax = plt.subplots()
    scores = {"adapted": np.ones((2, 3, 1))}
    display = AdaptationCurveDisplay(n_support=[0, 1], scores=scores).plot(ax, score_name="how good")
    assert display.bands_ == {}
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert ax.get_ylabel() == "how good"


@pytest.mark.parametrize(
    ("score_name", "negate", "label"),
    [(None, False, "score"), (None, True, "negative score"), ("r2", False, "r2"), ("r2", True, "negative r2")],
)
def test_name_of_the_score(score_name, negate, label):
    display = AdaptationCurveDisplay(n_support=[1], scores={"a": np.ones((1, 1, 2))}, score_name=score_name)
    assert display.plot(negate_score=negate).ax_.get_ylabel() == label


def test_ticks_are_the_sizes_as_far_as_there_is_room():
    few = AdaptationCurveDisplay(n_support=[0, 1, 2, 5, 10], scores={"a": np.ones((5, 1, 2))}).plot()
    assert_array_equal(few.ax_.get_xticks(), [0, 1, 2, 5, 10])
    place = few.ax_.transData.transform(np.c_[[0, 1, 2, 5, 10], np.zeros(5)])[:, 0]
    assert np.diff(place).min() > 0.1 * np.ptp(place)
    many = AdaptationCurveDisplay(n_support=np.arange(101), scores={"a": np.ones((101, 1, 2))}).plot()
    ticks = many.ax_.get_xticks()
    assert_array_equal(ticks[:4], [0, 1, 2, 3])
    place = many.ax_.transData.transform(np.c_[ticks, np.zeros(len(ticks))])[:, 0]
    assert np.diff(place).min() > 20  # pixels


def test_curve_from_estimator_is_that_of_adaptation_curve():
    X, y, groups = tasks()
    arguments = {
        "n_support": [0, 3],
        "n_repeats": 2,
        "baselines": ["pooled"],
        "scoring": "neg_mean_absolute_error",
        "cv": 3,
        "random_state": 1,
    }
    display = AdaptationCurveDisplay.from_estimator(MAMLRegressor(), X, y, groups, **arguments, negate_score=True)
    curve = adaptation_curve(MAMLRegressor(), X, y, groups, **arguments)
    assert list(display.lines_) == ["adapted", "pooled"]
    for name, scores in curve.scores.items():
        assert_array_equal(display.scores[name], scores)
        assert_allclose(display.lines_[name].get_ydata(), -scores.mean(axis=(1, 2)), rtol=1e-12)
    assert display.ax_.get_ylabel() == "mean absolute error"


def test_curve_checks_shapes():
    with pytest.raises(ValueError, match=r"scores\['a'\] must have shape .* n_sizes=2 .* got \(3, 1, 1\)"):
        AdaptationCurveDisplay(n_support=[0, 1], scores={"a": np.ones((3, 1, 1))}).plot()


# meta-training


def fits(solver="gd", **parameters):
    X, y, groups = tasks()
    parameters = {"inner_step_size": 0.1, "solver": solver, "tol": 1e-4} | parameters
    return {name: MAMLRegressor(algorithm=name, **parameters).fit(X, y, groups=groups) for name in ("maml", "bimaml")}


@pytest.mark.parametrize(
    ("x", "solver"),
    [("iteration", "gd"), ("n_gradients", "gd"), ("time", "ode"), ("iteration", "exact")],
)
def test_meta_training_draws_the_history_of_each_phase(x, solver):
    models = fits(solver)
    display = MetaTrainingDisplay.from_estimator(models, x=x)
    assert list(display.objective_lines_) == list(display.grad_norm_lines_) == ["maml", "bimaml"]
    for name, model in models.items():
        history = model.history_
        place = np.arange(len(history["phase"])) if x == "iteration" else history[x]
        phases = np.unique(history["phase"])
        assert len(phases) == (2 if name == "bimaml" else 1)
        for key, lines in (("objective", display.objective_lines_), ("grad_norm", display.grad_norm_lines_)):
            for phase, line in zip(phases, lines[name], strict=True):
                kept = history["phase"] == phase
                assert_array_equal(line.get_xdata(), place[kept])
                assert_array_equal(line.get_ydata(), history[key][kept])
                assert line.get_linestyle() == ("--" if phase == 1 else "-")
                begins_phase_two = phase == 2 and len(phases) == 2
                assert (line.get_marker() == "o") == (begins_phase_two or kept.sum() == 1)
    colors = [lines[0].get_color() for lines in display.objective_lines_.values()]
    assert len(set(colors)) == 2
    assert [lines[0].get_color() for lines in display.grad_norm_lines_.values()] == colors
    left, right = display.ax_
    assert (left.get_yscale(), right.get_yscale()) == ("linear", "log")
    assert legend_of(left) == ["maml", "bimaml", "phase one, on f", "phase two, on F"]


def test_one_phase_needs_no_legend_of_phases(plt):
    figure, axes = plt.subplots(2)
    display = MetaTrainingDisplay.from_estimator(fits()["maml"], ax=axes)
    assert legend_of(display.ax_[0]) == ["MAMLRegressor"]
    assert list(display.ax_) == list(axes)
    assert display.figure_ is figure


def test_history_is_found_inside():
    X, y, groups = tasks()
    pipe = make_pipeline(StandardScaler(), MAMLRegressor()).fit(X, y, mamlregressor__groups=groups)
    target = TransformedTargetRegressor(MAMLRegressor()).fit(X, y, groups=groups)
    cv = MAMLRegressorCV(n_repeats=1).fit(X, y, groups=groups)
    search = GridSearchCV(Pipeline([("model", MAMLRegressor())]), {"model__n_inner_steps": [1]}, cv=2)
    search = search.fit(X, y, model__groups=groups)
    found = MetaTrainingDisplay.from_estimator({"pipe": pipe, "target": target, "cv": cv, "search": search}).histories
    expected = pipe[-1], target.regressor_, cv.best_estimator_, search.best_estimator_[-1]
    assert [id(history) for history in found.values()] == [id(model.history_) for model in expected]


def test_meta_training_says_what_is_missing(plt):
    X, y, _ = tasks()
    with pytest.raises(TypeError, match="Ridge has no history_"):
        MetaTrainingDisplay.from_estimator(make_pipeline(StandardScaler(), Ridge()).fit(X, y))
    with pytest.raises(TypeError, match="MAMLRegressor has no history_: pass a fitted"):
        MetaTrainingDisplay.from_estimator(MAMLRegressor())
    with pytest.raises(ValueError, match="history of 'MAMLRegressor' has no 'time'"):
        MetaTrainingDisplay.from_estimator(fits()["maml"], x="time")
    with pytest.raises(ValueError, match="x must be one of"):
        MetaTrainingDisplay.from_estimator(fits()["maml"], x="seconds")
    with pytest.raises(ValueError, match="draws on 2 axes, got 1"):
        MetaTrainingDisplay.from_estimator(fits()["maml"], ax=plt.gca())


# one task


def one_new_task(d=1, **parameters):
    """A model that has not seen task 0, and support and query of that task."""
    X, y, groups = tasks(d=d)
    model = MAMLRegressor(**parameters).fit(X[12:], y[12:], groups=groups[12:])
    return model, X[:3], y[:3], X[3:12], y[3:12]


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_task_shows_fits_rows_and_interval(plt, coverage):
    model, *rows = one_new_task(adaptation="implicit")
    _, ax = plt.subplots()
    display = TaskDisplay.from_estimator(model, *rows, grid_resolution=7, coverage=coverage, ax=ax)
    x = np.concatenate([rows[0], rows[2]])[:, 0]
    grid = np.linspace(x.min(), x.max(), 7)
    mean, std = model.adapt(*rows[:2]).predict(grid[:, None], return_std=True)
    for line, expected in ((display.initial_, model.predict(grid[:, None])), (display.adapted_, mean)):
        assert_array_equal(line.get_xdata(), grid)
        assert_allclose(line.get_ydata(), expected, rtol=1e-12)
    assert_array_equal(display.support_.get_xydata(), np.c_[rows[0], rows[1]])
    assert_array_equal(display.query_.get_xydata(), np.c_[rows[2], rows[3]])
    _, low, high = band_limits(display.band_)
    assert_allclose(low, norm(mean, std).ppf((1 - coverage) / 2), rtol=1e-9)
    assert_allclose(high, norm(mean, std).ppf((1 + coverage) / 2), rtol=1e-9)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    labels = [f"{100 * coverage:.0f} % interval", "initialisation", "adapted", "query rows", "support rows"]
    assert legend_of(ax) == labels


def test_task_without_interval_and_query():
    model, *rows = one_new_task(adaptation="gradient")
    display = TaskDisplay.from_estimator(model, *rows[:2])
    assert display.band_ is None
    assert display.query_ is None
    assert legend_of(display.ax_) == ["initialisation", "adapted", "support rows"]
    assert display.ax_.get_xlabel() == "feature 0"
    assert display.ax_.get_ylabel() == "target"


@pytest.mark.parametrize("container", ["array", "pandas", "polars"])
def test_other_features_are_held_at_their_mean(container):
    model, X, y, X_query, y_query = one_new_task(d=3)
    names = list("abc")
    make = {
        "array": lambda X: X,
        "pandas": lambda X: pd.DataFrame(X, columns=names, index=np.arange(len(X)) + 7),
        "polars": lambda X: pl.DataFrame(X, schema=names),
    }[container]
    features = [1, -2] if container == "array" else [1, -2, "b"]
    if container != "array":
        X_all, y_all, groups = tasks(d=3)
        model = MAMLRegressor().fit(make(X_all[12:]), y_all[12:], groups=groups[12:])
    for feature in features:
        display = TaskDisplay.from_estimator(model, make(X), y, make(X_query), y_query, feature=feature)
        grid = np.tile(np.concatenate([X, X_query]).mean(axis=0), (100, 1))
        grid[:, 1] = display.grid
        adapted = model.adapt(make(X), y)
        assert_allclose(display.adapted, grid @ adapted.coef_ + adapted.intercept_, rtol=1e-10)
        assert_array_equal(display.support, np.c_[X[:, 1], y])
        assert display.ax_.get_xlabel() == ("feature 1" if container == "array" else "b")


def test_features_that_are_no_numbers_are_held_at_the_most_frequent():
    X, y, groups = tasks(d=1)
    frame = pd.DataFrame({"kind": np.where(np.arange(len(y)) % 3, "often", "seldom"), "x": X[:, 0]})
    y = pd.Series(y + 5 * (frame["kind"] == "often"), name="yield")
    encode = make_column_transformer((OneHotEncoder(), ["kind"]), remainder="passthrough")
    pipe = make_pipeline(encode, MAMLRegressor()).fit(frame[12:], y[12:], mamlregressor__groups=groups[12:])
    display = TaskDisplay.from_estimator(pipe, frame[:6], y[:6], feature="x", grid_resolution=5)
    grid = pd.DataFrame({"kind": "often", "x": display.grid})
    assert_allclose(display.initial, pipe.predict(grid), rtol=1e-12)
    assert display.ax_.get_ylabel() == "yield"
    with pytest.raises(ValueError, match="feature 'kind' must hold finite numbers"):
        TaskDisplay.from_estimator(pipe, frame[:6], y[:6], feature="kind")


def test_task_in_containers():
    X, y, groups = tasks(d=1)
    model = MAMLRegressor(adaptation="implicit")
    pipe = make_pipeline(StandardScaler(), model)
    fitted = [
        (pipe.fit(X[12:], y[12:], mamlregressor__groups=groups[12:]), True),
        (Pipeline([("model", model)]).fit(X[12:], y[12:], model__groups=groups[12:]), True),
        (MAMLRegressorCV(adaptations=["implicit"], n_repeats=1).fit(X[12:], y[12:], groups=groups[12:]), True),
        (
            TransformedTargetRegressor(model, transformer=StandardScaler()).fit(X[12:], y[12:], groups=groups[12:]),
            False,
        ),
    ]
    search = GridSearchCV(pipe, {"mamlregressor__n_inner_steps": [1]}, cv=2)
    fitted.append((search.fit(X[12:], y[12:], mamlregressor__groups=groups[12:]), True))
    for estimator, has_band in fitted:
        display = TaskDisplay.from_estimator(estimator, X[:3], y[:3], grid_resolution=5)
        expected = adapt(estimator, X[:3], y[:3]).predict(display.grid[:, None])
        assert_allclose(display.adapted, expected, rtol=1e-12)
        assert (display.band_ is not None) == has_band
    scaled = fitted[0][0][0].transform(TaskDisplay.from_estimator(fitted[0][0], X[:3], y[:3]).grid[:, None])
    _, std = fitted[0][0][1].adapt(fitted[0][0][0].transform(X[:3]), y[:3]).predict(scaled, return_std=True)
    assert_allclose(TaskDisplay.from_estimator(fitted[0][0], X[:3], y[:3]).adapted_std, std, rtol=1e-12)


def test_binary_task_shows_the_decision_function():
    X, y, groups = tasks(d=1)
    labels = np.where(y > 0, "yes", "no")
    model = MAMLSVC(inner_step_size=0.1).fit(X[12:], labels[12:], groups=groups[12:])
    display = TaskDisplay.from_estimator(model, X[:4], labels[:4], X[4:12], labels[4:12])
    assert_allclose(display.initial_.get_ydata(), model.decision_function(display.grid[:, None]))
    adapted = model.adapt(X[:4], labels[:4]).decision_function(display.grid[:, None])
    assert_allclose(display.adapted_.get_ydata(), adapted)
    assert_array_equal(display.query_.get_ydata(), np.where(labels[4:12] == "yes", 1, -1))
    assert display.band_ is None
    assert display.ax_.get_ylabel() == "decision value (-1: no, 1: yes)"
    zero = [line for line in display.ax_.get_lines() if set(line.get_ydata()) == {0}]
    assert len(zero) == 1
    with pytest.raises(ValueError, match=r"not seen in fit: \['maybe'\]"):
        TaskDisplay.from_estimator(model, X[:2], labels[:2], X[2:4], ["yes", "maybe"])


def test_task_refuses_what_it_cannot_draw():
    X, y, groups = tasks(d=1)
    model = MAMLRegressor().fit(X, y, groups=groups)
    draw = partial(TaskDisplay.from_estimator, model, X[:3], y[:3])
    for coverage in (0, 1, 90):
        with pytest.raises(ValueError, match="coverage must lie between 0 and 1"):
            draw(coverage=coverage)
    with pytest.raises(ValueError, match="belong together"):
        draw(X[3:5])
    with pytest.raises(ValueError, match="columns of X_support"):
        draw(np.ones((2, 2)), y[:2])
    for feature in (1, -2, "b"):
        with pytest.raises(ValueError, match=f"feature={feature!r} is no column of X, whose columns are \\[0\\]"):
            draw(feature=feature)
    two = MAMLRegressor().fit(X, np.c_[y, y], groups=groups)
    with pytest.raises(ValueError, match="one output"):
        TaskDisplay.from_estimator(two, X[:3], np.c_[y, y][:3])
    three = MAMLSVC(inner_step_size=0.1).fit(X, np.arange(len(y)) % 3, groups=groups)
    with pytest.raises(ValueError, match="two classes, but there are 3"):
        TaskDisplay.from_estimator(three, X[:3], [0, 1, 2])


# loss landscape


def paper_example(alpha=0.4):
    """Fig. 1 of Xu, Chen & Karbasi (2021): f and F, out of derivatives written down by hand."""
    losses = [
        (
            lambda w: 0.505 * w**2 - np.sin(w),
            lambda w: 1.01 * w - np.cos(w),
            lambda w: 1.01 + np.sin(w),
        ),
        (
            lambda w: 0.505 * w**2 - 1e-4 * np.sin(100 * w),
            lambda w: 1.01 * w - 1e-2 * np.cos(100 * w),
            lambda w: 1.01 + np.sin(100 * w),
        ),
    ]
    f = Smooth(
        lambda w: np.mean([value(w) for value, _, _ in losses]),
        lambda w: np.mean([slope(w) for _, slope, _ in losses], axis=0),
    )
    F = Smooth(
        lambda w: np.mean([value(w - alpha * slope(w)) for value, slope, _ in losses]),
        lambda w: np.mean([(1 - alpha * c(w)) * slope(w - alpha * slope(w)) for _, slope, c in losses], axis=0),
    )
    return f, F


def test_critical_points_of_the_papers_example():
    f, F = paper_example()
    display = LossLandscapeDisplay.from_losses(f, F, [[0.0], [1.0]])
    found = display.critical_points["F"]
    minima = [0.288087736, 0.344866362, 0.402744483, 0.460737285]
    assert_allclose(found["minimum"][:, 0], minima, atol=1e-8)
    assert_allclose(found["maximum"][:, 0], [0.311260605, 0.381651739, 0.449469233], atol=1e-8)
    assert_allclose(found["minimum"][:, 1].min(), -0.1791097, atol=1e-7)
    assert len(display.critical_points["f"]["minimum"]) == 1
    assert len(display.critical_points["f"]["maximum"]) == 0
    assert_array_equal(display.markers_["F"]["minimum"].get_xydata(), found["minimum"])
    assert display.ax_.get_xlabel() == "w"
    assert legend_of(display.ax_)[2:] == ["minimum", "maximum"]
    f, F = paper_example(alpha=0.1)
    display = LossLandscapeDisplay.from_losses(f, F, [[0.0], [1.0]])
    assert [len(points) for points in display.critical_points["F"].values()] == [1, 0]


def test_a_flat_stretch_is_one_minimum():
    flat = Smooth(lambda w: max(0, abs(w[0, 0]) - 1), lambda w: np.where(abs(w) > 1, np.sign(w), 0.0))
    display = LossLandscapeDisplay.from_losses(flat, flat, [[-2.0], [2.0]], grid_resolution=41)
    assert [len(points) for points in display.critical_points["f"].values()] == [1, 0]
    assert abs(display.critical_points["f"]["minimum"][0, 0]) <= 1


def labelled(y):
    return np.where(y > 0, "yes", "no")


MODELS = [
    MAMLRegressor(),
    MAMLRegressor(inner_step_size=0.1, n_inner_steps=2, l2_regularization=0.3),
    MAMLRegressor(adaptation="implicit", metric="full", fit_intercept=False),
    MAMLRegressor(algorithm="fomaml", inner_step_size=0.1),
    MAMLRegressor(inner_step_size=[0.1, 0.2, 0.3], adaptation="implicit", algorithm="maml"),
    MAMLSVC(loss="smooth_hinge"),
    MAMLSVC(loss="squared_hinge", inner_step_size=0.05, solver="gd", max_iter=10_000, tol=1e-4),
]


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_F_is_what_fit_minimised(model):
    X, y, groups = tasks()
    y = labelled(y) if isinstance(model, MAMLSVC) else y
    weight = 1 + np.arange(len(y)) % 3
    model.fit(X, y, groups=groups, sample_weight=weight)
    display = LossLandscapeDisplay.from_estimator(model, X, y, groups, weight, grid_resolution=21)
    assert_allclose(display.grid[0][15], 1, atol=1e-12)  # the fitted parameters
    assert_allclose(display.losses["F"][15], model.history_["objective"][-1], rtol=1e-10)
    if model.algorithm != "fomaml":
        assert_allclose(display.critical_points["F"]["minimum"][:, 0], [1], atol=1e-2)
    assert_allclose(display.critical_points["f"]["minimum"][:, 0], [0], atol=1e-2)
    assert display.ax_.get_xlabel() == "position on the line (0: minimiser of f, 1: fitted)"


def test_line_through_own_points_is_a_loop_over_tasks(plt):
    X, y, groups = tasks()
    alpha = 0.1
    model = MAMLRegressor(inner_step_size=alpha).fit(X, y, groups=groups)
    start, end = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    _, ax = plt.subplots()
    display = LossLandscapeDisplay.from_estimator(
        model, X, y, groups, points=[start, end], grid_resolution=5, margin=1, ax=ax
    )
    assert_allclose(display.grid[0], [-1, -0.25, 0.5, 1.25, 2])
    f, F = [], []
    for t in display.grid[0]:
        w = start + t * (end - start)
        before, after = [], []
        for task in np.unique(groups):
            A, b = np.c_[X, np.ones(len(y))][groups == task], y[groups == task]
            adapted = w - alpha * 2 * A.T @ (A @ w - b) / len(b)
            before.append(np.mean((A @ w - b) ** 2))
            after.append(np.mean((A @ adapted - b) ** 2))
        f.append(np.mean(before))
        F.append(np.mean(after))
    assert_allclose(display.lines_["f"].get_ydata(), f, rtol=1e-10)
    assert_allclose(display.lines_["F"].get_ydata(), F, rtol=1e-10)
    assert display.ax_ is ax
    assert display.figure_ is ax.figure


def test_one_parameter_is_its_own_axis():
    X, y, groups = tasks(d=1)
    model = MAMLRegressor(fit_intercept=False, inner_step_size=0.1).fit(X, y, groups=groups)
    display = LossLandscapeDisplay.from_estimator(model, X, y, groups)
    assert_allclose(display.points["fitted"], model.coef_, rtol=1e-12)
    assert_allclose(display.critical_points["F"]["minimum"][:, 0], model.coef_, rtol=1e-8)
    pooled = np.mean([X[groups == g, 0] @ y[groups == g] for g in range(6)]) / np.mean(
        [X[groups == g, 0] @ X[groups == g, 0] for g in range(6)]
    )
    assert_allclose(display.critical_points["f"]["minimum"][:, 0], pooled, rtol=1e-8)


def test_plane_holds_start_minimiser_and_fit(plt):
    X, y, groups = tasks()
    init = np.array([3.0, -1.0, 2.0])
    model = MAMLRegressor(inner_step_size=0.1, init=init).fit(X, y, groups=groups)
    figure, axes = plt.subplots(1, 2)
    display = LossLandscapeDisplay.from_estimator(model, X, y, groups, points="plane", grid_resolution=11, ax=axes)
    assert list(display.ax_) == list(axes)
    assert display.figure_ is figure
    minimiser, fitted, start = display.points.values()
    assert list(display.points) == ["minimiser of f", "fitted", "start"]
    assert_allclose(minimiser, 0, atol=1e-12)
    w = np.append(model.coef_, model.intercept_)
    assert_allclose(np.linalg.norm(fitted - start), np.linalg.norm(w - init), rtol=1e-10)  # distances are kept
    assert_allclose(display.critical_points["f"]["minimum"][:, :2], [minimiser], atol=1e-6)
    assert_allclose(display.critical_points["F"]["minimum"][:, :2], [fitted], atol=1e-6)
    assert_allclose(display.critical_points["F"]["minimum"][0, 2], model.history_["objective"][-1], rtol=1e-10)
    labels = ["minimiser of f", "fitted", "start", "minimum"]
    assert legend_of(axes[0]) == labels
    alone = display.plot()
    assert [text.get_text() for text in alone.figure_.legends[0].get_texts()] == labels


def test_critical_points_on_a_plane():
    """sin(x) sin(2y) has its critical points on two grids: extrema, and saddles where both factors vanish."""
    egg_box = Smooth(
        lambda w: np.sin(w[0, 0]) * np.sin(2 * w[1, 0]),
        lambda w: np.array([[np.cos(w[0, 0]) * np.sin(2 * w[1, 0])], [2 * np.sin(w[0, 0]) * np.cos(2 * w[1, 0])]]),
    )
    corners = {"a": [-3.0, -1.4], "b": [3.0, -1.4], "c": [-3.0, 1.4]}
    display = LossLandscapeDisplay.from_losses(egg_box, egg_box, corners, grid_resolution=30, margin=0)
    half, quarter = np.pi / 2, np.pi / 4
    expected = {
        "minimum": [[-half, quarter, -1], [half, -quarter, -1]],
        "maximum": [[-half, -quarter, 1], [half, quarter, 1]],
        "saddle": [[0, 0, 0]],
    }
    for name in ("f", "F"):
        assert display.axis_names == ("w[0]", "w[1]")
        for kind, points in expected.items():
            assert_allclose(display.critical_points[name][kind], points, atol=1e-7)
            assert_allclose(display.markers_[name][kind].get_xydata(), np.array(points)[:, :2], atol=1e-7)
        values = display.losses[name]
        assert_allclose(values[3, 20], np.sin(display.grid[0][3]) * np.sin(2 * display.grid[1][20]), rtol=1e-12)
        drawn = display.contours_[name]
        assert_allclose([drawn.zmin, drawn.zmax], [values.min(), values.max()])


def test_orthonormal_plane_in_three_dimensions():
    centre = np.array([[1.0], [3.0], [3.0]])
    bowl = Smooth(lambda w: np.sum((w - centre) ** 2), lambda w: 2 * (w - centre))
    points = np.array([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0], [1.0, 4.0, 0.0]])
    display = LossLandscapeDisplay.from_losses(bowl, bowl, points, grid_resolution=9)
    assert_allclose(list(display.points.values()), points[:, :2], atol=1e-12)
    assert_allclose(display.critical_points["f"]["minimum"], [[1, 3, 9]], atol=1e-8)
    assert display.contours_["f"].get_paths()[0].contains_point((1, 3))  # the lowest level surrounds the minimum
    assert display.axis_names[1] == "distance from that line towards point 3"


def test_own_points_of_several_outputs():
    X, y, groups = tasks()
    model = MAMLRegressor(inner_step_size=0.1).fit(X, np.c_[y, -y], groups=groups)
    fitted = np.c_[model.coef_, model.intercept_]
    display = LossLandscapeDisplay.from_estimator(
        model, X, np.c_[y, -y], groups, points=[0 * fitted, fitted], grid_resolution=21
    )
    assert_allclose(display.critical_points["F"]["minimum"][:, 0], [1], rtol=1e-8)
    with pytest.raises(ValueError, match=r"3 parameters .* each of 2 output\(s\), got shape \(3,\)"):
        LossLandscapeDisplay.from_estimator(model, X, np.c_[y, -y], groups, points=[np.zeros(3), np.ones(3)])


def test_landscape_refuses_what_it_cannot_draw(plt):
    X, y, groups = tasks()
    model = MAMLRegressor(inner_step_size=0.1).fit(X, y, groups=groups)
    draw = partial(LossLandscapeDisplay.from_estimator, model, X, y, groups)
    with pytest.raises(TypeError, match="got Ridge"):
        LossLandscapeDisplay.from_estimator(Ridge(), X, y, groups)
    with pytest.raises(NotFittedError):
        LossLandscapeDisplay.from_estimator(MAMLRegressor(), X, y, groups)
    with pytest.raises(ValueError, match="points must be 'line', 'plane' or an array"):
        draw(points="axis")
    with pytest.raises(ValueError, match="two, for a line, or three"):
        draw(points=np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"3 parameters .* got shape \(2,\)"):
        draw(points=np.ones((2, 2)))
    with pytest.raises(ValueError, match="coincide"):
        draw(points=np.ones((2, 3)))
    with pytest.raises(ValueError, match="on one line"):
        draw(points=[[0, 0, 0], [1, 1, 1], [2, 2, 2]])
    with pytest.raises(ValueError, match="draws on 2 axes, got 1"):
        draw(points="plane", grid_resolution=5, ax=plt.gca())
    with pytest.raises(ValueError, match="coincide"):  # without adaptation, F is f
        LossLandscapeDisplay.from_estimator(model.set_params(n_inner_steps=0).fit(X, y, groups), X, y, groups)


# all of them


def displays():
    X, y, groups = tasks(d=1)
    model = MAMLRegressor(adaptation="implicit").fit(X, y, groups=groups)
    f, F = paper_example()
    return [
        AdaptationCurveDisplay(n_support=[0, 1], scores={"adapted": np.ones((2, 1, 3))}),
        MetaTrainingDisplay.from_estimator(model),
        TaskDisplay.from_estimator(model, X[:3], y[:3]),
        LossLandscapeDisplay.from_losses(f, F, [[0.0], [1.0]], grid_resolution=9),
    ]


def test_plot_draws_anew_and_fits_the_background(plt):
    for display in displays():
        former = display.plot().figure_
        with plt.style.context("dark_background"):
            assert display.plot() is display
            assert display.figure_ is not former
            display.figure_.canvas.draw()
            texts = [text.get_color() for ax in np.ravel(display.ax_) for text in [ax.xaxis.label, ax.yaxis.label]]
            assert set(texts) == {"white"}
            black = [
                line for ax in np.ravel(display.ax_) for line in ax.get_lines() if line.get_color() in ("k", "black")
            ]
            assert not black


def test_without_matplotlib(monkeypatch):
    drawn = displays()
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    for display in drawn:
        message = rf'{type(display).__name__}.plot needs matplotlib: pip install "sklearn-maml\[examples\]"'
        with pytest.raises(ImportError, match=message):
            display.plot()
