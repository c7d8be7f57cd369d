"""The task prior: how far tasks' parameters scatter around their mean, and the noise, learned from many tasks.

The model is that of a mixed model with random coefficients: y_i = X_i w_i + noise, w_i ~ N(mean, noise_variance G),
noise ~ N(0, noise_variance). G, the covariance of the tasks' parameters in units of the noise, is all that adaptation
needs. It is found by restricted maximum likelihood (Patterson & Thompson 1971; profiled as in Bates et al. 2015).
"""

import warnings
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize

from .steps import Metric
from .tasks import LARGEST_METRIC, NUMBERS_PER_STACK

NOISE_FLOOR = 1e-6
"""Smallest noise variance, as a share of the variance of the target."""

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
    d = stacks[0].shape[1]
    if sum(tasks.shape[0] for tasks in stacks) < 2 or d > LARGEST_METRIC:
        return None
    factors = [tasks.factor() for tasks in stacks]
    if not all(np.all(np.isfinite(numbers)) for factor in factors for numbers in factor):
        raise np.linalg.LinAlgError("the tasks' statistics overflow")
    if max(np.max(weight) for _, _, _, weight in factors) <= 1:
        return None
    likelihood = _Likelihood(factors, fit_intercept)
    if likelihood.freedom < 1 or not np.any(likelihood.varying):
        return None
    diagonal, small = _Diagonal(likelihood), np.where(likelihood.scale > 0, 0.1, 0.0)
    theta = np.abs(_descend(diagonal, _score(diagonal, small), max_iter=30))
    held = (theta < 1e-3 * small) & (np.diagonal(diagonal.at(theta).slope) < -1e-3)
    if np.any(held):  # 0 is stationary, but not the best there
        theta = np.abs(_descend(diagonal, np.where(held, small, theta), max_iter=30))
    if metric == "diag":
        variance = np.square(np.divide(theta, likelihood.scale, out=np.zeros(d), where=likelihood.scale > 0))
        return Prior(likelihood.mean_row, variance[:, None], likelihood.noise_of(diagonal.at(theta)))
    triangle = _Triangle(likelihood)
    root = _expect_and_maximise(likelihood, np.diag(np.maximum(theta, small)), max_iter=50)  # not from a saddle
    entries = _descend(triangle, root[triangle.entries], max_iter=200)
    noise = likelihood.noise_of(triangle.at(entries))
    return Prior(likelihood.from_standard @ triangle.fill(entries), np.ones((1, 1)), noise)


def _score(diagonal, theta):
    """Fisher scoring in a trust region: a few iterations come close, also from far away."""
    return minimize(
        diagonal.value, theta, jac=diagonal.slope, hess=diagonal.fisher, method="trust-exact", options={"maxiter": 20}
    ).x


def _expect_and_maximise(likelihood, root, max_iter):
    """EM steps for a full G, as long as they bring the likelihood forward: fast where tasks tell much.

    The mean of what G is expected to be given the rows, mean_i E[w_i w_i'], is G - G slope G / m.
    """
    value = np.inf
    for _ in range(max_iter):
        point = likelihood(root)
        if not point.value < value:
            break
        best, value, G = root, point.value, root @ root.T
        variance, Q = np.linalg.eigh(G - G @ point.slope @ G / likelihood.n_tasks)
        root = np.linalg.qr(np.sqrt(variance.clip(0))[:, None] * Q.T, mode="r").T
    return best


def _descend(function, theta, max_iter):
    """L-BFGS, to the end."""
    options = {"ftol": 1e-12, "gtol": 1e-5, "maxiter": max_iter}
    return minimize(function.value, theta, jac=function.slope, method="L-BFGS-B", options=options).x


class _Triangle:
    """The likelihood as a function of the entries of L, where G = L L'; remembers the last point for SciPy."""

    def __init__(self, likelihood):
        self.likelihood, self.last = likelihood, None
        self.entries = np.tril_indices(len(likelihood.scale))

    def fill(self, theta):
        L = np.zeros(self.likelihood.from_standard.shape)
        L[self.entries] = theta
        return L

    def at(self, theta):
        if self.last is None or not np.array_equal(theta, self.last):
            self.last, self.point = theta.copy(), self.likelihood(self.fill(theta))
        return self.point

    def value(self, theta):
        return self.at(theta).value

    def slope(self, theta):
        return 2 * (self.at(theta).slope @ self.fill(theta))[self.entries]


