"""f and F, the mean loss of tasks before and after adaptation, along a line or on a plane in parameter space."""

from itertools import pairwise
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.ndimage import minimum_filter
from scipy.optimize import brentq, root

from ..base import losses_of
from ..solvers import choose_solver
from .figure import axes_for, neutral

_MARKERS = {"minimum": "o", "maximum": "^", "saddle": "X"}
_FRAMES = ("s", "D", "p")
_TITLES = {"f": "f, before adaptation", "F": "F, after adaptation"}
_RESOLUTION = {1: 2000, 2: 60}


class LossLandscapeDisplay:
    """The loss f before and F after adaptation, along a line or on a plane in parameter space.

    Critical points are marked: where the slope along the line changes sign, or the gradient within the plane vanishes.
    They are those of f and F themselves only if the line or plane is the whole space.

    :meth:`from_estimator` and :meth:`from_losses` compute and draw it; :meth:`plot` draws it again. Arguments are
    stored as attributes.

    Parameters
    ----------
    grid : tuple of one or two ndarray of shape (n_i,)
        Coordinates on the line, or along both axes of the plane.
    losses : dict of str to ndarray of shape (n_1,) or (n_1, n_2)
        Values of "f" and "F".
    critical_points : dict of str to dict of str to ndarray of shape (n_points, n_coordinates + 1)
        For "f" and "F" the "minimum", "maximum" and "saddle" points: coordinates, then the value.
    points : dict of str to ndarray of shape (n_coordinates,)
        The points that span the line or plane.
    axis_names : sequence of str
        Labels of the coordinates.

    Attributes
    ----------
    ax_ : matplotlib Axes, or ndarray of two for a plane
        Where it is drawn.
    figure_ : matplotlib Figure
        The figure.
    lines_ : dict of str to Line2D
        Lines of "f" and "F"; empty for a plane.
    contours_ : dict of str to QuadContourSet
        Filled contours of "f" and "F"; empty for a line.
    markers_ : dict of str to dict of str to Line2D
        Markers of the critical points of each kind that there are.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.inspection import LossLandscapeDisplay
    >>> rng = np.random.default_rng(0)
    >>> X, y, groups = rng.normal(size=(40, 2)), rng.normal(size=40), np.repeat(np.arange(4), 10)
    >>> model = MAMLRegressor(inner_step_size=0.2).fit(X, y, groups=groups)
    >>> display = LossLandscapeDisplay.from_estimator(model, X, y, groups)
    >>> display.critical_points["F"]["minimum"][:, 0].round(6).tolist()
    [1.0]
    """

    def __init__(
        self,
        *,
        grid: tuple[np.ndarray, ...],
        losses: dict[str, np.ndarray],
        critical_points: dict[str, dict[str, np.ndarray]],
        points: dict[str, np.ndarray],
        axis_names: tuple[str, ...],
    ):
        self.grid = grid
        self.losses = losses
        self.critical_points = critical_points
        self.points = points
        self.axis_names = axis_names

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        points: Literal["line", "plane"] | ArrayLike = "line",
        grid_resolution: int | None = None,
        margin: float = 0.5,
        ax: Any = None,
    ) -> Self:
        """Draw f and F of a fitted estimator: F is what its `fit` minimised.

        With ``inner_step_size="auto"`` that is with the learned metric, and with a tenth of f in it.

        Parameters
        ----------
        estimator : object
            A fitted meta-learner: :class:`~sklearn_maml.MAMLRegressor`, :class:`~sklearn_maml.MAMLSVC` or another
            subclass of :class:`~sklearn_maml.BiMAMLMixin`. Of a Pipeline, take the last step and transformed rows.
        X, y, groups, sample_weight :
            The rows that it was fitted to.
        points : {"line", "plane"} or array-like of shape (2 or 3, n_parameters) or (2 or 3, n_outputs, n_parameters), \
default="line"
            Two points for a line, three for a plane; parameters are coefficients, then the intercept if there is one.
            "line" is from the minimiser of f to the fitted parameters, "plane" through these and the start that `init`
            says (another one than that of `fit` for init="normal" without a `random_state`).
        grid_resolution, margin, ax :
            See :meth:`from_losses`.

        Returns
        -------
        display : LossLandscapeDisplay
            The picture and its numbers.

        Raises
        ------
        TypeError
            If `estimator` is no such meta-learner.
        ValueError
            If the points coincide, lie on one line that should be a plane, or have the wrong shape.
        """
        rows, f, F = losses_of(estimator, X, y, groups, sample_weight)
        start = estimator._start(rows)
        if isinstance(points, str):
            if points not in ("line", "plane"):
                raise ValueError(f"points must be 'line', 'plane' or an array of two or three points, got {points!r}")
            fitted = estimator._parameters()
            spanning = {"minimiser of f": _minimiser(f, start, estimator), "fitted": fitted}
            if points == "plane":
                spanning["start"] = start
        else:
            spanning = {name: _as_parameters(point, *start.shape) for name, point in _named(points).items()}
        return cls.from_losses(f, F, spanning, grid_resolution=grid_resolution, margin=margin, ax=ax)

    @classmethod
    def from_losses(
        cls,
        f: Any,
        F: Any,
        points: dict[str, np.ndarray] | ArrayLike,
        *,
        grid_resolution: int | None = None,
        margin: float = 0.5,
        ax: Any = None,
    ) -> Self:
        """Draw any two functions with the methods ``value(w)`` and ``gradient(w)``.

        Parameters
        ----------
        f, F : object
            The functions; w has the shape of a point, (d, k).
        points : array-like of shape (2 or 3, d) or (2 or 3, d, k), or dict of str to such a point
            Two points for a line, three for a plane; names are used as labels. Coordinates are the parameters
            themselves if there are no more of them than coordinates. Otherwise the first of two points is 0 and the
            second is 1, and a plane has orthonormal axes, from the first point to the second, and towards the third.
        grid_resolution : int, default=None
            Number of grid points along each axis; None is 2000 on a line and 60 on a plane. Critical points are looked
            for between neighbouring grid points, so that two that are closer than these are missed. Each grid point
            costs an evaluation of f and of F: one of every row, but for the squared loss.
        margin : float, default=0.5
            How far the grid goes beyond the points on each side, as a share of their distance.
        ax : matplotlib Axes, or two of them for a plane, default=None
            Where to draw. None is a new figure.

        Returns
        -------
        display : LossLandscapeDisplay
            The picture and its numbers.

        Raises
        ------
        ValueError
            If the points coincide, or lie on one line that should be a plane.
        """
        points = {name: _as_column(point) for name, point in _named(points).items()}
        origin, basis, axis_names = _coordinates(points)
        flat = basis.reshape(len(basis), -1)
        coordinates = {name: np.linalg.lstsq(flat.T, (point - origin).ravel())[0] for name, point in points.items()}
        corners = np.array(list(coordinates.values()))
        low, high = corners.min(axis=0), corners.max(axis=0)
        n = _RESOLUTION[len(basis)] if grid_resolution is None else grid_resolution
        grid = tuple(np.linspace(a - margin * (b - a), b + margin * (b - a), n) for a, b in zip(low, high, strict=True))
        losses, critical_points = {}, {}
        for name, function in (("f", f), ("F", F)):
            at = _restricted(function, origin, basis)
            losses[name], slopes = _on_grid(at, grid)
            find = _critical_on_line if len(grid) == 1 else _critical_on_plane
            critical_points[name] = find(at, grid, slopes)
        return cls(
            grid=grid, losses=losses, critical_points=critical_points, points=coordinates, axis_names=axis_names
        ).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Draw.

        Parameters
        ----------
        ax : matplotlib Axes, or two of them for a plane, default=None
            Where to draw. None is a new figure.

        Returns
        -------
        display : LossLandscapeDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        self.lines_: dict[str, Any] = {}
        self.contours_: dict[str, Any] = {}
        self.markers_: dict[str, dict] = {name: {} for name in self.losses}
        axes = axes_for(self, ax, len(self.grid))
        (self._plot_line if len(self.grid) == 1 else self._plot_plane)(axes, ax is None)
        self.ax_ = axes[0] if len(axes) == 1 else np.array(axes, dtype=object)
        self.figure_ = axes[0].figure
        return self

    def _plot_line(self, axes, _new):
        [ax] = axes
        for i, (name, values) in enumerate(self.losses.items()):
            [self.lines_[name]] = ax.plot(self.grid[0], values, color=f"C{i}", linewidth=1.2, label=_TITLES[name])
            self._mark(ax, name, color=f"C{i}", linestyle="none", markersize=4, zorder=3)
        kinds = {kind for markers in self.markers_.values() for kind in markers}
        style = {"linestyle": "none", "color": neutral(), "markersize": 4}
        handles = list(self.lines_.values())
        for kind in sorted(kinds, reverse=True):
            handles += ax.plot([], [], _MARKERS[kind], label=kind, **style)
        ax.set(xlabel=self.axis_names[0], ylabel="mean loss of a task")
        ax.legend(handles=handles)

    def _plot_plane(self, axes, new):
        from matplotlib.patheffects import withStroke

        for ax, (name, values) in zip(axes, self.losses.items(), strict=True):
            low, high = values.min(), values.max()
            levels = low + (high - low) * np.linspace(0, 1, 20) ** 2  # equally spaced contours, were it a quadratic
            self.contours_[name] = ax.contourf(*self.grid, values.T, levels=levels, cmap="viridis")
            ax.figure.colorbar(self.contours_[name], ax=ax, format="%.3g")
            for marker, (label, point) in zip(_FRAMES, self.points.items(), strict=True):
                [frame] = ax.plot(*point, marker, color="white", fillstyle="none", markersize=10, label=label)
                frame.set_path_effects([withStroke(linewidth=3, foreground="black")])
            self._mark(ax, name, color="white", markeredgecolor="black", linestyle="none", markersize=6, zorder=3)
            ax.set(xlabel=self.axis_names[0], ylabel=self.axis_names[1], title=_TITLES[name])
        handles = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        handles = [handles[label] for label in (*self.points, *_MARKERS) if label in handles]
        if new:
            axes[0].figure.legend(handles=handles, loc="outside lower center", ncols=len(handles))
        else:
            axes[0].legend(handles=handles)

    def _mark(self, ax, name, **style):
        for kind, found in self.critical_points[name].items():
            if len(found):  # the two columns are coordinate and value on a line, two coordinates on a plane
                [self.markers_[name][kind]] = ax.plot(*found[:, :2].T, _MARKERS[kind], label=kind, **style)


