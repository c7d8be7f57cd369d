"""
=============
A Ray dataset
=============

Fit to a Ray dataset: statistics are made by `map_batches` where the blocks are, and added up as they come.

Run ``python examples/scaling/on_ray.py``; needs ``ray[data]``.
"""

import pickle

import numpy as np
import pandas as pd
import ray

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics
from sklearn_maml.datasets import make_regression_tasks


def statistics_of(dataset, *, target, task):
    """Statistics of a Ray dataset: all but two columns are features."""

    def of_block(block):
        statistics = task_statistics(block.drop(columns=[target, task]), block[target], block[task])
        return pd.DataFrame({"statistics": [pickle.dumps(statistics)]})

    parts = dataset.map_batches(of_block, batch_size=None, batch_format="pandas")
    return TaskStatistics.merge(pickle.loads(row["statistics"]) for row in parts.iter_rows())


def main():
    """Fit on two cores, and compare with a fit to the same rows in memory."""
    X, y, groups = make_regression_tasks(50, 100, 5, random_state=0, return_X_y_groups=True)
    table = pd.DataFrame(X, columns=list("abcde")).assign(y=y, task=groups).sample(frac=1, random_state=0)
    ray.init(num_cpus=2, include_dashboard=False)
    statistics = statistics_of(ray.data.from_pandas(table).repartition(10), target="y", task="task")
    ray.shutdown()
    print(statistics)
    model = MAMLRegressor().fit_statistics(statistics)
    whole = MAMLRegressor().fit(table[list("abcde")], table["y"], groups=table["task"])
    print(f"largest difference from fit {np.max(np.abs(model.coef_ - whole.coef_)):.0e}")


if __name__ == "__main__":
    main()
