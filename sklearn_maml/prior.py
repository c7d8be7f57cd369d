"""The task prior: how far tasks' parameters scatter around their mean, and the noise, learned from many tasks.

The model is that of a mixed model with random coefficients: y_i = X_i w_i + noise, w_i ~ N(mean, noise_variance G),
noise ~ N(0, noise_variance). G, the covariance of the tasks' parameters in units of the noise, is all that adaptation
needs. It is found by restricted maximum likelihood (Patterson & Thompson 1971; profiled as in Bates et al. 2015), with
Newton's method: a handful of passes over the tasks.
"""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import eigh
from scipy.linalg.blas import dtrsm
from scipy.optimize import minimize, nnls

from .steps import Metric
from .tasks import LARGEST_METRIC, NUMBERS_IN_CACHE

NOISE_FLOOR = 1e-6
"""Smallest noise variance, as a share of the variance of the target."""

ACCURACY = 1e-10
"""What the slope may promise of the last step, of a likelihood that changes by 1 over a standard error."""
NEAR = 10.0
"""What Fisher scoring promises where Newton's method does better."""
MOST_STEPS = 20
"""Number of Newton steps; half of them do, but on ridges."""
ROUNDING = 1e-12
"""Relative error of the likelihood, and more."""
SMALL_TRIANGLE = 12
"""Size of triangles below which all tasks at once, row by row, are faster than one after the other."""

FAR_FROM_ZERO = 1e-4
"""Ratio of spread to size below which too few digits of the spread are left."""
_FAR = (
    "{} are further than 10,000 standard deviations from zero: the squares that are summed up hardly tell them from "
    "constants, and digits are lost. Centre them, for instance with StandardScaler or TransformedTargetRegressor"
)


@dataclass(frozen=True)
class Prior:
    """What was learned: G = basis diag(variance) basis', the basis as in :class:`Metric`, and the noise.

    Parameters
    ----------
    basis : None, ndarray of shape (d - 1,) or ndarray of shape (d, d) or (m, d, d)
        See :class:`Metric`; a matrix for each task once they have been adapted.
    variance : ndarray of shape (d, 1) or (1, 1)
        G in this basis.
    noise : ndarray of shape (k,)
        Noise variance of each output.
    """

    basis: np.ndarray | None
    variance: np.ndarray
    noise: np.ndarray

    def metric(self, penalty):
        """G as a metric for tasks with this penalty."""
        if self.basis is None or self.basis.ndim == 1:
            return Metric(self.basis, self.variance, penalty)
        return Metric.of_root(np.sqrt(self.variance.mT) * self.basis, penalty)

    def covariance(self):
        """G, of shape (d, d) or (m, d, d)."""
        d = self.variance.shape[0] if self.basis is None or self.basis.ndim == 1 else self.basis.shape[-1]
        return Metric(self.basis, self.variance, np.zeros((1, 1)))(np.eye(d))

    def of_tasks(self, numbers):
        """What is known of these tasks."""
        return self if np.ndim(self.basis) < 3 else Prior(self.basis[numbers], self.variance, self.noise)

    def with_covariance(self, covariance):
        """A prior of other covariance, (d, d) or (m, d, d)."""
        units = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1).clip(0))[..., None]
        correlation = covariance / np.where(units * units.mT > 0, units * units.mT, 1.0)
        variance, Q = np.linalg.eigh(correlation)
        return Prior(units * Q * np.sqrt(variance.clip(0))[..., None, :], np.ones((1, 1)), self.noise)


def learn_prior(stacks, metric, fit_intercept):
    """Restricted maximum likelihood estimate of G and the noise, from stacks of quadratic tasks.

    ``metric="diag"`` lets every coefficient, and the level of a task at the mean row, scatter by themselves; "full"
    lets them correlate. None if there is nothing to learn from: one task, no task of more than one row (which cannot
    tell its level from noise), no rows left once every feature has a mean coefficient, a constant target, or more than
    LARGEST_METRIC parameters.
    """
    factors = [tasks.factor() for tasks in stacks]
    d = factors[0][0].shape[2]
    if sum(len(weight) for _, _, _, weight in factors) < 2 or d > LARGEST_METRIC:
        return None
    if not all(np.all(np.isfinite(numbers)) for factor in factors for numbers in factor):
        raise np.linalg.LinAlgError("the tasks' statistics overflow")
    if max(np.max(weight) for _, _, _, weight in factors) <= 1:
        return None
    likelihood = _Likelihood(factors, fit_intercept)
    if likelihood.freedom < 1 or not np.any(likelihood.varying) or not np.any(likelihood.scale):
        return None
    variance, point = _diagonal(likelihood)
    if metric == "diag":
        variance = np.divide(variance, likelihood.scale**2, out=np.zeros(d), where=likelihood.scale > 0)
        return Prior(likelihood.mean_row, variance[:, None], likelihood.noise_of(point))
    root, point = _full(likelihood, point)
    return Prior(likelihood.from_standard @ root, np.ones((1, 1)), likelihood.noise_of(point))


