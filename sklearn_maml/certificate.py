"""What is proved of a fitted meta-learner: which theorems apply, and how far the returned point is from the minimum."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .base import losses_of
from .constants import Constants, task_constants
from .meta import MAMLLoss
from .proofs import Descent, Prover
from .steps import EulerStep
from .tasks import LARGEST_MATRIX, LinearTasks, QuadraticTasks
from .training import ZERO_SHOT

__all__ = ["Certificate", "certificate", "certify"]

_ONE_STEP = "F(w) = mean_i f_i(w - alpha grad f_i(w))"


class Certificate(Mapping):
    """Lines of a certificate by name; printed, a table.

    Each line is a dict: "status" ("holds", "fails", "not decided" or "not applicable"), "finding" (what was found, or
    the reason), "source" (theorem or argument) and "values" (dict of str to float). A theorem that "fails" is one whose
    premise fails, which does not make its conclusion wrong; "not decided" is where neither was proved.

    Parameters
    ----------
    lines : dict of str to dict
        The lines.

    Examples
    --------
    >>> from sklearn_maml.certificate import Certificate
    >>> line = {"status": "holds", "finding": "one minimum", "source": "Theorem 3.9", "values": {"bound": 0.1}}
    >>> print(Certificate({"theorem 3.9": line}))
                 status  finding                                                     source
    theorem 3.9  holds   one minimum                                                 Theorem 3.9
    """

    def __init__(self, lines: dict[str, dict[str, Any]]):
        self._lines = lines

    def __getitem__(self, name):
        return self._lines[name]

    def __iter__(self):
        return iter(self._lines)

    def __len__(self):
        return len(self._lines)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """As plain dictionaries of strings and numbers.

        Returns
        -------
        lines : dict of str to dict
            A copy.
        """
        return {name: {**line, "values": dict(line["values"])} for name, line in self.items()}

    def __str__(self):
        rows = [("", "status", "finding", "source")]
        rows += [(name, line["status"], line["finding"], line["source"]) for name, line in self.items()]
        widths = [max(len(row[i]) for row in rows) for i in (0, 1)] + [58, 24]
        table = []
        for row in rows:
            cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths, strict=True)]
            for i in range(max(map(len, cells))):
                line = (cell[i] if i < len(cell) else "" for cell in cells)
                table.append("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        return "\n".join(table)

    __repr__ = __str__


def certificate(
    estimator: Any,
    X: Any,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Certificate:
    """State what can be proved of a fitted meta-learner, on the rows that it was fitted to.

    Which of the Assumptions 3.2 to 3.5 of Xu, Chen & Karbasi (2021) hold, the inner step size against the bounds of
    Theorems 3.6, 3.8, 3.9 and 4.1, the curvature of F at the returned point, and whether that point is provably near a
    minimum, and the minimum, of F. The theorems are about one explicit step with one number as `inner_step_size`. With
    the learned metric, implicit or several steps they are not applicable; but with the squared loss F is one quadratic,
    and what is said of the minimum holds in any case.

    Parameters
    ----------
    estimator : object
        A fitted meta-learner, as `fit` left it: :class:`~sklearn_maml.MAMLRegressor`, :class:`~sklearn_maml.MAMLSVC` or
        another subclass of :class:`~sklearn_maml.BiMAMLMixin`. Of a Pipeline or a search take the one inside, and the
        rows as it gets them.
    X, y, groups, sample_weight :
        The rows that it was fitted to.

    Returns
    -------
    certificate : Certificate
        A mapping of line names to dicts; ``print(certificate)`` is a table.

    Raises
    ------
    TypeError
        If `estimator` is no such meta-learner.
    ValueError
        If slope or curvature of its loss jumps (hinge, squared hinge, Huber), so that Assumptions 3.2 and 3.5 fail; or
        if it has more than 2000 parameters.

    Notes
    -----
    Proofs are up to rounding for the squared loss: what rounding can do is bounded, generously, and taken off. For
    other losses the constants L, mu and kappa rest on bounds of the pointwise loss that are found by probing it, see
    :func:`~sklearn_maml.theory.pointwise_bounds`; the findings say so.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.certificate import certificate
    >>> rng = np.random.default_rng(0)
    >>> X, y, groups = rng.normal(size=(60, 2)), rng.normal(size=60), np.repeat(np.arange(3), 20)
    >>> model = MAMLRegressor(inner_step_size=0.05, fit_intercept=False).fit(X, y, groups=groups)
    >>> proved = certificate(model, X, y, groups)
    >>> proved["theorem 3.9"]["status"], proved["global minimum"]["status"]
    ('holds', 'holds')
    >>> proved["global minimum"]["values"]["distance"] < 1e-12
    True
    """
    structure = "quadratic" if getattr(estimator, "task_structure", "") == "quadratic" else "smooth"
    rows, _, F = losses_of(estimator, X, y, groups, sample_weight, structure)
    if rows.n_parameters > LARGEST_MATRIX:
        raise ValueError(f"a certificate takes d x d matrices, too large for {rows.n_parameters} parameters")
    no_theorem = _out_of_theory(estimator)
    no_flow = "algorithm='fomaml' does not follow the gradient of F" if estimator.algorithm == "fomaml" else ""
    alpha = None if no_theorem else float(estimator.inner_step_size)
    prover = Prover(F, estimator._parameters(), task_constants(F.stacks), rows.sizes.max(), alpha)
    return Certificate(
        prover.prove(_objective(estimator, F.zero_shot > 0), no_theorem, no_flow, _descent_of(estimator))
    )


def certify(
    stacks: list,
    w: np.ndarray,
    inner_step_size: float,
    *,
    switch_tol: float | None = None,
    constants: Constants | None = None,
    start: np.ndarray | None = None,
    tol: float = 1e-6,
) -> Certificate:
    """State what can be proved of a point w and F(w) = mean f_i(w - alpha grad f_i(w)), for any tasks.

    Parameters
    ----------
    stacks : list of tasks
        Stacks, of any kind that has a shape (m, d, k) and the method ``expand``.
    w : ndarray of shape (d, k)
        The point.
    inner_step_size : float
        alpha.
    switch_tol : float, default=None
        eps0 of Theorem 4.1.
    constants : Constants, default=None
        The constants of the tasks; None computes them, which takes tasks with rows and a loss.
    start : ndarray of shape (d, k), default=None
        Where descent began. None: nothing is said of how long it takes.
    tol : float, default=1e-6
        norm(grad F) to be reached from there.

    Returns
    -------
    certificate : Certificate
        The same lines as :func:`certificate`.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.certificate import certify
    >>> from sklearn_maml.tasks import QuadraticTasks
    >>> H = np.array([np.diag([1.0, 2.0]), np.diag([3.0, 2.0])])
    >>> tasks = QuadraticTasks(H, np.zeros((2, 2, 1)), np.zeros((2, 1)), np.ones(2), np.zeros((2, 1)))
    >>> certify([tasks], np.zeros((2, 1)), inner_step_size=0.01).to_dict()["assumption 3.3"]["status"]
    'holds'
    """
    constants = task_constants(stacks) if constants is None else constants
    steps = [EulerStep(lambda V: inner_step_size * V, longest=inner_step_size)] * len(stacks)
    F = MAMLLoss(stacks, n_steps=1, steps=steps, structure=_structure(stacks))
    n_terms = max(tasks.X.shape[1] if isinstance(tasks, LinearTasks) else tasks.shape[1] for tasks in stacks)
    prover = Prover(F, w, constants, n_terms, inner_step_size)
    first = F if switch_tol is None else prover.f
    norm = None if start is None else float(np.linalg.norm(first.gradient(start)))
    return Certificate(prover.prove(_ONE_STEP, "", "", Descent(norm, tol, switch_tol)))


def _structure(stacks):
    """What MAMLLoss may assume of tasks with two derivatives."""
    return "quadratic" if all(map(_is_quadratic, stacks)) else "smooth"


def _is_quadratic(tasks):
    if isinstance(tasks, LinearTasks):
        return np.ndim(tasks.loss(tasks.Y[:1], np.zeros_like(tasks.Y[:1]))[2]) == 0
    return isinstance(tasks, QuadraticTasks)


def _descent_of(estimator):
    """How `fit` descended, from what it left."""
    history, two = estimator.history_, estimator.algorithm == "bimaml"
    norm = history["grad_norm"][0]
    if two and history["phase"][0] == 2:  # norm(grad f) was within switch_tol at once
        norm = estimator.switch_tol_
    steps = estimator.meta_step_size_
    steps = None if steps is None else tuple(np.broadcast_to(steps, 2))
    return Descent(float(norm), estimator.tol, estimator.switch_tol_ if two else None, steps)


def _objective(estimator, learned):
    """F in words."""
    if not estimator.n_inner_steps:
        return "F = f, the mean loss: n_inner_steps=0"
    if estimator.adaptation == "gradient" and _is_number(estimator.inner_step_size) and estimator.n_inner_steps == 1:
        return _ONE_STEP
    kind = {"gradient": "explicit", "implicit": "implicit"}[estimator.adaptation]
    size = "of the given size"
    if isinstance(estimator.inner_step_size, str):
        size = "in the learned metric" if learned else "of size 1/(2 L_i)"
    rest = f" + f(w) * {ZERO_SHOT}" if learned else ""
    return f"F(w) = mean_i f_i(w after {estimator.n_inner_steps} {kind} step(s) {size}){rest}"


def _out_of_theory(estimator):
    """Why the theorems are not about this F; empty if they are."""
    if not estimator.n_inner_steps:
        return "n_inner_steps=0: there is no adaptation, F is f"
    if estimator.n_inner_steps > 1:
        return f"n_inner_steps={estimator.n_inner_steps}: the theorems are about one step"
    if estimator.adaptation != "gradient":
        return f"adaptation={estimator.adaptation!r}: the theorems are about an explicit step"
    if isinstance(estimator.inner_step_size, str):
        return "inner_step_size='auto': the theorems are about one number alpha for all tasks and parameters"
    if not _is_number(estimator.inner_step_size):
        return "inner_step_size is an array: the theorems are about one number alpha for all parameters"
    return ""


def _is_number(step_size):
    return not isinstance(step_size, str) and np.ndim(step_size) == 0
