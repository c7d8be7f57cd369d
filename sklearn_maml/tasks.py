"""Stacks of tasks f_1, ..., f_m: functions of w with a value, a gradient and Hessian-vector products.

A task is a weighted mean of pointwise losses over its rows (:class:`LinearTasks`). For the squared loss of few rows
there are shortcuts (:class:`FewRowTasks`), and many rows are summarised in d x d numbers (:class:`QuadraticTasks`).
Nothing outside this file knows which of them it has.
"""

import math
from abc import ABC, abstractmethod
from functools import cached_property, partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import LinearOperator, eigsh

from .arrays import einsum, empty, eye, is_numpy, like, namespace, take, to_host
from .losses import curvature_bound, working_curvature

NUMBERS_PER_STACK = 250_000
"""Size of a stack: as many tasks as fit the processor's cache; also the unit of parallel work."""
NUMBERS_IN_CACHE = 128_000
"""Size of the parts in which rows are summed up, and of the stacks of the sums."""
LARGEST_MATRIX = 2_000
"""Largest d for which d x d matrices are formed; beyond, only products with the rows."""
LARGEST_METRIC = 500
"""Largest d for which the scatter of the tasks' parameters is learned."""


def stays_rows(n, d, penalised):
    """Whether n rows of d parameters take fewer multiplications as rows, in one inner step, than as d x d numbers.

    As rows (:class:`FewRowTasks`): X X' and its product with X, n n d each, and the sums X'X of f and F, symmetric,
    n d d / 2 each; with a penalty six products of X with d x d numbers. As d x d numbers H (:class:`QuadraticTasks`):
    X'X, symmetric, n d d / 2, then H P H and its sum, d d d each.
    """
    as_rows = 6 * n * d * d if penalised else 2 * n * n * d + n * d * d
    return as_rows < n * d * d / 2 + 2 * d**3


