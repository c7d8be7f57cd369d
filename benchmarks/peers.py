"""Meta-training beside its peers, on one thread, in float64: the same trajectory, then the time it takes.

Run ``python benchmarks/peers.py`` for the estimators of the package, scikit-learn's Ridge and a textbook loop over
tasks; ``python -m pip install -e ".[peers]"`` adds PyTorch, higher and JAX. learn2learn does not build on current
Pythons, but its source distribution is enough:

    python -m pip download --no-binary :all: --no-deps --no-build-isolation learn2learn
    python benchmarks/peers.py --learn2learn learn2learn-0.2.0.tar.gz

Ours and Ridge's is the time of the public ``fit`` of arrays: validation, grouping, everything. Of the peers it is the
time of the iterations, with the data in place in their own format and compilation apart. Before it is timed, each must
have the iterates of the textbook loop to a relative error of 1e-12. Calls are made in turns, of each the median is
taken. What would be slow runs fewer iterations ("run"), and its time is scaled to all of them: raise --seconds for
more. Memory is the rise of the peak over imports and data, in a process of its own.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JAX_ENABLE_X64"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"

import argparse
import importlib
import platform
import sys
import tarfile
import tempfile
import types
import warnings
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import NamedTuple

import numpy as np
from measuring import draw_table, draw_tasks, median_seconds, peak_memory, print_table, seconds, show
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge

from sklearn_maml import MAMLSVC, MAMLRegressor

OURS, RIDGE = WHOLE = "ours", "Ridge"
LARGEST_ERROR = 1e-12
SIZE = "tasks x rows x features, iterations"


class Problem(NamedTuple):
    """A loss, the size of a problem, and how many iterations are made."""

    loss: str
    m: int
    n: int
    d: int
    n_iter: int

    @property
    def size(self):
        """For print-outs."""
        return f"{self.m} x {self.n} x {self.d}, {self.n_iter}"

    @property
    def steps(self):
        """Inner and meta step: fractions of 1 / L for L = 2 lambda_max of the rows' covariance, all independent."""
        L = 2 * (1 + np.sqrt(self.d / self.n)) ** 2
        return 0.25 / L, 0.5 / L

    def draw(self):
        """Features (m, n, d) and targets (m, n), -1 or 1 for the squared hinge."""
        X, y = draw_tasks(self.m, self.n, self.d)
        return X, (y if self.loss == "squared" else np.where(y > 0, 1.0, -1.0))


REGRESSION = [
    Problem("squared", *size)
    for size in [(10, 100, 20, 50), (1000, 100, 50, 200), (5000, 200, 100, 500), (500, 30, 1000, 200)]
]
SVC = [Problem("squared hinge", *size) for size in [(2000, 100, 100, 100), (200, 100, 20, 100), (5000, 5, 20, 100)]]


# Each peer is a function of a problem and its data that returns a function of the number of iterations: w after them.


def ours(problem, X, y):
    inner_step_size, meta_step_size = problem.steps
    parameters = {"inner_step_size": inner_step_size, "meta_step_size": meta_step_size, "tol": 0}
    parameters |= {"algorithm": "maml", "solver": "gd", "fit_intercept": False}
    model = MAMLRegressor() if problem.loss == "squared" else MAMLSVC(C=np.inf)
    model.set_params(**parameters)
    X, y, groups = X.reshape(-1, problem.d), y.ravel(), np.repeat(np.arange(problem.m), problem.n)
    return lambda n_iter: model.set_params(max_iter=n_iter).fit(X, y, groups=groups).coef_.ravel()


def ridge(problem, X, y):
    """One model of all rows, for comparison: not the same numbers."""
    X, y = X.reshape(-1, problem.d), y.ravel()
    return lambda n_iter: Ridge(solver="cholesky", fit_intercept=False).fit(X, y).coef_


def textbook_loop(problem, X, y):
    return lambda n_iter: textbook_path(problem, X, y, n_iter)[-1]


def textbook_path(problem, X, y, n_iter):
    """All iterates of MAML as in the paper, one task after the other: w - b mean_i (I - a H_i(w)) grad f_i(w_i)."""
    a, b = problem.steps
    path = [np.zeros(problem.d)]
    for _ in range(n_iter):
        w, direction = path[-1], np.zeros(problem.d)
        for Xi, yi in zip(X, y, strict=True):
            slope, curvature = derivatives(problem.loss, yi, Xi @ w)
            adapted = w - a * Xi.T @ slope / problem.n
            gradient = Xi.T @ derivatives(problem.loss, yi, Xi @ adapted)[0] / problem.n
            direction += gradient - a * Xi.T @ (curvature * (Xi @ gradient)) / problem.n
        path.append(w - b * direction / problem.m)
    return path