def _minimiser(f, start, estimator):
    solve = choose_solver("auto", f)
    return solve(f, start, tol=estimator.tol, max_iter=estimator.max_iter, callback=lambda *_: None).x


def _named(points):
    """Two or three points by name."""
    if not isinstance(points, dict):
        points = {f"point {i + 1}": point for i, point in enumerate(np.asarray(points, dtype=float))}
    if len(points) not in (2, 3):
        raise ValueError(f"points must be two, for a line, or three, for a plane, got {len(points)}")
    return points


def _as_parameters(point, d, k):
    """Parameters (d, k) of a point as users write it, (d,) or (k, d)."""
    point = np.asarray(point, dtype=float)
    if point.shape != (k, d) and (k > 1 or point.shape != (d,)):
        raise ValueError(
            f"a point must hold {d} parameters (coefficients, then the intercept if there is one) for each of {k} "
            f"output(s), got shape {point.shape}"
        )
    return point.reshape(k, d).T


def _as_column(point):
    point = np.asarray(point, dtype=float)
    return point[:, None] if point.ndim == 1 else point


def _coordinates(points):
    """Origin and basis (1 or 2, d, k) of the line or plane through the points, and what its coordinates are called."""
    name, other, *third = points
    first = points[name]
    across = [point - first for point in points.values()][1:]
    longest = max(np.linalg.norm(vector) for vector in across)
    if min(np.linalg.norm(vector) for vector in across) <= 1e-9 * (longest + np.linalg.norm(first)):
        raise ValueError(f"the points {list(points)} coincide: pass points that differ")
    along = across[0]
    if len(across) == 1:
        if along.size == 1:
            return np.zeros_like(first), np.ones_like(along)[None], ("w",)
        return first, along[None], (f"position on the line (0: {name}, 1: {other})",)
    unit = along / np.linalg.norm(along)
    rest = across[1] - np.sum(across[1] * unit) * unit
    if np.linalg.norm(rest) <= 1e-9 * np.linalg.norm(across[1]):
        raise ValueError(f"the points {list(points)} lie on one line: draw a line, or pass points that span a plane")
    if first.size == 2:
        return np.zeros_like(first), np.eye(2).reshape(2, *first.shape), ("w[0]", "w[1]")
    names = f"distance from {name} towards {other}", f"distance from that line towards {third[0]}"
    return first, np.array([unit, rest / np.linalg.norm(rest)]), names