class _Diagonal(_Triangle):
    """The same for diagonal L."""

    def __init__(self, likelihood):
        super().__init__(likelihood)
        self.entries = np.diag_indices(len(likelihood.scale))

    def fisher(self, theta):
        """Expected second derivatives, and what is left of the slope where it is positive."""
        point = self.at(theta)
        return 4 * np.outer(theta, theta) * point.fisher() + np.diag(2 * np.diagonal(point.slope).clip(0))


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
        self.varying = variance > 1e-14 * square / weight  # other outputs tell nothing
        self.floor = NOISE_FLOOR * variance[self.varying]
        far = (self.scale > 0) & (scale < FAR_FROM_ZERO * raw)
        if np.any(far) or np.any(self.varying & (variance < FAR_FROM_ZERO**2 * square / weight)):
            what = f"features {np.flatnonzero(far).tolist()}" if np.any(far) else "the target"
            warnings.warn(_FAR.format(what), UserWarning, stacklevel=6)
        self.factors = [(R @ self.from_standard, Z[..., self.varying]) for R, Z, _, _ in factors]
        self.rest = sum(rest.sum(axis=0) for _, _, rest, _ in factors)[self.varying]
        information = sum(np.tensordot(R, R, axes=([0, 1], [0, 1])) for R, _ in self.factors)
        eigenvalues = np.linalg.eigvalsh(information)
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
    """Value, slope in G and noise at one L, after generalised least squares for the mean."""

    def __init__(self, likelihood, L):
        Q, q, square, logdet, solved = 0.0, 0.0, likelihood.rest, 0.0, []
        for R, Z in likelihood.factors:
            RL = R @ L
            V = RL @ RL.mT
            V[:, *np.diag_indices(V.shape[1])] += 1
            logdet += np.linalg.slogdet(V)[1].sum()
            VR, VZ = np.split(np.linalg.solve(V, np.concatenate([R, Z], axis=2)), [R.shape[2]], axis=2)
            Q = Q + np.tensordot(R, VR, axes=([0, 1], [0, 1]))
            q = q + np.tensordot(R, VZ, axes=([0, 1], [0, 1]))
            square = square + np.sum(Z * VZ, axis=(0, 1))
            solved.append((R, VR, VZ))
        eigenvalues, P = (part[..., len(Q) - likelihood.rank :] for part in np.linalg.eigh(Q))
        root = P / np.sqrt(eigenvalues)
        mean = root @ (root.T @ q)
        square = square - np.sum(q * mean, axis=0)
        k, self.freedom = len(square), likelihood.freedom
        self.noise = np.maximum(square / self.freedom, likelihood.floor)
        logs = logdet + np.log(eigenvalues).sum()
        self.value = np.sum(self.freedom * np.log(self.noise / likelihood.floor) + square / self.noise) / k + logs
        self.information, self.slope, self.solved = Q, Q.copy(), solved
        for R, VR, VZ in solved:
            shared = VR.mT @ (R @ root)
            error = R.mT @ VZ - VR.mT @ (R @ mean)
            self.slope -= np.tensordot(shared, shared, axes=([0, 2], [0, 2]))
            self.slope -= np.tensordot(error / (k * self.noise), error, axes=([0, 2], [0, 2]))

    def fisher(self):
        """Expected second derivatives in the diagonal of G, but for terms that many tasks make small."""
        trace = np.diagonal(self.information)
        total = -np.outer(trace, trace) / self.freedom
        for R, VR, _ in self.solved:
            for part in np.array_split(np.arange(len(R)), 1 + len(R) * len(trace) ** 2 // NUMBERS_PER_STACK):
                total = total + np.sum(np.square(R[part].mT @ VR[part]), axis=0)
        return total
