"""What adaptation to a few labelled rows is worth on real grouped tables, beside what people use for them now.

Run ``python benchmarks/value.py``: all numbers are computed anew, the tables are Markdown. One data set of
`grouped_data` after the other is split by groups: GroupKFold with at most five shuffled folds, features standardised on
the training rows, every choice (penalties, step sizes) made on the training groups. Of a held-out group K rows are the
support, all others the query; several draws, the same for all methods. A group takes part at K if it has K + 2 rows, a
data set if half of its groups do. Errors are means over the held-out groups and draws. K = 0 is no adaptation.
"""

import argparse
import copy
import time
import warnings
from typing import NamedTuple

import numpy as np
from grouped_data import BINARY, REGRESSION, independent_columns
from joblib import Parallel, delayed
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from statsmodels.regression.mixed_linear_model import MixedLM

from sklearn_maml import MAMLSVC, MAMLRegressor

NAMED_IN_ADVANCE = (
    *("sleepstudy", "oxboys", "gasoline", "cigar", "gapminder"),
    *("empluk", "hsb", "exam", "wagepan", "diabetes"),
)
PENALTIES = np.logspace(-3, 5, 17)
STEPS = (0.0, 0.01, 0.03, 0.1, 0.3)
MAX_SLOPES = 4
NORMAL_90 = 1.6448536269514722
POOLED = "pooled rows"


# Few-shot problems


class Rows(NamedTuple):
    """Rows of several tasks."""

    X: np.ndarray
    y: np.ndarray
    groups: np.ndarray


class Episodes(NamedTuple):
    """m few-shot problems: supports X (m, k, d) and y (m, k), the queries' rows, and the problem of each of these."""

    X: np.ndarray
    y: np.ndarray
    X_query: np.ndarray
    y_query: np.ndarray
    problem: np.ndarray

    @property
    def k(self):
        """Labelled rows of a problem."""
        return self.y.shape[1]

    def mean(self, numbers):
        """Mean over the query rows of each problem, (..., m), of a number per query row."""
        m = len(self.y)
        sums = [np.bincount(self.problem, row, m) for row in np.atleast_2d(numbers)]
        return np.reshape(sums, (*np.shape(numbers)[:-1], m)) / np.bincount(self.problem, minlength=m)

    def predictions(self, W):
        """Predictions with the parameters W (..., m, d + 1) of the problems, the intercept last."""
        return np.einsum("nd,...nd->...n", with_ones(self.X_query), W[..., self.problem, :])


def with_ones(X):
    return np.concatenate([X, np.ones((*X.shape[:-1], 1))], axis=-1)


def draw_episodes(rows, k, draws):
    """Draw `draws` supports of k rows of every task with at least k + 2; for k = 0 there is one, and all is query."""
    order = np.argsort(rows.groups, kind="stable")
    tasks, first = np.unique(rows.groups[order], return_index=True)
    support, query = [], []
    for task, members in zip(tasks, np.split(order, first[1:]), strict=True):
        for draw in range(draws if k else 1):
            if len(members) >= k + 2:
                members = np.random.default_rng([task, draw]).permutation(np.sort(members))
                support.append(members[:k])
                query.append(members[k:])
    problem = np.repeat(np.arange(len(query)), [len(members) for members in query])
    support, query = np.array(support, dtype=int).reshape(len(query), k), np.concatenate(query)
    return Episodes(rows.X[support], rows.y[support], rows.X[query], rows.y[query], problem)


def split(rows, n_splits):
    """Pairs of training and held-out rows, whole groups each."""
    n_splits = min(n_splits, len(np.unique(rows.groups)))
    for parts in GroupKFold(n_splits, shuffle=True, random_state=0).split(*rows):
        yield [Rows(*(column[part] for column in rows)) for part in parts]


