"""What statistics of tasks cost to make, send, merge and fit to; and from that a plan for a cluster.

Run ``python benchmarks/task_statistics.py``: one thread, medians of three. The plan is arithmetic, not a measurement.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import pickle
import time
import tracemalloc

import numpy as np

from sklearn_maml import MAMLRegressor, TaskStatistics, task_statistics

N_TASKS, N_ROWS, N_FEATURES = 10_000, 100, 20
ROWS, TASKS, MACHINES, CORES = 1e9, 1e7, 100, 16
NETWORK, DISK = 1e9, 5e8  # bytes a second into one machine, and from one machine's disk or object store


def seconds(call):
    """Median time of three calls, and the result."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return np.median(times), result


def make_table(seed=0):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(N_TASKS), N_ROWS)
    X = rng.normal(size=(len(groups), N_FEATURES))
    y = np.einsum("nd,nd->n", X, rng.normal(1, 0.3, size=(N_TASKS, N_FEATURES))[groups]) + rng.normal(size=len(groups))
    return X, y, groups


def peak_of(call):
    tracemalloc.start()
    call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


X, y, groups = make_table()
order = np.random.default_rng(1).permutation(len(y))
shuffled = X[order], y[order], groups[order]
make, statistics = seconds(lambda: task_statistics(X, y, groups))
make_shuffled, _ = seconds(lambda: task_statistics(*shuffled))
send, packed = seconds(lambda: pickle.dumps(statistics))
same, _ = seconds(lambda: statistics + statistics)
parts = [task_statistics(X[rows], y[rows], groups[rows]) for rows in np.array_split(np.arange(len(y)), 100)]
stream, _ = seconds(lambda: TaskStatistics.merge(parts))
model = MAMLRegressor(inner_step_size=0.1)
given, _ = seconds(lambda: model.fit_statistics(statistics))
collapse, collapsed = seconds(lambda: model.collapse_statistics(statistics))
some = [collapsed] * int(MACHINES * CORES)
add, total = seconds(lambda: sum(some))
given_collapsed, _ = seconds(lambda: model.fit_statistics(total))
collapsed_bytes = len(pickle.dumps(collapsed))
learned, _ = seconds(lambda: MAMLRegressor().fit_statistics(statistics))
given_peak = peak_of(lambda: model.fit_statistics(statistics))
learned_peak = peak_of(lambda: MAMLRegressor().fit_statistics(statistics))
task_bytes = len(packed) / N_TASKS

print(f"{N_TASKS:,} tasks of {N_ROWS} rows, {N_FEATURES} features, one core")
print(f"make, sorted by task      {1e9 * make / len(y):8.0f} ns a row")
print(f"make, shuffled            {1e9 * make_shuffled / len(y):8.0f} ns a row")
print(f"pickled                   {task_bytes:8.0f} bytes a task ({8 * N_ROWS * (N_FEATURES + 2)} as rows)")
print(f"pickle                    {1e9 * send / N_TASKS:8.0f} ns a task")
print(f"add, the same tasks       {1e9 * same / N_TASKS:8.0f} ns a task")
print(f"merge a stream of 100     {1e9 * stream / N_TASKS:8.0f} ns a task")
print(f"fit, given step           {1e9 * given / N_TASKS:8.0f} ns a task, {given_peak / N_TASKS:6.0f} bytes beside")
print(f"fit, learned step         {1e9 * learned / N_TASKS:8.0f} ns a task, {learned_peak / N_TASKS:6.0f} bytes beside")
print(f"collapse, given step      {1e9 * collapse / N_TASKS:8.0f} ns a task")
print(f"pickled when collapsed    {collapsed_bytes:8.0f} bytes, whatever the number of tasks")
print(f"add {len(some)} of these        {1e3 * add:8.1f} ms")
print(f"fit to their sum          {1e3 * given_collapsed:8.1f} ms")

read = 8 * ROWS * (N_FEATURES + 2) / MACHINES / DISK
compute = ROWS * make_shuffled / len(y) / MACHINES / CORES
sent, sent_collapsed = TASKS * task_bytes, len(some) * collapsed_bytes
levels = np.ceil(np.log2(MACHINES))


def line(what, time_taken, memory=None):
    print(f"{what:36s}{time_taken:10.2f} s{'' if memory is None else f', {memory / 1e9:.0f} GB'}")


print(f"\nOn paper: {ROWS:.0e} rows, {TASKS:.0e} tasks, {MACHINES} machines of {CORES} cores")
line(f"read {8 * ROWS * (N_FEATURES + 2) / MACHINES / 1e9:.1f} GB a machine", read)
line("make statistics", compute)
print("Whole tasks on a machine, given step, collapsed there, one part a core")
line("collapse", TASKS * collapse / N_TASKS / MACHINES / CORES)
line(f"send {sent_collapsed / 1e6:.0f} MB to one machine", sent_collapsed / NETWORK)
line("add and fit there, one core", add + given_collapsed)
print("Whole tasks on a machine, the statistics of each sent")
line(f"send {sent / 1e9:.1f} GB to one machine", sent / NETWORK)
line("merge them there, one core", TASKS * stream / N_TASKS)
for name, time_taken, peak in (("given", given, given_peak), ("learned", learned, learned_peak)):
    line(f"fit, {name} step, one core", TASKS * time_taken / N_TASKS, sent + TASKS * peak / N_TASKS)
print("Rows of every task on all machines")
line(f"send {levels:.0f} times {sent / 1e9:.1f} GB", levels * sent / NETWORK)