class Function(ABC):
    """What tasks, f and F have in common: they can be expanded to second order around a point."""

    @abstractmethod
    def expand(self, W):
        """Value and gradient at W, and the function V -> (Hessian at W) V."""

    def differentiate(self, W):
        """Gradient at W, and the function V -> (Hessian at W) V: all that an inner step needs."""
        return self.expand(W)[1:]

    def value(self, W):
        """Value at W."""
        return self.expand(W)[0]

    def gradient(self, W):
        """Gradient at W."""
        return self.expand(W)[1]

    def hessp(self, W, V):
        """Hessian at W times V."""
        return self.expand(W)[2](V)

    def working_hessian(self):
        """Hess f, (d, d), with the working curvature of the loss: in which coordinates to search. None if unknown."""
        return None

    def place(self, numbers):
        """NumPy's numbers, where those of the function are."""
        return numbers

    def descend(self, w, step):
        """Iterates w <- w - step grad F(w), without end: each with its value and the norm of its gradient."""
        while True:
            value, gradient, _ = self.expand(w)
            with np.errstate(over="ignore", invalid="ignore"):  # whoever follows looks at the value
                ahead, norm = w - step * gradient, np.linalg.norm(gradient)
            yield w, value, norm
            w = ahead


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
        xp = namespace(Y)
        self.weight = xp.sum(weight, axis=1)
        self.S = (weight / self.weight[:, None])[..., None]
        self._penalised = bool(xp.any(penalty))

    def expand(self, W):
        value, *derivatives = self._pointwise(W)
        value = einsum("mn,mnk->m", self.S[..., 0], value)
        if self._penalised:
            value = value + einsum("d,mdk,mdk->m", self.penalty[:, 0] / 2, W, W)
        return value, *derivatives

    def differentiate(self, W):
        return self._pointwise(W)[1:]

    def place(self, numbers):
        return like(numbers, self.Y)

    def _pointwise(self, W):
        """Value of each row, gradient and Hessian product."""
        value, slope, curvature = self.loss(self.Y, self._predict(W))

        def hessp(V):
            product = self.X.mT @ (self.S * curvature * (self.X @ V))
            return product + self.penalty * V if self._penalised else product

        gradient = self.X.mT @ (self.S * slope)
        return value, gradient + self.penalty * W if self._penalised else gradient, hessp

    def _predict(self, W):
        if isinstance(self.X, BlockDiagonal) or not is_numpy(W) or W.strides[0]:
            return self.X @ W
        m, n, d = self.X.shape  # the same parameters for all tasks: one product of a matrix and a vector
        return (self.X.reshape(-1, d) @ W[0]).reshape(m, n, -1)

    @cached_property
    def _working_weight(self):
        """Weights times the working curvature of the pointwise loss, of shape (m, n, 1)."""
        curvature = working_curvature(self.loss, self.Y)
        return self.S * namespace(curvature).max(curvature, axis=2, keepdims=True)

    @property
    def mean_curvature(self):
        """Mean of the working curvature over a task's rows, of shape (m,)."""
        return namespace(self.Y).sum(self._working_weight, axis=(1, 2))

    def working_hessian(self):
        """Sum over the tasks; their diagonals alone if the matrix would be large, (d,)."""
        xp, penalty = namespace(self.Y), self.shape[0] * self.penalty[:, 0]
        X = xp.sqrt(self._working_weight) * self.X
        X = X.rows if isinstance(X, BlockDiagonal) else xp.reshape(X, (-1, self.shape[1]))
        if self.shape[1] > LARGEST_METRIC:
            squares = X * X
            return (squares.sum(axis=0) if sparse.issparse(X) else xp.sum(squares, axis=0)) + penalty
        H = X.T @ X
        return (H.toarray() if sparse.issparse(H) else H) + penalty * eye(self.shape[1], penalty)

    def smoothness(self):
        """Smoothness constants L_i (shape (m,)): a bound of each task's largest curvature.

        lambda_max(X_i'diag(s_i c_i)X_i) + max(penalty), where c is the loss's curvature (its bound where it varies).
        """
        xp, bound = namespace(self.Y), curvature_bound(self.loss, self.Y)
        weight = self.S * xp.max(bound, axis=2, keepdims=True)
        return _largest_squared_singular_value(xp.sqrt(weight) * self.X) + xp.max(self.penalty)

    def curvature_in(self, metric):
        """lambda_max(R'H_i R) in a metric R R', of shape (m,), with the working curvature of the loss."""
        if self.X.shape[1] >= self.X.shape[2]:
            return _largest_eigenvalue(_gram(self.X, self._working_weight), metric)
        rows = metric.half_transposed((namespace(self.Y).sqrt(self._working_weight) * _as_array(self.X)).mT).mT
        return _largest_squared_singular_value(rows) + metric.largest_penalty()

    def resolvent(self, _metric):
        """Product with (A^-1 + Hess f_i)^-1, where that is one matrix and at hand: not here."""
        return None


