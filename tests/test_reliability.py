"""Interruptions leave a consistent estimator, from which training goes on; threads may share one."""

import copy
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose, assert_array_equal
from packaging.version import Version
from references import same
from sklearn.exceptions import ConvergenceWarning
from third_party import MAMLQuantileRegressor
from threadpoolctl import threadpool_info

import sklearn_maml
from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, task_statistics
from sklearn_maml.compose import GroupsFromColumn

RNG = np.random.default_rng(0)
GROUPS = np.repeat(np.arange(6), 8)
X = RNG.normal(size=(48, 2))
Y = X @ [1.0, -2.0] + RNG.normal(size=6)[GROUPS] + 0.3 * RNG.normal(size=48)
LABELS = np.where(Y > 0, "yes", "no")
OTHER_GROUPS = np.array(list("abcdef"))[GROUPS]


def fit(model, y=Y):
    return model.fit(X, LABELS if isinstance(model, MAMLSVC) else y, groups=GROUPS)


def set_constant(monkeypatch, name, value):
    """Wherever it was imported to."""
    for module in [m for name_, m in list(sys.modules.items()) if name_.partition(".")[0] == "sklearn_maml"]:
        if name in vars(module):
            monkeypatch.setattr(module, name, value)


# Interruptions, at any line

PACKAGE = str(Path(sklearn_maml.__file__).parent)


class Interruption:
    """Context that raises an error at a line of this package, counted from 0, or counts the lines."""

    def __init__(self, error=None, line=None):
        self.error, self.line, self.n_lines = error, line, 0

    def __call__(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            self.n_lines += 1
            if self.n_lines - 1 == self.line:
                raise self.error
        return self

    def __enter__(self):
        self.former = sys.gettrace()
        sys.settrace(self)
        return self

    def __exit__(self, *error):
        sys.settrace(self.former)


def streamed(model, n_rows=24):
    return model.partial_fit(X[:n_rows], Y[:n_rows], groups=GROUPS[:n_rows])


STATISTICS = task_statistics(X, -Y, OTHER_GROUPS)
TABLE = np.column_stack([X, GROUPS])
CALLS = {
    "fit": (lambda: fit(MAMLRegressor()), lambda model: model.fit(X[:, :1], -Y, groups=GROUPS)),
    "fit without groups of tasks": (
        lambda: fit(MAMLRegressor()).adapt(X, Y, groups=GROUPS),
        lambda model: model.fit(X, np.column_stack([Y, Y]), groups=OTHER_GROUPS),
    ),
    "fit by descent": (
        lambda: fit(MAMLSVC(loss="smooth_hinge", max_iter=3, tol=1.0)),
        lambda model: model.fit(X, GROUPS % 3, groups=GROUPS),
    ),
    "fit of third parties": (
        lambda: fit(MAMLQuantileRegressor(delta=1.0)),
        lambda model: model.fit(X, -Y, groups=GROUPS),
    ),
    "first fit": (MAMLRegressor, fit),
    "fit of choice": (
        lambda: fit(MAMLRegressorCV(inner_step_sizes=[0.1])),
        lambda model: model.fit(X[:, :1], -Y, groups=GROUPS),
    ),
    "fit by column": (
        lambda: GroupsFromColumn(MAMLRegressor(), -1).fit(TABLE, Y),
        lambda model: model.fit(TABLE[:, 1:], -Y),
    ),
    "fit_statistics": (lambda: fit(MAMLRegressor()), lambda model: model.fit_statistics(STATISTICS)),
    "partial_fit": (
        lambda: streamed(MAMLRegressor()),
        lambda model: model.partial_fit(X[24:], Y[24:], groups=GROUPS[24:]),
    ),
    "partial_fit by descent": (
        lambda: MAMLSVC().partial_fit(X, LABELS, groups=GROUPS, classes=["no", "yes"]),
        lambda model: model.partial_fit(X, LABELS, groups=GROUPS),
    ),
    "adapt": (lambda: fit(MAMLRegressor(adaptation="implicit")), lambda model: model.adapt(X, Y, groups=OTHER_GROUPS)),
}
LINES = 8
"""Lines of each call that are tried, at random; and as many at its end."""


def blas_threads():
    return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]


@pytest.mark.parametrize("name", CALLS)
def test_interrupted_at_any_line(name):
    """Either nothing has happened, or all of it; and called again, all of it happens."""
    make, call = CALLS[name]
    before, after = vars(make()), make()
    with Interruption() as counted:
        call(after)
    n = counted.n_lines
    lines = np.unique(np.r_[np.random.default_rng(0).integers(n, size=LINES), np.arange(max(0, n - LINES), n)])
    for line in lines:
        model, error = make(), (KeyboardInterrupt, MemoryError)[line % 2]
        with np.errstate(), pytest.raises(error), Interruption(error, line):
            call(model)
        untouched = same(vars(model), before)
        assert untouched or same(vars(model), vars(after)), f"interrupted at line {line} of {n}"
        assert untouched or line > n - 10, f"{line} of {n}"
        if untouched:
            interrupted = model
    call(interrupted)
    assert same(vars(interrupted), vars(after))


