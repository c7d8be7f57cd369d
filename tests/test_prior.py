"""The task prior against statsmodels and the restricted likelihood of all rows at once, by dense matrices."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from statsmodels.regression.mixed_linear_model import MixedLM

from sklearn_maml import MAMLRegressor
from sklearn_maml import prior as prior_module
from sklearn_maml.losses import squared_loss
from sklearn_maml.meta import adapt
from sklearn_maml.prior import NOISE_FLOOR, Prior, _Likelihood, _Point, _solve_triangles, learn_prior
from sklearn_maml.rows import TaskRows
from sklearn_maml.steps import Metric, inner_step

METRICS = pytest.mark.parametrize("metric", ["diag", "full"])
INTERCEPT = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
RAGGED = [1, 2, 9, 3, 14, 1, 5, 4, 7, 2, 6, 11]


class Table:
    """Rows of tasks with random coefficients; X has the column of ones if there is an intercept."""

    def __init__(self, sizes=RAGGED, d=3, k=1, fit_intercept=True, spread=(1.5, 0.8, 0.4, 0.6), noise=0.7, seed=0):
        rng = np.random.default_rng(seed)
        m, n = len(sizes), sum(sizes)
        self.codes, self.fit_intercept = rng.permutation(np.repeat(np.arange(m), sizes)), fit_intercept
        self.features = rng.normal(size=(n, d - fit_intercept)) * rng.uniform(0.5, 2, d - fit_intercept)
        self.features += rng.normal(size=d - fit_intercept)
        parameters = rng.normal(size=(d, k)) + np.array(spread[:d])[:, None] * rng.normal(size=(m, d, k))
        self.Y = np.einsum("nd,ndk->nk", self.X, parameters[self.codes]) + noise * rng.normal(size=(n, k))

    @property
    def X(self):
        return np.c_[self.features, np.ones(len(self.features))] if self.fit_intercept else self.features

    def stacks(self, weight=None):
        weight = np.ones(len(self.Y)) if weight is None else weight
        rows = TaskRows(self.features, self.Y, weight, self.codes, squared_loss, 0.0, self.fit_intercept)
        return [build() for _, build in rows.stacks("one quadratic")]

    def learn(self, metric="diag", weight=None):
        return learn_prior(self.stacks(weight), metric, self.fit_intercept)

    def likelihood(self):
        return _Likelihood([tasks.factor() for tasks in self.stacks()], self.fit_intercept)

    def deviance(self, G, s2=None, output=0):
        """Minus twice the restricted log-likelihood of all rows, but for a constant; the noise is at its best."""
        X, y = self.X, self.Y[:, output]
        V = np.eye(len(y)) + (self.codes[:, None] == self.codes) * (X @ G @ X.T)
        VX, Vy = np.linalg.solve(V, X), np.linalg.solve(V, y)
        mean = np.linalg.solve(X.T @ VX, X.T @ Vy)
        square, freedom = (y - X @ mean) @ (Vy - VX @ mean), len(y) - X.shape[1]
        s2 = square / freedom if s2 is None else s2
        logs = np.linalg.slogdet(V)[1] + np.linalg.slogdet(X.T @ VX)[1]
        return freedom * np.log(s2) + square / s2 + logs

    def mean_row(self):
        """Mean over tasks of the mean over their rows."""
        return np.mean([self.features[self.codes == i].mean(axis=0) for i in range(self.codes.max() + 1)], axis=0)

    def from_level(self):
        """Columns: coefficients at the same level, and the level."""
        T = np.eye(self.X.shape[1])
        if self.fit_intercept:
            T[-1, :-1] = -self.mean_row()
        return T


# the restricted likelihood


@INTERCEPT
@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2])
def test_likelihood_is_that_of_all_rows_at_once(fit_intercept, d, k):
    """Up to a constant; of several outputs the mean over outputs, each with noise of its own."""
    table = Table(d=d, k=k, fit_intercept=fit_intercept, seed=d)
    likelihood, rng = table.likelihood(), np.random.default_rng(1)
    values, expected = [], []
    for scale in (0, 0.1, 1, 3):
        L = scale * rng.normal(size=(d, d))
        root = likelihood.from_standard @ L
        point = likelihood(L)
        values.append(point.value)
        expected.append(np.mean([table.deviance(root @ root.T, output=j) for j in range(k)]))
        np.testing.assert_allclose(
            np.sum(len(table.Y) - d + (len(table.Y) - d) * np.log(point.noise)) / k,
            np.mean([_profiled(table, root @ root.T, j) for j in range(k)]),
            rtol=1e-9,
        )
    np.testing.assert_allclose(np.diff(values), np.diff(expected), rtol=1e-8)


def _profiled(table, G, output):
    """The part of the deviance that the noise is in."""
    without_noise = table.deviance(G, s2=1.0, output=output) - table.deviance(G, s2=2.0, output=output)
    freedom = len(table.Y) - table.X.shape[1]
    square = 2 * (without_noise + freedom * np.log(2))
    return freedom + freedom * np.log(square / freedom)


@INTERCEPT
@pytest.mark.parametrize("d", [1, 2, 3, 4])
@pytest.mark.parametrize("k", [1, 2])
def test_slope_of_the_likelihood(fit_intercept, d, k):
    likelihood, rng = Table(d=d, k=k, fit_intercept=fit_intercept, seed=d).likelihood(), np.random.default_rng(1)
    for scale in (0.01, 1, 10):
        L, direction, h = scale * rng.normal(size=(d, d)), scale * rng.normal(size=(d, d)), 1e-5
        slope = likelihood(L).slope
        np.testing.assert_allclose(slope, slope.T, rtol=1e-9, atol=1e-9 * np.abs(slope).max())
        ahead, behind = (likelihood(L + sign * h * direction).value for sign in (1, -1))
        np.testing.assert_allclose(
            2 * np.sum((slope @ L) * direction), (ahead - behind) / (2 * h), rtol=1e-5, atol=1e-5
        )


def test_slope_where_the_noise_is_at_its_floor():
    table = Table([4] * 5, d=2, noise=0.0)
    likelihood = table.likelihood()
    L = np.diag([3000.0, 3000.0])
    assert likelihood(L).noise == likelihood.floor
    direction, h = np.array([[5.0, 0.0], [3.0, -4.0]]), 1e-2
    ahead, behind = (likelihood(L + sign * h * direction).value for sign in (1, -1))
    slope = 2 * np.sum((likelihood(L).slope @ L) * direction)
    np.testing.assert_allclose(slope, (ahead - behind) / (2 * h), rtol=1e-5)


@INTERCEPT
@pytest.mark.parametrize("k", [1, 2])
def test_likelihood_of_a_diagonal(fit_intercept, k):
    """As of the matrix, with the slope in its diagonal."""
    likelihood = Table(d=4, k=k, fit_intercept=fit_intercept).likelihood()
    for root in (np.zeros(4), np.array([0.3, 0.0, 2.0, 0.1])):
        point, same = likelihood(root), likelihood(np.diag(root))
        np.testing.assert_allclose(point.value, same.value, rtol=1e-12)
        np.testing.assert_allclose(point.noise, same.noise, rtol=1e-12)
        np.testing.assert_allclose(point.diagonal[0], np.diag(same.slope), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("sizes", [[2] * 300, [9] * 100], ids=["few rows", "many rows"])
@pytest.mark.parametrize("k", [1, 2])
def test_second_derivatives_of_the_likelihood(sizes, k):
    """The observed ones against differences of the slope; the expected ones are their mean over data sets."""
    d, variance = 4, np.array([0.8, 0.3, 0.1, 0.5])
    likelihood = Table(sizes, d=d, k=k).likelihood()
    _, expected, observed = likelihood(np.sqrt(variance)).diagonal
    differences = [
        (likelihood(np.sqrt(variance + h)).diagonal[0] - likelihood(np.sqrt(variance - h)).diagonal[0]) / 2e-4
        for h in 1e-4 * np.eye(d)
    ]
    units = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    assert np.abs((observed - differences) / units).max() < 0.02
    X, level = Table(sizes, d=d).X, Table(sizes, d=d).from_level()
    table, total, n_tables = Table(sizes, d=d), 0.0, 60
    scale = np.sqrt(variance) * np.diag(table.likelihood().from_standard)
    rng = np.random.default_rng(2)
    for _ in range(n_tables):  # of this scatter
        W = level @ (scale[:, None] * rng.normal(size=(d, len(sizes))))
        table.Y = np.sum(X * W.T[table.codes], axis=1, keepdims=True) + rng.normal(size=(len(X), 1))
        total = total + table.likelihood()(np.sqrt(variance)).diagonal[2]
    assert np.abs((total / n_tables - expected) / units).max() < 0.1


@METRICS
def test_few_evaluations_find_the_estimate(monkeypatch, metric):
    """They are what learning costs."""
    evaluations = count_evaluations(monkeypatch)
    for table in (Table([8] * 200, d=4), Table([30] * 60, d=4, spread=(0, 1, 0.2, 3)), Table([3] * 300, d=4)):
        evaluations.clear()
        table.learn(metric)
        assert len(evaluations) <= {"diag": 7, "full": 40}[metric]


def count_evaluations(monkeypatch):
    """A list that grows with every evaluation of a likelihood."""
    evaluations, start = [], _Point.__init__
    monkeypatch.setattr(_Point, "__init__", lambda self, *args: evaluations.append(start(self, *args)))
    return evaluations


def test_few_evaluations_where_second_derivatives_are_approximate(monkeypatch):
    """Few tasks, and a feature that only differs between them: the steps made correct them."""
    evaluations = count_evaluations(monkeypatch)
    for seed in range(8):
        rng = np.random.default_rng(seed)
        table = Table(rng.integers(1, 12, 12), d=4, seed=seed)
        table.features[:, 0] = rng.normal(size=12)[table.codes]
        evaluations.clear()
        table.learn()
        assert len(evaluations) <= 15


@pytest.mark.parametrize("weight", [0.4, 0.6, 1e3])
def test_rows_of_any_weight(weight):
    """They count by weight, as fewer rows than there are, or more."""
    prior = Table([3] * 8, d=3).learn(weight=np.full(24, weight))
    assert np.all(np.isfinite(prior.covariance()))
    assert np.all(prior.noise > 0)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_is_left_to_gain(seed):
    """At a variance of zero the slope is up; elsewhere it is flat, in standard errors."""
    table = Table([7] * 40, d=4, spread=(1, 0, 0.1, 0), seed=seed)
    prior, likelihood = table.learn(), table.likelihood()
    variance = prior.variance[:, 0] * likelihood.scale**2
    slope, expected, _ = likelihood(np.sqrt(variance)).diagonal
    slope = slope / np.sqrt(np.diag(expected))
    assert np.all(slope[variance == 0] >= 0)
    assert np.abs(slope[variance > 0]).max() < 1e-4


@pytest.mark.parametrize("seed", [1, 2])
def test_another_search_finds_no_better(seed):
    """Little noise, which the scatter of many features can pass for: the model of a step is far from the truth."""
    table = Table([8] * 30, d=12, noise=0.1, spread=(1, 0, 0.3, 2) * 3, seed=seed)
    prior, likelihood = table.learn(), table.likelihood()

    def function(root):
        point = likelihood(root)
        return point.value, 2 * point.diagonal[0] * root

    other = minimize(function, np.full(12, 0.1), jac=True, method="L-BFGS-B", options={"maxiter": 300})
    found = likelihood(np.sqrt(prior.variance[:, 0]) * likelihood.scale)
    assert found.value <= other.fun + 1e-6


@pytest.mark.parametrize("n", [1, 5, 40])
def test_triangles(n):
    rng = np.random.default_rng(0)
    triangles, B = np.tril(rng.normal(size=(7, n, n))) + 3 * np.eye(n), rng.normal(size=(7, n, 6))
    given = B.copy()
    np.testing.assert_allclose(triangles @ _solve_triangles(triangles, B), B, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(B, given)


# the estimate


@INTERCEPT
@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("seed", range(2))
def test_diagonal_estimate_is_the_most_likely(fit_intercept, d, seed):
    """No slope left there, neighbours and another search are less likely, and so is other noise."""
    table = Table(d=d, fit_intercept=fit_intercept, seed=seed)
    prior, T = table.learn(), table.from_level()
    spread = np.sqrt(prior.variance[:, 0])

    def deviance(spread):
        return table.deviance(T @ np.diag(spread**2) @ T.T)

    best = deviance(spread)
    np.testing.assert_allclose(prior.covariance(), T @ np.diag(spread**2) @ T.T, rtol=1e-12, atol=1e-13)
    unit = np.maximum(spread, 1e-3)
    slope = approx_fprime(np.zeros(d), lambda t: deviance(spread + unit * t) - deviance(spread - unit * t), 1e-4) / 2
    assert np.abs(slope).max() < 0.02
    for j in range(d):
        for factor in (0.8, 1.25):
            assert deviance(np.where(np.arange(d) == j, factor * spread + 1e-3, spread)) > best - 1e-9
    for start in (0.3, 3.0):
        other = minimize(lambda t: deviance(np.exp(t)), np.log(np.full(d, start)), method="L-BFGS-B")
        assert best <= other.fun + 1e-5
    G = prior.covariance()
    for factor in (0.9, 1.1):
        assert table.deviance(G, factor * prior.noise[0]) > table.deviance(G, prior.noise[0])
    np.testing.assert_allclose(table.deviance(G, prior.noise[0]), best, rtol=1e-10)


def mixed_model(table):
    """Restricted maximum likelihood by statsmodels."""
    model = MixedLM(table.Y[:, 0], table.X, table.codes, table.X)
    return model.fit(reml=True, method="bfgs", gtol=1e-8)


class Sleep(Table):
    """Reaction times over days: as many subjects and days, and effects of the size, as in the well-known study."""

    def __init__(self, sizes=(10,) * 18, seed=0):
        rng = np.random.default_rng(seed)
        self.codes, self.fit_intercept = np.repeat(np.arange(len(sizes)), sizes), True
        self.features = np.concatenate([rng.permutation(10)[:n] for n in sizes]).astype(float)[:, None]
        scatter = rng.multivariate_normal([10.5, 251.4], [[35.1, 9.6], [9.6, 612.1]], len(sizes))
        self.Y = np.sum(self.X * scatter[self.codes], axis=1, keepdims=True) + 25.6 * rng.normal(size=(len(self.X), 1))


MIXED_MODELS = {
    "sleep": Sleep,
    "unbalanced sleep": lambda: Sleep([1, 10, 3, 2, 7, 10, 1, 5, 9, 4, 10, 6, 2, 8, 1, 3, 10, 5], seed=3),
    "two features": lambda: Table([8, 12, 5, 20, 9, 3, 15, 6, 10, 7, 11, 4], d=3, seed=1),
    "no intercept": lambda: Table([8, 12, 5, 20, 9, 3, 15, 6, 10, 7, 11, 4], d=2, fit_intercept=False, seed=1),
}


@pytest.mark.parametrize("table", MIXED_MODELS)
def test_full_estimate_is_that_of_statsmodels(table):
    """Five digits of covariance and noise; the implicit step from the fixed effects adds the random ones."""
    table = MIXED_MODELS[table]()
    truth, prior = mixed_model(table), table.learn("full")
    covariance = np.asarray(truth.cov_re)
    units = np.sqrt(np.diag(covariance))
    error = (prior.noise * prior.covariance() - covariance) / np.outer(units, units)
    assert np.abs(error).max() < 1e-4
    np.testing.assert_allclose(prior.noise, truth.scale, rtol=2e-5)
    rows = TaskRows(table.features, table.Y, np.ones(len(table.Y)), table.codes, squared_loss, 0.0, table.fit_intercept)
    tasks = rows.all_statistics()
    start = np.broadcast_to(truth.fe_params[:, None], tasks.shape)
    moved, _ = adapt(tasks, start, inner_step(tasks, "auto", "implicit", prior, tasks.weight), 1)
    effects = np.array([truth.random_effects[i] for i in range(len(moved))])
    error = (moved - start)[..., 0] - effects
    assert np.abs(error / units).max() < 1e-4


def test_diagonal_estimate_is_that_of_statsmodels():
    """Variance components: coefficients and the level at the mean row, which do not correlate."""
    table = Table([8, 12, 5, 20, 9, 3, 15, 6, 10, 7, 11, 4], d=3, seed=1)
    design = table.X @ table.from_level()
    model = MixedLM(table.Y[:, 0], table.X, table.codes, design)
    free = model.fit(reml=True, method="bfgs", gtol=1e-8, free=_diagonal(3, 3))
    prior = table.learn()
    np.testing.assert_allclose(prior.noise * prior.variance[:, 0], np.diag(free.cov_re), rtol=1e-4)
    np.testing.assert_allclose(prior.noise, free.scale, rtol=2e-5)


def _diagonal(n_means, n_effects):
    from statsmodels.regression.mixed_linear_model import MixedLMParams

    return MixedLMParams.from_components(np.ones(n_means), np.eye(n_effects))


@METRICS
def test_many_tasks_show_the_truth(metric):
    """Two hundred of them, of eight rows: the scatter they were drawn with, within sampling error."""
    spread = np.array([1.5, 0.0, 0.6])
    table = Table([8] * 200, d=3, spread=spread, seed=2)
    table.features -= table.mean_row()
    rng = np.random.default_rng(5)
    parameters = spread[:, None] * rng.normal(size=(200, 3, 1)) + 1
    table.Y = np.einsum("nd,ndk->nk", table.X, parameters[table.codes]) + 0.7 * rng.normal(size=(1600, 1))
    prior = table.learn(metric)
    np.testing.assert_allclose(prior.noise, 0.49, rtol=0.1)
    np.testing.assert_allclose(prior.noise * prior.covariance(), np.diag(spread**2), atol=0.25)
    np.testing.assert_allclose((prior.noise * prior.covariance())[2, 2], 0.36, rtol=0.25)


def test_no_scatter_is_found_where_there_is_none():
    """Tasks that are all the same: about half of the variances are zero, the others nearly so."""
    table = Table([6] * 60, d=3, spread=(0, 0, 0))
    prior = table.learn()
    assert np.all(prior.noise * prior.variance < 0.03)
    np.testing.assert_allclose(prior.noise, 0.49, rtol=0.2)


# what does not matter


def same(one, other, rtol=1e-3):
    """The same prior, within the accuracy of its search."""
    G = one.covariance()
    units = np.sqrt(np.diag(G))
    units = np.where(units > 0, units, 1)
    error = (other.covariance() - G) / np.outer(units, units)
    assert np.abs(error).max() < rtol, error
    np.testing.assert_allclose(other.noise, one.noise, rtol=rtol)


@METRICS
def test_weights_are_repetition(metric):
    table = Table()
    times = np.random.default_rng(3).integers(0, 4, len(table.Y))
    times[np.unique(table.codes, return_index=True)[1]] = 1  # a row of every task
    repeated = Table()
    rows = np.repeat(np.arange(len(times)), times)
    repeated.features, repeated.Y, repeated.codes = table.features[rows], table.Y[rows], table.codes[rows]
    kept = times > 0
    table.features, table.Y, table.codes = table.features[kept], table.Y[kept], table.codes[kept]
    same(repeated.learn(metric), table.learn(metric, times[kept].astype(float)), rtol=1e-5)


@METRICS
@INTERCEPT
def test_units_of_the_features_do_not_matter(metric, fit_intercept):
    table, other = Table(fit_intercept=fit_intercept), Table(fit_intercept=fit_intercept)
    scale = np.array([1e-4, 1e3, 1.0])[: other.features.shape[1]]
    other.features = table.features * scale
    back = np.r_[scale, 1.0] if fit_intercept else scale
    same(table.learn(metric), _in_units(other.learn(metric), np.diag(back)))


@METRICS
def test_origin_of_the_features_does_not_matter(metric):
    """The level stays the same; the intercept is another."""
    table, other = Table(), Table()
    shift = np.array([50.0, -3.0])
    other.features = table.features + shift
    T = np.eye(3)
    T[-1, :-1] = shift  # intercepts of old are those at the shifted origin
    same(table.learn(metric), _in_units(other.learn(metric), T))


def _in_units(prior, T):
    """The prior of T w."""
    return Prior(
        T @ prior.basis
        if np.ndim(prior.basis) == 2
        else T @ Metric(prior.basis, np.ones((1, 1)), None).to(np.eye(len(T))),
        prior.variance,
        prior.noise,
    )


@METRICS
@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_unit_of_the_target_does_not_matter(metric, scale):
    """G is in units of the noise."""
    table, other = Table(), Table()
    other.Y = scale * table.Y + (3 * scale if metric == "diag" else 0)
    one, two = table.learn(metric), other.learn(metric)
    np.testing.assert_allclose(two.noise, one.noise * scale**2, rtol=1e-3)
    same(one, Prior(two.basis, two.variance, two.noise / scale**2))


@METRICS
def test_order_of_tasks_and_stacks_does_not_matter(metric):
    table, other = Table(), Table()
    rng = np.random.default_rng(4)
    names, rows = rng.permutation(len(RAGGED)), rng.permutation(len(table.Y))
    other.features, other.Y, other.codes = table.features[rows], table.Y[rows], names[table.codes[rows]]
    one = table.learn(metric)
    same(one, other.learn(metric), rtol=1e-4)
    stacks = table.stacks()
    assert len(stacks) > 3
    same(one, learn_prior(stacks[::-1], metric, True), rtol=1e-4)
    statistics = TaskRows(table.features, table.Y, np.ones(len(table.Y)), table.codes, squared_loss, 0.0, True)
    same(one, learn_prior([statistics.all_statistics()], metric, True), rtol=1e-4)


@METRICS
def test_outputs_that_say_the_same(metric):
    """An output twice, in other units: the same scatter in units of each one's noise."""
    table, other = Table(), Table()
    other.Y = np.c_[table.Y, 10 * table.Y + 1]
    one, both = table.learn(metric), other.learn(metric)
    np.testing.assert_allclose(both.noise, one.noise * [1, 100], rtol=1e-3)
    same(one, Prior(both.basis, both.variance, both.noise[:1]))