def _diagonal(likelihood):
    """The most likely variances, G = diag(variance), and the likelihood there.

    Fisher scoring from afar, where its model, a covariance linear in the variances and the noise, holds at any distance
    (the first step, from G = 0, is the unbiased quadratic estimate, MINQUE, Rao 1971), and Newton's method nearby.
    """
    variance = np.zeros(len(likelihood.scale))
    point, former, length = likelihood(variance), None, 1.0
    for _ in range(MOST_STEPS):
        slope, expected, observed = point.diagonal
        point.blocks = None  # as many numbers as the rows; the next point has its own
        step = _bounded_step(expected, slope, variance)
        if -slope @ step < NEAR:
            curvature = model = _between(observed, expected)
            if former is not None:
                move = variance - former[0]
                model = _with_secant(model, move, slope - former[1] + (curvature - former[2]) @ move / 2)
            step = _bounded_step(model, slope, variance)
            former = variance, slope, curvature
        noise_left = 1 - step @ np.diagonal(point.information) / likelihood.freedom
        promise, step = -slope @ step, step / max(0.05, noise_left)  # G is in units of it
        length = min(1.0, 4 * length)
        while length * promise > ACCURACY:
            ahead = (variance + length * step).clip(0)
            trial = likelihood(np.sqrt(ahead))
            if trial.value <= point.value + ROUNDING * abs(point.value):
                break
            length /= 2
        else:
            return variance, point
        variance, point = ahead, trial
    return _along_a_ridge(likelihood, variance)


def _along_a_ridge(likelihood, variance):
    """The same from nearby by L-BFGS, where noise and scatter of many features can pass for each other."""
    start = likelihood(np.sqrt(variance)).value

    def function(root):
        point = likelihood(root)
        return point.value - start, 2 * point.diagonal[0] * root

    options = {"ftol": 1e-12, "gtol": 1e-5, "maxiter": 200, "maxcor": 20}
    root = minimize(function, np.sqrt(variance), jac=True, method="L-BFGS-B", options=options).x
    return root**2, likelihood(np.abs(root))


def _bounded_step(curvature, slope, variance):
    """To the least of the quadratic model of the likelihood among variances of at least 0."""
    if not (np.all(np.isfinite(curvature)) and np.all(np.isfinite(slope))):
        raise np.linalg.LinAlgError("the likelihood overflows")
    root = np.linalg.cholesky(curvature).T
    units = np.linalg.norm(root, axis=0)
    target = np.linalg.solve(root.T, curvature @ variance - slope)
    return nnls(root / units, target)[0] / units - variance


def _between(observed, expected):
    """The observed second derivatives, where they are between a tenth and three times the expected ones."""
    ratio, U = eigh(observed, expected)
    return (expected @ U * ratio.clip(0.1, 3)) @ (expected @ U).T


def _with_secant(curvature, move, turn):
    """The second derivatives, but so that the last move turns the slope as it did (the update of BFGS)."""
    bent = curvature @ move
    if turn @ move < 0.01 * bent @ move:
        return curvature
    return curvature - np.outer(bent, bent) / (bent @ move) + np.outer(turn, turn) / (turn @ move)