def test_interruptions_are_seen():
    """The same for a fit that does not take care."""

    class Careless(MAMLRegressor):
        def fit(self, X, y, groups):
            self.coef_ = None
            return super().fit(X, y, groups=groups)

    model = Careless()
    with pytest.raises(KeyboardInterrupt), Interruption(KeyboardInterrupt, 100):
        fit(model)
    assert not same(vars(model), vars(Careless()))


class Callback:
    """Raises an error in a hook, after so many calls."""

    def __init__(self, hook, error):
        self.hook, self.error = hook, error

    def setup(self, estimator, context):
        self.left = self.calls

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        self.called("on_fit_task_begin")

    def on_fit_task_end(self, estimator, context):
        self.called("on_fit_task_end")

    def called(self, hook):
        self.left -= hook == self.hook
        if self.left < 0:
            raise self.error


@pytest.mark.skipif(Version(sklearn.__version__).release < (1, 9), reason="no callbacks before scikit-learn 1.9")
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("hook", ["on_fit_task_begin", "on_fit_task_end"])
def test_interrupted_by_a_callback(hook, error):
    callback = Callback(hook, error)
    model = fit(MAMLSVC(loss="smooth_hinge", tol=1e-2))
    n = model.n_iter_
    model.set_callbacks(callback)
    before = copy.copy(vars(model))
    for callback.calls in (0, 1, n // 2, n):
        with pytest.raises(error):
            model.fit(X, GROUPS % 3, groups=GROUPS)
        assert vars(model).keys() == before.keys()
        assert all(vars(model)[name] is before[name] for name in before)
    callback.calls = np.inf
    model.fit(X, GROUPS % 3, groups=GROUPS)
    assert len(model.classes_) == 3


# Workers


class FailingOnce(MAMLRegressor):
    """Has one of the worker threads fail, at the n-th call of all."""

    fails_at = np.inf

    def task_loss(self, y, z):
        with LOCK:
            self.calls[0] += 1
            fails = self.calls[0] == self.fails_at
        if fails:
            raise MemoryError("of a worker")
        return super().task_loss(y, z)


LOCK = threading.Lock()


@pytest.mark.parametrize("solver", ["exact", "lbfgs"])
def test_a_worker_that_fails(monkeypatch, solver):
    set_constant(monkeypatch, "NUMBERS_PER_STACK", 20)
    set_constant(monkeypatch, "NUMBERS_IN_CACHE", 20)
    set_constant(monkeypatch, "STACKS_PER_CALL", 1)
    set_constant(monkeypatch, "LARGEST_MATRIX", 1 if solver == "lbfgs" else 2000)
    FailingOnce.calls = [0]
    model = FailingOnce(n_jobs=2, solver=solver, inner_step_size=0.1)
    expected = fit(copy.copy(model))
    n_calls = FailingOnce.calls[0]
    assert n_calls > 2
    for fails_at in (1, 2, n_calls):
        one, two = FailingOnce(n_jobs=2, solver=solver, inner_step_size=0.1), copy.copy(expected)
        for failing in (one, two):
            failing.fails_at, failing.calls = fails_at, [0]
            before = copy.deepcopy(vars(failing))
            with pytest.raises(MemoryError, match="of a worker"):
                failing.fit(X, Y + 1, groups=GROUPS)
            before["calls"] = failing.calls
            assert same(vars(failing), before)
        assert_array_equal(fit(two).coef_, expected.coef_)  # the threads are at work again


# Going on


def interrupted_stream(make, parts, fit_part):
    """The same batches, each of them interrupted once before it is learned."""
    model = make()
    for i, part in enumerate(parts):
        with Interruption() as counted:
            fit_part(copy.deepcopy(model), part)
        with pytest.raises(KeyboardInterrupt), Interruption(KeyboardInterrupt, counted.n_lines * (i + 1) // 5):
            fit_part(model, part)
        fit_part(model, part)
    return model


@pytest.mark.parametrize(
    ("make", "y", "classes"),
    [
        (MAMLRegressor, Y, {}),
        (lambda: MAMLRegressor(adaptation="implicit", metric="full"), Y, {}),
        (MAMLSVC, LABELS, {"classes": ["no", "yes"]}),
        (MAMLQuantileRegressor, Y, {}),
    ],
)
def test_an_interrupted_stream_goes_on(make, y, classes):
    parts = np.array_split(np.random.default_rng(0).permutation(48), 4)

    def fit_part(model, rows):
        model.partial_fit(X[rows], y[rows], groups=GROUPS[rows], **classes)

    whole = make()
    for part in parts:
        fit_part(whole, part)
    assert same(vars(interrupted_stream(make, parts, fit_part)), vars(whole))


def cut_off(model, n_parts, n_iter):
    """Fitted in parts, each of so many iterations, from where the last one ended."""
    model.set_params(warm_start=True, max_iter=n_iter)
    for _ in range(n_parts):
        with pytest.warns(ConvergenceWarning):
            fit(model)
    return model


@pytest.mark.parametrize("loss", ["squared_hinge", "smooth_hinge"])
def test_warm_start_goes_on_with_the_same_iterates(loss):
    """Gradient descent has no memory but for where it is."""
    model = MAMLSVC(loss=loss, algorithm="maml", solver="gd", tol=0.0)
    with pytest.warns(ConvergenceWarning):
        whole = fit(copy.copy(model).set_params(max_iter=60))
    parts = cut_off(model, 4, 15)
    assert_array_equal(parts.coef_, whole.coef_)
    assert_array_equal(parts.intercept_, whole.intercept_)
    assert_array_equal(parts.history_["objective"], whole.history_["objective"][-16:])


def test_warm_start_goes_on_with_the_same_iterates_of_a_quadratic():
    """To rounding: iterates of one quadratic are made in blocks."""
    model = MAMLRegressor(algorithm="maml", solver="gd", tol=0.0, meta_step_size=0.1)
    with pytest.warns(ConvergenceWarning):
        whole = fit(copy.copy(model).set_params(max_iter=60))
    parts = cut_off(model, 4, 15)
    assert_allclose(parts.coef_, whole.coef_, rtol=1e-13)
    assert_allclose(parts.history_["objective"], whole.history_["objective"][-16:], rtol=1e-12)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg", "gd"])
@pytest.mark.parametrize("algorithm", ["maml", "bimaml"])
def test_warm_start_goes_on_to_the_same_point(solver, algorithm):
    """Where the first phase of BI-MAML, or the memory of L-BFGS, starts anew, the way is another."""
    model = MAMLSVC(loss="smooth_hinge", algorithm=algorithm, solver=solver, tol=1e-6, C=0.1, max_iter=20_000)
    whole = fit(copy.copy(model))
    assert whole.n_iter_ > 3
    parts = cut_off(model, 2, 2).set_params(max_iter=20_000)
    assert_allclose(fit(parts).coef_, whole.coef_, rtol=0, atol=1e-5)
    assert parts.history_["grad_norm"][-1] <= 1e-6


# Threads

N_THREADS, N_TIMES = 8, 2


def at_once(calls):
    """The results of calls that threads begin at the same moment."""
    barrier = threading.Barrier(len(calls))

    def run(call):
        barrier.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(run, call) for call in calls]]


