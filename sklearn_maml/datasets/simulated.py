"""Made-up tasks: random linear models, scikit-learn's classification problems, sinusoids."""

from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.datasets import make_classification
from sklearn.utils import Bunch, check_random_state, check_scalar

PAPER = 'Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021, section 5.'

REGRESSION = f"""Simulated linear regression tasks: y = x'w_i + noise * e, where w_i ~ N(coef_mean, coef_std^2 I), and
x ~ N(0, I) and e ~ N(0, 1) for each row of task i. With the default arguments these are the synthetic tasks of

{PAPER}"""

CLASSIFICATION = f"""Simulated binary classification tasks: each is one call of sklearn.datasets.make_classification,
with a seed of its own, whose labels 0 and 1 are renamed to -1 and +1. With the default arguments these are the
synthetic tasks of

{PAPER}

The tasks have nothing in common: each has its own informative features and its own direction between the classes."""

SINUSOID = """Simulated sinusoids: y = A_i sin(x - p_i) + noise * e with x, A_i and p_i uniform in their ranges and
e ~ N(0, 1) for the rows of task i. With the default ranges these are the regression tasks of

Chelsea Finn, Pieter Abbeel, Sergey Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks", ICML
2017, section 5.1."""


def make_regression_tasks(
    n_tasks: int = 10,
    n_samples: int | ArrayLike = 100,
    n_features: int = 20,
    *,
    noise: float = 1.0,
    coef_mean: float | ArrayLike = 0.0,
    coef_std: float | ArrayLike = 1.0,
    random_state: Any = None,
    return_X_y_groups: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make linear regression tasks whose coefficients differ at random.

    Task i has y = x'w_i + noise * e, where w_i ~ N(coef_mean, coef_std^2 I), and x ~ N(0, I) and e ~ N(0, 1) for each
    of its rows. The default arguments are those of Xu, Chen & Karbasi (2021), section 5.

    Parameters
    ----------
    n_tasks : int, default=10
        Number of tasks.
    n_samples : int or array-like of shape (n_tasks,), default=100
        Number of rows of each task.
    n_features : int, default=20
        Number of features.
    noise : float, default=1.0
        Standard deviation of the noise. The same seed gives the same X and coefficients whatever the noise.
    coef_mean : float or array-like of shape (n_features,), default=0.0
        Mean of the tasks' coefficients, the best that can be known of a new task.
    coef_std : float or array-like of shape (n_features,), default=1.0
        Their standard deviation. A feature with 0 has the same coefficient in all tasks.
    random_state : int, RandomState instance or None, default=None
        Seed. The first tasks are the same whatever the number of tasks.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple of ndarray
        With the attributes

        data : ndarray of shape (n_rows, n_features)
            Rows of all tasks, one task after the other.
        target : ndarray of shape (n_rows,)
            Targets.
        groups : ndarray of shape (n_rows,)
            Task of each row, 0 to n_tasks - 1.
        tasks : ndarray of shape (n_tasks,)
            The tasks.
        coef : ndarray of shape (n_tasks, n_features)
            Their coefficients w_i.
        DESCR : str
            Description.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int, `n_samples` does not fit the number of tasks, `coef_mean` or `coef_std` not the
        number of features, or a standard deviation is negative.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_regression_tasks
    >>> data = make_regression_tasks(50, 20, 2, coef_mean=[3.0, -2.0], coef_std=[1.0, 0.0], random_state=0)
    >>> data.data.shape, data.coef.shape
    ((1000, 2), (50, 2))
    >>> model = MAMLRegressor().fit(data.data, data.target, groups=data.groups)
    >>> model.coef_.round(1)
    array([ 3., -2.])
    """
    rng = check_random_state(random_state)
    sizes = _task_sizes(n_tasks, n_samples)
    check_scalar(n_features, "n_features", Integral, min_val=1)
    _check_noise(noise)
    mean = _per_feature(coef_mean, "coef_mean", n_features)
    std = _per_feature(coef_std, "coef_std", n_features)
    if np.any(std < 0):
        raise ValueError(f"coef_std must not be negative, got {std}")
    coef, rows, targets = [], [], []
    for size in sizes:
        coef.append(mean + std * rng.normal(size=n_features))
        rows.append(rng.normal(size=(size, n_features)))
        targets.append(rows[-1] @ coef[-1] + noise * rng.normal(size=size))
    X, y, groups = np.concatenate(rows), np.concatenate(targets), np.repeat(np.arange(n_tasks), sizes)
    if return_X_y_groups:
        return X, y, groups
    return Bunch(data=X, target=y, groups=groups, tasks=np.arange(n_tasks), coef=np.array(coef), DESCR=REGRESSION)


def make_classification_tasks(
    n_tasks: int = 50,
    n_samples: int | ArrayLike = 300,
    n_features: int = 20,
    *,
    class_sep: float = 1.0,
    flip_y: float = 0.01,
    random_state: Any = None,
    return_X_y_groups: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make binary classification tasks, each by scikit-learn's ``make_classification``.

    The default arguments are those of Xu, Chen & Karbasi (2021), section 5. Each task has its own informative features
    and its own direction between the classes, so that one model for all of them is hardly better than guessing. The
    classes are clouds of points, not the sides of a hyperplane: there are no true coefficients to return.

    Parameters
    ----------
    n_tasks : int, default=50
        Number of tasks.
    n_samples : int or array-like of shape (n_tasks,), default=300
        Number of rows of each task, evenly split between the classes but for `flip_y`.
    n_features : int, default=20
        Number of features, at least 4: two are informative, two linear combinations of these, the others noise.
    class_sep : float, default=1.0
        How far the classes are apart, see :func:`sklearn.datasets.make_classification`.
    flip_y : float, default=0.01
        Fraction of the rows that get a random label. With 0 the classes are evenly split.
    random_state : int, RandomState instance or None, default=None
        Seed. A task is the same whatever the number and the sizes of the other tasks.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple of ndarray
        With the attributes

        data : ndarray of shape (n_rows, n_features)
            Rows of all tasks, one task after the other.
        target : ndarray of shape (n_rows,)
            Labels, -1 or +1.
        groups : ndarray of shape (n_rows,)
            Task of each row, 0 to n_tasks - 1.
        tasks : ndarray of shape (n_tasks,)
            The tasks.
        DESCR : str
            Description.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int, `n_samples` does not fit the number of tasks, there are fewer than 4 features,
        `class_sep` is not positive, or `flip_y` is not a fraction.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.datasets import make_classification_tasks
    >>> X, y, groups = make_classification_tasks(3, 100, flip_y=0, random_state=0, return_X_y_groups=True)
    >>> X.shape
    (300, 20)
    >>> np.unique_counts(y[groups == 0])
    UniqueCountsResult(values=array([-1,  1]), counts=array([50, 50]))
    """
    rng = check_random_state(random_state)
    sizes = _task_sizes(n_tasks, n_samples)
    check_scalar(n_features, "n_features", Integral, min_val=4)
    seeds = rng.randint(np.iinfo(np.int32).max, size=n_tasks)
    made = [
        make_classification(size, n_features, class_sep=class_sep, flip_y=flip_y, random_state=seed)
        for size, seed in zip(sizes.tolist(), seeds.tolist(), strict=True)
    ]
    X, y = (np.concatenate(parts) for parts in zip(*made, strict=True))
    y, groups = 2 * y - 1, np.repeat(np.arange(n_tasks), sizes)
    if return_X_y_groups:
        return X, y, groups
    return Bunch(data=X, target=y, groups=groups, tasks=np.arange(n_tasks), DESCR=CLASSIFICATION)


def make_sinusoid_tasks(
    n_tasks: int = 100,
    n_samples: int | ArrayLike = 10,
    *,
    noise: float = 0.0,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, np.pi),
    x_range: tuple[float, float] = (-5.0, 5.0),
    random_state: Any = None,
    return_X_y_groups: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make tasks that are sinusoids of one feature, the regression problem of Finn, Abbeel & Levine (2017).

    Task i has y = A_i sin(x - p_i) + noise * e, where amplitude A_i, phase p_i and x are uniform in their ranges and
    e ~ N(0, 1). It is linear in sin(x) and cos(x), with coefficients A_i cos(p_i) and -A_i sin(p_i).

    Parameters
    ----------
    n_tasks : int, default=100
        Number of tasks.
    n_samples : int or array-like of shape (n_tasks,), default=10
        Number of rows of each task.
    noise : float, default=0.0
        Standard deviation of the noise. The same seed gives the same x and sinusoids whatever the noise.
    amplitude : tuple of (float, float), default=(0.1, 5.0)
        Smallest and largest amplitude.
    phase : tuple of (float, float), default=(0, pi)
        Smallest and largest phase, in radians.
    x_range : tuple of (float, float), default=(-5.0, 5.0)
        Smallest and largest x.
    random_state : int, RandomState instance or None, default=None
        Seed. The first tasks are the same whatever the number of tasks.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple of ndarray
        With the attributes

        data : ndarray of shape (n_rows, 1)
            The x of all tasks, one task after the other.
        target : ndarray of shape (n_rows,)
            Targets.
        groups : ndarray of shape (n_rows,)
            Task of each row, 0 to n_tasks - 1.
        tasks : ndarray of shape (n_tasks,)
            The tasks.
        amplitude, phase : ndarray of shape (n_tasks,)
            Their amplitudes A_i and phases p_i.
        DESCR : str
            Description.

    Raises
    ------
    TypeError, ValueError
        If a size is not a positive int, `n_samples` does not fit the number of tasks, a range is not two finite numbers
        in increasing order, or `noise` is negative.

    References
    ----------
    Chelsea Finn, Pieter Abbeel, Sergey Levine, "Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks",
    ICML 2017, section 5.1.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.datasets import make_sinusoid_tasks
    >>> X, y, groups = make_sinusoid_tasks(random_state=0, return_X_y_groups=True)
    >>> waves = np.hstack([np.sin(X), np.cos(X)])
    >>> model = MAMLRegressor(adaptation="implicit", metric="full", fit_intercept=False).fit(waves, y, groups=groups)
    >>> X, y, groups = make_sinusoid_tasks(1, random_state=1, return_X_y_groups=True)
    >>> waves = np.hstack([np.sin(X), np.cos(X)])
    >>> bool(model.adapt(waves[:3], y[:3]).score(waves[3:], y[3:]) > 0.99)
    True
    """
    rng = check_random_state(random_state)
    sizes = _task_sizes(n_tasks, n_samples)
    _check_noise(noise)
    for name, bounds in ("amplitude", amplitude), ("phase", phase), ("x_range", x_range):
        _check_range(bounds, name)
    amplitudes, phases, x, targets = [], [], [], []
    for size in sizes:
        amplitudes.append(rng.uniform(*amplitude))
        phases.append(rng.uniform(*phase))
        x.append(rng.uniform(*x_range, size=size))
        targets.append(amplitudes[-1] * np.sin(x[-1] - phases[-1]) + noise * rng.normal(size=size))
    X, y, groups = np.concatenate(x)[:, None], np.concatenate(targets), np.repeat(np.arange(n_tasks), sizes)
    if return_X_y_groups:
        return X, y, groups
    return Bunch(
        data=X,
        target=y,
        groups=groups,
        tasks=np.arange(n_tasks),
        amplitude=np.array(amplitudes),
        phase=np.array(phases),
        DESCR=SINUSOID,
    )


def _task_sizes(n_tasks, n_samples):
    """Number of rows of each task, of shape (n_tasks,)."""
    check_scalar(n_tasks, "n_tasks", Integral, min_val=1)
    sizes = np.asarray(n_samples)
    if sizes.dtype.kind not in "iu" or sizes.shape not in {(), (n_tasks,)} or np.any(sizes < 1):
        raise ValueError(
            f"n_samples must be a positive int, or n_tasks={n_tasks} of them, the number of rows of each task, got "
            f"{n_samples!r}"
        )
    return np.broadcast_to(sizes, n_tasks)


def _check_noise(noise):
    if not (isinstance(noise, Real) and 0 <= noise < np.inf):
        raise ValueError(f"noise is a standard deviation and must be a finite number of at least 0, got {noise!r}")


def _check_range(bounds, name):
    array = np.asarray(bounds)
    if array.dtype.kind not in "iuf" or array.shape != (2,) or not -np.inf < array[0] <= array[1] < np.inf:
        raise ValueError(f"{name} must be two finite numbers, the smallest and the largest, got {bounds!r}")


def _per_feature(value, name, n_features):
    """One number for each feature, of shape (n_features,)."""
    array = np.asarray(value)
    if array.dtype.kind not in "iuf" or array.shape not in {(), (n_features,)} or not np.all(np.isfinite(array)):
        raise ValueError(
            f"{name} must be a finite number, or n_features={n_features} of them, one for each feature, got {value!r}"
        )
    return np.broadcast_to(array, n_features)