def _restricted(function, origin, basis):
    """The function of the coordinates: value and gradient in them."""

    def at(c):
        w = origin + np.tensordot(c, basis, axes=1)
        value, gradient = (
            function.expand(w)[:2] if hasattr(function, "expand") else (function.value(w), function.gradient(w))
        )
        return float(np.squeeze(value)), np.tensordot(basis, gradient, axes=w.ndim)

    return at


def _on_grid(at, grid):
    """Values (n_1, ...) and gradients (n_1, ..., n_coordinates) at all points of the grid."""
    mesh = np.stack(np.meshgrid(*grid, indexing="ij"), axis=-1)
    values, slopes = zip(*map(at, mesh.reshape(-1, len(grid))), strict=True)
    return np.reshape(values, mesh.shape[:-1]), np.reshape(slopes, mesh.shape)


def _critical_on_line(at, grid, slopes):
    """Where the slope changes sign between grid points; where it is zero in between, that is one point."""
    x, slope = grid[0], slopes[:, 0]
    moving = np.flatnonzero(slope)
    found = {"minimum": [], "maximum": []}
    for i, j in pairwise(moving):
        if slope[i] * slope[j] < 0:
            t = brentq(lambda t: at([t])[1][0], x[i], x[j], xtol=1e-12 * np.ptp(x))
            found["minimum" if slope[i] < 0 else "maximum"].append([t, at([t])[0]])
    return {kind: np.reshape(points, (-1, 2)) for kind, points in found.items()}