SHARED = {
    "gradient": lambda: fit(MAMLRegressor()),
    "implicit": lambda: fit(MAMLRegressor(adaptation="implicit", metric="full")),
    "adapted": lambda: fit(MAMLRegressor(adaptation="implicit")).adapt(X, Y, groups=GROUPS),
    "threads of its own": lambda: fit(MAMLRegressor(n_jobs=2)),
    "classifier": lambda: fit(MAMLSVC(loss="smooth_hinge", tol=1e-2)),
    "third party": lambda: fit(MAMLQuantileRegressor(delta=1.0)),
    "choice": lambda: fit(MAMLRegressorCV(inner_step_sizes=[0.1, 1.0])),
}


@pytest.mark.parametrize("name", SHARED)
def test_threads_share_an_estimator(name):
    """They predict and adapt at once, each to other rows, and get what they would get alone, bit for bit."""
    model = SHARED[name]()
    before, threads = copy.deepcopy(vars(model)), blas_threads()
    targets = LABELS if isinstance(model, MAMLSVC) else Y

    def work(i):
        rows = np.r_[0:48] % (2 + i % 5) == 0
        one = model.adapt(X[:12][rows[:12]], targets[:12][rows[:12]])
        by_task = model.adapt(X[rows], targets[rows], groups=GROUPS[rows] + 3)
        predicted = model.predict(X[i:]), one.predict(X[i:]), by_task.predict(X[i:], groups=GROUPS[i:] + 3)
        return one.coef_, by_task.task_coef_, predicted

    alone = [work(i) for i in range(N_THREADS)]
    for _ in range(N_TIMES):
        together = at_once([lambda i=i: work(i) for i in range(N_THREADS)])
        assert same(together, alone)
    assert same(vars(model), before)
    assert blas_threads() == threads


def test_threads_fit_estimators_of_their_own():
    """Fits of all kinds at once, of the same rows."""
    makes = [*SHARED.values(), lambda: streamed(MAMLRegressor(), 48)]
    alone = [vars(make()) for make in makes]
    threads = blas_threads()
    for _ in range(N_TIMES):
        together = [vars(model) for model in at_once(makes)]
        assert all(same(*pair) for pair in zip(together, alone, strict=True))
    assert blas_threads() == threads
