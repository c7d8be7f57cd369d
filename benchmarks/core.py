"""Time of meta-training beside one Ridge or LinearSVC on the pooled rows, and of adapting to many tasks at once.

Run ``python benchmarks/core.py``. Rows are timed alternately in one process, medians of five are compared: the ratios
mean something on any machine, the milliseconds only on the one at hand.
"""

import time

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from sklearn_maml import MAMLSVC, MAMLRegressor

REPEATS = 5
TABLES = [(10, 100, 20), (1000, 100, 50), (500, 30, 200), (500, 30, 1000), (20_000, 10, 10), (1, 200_000, 30)]


def make_table(m, n, d, seed=0):
    """Rows of m tasks of n rows that differ in their d coefficients."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m), n)
    X = rng.normal(size=(m * n, d))
    y = np.einsum("nd,nd->n", X, (1 + 0.3 * rng.normal(size=(m, d)))[groups]) + rng.normal(size=m * n)
    return X, y, groups


def compare(*calls):
    """Median seconds of each call, run in turns."""
    seconds = []
    for _ in range(REPEATS):
        row = []
        for call in calls:
            start = time.perf_counter()
            call()
            row.append(time.perf_counter() - start)
        seconds.append(row)
    return np.median(seconds, axis=0)


print(f"{'tasks x rows x features':>24}  {'MAMLRegressor':>15}  {'/ Ridge':>8}  {'MAMLSVC':>11}  {'/ LinearSVC':>11}")
for m, n, d in TABLES:
    X, y, groups = make_table(m, n, d)
    labels = y > 0
    regressor, ridge = compare(
        lambda X=X, y=y, g=groups: MAMLRegressor().fit(X, y, groups=g),
        lambda X=X, y=y: Ridge(solver="cholesky").fit(X, y),
    )
    svc, linear_svc = compare(
        lambda X=X, y=labels, g=groups: MAMLSVC().fit(X, y, groups=g),
        lambda X=X, y=labels: LinearSVC().fit(X, y),
    )
    print(
        f"{f'{m} x {n} x {d}':>24}  {1e3 * regressor:>12.1f} ms  {regressor / ridge:>8.1f}  {1e3 * svc:>8.1f} ms  "
        f"{svc / linear_svc:>11.1f}"
    )

X, y, groups = make_table(100_000, 5, 20)
few = groups < 1000
model = MAMLRegressor().fit(X[few], y[few], groups=groups[few])
adapted = model.adapt(X, y, groups=groups)
adapt_time, predict_time = compare(
    lambda: model.adapt(X, y, groups=groups),
    lambda: adapted.predict(X, groups=groups),
)
print(f"adapt to 100,000 tasks of five rows, 20 features: {adapt_time:.2f} s; predict them all: {predict_time:.2f} s")
