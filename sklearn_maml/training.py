"""Meta-training and adaptation of whole tables: from stacks of tasks to parameters, and the history of training."""

from functools import partial
from operator import iadd
from typing import NamedTuple

import numpy as np
from scipy.linalg import LinAlgError
from scipy.optimize import OptimizeResult

from .arrays import InParts, divide, eye, namespace, take, to_host
from .meta import MAMLLoss, OneQuadratic, adapt, collapse
from .solvers import biphasic, choose_solver, subgradient_descent
from .steps import inner_step
from .tasks import Function
from .threads import run_parallel, small_products

SHOTS = 1.0
"""Rows of a new task that training with a learned metric reckons with."""
ZERO_SHOT = 0.1
"""Weight of f, the loss before adaptation, that training with a learned metric adds to F."""

STACKS_PER_CALL = 8
"""Stacks that a thread sums up at once: they are small, to fit the cache."""

OUT_OF_RANGE = "the numbers leave the range of floating point: scale X or y, or lower inner_step_size"

HISTORY = ("phase", "grad_norm", "objective", "n_gradients", "n_hessp", "time")
"""What is recorded of every iterate; the time by the flow only."""

TRAINING_PARAMETERS = ("algorithm", "solver", "meta_step_size", "switch_tol", "max_iter", "tol", "verbose")


class Losses(NamedTuple):
    """What to descend, and how its tasks adapt."""

    f: Function
    """The mean loss before adaptation."""
    F: Function
    """The mean loss after it; for first-order MAML what has its direction as gradient."""
    objective: Function
    """The loss to report: F, with its Hessian correction."""
    inner_step_size: float | np.ndarray
    """As given or, for "auto", one for each task."""


@np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are looked for at the end
def meta_train(losses, w0, *, algorithm, solver, meta_step_size, switch_tol, max_iter, tol, verbose, on_iteration=None):
    """Learn an initialisation.

    Parameters
    ----------
    losses : Losses
        What to descend.
    w0 : ndarray of shape (d, k)
        Where to start.
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
    f, F, objective, inner_step_size = losses
    if algorithm == "bimaml" and switch_tol == "auto":
        switch_tol = max(tol, 0.1 * np.linalg.norm(f.gradient(w0)))
        f.n_gradients = 0  # the first phase begins with the same evaluation: it is counted there
    decided = {"inner_step_size": inner_step_size, "switch_tol": switch_tol}
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
    except LinAlgError:
        raise ValueError(OUT_OF_RANGE) from None
    if not all(np.all(np.isfinite(numbers)) for numbers in (result.x, *result.history.values())):
        raise ValueError(OUT_OF_RANGE)
    return result


@np.errstate(over="ignore", invalid="ignore")  # numbers that are not finite are looked for at the end
def meta_losses(stacks, structure, *, inner_step_size, n_inner_steps, adaptation, prior, first_order, n_jobs):
    """Make the losses to descend.

    Parameters
    ----------
    stacks : list of (ndarray, callable)
        Task numbers of a stack, and the function that builds it.
    structure : str
        What solvers may assume of the tasks, see :class:`MAMLLoss`. "one quadratic" collapses f and F.
    inner_step_size, n_inner_steps, adaptation, n_jobs :
        Parameters of the estimators.
    prior : Prior or None
        What inner_step_size="auto" knows of the tasks.
    first_order : bool
        Whether F leaves out the Hessian correction.

    Returns
    -------
    Losses
    """
    zero_shot = 0.0 if prior is None else ZERO_SHOT
    how = inner_step_size, n_inner_steps, adaptation, prior, first_order, n_jobs
    try:
        if structure == "one quadratic":
            sums, sizes = sum_losses(stacks, *how)
            losses = _of_sums(sums, n_inner_steps, first_order, zero_shot)
        else:
            losses, sizes = _stacked(stacks, structure, zero_shot, *how)
    except LinAlgError:
        raise ValueError(OUT_OF_RANGE) from None
    return Losses(*losses, in_task_order(stacks, sizes, inner_step_size))


def losses_of_collapsed(statistics):
    """Make the losses to descend of CollapsedStatistics."""
    n_inner_steps, first_order, inner_step_size = map(
        statistics.parameters.get, ("n_inner_steps", "first_order", "inner_step_size")
    )
    if isinstance(inner_step_size, str):  # without a step
        inner_step_size = np.zeros(statistics.n_tasks)
    return Losses(*_of_sums(statistics._sums, n_inner_steps, first_order), inner_step_size)


def adapt_all(stacks, starts, step_size, adaptation, n_steps, prior, n_jobs, *, scatter, verbose):
    """Adapt every task of the stacks from its own start.

    Returns the adapted parameters, of shape (m, d, k), the step sizes used, for each task the longest step size that
    does not overshoot, 1 / L_i (computed where it is needed: if the step is explicit and `step_size` a number), and, if
    `scatter`, what one implicit step leaves of the prior's covariance, of shape (m, d, d). With `verbose` it prints how
    far it is, if there are several stacks.
    """
    xp, (m, d, _) = namespace(starts), starts.shape
    with_safe = adaptation == "gradient" and not isinstance(step_size, str) and np.ndim(step_size) == 0

    def adapt_stack(numbers, build):
        tasks = build()
        known = prior if prior is None else prior.of_tasks(numbers)
        step = inner_step(tasks, step_size, adaptation, known, tasks.weight)
        W, _ = adapt(tasks, take(starts, numbers), step, n_steps)
        safe = left = None
        if with_safe:
            L = tasks.smoothness()
            safe = divide(1.0, L, L > 0, np.inf)
        if scatter:
            size = step.size[:, None, None]
            metric = known.metric(np.zeros((d, 1))).like(size)  # a penalty tells nothing of the task
            left = tasks.resolvent(metric.scaled(size))(xp.broadcast_to(eye(d, size), (len(numbers), d, d))) / size
        return W, step.size, safe, left

    try:
        with np.errstate(over="ignore", invalid="ignore"), small_products(d, n_jobs):
            sizes, done = [], 0
            W, safe, left = (InParts(m) for _ in range(3))
            results = run_parallel(n_jobs, [(adapt_stack, *stack) for stack in stacks])
            for (numbers, _), (adapted, size, longest, covariance) in zip(stacks, results, strict=True):
                W.add(numbers, adapted)
                safe.add(numbers, longest)
                left.add(numbers, covariance)
                sizes.append(size)
                done += len(numbers)
                if verbose and len(stacks) > 1:
                    print_progress("adapted {} of {} tasks", done - len(numbers), done, m)
    except LinAlgError:
        raise ValueError(OUT_OF_RANGE) from None
    W = W.whole()
    if not xp.all(xp.isfinite(W)):
        raise ValueError(OUT_OF_RANGE)
    safe = to_host(safe.whole()) if with_safe else np.full(m, np.inf)
    return W, in_task_order(stacks, sizes, step_size), safe, left.whole()


def _step_of(inner_step_size, adaptation, prior):
    """The function that makes the inner step of a stack in training."""
    return partial(inner_step, step_size=inner_step_size, adaptation=adaptation, prior=prior, shots=SHOTS)


def _stacked(stacks, structure, zero_shot, inner_step_size, n_inner_steps, adaptation, prior, first_order, n_jobs):
    """f, F and the objective to report, from stacks that are kept, and each stack's inner step sizes."""
    step_of = _step_of(inner_step_size, adaptation, prior)
    tasks = list(run_parallel(n_jobs, [(build,) for _, build in stacks]))
    steps = list(run_parallel(n_jobs, [(step_of, each) for each in tasks])) if n_inner_steps else []
    f = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs)
    adapted = {"n_steps": n_inner_steps, "steps": steps, "zero_shot": zero_shot}
    F = MAMLLoss(tasks, first_order=first_order, structure=structure, n_jobs=n_jobs, **adapted)
    objective = F
    if first_order and structure == "quadratic":
        objective = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs, **adapted)
    return (f, F, objective), [step.size for step in steps] or [0.0] * len(stacks)


