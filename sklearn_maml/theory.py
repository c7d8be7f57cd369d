"""The theory of Xu, Chen & Karbasi (2021) in numbers: constants of tasks, bounds on the inner step, times, landscape.

f_1, ..., f_m are the tasks' losses, f their mean, F the mean of F_i(w) = f_i(w - alpha grad f_i(w)), alpha the inner
step size. Bounds are functions of numbers; :func:`task_constants` gets the numbers from tasks.
"""

import numpy as np
from numpy.typing import ArrayLike

from .constants import (
    Constants,
    gradient_deviation,
    gradient_deviation_rate,
    task_constants,
    third_derivative_bound,
)
from .probing import PointwiseBounds, pointwise_bounds

__all__ = [
    "Constants",
    "PointwiseBounds",
    "contraction_rates",
    "gradient_deviation",
    "gradient_deviation_rate",
    "hessian_bounds",
    "iteration_bound",
    "lyapunov_rate",
    "minimum_curvature",
    "pointwise_bounds",
    "step_bound_3_6",
    "step_bound_3_8",
    "step_bound_3_9",
    "step_bound_4_1",
    "task_constants",
    "third_derivative_bound",
    "time_bound_3_6",
    "time_bound_4_1",
]


def step_bound_3_6(L: float, mu: float, kappa: float, sigma: float) -> float:
    """Bound of the inner step size below which the MAML ODE (3.2) converges linearly: Theorem 3.6, corrected.

    The smallest of 1/(2L), 7 mu^(3/2) / (288 kappa sigma + 232 kappa sqrt(mu) sigma), (2/15)^(1/3) mu^(1/3) L^(-5/3),
    (1/15)^(1/2) mu^(1/2) L^-2 and mu / (15 L^2). The last three are what the proof needs: each of the three terms of
    (5/4) L^2 alpha (L^3 alpha^2 + 2 L^2 alpha + 2) must stay below mu/6, for zeta > mu/2 in Lemma 3.7. As printed, with
    roots over the whole products, they do not bring that about: for L = 4, mu = 0.5 they allow alpha up to 0.0456,
    where zeta = -2.78; corrected, up to 0.0021.

    The bound depends on the unit of the loss: it is not divided by c where f becomes c f (L, mu, kappa, sigma all times
    c), as 1/alpha has the unit of L. Those of Theorems 3.8, 3.9 and 4.1 are.

    Parameters
    ----------
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.

    Returns
    -------
    bound : float
        alpha must be less.

    Examples
    --------
    >>> from sklearn_maml.theory import step_bound_3_6
    >>> print(f"{step_bound_3_6(L=2.0, mu=1.0, kappa=0.0, sigma=1.0):.4f}")
    0.0167
    """
    return min(
        1 / (2 * L),
        _over(7 * mu**1.5, kappa, (288 + 232 * np.sqrt(mu)) * sigma),
        (2 / 15 * mu) ** (1 / 3) * L ** (-5 / 3),
        np.sqrt(mu / 15) / L**2,
        mu / (15 * L**2),
    )


def step_bound_3_8(L: float, mu: float, kappa: float, sigma: float, K: float) -> float:
    """Bound of the inner step size up to which mu/8 <= Hess F <= 9L/8 where norm(grad F) <= K: Theorem 3.8.

    min(1/(2L), 7 mu / (8 kappa (16 K + 9 sigma))), as printed. The proof is in an appendix that we do not have;
    ours, see :func:`hessian_bounds`, gives the same eigenvalue bounds if moreover alpha <= 1/(4L), or kappa = 0.

    Parameters
    ----------
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.
    K : float
        Bound of norm(grad F).

    Returns
    -------
    bound : float
        alpha must not be more.

    Examples
    --------
    >>> from sklearn_maml.theory import step_bound_3_8
    >>> print(f"{step_bound_3_8(L=2.0, mu=1.0, kappa=1.0, sigma=0.0, K=1.0):.4f}")
    0.0547
    """
    return min(1 / (2 * L), _over(7 * mu, kappa, 8 * (16 * K + 9 * sigma)))


def step_bound_3_9(L: float, mu: float, kappa: float, sigma: float) -> float:
    """Bound of the inner step size up to which F has one critical point, its global minimum: Theorem 3.9.

    min(1/(4L), 7 mu / (8 kappa (16 K + 9 sigma))) with the smallest K allowed, (9/7 sqrt(L/mu) + 1) sigma.
    The proof of :func:`minimum_curvature` proves it, with room to spare.

    Parameters
    ----------
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.

    Returns
    -------
    bound : float
        alpha must not be more.

    Examples
    --------
    >>> from sklearn_maml.theory import step_bound_3_9
    >>> step_bound_3_9(L=2.0, mu=1.0, kappa=0.0, sigma=1.0)
    0.125
    """
    K = (9 / 7 * np.sqrt(L / mu) + 1) * sigma
    return min(1 / (4 * L), step_bound_3_8(L, mu, kappa, sigma, K))