def evaluate(tables, measure, shots, options):
    """Mean over all held-out problems of what `measure` returns, for each data set: {set: {(method, K): mean}}.

    ``measure(train, episodes, draws)`` gets the training rows and the held-out problems {K: Episodes} of one fold, and
    returns {(method, K): one number per problem}.
    """

    def fold(train, test, shots):
        scaler = StandardScaler().fit(train.X)
        train, test = (rows._replace(X=scaler.transform(rows.X)) for rows in (train, test))
        return measure(train, {k: draw_episodes(test, k, options.draws) for k in shots}, options.draws)

    names, jobs = [], []
    for name in tables:
        X, y, groups = tables[name]()
        codes, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
        for train, test in split(Rows(X, y, codes), 5):
            names.append(name)
            jobs.append(delayed(fold)(train, test, [k for k in shots if np.mean(counts >= k + 2) >= 0.5]))
    numbers = {name: {} for name in tables}
    for name, measured in zip(names, Parallel(options.jobs)(jobs), strict=True):
        for key, values in measured.items():
            numbers[name].setdefault(key, []).append(values)
    return {name: {key: np.mean(np.concatenate(v)) for key, v in of.items()} for name, of in numbers.items()}


# Methods: fit(rows), predict(episodes)


class Pooled:
    """Any estimator, fitted to the pooled rows."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, rows, draws):
        self.model = clone(self.estimator).fit(rows.X, rows.y)
        return self

    def predict(self, episodes):
        return self.model.predict(episodes.X_query)


def pooled_ridge():
    return Pooled(RidgeCV(np.logspace(-2, 4, 13)))


class TaskAlone:
    """Ridge on the K rows of a task; the penalty is the best one for the training tasks with K rows."""

    def fit(self, rows, draws):
        self.rows, self.draws = rows, draws
        return self

    def predict(self, episodes):
        if episodes.k == 0:
            return None
        training = draw_episodes(self.rows, episodes.k, self.draws)
        errors = mean_squared_errors(training, self.parameters(training)).mean(axis=1)
        return episodes.predictions(self.parameters(episodes)[errors.argmin()])

    def parameters(self, episodes):
        """(penalties, m, d + 1)."""
        mean, level = episodes.X.mean(axis=1, keepdims=True), episodes.y.mean(axis=1, keepdims=True)
        coef = ridge(episodes.X - mean, episodes.y - level)
        return np.concatenate([coef, (level - np.sum(coef * mean[:, 0], axis=2, keepdims=True))], axis=2)


class FineTuned:
    """Pooled ridge, then ridge towards it on the K rows; the penalty is the best one for held-out training tasks."""

    def fit(self, rows, draws):
        self.pooled = pooled_ridge().fit(rows, draws)
        inner = [(pooled_ridge().fit(train, draws), test) for train, test in split(rows, 3)]
        self.inner, self.draws = inner, draws
        return self

    def predict(self, episodes):
        if episodes.k == 0:
            return self.pooled.predict(episodes)
        errors = []
        for pooled, test in self.inner:
            held_out = draw_episodes(test, episodes.k, self.draws)
            errors.append(mean_squared_errors(held_out, self.parameters(pooled, held_out)))
        best = np.concatenate(errors, axis=1).mean(axis=1).argmin()
        return episodes.predictions(self.parameters(self.pooled, episodes)[best])

    def parameters(self, pooled, episodes):
        """(penalties, m, d + 1)."""
        model = pooled.model
        residual = episodes.y - episodes.X @ model.coef_ - model.intercept_
        return np.append(model.coef_, model.intercept_) + ridge(with_ones(episodes.X), residual)


def ridge(X, y):
    """Minimisers of norm(y - Xv)^2 + penalty norm(v)^2 for each penalty and problem, (penalties, m, d)."""
    values, Q = np.linalg.eigh(X @ X.mT)
    return (X.mT @ Q @ (Q.mT @ y[..., None] / (values[..., None] + PENALTIES[:, None, None, None])))[..., 0]


def mean_squared_errors(episodes, W):
    return episodes.mean((episodes.predictions(W) - episodes.y_query) ** 2)


class MixedModel:
    """Mixed model of statsmodels (REML) with random intercepts, or slopes as well, and the BLUP for a new group.

    By Powell's method: the gradient methods that statsmodels tries first give up on some folds. As in lme4, columns
    that depend on others in the training rows are left out.
    """

    def __init__(self, slopes):
        self.slopes = slopes

    def fit(self, rows, draws):
        self.columns = independent_columns(rows.X)
        X = with_ones(rows.X[:, self.columns])
        with warnings.catch_warnings(record=True) as self.caught:
            warnings.simplefilter("always")
            result = MixedLM(rows.y, X, rows.groups, exog_re=X if self.slopes else None).fit(method="powell")
        self.mean, self.noise = result.fe_params, result.scale
        self.covariance = np.zeros((X.shape[1], X.shape[1]))
        self.covariance[-len(result.cov_re) :, -len(result.cov_re) :] = result.cov_re
        return self

    def predict(self, episodes):
        X = with_ones(episodes.X[..., self.columns])
        XG = X @ self.covariance
        V = XG @ X.mT + self.noise * np.eye(episodes.k)
        residual = (episodes.y - X @ self.mean)[..., None]
        W = self.mean + (XG.mT @ np.linalg.solve(V, residual))[..., 0]
        return np.sum(with_ones(episodes.X_query[:, self.columns]) * W[episodes.problem], axis=1)


class MAML:
    """MAMLRegressor or MAMLSVC."""

    def __init__(self, estimator):
        self.estimator = estimator

    def fit(self, rows, draws):
        self.model = clone(self.estimator).fit(rows.X, rows.y, groups=rows.groups)
        return self

    def predict(self, episodes):
        return adapt(self.model, episodes).predict(episodes.X_query, groups=episodes.problem)


class LargestSafeStep(MAML):
    """The same with one number as step size: 1 / (2 L), L the largest curvature of a training task's loss."""

    def fit(self, rows, draws):
        X = with_ones(rows.X)
        tasks = np.unique(rows.groups)
        L = max(np.linalg.norm(X[rows.groups == task], 2) ** 2 / np.sum(rows.groups == task) for task in tasks)
        penalty = len(tasks) / len(X) if isinstance(self.estimator, MAMLSVC) else 0.0
        self.estimator = clone(self.estimator).set_params(inner_step_size=1 / (4 * L + 2 * penalty))
        return super().fit(rows, draws)