def test_several_outputs_share_their_scatter():
    """The most likely G of both, each with its own noise: less likely for each than its own."""
    table = Table(d=2, k=2)
    prior, T = table.learn(), table.from_level()

    def deviance(spread):
        G = T @ np.diag(spread**2) @ T.T
        return sum(table.deviance(G, output=j) for j in (0, 1))

    best = minimize(lambda t: deviance(np.exp(t)), np.zeros(2), method="Nelder-Mead", options={"fatol": 1e-9})
    assert deviance(np.sqrt(prior.variance[:, 0])) <= best.fun + 1e-5
    assert prior.noise.shape == (2,)


# degenerate data


@METRICS
@pytest.mark.parametrize("m", [2, 3, 30])
@pytest.mark.parametrize("n", [2, 8])
def test_data_without_noise(metric, m, n):
    """The noise is what is left at least: a share of the target's variance; nothing is infinite."""
    table = Table([n] * m, d=3, noise=0.0)
    prior = table.learn(metric)
    if m * n <= 3 + 1:  # as many rows as mean coefficients
        return
    assert np.all(np.isfinite(prior.covariance()))
    assert np.all(prior.noise >= NOISE_FLOOR * table.Y.var() * 0.999)
    assert np.all(prior.noise < 1e-2 * table.Y.var()) or n == 2
    if n == 8:
        np.testing.assert_allclose(prior.noise, NOISE_FLOOR * table.Y.var(), rtol=1e-6)
    eigenvalues = np.linalg.eigvalsh(prior.covariance())
    assert eigenvalues[0] >= -1e-9 * eigenvalues[-1]


