"""Inner steps: how a task's parameters move, by one explicit or implicit Euler step of the gradient flow of its loss.

Explicit (MAML): w' = w - P grad f(w). Implicit (a proximal step, iMAML): w' = argmin f(w') + (w' - w)'A^-1(w' - w) / 2,
so that w' = w - A grad f(w'). Both obey dw'/dw = I - P Hess f, with P = (A^-1 + Hess f)^-1 at w' for the implicit one.
A is a step size, a step size for each parameter, or the covariance of the task prior: how far a task may go, and where.
"""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .arrays import divide, like, namespace, to_host

NEWTON_STEPS = 1000
"""Largest number of Newton steps for one implicit step; a handful suffice but for losses with very sharp corners."""
ACCURACY = 1e-13
"""Relative accuracy of implicit steps, in double precision: of the proximal point, and of products with P."""

_NO_PROXIMAL_POINT = (
    f"an implicit step did not converge in {NEWTON_STEPS} Newton steps: smooth the loss, scale the features, or lower "
    "inner_step_size"
)


class Metric:
    """The matrix A = basis diag(variance) basis', in a basis in which the penalty of the loss is diagonal as well.

    Parameters
    ----------
    basis : None, ndarray of shape (d - 1,) or ndarray of shape (d, d) or (m, d, d)
        None is the identity. A vector is the mean row: parameters are coefficients and the level at that row, instead
        of the intercept. Otherwise a matrix, or one for each task.
    variance : ndarray of shape (d, 1) or (1, 1)
        A in this basis.
    penalty : ndarray of shape (d, 1) or (m, d, 1)
        The penalty of the loss in this basis.
    """

    def __init__(self, basis, variance, penalty):
        self.basis, self.variance, self.penalty = basis, variance, penalty

    @classmethod
    def of_root(cls, root, penalty):
        """A = root root', for one root (d, d) or one for each task (m, d, d)."""
        curvature, Q = np.linalg.eigh(root.mT @ (penalty * root))
        return cls(root @ Q, np.ones((1, 1)), curvature[..., None].clip(0))

    def to(self, V):
        """Basis times V."""
        if self.basis is None:
            return V
        if self.basis.ndim > 1:
            return self.basis @ V
        level = V[..., -1:, :] - self.basis[None, :] @ V[..., :-1, :]
        return namespace(V).concat([V[..., :-1, :], level], axis=-2)

    def back(self, V):
        """Transposed basis times V."""
        if self.basis is None:
            return V
        if self.basis.ndim > 1:
            return self.basis.mT @ V
        coef = V[..., :-1, :] - self.basis[:, None] * V[..., -1:, :]
        return namespace(V).concat([coef, V[..., -1:, :]], axis=-2)

    def __call__(self, V):
        """A times V."""
        return self.to(self.variance * self.back(V))

    def half(self, V):
        """The root R of A = R R', times V."""
        return self.to(namespace(V).sqrt(self.variance) * V)

    def half_transposed(self, V):
        """R' times V."""
        return namespace(V).sqrt(self.variance) * self.back(V)

    def largest_penalty(self):
        """Bound of the curvature that the penalty has in R'diag(penalty)R."""
        return namespace(self.variance).max(self.variance * self.penalty, axis=(-2, -1))

    def like(self, array):
        """The same metric where `array` is."""
        return Metric(*(None if part is None else like(part, array) for part in vars(self).values()))

    def scaled(self, factor):
        """The metric factor_i A, one for each task."""
        return Metric(self.basis, factor * self.variance, self.penalty)

    def with_penalty(self):
        """The metric (A^-1 + diag(penalty))^-1."""
        return Metric(self.basis, self.variance / (1 + self.variance * self.penalty), self.penalty)


class EulerStep:
    """A step w' = w - P grad f(w) of constant P: explicit or, for quadratic tasks, implicit.

    `size`, of shape (m,), is what is reported of automatic ones; `longest` the largest Euclidean step, or 0 if it does
    not overshoot. (A loss much more curved near y than its working curvature can be overshot by a learned step, too.)
    """

    def __init__(self, product, size=None, longest=0.0):
        self.product, self.size, self.longest = product, size, longest

    def __call__(self, tasks, W):
        """The point arrived at, the Hessian product there where dw'/dw needs it, and the product with P."""
        G, hessp = tasks.differentiate(W)
        return W - self.product(G), hessp, self.product


