"""Meta-training and adaptation of whole tables: from stacks of tasks to parameters, and the history of training."""

from functools import partial

import numpy as np
from scipy.linalg import LinAlgError
from scipy.optimize import OptimizeResult

from .meta import MAMLLoss, OneQuadratic, adapt, collapse
from .solvers import biphasic, choose_solver, subgradient_descent
from .steps import inner_step
from .tasks import QuadraticTasks
from .threads import blas_threads, run_parallel

SHOTS = 1.0
"""Rows of a new task that training with a learned metric reckons with."""
ZERO_SHOT = 0.1
"""Weight of f, the loss before adaptation, that training with a learned metric adds to F."""

STACKS_PER_CALL = 8
"""Stacks that a thread sums up at once: they are small, to fit the cache."""

OUT_OF_RANGE = "the numbers leave the range of floating point: scale X or y, or lower inner_step_size"

HISTORY = ("phase", "grad_norm", "objective", "n_gradients", "n_hessp", "time")
"""What is recorded of every iterate; the time by the flow only."""

TRAINING_PARAMETERS = (
    "algorithm",
    "solver",
    "inner_step_size",
    "n_inner_steps",
    "adaptation",
    "meta_step_size",
    "switch_tol",
    "max_iter",
    "tol",
    "n_jobs",
    "verbose",
)


def meta_train(
    stacks,
    w0,
    *,
    structure,
    algorithm,
    solver,
    inner_step_size,
    n_inner_steps,
    adaptation,
    prior,
    meta_step_size,
    switch_tol,
    max_iter,
    tol,
    n_jobs,
    verbose,
    on_iteration=None,
):
    """Learn an initialisation.

    Parameters
    ----------
    stacks : list of (ndarray, callable)
        Task numbers of a stack, and the function that builds it.
    w0 : ndarray of shape (d, k)
        Where to start.
    structure : str
        What solvers may assume of the tasks, see :class:`MAMLLoss`. "one quadratic" collapses f and F.
    prior : Prior or None
        What inner_step_size="auto" knows of the tasks.
    algorithm, solver, ... :
        Parameters of the estimators.
    on_iteration : callable or None
        Called as ``on_iteration(before, after)`` when an iteration is over; before() and after() tell what would be
        returned if training had stopped there. True stops it there.

    Returns
    -------
    OptimizeResult
        With fields x, nit, history, step_size, inner_step_size, switch_tol.
    """
    f, F, objective, sizes = meta_losses(
        stacks, structure, inner_step_size, n_inner_steps, adaptation, prior, n_jobs, first_order=algorithm == "fomaml"
    )
    if algorithm == "bimaml" and switch_tol == "auto":
        switch_tol = max(tol, 0.1 * np.linalg.norm(f.gradient(w0)))
        f.n_gradients = 0  # the first phase begins with the same evaluation: it is counted there
    decided = {"inner_step_size": in_task_order(stacks, sizes, inner_step_size), "switch_tol": switch_tol}
    solve = choose_solver(solver, F)
    trace = _Trace(f, F, objective, verbose, on_iteration, decided, keeps_best=solve is subgradient_descent)
    run = {"step_size": meta_step_size, "tol": tol, "max_iter": max_iter}
    try:
        if algorithm == "bimaml":
            result = biphasic(solve, f, F, w0, switch_tol=switch_tol, callback=trace, **run)
        else:
            result = solve(F, w0, callback=partial(trace, 2), **run)
        result = OptimizeResult(result, history=trace.history(), **decided)
    except _Stop:
        result = trace.so_far()
    if not np.all(np.isfinite(result.x)):
        raise ValueError(OUT_OF_RANGE)
    return result


def meta_losses(
    stacks, structure, inner_step_size, n_inner_steps, adaptation, prior, n_jobs=None, *, first_order=False
):
    """f, F, the loss to report (F, with its Hessian correction) and the inner step sizes of each stack."""
    build = _collapsed if structure == "one quadratic" else _stacked
    step_of = partial(inner_step, step_size=inner_step_size, adaptation=adaptation, prior=prior, shots=SHOTS)
    zero_shot = 0.0 if prior is None else ZERO_SHOT
    try:
        return build(stacks, structure, step_of, n_inner_steps, zero_shot, first_order, n_jobs)
    except LinAlgError:
        raise ValueError(OUT_OF_RANGE) from None


