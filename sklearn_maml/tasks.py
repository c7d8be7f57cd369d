"""Stacks of tasks f_1, ..., f_m: functions of w with a value, a gradient and Hessian-vector products.

A task is a weighted mean of pointwise losses over its rows (:class:`LinearTasks`) or, for the squared loss, the same
thing summarised in d x d numbers (:class:`QuadraticTasks`). Nothing outside this file knows which of the two it has.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property, partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from .losses import curvature_bound

NUMBERS_PER_STACK = 1_000_000
"""Size of a stack: as many tasks as fit the processor's cache; also the unit of parallel work."""
LARGEST_MATRIX = 2_000
"""Largest d for which d x d matrices are formed; beyond, only products with the rows."""


class Function(ABC):
    """What tasks, f and F have in common: they can be expanded to second order around a point."""

    @abstractmethod
    def expand(self, W):
        """Value and gradient at W, and the function V -> (Hessian at W) V."""

    def value(self, W):
        """Value at W."""
        return self.expand(W)[0]

    def gradient(self, W):
        """Gradient at W."""
        return self.expand(W)[1]

    def hessp(self, W, V):
        """Hessian at W times V."""
        return self.expand(W)[2](V)


class LinearTasks(Function):
    """Tasks f_i(w) = sum_j s_ij loss(y_ij, x_ij'w) + w'diag(penalty)w / 2.

    Parameters
    ----------
    X : ndarray or BlockDiagonal of shape (m, n, d)
        Rows, padded to n per task.
    Y : ndarray of shape (m, n, k)
        Targets.
    weight : ndarray of shape (m, n)
        Row weights; padding has weight zero. A task's loss is the weighted MEAN over its rows.
    loss : callable
        Pointwise loss ``loss(y, z) -> (value, slope, curvature)``.
    penalty : ndarray of shape (d, 1)
        Ridge penalty of each parameter.
    """

    def __init__(self, X, Y, weight, loss, penalty):
        self.X, self.Y, self.loss, self.penalty = X, Y, loss, penalty
        self.shape = X.shape[0], X.shape[2], Y.shape[2]
        self.weight = weight.sum(axis=1)
        self.S = (weight / self.weight[:, None])[..., None]

    def expand(self, W):
        Z = self.X @ W
        value, slope, curvature = self.loss(self.Y, Z)
        value = np.sum(self.S * value, axis=(1, 2)) + np.sum(self.penalty * W * W, axis=(1, 2)) / 2
        gradient = self.X.mT @ (self.S * slope) + self.penalty * W

        def hessp(V):
            return self.X.mT @ (self.S * curvature * (self.X @ V)) + self.penalty * V

        return value, gradient, hessp

    def smoothness(self):
        """Smoothness constants L_i (shape (m,)): a bound of each task's largest curvature.

        lambda_max(X_i'diag(s_i c_i)X_i) + max(penalty), where c is the loss's curvature (its bound where it varies).
        """
        scale = np.sqrt(self.S * curvature_bound(self.loss, self.Y).max(axis=2, keepdims=True))
        return _largest_squared_singular_value(scale * self.X) + self.penalty.max()

    def hessian_sum(self, step, power):
        """As in :class:`QuadraticTasks`, for tasks of fewer rows than parameters: no d x d matrix for each.

        Without a penalty H = U U', and (I - H a)^p H = T_q'T_r with q + r = p, T_0 = U', T_(j+1) = T_j (I - a H). With
        one H = diag(penalty) + U U', and every product is a diagonal plus a matrix L R' of low rank.
        """
        rows = self._weighted_rows
        U = rows.mT
        if not np.any(self.penalty):
            rows_of = [rows]
            for _ in range(-(-power // 2)):
                T = rows_of[-1]
                rows_of.append(T - ((T * np.swapaxes(step * np.ones((1, 1, 1)), 1, 2)) @ U) @ rows)
            T, S = (rows_of[j].reshape(-1, rows.shape[2]) for j in (power // 2, -(-power // 2)))
            return T.T @ S
        diagonal, L, R = self.penalty * np.ones((len(U), 1, 1)), U, U
        for _ in range(power):  # (I - H a)(diagonal + L R') = (1 - penalty a) diagonal + ...
            shrink = 1 - self.penalty * step
            L, R = (
                np.concatenate([shrink * L - U @ (U.mT @ (step * L)), -U], axis=2),
                np.concatenate([R, step * diagonal * U], axis=2),
            )
            diagonal = shrink * diagonal
        return np.diagflat(diagonal.sum(axis=0)) + np.tensordot(L, R, axes=([0, 2], [0, 2]))

    @cached_property
    def _weighted_rows(self):
        """The U' of H = diag(penalty) + U U', as an array of shape (m, n, d)."""
        return np.sqrt(self.S * self.loss(self.Y, np.zeros_like(self.Y))[2]) * _as_array(self.X)

    @cached_property
    def scale(self):
        """Curvature in each parameter, the diagonal of H, for a quadratic loss: shape (m, d)."""
        return np.sum(self._weighted_rows**2, axis=1) + self.penalty[:, 0]

    def quadratic(self):
        """The same tasks as quadratics: exact if the loss is one."""
        m, d, k = self.shape
        value, gradient, _ = self.expand(np.zeros((m, d, k)))
        curvature = self.loss(self.Y, np.zeros_like(self.Y))[2]
        return QuadraticTasks(_gram(self.X, self.S * curvature), -gradient, value, self.weight, self.penalty)


class QuadraticTasks(Function):
    """Tasks f_i(w) = w'H_i w / 2 - c_i'w + b_i + w'diag(penalty)w / 2: sufficient statistics of the squared loss.

    Parameters
    ----------
    H : ndarray of shape (m, d, d)
        2 X_i'diag(s_i)X_i.
    C : ndarray of shape (m, d, k)
        2 X_i'diag(s_i)Y_i, one column per output.
    b : ndarray of shape (m,)
        Weighted mean square of the targets.
    weight : ndarray of shape (m,)
        Total weight behind each task's means: what :meth:`reduce` averages with.
    penalty : ndarray of shape (d, 1)
        Ridge penalty of each parameter.
    scale : ndarray of shape (m, d), default=None
        Curvature in each parameter before adaptation cancelled some of it, to tell rounding errors from small numbers.
        None is the diagonal of H.
    """

    def __init__(self, H, C, b, weight, penalty, scale=None):
        self.H, self.C, self.b, self.weight, self.penalty = H, C, b, weight, penalty
        self.scale = np.diagonal(H, axis1=1, axis2=2) + penalty[:, 0] if scale is None else scale
        self.shape = C.shape

    def expand(self, W):
        def hessp(V):
            return self.H @ V + self.penalty * V

        HW = hessp(W)
        return np.sum(W * (HW / 2 - self.C), axis=(1, 2)) + self.b, HW - self.C, hessp

    def hessian_sum(self, step, power):
        """The d x d matrix sum_i (I - H_i a_i)^power H_i, a_i = diag(step_i), H_i with its penalty."""
        H = self.H + np.diagflat(self.penalty)
        A = H
        for _ in range(power):
            A = A - H @ (step * A)
        return A.sum(axis=0)

    def smoothness(self):
        """Smoothness constants lambda_max(H_i) + max(penalty), of shape (m,)."""
        return np.linalg.eigvalsh(self.H)[:, -1].clip(0) + self.penalty.max()

    def take(self, tasks):
        """The stack of these tasks."""
        H, C, b, weight, scale = (numbers[tasks] for numbers in (self.H, self.C, self.b, self.weight, self.scale))
        return QuadraticTasks(H, C, b, weight, self.penalty, scale)

    def stacks(self):
        """The tasks in smaller stacks: pairs of task numbers and the function that builds the stack."""
        m, d, _ = self.shape
        parts = np.array_split(np.arange(m), -(-m * d * d // NUMBERS_PER_STACK))
        return [(tasks, partial(self.take, tasks)) for tasks in parts if len(tasks)]

    @classmethod
    def concatenate(cls, stacks):
        """One stack of all the tasks of several stacks."""
        H, C, b, weight, scale = (
            np.concatenate([getattr(stack, name) for stack in stacks]) for name in ("H", "C", "b", "weight", "scale")
        )
        return cls(H, C, b, weight, stacks[0].penalty, scale)

    def reduce(self, key):
        """Average the tasks of equal key, by weight: one task for each of the keys 0, ..., max(key).

        A task whose rows came in several parts, parts that came from several machines, the mean over tasks: all are
        this one function.
        """
        key = np.asarray(key)
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=-1))
        weight = np.add.reduceat(self.weight[order], starts)
        share = self.weight[order] / np.repeat(weight, np.diff(starts, append=len(key)))

        def average(numbers):
            share_of = share.reshape(-1, *[1] * (numbers.ndim - 1))
            return np.add.reduceat(share_of * numbers[order], starts, axis=0)

        H, C, b, scale = map(average, (self.H, self.C, self.b, self.scale))
        return QuadraticTasks(H, C, b, weight, self.penalty, scale)


class BlockDiagonal:
    """A stack of m sparse (n, d) matrices that multiplies like an array of shape (m, n, d): one block-diagonal CSR."""

    def __init__(self, matrix, shape):
        self.matrix, self.shape = matrix, shape

    @classmethod
    def from_rows(cls, rows, m):
        """Stack CSR `rows` of shape (m * n, d), n per task."""
        d = rows.shape[1]
        n = rows.shape[0] // m
        block = np.repeat(np.arange(m, dtype=np.int64), np.diff(rows.indptr[::n]))
        indices = rows.indices + d * block
        return cls(sparse.csr_matrix((rows.data, indices, rows.indptr), shape=(m * n, m * d)), (m, n, d))

    @property
    def mT(self):
        m, n, d = self.shape
        return BlockDiagonal(self.matrix.T, (m, d, n))

    def __matmul__(self, W):
        m, n, _ = self.shape
        return (self.matrix @ np.reshape(W, (-1, W.shape[-1]))).reshape(m, n, -1)

    __array_ufunc__ = None  # array * stack is __rmul__, here

    def __rmul__(self, scale):
        """Scale the rows by `scale` of shape (m, n, 1)."""
        return BlockDiagonal((sparse.diags(scale.ravel()) @ self.matrix).tocsr(), self.shape)

    def toarray(self):
        """As an ordinary array of shape (m, n, d)."""
        m, n, d = self.shape
        array = np.zeros((m * n, d))
        np.add.at(
            array, (np.repeat(np.arange(m * n), np.diff(self.matrix.indptr)), self.matrix.indices % d), self.matrix.data
        )
        return array.reshape(self.shape)

    @property
    def size(self):
        """Numbers that it would hold as an ordinary array."""
        return math.prod(self.shape)

    def blocks(self):
        """The m matrices, each of shape (n, d)."""
        m, n, d = self.shape
        return [self.matrix[i * n : (i + 1) * n, i * d : (i + 1) * d] for i in range(m)]


def _gram(X, scale):
    """X_i'diag(scale_i)X_i for each task, of shape (m, d, d)."""
    if isinstance(X, BlockDiagonal) and X.size > NUMBERS_PER_STACK:
        pairs = zip(X.blocks(), (scale * X).blocks(), strict=True)
        return np.stack([(left.T @ right).toarray() for left, right in pairs])
    X = _as_array(X)
    return X.mT @ (scale * X)


def _as_array(X):
    return X.toarray() if isinstance(X, BlockDiagonal) else X


def _largest_squared_singular_value(X):
    """lambda_max(X_i'X_i) for each task, from the smaller of the two Gram matrices."""
    _, n, d = X.shape
    if min(n, d) > LARGEST_MATRIX:
        blocks = X.blocks() if isinstance(X, BlockDiagonal) else X
        return np.array([_lanczos(block) for block in blocks])
    if isinstance(X, BlockDiagonal) and X.size > NUMBERS_PER_STACK:
        gram = np.stack([((B @ B.T) if n < d else (B.T @ B)).toarray() for B in X.blocks()])
    else:
        X = _as_array(X)
        gram = X @ X.mT if n < d else X.mT @ X
    return np.linalg.eigvalsh(gram)[:, -1].clip(0)


def _lanczos(X):
    """lambda_max(X'X) without forming it."""
    if not (abs(X).max() > 0):
        return 0.0
    d = X.shape[1]
    product = LinearOperator((d, d), matvec=lambda v: X.T @ (X @ v), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(d)  # given, so that results repeat
    return eigsh(product, k=1, v0=start, return_eigenvectors=False)[0]