def derivatives(loss, y, z):
    """First and second derivatives of the pointwise loss."""
    if loss == "squared":
        return 2 * (z - y), 2.0
    short = np.maximum(1 - y * z, 0)
    return -2 * y * short, 2.0 * (short > 0)


def task_loss(loss, relu):
    """Mean loss of predictions, of arrays or tensors whose positive part is `relu`."""
    if loss == "squared":
        return lambda y, z: ((z - y) ** 2).mean()
    return lambda y, z: (relu(1 - y * z) ** 2).mean()


def import_torch():
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    return torch


def import_learn2learn():
    """The module `maml` of a source distribution, without importing the rest of the package."""
    torch = import_torch()
    folder = Path(tempfile.mkdtemp())
    with tarfile.open(os.environ["LEARN2LEARN"]) as archive:
        archive.extractall(folder, filter="data")
    for name in ("learn2learn", "learn2learn.algorithms"):
        package = sys.modules[name] = types.ModuleType(name)
        package.__path__ = [str(next(folder.iterdir()) / name.replace(".", "/"))]
    return torch, importlib.import_module("learn2learn.algorithms.maml").MAML


def descend_module(torch, problem, X, y, add_gradient):
    """Descent of a linear torch module; ``add_gradient(model, loss, Xi, yi)`` adds a task's meta-gradient to .grad."""
    X, y, loss = torch.from_numpy(X), torch.from_numpy(y), task_loss(problem.loss, torch.relu)

    def run(n_iter):
        model = torch.nn.Linear(problem.d, 1, bias=False, dtype=torch.float64)
        torch.nn.init.zeros_(model.weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=problem.steps[1] / problem.m)
        for _ in range(n_iter):
            optimizer.zero_grad()
            for Xi, yi in zip(X, y, strict=True):
                add_gradient(model, loss, Xi, yi)
            optimizer.step()
        return model.weight.detach().numpy()[0]

    return run


def learn2learn(problem, X, y):
    torch, MAML = import_learn2learn()

    def add_gradient(model, loss, Xi, yi):
        learner = MAML(model, lr=problem.steps[0]).clone()
        learner.adapt(loss(yi, learner(Xi)[:, 0]))
        loss(yi, learner(Xi)[:, 0]).backward()

    return descend_module(torch, problem, X, y, add_gradient)


def higher(problem, X, y):
    torch = import_torch()
    innerloop_ctx = importlib.import_module("higher").innerloop_ctx

    def add_gradient(model, loss, Xi, yi):
        inner = torch.optim.SGD(model.parameters(), lr=problem.steps[0])
        with innerloop_ctx(model, inner, copy_initial_weights=False) as (learner, optimizer):
            optimizer.step(loss(yi, learner(Xi)[:, 0]))
            loss(yi, learner(Xi)[:, 0]).backward()

    return descend_module(torch, problem, X, y, add_gradient)


def torch_vmap(problem, X, y):
    torch = import_torch()
    grad, vmap = torch.func.grad, torch.func.vmap
    X, y, loss, (a, b) = torch.from_numpy(X), torch.from_numpy(y), task_loss(problem.loss, torch.relu), problem.steps

    def f(w, Xi, yi):
        return loss(yi, Xi @ w)

    def adapted_loss(w, Xi, yi):
        return f(w - a * grad(f)(w, Xi, yi), Xi, yi)

    gradient = grad(lambda w: vmap(adapted_loss, in_dims=(None, 0, 0))(w, X, y).mean())

    def run(n_iter):
        w = torch.zeros(problem.d, dtype=torch.float64)
        for _ in range(n_iter):
            w = w - b * gradient(w)
        return w.numpy()

    return run


def jax_vmap(problem, X, y):
    jax = importlib.import_module("jax")
    X, y, loss, (a, b) = jax.numpy.asarray(X), jax.numpy.asarray(y), task_loss(problem.loss, jax.nn.relu), problem.steps

    def f(w, Xi, yi):
        return loss(yi, Xi @ w)

    def adapted_loss(w, Xi, yi):
        return f(w - a * jax.grad(f)(w, Xi, yi), Xi, yi)

    def F(w, X, y):
        return jax.vmap(adapted_loss, in_axes=(None, 0, 0))(w, X, y).mean()

    @jax.jit
    def descend(w, X, y, n_iter):
        return jax.lax.fori_loop(0, n_iter, lambda _, w: w - b * jax.grad(F)(w, X, y), w)

    return lambda n_iter: np.asarray(descend(jax.numpy.zeros(problem.d), X, y, n_iter))