def step_bound_4_1(L: float, mu: float, kappa: float, sigma: float, switch_tol: float) -> float:
    """Bound of the inner step size below which the BI-MAML ODE (Algorithm 1) converges linearly: Theorem 4.1.

    min(1/(2L), 7 mu / (288 kappa eps0 + 232 kappa sigma)): that of Theorem 3.8 with K = (9 eps0 + 5 sigma) / 4, which
    bounds norm(grad F) where norm(grad f) <= eps0, see (3.4).

    Parameters
    ----------
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.
    switch_tol : float
        eps0, the norm of grad f at which the second phase begins.

    Returns
    -------
    bound : float
        alpha must be less.

    Examples
    --------
    >>> from sklearn_maml.theory import step_bound_4_1
    >>> print(f"{step_bound_4_1(L=2.0, mu=1.0, kappa=1.0, sigma=0.0, switch_tol=0.1):.4f}")
    0.2431
    """
    return step_bound_3_8(L, mu, kappa, sigma, (9 * switch_tol + 5 * sigma) / 4)


def lyapunov_rate(inner_step_size: float, L: float, mu: float) -> float:
    """Zeta of Lemma 3.7: along the MAML ODE, d/dt norm(grad f)^2 / 2 <= sigma^2 / 2 - zeta norm(grad f)^2.

    zeta = mu - (5/4) L^2 alpha (L^3 alpha^2 + 2 L^2 alpha + 2), (3.5). The proof needs alpha <= 1/(2L), which the lemma
    does not mention: with b = 2 alpha L + alpha^2 L^2 >= norm(B_i) the left side is at most
    -mu g^2 + L b g (g + sigma), g = norm(grad f), and L b + (L b)^2 / 2 <= (5/4) L^2 alpha (L b + 2) as
    b <= (5/2) alpha L. sigma is that of the points passed through.

    Parameters
    ----------
    inner_step_size : float
        alpha.
    L, mu : float
        Constants of Assumptions 3.2 and 3.3.

    Returns
    -------
    zeta : float
        Where positive, norm(grad f) shrinks down to sigma / sqrt(2 zeta), whatever the start.

    Examples
    --------
    >>> from sklearn_maml.theory import lyapunov_rate
    >>> print(f"{lyapunov_rate(0.01, L=2.0, mu=1.0):.4f}")
    0.8960
    """
    a = inner_step_size
    return mu - 5 / 4 * L**2 * a * (L**3 * a**2 + 2 * L**2 * a + 2)


def time_bound_3_6(
    inner_step_size: float,
    L: float,
    mu: float,
    sigma: float,
    gradient_norm: float,
    tol: float,
    meta_step_size: float = 1.0,
) -> float:
    """Time after which the MAML ODE has brought norm(grad F) to `tol`: Theorem 3.6 with its constants.

    The paper gives it up to a constant, O(.). The steps of its proof, done with their factors, give

        t <= log((2 zeta g0^2 - sigma^2) / (2 zeta sigma^2 / mu - sigma^2)) / (2 zeta) + (8 / mu) log(K / tol),

    g0 = norm(grad f(w0)), K = (9 / sqrt(mu) + 5) sigma / 4, zeta of :func:`lyapunov_rate`. The first part, for
    norm(grad f)^2 to reach sigma^2 / mu by Lemma 3.7, is 0 if it starts there. The second is gradient flow on a
    mu/8-strongly convex F, along which d/dt norm(grad F)^2 <= -2 (mu / 8) norm(grad F)^2. (The paper leaves out the
    factors 2 of both derivatives, so that its times are twice these; and its iota is zeta - mu/2.)

    Parameters
    ----------
    inner_step_size : float
        alpha, less than :func:`step_bound_3_6`.
    L, mu, sigma : float
        Constants of Assumptions 3.2 to 3.4.
    gradient_norm : float
        norm(grad f(w0)) at the start.
    tol : float
        Norm of grad F to be reached.
    meta_step_size : float, default=1.0
        beta of dw/dt = -beta grad F: time divides by it.

    Returns
    -------
    t : float
        Infinite if zeta <= mu/2, or if sigma = 0 and the start is not the minimum.

    Examples
    --------
    >>> from sklearn_maml.theory import time_bound_3_6
    >>> print(f"{time_bound_3_6(0.01, L=2.0, mu=1.0, sigma=1.0, gradient_norm=10.0, tol=1e-3):.1f}")
    68.3
    """
    rate = lyapunov_rate(inner_step_size, L, mu)
    first = 0.0
    if gradient_norm**2 > sigma**2 / mu:
        goal = 2 * rate * sigma**2 / mu - sigma**2
        first = np.log((2 * rate * gradient_norm**2 - sigma**2) / goal) / (2 * rate) if goal > 0 else np.inf
    return float(first + 8 / mu * _log((9 / np.sqrt(mu) + 5) * sigma / (4 * tol))) / meta_step_size


