"""Meta-training: the objective and its gradient norm, iteration by iteration."""

from typing import Any, Literal, Self

import numpy as np

from .figure import axes_for, neutral

_ABSCISSAE = {
    "iteration": "iteration",
    "n_gradients": "gradient evaluations per task",
    "time": "time of the flow (steps of gradient descent)",
}
_STYLES = {1: "--", 2: "-"}
_INNER = ("best_estimator_", "regressor_", "estimator_")


class MetaTrainingDisplay:
    """Objective and gradient norm of meta-training, as in Fig. 2 of Xu, Chen & Karbasi (2021).

    Phase one, in which BI-MAML descends f, the mean loss before adaptation, is dashed; phase two, the descent of F, the
    loss after adaptation, is solid and begins with a dot. What is drawn is the objective that is descended, so that it
    jumps from f to F where the phases meet.

    :meth:`from_estimator` finds the histories and draws them; :meth:`plot` draws them again. Arguments are stored as
    attributes.

    Parameters
    ----------
    histories : dict of str to dict
        For each name a ``history_``: arrays of equal length "phase" (1 or 2), "objective" and "grad_norm", and for
        other abscissae "n_gradients" or "time".

    Attributes
    ----------
    ax_ : ndarray of two matplotlib Axes
        Those of the objective and of the gradient norm.
    figure_ : matplotlib Figure
        The figure.
    objective_lines_, grad_norm_lines_ : dict of str to list of Line2D
        The lines of each history, one for each of its phases.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.inspection import MetaTrainingDisplay
    >>> rng = np.random.default_rng(0)
    >>> X, y, groups = rng.normal(size=(40, 2)), rng.normal(size=40), np.repeat(np.arange(4), 10)
    >>> fits = {
    ...     "MAML": MAMLRegressor(algorithm="maml", solver="gd", inner_step_size=0.1).fit(X, y, groups),
    ...     "BI-MAML": MAMLRegressor(algorithm="bimaml", solver="gd", inner_step_size=0.1).fit(X, y, groups),
    ... }
    >>> display = MetaTrainingDisplay.from_estimator(fits)
    >>> [len(lines) for lines in display.objective_lines_.values()]
    [1, 2]
    """

    def __init__(self, *, histories: dict[str, dict[str, np.ndarray]]):
        self.histories = histories

    @classmethod
    def from_estimator(
        cls, estimator: Any, *, ax: Any = None, x: Literal["iteration", "n_gradients", "time"] = "iteration"
    ) -> Self:
        """Draw how fitted estimators were meta-trained.

        Parameters
        ----------
        estimator : object or dict of str to object
            A fitted estimator with ``history_``, a Pipeline, search or TransformedTargetRegressor that contains one,
            or several of them with the names they have in the legend.
        ax, x :
            See :meth:`plot`.

        Returns
        -------
        display : MetaTrainingDisplay
            The picture and its numbers.

        Raises
        ------
        TypeError
            If an estimator neither has ``history_`` nor contains one that has.
        """
        if not isinstance(estimator, dict):
            estimator = {type(_with_history(estimator)).__name__: estimator}
        return cls(histories={name: _with_history(each).history_ for name, each in estimator.items()}).plot(ax, x=x)

    def plot(self, ax: Any = None, *, x: Literal["iteration", "n_gradients", "time"] = "iteration") -> Self:
        """Draw.

        Parameters
        ----------
        ax : sequence of two matplotlib Axes, default=None
            Where to draw the objective and the gradient norm. None is a new figure.
        x : {"iteration", "n_gradients", "time"}, default="iteration"
            What progress is measured in: iterations; evaluations of every task's gradient, a measure of cost; the time
            of the gradient flow (solver "ode" only).

        Returns
        -------
        display : MetaTrainingDisplay
            Itself.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If `x` is unknown, or a history does not hold it.
        """
        if x not in _ABSCISSAE:
            raise ValueError(f"x must be one of {list(_ABSCISSAE)}, got {x!r}")
        for name, history in self.histories.items():
            if x != "iteration" and x not in history:
                raise ValueError(f"the history of {name!r} has no {x!r}: it holds {list(history)}; use x='iteration'")
        axes = axes_for(self, ax, 2)
        from matplotlib.ticker import MaxNLocator

        self.objective_lines_: dict[str, list] = {}
        self.grad_norm_lines_: dict[str, list] = {}
        for i, (name, history) in enumerate(self.histories.items()):
            place = np.arange(len(history["phase"])) if x == "iteration" else history[x]
            for panel, key, lines in (
                (axes[0], "objective", self.objective_lines_),
                (axes[1], "grad_norm", self.grad_norm_lines_),
            ):
                lines[name] = _draw(panel, place, history[key], history["phase"], name, f"C{i}")
        axes[0].set(xlabel=_ABSCISSAE[x], ylabel="objective")
        axes[1].set(xlabel=_ABSCISSAE[x], ylabel="gradient norm", yscale="log")
        if x == "iteration":
            for panel in axes:
                panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles = [lines[-1] for lines in self.objective_lines_.values()]
        if any(len(lines) > 1 for lines in self.objective_lines_.values()):
            style = {"color": neutral(), "markersize": 4}
            handles += axes[0].plot([], [], _STYLES[1], label="phase one, on f", **style)
            handles += axes[0].plot([], [], _STYLES[2], marker="o", label="phase two, on F", **style)
        axes[0].legend(handles=handles)
        self.ax_, self.figure_ = np.array(axes, dtype=object), axes[0].figure
        return self


def _draw(ax, x, y, phase, name, color):
    """One line for each phase, the second one with a dot where it begins."""
    lines = []
    for number in np.unique(phase):
        kept = phase == number
        mark = {}
        if lines or np.sum(kept) == 1:  # a line of one point would not be seen
            mark = {"marker": "o", "markevery": [0], "markersize": 4, "fillstyle": "full" if lines else "none"}
        lines += ax.plot(x[kept], y[kept], _STYLES[number], color=color, label=name, **mark)
    return lines


def _with_history(estimator):
    """The fitted meta-learner in an estimator, however nested."""
    if hasattr(estimator, "history_"):
        return estimator
    if hasattr(estimator, "steps"):
        return _with_history(estimator.steps[-1][1])
    for name in _INNER:
        if hasattr(estimator, name):
            return _with_history(getattr(estimator, name))
    raise TypeError(
        f"{type(estimator).__name__} has no history_: pass a fitted meta-learner, or a fitted Pipeline, search or "
        "TransformedTargetRegressor that contains one"
    )