class FewRowTasks(LinearTasks):
    """Tasks of a quadratic loss with fewer rows than parameters: H = U U' + diag(penalty), no d x d matrix for each.

    Parameters are those of :class:`LinearTasks`.
    """

    @cached_property
    def _rows(self):
        """U', of shape (m, n, d)."""
        xp = namespace(self.Y)
        return xp.sqrt(self.S * self.loss(self.Y, xp.zeros_like(self.Y))[2]) * _as_array(self.X)

    @cached_property
    def scale(self):
        """Curvature in each parameter, the diagonal of H, of shape (m, d)."""
        return namespace(self._rows).sum(self._rows**2, axis=1) + self.penalty[:, 0]

    def hessian_sum(self, product, power):
        """As in :class:`QuadraticTasks`: (I - H P)^p H = U (I - U'P U)^p U' if there is no penalty."""
        rows, xp = self._rows, namespace(self._rows)
        if not self._penalised:
            T = S = rows
            if power:
                shrink = eye(rows.shape[1], rows) - rows @ product(rows.mT)
                T = xp.linalg.matrix_power(shrink, power // 2) @ rows
                S = shrink @ T if power % 2 else T
            return xp.tensordot(T, S, axes=([0, 1], [0, 1]))

        def hessp(V):
            return rows.mT @ (rows @ V) + self.penalty * V

        m, _, d = rows.shape
        A = hessp(xp.broadcast_to(eye(d, rows), (m, d, d)))
        for _ in range(power):
            A = A - hessp(product(A))
        return xp.sum(A, axis=0)

    def resolvent(self, metric):
        """With the penalty in A: (A^-1 + U U')^-1 = A - A U (I + U'A U)^-1 U'A."""
        A, U = metric.with_penalty(), self._rows.mT
        AU = A(U)
        inner = eye(U.shape[2], U) + U.mT @ AU
        return lambda V: A(V) - AU @ namespace(V).linalg.solve(inner, AU.mT @ V)

    def on_host(self):
        """The same tasks in NumPy."""
        if is_numpy(self.Y):
            return self
        X, Y, S, weight, penalty = map(to_host, (self.X, self.Y, self.S, self.weight, self.penalty))
        return FewRowTasks(X, Y, S[..., 0] * weight[:, None], self.loss, penalty)

    def factor(self):
        """Rows R (m, n, d), targets Z (m, n, k), rest (m, k) and total weights, of the squared loss.

        The weighted sum of squares of a task is norm(Z - R w)^2 + rest.
        """
        root = np.sqrt(self.S * self.weight[:, None, None])
        return root * _as_array(self.X), root * self.Y, np.zeros((self.shape[0], self.shape[2])), self.weight


class QuadraticTasks(Function):
    """Tasks f_i(w) = w'H_i w / 2 - c_i'w + b_i + w'diag(penalty)w / 2: sufficient statistics of the squared loss.

    Parameters
    ----------
    H : ndarray of shape (m, d, d)
        2 X_i'diag(s_i)X_i.
    C : ndarray of shape (m, d, k)
        2 X_i'diag(s_i)Y_i, one column per output.
    b : ndarray of shape (m, k)
        Weighted mean squares of the targets.
    weight : ndarray of shape (m,)
        Total weight behind each task's means: what :meth:`reduce` averages with.
    penalty : ndarray of shape (d, 1)
        Ridge penalty of each parameter.
    scale : ndarray of shape (m, d), default=None
        Curvature in each parameter before adaptation cancelled some of it, to tell rounding errors from small numbers.
        None is the diagonal of H.
    curvature : float, default=2.0
        Curvature of the pointwise loss; the 2 in H and C.
    """

    def __init__(self, H, C, b, weight, penalty, scale=None, curvature=2.0):
        self.H, self.C, self.b, self.weight, self.penalty, self.mean_curvature = H, C, b, weight, penalty, curvature
        self.scale = namespace(H).linalg.diagonal(H) + penalty[:, 0] if scale is None else scale
        self.shape = tuple(C.shape)

    @classmethod
    def of_rows(cls, X, Y, weight, loss, penalty, fit_intercept=False):
        """The tasks that :class:`LinearTasks` has of these rows, beside which `fit_intercept` sets a column of ones.

        For a loss that is no quadratic it is its expansion at 0, for a constant curvature.
        """
        xp, (m, _, d) = namespace(Y), X.shape
        total = xp.sum(weight, axis=1)
        S = (weight / total[:, None])[..., None]
        value, slope, curvature = loss(Y, xp.zeros_like(Y))
        T = S * -slope
        if not fit_intercept:
            H, C = _gram(X, S * curvature), X.mT @ T
        else:
            H = empty((m, d + 1, d + 1), Y)
            _gram(X, S * curvature, H[:, :d, :d])
            H[:, :d, d] = H[:, d, :d] = (X.mT @ (S * curvature))[..., 0]
            H[:, d, d] = curvature
            C = xp.concat([X.mT @ T, xp.sum(T, axis=1, keepdims=True)], axis=1)
        return cls(H, C, xp.sum(S * value, axis=1), total, penalty, curvature=float(curvature))

    def expand(self, W):
        def hessp(V):
            return self.H @ V + self.penalty * V

        xp = namespace(W)
        HW = hessp(W) if xp.any(W) else xp.zeros_like(self.C)  # training begins with the expansion at 0
        return xp.sum(W * (HW / 2 - self.C), axis=(1, 2)) + xp.sum(self.b, axis=1), HW - self.C, hessp

    def place(self, numbers):
        return like(numbers, self.H)

    def hessian_sum(self, product, power):
        """The d x d matrix sum_i (I - H_i P_i)^power H_i, H_i with its penalty; `product` is that with the P_i."""
        xp, H = namespace(self.H), self.H
        if xp.any(self.penalty):
            H = H + self.penalty * eye(self.shape[1], H)
        if not power:
            return xp.sum(H, axis=0)
        B, A = eye(self.shape[1], H) - product(H), H  # I - P_i H_i
        for _ in range(power - 1):
            A = B.mT @ A
        return xp.tensordot(B, A, axes=([0, 1], [0, 1]))  # all tasks in one large product

    def smoothness(self):
        """Smoothness constants lambda_max(H_i) + max(penalty), of shape (m,)."""
        xp = namespace(self.H)
        return xp.clip(xp.linalg.eigvalsh(self.H)[:, -1], 0.0, None) + xp.max(self.penalty)

    def curvature_in(self, metric):
        """lambda_max(R'H_i R) in a metric R R', of shape (m,)."""
        return _largest_eigenvalue(self.H, metric)

    def resolvent(self, metric):
        """Product with (A^-1 + H)^-1 = R (I + R'H R)^-1 R', the penalty in A = R R'."""
        xp, one = namespace(self.H), eye(self.shape[1], self.H)
        R = metric.with_penalty().half(xp.broadcast_to(one, self.H.shape))
        P = R @ xp.linalg.solve(one + R.mT @ self.H @ R, R.mT)
        P = (P + P.mT) / 2
        return lambda V: P @ V

    def factor(self):
        """As in :class:`FewRowTasks`, with d rows a task, whatever the number it had."""
        share = (self.weight / self.mean_curvature)[:, None, None]
        units = np.sqrt(np.diagonal(self.H, axis1=1, axis2=2))[..., None]  # a small feature is not a missing one
        units = np.where(units > 0, units, 1.0)
        H, C = self.H / (units * units.mT) * share, self.C / units * share
        try:
            R = np.linalg.cholesky(H).mT
            regular = np.all(np.diagonal(R, axis1=1, axis2=2) > 1e-5 * np.sqrt(share[..., 0]))
        except np.linalg.LinAlgError:
            regular = False
        if regular:
            Z = np.linalg.solve(R.mT, C)
        else:
            eigenvalues, Q = np.linalg.eigh(H)
            root = np.sqrt(np.where(eigenvalues > 1e-13 * eigenvalues[:, -1:], eigenvalues, 0.0))[..., None]
            R = root * Q.mT
            Z = np.divide(Q.mT @ C, root, out=np.zeros(self.shape), where=root > 0)
        rest = (2 * self.b * share[..., 0] - np.sum(Z * Z, axis=1)).clip(0)
        return R * units.mT, Z, rest, self.weight

    def take(self, tasks):
        """The stack of these tasks."""
        H, C, b, weight, scale = (take(numbers, tasks) for numbers in self._numbers)
        return QuadraticTasks(H, C, b, weight, self.penalty, scale, self.mean_curvature)

    @property
    def _numbers(self):
        return self.H, self.C, self.b, self.weight, self.scale

    def on_host(self):
        """The same tasks in NumPy."""
        H, C, b, weight, scale = map(to_host, self._numbers)
        return QuadraticTasks(H, C, b, weight, to_host(self.penalty), scale, self.mean_curvature)

    def stacks(self, _structure="one quadratic"):
        """The tasks in smaller stacks: pairs of task numbers and the function that builds the stack."""
        m, d, _ = self.shape
        parts = np.array_split(np.arange(m), -(-m * d * d // NUMBERS_PER_STACK))
        return [(tasks, partial(self.take, tasks)) for tasks in parts if len(tasks)]

    kept_stacks = stacks

    @classmethod
    def concatenate(cls, stacks):
        """One stack of all the tasks of several stacks."""
        parts = zip(*(stack._numbers for stack in stacks), strict=True)
        H, C, b, weight, scale = (namespace(numbers[0]).concat(numbers) for numbers in parts)
        return cls(H, C, b, weight, stacks[0].penalty, scale, stacks[0].mean_curvature)

    def reduce(self, key):
        """Average the tasks of equal key, by weight: one task for each of the keys 0, ..., max(key).

        A task whose rows came in several parts, parts that came from several machines, the mean over tasks: all are
        this one function.
        """
        if np.array_equal(key, np.arange(self.shape[0])):
            return self
        xp, host = namespace(self.H), to_host(self.weight)
        weight = np.bincount(key, host)
        shares = sparse.csr_array((host / weight[key], (key, np.arange(len(key)))))
        shares = shares if is_numpy(self.H) else like(shares.toarray(), self.H)

        def average(numbers):
            return xp.reshape(shares @ xp.reshape(numbers, (len(key), -1)), (len(weight), *numbers.shape[1:]))

        H, C, b, scale = map(average, (self.H, self.C, self.b, self.scale))
        return QuadraticTasks(H, C, b, like(weight, self.H), self.penalty, scale, self.mean_curvature)


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
    def rows(self):
        """The rows, as CSR of shape (m * n, d)."""
        m, n, d = self.shape
        return sparse.csr_array((self.matrix.data, self.matrix.indices % d, self.matrix.indptr), shape=(m * n, d))

    def with_ones(self):
        """With a column of ones beside."""
        m, n, _ = self.shape
        return BlockDiagonal.from_rows(sparse.hstack([self.rows, np.ones((m * n, 1))], format="csr"), m)

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


def _largest_eigenvalue(H, metric):
    """lambda_max(R'H_i R) in a metric, with that of the penalty."""
    half, xp = metric.half_transposed, namespace(H)
    return xp.clip(xp.linalg.eigvalsh(half(half(H).mT))[:, -1], 0.0, None) + metric.largest_penalty()


def _gram(X, scale, out=None):
    """X_i'diag(scale_i)X_i for each task, of shape (m, d, d)."""
    out = empty((X.shape[0], X.shape[2], X.shape[2]), scale) if out is None else out
    if isinstance(X, BlockDiagonal) and X.size > NUMBERS_PER_STACK:
        for each, left, right in zip(out, X.blocks(), (scale * X).blocks(), strict=True):
            each[:] = (left.T @ right).toarray()
        return out
    xp = namespace(scale)
    X, same = _as_array(X), xp.all(scale == scale[:, :1, :])
    X = X if same else xp.sqrt(scale) * X
    if xp is np:
        np.matmul(X.mT, X, out=out)  # half of the work of a product of two different ones
    else:
        out[...] = X.mT @ X
    if same:
        out *= scale[:, :1, :]
    return out


def _as_array(X):
    return X.toarray() if isinstance(X, BlockDiagonal) else X


def _largest_squared_singular_value(X):
    """lambda_max(X_i'X_i) for each task, from the smaller of the two Gram matrices."""
    m, n, d = X.shape
    if min(n, d) > LARGEST_MATRIX:
        blocks = X.blocks() if isinstance(X, BlockDiagonal) else [X[i, :, :] for i in range(m)]
        return like(np.array([_lanczos(block) for block in blocks]), X)
    if isinstance(X, BlockDiagonal) and X.size > NUMBERS_PER_STACK:
        gram = np.stack([((B @ B.T) if n < d else (B.T @ B)).toarray() for B in X.blocks()])
    else:
        X = _as_array(X)
        gram = X @ X.mT if n < d else X.mT @ X
    xp = namespace(gram)
    return xp.clip(xp.linalg.eigvalsh(gram)[:, -1], 0.0, None)


def _lanczos(X):
    """lambda_max(X'X) without forming it."""
    largest = abs(X).max() if sparse.issparse(X) else namespace(X).max(abs(X))
    if not (largest > 0):
        return 0.0
    d = X.shape[1]
    product = LinearOperator((d, d), matvec=lambda v: to_host(X.T @ (X @ like(v, X))), dtype=np.float64)
    start = np.random.default_rng(0).standard_normal(d)  # given, so that results repeat
    return eigsh(product, k=1, v0=start, return_eigenvectors=False)[0]
