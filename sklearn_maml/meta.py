"""MAML: adaptation, a few steps of gradient descent on a task's own loss, and F, the loss after adaptation.

The two functions `adapt` and `maml` are equations (1.1) and (3.1) of Xu, Chen & Karbasi (2021), for a whole stack of
tasks at once.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .arrays import namespace, to_host
from .tasks import Function
from .threads import run_parallel

DOUBLINGS = 5
"""Gradient descent on one quadratic takes two to this power steps at once ..."""
LARGEST_POWER = 200
"""... up to this d, from which on powers of d x d matrices cost more than they save."""


def adapt(tasks, W, step, n_steps):
    """Adapt each task from W[i], n_steps times: w <- w - alpha grad f_i(w), or whatever `step` does.

    Returns the adapted parameters, of shape (m, d, k), and for each step the Hessian product of f_i and the product
    with P that make up its derivative, dw'/dw = I - P Hess f_i.
    """
    path = []
    for _ in range(n_steps):
        W, hessp, product = step(tasks, W)
        path.append((hessp, product))
    return W, path


def maml(tasks, w, step, n_steps, first_order=False):
    """Expand the sum over a stack's tasks of F_i(w) = f_i(adapted w), (1.1).

    Returns the value, the gradient sum A_i grad f_i(adapted w) (3.1) where A_i = I - alpha Hess f_i, once for each
    step, is applied backwards along the path (first-order MAML leaves it out), and the product V -> Hess F V: exact
    for quadratic tasks and without adaptation; the terms with third derivatives are not in it.
    """
    m, d, _ = tasks.shape
    xp = namespace(w)
    W, path = adapt(tasks, xp.broadcast_to(w, (m, d, w.shape[1])), step, n_steps)
    back = [] if first_order else path[::-1]

    def correct(G):
        for hessp, product in back:
            G = G - hessp(product(G))
        return G

    def hessian_product(v):
        V = xp.broadcast_to(v, (m, *v.shape))
        for hessp, product in path:
            V = V - product(hessp(V))
        return xp.sum(correct(end_hessp(V)), axis=0)

    value, G, end_hessp = tasks.expand(W)
    return xp.sum(value), xp.sum(correct(G), axis=0), hessian_product


def maml_on_host(tasks, w, step, n_steps, first_order=False):
    """The same of NumPy's w and v, wherever the tasks are: d x k numbers travel, whatever the number of rows."""
    value, gradient, product = maml(tasks, tasks.place(w), step, n_steps, first_order)
    return float(value), to_host(gradient), lambda v: to_host(product(tasks.place(v)))


class MAMLLoss(Function):
    """F(w), the mean over all tasks of the loss after adaptation; with no inner step it is f, the mean loss.

    Parameters
    ----------
    stacks : list of tasks
        Stacks; the mean is over tasks, whatever their weights.
    n_steps : int
        Number of inner steps K.
    steps : list of steps
        The inner step of each stack, see :func:`inner_step`.
    zero_shot : float
        How much of f, the loss before adaptation, is added.
    first_order : bool
        Leave out the Hessian correction A_i (first-order MAML). What remains is no gradient, unless the tasks are
        quadratic: then the value is that of the quadratic whose gradient it is.
    structure : {"quadratic", "smooth", "differentiable", "subdifferentiable"}
        What a solver may assume of the tasks.
    n_jobs : int or None
        Threads over the stacks.

    Attributes
    ----------
    n_gradients, n_hessp : int
        Evaluations of a task's gradient and of a task's Hessian product so far, per task.
    is_one_quadratic : bool
        False: F is not a single quadratic with its matrix at hand.
    """

    is_one_quadratic = False

    def __init__(
        self,
        stacks,
        *,
        n_steps=0,
        steps=(),
        zero_shot=0.0,
        first_order=False,
        structure="smooth",
        n_jobs=None,
    ):
        self.n_steps, self.first_order, self.structure, self.n_jobs = n_steps, first_order, structure, n_jobs
        self.stacks, self.steps, self.zero_shot = stacks, steps, zero_shot
        self.n_tasks = sum(tasks.shape[0] for tasks in stacks)
        self.cost = (n_steps + 1 + (zero_shot > 0), 0 if first_order else n_steps)
        self.n_gradients = self.n_hessp = 0

    def _mean(self, w):
        """Value, gradient and the stacks' Hessian products; overflow is left to whoever looks at the value."""
        steps = self.steps or [None] * len(self.stacks)
        calls = [
            (maml_on_host, tasks, w, step, self.n_steps, self.first_order)
            for tasks, step in zip(self.stacks, steps, strict=True)
        ]
        shares = [1 / self.n_tasks] * len(calls)
        if self.zero_shot:
            shares += [self.zero_shot / self.n_tasks] * len(calls)
            calls += [(maml_on_host, tasks, w, None, 0) for tasks in self.stacks]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = list(run_parallel(self.n_jobs, calls))
            value, gradient = (sum(share * part[i] for share, part in zip(shares, parts, strict=True)) for i in (0, 1))
        return value, gradient, [(share, part[2]) for share, part in zip(shares, parts, strict=True)]

    def _expand(self, w):
        self.n_gradients += self.cost[0]
        self.n_hessp += self.cost[1]
        return self._mean(w)

    def expand(self, w):
        value, gradient, products = self._expand(w)
        if self.first_order and self.n_steps and self.structure == "quadratic":
            # the direction of first-order MAML is then the gradient of this quadratic, which is not F
            value = self._origin[0] + np.sum((gradient + self._origin[1]) * w) / 2

        def exact(v):
            self.n_hessp += sum(self.cost)
            return sum(share * product(v) for share, product in products)

        def differences(v):
            """Central difference of the gradient, for the terms with third derivatives; relative error near 1e-9."""
            h = np.cbrt(np.finfo(float).eps) * (1 + np.linalg.norm(w)) / (np.linalg.norm(v) or 1.0)
            return (self._expand(w + h * v)[1] - self._expand(w - h * v)[1]) / (2 * h)

        return value, gradient, differences if self.n_steps and self.structure == "smooth" else exact

    @cached_property
    def _origin(self):
        d, k = self.stacks[0].shape[1:]
        return self._mean(np.zeros((d, k)))

    def working_hessian(self):
        parts = [tasks.working_hessian() for tasks in self.stacks]
        return None if any(part is None for part in parts) else sum(map(to_host, parts)) / self.n_tasks

    def smoothness(self):
        """Bound L of the curvature of f or, where adaptation does not overshoot, of F: mean L_i max(1, |1 - aL_i|)^2K.

        (Theorem 3.8 allows F another eighth; the mean of the L_i is the more generous of the two.)
        """
        power = self.n_steps * (1 if self.first_order else 2)
        total = 0.0
        for i, tasks in enumerate(self.stacks):
            L = to_host(tasks.smoothness())
            overshoot = np.maximum(1, np.abs(1 - self.steps[i].longest * L)) if self.steps else 1.0
            total += np.sum(L * (overshoot**power + self.zero_shot))
        return total / self.n_tasks