def time_bound_4_1(
    mu: float, sigma: float, gradient_norm: float, switch_tol: float, tol: float, meta_step_size: float = 1.0
) -> float:
    """Time after which the BI-MAML ODE (Algorithm 1) has brought norm(grad F) to `tol`: Theorem 4.1, corrected.

        t <= (log(g0 / eps0) / mu + (8 / mu) log((9 eps0 + 5 sigma) / (4 tol))) / beta,  g0 = norm(grad f(w0)):

    gradient flow on f, which is mu-strongly convex, down to norm(grad f) = eps0; then on F, which is mu/8-strongly
    convex from there on. Their sum is at most (8 / mu) log((9 eps0 + 5 sigma) g0 / (4 eps0 tol)), the paper's time with
    the constant 8 in place of O(.) and two corrections: it prints eps0 + 5 sigma, but (3.4) with norm(grad f) = eps0
    makes it 9 eps0 + 5 sigma; and as Algorithm 1 follows dw/dt = -beta grad, time divides by beta.

    Parameters
    ----------
    mu, sigma : float
        Constants of Assumptions 3.3 and 3.4; sigma is needed at the switch only.
    gradient_norm : float
        norm(grad f(w0)) at the start.
    switch_tol : float
        eps0.
    tol : float
        Norm of grad F to be reached.
    meta_step_size : float, default=1.0
        beta.

    Returns
    -------
    t : float
        The bound, if alpha is less than :func:`step_bound_4_1`.

    Examples
    --------
    >>> from sklearn_maml.theory import time_bound_4_1
    >>> print(f"{time_bound_4_1(mu=1.0, sigma=1.0, gradient_norm=10.0, switch_tol=0.1, tol=1e-3):.1f}")
    63.0
    """
    first = _log(gradient_norm / switch_tol)
    return float(first + 8 * _log((9 * switch_tol + 5 * sigma) / (4 * tol))) / mu / meta_step_size


def hessian_bounds(
    inner_step_size: float, L: float, mu: float, kappa: float, sigma: float, K: float
) -> tuple[float, float]:
    """Bounds of the eigenvalues of Hess F wherever norm(grad F) <= K: what we can prove of Theorem 3.8.

    Hess F = mean A_i H_i(w_i') A_i - alpha D^3 f_i(w)[grad f_i(w_i')], where w_i' is the adapted w and, for
    a = alpha L < 1, 1 - a <= A_i <= 1 - alpha mu. The first part is between (1 - a)^2 mu and (1 - alpha mu)^2 L. The
    second is at most alpha kappa mean norm(grad f_i(w_i')) <= alpha kappa (norm(grad f(w)) + sigma). And as
    grad F = mean A_i C_i grad f_i, C_i = I - alpha (mean Hessian on the way), norm(A_i C_i - (1 - r) I) <= r for
    r = a - a^2/4,

        norm(grad f) <= (K + r sigma) / (1 - 2r).

    For alpha within the bound of Theorem 3.8 and at most 1/(4L) this implies mu/8 and 9L/8.

    Parameters
    ----------
    inner_step_size : float
        alpha.
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.
    K : float
        Bound of norm(grad F).

    Returns
    -------
    lower, upper : float
        Infinite where the proof does not reach: alpha >= (2 - sqrt(2))/L with kappa > 0.

    Examples
    --------
    >>> from sklearn_maml.theory import hessian_bounds
    >>> lower, upper = hessian_bounds(0.1, L=2.0, mu=1.0, kappa=0.0, sigma=1.0, K=1.0)
    >>> print(f"{lower:.2f} {upper:.2f}")
    0.64 1.62
    """
    a = inner_step_size * L
    r = a - a**2 / 4
    reach = np.inf if a >= 2 - np.sqrt(2) else (K + (1 - r) * sigma) / (1 - 2 * r)
    third = inner_step_size * kappa * reach if kappa else 0.0
    smallest = max(0.0, 1 - a, inner_step_size * mu - 1)
    largest = max(1 - inner_step_size * mu, a - 1)
    return smallest**2 * mu - third, largest**2 * L + third


