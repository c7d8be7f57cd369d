"""The theory of Xu, Chen & Karbasi (2021) in numbers: constants of tasks, bounds on the inner step, times, landscape.

f_1, ..., f_m are the tasks' losses, f their mean, F the mean of F_i(w) = f_i(w - alpha grad f_i(w)), alpha the inner
step size. Bounds are functions of numbers; :func:`task_constants` gets the numbers from tasks.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from .losses import PointwiseLoss
from .tasks import NUMBERS_PER_STACK, BlockDiagonal, LinearTasks, QuadraticTasks

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

_FAR = 1e8
_CELLS = 8

_OF_GENERAL_TASKS = (
    "the constants of {} cannot be computed: they take tasks with the squared loss or with rows and a pointwise loss "
    "(LinearTasks, QuadraticTasks); of other functions give Constants(L, mu, kappa, sigma) yourself"
)
_JUMPS = {
    "slope": "Assumption 3.2 (f_i twice differentiable and L-smooth) fails: the slope of the loss jumps near "
    "z = {:.6g} for y = {:.6g}. The theorems say nothing about it: use a loss with a continuous slope and curvature",
    "curvature": "Assumptions 3.2 (f_i twice differentiable) and 3.5 (kappa-Lipschitz Hessian) fail: the curvature of "
    "the loss jumps near z = {:.6g} for y = {:.6g}, so that kappa is infinite. Use a loss with a continuous curvature",
}


class Constants(NamedTuple):
    """L, mu, kappa and sigma of Assumptions 3.2 to 3.5, the worst of all tasks.

    Parameters
    ----------
    L, mu : float
        Largest and smallest curvature of any f_i: mu I <= Hess f_i <= L I.
    kappa : float
        Lipschitz constant of every Hess f_i.
    sigma : float
        Bound of the root mean square of norm(grad f_i - grad f); may be infinite.
    exact : bool, default=True
        Whether they follow from the data by proof, to rounding; False if they rest on probing a loss at many points.
    """

    L: float
    mu: float
    kappa: float
    sigma: float
    exact: bool = True


class PointwiseBounds(NamedTuple):
    """Bounds of a pointwise loss over z, each of the shape of the targets: what :func:`pointwise_bounds` finds.

    Parameters
    ----------
    low, high : ndarray
        Of the curvature.
    third : ndarray
        Of the absolute derivative of the curvature.
    slope : ndarray
        Of the absolute slope.
    exact : bool
        Whether they follow by proof; False if they rest on probing.
    """

    low: np.ndarray
    high: np.ndarray
    third: np.ndarray
    slope: np.ndarray
    exact: bool


def task_constants(
    stacks: Sequence[LinearTasks | QuadraticTasks], w: np.ndarray | None = None, radius: float = np.inf
) -> Constants:
    """L, mu, kappa and sigma of tasks, on the whole space or in a ball.

    Parameters
    ----------
    stacks : list of LinearTasks or QuadraticTasks
        The tasks.
    w : ndarray of shape (d, k), default=None
        The centre of the ball. None is 0.
    radius : float, default=np.inf
        Its radius.

    Returns
    -------
    constants : Constants
        For the squared loss exact: L and mu are the extreme eigenvalues of all H_i, kappa = 0. For another loss l(y, z)
        mu and L are eigenvalues of X_i'diag(s_i c_i)X_i + diag(penalty), where c_i is a lower or upper bound of its
        curvature in z, and kappa that of X_i'diag(s_i t_i norm(x_i))X_i, where t_i bounds how fast the curvature
        changes. Given c_i and t_i that is a proof; but they are found numerically, by :func:`pointwise_bounds`.
        mu is a LOWER bound, the others are upper bounds. sigma is the smaller of sigma(w) + delta radius +
        kappa radius^2 / 2, see :func:`gradient_deviation_rate`, and the bound that a bounded slope of the loss implies;
        for quadratic tasks with different Hessians it is infinite on the whole space.

    Raises
    ------
    ValueError
        If the slope (Assumption 3.2) or the curvature (Assumptions 3.2 and 3.5) of the loss jumps.
    TypeError
        If the tasks are of another kind.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.tasks import QuadraticTasks
    >>> from sklearn_maml.theory import task_constants
    >>> H = np.array([np.diag([1.0, 2.0]), np.diag([3.0, 0.5])])
    >>> tasks = QuadraticTasks(H, np.zeros((2, 2, 1)), np.zeros((2, 1)), np.ones(2), np.zeros((2, 1)))
    >>> task_constants([tasks])
    Constants(L=3.0, mu=0.5, kappa=0.0, sigma=inf, exact=True)
    """
    d, k = stacks[0].shape[1:]
    w = np.zeros((d, k)) if w is None else w
    L, mu, kappa, exact, squares, n_tasks = 0.0, np.inf, 0.0, True, 0.0, 0
    for tasks in stacks:
        n_tasks += tasks.shape[0]
        if isinstance(tasks, QuadraticTasks):
            eigenvalues = np.linalg.eigvalsh(tasks.H + np.diagflat(tasks.penalty))
            L, mu, squares = max(L, eigenvalues.max()), min(mu, eigenvalues.min()), np.inf
            continue
        if not isinstance(tasks, LinearTasks):
            raise TypeError(_OF_GENERAL_TASKS.format(type(tasks).__name__))
        for part, X in rows_of(tasks):
            Y, S, length = tasks.Y[part], tasks.S[part], np.linalg.norm(X, axis=2, keepdims=True)
            bounds = pointwise_bounds(tasks.loss, Y, X @ w, length * radius)
            low, high, third = (
                np.reshape(reduce(bound, axis=2), (*Y.shape[:2], 1))
                for reduce, bound in ((np.min, bounds.low), (np.max, bounds.high), (np.max, bounds.third))
            )
            penalty, exact = np.diagflat(tasks.penalty), exact and bounds.exact
            L = max(L, _eigenvalues(X, S * high, penalty).max())
            mu = min(mu, _eigenvalues(X, S * low, penalty).min())
            kappa = max(kappa, _eigenvalues(X, S * third * length, 0.0).max())
            slope = np.linalg.norm(bounds.slope, axis=2, keepdims=True)
            used = np.where(S > 0, slope, 0.0)
            directly = np.sum(S * used * length, axis=(1, 2))
            by_norm = np.sqrt(_eigenvalues(X, S, 0.0).max(axis=1).clip(0) * np.sum(S * used * used, axis=(1, 2)))
            squares += np.sum(np.minimum(directly, by_norm) ** 2)
    if n_tasks == 1:
        sigma = 0.0
    else:
        rate = gradient_deviation_rate(stacks, w)
        grown = (rate * radius if rate else 0.0) + (kappa * radius**2 / 2 if kappa else 0.0)
        sigma = min(gradient_deviation(stacks, w) + grown, np.sqrt(squares / n_tasks))
    return Constants(float(L), float(max(mu, 0.0)), float(max(kappa, 0.0)), float(sigma), exact)


def gradient_deviation(stacks: Sequence[Any], w: np.ndarray) -> float:
    """sigma(w): the root mean square of norm(grad f_i(w) - grad f(w)) over tasks.

    Assumption 3.4 asks for the supremum over all w, which is infinite for quadratic tasks with different Hessians. At
    one point, such as the minimiser of f, it is always finite; along a trajectory take the largest.

    Parameters
    ----------
    stacks : list of tasks
        The tasks.
    w : ndarray of shape (d, k)
        The point.

    Returns
    -------
    sigma : float
        sigma(w).

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.tasks import QuadraticTasks
    >>> from sklearn_maml.theory import gradient_deviation
    >>> H = np.array([np.diag([1.0, 2.0]), np.diag([3.0, 2.0])])
    >>> tasks = QuadraticTasks(H, np.zeros((2, 2, 1)), np.zeros((2, 1)), np.ones(2), np.zeros((2, 1)))
    >>> gradient_deviation([tasks], np.array([[0.5], [0.0]]))
    0.5
    """
    gradients = np.concatenate([tasks.gradient(np.broadcast_to(w, tasks.shape)) for tasks in stacks])
    return float(np.sqrt(np.mean(np.sum((gradients - gradients.mean(axis=0)) ** 2, axis=(1, 2)))))


def gradient_deviation_rate(stacks: Sequence[LinearTasks | QuadraticTasks], w: np.ndarray) -> float:
    """delta: sigma(v) <= sigma(w) + delta norm(v - w) + kappa norm(v - w)^2 / 2.

    delta^2 = lambda_max(mean (H_i - H)^2), H_i = Hess f_i(w), H their mean. It follows from Taylor's theorem for each
    grad f_i(v) - grad f(v) and Minkowski's inequality; kappa = 0 for the squared loss. (Not in the paper.)

    Parameters
    ----------
    stacks : list of LinearTasks or QuadraticTasks
        The tasks.
    w : ndarray of shape (d, k)
        The point.

    Returns
    -------
    delta : float
        In units of the loss per squared unit of parameter.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.tasks import QuadraticTasks
    >>> from sklearn_maml.theory import gradient_deviation_rate
    >>> H = np.array([np.diag([1.0, 2.0]), np.diag([3.0, 2.0])])
    >>> tasks = QuadraticTasks(H, np.zeros((2, 2, 1)), np.zeros((2, 1)), np.ones(2), np.zeros((2, 1)))
    >>> gradient_deviation_rate([tasks], np.zeros((2, 1)))
    1.0
    """
    n_tasks = sum(tasks.shape[0] for tasks in stacks)
    mean = sum(H.sum(axis=1) for H in _hessians(stacks, w)) / n_tasks
    spread = sum(np.sum((H - mean[:, None]) @ (H - mean[:, None]), axis=1) for H in _hessians(stacks, w)) / n_tasks
    return float(np.sqrt(np.linalg.eigvalsh(spread).max().clip(0)))


def third_derivative_bound(stacks: Sequence[LinearTasks], V: Sequence[np.ndarray]) -> np.ndarray:
    """A matrix M with -M <= mean D^3 f_i(w)[v_i] <= M (as quadratic forms) for every w.

    M = mean X_i'diag(s_i t_i abs(X_i v_i))X_i, where t_i bounds how fast the curvature of the loss changes, see
    :func:`pointwise_bounds`. It is finer than kappa norm(v_i).

    Parameters
    ----------
    stacks : list of LinearTasks
        The tasks.
    V : list of ndarray of shape (m, d, k)
        The v_i of each stack.

    Returns
    -------
    M : ndarray of shape (k, d, d)
        One matrix for each output.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.losses import smooth_hinge_loss
    >>> from sklearn_maml.tasks import LinearTasks
    >>> from sklearn_maml.theory import third_derivative_bound
    >>> X, y, weight, penalty = np.ones((1, 3, 1)), np.ones((1, 3, 1)), np.ones((1, 3)), np.zeros((1, 1))
    >>> tasks = LinearTasks(X, y, weight, smooth_hinge_loss, penalty)
    >>> print(f"{third_derivative_bound([tasks], [np.ones((1, 1, 1))]).item():.2f}")
    9.62
    """
    total: Any = 0.0
    n_tasks = 0
    for tasks, v in zip(stacks, V, strict=True):
        n_tasks += tasks.shape[0]
        for part, X in rows_of(tasks):
            third = pointwise_bounds(tasks.loss, tasks.Y[part]).third
            weight = np.moveaxis(tasks.S[part] * third * np.abs(X @ v[part]), -1, 0)
            total = total + np.sum(X.mT @ (weight[..., None] * X), axis=1)
    return total / n_tasks


def pointwise_bounds(
    loss: PointwiseLoss, y: np.ndarray, z: float | np.ndarray = 0.0, reach: float | np.ndarray = np.inf
) -> PointwiseBounds:
    """Bounds of the curvature of a pointwise loss, of how fast it changes, and of its slope, over z.

    One constant as curvature (the squared loss) makes them exact. Otherwise they are found by probing at many points
    z' with abs(z' - z) <= reach (around 0 and y, up to 1e8, if that is infinite) and more finely where they are
    largest. That is a numerical bound and not a proof: a loss with features much finer than its own scale, far from 0
    and y, could escape it.

    Parameters
    ----------
    loss : callable
        ``loss(y, z) -> (value, slope, curvature)``.
    y : ndarray
        Targets.
    z, reach : float or ndarray that broadcasts with y
        Where to probe: around which predictions, and how far.

    Returns
    -------
    bounds : PointwiseBounds
        low <= curvature <= high, abs(d curvature / dz) <= third, abs(d value / dz) <= slope. What still grows at the
        end of the line is infinite.

    Raises
    ------
    ValueError
        If the slope or the curvature jumps.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.losses import smooth_hinge_loss
    >>> from sklearn_maml.theory import pointwise_bounds
    >>> bounds = pointwise_bounds(smooth_hinge_loss, np.array([1.0]))
    >>> print(f"curvature up to {bounds.high[0]:.3f}, slope up to {bounds.slope[0]:.3f}")
    curvature up to 2.500, slope up to 1.000
    """
    curvature = loss(y, np.zeros(y.shape))[2]
    if np.ndim(curvature) == 0:
        c = np.full(y.shape, float(curvature))
        return PointwiseBounds(c, c, np.zeros(y.shape), np.full(y.shape, np.inf), True)
    if np.all(np.isinf(reach)):
        targets, inverse = np.unique(y, return_inverse=True)
        found = [_probe(loss, part, _line(part)) for part in np.array_split(targets, 1 + len(targets) // 2000)]
        low, high, third, slope = (np.concatenate(each)[inverse.reshape(y.shape)] for each in zip(*found, strict=True))
    else:
        flat, middle, reach = (np.broadcast_to(a, y.shape).ravel() for a in (y, z, reach))
        parts = np.array_split(np.arange(y.size), 1 + y.size // 20_000)
        cells = np.linspace(-1, 1, 65)[:, None]
        found = [_probe(loss, flat[p], middle[p] + reach[p] * cells) for p in parts]
        low, high, third, slope = (np.concatenate(each).reshape(y.shape) for each in zip(*found, strict=True))
    return PointwiseBounds(low, high, third, slope, False)


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


def rows_of(tasks):
    """Some tasks at a time, so that a d x d matrix for each fits: their slice, and their rows (m, n, d)."""
    m, _, d = tasks.X.shape
    if isinstance(tasks.X, BlockDiagonal):
        yield from ((slice(i, i + 1), block.toarray()[None]) for i, block in enumerate(tasks.X.blocks()))
        return
    n_tasks = max(1, NUMBERS_PER_STACK // d**2)
    yield from ((slice(i, i + n_tasks), tasks.X[i : i + n_tasks]) for i in range(0, m, n_tasks))


def _eigenvalues(X, weight, penalty):
    """Eigenvalues of X_i'diag(weight_i)X_i + penalty, ascending, of shape (m, d)."""
    weight = np.broadcast_to(weight, (*X.shape[:2], 1))
    if not np.all(np.isfinite(weight)):
        return np.full((X.shape[0], X.shape[2]), np.inf)
    return np.linalg.eigvalsh(X.mT @ (weight * X) + penalty)