def adapt_all(stacks, starts, step_size, adaptation, n_steps, prior, n_jobs, *, scatter, verbose):
    """Adapt every task of the stacks from its own start.

    Returns the adapted parameters, of shape (m, d, k), the step sizes used, for each task the longest step size that
    does not overshoot, 1 / L_i (computed where it is needed: if the step is explicit and `step_size` a number), and, if
    `scatter`, what one implicit step leaves of the prior's covariance, of shape (m, d, d). With `verbose` it prints how
    far it is, if there are several stacks.
    """
    W = np.empty(starts.shape)
    safe = np.full(len(starts), np.inf)
    m, d, _ = starts.shape
    left = np.empty((m, d, d)) if scatter else None

    def adapt_stack(numbers, build):
        tasks = build()
        known = prior if prior is None else prior.of_tasks(numbers)
        step = inner_step(tasks, step_size, adaptation, known, tasks.weight)
        W[numbers], _ = adapt(tasks, starts[numbers], step, n_steps)
        if adaptation == "gradient" and not isinstance(step_size, str) and np.ndim(step_size) == 0:
            L = tasks.smoothness()
            safe[numbers] = np.divide(1, L, out=np.full_like(L, np.inf), where=L > 0)
        if left is not None:
            size = step.size[:, None, None]
            product = tasks.resolvent(
                known.metric(np.zeros((d, 1))).scaled(size)
            )  # a penalty tells nothing of the task
            left[numbers] = product(np.broadcast_to(np.eye(d), (len(numbers), d, d))) / size
        return step.size

    try:
        with np.errstate(over="ignore", invalid="ignore"), blas_threads(d, n_jobs):
            sizes, done = [], 0
            results = run_parallel(n_jobs, [(adapt_stack, *stack) for stack in stacks])
            for (numbers, _), size in zip(stacks, results, strict=True):
                sizes.append(size)
                done += len(numbers)
                if verbose and len(stacks) > 1:
                    print_progress("adapted {} of {} tasks", done - len(numbers), done, m)
    except LinAlgError:
        raise ValueError(OUT_OF_RANGE) from None
    if not np.all(np.isfinite(W)):
        raise ValueError(OUT_OF_RANGE)
    return W, in_task_order(stacks, sizes, step_size), safe, left


def _stacked(stacks, structure, step_of, n_inner_steps, zero_shot, first_order, n_jobs):
    """f, F, the objective to report and the inner step sizes, from stacks that are kept."""
    tasks = list(run_parallel(n_jobs, [(build,) for _, build in stacks]))
    steps = list(run_parallel(n_jobs, [(step_of, each) for each in tasks])) if n_inner_steps else []
    f = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs)
    adaptation = {"n_steps": n_inner_steps, "steps": steps, "zero_shot": zero_shot}
    F = MAMLLoss(tasks, first_order=first_order, structure=structure, n_jobs=n_jobs, **adaptation)
    objective = F
    if first_order and structure == "quadratic":
        objective = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs, **adaptation)
    return f, F, objective, [step.size for step in steps] or [0.0] * len(stacks)