def test_tasks_that_are_all_one_straight_line():
    """No noise, and no scatter either: finite, at the floor, none."""
    table = Table([5] * 6, d=3, noise=0.0, spread=(0, 0, 0))
    for metric in ("diag", "full"):
        prior = table.learn(metric)
        np.testing.assert_allclose(prior.noise, NOISE_FLOOR * table.Y.var(), rtol=1e-6)
        assert np.abs(prior.covariance()).max() < 1e-3


@METRICS
def test_constant_feature(metric):
    """Beside an intercept it tells nothing and does not scatter; the others are as without it."""
    table, other = Table(d=3), Table(d=3)
    other.features = np.c_[table.features[:, :1], np.full(len(table.Y), 7.0), table.features[:, 1:]]
    expected, prior = table.learn(metric), other.learn(metric)
    G = prior.covariance()
    np.testing.assert_array_equal(G[1], 0)
    np.testing.assert_allclose(prior.noise, expected.noise, rtol=1e-3)
    rest = np.delete(np.delete(G, 1, axis=0), 1, axis=1)
    units = np.sqrt(np.diag(expected.covariance()))
    assert np.abs((rest - expected.covariance()) / np.outer(units, units)).max() < 1e-3


@METRICS
@INTERCEPT
def test_feature_that_is_zero(metric, fit_intercept):
    table, other = (Table(d=2 + fit_intercept, fit_intercept=fit_intercept) for _ in range(2))
    other.features = np.c_[np.zeros(len(table.Y)), table.features]
    expected, prior = table.learn(metric), other.learn(metric)
    np.testing.assert_array_equal(prior.covariance()[0], 0)
    np.testing.assert_allclose(prior.noise, expected.noise, rtol=1e-3)


