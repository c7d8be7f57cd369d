"""
==============
Arrays on disk
==============

Fit to arrays on disk that are larger than the memory at hand, chunk by chunk, the rows in any order.

Run ``python examples/scaling/stream_memmap.py``. It writes a table, fits to it with a fraction of it in memory, and
compares with a fit to all rows at once.
"""

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics
from sklearn_maml.datasets import make_regression_tasks


def statistics_of(X, y, groups, chunk):
    """Statistics of arrays or memory maps, of which so many rows are in memory at a time."""
    rows = (slice(start, start + chunk) for start in range(0, len(X), chunk))
    return TaskStatistics.merge(task_statistics(X[part], y[part], groups[part]) for part in rows)


def write(folder, n_tasks=100, n_samples=2000, n_features=20):
    """Write a shuffled table to disk: the paths of X, y and groups."""
    table = make_regression_tasks(n_tasks, n_samples, n_features, random_state=0, return_X_y_groups=True)
    order = np.random.default_rng(0).permutation(n_tasks * n_samples)
    paths = [Path(folder, f"{name}.npy") for name in ("X", "y", "groups")]
    for path, array in zip(paths, table, strict=True):
        np.save(path, array[order])
    return paths


def main():
    """Write, fit, compare."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write(folder)
        X, y, groups = (np.load(path, mmap_mode="r") for path in paths)
        tracemalloc.start()
        model = MAMLRegressor().fit_statistics(statistics_of(X, y, groups, chunk=2_000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        print(f"on disk {sum(path.stat().st_size for path in paths) / 1e6:.1f} MB, peak memory {peak / 1e6:.1f} MB")
        whole = MAMLRegressor().fit(X, y, groups=groups)
        print(f"largest difference from fit {np.max(np.abs(model.coef_ - whole.coef_)):.0e}")
        del X, y, groups


if __name__ == "__main__":
    main()