def _collapsed(stacks, structure, step_of, n_inner_steps, zero_shot, first_order, n_jobs):
    """The same for quadratic tasks, one stack in memory at a time: each function is one quadratic."""

    def parts_of(build):
        tasks = build()
        step = step_of(tasks) if n_inner_steps else None
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [collapse(tasks, None, 0), collapse(tasks, step, n_inner_steps, first_order)]
            if first_order:
                parts.append(collapse(tasks, step, n_inner_steps))
        return step, parts

    def add_up(some):
        sizes, sums = [], []
        for _, build in some:
            step, parts = parts_of(build)
            sizes.append(step.size if step else 0.0)
            sums = [_mean(pair) for pair in zip(sums, parts, strict=True)] if sums else parts
        return sizes, sums

    sizes, sums = [], []
    runs = [stacks[i : i + STACKS_PER_CALL] for i in range(0, len(stacks), STACKS_PER_CALL)]
    for more, parts in run_parallel(n_jobs, [(add_up, run) for run in runs]):
        sizes += more
        sums = [_mean(pair) for pair in zip(sums, parts, strict=True)] if sums else parts
    if not all(np.all(np.isfinite(quadratic.H)) for quadratic in sums):
        raise ValueError(OUT_OF_RANGE)
    sums[1:] = [adapted.plus(sums[0], zero_shot) for adapted in sums[1:]]
    costs = (1, 0), (n_inner_steps + 1 + (zero_shot > 0), 0 if first_order else n_inner_steps), (0, 0)
    f, F, *objective = map(OneQuadratic, sums, costs)
    return f, F, objective[0] if objective else F, sizes


def _mean(parts):
    """One quadratic out of two that each stand for a number of tasks."""
    weight = sum(part.weight for part in parts)

    def average(name):
        return sum(part.weight / weight * getattr(part, name) for part in parts)

    return QuadraticTasks(*map(average, ("H", "C", "b")), weight, parts[0].penalty, average("scale"))


def in_task_order(stacks, sizes, step_size):
    """The inner step sizes as a fitted attribute: as given or, for "auto", one for each task."""
    if not isinstance(step_size, str):
        return step_size
    by_task = np.zeros(sum(len(numbers) for numbers, _ in stacks))
    for (numbers, _), size in zip(stacks, sizes, strict=True):
        by_task[numbers] = size
    return by_task


def print_progress(text, before, after, total):
    """Print a line whenever another tenth of the total is done: at most ten lines."""
    if 10 * after // total > 10 * before // total:
        print(text.format(after, total))


class _Stop(BaseException):  # nobody's `except Exception` between the trace and `meta_train` is meant
    """Somebody who follows the training has seen enough."""


class _Trace:
    """Records (and prints) phase, objective, gradient norm and cost of every iterate: a solver's callback.

    The iterate at which BI-MAML switches is recorded once, under the phase in which it goes on. First-order MAML does
    not follow the gradient of F, but F is what is reported of it.
    """

    def __init__(self, f, F, objective, verbose, on_iteration, decided, keeps_best):
        self.losses, self.verbose = (f, F), verbose
        self.objective = None if objective is F else objective
        self.on_iteration, self.decided, self.keeps_best = on_iteration, decided, keeps_best
        self.rows = []
        self.offset = 0.0
        self.so_far = None

    def __call__(self, phase, w, value, norm, time=None):
        starts = not self.rows or self.rows[-1][0] != phase
        if starts and self.rows:
            self.offset = self.rows.pop()[-1]  # the time, if there is one
        if self.objective is not None:
            value = self.objective.value(w)
        f, F = self.losses
        row = phase, norm, value, f.n_gradients + F.n_gradients, f.n_hessp + F.n_hessp
        n_iter = len(self.rows)
        self.rows.append(row if time is None else (*row, self.offset + time))
        if self.verbose and (n_iter < 10 or n_iter % 10 ** int(np.log10(n_iter)) == 0):
            print(f"iteration {n_iter:5d}  phase {phase}  objective {value:.6e}  gradient norm {norm:.3e}")
        if starts or value < self.best or not self.keeps_best:
            self.w, self.best = w, value
        if self.on_iteration is not None:
            before, self.so_far = self.so_far, partial(self._result, self.w, len(self.rows))
            if not starts and self.on_iteration(before, self.so_far):
                raise _Stop

    def _result(self, w, n_rows):
        """What training has come to after so many rows of its history."""
        history = self.history(n_rows)
        nit = history["time"][-1] if "time" in history else n_rows - 1
        return OptimizeResult(x=w, nit=nit, success=True, message="", step_size=None, history=history, **self.decided)

    def history(self, n_rows=None):
        return {
            name: np.array(column) for name, column in zip(HISTORY, zip(*self.rows[:n_rows], strict=True), strict=False)
        }