def collapse(tasks, step, n_steps, first_order=False):
    """Sum of a stack's F_i, for quadratic tasks.

    Adaptation is then an affine map, so F_i is a quadratic: its matrix is H_i (I - P_i H_i)^2K (or ^K if first order),
    P_i the step size alpha or what takes its place, its right-hand side -grad F_i(0).
    """
    m, d, k = tasks.shape
    value, gradient, _ = maml_on_host(tasks, np.zeros((d, k)), step, n_steps, first_order)
    A = tasks.hessian_sum(step.product if n_steps else None, n_steps if first_order else 2 * n_steps)
    scale = namespace(A).sum(tasks.scale, axis=0)
    return QuadraticSum(to_host(A), -gradient, value, to_host(scale), m)


@dataclass
class QuadraticSum:
    """Sum over tasks of w'A_i w / 2 - b_i'w + c_i; the sum of two parts is that of all their tasks.

    Parameters
    ----------
    A : ndarray of shape (d, d)
        Matrix.
    b : ndarray of shape (d, k)
        Right-hand side.
    c : float
        Constant.
    scale : ndarray of shape (d,)
        Curvature of f in each parameter, before adaptation cancelled some of it.
    n_tasks : int
        Number of tasks.
    """

    A: np.ndarray
    b: np.ndarray
    c: float
    scale: np.ndarray
    n_tasks: int

    def __iadd__(self, other):
        self.A += other.A
        self.b += other.b
        self.c += other.c
        self.scale += other.scale
        self.n_tasks += other.n_tasks
        return self

    def plus(self, other, share):
        """The same tasks, each with `share` of another function of them added."""
        A, b, c = self.A + share * other.A, self.b + share * other.b, self.c + share * other.c
        return QuadraticSum(A, b, c, self.scale, self.n_tasks)


class OneQuadratic(Function):
    """F(w) = w'Aw / 2 - b'w + c, the mean over quadratic tasks: whatever their number, an iteration costs O(d^2).

    Parameters
    ----------
    total : QuadraticSum
        The sum over the tasks, see :func:`collapse`.
    cost : tuple of (int, int)
        Gradients and Hessian products of a task that an evaluation stands for.
    """

    structure, first_order, is_one_quadratic = "quadratic", False, True

    def __init__(self, total, cost=(1, 0)):
        m, self.cost = total.n_tasks, cost
        self.A, self.b, self.c, self.scale = (total.A + total.A.T) / (2 * m), total.b / m, total.c / m, total.scale / m
        self.n_gradients = self.n_hessp = 0

    def _count(self):
        self.n_gradients += self.cost[0]
        self.n_hessp += self.cost[1]

    def expand(self, w):
        self._count()
        Aw = self.A @ w

        def hessp(v):
            self.n_hessp += sum(self.cost)
            return self.A @ v

        return np.sum(w * (Aw / 2 - self.b)) + self.c, Aw - self.b, hessp

    def smoothness(self):
        """The largest eigenvalue of A."""
        return max(np.linalg.eigvalsh(self.A)[-1], 0.0)

    def descend(self, w, step):
        """As in Function, in blocks: iterates T, ..., 2T - 1 are M^T times iterates 0, ..., T - 1, plus a constant."""
        if len(w) > LARGEST_POWER:
            yield from super().descend(w, step)
        M, r = np.eye(len(w)) - step * self.A, step * self.b.T  # an iterate is here w', the next one w'M + r
        powers = [(M, r)]
        with np.errstate(over="ignore", invalid="ignore"):
            for _ in range(DOUBLINGS):
                M, r = M @ M, r @ M + r
                powers.append((M, r))
        block = w.T[None]
        while True:
            with np.errstate(over="ignore", invalid="ignore"):
                for M, r in powers[:-1]:
                    block = np.concatenate([block, block @ M + r])
                Aw = block @ self.A
                values = np.sum(block * (Aw / 2 - self.b.T), axis=(1, 2)) + self.c
                norms = np.linalg.norm(Aw - self.b.T, axis=(1, 2))
            for each, value, norm in zip(block, values.tolist(), norms.tolist(), strict=True):
                self._count()
                yield each.T, value, norm
            M, r = powers[-1]
            block = block[:1] @ M + r