@METRICS
def test_collinear_features(metric):
    """A feature that is twice another: the same scatter of the prediction, the same noise, nothing infinite."""
    table, other = Table(d=2), Table(d=2)
    other.features = np.c_[table.features, 2 * table.features]
    expected, prior = table.learn(metric), other.learn(metric)
    if metric == "full":
        G, x, twice = prior.covariance(), table.X, other.X
        np.testing.assert_allclose(
            np.diag(twice @ G @ twice.T), np.diag(x @ expected.covariance() @ x.T), rtol=5e-3, atol=1e-6
        )
    np.testing.assert_allclose(prior.noise, expected.noise, rtol=1e-3)
    assert np.all(np.isfinite(prior.covariance()))


@METRICS
def test_feature_that_is_constant_within_tasks(metric):
    """Only its mean coefficient shows (it explains levels): the estimate is finite and most likely all the same."""
    table = Table([5] * 12, d=3)
    table.features[:, 0] = np.random.default_rng(6).normal(size=12)[table.codes]
    table.Y[:, 0] = (
        2 * table.features[:, 0] + np.random.default_rng(7).normal(size=12)[table.codes] + table.features[:, 1]
    )
    table.Y[:, 0] += 0.3 * np.random.default_rng(8).normal(size=60)
    prior = table.learn(metric)
    assert np.all(np.isfinite(prior.covariance()))
    np.testing.assert_allclose(prior.noise, 0.09, rtol=0.5)
    T, x = table.from_level(), np.append(table.mean_row(), 1.0)
    np.testing.assert_allclose(prior.noise[0] * x @ prior.covariance() @ x, 1.0, rtol=0.9)
    if metric == "diag":
        spread = np.sqrt(prior.variance[:, 0])
        best = table.deviance(prior.covariance())
        for j in range(3):
            for more in (0.8, 1.25):
                there = np.where(np.arange(3) == j, more * spread + 1e-3, spread)
                assert table.deviance(T @ np.diag(there**2) @ T.T) > best - 1e-9