def minimum_curvature(
    inner_step_size: float, L: float, mu: float, kappa: float, sigma: float, gradient_norm: float
) -> float:
    """Strong convexity constant of F on a convex set that holds a point and all critical points of F.

    Where it is positive F has one critical point, its global minimum, and a point in the set is no further from it than
    norm(grad F) over this constant. The argument is that of Theorem 3.9, for any alpha < (2 - sqrt(2))/L:

    By the last step of :func:`hessian_bounds`, critical points have norm(grad f) <= r sigma / (1 - 2r). Let G be that,
    or norm(grad f) at the point if more. V = {f <= min f + G^2 / (2 mu)} is convex, and holds all w with
    norm(grad f(w)) <= G; in V, norm(grad f) <= G sqrt(L/mu). So, in V, Hess F >= (1 - alpha L)^2 mu -
    alpha kappa (G sqrt(L/mu) + sigma). F has a minimum, since alpha L < 1 and every f_i grows to infinity.

    Parameters
    ----------
    inner_step_size : float
        alpha.
    L, mu, kappa, sigma : float
        Constants of Assumptions 3.2 to 3.5.
    gradient_norm : float
        norm(grad f) at the point.

    Returns
    -------
    curvature : float
        Nothing follows where it is not positive.

    Examples
    --------
    >>> from sklearn_maml.theory import minimum_curvature
    >>> print(f"{minimum_curvature(0.1, L=2.0, mu=1.0, kappa=0.0, sigma=1.0, gradient_norm=1.0):.2f}")
    0.64
    """
    a = inner_step_size * L
    if a >= 2 - np.sqrt(2) or mu <= 0:
        return -np.inf
    third = 0.0
    if kappa:
        r = a - a**2 / 4
        G = max(gradient_norm, r * sigma / (1 - 2 * r))
        third = inner_step_size * kappa * (G * np.sqrt(L / mu) + sigma)
    return (1 - a) ** 2 * mu - third


def contraction_rates(eigenvalues: ArrayLike, meta_step_size: float) -> tuple[float, float]:
    """How fast gradient descent and the gradient flow approach the minimum of a quadratic, f or F.

    Parameters
    ----------
    eigenvalues : array-like of shape (d,)
        Of its matrix: for f of mean H_i, for F of mean H_i (I - alpha H_i)^2.
    meta_step_size : float
        beta.

    Returns
    -------
    per_step : float
        max abs(1 - beta lambda): what the distance to the minimum, and the gradient, are at most multiplied with in one
        step of gradient descent. It diverges from 1 on.
    per_time : float
        exp(-beta min lambda), the same for the flow dw/dt = -beta grad in a unit of time.

    Examples
    --------
    >>> from sklearn_maml.theory import contraction_rates
    >>> per_step, per_time = contraction_rates([0.5, 2.0], meta_step_size=0.4)
    >>> print(f"{per_step:.3f} {per_time:.3f}")
    0.800 0.819
    """
    per_step = np.max(np.abs(1 - meta_step_size * np.asarray(eigenvalues)))
    return float(per_step), float(np.exp(-meta_step_size * np.min(eigenvalues)))


def iteration_bound(rate: float, gradient_norm: float, tol: float) -> float:
    """Iterations (or time) after which a gradient that shrinks by `rate` each is at most `tol`.

    Parameters
    ----------
    rate : float
        One of :func:`contraction_rates`.
    gradient_norm : float
        Its norm at the start.
    tol : float
        Norm to be reached.

    Returns
    -------
    n : float
        log(gradient_norm / tol) / -log(rate), not rounded; infinite if the rate is no contraction.

    Examples
    --------
    >>> from sklearn_maml.theory import iteration_bound
    >>> print(f"{iteration_bound(0.5, gradient_norm=1.0, tol=1e-3):.2f}")
    9.97
    """
    if gradient_norm <= tol:
        return 0.0
    if rate == 0:
        return 1.0
    return float(np.log(gradient_norm / tol) / -np.log(rate)) if rate < 1 else np.inf


def _over(numerator, kappa, length):
    """A bound that is void where kappa = 0, however far the gradients are spread."""
    return np.inf if kappa == 0 or length == 0 else numerator / (kappa * length)


def _log(ratio):
    """Logarithm of a ratio, 0 where the goal is reached already."""
    return np.log(max(ratio, 1.0))
