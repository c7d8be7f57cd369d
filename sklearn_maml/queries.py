"""Scores of single tasks: a draw puts a task's rows in order, the first are adapted to, the query is scored."""

import warnings
import zlib
from functools import cache, wraps
from itertools import repeat

import numpy as np
from sklearn import config_context
from sklearn.base import clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.metrics import check_scoring
from sklearn.utils import check_random_state

from ._sklearn import safe_indexing
from .adaptation import adapt, can_adapt, contains_one_that_adapts, fit_by_task, respond_by_task, responds_by_task
from .groups import encode_groups

RESPONSES = ("predict", "decision_function", "predict_proba", "predict_log_proba")
"""What scikit-learn's own scorers ask an estimator for."""


class Rows:
    """Rows to be scored and their tasks, for a classifier or another estimator; rows of weight zero are left out."""

    def __init__(self, X, y, groups, weight=None, *, classifier=False):
        y = np.asarray(y)
        if classifier and y.ndim == 2 and y.shape[1] == 1:
            y = y[:, 0]
        codes, tasks = encode_groups(groups, len(y))
        if weight is not None and not np.all(weight):
            kept = np.flatnonzero(weight)
            X, y, weight = (safe_indexing(each, kept) for each in (X, y, weight))
            present, codes = np.unique(codes[kept], return_inverse=True)
            tasks = tasks[present]
        self.X, self.y, self.weight, self.codes, self.tasks = X, y, weight, codes, tasks
        self.strata = y if classifier and y.ndim == 1 else None

    @property
    def ids(self):
        """Task id of each row."""
        return self.tasks[self.codes]

    def xy(self, rows):
        """X and y of some rows."""
        return safe_indexing(self.X, rows), self.y[rows]

    def weights(self, rows):
        """Their weights, if there are any, as a keyword."""
        return {} if self.weight is None else {"sample_weight": self.weight[rows]}


def draws(data, n_repeats, random_state):
    """For each repeat: the rows sorted by task, each task's in the order of the draw; their places in it; tasks' sizes.

    The first K rows of a task are its support: those for a smaller K are among those for a larger one. For a classifier
    they have about the proportions of the task's classes.
    """
    seed = check_random_state(random_state).randint(np.iinfo(np.int32).max)
    by_task = np.argsort(data.codes, kind="stable")
    n_rows = np.bincount(data.codes)
    starts = np.cumsum(n_rows) - n_rows
    rank = np.arange(len(by_task)) - np.repeat(starts, n_rows)
    ids = (task.item() if isinstance(task, np.generic) else task for task in data.tasks.tolist())
    names = [zlib.crc32(repr(task).encode()) for task in ids]
    for number in range(n_repeats):
        order = by_task.copy()
        for name, start, n in zip(names, starts, n_rows, strict=True):
            rows = by_task[start : start + n]
            rng = np.random.default_rng([seed, number, name])
            order[start : start + n] = rows[_shuffled(n, None if data.strata is None else data.strata[rows], rng)]
        yield order, rank, n_rows


def _shuffled(n, strata, rng):
    """A random order of n rows; with strata one whose every beginning has about their proportions."""
    order = rng.permutation(n)
    if strata is None:
        return order
    _, stratum, sizes = np.unique(strata[order], return_inverse=True, return_counts=True)
    rank = np.empty(n)
    rank[np.argsort(stratum, kind="stable")] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[np.argsort((rank + rng.random(len(sizes))[stratum]) / sizes[stratum], kind="stable")]


def large_enough(data, n_rows, n_support, on_small_task):
    """Which tasks have a row left after the support; raises, or warns, if some have not."""
    large = n_rows > n_support
    if np.all(large):
        return large
    small = data.tasks[~large].tolist()
    message = (
        f"{len(small)} of {len(large)} tasks have no row left to be scored on after n_support={n_support}, the first "
        f"{small[0]!r} with {n_rows[~large][0]} rows"
    )
    if on_small_task == "raise" or not np.any(large):
        raise ValueError(f"{message}: lower n_support, leave them out, or use on_small_task='skip'")
    warnings.warn(f"{message}: they are not scored", UserWarning, stacklevel=4)
    return large


def scoring_of(estimator, scoring):
    """What to score with: None is accuracy for classifiers and R^2 for others."""
    if scoring is None:
        return "accuracy" if is_classifier(estimator) else "r2"
    return scoring