def _full(likelihood, point):
    """The most likely L, G = L L', and the likelihood there, by L-BFGS.

    L = unit @ theta, in coordinates in which the tasks tell at `point` as much about one parameter as about any other:
    the expected second derivatives in G are about n_tasks times the identity there. The search starts from above, where
    every task alone would put G: from below, from singular L, it can stay there.
    """
    unit = np.sqrt(likelihood.n_tasks) * point.root
    start, theta = likelihood(unit), np.eye(unit.shape[1])

    def function(theta):
        L = unit @ theta.reshape(unit.shape[1], -1)
        point = likelihood(L)
        return point.value - start.value, 2 * (unit.T @ point.slope @ L).ravel()

    options = {"ftol": 1e-12, "gtol": 1e-5 * np.sqrt(likelihood.n_tasks), "maxiter": 300, "maxcor": 20}
    theta = minimize(function, theta.ravel(), jac=True, method="L-BFGS-B", options=options).x
    L = np.zeros((len(unit), len(unit)))
    L[:, : unit.shape[1]] = unit @ theta.reshape(unit.shape[1], -1)
    return L, likelihood(L)


class _Likelihood:
    """Minus twice the restricted log-likelihood, per output and up to a constant, as a function of L, where G = L L'.

    In standard coordinates: features centred (if there is an intercept) and of mean square one, so that neither the
    units of the features nor their origin matter. The mean of the tasks' parameters and the noise are at their best for
    each L.
    """

    def __init__(self, factors, fit_intercept):
        self.n_tasks = n_tasks = sum(len(R) for R, _, _, _ in factors)
        H = sum(np.tensordot(R / weight[:, None, None], R, axes=([0, 1], [0, 1])) for R, _, _, weight in factors)
        H /= n_tasks
        self.mean_row = H[-1, :-1] / H[-1, -1] if fit_intercept else None
        centre = Metric(self.mean_row, np.ones((1, 1)), None).to(np.eye(len(H)))
        scale = np.sqrt(np.diag(centre.T @ H @ centre).clip(0))
        raw = np.sqrt(np.diag(H))
        self.scale = np.where(scale > 1e-7 * raw, scale, 0.0)
        self.from_standard = centre / np.where(self.scale > 0, scale, np.inf)
        weight = sum(weight.sum() for _, _, _, weight in factors)
        square = sum(rest.sum(axis=0) + np.sum(Z * Z, axis=(0, 1)) for _, Z, rest, _ in factors)
        mean = sum(np.tensordot(R[..., -1], Z, axes=2) for R, Z, _, _ in factors) / weight if fit_intercept else 0.0
        variance = square / weight - mean * mean
        self.varying = (variance > 1e-14 * square / weight) & (NOISE_FLOOR * variance > 0)  # others tell nothing
        self.floor = NOISE_FLOOR * variance[self.varying]
        far = (self.scale > 0) & (scale < FAR_FROM_ZERO * raw)
        if np.any(far) or np.any(self.varying & (variance < FAR_FROM_ZERO**2 * square / weight)):
            what = f"features {np.flatnonzero(far).tolist()}" if np.any(far) else "the target"
            warnings.warn(_FAR.format(what), UserWarning, stacklevel=6)
        self.rest = sum(rest.sum(axis=0) for _, _, rest, _ in factors)[self.varying]
        self.blocks = []  # R and Z side by side, as many tasks as their d x d matrices fit the cache
        factors.reverse()
        while factors:  # they are as many numbers, and not needed any more
            R, Z, _, _ = factors.pop()
            RZ = np.concatenate([R @ self.from_standard, Z[..., self.varying]], axis=2)
            self.blocks += np.array_split(RZ, -(-len(RZ) * len(H) ** 2 // NUMBERS_IN_CACHE))
        eigenvalues = np.linalg.eigvalsh(sum(_gram(block)[: len(H), : len(H)] for block in self.blocks))
        self.rank = np.sum(eigenvalues > 1e-10 * eigenvalues[-1])
        self.freedom = weight - self.rank

    def __call__(self, L):
        return _Point(self, L)

    def noise_of(self, point):
        """Noise variance of every output, 0 of those that do not vary."""
        noise = np.zeros(len(self.varying))
        noise[self.varying] = point.noise
        return noise


class _Point:
    """Value, derivatives in G and noise at one L, after generalised least squares for the mean.

    L is a matrix, or the diagonal of one. What is needed of a task with V = I + R G R' is V^-1/2 [R, Z], for the
    triangular root of V: it gives R'V^-1 R, its information M, and R'V^-1 (Z - R mean), its error g.
    """

    def __init__(self, likelihood, L):
        self.likelihood, d = likelihood, len(L)
        self.blocks, gram, logs = [], 0.0, 0.0
        for block in likelihood.blocks:
            if np.any(L):
                RL = block[..., :d] * L if L.ndim == 1 else block[..., :d] @ L
                V = RL @ RL.mT
                V[:, *np.diag_indices(V.shape[1])] += 1
                root = np.linalg.cholesky(V)
                logs += 2 * np.log(np.diagonal(root, axis1=1, axis2=2)).sum()
                block = _solve_triangles(root, block)
            gram = gram + _gram(block)
            self.blocks.append(block)
        self.information, q = gram[:d, :d], gram[:d, d:]
        eigenvalues, P = (part[..., d - likelihood.rank :] for part in np.linalg.eigh(self.information))
        eigenvalues = np.where(eigenvalues > 0, eigenvalues, np.inf)  # what rounding has made singular is not likely
        self.root = P / np.sqrt(eigenvalues)
        self.mean = self.root @ (self.root.T @ q)
        square = likelihood.rest + np.diagonal(gram)[d:] - np.sum(q * self.mean, axis=0)
        k, freedom = len(square), likelihood.freedom
        self.noise = np.maximum(square / freedom, likelihood.floor)
        logs += np.log(eigenvalues).sum()
        self.value = np.sum(freedom * np.log(self.noise / likelihood.floor) + square / self.noise) / k + logs
        self.precision = 1 / (k * self.noise)
        self.free = np.where(square > freedom * likelihood.floor, 1.0, 0.0)  # of the floor

    def _tasks(self):
        """V^-1/2 R and g of one block of tasks after the other."""
        d = len(self.mean)
        for block in self.blocks:
            R = block[..., :d]
            yield R, R.mT @ (block[..., d:] - R @ self.mean)

    @cached_property
    def diagonal(self):
        """In the diagonal of G: the slope, and the second derivatives, expected and observed.

        The slope is exact. The second derivatives are so but for what the mean takes of traces, little with many tasks.
        """
        d, taken, squares, spread, cross, lengths = len(self.mean), 0.0, 0.0, 0.0, 0.0, 0.0
        for R, g in self._tasks():
            M = R.mT @ R
            B = M @ self.root if 2 * R.shape[1] > d else R.mT @ (R @ self.root)
            taken = taken + np.einsum("iab,iab->a", B, B)
            squares = squares + np.einsum("iab,iab->ab", M, M)
            spread = spread + np.einsum("iab,iab->ab", M, (self.precision * g) @ g.mT)
            cross = cross + np.einsum("iak,iab->kab", g, M)
            lengths = lengths + self.precision * np.sum(g * g, axis=0)
        trace, n_rows = np.diagonal(self.information), self.likelihood.freedom + self.likelihood.rank
        expected = squares + np.diag(np.where(trace > 0, 1e-10 * np.diagonal(squares), 1.0))
        at_most = trace @ np.linalg.solve(expected, trace)  # n_rows if rows weigh 1
        expected -= self.free.mean() / max(n_rows, 1.1 * at_most) * np.outer(trace, trace)
        cross = cross @ self.root
        observed = 2 * (spread - np.einsum("k,kar,kbr->ab", self.precision, cross, cross))
        observed -= (1 - taken.sum() / trace.sum()) * squares
        observed -= len(self.free) / self.likelihood.freedom * (self.free * lengths) @ lengths.T
        return trace - taken - lengths.sum(axis=1), expected, observed

    @cached_property
    def slope(self):
        """In all of G, of shape (d, d)."""
        slope = self.information
        for R, g in self._tasks():
            B = R @ self.root
            taken = np.tensordot(R, B @ B.mT @ R, axes=([0, 1], [0, 1]))
            slope = slope - taken - np.tensordot(self.precision * g, g, axes=([0, 2], [0, 2]))
        return slope


def _gram(blocks):
    """Sum over tasks of B'B."""
    return np.tensordot(blocks, blocks, axes=([0, 1], [0, 1]))


def _solve_triangles(root, B):
    """Solve root_i X_i = B_i for lower triangles: small ones row by row for all tasks, large ones task by task."""
    X, n = B.copy(), root.shape[1]
    if n < SMALL_TRIANGLE:
        for i in range(n):
            X[:, i] -= (root[:, i, None, :i] @ X[:, :i])[:, 0]
            X[:, i] /= root[:, i, i, None]
    else:
        for triangle, columns in zip(root, X, strict=True):
            dtrsm(1.0, triangle.T, columns.T, side=1, overwrite_b=1)  # in place: both are in Fortran's order
    return X