class BestStep:
    """MAML with the number as step size that is best for held-out training tasks with K rows."""

    def fit(self, rows, draws):
        self.draws = draws
        self.models = self.models_of(rows)
        self.inner = [(self.models_of(train), test) for train, test in split(rows, 3)]
        return self

    def models_of(self, rows):
        return [MAMLSVC(inner_step_size=step).fit(rows.X, rows.y, groups=rows.groups) for step in STEPS]

    def predict(self, episodes):
        scores = []
        for models, test in self.inner:
            held_out = draw_episodes(test, episodes.k, self.draws)
            scores.append([accuracies(held_out, self.predict_with(model, held_out)) for model in models])
        return self.predict_with(self.models[np.concatenate(scores, axis=1).mean(axis=1).argmax()], episodes)

    def predict_with(self, model, episodes):
        return adapt(model, episodes).predict(episodes.X_query, groups=episodes.problem)


def adapt(model, episodes):
    """Adapt to all problems at once."""
    if episodes.k == 0:
        return model
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"inner_step_size=.* overshoots")
        m, k, d = episodes.X.shape
        return model.adapt(episodes.X.reshape(-1, d), episodes.y.ravel(), groups=np.repeat(np.arange(m), k))


def accuracies(episodes, prediction):
    return episodes.mean(prediction == episodes.y_query)


# Printing


def print_table(title, header, rows):
    """Print a Markdown table."""
    rows = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[j]) for row in rows) for j in range(len(header))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print(f"\n{title}\n", *lines, sep="\n", flush=True)


def show(number, form=".2f"):
    """Format a number, or the lack of one."""
    if number is None or np.isnan(number):
        return "-"
    return format(number, form) if number < 100 else format(number, ".0f")


def relative(numbers, method, k, sets):
    """MSE relative to pooled ridge, {set: ratio}, of the sets where the method has one."""
    ratios = {name: numbers[name].get((method, k), np.nan) / numbers[name].get((POOLED, k), np.nan) for name in sets}
    return {name: ratio for name, ratio in ratios.items() if not np.isnan(ratio)}


def geometric_mean(ratios):
    return np.exp(np.mean(np.log(list(ratios.values())))) if ratios else np.nan


# A. Regression

GRADIENT, IMPLICIT = "MAML, learned metric (default)", "implicit, learned metric"
GRADIENT_FULL, IMPLICIT_FULL = "MAML, full learned metric", "implicit, full learned metric"
INTERCEPTS, SLOPES = "mixed model, random intercepts", "mixed model, random slopes"
REGRESSION_SHOTS = (0, 1, 2, 5, 10)
OURS = {
    GRADIENT: {},
    IMPLICIT: {"adaptation": "implicit"},
    GRADIENT_FULL: {"metric": "full"},
    IMPLICIT_FULL: {"adaptation": "implicit", "metric": "full"},
}