def _hessians(stacks, w):
    """Hess f_i(w) of some tasks at a time, of shape (k or 1, m, d, d): one for each output, where they differ."""
    for tasks in stacks:
        penalty = np.diagflat(tasks.penalty) if hasattr(tasks, "penalty") else 0.0
        if isinstance(tasks, QuadraticTasks):
            yield (tasks.H + penalty)[None]
        elif isinstance(tasks, LinearTasks):
            for part, X in rows_of(tasks):
                curvature = np.asarray(tasks.loss(tasks.Y[part], X @ w)[2])
                weight = tasks.S[part] * (curvature if curvature.ndim else curvature[None, None, None])
                yield np.stack([X.mT @ (each[..., None] * X) + penalty for each in np.moveaxis(weight, -1, 0)])
        else:
            raise TypeError(_OF_GENERAL_TASKS.format(type(tasks).__name__))


def _line(y):
    """Points z around 0 and around y, of shape (n, len(y)), ascending: fine near both, and far beyond."""
    near, far = np.linspace(0, 5, 101)[1:], np.geomspace(1e-3, _FAR, 89)
    offsets = np.unique(np.concatenate([-far, -near, [0.0], near, far]))
    return np.sort(np.concatenate([np.broadcast_to(offsets[:, None], (len(offsets), len(y))), y + offsets[:, None]]), 0)