def _critical_on_plane(at, grid, slopes):
    """Zeros of the gradient, sought from the grid points at which its norm is lower than at the neighbours."""
    low, unit = np.array([axis[0] for axis in grid]), np.array([axis[1] - axis[0] for axis in grid])
    top = np.array(slopes.shape[:2]) - 1

    def gradient(cell):
        return at(low + unit * cell)[1] * unit

    norm = np.linalg.norm(slopes * unit, axis=-1)
    zeros = []
    for start in np.argwhere(norm == minimum_filter(norm, size=3)):
        result = root(gradient, start, tol=1e-12)
        if (
            np.linalg.norm(result.fun) <= 1e-9 * norm.max()
            and np.all((result.x >= 0) & (result.x <= top))
            and all(np.linalg.norm(result.x - known) > 1e-3 for known in zeros)
        ):
            zeros.append(result.x)
    found = {kind: [] for kind in _MARKERS}
    for cell in sorted(zeros, key=tuple):
        h = 1e-3
        hessian = np.array([(gradient(cell + h * e) - gradient(cell - h * e)) / (2 * h) for e in np.eye(2)])
        lowest, highest = np.linalg.eigvalsh((hessian + hessian.T) / 2)
        kind = "minimum" if lowest > 0 else "maximum" if highest < 0 else "saddle"
        place = low + unit * cell
        found[kind].append([*place, at(place)[0]])
    return {kind: np.reshape(points, (-1, 3)) for kind, points in found.items()}