def test_full_is_at_least_as_likely_as_diagonal():
    for seed in range(3):
        table = Table(seed=seed)
        diag, full = table.learn("diag"), table.learn("full")
        assert table.deviance(full.covariance()) <= table.deviance(diag.covariance()) + 1e-6


@METRICS
@pytest.mark.parametrize("what", ["one task", "few rows", "constant", "no target", "constant outputs", "large"])
def test_nothing_to_learn_from(monkeypatch, metric, what):
    table = Table([5] * 4, d=3)
    assert table.learn(metric) is not None
    if what == "one task":
        table.codes[:] = 0
    elif what == "few rows":
        table = Table([1, 2], d=3)
    elif what == "constant":
        table.Y[:] = 0.1 + 0.2
    elif what == "no target":
        table.Y[:] = 0
    elif what == "constant outputs":
        table.Y = np.full((20, 2), 1e5 / 3)
    else:
        monkeypatch.setattr(prior_module, "LARGEST_METRIC", 2)
    assert table.learn(metric) is None


@METRICS
@pytest.mark.parametrize("value", [0.0, 1e5 / 3])
def test_output_that_is_constant(metric, value):
    """It has no noise, and no say in the scatter of the others."""
    table, other = Table(), Table()
    other.Y = np.c_[table.Y, np.full(len(table.Y), value)]
    one, both = table.learn(metric), other.learn(metric)
    assert both.noise[1] == 0
    same(one, Prior(both.basis, both.variance, both.noise[:1]), rtol=1e-6)