def _probe(loss, y, z):
    """Extremes of the curvature, of its rate of change, and of the slope, over the columns of z."""

    def at(z):
        return loss(np.broadcast_to(y, z.shape), z)[1:]

    with np.errstate(over="ignore", invalid="ignore"):
        slope, curvature = at(z)
        _refuse_jumps(at, z, slope, curvature, y)
        far = np.abs(z) > _FAR / 1000 if np.max(np.abs(z)) >= _FAR else np.zeros(z.shape, dtype=bool)
        highest = _zoom(at, z, curvature, lambda c, _: np.maximum(c[:-1], c[1:]))
        lowest = -_zoom(at, z, curvature, lambda c, _: -np.minimum(c[:-1], c[1:]))
        third = _zoom(at, z, curvature, _steepness)
        return (
            lowest,
            _unless_growing(highest, curvature, far),
            _unless_growing(third, _steepness(curvature, z), far[1:] & far[:-1]),
            _unless_growing(np.abs(slope).max(axis=0), np.abs(slope), far),
        )


def _steepness(values, z):
    """How fast values change in each cell; 0 in cells that are too small to tell it from rounding."""
    width = np.diff(z, axis=0)
    change = np.abs(np.diff(values, axis=0))
    return np.divide(change, width, out=np.zeros_like(change), where=width > 1e-8 * (1 + np.abs(z[1:])))