def regression_methods(n_features):
    methods = {
        POOLED: pooled_ridge(),
        "the task alone": TaskAlone(),
        "pooled ridge, fine-tuned": FineTuned(),
        "MAML, alpha = 0.3": MAML(MAMLRegressor(inner_step_size=0.3)),
        "MAML, alpha = 1 / (2 L)": LargestSafeStep(MAMLRegressor()),
        INTERCEPTS: MixedModel(slopes=False),
    }
    if n_features <= MAX_SLOPES:
        methods[SLOPES] = MixedModel(slopes=True)
    return methods | {name: MAML(MAMLRegressor(**parameters)) for name, parameters in OURS.items()}


def measure_regression(train, episodes, draws):
    """Mean squared errors, and which mixed models warned or failed: then their errors are NaN."""
    measured = {}
    for name, method in regression_methods(train.X.shape[1]).items():
        failed = False
        try:
            method.fit(train, draws)
        except np.linalg.LinAlgError:
            if not isinstance(method, MixedModel):
                raise
            failed = True
        if isinstance(method, MixedModel):
            measured[name, "failed"] = np.array([failed])
            measured[name, "warned"] = np.array([len(method.caught) > 0])
        for k, problems in episodes.items():
            prediction = np.full(len(problems.y_query), np.nan) if failed else method.predict(problems)
            if prediction is not None:
                measured[name, k] = problems.mean((prediction - problems.y_query) ** 2)
    return measured


def print_regression(options):
    sets = {name: REGRESSION[name] for name in REGRESSION if name in options.sets}
    if not sets:
        return
    numbers = evaluate(sets, measure_regression, REGRESSION_SHOTS, options)
    K = [f"K = {k}" for k in REGRESSION_SHOTS]

    def means(methods, sets_at):
        return [
            [name, *(show(geometric_mean(relative(numbers, name, k, sets_at[k])), ".3f") for k in REGRESSION_SHOTS)]
            for name in methods
        ]

    everywhere = {k: [name for name in sets if (POOLED, k) in numbers[name]] for k in REGRESSION_SHOTS}
    methods = [name for name in regression_methods(0) if name != SLOPES]
    print_table(
        "A. Regression: MSE relative to pooled ridge, geometric mean over data sets",
        ["method", *K],
        [*means(methods, everywhere), ["(data sets)", *(len(everywhere[k]) for k in REGRESSION_SHOTS)]],
    )
    sloped = {k: list(relative(numbers, SLOPES, k, sets)) for k in REGRESSION_SHOTS}
    print_table(
        f"The same on data sets with at most {MAX_SLOPES} features, to which random slopes can be fitted",
        ["method", *K],
        [
            *means([SLOPES, INTERCEPTS, *OURS], sloped),
            ["(data sets)", *(len(sloped[k]) for k in REGRESSION_SHOTS)],
        ],
    )
    for name in (INTERCEPTS, SLOPES):
        for what in ("failed", "warned"):
            shares = {s: numbers[s][name, what] for s in sets if (name, what) in numbers[s]}
            bad = [f"{s} {share:.0%}" for s, share in shares.items() if share]
            print(f"{name}: fits that {what} (share of folds): {', '.join(bad) or 'none'}; {len(shares)} data sets.")

    ahead = {k: [name for name in everywhere[k] if name in NAMED_IN_ADVANCE] for k in REGRESSION_SHOTS}
    print_table(
        f"Geometric means over the data sets named in advance: {', '.join(NAMED_IN_ADVANCE)}",
        ["method", *K],
        [*means(methods, ahead), ["(data sets)", *(len(ahead[k]) for k in REGRESSION_SHOTS)]],
    )

    def per_set(k, name):
        ratios = [relative(numbers, method, k, [name]).get(name) for method in (GRADIENT, IMPLICIT, INTERCEPTS)]
        return " / ".join(show(ratio) for ratio in ratios) if (POOLED, k) in numbers[name] else "-"

    print_table(
        f"MSE relative to pooled ridge on each data set: {GRADIENT} / {IMPLICIT} / {INTERCEPTS}",
        ["data set", *K],
        [[name, *(per_set(k, name) for k in REGRESSION_SHOTS)] for name in sets],
    )

    def worst(method, k):
        ratios = relative(numbers, method, k, sets)
        name = max(ratios, key=ratios.get, default=None)
        return "-" if name is None else f"{show(ratios[name])} ({name})"

    print_table(
        "Worst data set", ["method", *K], [[name, *(worst(name, k) for k in REGRESSION_SHOTS)] for name in methods]
    )

    def wins(method, k):
        ratios, other = relative(numbers, method, k, sets), relative(numbers, INTERCEPTS, k, sets)
        if not ratios:
            return "-"
        over_pooled = sum(ratio < 1 for ratio in ratios.values())
        return f"{over_pooled} / {sum(ratios[name] < other[name] for name in ratios if name in other)} of {len(ratios)}"

    print_table(
        "Number of data sets where a method is better than pooled ridge / than random intercepts",
        ["method", *K],
        [[name, *(wins(name, k) for k in REGRESSION_SHOTS)] for name in methods if name != POOLED],
    )


