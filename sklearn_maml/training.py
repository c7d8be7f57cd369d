"""Meta-training and adaptation of whole tables: from stacks of tasks to parameters, and the history of training."""

from functools import partial

import numpy as np
from scipy.optimize import OptimizeResult

from .meta import MAMLLoss, adapt, collapse, inner_step, run_parallel
from .solvers import biphasic, choose_solver
from .tasks import QuadraticTasks

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
    f, F, steps = build(stacks, structure, inner_step_size, n_inner_steps, algorithm == "fomaml", n_jobs)
    trace = _Trace(f, F, verbose)
    solve = choose_solver(solver, F)
    run = {"step_size": meta_step_size, "tol": tol, "max_iter": max_iter}
    if algorithm == "bimaml":
        if switch_tol == "auto":
            switch_tol = 0.1 * np.linalg.norm(f.gradient(w0))
            f.n_gradients = 0  # the first phase begins with the same evaluation: it is counted there
        result = biphasic(solve, f, F, w0, switch_tol=switch_tol, callback=trace, **run)
    else:
        result = solve(F, w0, callback=partial(trace, 2), **run)
    if not np.all(np.isfinite(result.x)):
        raise ValueError("the minimum is out of the range of floating point: scale X, y, or lower inner_step_size")
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

    steps = list(run_parallel(n_jobs, [(adapt_stack, *stack) for stack in stacks]))
    if not np.all(np.isfinite(W)):
        raise ValueError("adaptation overflows: inner_step_size is far too large for these rows, use 'auto'")
    return W, in_task_order(stacks, steps), safe


def _stacked(stacks, structure, inner_step_size, n_inner_steps, first_order, n_jobs):
    """f, F and the inner steps, from stacks that are kept."""
    tasks = list(run_parallel(n_jobs, [(build,) for _, build in stacks]))
    f = MAMLLoss(tasks, structure=structure, n_jobs=n_jobs)
    F = MAMLLoss(
        tasks,
        n_steps=n_inner_steps,
        step_size=inner_step_size,
        first_order=first_order,
        structure=structure,
        n_jobs=n_jobs,
    )
    return f, F, [step for _, step in F.stacks]


def _collapsed(stacks, structure, inner_step_size, n_inner_steps, first_order, n_jobs):
    """f, F and the inner steps of quadratic tasks, one stack in memory at a time: f and F are one quadratic each."""

    def both(build):
        tasks = build()
        step = inner_step(tasks, inner_step_size) if n_inner_steps else 0.0
        return step, collapse(tasks, step, 0), collapse(tasks, step, n_inner_steps, first_order)

    steps, f, F = [], [], []
    for step, f_part, F_part in run_parallel(n_jobs, [(both, build) for _, build in stacks]):
        steps.append(step)
        f, F = _mean([*f, f_part]), _mean([*F, F_part])
    cost = n_inner_steps + 1, 0 if first_order else n_inner_steps
    return (
        MAMLLoss(f, structure="quadratic"),
        MAMLLoss(F, structure="quadratic", cost=cost),
        steps,
    )


def _mean(parts):
    """One quadratic out of several that each stand for a number of tasks."""
    return [QuadraticTasks.concatenate(parts).reduce(np.zeros(len(parts), dtype=int))]


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

    The iterate at which BI-MAML switches is recorded once, under the phase in which it goes on.
    """

    def __init__(self, f, F, verbose):
        self.losses, self.verbose = (f, F), verbose
        self.rows = []
        self.offset = 0.0

    def __call__(self, phase, w, value, norm, time=None):
        if self.rows and self.rows[-1]["phase"] != phase:
            self.offset = self.rows.pop().get("time", 0.0)
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