def _unless_growing(largest, values, far):
    """The largest value, infinite where it lies far out, is no number, or is more than nearby."""
    nearby = np.max(np.where(far, 0.0, values), axis=0)
    outside = np.max(np.where(far, values, 0.0), axis=0)
    return np.where(np.isfinite(largest) & (outside <= (1 + 1e-6) * nearby), largest, np.inf)


def _zoom(at, z, curvature, score):
    """The largest score of a cell, looked for more and more finely around the best one."""
    best = np.full(z.shape[1], -np.inf)
    for _ in range(5):
        scores = score(curvature, z)
        best = np.maximum(best, scores.max(axis=0))
        z = _finer(z, scores.argmax(axis=0))
        curvature = at(z)[1]
    return np.maximum(best, score(curvature, z).max(axis=0))


def _finer(z, cell):
    """A finer grid over a cell of each column and its two neighbours."""
    columns = np.arange(z.shape[1])
    low, high = z[np.maximum(cell - 1, 0), columns], z[np.minimum(cell + 2, len(z) - 1), columns]
    return low + (high - low) * np.linspace(0, 1, 3 * _CELLS + 1)[:, None]


def _refuse_jumps(at, z, slope, curvature, y):
    """Raise if slope or curvature change as much in ever smaller cells around the steepest or the largest change."""
    for order, (name, start) in enumerate([("slope", slope), ("curvature", curvature)]):
        size = np.abs(start).max(axis=0)
        for score in (_steepness, lambda values, _: np.abs(np.diff(values, axis=0))):
            cells, values, changes = z, start, []
            for _ in range(14):
                cell = np.nan_to_num(score(values, cells)).argmax(axis=0)
                changes.append(np.abs(np.diff(values, axis=0))[cell, np.arange(len(y))])
                cells = _finer(cells, cell)
                values = at(cells)[order]
            jumps = (changes[-1] > 1e-3 * changes[0]) & (changes[-1] > 1e-6 * size)
            if np.any(jumps):
                i = np.flatnonzero(jumps)[0]
                raise ValueError(_JUMPS[name].format(cells[len(cells) // 2, i], y[i]))