def score_tasks(estimator, scoring, data, support, query, *, refit=False, on_small_task="raise"):
    """Scores of the tasks in `query`, each after adaptation to its rows in `support`.

    `support` and `query` are row numbers, sorted by task, of the same tasks; no support is no adaptation. With `refit`
    a clone is fitted to each support instead. Returns the numbers of the tasks that have a score, and a dict of arrays
    of their scores; None is the name of a single score.
    """
    scoring = scoring_of(estimator, scoring)
    scorer = check_scoring(estimator, scoring)
    if len(support) and not refit and not can_adapt(estimator) and contains_one_that_adapts(estimator):
        warnings.warn(
            f"{type(estimator).__name__} contains an estimator that adapts, but cannot adapt itself: scored as it is",
            UserWarning,
            stacklevel=4,
        )
    parts = _by_task(data, query)
    models = _models(estimator, scoring, data, support, parts, refit)
    tasks, found = [], []
    for model, rows in zip(models, parts, strict=True):
        with config_context(enable_metadata_routing=False):  # the scorer gets the weights, and nothing else
            score = scorer(model, *data.xy(rows), **data.weights(rows))
        scores = score if isinstance(score, dict) else {None: score}
        if not np.any(np.isnan(list(scores.values()))):
            tasks.append(data.codes[rows[0]])
            found.append(scores)
        elif on_small_task == "raise" or (len(rows) > 1 and not _is_of_one_class(estimator, data.y[rows])):
            task = data.tasks.tolist()[data.codes[rows[0]]]
            raise ValueError(
                f"the score of task {task!r} on its {len(rows)} query row(s) is not a number: choose a metric that is "
                "defined on so few rows and on one class, or a smaller n_support"
            )
    if not found:
        raise ValueError("all tasks have a query of one row or class, whose score is not a number: lower n_support")
    if len(found) < len(parts):
        warnings.warn(
            f"{len(parts) - len(found)} of {len(parts)} tasks have a query of one row or class, whose score is not a "
            "number: they are not scored",
            UserWarning,
            stacklevel=4,
        )
    return np.array(tasks), {name: np.array([scores[name] for scores in found]) for name in found[0]}


def _is_of_one_class(estimator, y):
    return is_classifier(estimator) and len(np.unique(y)) == 1


def _by_task(data, rows):
    """Row numbers that are sorted by task as one array for each task."""
    return np.split(rows, np.flatnonzero(np.diff(data.codes[rows])) + 1)


def _models(estimator, scoring, data, support, parts, refit):
    """For each task what is to be scored on its query.

    One call adapts to all tasks, and one predicts all queries, where scikit-learn's own scorers, given by name, ask for
    nothing but predictions. Any other callable gets an estimator of its task alone.
    """
    adapts = can_adapt(estimator) and not refit
    at_once = _is_named(scoring)
    if len(support) and adapts and at_once:
        at_once = all(responds_by_task(estimator, name) for name in RESPONSES if hasattr(estimator, name))
    if len(support) and (refit or (adapts and not at_once)):
        fit = fit_alone if refit else adapt
        for rows in _by_task(data, support):
            yield fit(estimator, *data.xy(rows), **data.weights(rows))
        return
    query, groups = np.concatenate(parts), None
    if len(support) and adapts:
        estimator = adapt(estimator, *data.xy(support), groups=data.ids[support], **data.weights(support))
        groups = data.ids[query]
    if not at_once:
        yield from repeat(estimator, len(parts))
        return
    X = safe_indexing(data.X, query)

    @cache
    def respond(name):
        return getattr(estimator, name)(X) if groups is None else respond_by_task(estimator, name, X, groups)

    ends = np.cumsum([len(rows) for rows in parts])
    for rows, end in zip(parts, ends, strict=True):
        yield _Answers(estimator, respond, slice(end - len(rows), end))


def _is_named(scoring):
    """Whether scikit-learn's scorers are asked for by name."""
    if isinstance(scoring, dict):
        scoring = list(scoring.values())
    return isinstance(scoring, str) or (isinstance(scoring, list | tuple) and all(isinstance(s, str) for s in scoring))


def fit_alone(estimator, X, y, sample_weight=None):
    """A clone that is fitted to one task alone; of a single class a classifier predicts that one."""
    if is_classifier(estimator) and len(np.unique(y)) == 1:
        classes = getattr(estimator, "classes_", y)
        return DummyClassifier(strategy="constant", constant=y[0]).fit(np.zeros((len(classes), 1)), classes)
    return fit_by_task(clone(estimator), X, y, np.zeros(len(y)), sample_weight)


class _Answers:
    """An estimator whose responses to one task's query are known already."""

    def __init__(self, estimator, respond, rows):
        self._estimator, self._respond, self._rows = estimator, respond, rows

    def __getattr__(self, name):
        attribute = getattr(self._estimator, name)
        if name not in RESPONSES:
            return attribute
        return wraps(attribute)(lambda X: self._respond(name)[self._rows])
