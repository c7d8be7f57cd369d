"""Bounds of a pointwise loss over the whole line, found by probing it at many points."""

from typing import NamedTuple

import numpy as np

from .losses import PointwiseLoss

_FAR = 1e8
_CELLS = 8

_JUMPS = (
    "Assumption 3.2 (f_i twice differentiable and L-smooth) fails: the slope of the loss jumps near "
    "z = {:.6g} for y = {:.6g}. The theorems say nothing about it: use a loss with a continuous slope and curvature",
    "Assumptions 3.2 (f_i twice differentiable) and 3.5 (kappa-Lipschitz Hessian) fail: the curvature of "
    "the loss jumps near z = {:.6g} for y = {:.6g}, so that kappa is infinite. Use a loss with a continuous curvature",
)


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

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.losses import squared_loss
    >>> from sklearn_maml.theory import pointwise_bounds
    >>> low, high, third, slope, exact = pointwise_bounds(squared_loss, np.array([1.0]))
    >>> low.tolist(), high.tolist(), third.tolist(), exact
    ([2.0], [2.0], [0.0], True)
    """

    low: np.ndarray
    high: np.ndarray
    third: np.ndarray
    slope: np.ndarray
    exact: bool


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
        found = [_probe(loss, part, points_around(part)) for part in np.array_split(targets, 1 + len(targets) // 2000)]
        low, high, third, slope = (np.concatenate(each)[inverse.reshape(y.shape)] for each in zip(*found, strict=True))
    else:
        flat, middle, reach = (np.broadcast_to(a, y.shape).ravel() for a in (y, z, reach))
        parts = np.array_split(np.arange(y.size), 1 + y.size // 20_000)
        cells = np.linspace(-1, 1, 65)[:, None]
        found = [_probe(loss, flat[p], middle[p] + reach[p] * cells) for p in parts]
        low, high, third, slope = (np.concatenate(each).reshape(y.shape) for each in zip(*found, strict=True))
    return PointwiseBounds(low, high, third, slope, False)


def points_around(y, reach=_FAR):
    """Points z around 0 and around y, of shape (n, len(y)), ascending: fine near both, and far beyond."""
    near, far = np.linspace(0, 5, 101)[1:], np.geomspace(1e-3, reach, 89)
    offsets = np.unique(np.concatenate([-far, -near, [0.0], near, far]))
    return np.sort(np.concatenate([np.broadcast_to(offsets[:, None], (len(offsets), len(y))), y + offsets[:, None]]), 0)


def _probe(loss, y, z):
    """Extremes of the curvature, of its rate of change, and of the slope, over the columns of z."""

    def at(z):
        return loss(np.broadcast_to(y, z.shape), z)[1:]

    with np.errstate(over="ignore", invalid="ignore"):
        jump = find_jump(at, z, y)
        if jump:
            number, *where = jump
            raise ValueError(_JUMPS[number].format(*where))
        slope, curvature = at(z)
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


def find_jump(at, z, y):
    """Where a function of z jumps: its number among those that `at` returns, z and y; None if none does.

    It is looked for in ever smaller cells around the steepest and around the largest change, which jumps survive.
    """
    for number, start in enumerate(at(z)):
        size = np.abs(start).max(axis=0)
        for score in (_steepness, lambda values, _: np.abs(np.diff(values, axis=0))):
            cells, values, changes = z, start, []
            for _ in range(14):
                cell = np.nan_to_num(score(values, cells)).argmax(axis=0)
                changes.append(np.abs(np.diff(values, axis=0))[cell, np.arange(len(y))])
                cells = _finer(cells, cell)
                values = at(cells)[number]
            jumps = (changes[-1] > 1e-3 * changes[0]) & (changes[-1] > 1e-6 * size)
            if np.any(jumps):
                i = np.flatnonzero(jumps)[0]
                return number, cells[len(cells) // 2, i], y[i]
    return None