class ProximalStep:
    """An implicit step for any differentiable loss, by Newton's method in the coordinates w' = w + R u."""

    longest = 0.0

    def __init__(self, metric, size):
        self.metric, self.size = metric, size

    def __call__(self, tasks, W):
        half, half_transposed, xp = self.metric.half, self.metric.half_transposed, namespace(W)
        norm_of, coarseness = xp.linalg.matrix_norm, _coarseness(W)
        U, start = xp.zeros_like(W), None
        value, G, hessp = tasks.expand(W)
        moving = value == value
        for _ in range(NEWTON_STEPS):
            gradient = half_transposed(G) + U
            norm = norm_of(gradient)
            start = norm if start is None else start
            moving = moving & (norm > ACCURACY * coarseness * start)
            if not xp.any(moving):
                break
            direction = _conjugate_gradients(_curvature(half, half_transposed, hessp), -gradient)
            descent = -xp.sum(gradient * direction, axis=(1, 2))
            before = value + xp.sum(U * U, axis=(1, 2)) / 2
            length = xp.where(moving, 1.0, xp.zeros_like(value))
            for _ in range(30):  # halve the steps that do not decrease the sum
                trial = U + length[:, None, None] * direction
                value, G, hessp = tasks.expand(W + half(trial))
                after = value + xp.sum(trial * trial, axis=(1, 2)) / 2
                noise = 1e-14 * coarseness * xp.abs(before)
                high = (after > before - 1e-4 * length * descent + noise) & (length > 0)
                if not xp.any(high):
                    break
                length = xp.where(high, length / 2, length)
            U = trial
            step, way, place = map(norm_of, (half(direction), half(U), W))
            rounding = (step <= coarseness * (1e-12 * way + 1e-15 * place)) | (descent <= noise)
            moving = moving & ~rounding  # all that would follow is
        else:
            warnings.warn(_NO_PROXIMAL_POINT, ConvergenceWarning, stacklevel=2)
        return W + half(U), hessp, _proximal_product(half, half_transposed, hessp)


def inner_step(tasks, step_size, adaptation, prior=None, shots=None):
    """The inner step of a stack of tasks.

    Parameters
    ----------
    tasks : stack of tasks
        The tasks.
    step_size : float, ndarray of shape (d,) or "auto"
        A number, or one for each parameter, is A as it is. "auto" is the prior: with s rows ("shots") of curvature c,
        A = s/c G, where G is the covariance of the tasks' parameters in units of the noise; with the squared loss and a
        single row, or the implicit step, w' is then the best linear unbiased prediction of the task's parameters. The
        explicit step is A / (1 + lambda_max(A^1/2 H A^1/2)), H = Hess f with the working curvature of the loss: for
        the squared loss, it cannot overshoot. Without a prior, A = 1 / (2 L_i), within the bound alpha < 1 / (2L) of
        Theorems 3.6 and 3.8; 0 where L_i = 0 and there is nowhere to go.
    adaptation : {"gradient", "implicit"}
        Explicit or implicit.
    prior : Prior or None
        What "auto" knows of the tasks.
    shots : ndarray of shape (m,) or float
        Number of rows that "auto" counts on: the total weight of a task's rows, or less.
    """
    penalty = tasks.penalty
    if not isinstance(step_size, str):
        metric = Metric(None, np.reshape(step_size, (-1, 1)), penalty).like(penalty)
        if adaptation == "gradient":
            return EulerStep(metric, longest=np.max(step_size))
        return _implicit(tasks, metric)
    if prior is None:
        L = tasks.smoothness()
        factor = divide(0.5, L, L > 0)
        metric = Metric(None, np.ones((1, 1)), penalty).like(penalty)
    else:
        metric = prior.metric(to_host(penalty)).like(penalty)
        c = tasks.mean_curvature + namespace(tasks.weight).zeros_like(tasks.weight)
        factor = divide(shots, c, c > 0)
        if adaptation == "gradient":
            factor = factor / (1 + factor * tasks.curvature_in(metric))
    metric = metric.scaled(factor[:, None, None])
    return EulerStep(metric, factor) if adaptation == "gradient" else _implicit(tasks, metric, factor)


def _implicit(tasks, metric, size=None):
    """Implicit step: linear where the tasks are quadratic and their matrices at hand."""
    product = tasks.resolvent(metric)
    return ProximalStep(metric, size) if product is None else EulerStep(product, size)


def _coarseness(array):
    """How much coarser its numbers are than those of double precision."""
    return float(namespace(array).finfo(array.dtype).eps / np.finfo(float).eps)


def _curvature(half, half_transposed, hessp):
    """Product with I + R'Hess f R."""
    return lambda V: V + half_transposed(hessp(half(V)))


def _proximal_product(half, half_transposed, hessp):
    """Product with P = R (I + R'Hess f R)^-1 R'."""
    curvature = _curvature(half, half_transposed, hessp)
    return lambda V: half(_conjugate_gradients(curvature, half_transposed(V)))


def _conjugate_gradients(product, B):
    """Solve product(X) = B for every task and output at once, each column of B a problem of its own."""
    xp = namespace(B)
    X, R = xp.zeros_like(B), B
    D, square = R, xp.sum(R * R, axis=1, keepdims=True)
    enough = (ACCURACY * _coarseness(B)) ** 2 * square
    for _ in range(2 * B.shape[1] + 10):
        going = square > enough
        if not xp.any(going):
            break
        AD = product(D)
        curvature = xp.sum(D * AD, axis=1, keepdims=True)
        length = divide(square, curvature, going & (curvature > 0))
        X, R = X + length * D, R - length * AD
        former, square = square, xp.sum(R * R, axis=1, keepdims=True)
        D = R + divide(square, former, former > 0) * D
    return X
