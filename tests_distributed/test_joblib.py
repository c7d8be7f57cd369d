"""Where scikit-learn starts processes, any of joblib's backends does; threads over stacks stay in the process.

Run as `test_engines.py`.
"""

import os
import threading
import warnings
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
from joblibspark import register_spark
from numpy.testing import assert_array_equal
from ray.util.joblib import register_ray
from sklearn import config_context
from sklearn.model_selection import GridSearchCV, GroupKFold

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, training
from sklearn_maml.datasets import make_regression_tasks
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.model_selection import adaptation_curve, cross_validate_tasks

pytestmark = pytest.mark.filterwarnings("default")  # the engines' own
SIZES = np.geomspace(8, 1000, 24).astype(int)  # so different that they are cut into many stacks
X, y, GROUPS = make_regression_tasks(len(SIZES), SIZES, 4, coef_mean=1.0, random_state=0, return_X_y_groups=True)


@pytest.fixture(params=["loky", "dask", "ray", "spark"])
def backend(request):
    """A backend whose workers are there."""
    engine = {"dask": "client", "ray": "cluster", "spark": "spark"}.get(request.param)
    if engine is not None:
        request.getfixturevalue(engine)
    if request.param in ("ray", "spark"):
        {"ray": register_ray, "spark": register_spark}[request.param]()
    return joblib.parallel_config(backend=request.param)


def test_cross_validate_tasks(backend):
    def score(n_jobs, scoring):
        return cross_validate_tasks(MAMLRegressor(), X, y, GROUPS, cv=4, scoring=scoring, n_jobs=n_jobs)["test_score"]

    def process(estimator, X, y):
        return os.getpid()

    expected = score(None, "neg_mean_squared_error")
    assert np.all(np.isfinite(expected))
    with backend:
        assert_array_equal(score(2, "neg_mean_squared_error"), expected)
        processes = score(2, process)
    assert_array_equal(score(None, process), os.getpid())
    assert os.getpid() not in processes


def test_adaptation_curve(backend):
    def scores(n_jobs):
        how = {"n_support": [0, 3], "cv": 3, "n_repeats": 2, "n_jobs": n_jobs}
        return adaptation_curve(MAMLRegressor(inner_step_size=0.1), X, y, GROUPS, **how).scores

    expected = scores(None)
    assert np.all(np.isfinite(expected["adapted"]))
    with backend:
        for name, numbers in scores(2).items():
            assert_array_equal(numbers, expected[name])


def test_grid_search(backend):
    def search(n_jobs):
        scorer = FewShotScorer("neg_mean_squared_error", n_repeats=2)
        grid = GridSearchCV(
            MAMLRegressor(), {"inner_step_size": ["auto", 0.05]}, scoring=scorer, cv=GroupKFold(3), n_jobs=n_jobs
        )
        with config_context(enable_metadata_routing=True):
            return grid.fit(X, y, groups=GROUPS)

    expected = search(None)
    with backend:
        found = search(2)
    for split in range(3):
        name = f"split{split}_test_score"
        assert np.all(np.isfinite(expected.cv_results_[name]))
        assert_array_equal(found.cv_results_[name], expected.cv_results_[name])
    assert_array_equal(found.best_estimator_.coef_, expected.best_estimator_.coef_)


@contextmanager
def silence(capfd):
    """No warning and no message."""
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")


def test_threads_stay_threads(backend, capfd, monkeypatch):
    """Estimators' own n_jobs is memory that is shared."""
    fits = {
        "fit": lambda n_jobs: MAMLRegressor(inner_step_size=0.05, n_jobs=n_jobs).fit(X, y, groups=GROUPS).coef_,
        "adapt": lambda n_jobs: (
            MAMLRegressor(n_jobs=n_jobs).fit(X, y, groups=GROUPS).adapt(X, y, groups=GROUPS).task_coef_
        ),
        "classify": lambda n_jobs: MAMLSVC(n_jobs=n_jobs, max_iter=50).fit(X, y > y.mean(), groups=GROUPS).coef_,
        "choose": lambda n_jobs: (
            MAMLRegressorCV(inner_step_sizes=["auto", 0.05], n_jobs=n_jobs).fit(X, y, groups=GROUPS).best_score_
        ),
    }
    expected = {name: fit(None) for name, fit in fits.items()}
    threads, inner_step = set(), training.inner_step

    def recording(*args, **kwargs):
        threads.add(threading.get_ident())
        return inner_step(*args, **kwargs)

    monkeypatch.setattr(training, "inner_step", recording)
    with backend, silence(capfd):
        for name, fit in fits.items():
            threads.clear()
            assert_array_equal(fit(2), expected[name])
            assert name == "choose" or threads - {threading.get_ident()}


def test_threads_inside_a_process(backend):
    def scores(n_jobs, n_threads):
        model = MAMLRegressor(inner_step_size=0.05, n_jobs=n_threads)
        return cross_validate_tasks(model, X, y, GROUPS, cv=2, n_jobs=n_jobs)["test_score"]

    expected = scores(None, None)
    with backend:
        assert_array_equal(scores(2, 2), expected)
