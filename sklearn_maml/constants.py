"""L, mu, kappa and sigma of the assumptions of Xu, Chen & Karbasi (2021), computed from tasks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .probing import pointwise_bounds
from .tasks import NUMBERS_PER_STACK, BlockDiagonal, LinearTasks, QuadraticTasks

_OF_GENERAL_TASKS = (
    "the constants of {} cannot be computed: they take tasks with the squared loss or with rows and a pointwise loss "
    "(LinearTasks, QuadraticTasks); of other functions give Constants(L, mu, kappa, sigma) yourself"
)


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

    Examples
    --------
    >>> from sklearn_maml.theory import Constants, step_bound_3_9
    >>> constants = Constants(L=2.0, mu=1.0, kappa=0.0, sigma=0.5)
    >>> step_bound_3_9(*constants[:4])
    0.125
    """

    L: float
    mu: float
    kappa: float
    sigma: float
    exact: bool = True


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
