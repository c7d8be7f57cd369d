"""
=================
A Spark DataFrame
=================

Fit to a Spark DataFrame: statistics are made by `mapInPandas` where the rows are, and added up in a tree.

Run ``python examples/scaling/on_spark.py``; needs pyspark, pyarrow and a Java runtime.
"""

import operator
import os
import pickle
import sys

import numpy as np
import pandas as pd
from pyspark.sql import SparkSession

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics
from sklearn_maml.datasets import make_regression_tasks


def statistics_of(frame, *, target, task):
    """Statistics of a Spark DataFrame: all but two columns are features."""

    def of_partition(batches):
        parts = [task_statistics(batch.drop(columns=[target, task]), batch[target], batch[task]) for batch in batches]
        if parts:
            yield pd.DataFrame({"statistics": [pickle.dumps(TaskStatistics.merge(parts))]})

    parts = frame.mapInPandas(of_partition, schema="statistics binary")
    return parts.rdd.map(lambda row: pickle.loads(row.statistics)).treeReduce(operator.add)


def main():
    """Fit on two cores, and compare with a fit to the same rows in memory."""
    X, y, groups = make_regression_tasks(50, 100, 5, random_state=0, return_X_y_groups=True)
    table = pd.DataFrame(X, columns=list("abcde")).assign(y=y, task=groups).sample(frac=1, random_state=0)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers' Python
    with SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).getOrCreate() as spark:
        statistics = statistics_of(spark.createDataFrame(table).repartition(10), target="y", task="task")
    print(statistics)
    model = MAMLRegressor().fit_statistics(statistics)
    whole = MAMLRegressor().fit(table[list("abcde")], table["y"], groups=table["task"])
    print(f"largest difference from fit {np.max(np.abs(model.coef_ - whole.coef_)):.0e}")


if __name__ == "__main__":
    main()