# B. Classification

CLASSIFICATION_SHOTS = (0, 1, 5, 10)
SCALAR = "MAML, best alpha for K"


def classification_methods():
    ours = {name: MAML(MAMLSVC(**parameters)) for name, parameters in OURS.items()}
    return {
        POOLED: Pooled(LinearSVC(dual=False)),
        "pooled logistic regression": Pooled(LogisticRegression()),
        "MAML, alpha = 1 / (2 L)": LargestSafeStep(MAMLSVC()),
        SCALAR: BestStep(),
        **ours,
    }


def measure_classification(train, episodes, draws):
    """Accuracies in percent."""
    measured = {}
    for name, method in classification_methods().items():
        method.fit(train, draws)
        for k, problems in episodes.items():
            measured[name, k] = 100 * accuracies(problems, method.predict(problems))
    return measured


def print_classification(options):
    sets = {name: BINARY[name] for name in BINARY if name in options.sets}
    if not sets:
        return
    numbers = evaluate(sets, measure_classification, CLASSIFICATION_SHOTS, options)
    K = [f"K = {k}" for k in CLASSIFICATION_SHOTS]

    def gains(method, k):
        return {name: of[method, k] - of[POOLED, k] for name, of in numbers.items() if (method, k) in of}

    def mean(method, k):
        values = list(gains(method, k).values())
        return f"{np.mean(values):+.2f} (worst {min(values):+.1f})" if values else "-"

    methods = [name for name in classification_methods() if name != POOLED]
    print_table(
        "B. Classification: accuracy gained over the pooled LinearSVC, percentage points, mean over data sets",
        ["method", *K],
        [
            *([name, *(mean(name, k) for k in CLASSIFICATION_SHOTS)] for name in methods),
            ["(data sets)", *(len(gains(POOLED, k)) for k in CLASSIFICATION_SHOTS)],
        ],
    )

    def per_set(k, name):
        if (POOLED, k) not in numbers[name]:
            return "-"
        return " / ".join(f"{gains(method, k)[name]:+.1f}" for method in (GRADIENT, IMPLICIT, SCALAR))

    print_table(
        f"Points gained on each data set: {GRADIENT} / {IMPLICIT} / {SCALAR}",
        ["data set", "pooled, K = 0", *K],
        [
            [name, f"{numbers[name][POOLED, 0]:.1f} %", *(per_set(k, name) for k in CLASSIFICATION_SHOTS)]
            for name in sets
        ],
    )


# C. Sinusoids

N_BUMPS, WIDTH = 25, 1.0
SINUSOID_SHOTS = (5, 10, 20)


def draw_sinusoids(n_tasks, n_rows, seed):
    """Rows of y = A sin(x + phase) with A in [0.1, 5], phase in [0, pi] and x in [-5, 5], all uniform (Finn et al.)."""
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.1, 5, (n_tasks, 1)), rng.uniform(0, np.pi, (n_tasks, 1))
    x = rng.uniform(-5, 5, (n_tasks, n_rows))
    bumps = np.exp(-((x[..., None] - np.linspace(-5, 5, N_BUMPS)) ** 2) / (2 * WIDTH**2))
    y = amplitude * np.sin(x + phase)
    return Rows(bumps.reshape(-1, N_BUMPS), y.ravel(), np.repeat(np.arange(n_tasks), n_rows))