PEERS = {
    OURS: ours,
    RIDGE: ridge,
    "textbook loop": textbook_loop,
    "learn2learn": learn2learn,
    "higher": higher,
    "torch.func": torch_vmap,
    "JAX": jax_vmap,
}


def available_peers():
    """The peers that can be imported; of the others, say how to get them."""
    needs = {"learn2learn": import_torch, "higher": lambda: importlib.import_module("higher")}
    needs |= {"torch.func": import_torch, "JAX": lambda: importlib.import_module("jax")}
    found = dict(PEERS)
    for name, load in needs.items():
        try:
            load()
        except ImportError as error:
            print(f'{name} is left out ({error}): python -m pip install -e ".[peers]"')
            del found[name]
    if "learn2learn" in found and "LEARN2LEARN" not in os.environ:
        print("learn2learn is left out: see --help for how to get it, and --learn2learn")
        del found["learn2learn"]
    return found


def prepare(problem, name, n_iter, tiny=False):
    """The call whose memory is measured."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    if tiny:
        problem = problem._replace(m=2, n=3, d=2)
    run = PEERS[name](problem, *problem.draw())
    return lambda: run(n_iter)


def compare(problem, peers, options):
    """For each peer: milliseconds, iterations run, relative error, seconds of compilation, MB."""
    X, y = problem.draw()
    one = seconds(lambda: textbook_path(problem, X, y, 1))
    path = np.array(textbook_path(problem, X, y, min(problem.n_iter, 1 + int(options.seconds / one))))
    calls, records = {}, {}
    for name, build in peers.items():
        print(f"{problem.size}: {name}", file=sys.stderr)
        run = build(problem, X, y)
        first, second = seconds(lambda run=run: run(1)), seconds(lambda run=run: run(1))
        n = problem.n_iter if name in WHOLE else int(np.clip(options.seconds / second, 1, problem.n_iter))
        checked = min(n, len(path) - 1)
        error = np.linalg.norm(run(checked) - path[checked]) / np.linalg.norm(path[checked])
        if error > LARGEST_ERROR and name != RIDGE:
            sys.exit(f"{name} does not follow the textbook loop at {problem}: relative error {error:.1e}")
        calls[name] = partial(run, n)
        records[name] = {"run": n, "checked": checked, "error": error, "compilation": first - second}
    for name, median in median_seconds(calls, options.repeats).items():
        records[name]["ms"] = 1e3 * median * problem.n_iter / records[name]["run"]
        n = problem.n_iter if name in WHOLE else 2
        records[name]["MB"] = peak_memory(prepare, problem, name, n) / 1e6
    return records


def print_comparison(title, problems, peers, options):
    """Two tables: times as multiples of ours, and the details."""
    results = {problem: compare(problem, peers, options) for problem in problems}
    print_table(
        f"{title}: time as a multiple of ours",
        [SIZE, "ours", *list(peers)[1:]],
        [
            [
                problem.size,
                f"{show(of[OURS]['ms'])} ms",
                *(show(of[name]["ms"] / of[OURS]["ms"]) for name in peers if name != OURS),
            ]
            for problem, of in results.items()
        ],
    )
    print_table(
        f"{title}: details",
        [SIZE, "", "ms", "run", "relative error", "after", "compilation, s", "memory, MB"],
        [
            [
                problem.size,
                name,
                show(record["ms"]),
                record["run"],
                *(["-", "-"] if name == RIDGE else [f"{record['error']:.0e}", record["checked"]]),
                show(record["compilation"], 2) if name == "JAX" else "-",
                show(record["MB"], 2),
            ]
            for problem, of in results.items()
            for name, record in of.items()
        ],
    )


def print_regression(peers, options):
    print_comparison("MAMLRegressor", REGRESSION, peers, options)


def print_svc(peers, options):
    iterate = {name: build for name, build in peers.items() if name != RIDGE}
    print_comparison("MAMLSVC, squared hinge", SVC, iterate, options)


# One fit beside one Ridge

TABLES = [(10, 200, 20), (1000, 100, 10), (1000, 200, 20), (200, 500, 50), (100, 1000, 100)]
ORDERS = ("sorted", "shuffled integers", "shuffled strings", "shuffled objects")


def table(size, order):
    """Rows sorted by task, or shuffled with task ids of some type."""
    X, y, groups = draw_table(*size)
    if order == "sorted":
        return X, y, groups
    shuffled = np.random.default_rng(1).permutation(len(y))
    ids = {"integers": groups, "strings": groups.astype("U"), "objects": groups.astype("U").astype(object)}
    return X[shuffled], y[shuffled], ids[order.removeprefix("shuffled ")][shuffled]


def fits(size):
    """The estimators compared: one step size with gradient descent, all defaults, and Ridge."""
    alpha, _ = Problem("squared", *size, 0).steps
    return {
        "gd": MAMLRegressor(solver="gd", inner_step_size=alpha),
        "gd, no intercept": MAMLRegressor(solver="gd", inner_step_size=alpha, fit_intercept=False),
        "auto": MAMLRegressor(),
        RIDGE: Ridge(solver="cholesky"),
        "Ridge, no intercept": Ridge(solver="cholesky", fit_intercept=False),
    }


def fit_call(size, order, name, tiny=False):
    if tiny:
        size = 5, 10, 2
    X, y, groups = table(size, order)
    model = fits(size)[name]
    return partial(model.fit, X, y) if RIDGE in name else partial(model.fit, X, y, groups=groups)


def print_ratios(peers, options):
    times, memory = [], []
    for m, n, d in TABLES:
        for order in ORDERS:
            label = [f"{m} x {n} x {d}", order]
            calls = {name: fit_call((m, n, d), order, name) for name in fits((m, n, d))}
            medians = median_seconds(calls, options.repeats)
            ours = [medians[name] / medians[RIDGE] for name in ("gd", "auto")]
            ours.append(medians["gd, no intercept"] / medians["Ridge, no intercept"])
            times.append([*label, f"{show(1e3 * medians[RIDGE])} ms", *map(show, ours)])
            rises = [peak_memory(fit_call, (m, n, d), order, name) for name in (RIDGE, "gd", "auto")]
            memory.append([*label, show(8e-6 * m * n * d), *(show(rise / 1e6, 2) for rise in rises)])
    head = ["tasks x rows x features", "rows"]
    print_table(
        "MAMLRegressor.fit: time as a multiple of Ridge(solver='cholesky').fit, which knows of no tasks",
        [*head, RIDGE, "gd with a number as step", "default", "gd / Ridge, both without intercept"],
        times,
    )
    print_table("The same: memory, MB", [*head, "X", RIDGE, "gd with a number as step", "default"], memory)


# Many new tasks

FEW_ROWS, N_FEATURES = 5, 20


def print_adaptation(peers, options):
    X, y, groups = draw_table(1000, FEW_ROWS, N_FEATURES)
    alpha, _ = Problem("squared", 1000, FEW_ROWS, N_FEATURES, 0).steps
    models = {
        "MAMLRegressor, a number as step": MAMLRegressor(inner_step_size=alpha).fit(X, y, groups=groups),
        "MAMLRegressor": MAMLRegressor().fit(X, y, groups=groups),
        "MAMLRegressor, implicit": MAMLRegressor(adaptation="implicit").fit(X, y, groups=groups),
        "MAMLSVC": MAMLSVC().fit(X, y > 0, groups=groups),
    }
    rows = []
    for m in (20_000, 200_000):
        X, y, groups = draw_table(m, FEW_ROWS, N_FEATURES, seed=1)
        for name, model in models.items():
            target = y > 0 if name == "MAMLSVC" else y
            adapt = partial(model.adapt, X, target, groups=groups)
            predict = partial(adapt().predict, X, groups=groups)
            times = median_seconds({"adapt": adapt, "predict": predict}, options.repeats)
            milliseconds = [f"{show(1e3 * median)} ms" for median in times.values()]
            rows.append([name, m, *milliseconds, show(60e-6 * m / sum(times.values()), 2)])
    print_table(
        f"Adapting to many tasks of {FEW_ROWS} rows and {N_FEATURES} features, and predicting {FEW_ROWS} rows of each",
        ["", "tasks", "adapt", "predict", "million tasks a minute"],
        rows,
    )


PARTS = {"regression": print_regression, "svc": print_svc, "ratios": print_ratios, "adaptation": print_adaptation}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--learn2learn", metavar="FILE", help="source distribution of learn2learn, a .tar.gz file")
    parser.add_argument("--repeats", type=int, default=5, help="repetitions, of which the median is taken")
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="longest repetition of what can run fewer iterations"
    )
    options = parser.parse_args()
    if options.learn2learn:
        os.environ["LEARN2LEARN"] = os.path.abspath(options.learn2learn)
    warnings.simplefilter("ignore", ConvergenceWarning)
    packages = ("numpy", "scikit-learn", "torch", "higher", "jax")
    versions = sorted({f"{d.name} {d.version}" for d in distributions() if d.name in packages})
    print(f"Python {platform.python_version()} on {platform.machine()}, one thread; {', '.join(versions)}")
    peers = available_peers()
    for part in options.part:
        PARTS[part](peers, options)


if __name__ == "__main__":
    main()
