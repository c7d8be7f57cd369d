"""The recipes of examples/scaling on dask, Spark and Ray: the same fit as in memory, and no silent download.

Not part of the main suite: ``python -m pip install -e ".[distributed]" && python -m pytest tests_distributed`` (Spark
needs a Java runtime). Nothing is skipped where an engine is missing.
"""

import os
import signal
from functools import partial

import numpy as np
import on_dask
import on_ray
import on_spark
import pandas as pd
import pytest
import ray
from dask import dataframe as dd
from numpy.testing import assert_allclose, assert_array_equal

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, task_statistics
from sklearn_maml.datasets import make_regression_tasks

pytestmark = pytest.mark.filterwarnings("default")  # the engines' own
FEATURES = list("abcde")
COLUMNS = {"target": "y", "task": "task"}


def make_table():
    """Shuffled rows of ragged tasks with ids that are strings."""
    X, y, groups = make_regression_tasks(
        30, 20 + np.arange(30), 5, coef_mean=1.0, random_state=0, return_X_y_groups=True
    )
    table = pd.DataFrame(X, columns=FEATURES).assign(y=y, task=[f"task {i}" for i in groups])
    return table.sample(frac=1, random_state=0, ignore_index=True)


TABLE = make_table()


@pytest.fixture(scope="module", params=["auto", 0.1])
def fits(request):
    """A fit in memory, and an estimator to fit."""
    model = MAMLRegressor(inner_step_size=request.param)
    return model, MAMLRegressor(inner_step_size=request.param).fit(TABLE[FEATURES], TABLE["y"], groups=TABLE["task"])


def check_same(statistics, fits):
    model, expected = fits
    assert_array_equal(statistics.tasks, np.unique(TABLE["task"].astype(str)))
    assert_array_equal(statistics.weight, TABLE.groupby("task").size())
    model.fit_statistics(statistics)
    assert_array_equal(model.feature_names_in_, FEATURES)
    for name in ("coef_", "intercept_", "inner_step_size_"):
        assert_allclose(getattr(model, name), getattr(expected, name), rtol=1e-10)


def check_refused(X, y, groups, engine):
    fitted = MAMLRegressor().fit(TABLE[FEATURES], TABLE["y"], groups=TABLE["task"])
    calls = [
        lambda: fitted.fit(X, y, groups=groups),
        lambda: MAMLRegressorCV().fit(X, y, groups=groups),
        lambda: MAMLSVC().fit(X, y, groups=groups),
        lambda: MAMLRegressor().partial_fit(X, y, groups=groups),
        lambda: fitted.adapt(X, y, groups=groups),
        lambda: fitted.predict(X),
        lambda: task_statistics(X, y, groups),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=rf"got a {engine} .* as X.*scaling\.html"):
            call()


@pytest.fixture
def frame(client):
    """Twelve partitions, one of them without rows."""
    frame = dd.from_pandas(TABLE, npartitions=11)
    return dd.concat([frame, dd.from_pandas(TABLE, npartitions=1).query("a > 1e9")])


class TestDask:
    @pytest.mark.parametrize("fan_in", [2, 8])
    def test_same_as_fit(self, frame, fits, fan_in):
        assert 0 in frame.map_partitions(len).compute().tolist()
        check_same(on_dask.statistics_of(frame, **COLUMNS, fan_in=fan_in), fits)

    def test_whole_tasks_are_collapsed_where_they_are(self, frame):
        model = MAMLRegressor(inner_step_size=0.1)
        collapsed = on_dask.collapsed_of(frame, model, **COLUMNS)
        assert (collapsed.n_tasks, collapsed.nbytes) == (30, 2 * 8 * 6 * (6 + 1 + 1))
        expected = MAMLRegressor(inner_step_size=0.1).fit(TABLE[FEATURES], TABLE["y"], groups=TABLE["task"])
        model.fit_statistics(collapsed)
        assert_array_equal(model.feature_names_in_, FEATURES)
        for name in ("coef_", "intercept_"):
            assert_allclose(getattr(model, name), getattr(expected, name), rtol=1e-10)

    def test_worker_killed(self, frame, fits, tmp_path):
        flag = tmp_path / "killed"
        killing = partial(statistics_or_death, flag=str(flag))
        check_same(on_dask.statistics_of(frame, **COLUMNS, of_partition=killing), fits)
        assert flag.exists()

    def test_refused(self, frame):
        check_refused(frame[FEATURES], frame["y"], frame["task"], "dask")
        array = frame[FEATURES].to_dask_array(lengths=True)
        check_refused(array, TABLE["y"], TABLE["task"], "dask")
        local = MAMLRegressor()
        with pytest.raises(TypeError, match="got a dask Series as y"):
            local.fit(TABLE[FEATURES], frame["y"], groups=TABLE["task"])
        with pytest.raises(TypeError, match="got a dask Series as groups"):
            local.fit(TABLE[FEATURES], TABLE["y"], groups=frame["task"])


def statistics_or_death(frame, target, task, flag):
    """Kill the worker, in the middle and once only."""
    if len(TABLE) // 2 in frame.index:
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
            os.kill(os.getpid(), signal.SIGKILL)
        except FileExistsError:
            pass
    return on_dask.statistics_of_frame(frame, target, task)


class TestSpark:
    def test_same_as_fit(self, spark, fits):
        frame = spark.createDataFrame(TABLE).repartition(5)
        check_same(on_spark.statistics_of(frame, **COLUMNS), fits)

    def test_partitions_without_rows(self, spark, fits):
        frame = spark.createDataFrame(TABLE).repartition(6, "task").where("task >= ''")
        frame = frame.union(spark.createDataFrame(TABLE).where("a > 1e9"))
        check_same(on_spark.statistics_of(frame, **COLUMNS), fits)

    def test_refused(self, spark):
        frame = spark.createDataFrame(TABLE)
        check_refused(frame.select(FEATURES), frame.select("y"), frame.select("task"), "pyspark")


@pytest.mark.usefixtures("cluster")
class TestRay:
    def test_same_as_fit(self, fits):
        check_same(on_ray.statistics_of(ray.data.from_pandas(TABLE).repartition(5), **COLUMNS), fits)

    def test_refused(self):
        check_refused(ray.data.from_pandas(TABLE), TABLE["y"], TABLE["task"], "ray")