def print_sinusoids(options):
    train, test, tuning = (
        draw_sinusoids(*size, seed=seed) for seed, size in enumerate([(1000, 20), (600, 100), (200, 100)])
    )
    methods = {
        "no adaptation": MAML(MAMLRegressor(n_inner_steps=0)),
        **{name: MAML(MAMLRegressor(**parameters)) for name, parameters in OURS.items()},
    }
    episodes = [draw_episodes(test, k, 1) for k in SINUSOID_SHOTS]
    rows = []
    fitted = {name: method.fit(train, 1) for name, method in methods.items()}
    for name, method in ({"the task alone": TaskAlone().fit(tuning, 1)} | fitted).items():
        errors = [np.mean(e.mean((method.predict(e) - e.y_query) ** 2)) for e in episodes]
        rows.append([name, *(format(error, ".3g") for error in errors)])
    print_table(
        f"C. Sinusoids of Finn et al. (2017) on {N_BUMPS} Gaussian bumps of width {WIDTH:g} over [-5, 5]: MSE on "
        "new rows of 600 new tasks, after 1000 training tasks of 20 rows (the task alone: its penalty from 200 of 100)",
        ["method", *(f"K = {k}" for k in SINUSOID_SHOTS)],
        [
            *rows,
            [f"(named in advance for: {GRADIENT_FULL})", ".445", ".232", ".123"],
            [f"(named in advance for: {IMPLICIT_FULL})", "< .01", "< .01", "< .01"],
        ],
    )


# D. Coverage


def measure_coverage(train, episodes, draws):
    """Share of the query rows, in percent, that lie in their nominal 90 % interval."""
    measured = {}
    for name in (IMPLICIT, IMPLICIT_FULL):
        model = MAML(MAMLRegressor(**OURS[name])).fit(train, draws).model
        for k, problems in episodes.items():
            prediction, std = adapt(model, problems).predict(problems.X_query, groups=problems.problem, return_std=True)
            inside = np.abs(prediction - problems.y_query) <= NORMAL_90 * std
            measured[name, k] = 100 * problems.mean(inside)
    return measured


def print_coverage(options):
    sets = {name: REGRESSION[name] for name in REGRESSION if name in options.sets}
    if not sets:
        return
    numbers = evaluate(sets, measure_coverage, REGRESSION_SHOTS, options)
    names = (IMPLICIT, IMPLICIT_FULL)

    def per_set(k, of):
        return " / ".join(f"{of[name, k]:.0f}" for name in names) if (IMPLICIT, k) in of else "-"

    def over_sets(reduce, k):
        values = [[of[name, k] for of in numbers.values() if (name, k) in of] for name in names]
        return " / ".join(f"{reduce(v):.0f}" for v in values) if values[0] else "-"

    summaries = {"mean": np.mean, "smallest": np.min, "largest": np.max}
    print_table(
        f"D. Coverage of nominal 90 % intervals, % of query rows of held-out groups: {' / '.join(names)}",
        ["data set", *(f"K = {k}" for k in REGRESSION_SHOTS)],
        [
            *([name, *(per_set(k, of) for k in REGRESSION_SHOTS)] for name, of in numbers.items()),
            *([name, *(over_sets(reduce, k) for k in REGRESSION_SHOTS)] for name, reduce in summaries.items()),
        ],
    )


# E. Initialisation

INITIALISATION_SHOTS = (0, 1, 2, 5)
DEFAULT = "minimiser of F + f / 10, as from one row (default)"
INITIALISATIONS = (
    "minimiser of f",
    "minimiser of F, as from all rows",
    "minimiser of F, as from one row",
    DEFAULT,
    "generalised least squares mean",
)


