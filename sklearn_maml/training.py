"""Meta-training and adaptation of whole tables: from stacks of tasks to parameters, and the history of training."""

from functools import partial

import numpy as np
from scipy.linalg import LinAlgError
from scipy.optimize import OptimizeResult

from .meta import MAMLLoss, adapt, collapse, inner_step, run_parallel
from .solvers import biphasic, choose_solver
from .tasks import QuadraticTasks

_OUT_OF_RANGE = "the numbers leave the range of floating point: scale X or y, or lower inner_step_size"

TRAINING_PARAMETERS = (
    "algorithm",
    "solver",
    "inner_step_size",
    "n_inner_steps",
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
    meta_step_size,
    switch_tol,
    max_iter,
    tol,
    n_jobs,
    verbose,
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
    algorithm, solver, ... :
        Parameters of the estimators.

    Returns
    -------
    OptimizeResult
        With fields x, nit, history, step_size, inner_step_size, switch_tol.
    """
    build = _collapsed if structure == "one quadratic" else _stacked
    try:
        f, F, objective, steps = build(stacks, structure, inner_step_size, n_inner_steps, algorithm == "fomaml", n_jobs)
    except LinAlgError:
        raise ValueError(_OUT_OF_RANGE) from None
    trace = _Trace(f, F, objective, verbose)
    solve = choose_solver(solver, F)
    run = {"step_size": meta_step_size, "tol": tol, "max_iter": max_iter}
    if algorithm == "bimaml":
        if switch_tol == "auto":
            switch_tol = max(tol, 0.1 * np.linalg.norm(f.gradient(w0)))
            f.n_gradients = 0  # the first phase begins with the same evaluation: it is counted there
        result = biphasic(solve, f, F, w0, switch_tol=switch_tol, callback=trace, **run)
    else:
        result = solve(F, w0, callback=partial(trace, 2), **run)
    if not np.all(np.isfinite(result.x)):
        raise ValueError(_OUT_OF_RANGE)
    return OptimizeResult(
        result, history=trace.history(), inner_step_size=in_task_order(stacks, steps), switch_tol=switch_tol
    )


def adapt_all(stacks, starts, step_size, n_steps, n_jobs):
    """Adapt every task of the stacks from its own start.

    Returns the adapted parameters, of shape (m, d, k), the step sizes used, and for each task the longest step size
    that does not overshoot, 1 / L_i (computed where it is needed: if `step_size` is a number).
    """
    W = np.empty(starts.shape)
    safe = np.full(len(starts), np.inf)

    def adapt_stack(numbers, build):
        tasks = build()
        step = inner_step(tasks, step_size)
        W[numbers], _ = adapt(tasks, starts[numbers], step, n_steps)
        if not isinstance(step_size, str) and np.ndim(step_size) == 0:
            L = tasks.smoothness()
            safe[numbers] = np.divide(1, L, out=np.full_like(L, np.inf), where=L > 0)
        return step

    try:
        with np.errstate(over="ignore", invalid="ignore"):
            steps = list(run_parallel(n_jobs, [(adapt_stack, *stack) for stack in stacks]))
    except LinAlgError:
        raise ValueError(_OUT_OF_RANGE) from None
    if not np.all(np.isfinite(W)):
        raise ValueError(_OUT_OF_RANGE)
    return W, in_task_order(stacks, steps), safe


def _stacked(stacks, structure, inner_step_size, n_inner_steps, first_order, n_jobs):
    """f, F, the objective to report and the inner steps, from stacks that are kept."""
    tasks = list(run_parallel(n_jobs, [(build,) for _, build in stacks]))
    f = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs)
    adaptation = {"n_steps": n_inner_steps, "step_size": inner_step_size, "structure": structure, "n_jobs": n_jobs}
    F = MAMLLoss(tasks, first_order=first_order, **adaptation)
    objective = MAMLLoss(tasks, **adaptation) if first_order and structure == "quadratic" else F
    return f, F, objective, [step for _, step in F.stacks]


def _collapsed(stacks, structure, inner_step_size, n_inner_steps, first_order, n_jobs):
    """The same for quadratic tasks, one stack in memory at a time: each function is one quadratic."""

    def parts_of(build):
        tasks = build()
        step = inner_step(tasks, inner_step_size) if n_inner_steps else 0.0
        parts = [collapse(tasks, step, 0), collapse(tasks, step, n_inner_steps, first_order)]
        if first_order:
            parts.append(collapse(tasks, step, n_inner_steps))
        return step, parts

    steps, sums = [], []
    for step, parts in run_parallel(n_jobs, [(parts_of, build) for _, build in stacks]):
        steps.append(step)
        sums = [_mean(pair) for pair in zip(sums, parts, strict=True)] if sums else parts
    if not all(np.all(np.isfinite(quadratic.H)) for quadratic in sums):
        raise ValueError(_OUT_OF_RANGE)
    costs = (1, 0), (n_inner_steps + 1, 0 if first_order else n_inner_steps), (0, 0)
    f, F, *objective = (
        MAMLLoss([quadratic], structure="quadratic", cost=cost)
        for quadratic, cost in zip(sums, costs[: len(sums)], strict=True)
    )
    return f, F, objective[0] if objective else F, steps


def _mean(parts):
    """One quadratic out of several that each stand for a number of tasks."""
    return QuadraticTasks.concatenate(parts).reduce(np.zeros(len(parts), dtype=int))


def in_task_order(stacks, steps):
    """The inner step sizes as a fitted attribute: a number, one per parameter or, for "auto", one per task."""
    if np.ndim(steps[0]) < 3:
        return np.squeeze(steps[0])[()]
    by_task = np.empty(sum(len(numbers) for numbers, _ in stacks))
    for (numbers, _), step in zip(stacks, steps, strict=True):
        by_task[numbers] = step[:, 0, 0]
    return by_task


class _Trace:
    """Records (and prints) phase, objective, gradient norm and cost of every iterate: a solver's callback.

    The iterate at which BI-MAML switches is recorded once, under the phase in which it goes on. First-order MAML does
    not follow the gradient of F, but F is what is reported of it.
    """

    def __init__(self, f, F, objective, verbose):
        self.losses, self.verbose = (f, F), verbose
        self.objective = None if objective is F else objective
        self.rows = []
        self.offset = 0.0

    def __call__(self, phase, w, value, norm, time=None):
        if self.rows and self.rows[-1]["phase"] != phase:
            self.offset = self.rows.pop().get("time", 0.0)
        if self.objective is not None:
            value = self.objective.value(w)
        row = {
            "phase": phase,
            "grad_norm": norm,
            "objective": value,
            "n_gradients": sum(loss.n_gradients for loss in self.losses),
            "n_hessp": sum(loss.n_hessp for loss in self.losses),
        }
        if time is not None:
            row["time"] = self.offset + time
        n_iter = len(self.rows)
        self.rows.append(row)
        if self.verbose and (n_iter < 10 or n_iter % 10 ** int(np.log10(n_iter)) == 0):
            print(f"iteration {n_iter:5d}  phase {phase}  objective {value:.6e}  gradient norm {norm:.3e}")

    def history(self):
        return {name: np.array([row[name] for row in self.rows]) for name in self.rows[0]}
