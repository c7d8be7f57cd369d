"""Time and memory of meta-training against the numbers of tasks, rows, features and threads, as log-log pictures.

Run ``python benchmarks/scaling.py --output DIR``: prints the numbers and writes ``time.png``, ``memory.png`` and
``threads.png``. One size varies at a time, on one thread. Memory is the rise of the peak over imports and data, in a
process of its own. MAMLSVC makes ten steps of gradient descent, the others converge; Ridge is one model of all rows.
Threads are compared with as many threads in BLAS as it takes by itself, as users have it.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
from joblib import cpu_count
from measuring import draw_table, median_seconds, peak_memory, print_table, show
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_limits

from sklearn_maml import MAMLSVC, MAMLRegressor

SWEEPS = {
    "tasks": [(m, 100, 20) for m in (1, 10, 100, 1000, 10_000)],
    "rows of a task": [(1000, n, 20) for n in (3, 10, 30, 100, 300, 1000)],
    "features": [(200, 100, d) for d in (2, 5, 10, 20, 50, 100, 200, 500, 1000)],
}
SIZE = "tasks x rows x features"
MODELS = {
    "Ridge": Ridge(solver="cholesky"),
    "MAMLRegressor, a number as step": MAMLRegressor(solver="gd", inner_step_size=0.01),
    "MAMLRegressor": MAMLRegressor(),
    "MAMLSVC, ten steps": MAMLSVC(solver="gd", inner_step_size=0.01, algorithm="maml", max_iter=10),
}
THREADED = [(m, 100, 50) for m in (10, 100, 1000, 10_000)]
N_JOBS = (None, 1, 2)


def fit_call(name, size, tiny=False, n_jobs=None):
    """The call that is measured: a fit to a table of so many tasks, rows and features."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    X, y, groups = draw_table(*((3, 10, 2) if tiny else size))
    if name == "Ridge":
        return partial(MODELS[name].fit, X, y)
    model = clone(MODELS[name]).set_params(n_jobs=n_jobs)
    return partial(model.fit, X, y > 0 if isinstance(model, MAMLSVC) else y, groups=groups)


def times_and_memory(size, repeats):
    """Milliseconds and MB of each model."""
    with threadpool_limits(1):
        times = median_seconds({name: fit_call(name, size) for name in MODELS}, repeats)
    return [1e3 * t for t in times.values()], [peak_memory(fit_call, name, size) / 1e6 for name in MODELS]


def threads(size, repeats):
    """Milliseconds of Ridge, then of MAMLRegressor and MAMLSVC for each number of jobs."""
    _, *names = MODELS
    calls = {"Ridge": fit_call("Ridge", size)}
    calls |= {(name, n_jobs): fit_call(name, size, n_jobs=n_jobs) for name in names for n_jobs in N_JOBS}
    return {key: 1e3 * t for key, t in median_seconds(calls, repeats).items()}


def draw(panels, ylabel, path):
    """One log-log panel for each (title, xlabel, x, {label: y})."""
    figure, axes = plt.subplots(1, len(panels), figsize=(5 * len(panels), 4), sharey=True, layout="constrained")
    for ax, (title, xlabel, x, curves) in zip(axes, panels, strict=True):
        for label, y in curves.items():
            ax.loglog(x, y, marker="o", label=label)
        ax.set(title=title, xlabel=xlabel)
        ax.grid(alpha=0.3)
    axes[0].set_ylabel(ylabel)
    axes[0].legend()
    figure.savefig(path, dpi=120)


def label(size):
    """A size for print-outs."""
    return " x ".join(map(str, size))


def print_sizes(options):
    pictures = {"time": [], "memory": []}
    for position, (what, sizes) in enumerate(SWEEPS.items()):
        measured = [times_and_memory(size, options.repeats) for size in sizes]
        x = [size[position] for size in sizes]
        for kind, unit, columns in zip(pictures, ("ms", "MB"), zip(*measured, strict=True), strict=True):
            rows = [[label(size), *map(show, column)] for size, column in zip(sizes, columns, strict=True)]
            print_table(f"{kind} against {what}, {unit}", [SIZE, *MODELS], rows)
            curves = dict(zip(MODELS, zip(*columns, strict=True), strict=True))
            fixed = " x ".join("?" if i == position else str(n) for i, n in enumerate(sizes[0]))
            pictures[kind].append((fixed, what, x, curves))
    draw(pictures["time"], "ms", options.output / "time.png")
    draw(pictures["memory"], "MB", options.output / "memory.png")


def print_threads(options):
    measured = [threads(size, options.repeats) for size in THREADED]
    columns = [key if isinstance(key, str) else f"{key[0]}, n_jobs={key[1]}" for key in measured[0]]
    rows = [[label(size), *map(show, of.values())] for size, of in zip(THREADED, measured, strict=True)]
    print_table(f"Threads, ms, on {cpu_count()} cores", [SIZE, *columns], rows)
    panels = []
    for name in list(MODELS)[1:]:
        curves = {f"n_jobs={n_jobs}": [of[name, n_jobs] for of in measured] for n_jobs in N_JOBS}
        panels.append((name, "tasks", [size[0] for size in THREADED], curves))
    draw(panels, "ms", options.output / "threads.png")


PARTS = {"sizes": print_sizes, "threads": print_threads}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--output", type=Path, default=Path("."), metavar="DIR", help="where the pictures go")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, of which the median is taken")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore", ConvergenceWarning)
    for part in options.part:
        PARTS[part](options)


if __name__ == "__main__":
    main()