def test_fewest_rows_that_tell_something():
    """One more than mean coefficients."""
    table = Table([2, 2], d=3)
    assert table.learn() is not None
    assert Table([1, 2], d=3).learn() is None
    assert Table([2, 2], d=3).learn(weight=np.full(4, 0.5)) is None  # they count by weight


# the object


def forms():
    rng = np.random.default_rng(9)
    variance, noise = rng.uniform(0.1, 2, (3, 1)), np.array([0.5])
    variance[1] = 0
    root, each, level = rng.normal(size=(3, 3)), rng.normal(size=(4, 3, 3)), rng.normal(size=2)
    T = np.eye(3)
    T[-1, :2] = -level
    return {
        "diagonal": (Prior(None, variance, noise), np.diagflat(variance)),
        "level": (Prior(level, variance, noise), T @ np.diagflat(variance) @ T.T),
        "root": (Prior(root, np.ones((1, 1)), noise), root @ root.T),
        "scaled root": (Prior(root, variance, noise), root @ np.diagflat(variance) @ root.T),
        "each": (Prior(each, np.ones((1, 1)), noise), each @ each.mT),
    }


@pytest.mark.parametrize("form", forms())
def test_prior_as_matrix_and_as_metric(form):
    prior, G = forms()[form]
    np.testing.assert_allclose(prior.covariance(), G, rtol=1e-12, atol=1e-14)
    for penalty in (np.zeros((3, 1)), np.array([[0.3], [0.7], [0.0]])):
        metric = prior.metric(penalty)
        assert isinstance(metric, Metric)
        np.testing.assert_allclose(metric(np.eye(3)), G, rtol=1e-11, atol=1e-12)
        expected = np.linalg.solve(np.eye(3) + G @ np.diagflat(penalty), G)
        np.testing.assert_allclose(metric.with_penalty()(np.eye(3)), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("form", forms())
def test_prior_with_other_covariance(form):
    """Of the same noise; also where it is singular, or rounding has made it indefinite."""
    prior = forms()["diagonal"][0]
    G = forms()[form][1]
    other = prior.with_covariance(G)
    np.testing.assert_allclose(other.covariance(), G, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(other.metric(np.zeros((3, 1)))(np.eye(3)), G, rtol=1e-10, atol=1e-12)
    assert other.noise is prior.noise
    indefinite = prior.with_covariance(np.diag([1.0, -1e-17, 0.0]))
    np.testing.assert_array_equal(indefinite.covariance(), np.diag([1.0, 0.0, 0.0]))


def test_other_covariance_in_any_units():
    """Small variances beside large ones keep their digits."""
    root = np.random.default_rng(9).normal(size=(4, 3, 3))
    units = np.array([1e-7, 1.0, 1e7])
    prior = forms()["diagonal"][0].with_covariance(units[:, None] * (root @ root.mT) * units)
    np.testing.assert_allclose(prior.covariance() / np.outer(units, units), root @ root.mT, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("l2", "reads"), [(0.0, 1), (0.1, 2)])  # a penalty is no part of the prior's model
def test_rows_are_summed_up_once_for_prior_and_training(monkeypatch, l2, reads):
    seen = []
    statistics = TaskRows.statistics

    def count(rows, tasks):
        seen.append(len(tasks))
        return statistics(rows, tasks)

    monkeypatch.setattr(TaskRows, "statistics", count)
    rng = np.random.default_rng(0)
    MAMLRegressor(l2_regularization=l2).fit(rng.normal(size=(60, 2)), rng.normal(size=60), np.repeat([0, 1, 2], 20))
    assert sum(seen) == 3 * reads


def test_prior_of_some_tasks():
    for form, (prior, G) in forms().items():
        some = prior.of_tasks(np.array([3, 1]))
        np.testing.assert_allclose(some.covariance(), G[[3, 1]] if form == "each" else G, rtol=1e-12, atol=1e-14)
        np.testing.assert_array_equal(some.noise, prior.noise)
