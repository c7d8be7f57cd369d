"""
================
A dask DataFrame
================

Fit to a dask DataFrame: statistics are made where the partitions are, and added up in a tree.

Run ``python examples/scaling/on_dask.py``; needs ``dask[dataframe,distributed]``.
"""

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.distributed import Client

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics
from sklearn_maml.datasets import make_regression_tasks


def statistics_of_frame(frame, target, task):
    """Statistics of one partition, a pandas DataFrame: all but two columns are features."""
    return task_statistics(frame.drop(columns=[target, task]), frame[target], frame[task])


def statistics_of(frame, *, target, task, of_partition=statistics_of_frame, fan_in=8):
    """Statistics of a dask DataFrame, added up `fan_in` at a time, on the workers."""
    parts = [dask.delayed(of_partition)(part, target, task) for part in frame.to_delayed()]
    while len(parts) > 1:
        parts = [dask.delayed(TaskStatistics.merge)(parts[i : i + fan_in]) for i in range(0, len(parts), fan_in)]
    return parts[0].compute()


def collapsed_of(frame, model, *, target, task):
    """What a model with a given inner step needs of a dask DataFrame: the rows of a task are brought together first.

    A table whose partitions hold whole tasks already needs no `shuffle`.
    """

    def of_partition(part, target, task):
        return model.collapse_statistics(statistics_of_frame(part, target, task))

    return statistics_of(frame.shuffle(task), target=target, task=task, of_partition=of_partition)


def main():
    """Fit on two workers, compare with a fit to the same rows in memory, and predict partition by partition."""
    X, y, groups = make_regression_tasks(50, 100, 5, random_state=0, return_X_y_groups=True)
    table = pd.DataFrame(X, columns=list("abcde")).assign(y=y, task=groups).sample(frac=1, random_state=0)
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None):
        frame = dd.from_pandas(table, npartitions=20, sort=False)
        statistics = statistics_of(frame, target="y", task="task")
        model = MAMLRegressor().fit_statistics(statistics)
        given = MAMLRegressor(inner_step_size=0.1)
        collapsed = collapsed_of(frame, given, target="y", task="task")
        given.fit_statistics(collapsed)
        features = frame[list("abcde")]
        predicted = features.map_partitions(model.predict, meta=np.empty(0)).compute()
    print(statistics)
    whole = MAMLRegressor().fit(table[list("abcde")], table["y"], groups=table["task"])
    print(f"largest difference from fit {np.max(np.abs(model.coef_ - whole.coef_)):.0e}")
    print(collapsed)
    whole = MAMLRegressor(inner_step_size=0.1).fit(table[list("abcde")], table["y"], groups=table["task"])
    print(f"largest difference from fit {np.max(np.abs(given.coef_ - whole.coef_)):.0e}")
    print(f"predicted {len(predicted)} rows")


if __name__ == "__main__":
    main()