def sum_losses(stacks, inner_step_size, n_inner_steps, adaptation, prior, first_order, n_jobs):
    """Sums of quadratic tasks' f and F and, if that is first order, of the F to report; each stack's inner step sizes.

    One stack is in memory at a time. Sums of other tasks, made elsewhere, can be added.
    """
    step_of = _step_of(inner_step_size, adaptation, prior)

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
            sums = [iadd(*pair) for pair in zip(sums, parts, strict=True)] if sums else parts
        return sizes, sums

    sizes, sums = [], []
    runs = [stacks[i : i + STACKS_PER_CALL] for i in range(0, len(stacks), STACKS_PER_CALL)]
    for more, parts in run_parallel(n_jobs, [(add_up, run) for run in runs]):
        sizes += more
        sums = [iadd(*pair) for pair in zip(sums, parts, strict=True)] if sums else parts
    return sums, sizes


def _of_sums(sums, n_inner_steps, first_order, zero_shot=0.0):
    """f, F and the objective to report, each of them one quadratic."""
    if not all(np.all(np.isfinite(total.A)) for total in sums):
        raise ValueError(OUT_OF_RANGE)
    if zero_shot:
        sums = [sums[0], *(adapted.plus(sums[0], zero_shot) for adapted in sums[1:])]
    costs = (1, 0), (n_inner_steps + 1 + (zero_shot > 0), 0 if first_order else n_inner_steps), (0, 0)
    f, F, *objective = map(OneQuadratic, sums, costs)
    return f, F, objective[0] if objective else F


def in_task_order(stacks, sizes, step_size):
    """The inner step sizes as a fitted attribute: as given or, for "auto", one for each task."""
    if not isinstance(step_size, str):
        return step_size
    by_task = np.zeros(sum(len(numbers) for numbers, _ in stacks))
    for (numbers, _), size in zip(stacks, sizes, strict=True):
        by_task[numbers] = to_host(size)
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
