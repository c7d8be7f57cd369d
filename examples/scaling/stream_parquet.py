"""
==============
A Parquet file
==============

Fit to a Parquet file that is larger than the memory at hand, batch by batch, with pyarrow.

Run ``python examples/scaling/stream_parquet.py``. It writes a file, fits to it, and compares with a fit to all rows.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics
from sklearn_maml.datasets import make_regression_tasks


def statistics_of(path, *, target, task, batch_size):
    """Statistics of a Parquet file, of which so many rows are in memory at a time; all other columns are features."""

    def parts():
        for batch in pq.ParquetFile(path).iter_batches(batch_size):
            table = batch.to_pandas()
            yield task_statistics(table.drop(columns=[target, task]), table[target], table[task])

    return TaskStatistics.merge(parts())


def write(path, n_tasks=100, n_samples=1000, n_features=10, rows_per_group=5_000):
    """Write a table with features x0, x1, ..., target y and task ids, in row groups."""
    X, y, groups = make_regression_tasks(n_tasks, n_samples, n_features, random_state=0, return_X_y_groups=True)
    columns = {f"x{j}": X[:, j] for j in range(n_features)} | {"y": y, "task": groups}
    pq.write_table(pa.table(columns), path, row_group_size=rows_per_group)


def main():
    """Write, fit, compare."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.parquet")
        write(path)
        model = MAMLRegressor().fit_statistics(statistics_of(path, target="y", task="task", batch_size=5_000))
        print(f"{path.stat().st_size / 1e6:.1f} MB, features {model.feature_names_in_.tolist()}")
        table = pq.read_table(path).to_pandas()
        whole = MAMLRegressor().fit(table.drop(columns=["y", "task"]), table["y"], groups=table["task"])
        print(f"largest difference from fit {np.max(np.abs(model.coef_ - whole.coef_)):.0e}")


if __name__ == "__main__":
    main()