def initialisations(model, rows):
    """The parameters (d + 1,) of each of INITIALISATIONS, for the fitted model's metric and kind of adaptation."""
    X, n = with_ones(rows.X), np.bincount(rows.groups)
    tasks = np.flatnonzero(n)
    parts = [(X[rows.groups == task], rows.y[rows.groups == task]) for task in tasks]
    H = np.array([2 * A.T @ A / len(A) for A, _ in parts])
    c = np.array([2 * A.T @ b / len(A) for A, b in parts])
    n = n[tasks, None, None]
    values, Q = np.linalg.eigh(model.task_covariance_ / model.noise_variance_)
    root = Q * np.sqrt(values.clip(0))
    f = H.mean(axis=0), c.mean(axis=0)
    least = np.linalg.lstsq(*f)[0]

    def minimiser(shots, zero_shot):
        """Minimise F + zero_shot f, where steps are made as from so many rows; nearest to the minimiser of f."""
        curvature = root.T @ H @ root
        if model.adaptation == "gradient":
            P = root @ root.T / (2 / shots + np.linalg.eigvalsh(curvature)[:, -1:, None])
        else:
            P = root @ np.linalg.solve(2 / shots * np.eye(len(root)) + curvature, root.T)
        B, u = np.eye(len(root)) - P @ H, (P @ c[..., None])
        A = np.mean(B.mT @ H @ B, axis=0) + zero_shot * f[0]
        b = np.mean(B.mT @ (c[..., None] - H @ u), axis=0)[:, 0] + zero_shot * f[1]
        return least + np.linalg.lstsq(A, b - A @ least, rcond=1e-12)[0]

    whiten = np.linalg.inv(np.eye(len(root)) + n / 2 * H @ (root @ root.T))
    mean = np.linalg.lstsq(np.sum(whiten @ (n * H), axis=0), np.sum(whiten @ (n * c[..., None]), axis=0), rcond=1e-12)[
        0
    ]
    points = least, minimiser(n, 0.0), minimiser(1.0, 0.0), minimiser(1.0, 0.1), mean[:, 0]
    return dict(zip(INITIALISATIONS, points, strict=True))


def measure_initialisations(train, episodes, draws):
    """Mean squared errors, for both kinds of adaptation; and how far the default is from the estimator's own."""
    pooled = pooled_ridge().fit(train, draws)
    measured = {
        (POOLED, k): problems.mean((pooled.predict(problems) - problems.y_query) ** 2)
        for k, problems in episodes.items()
    }
    for kind in ("gradient", "implicit"):
        model = MAMLRegressor(adaptation=kind).fit(train.X, train.y, groups=train.groups)
        points = initialisations(model, train)
        own = np.append(model.coef_, model.intercept_)
        difference = np.abs(points[DEFAULT] - own).max() / np.abs(own).max()
        measured["difference", kind] = np.array([difference])
        for name, w in points.items():
            start = copy.copy(model)
            start.coef_, start.intercept_ = w[:-1], w[-1]
            for k, problems in episodes.items():
                prediction = adapt(start, problems).predict(problems.X_query, groups=problems.problem)
                measured[f"{kind} {name}", k] = problems.mean((prediction - problems.y_query) ** 2)
    return measured


def print_initialisations(options):
    sets = {name: REGRESSION[name] for name in REGRESSION if name in options.sets}
    if not sets:
        return
    numbers = evaluate(sets, measure_initialisations, INITIALISATION_SHOTS, options)

    def row(name):
        cells = [name]
        for kind in ("gradient", "implicit"):
            ratios = [relative(numbers, f"{kind} {name}", k, sets) for k in INITIALISATION_SHOTS]
            cells += [*(show(geometric_mean(r), ".3f") for r in ratios), *(show(max(r.values())) for r in ratios[:2])]
        return cells

    columns = [*(f"K = {k}" for k in INITIALISATION_SHOTS), "worst, K = 0", "worst, K = 1"]
    print_table(
        "E. Initialisation, learned diagonal metric: MSE relative to pooled ridge, geometric mean and worst data set",
        ["initialisation", *(f"{kind}: {column}" for kind in ("explicit", "implicit") for column in columns)],
        [row(name) for name in INITIALISATIONS],
    )
    difference = max(of["difference", kind] for of in numbers.values() for kind in ("gradient", "implicit"))
    print(f"The default by these formulas and by MAMLRegressor differ by {difference:.1e} of the largest parameter.")


PARTS = {
    "regression": print_regression,
    "classification": print_classification,
    "sinusoid": print_sinusoids,
    "coverage": print_coverage,
    "initialisation": print_initialisations,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=5, help="supports drawn of each held-out group")
    parser.add_argument(
        "--sets", nargs="+", default=[*REGRESSION, *BINARY], choices=[*REGRESSION, *BINARY], metavar="NAME"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    options = parser.parse_args()
    for part in options.part:
        start = time.perf_counter()
        PARTS[part](options)
        print(f"\n({part}: {time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    main()
