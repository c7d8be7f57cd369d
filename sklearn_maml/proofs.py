"""What can be proved of a function F of tasks at a point: each theorem, argument or computation as a line."""

from functools import cached_property
from typing import NamedTuple

import numpy as np

from .constants import gradient_deviation, gradient_deviation_rate, rows_of, third_derivative_bound
from .meta import MAMLLoss, adapt
from .tasks import LinearTasks, QuadraticTasks
from .theory import (
    contraction_rates,
    hessian_bounds,
    iteration_bound,
    minimum_curvature,
    step_bound_3_6,
    step_bound_3_8,
    step_bound_3_9,
    step_bound_4_1,
    time_bound_3_6,
    time_bound_4_1,
)

HOLDS, FAILS, OPEN, NOT_APPLICABLE = "holds", "fails", "not decided", "not applicable"

_DIRECT = "direct, F is quadratic"
_DIFFERENCES = 1e-6
"""Relative accuracy that is granted to a Hessian by central differences; they reach about 1e-9."""


class Descent(NamedTuple):
    """How F was descended.

    Norm of the gradient at the start (of f if there is a `switch_tol`, of F if not), or None if it is not known; norm
    of grad F to be reached; eps0 or None; the meta step sizes of f and of F, or None.
    """

    gradient_norm: float | None
    tol: float
    switch_tol: float | None
    meta_step_size: tuple | None = None


class Prover:
    """What can be proved of F at w.

    Parameters
    ----------
    F : MAMLLoss
        The function; its structure is "quadratic" or "smooth".
    w : ndarray of shape (d, k)
        The point.
    constants : Constants
        Of the tasks.
    n_terms : int
        Largest number of rows of a task: the terms of the longest sums that were rounded.
    alpha : float or None
        The inner step size, if the theorems are about F.
    """

    def __init__(self, F, w, constants, n_terms, alpha):
        self.F, self.w, self.constants, self.alpha = F, w, constants, alpha
        self.f = MAMLLoss(F.stacks, structure=F.structure)
        self.quadratic = F.structure == "quadratic"
        self.unit = np.finfo(float).eps * (n_terms + 10 * len(w))
        self.lines = {}

    def prove(self, objective, no_theorem, no_flow, descent):
        """All lines. The reasons say why no theorem, or none about a flow, is applicable; empty if they are."""
        self.lines["objective"] = _line("", objective, "(1.1)")
        self.gradient_f, self.gradient_F = (float(np.linalg.norm(g.gradient(self.w))) for g in (self.f, self.F))
        self._assumptions()
        self._theorems(no_theorem, no_flow, descent.switch_tol)
        self._landscape()
        self._time(descent)
        self._rate(no_flow, descent)
        return self.lines

    def _assumptions(self):
        L, mu, kappa, sigma, exact = self.constants
        how = "exact" if exact else "proof, given numerical bounds of the pointwise loss"
        finite = HOLDS if np.isfinite(L) else FAILS
        self.lines["assumption 3.2"] = _line(finite, f"smooth: L = {L:.4g} ({how})", "Assumption 3.2", L=L)
        if mu > self.unit * L:
            status, finding = HOLDS, f"strongly convex: mu = {mu:.4g} ({how})"
        elif exact:
            status, finding = FAILS, "strongly convex: mu is zero, to rounding, for a task"
        else:
            status, finding = OPEN, "strongly convex: nothing but mu >= 0 is proved; a penalty on every parameter helps"
        self.lines["assumption 3.3"] = _line(status, finding, "Assumption 3.3", mu=mu)
        here = gradient_deviation(self.F.stacks, self.w)
        values = {"sigma": sigma, "sigma_here": here}
        finding = f"gradient variance: sigma = {sigma:.4g} everywhere, {here:.4g} at this point"
        status = HOLDS
        if not np.isfinite(sigma):
            status = FAILS if self.quadratic else OPEN
            why = "the tasks' Hessians differ" if self.quadratic else "no bound was found"
            finding = f"gradient variance: unbounded, as {why}; sigma = {here:.4g} at this point"
            if not self.quadratic:
                finding = f"gradient variance: {why}; sigma = {here:.4g} at this point"
            values["rate"] = gradient_deviation_rate(self.F.stacks, self.w)
            finding += f", and at most {values['rate']:.4g} times the distance more around it"
        self.lines["assumption 3.4"] = _line(status, finding, "Assumption 3.4", **values)
        finite = HOLDS if np.isfinite(kappa) else FAILS
        self.lines["assumption 3.5"] = _line(
            finite, f"Lipschitz Hessian: kappa = {kappa:.4g} ({how})", "Assumption 3.5"
        )
        self.lines["assumption 3.5"]["values"]["kappa"] = kappa

    def _theorems(self, no_theorem, no_flow, switch_tol):
        no_phases = "" if switch_tol is not None else "there is no switch_tol: F was descended from the start"
        about = {
            "3.6": ("the MAML flow converges linearly from any start", no_theorem or no_flow),
            "3.8": (f"mu/8 <= Hess F <= 9L/8 where norm(grad F) <= {self.gradient_F:.3g}, as here", no_theorem),
            "3.9": ("F has one critical point, its global minimum", no_theorem),
            "4.1": ("the BI-MAML flow converges linearly from any start", no_theorem or no_flow or no_phases),
        }
        missing = self._missing()
        for name, (claim, reason) in about.items():
            source = f"Theorem {name}"
            if reason:
                line = _line(NOT_APPLICABLE, reason, source)
            elif missing:
                line = _line(*missing, source)
            else:
                bound, K = self._bound(name, switch_tol)
                line = self._against(bound, K, claim, source, strict=name in ("3.6", "4.1"))
            self.lines[source.lower()] = line

    def _bound(self, name, switch_tol):
        """A theorem's bound of alpha, and up to which norm of grad F its proof relies on Theorem 3.8."""
        L, mu, kappa, sigma, _ = self.constants
        if name == "3.6":
            return step_bound_3_6(L, mu, kappa, sigma), (9 / np.sqrt(mu) + 5) * sigma / 4
        if name == "3.8":
            return step_bound_3_8(L, mu, kappa, sigma, self.gradient_F), self.gradient_F
        if name == "3.9":
            return step_bound_3_9(L, mu, kappa, sigma), None
        return step_bound_4_1(L, mu, kappa, sigma, switch_tol), (9 * switch_tol + 5 * sigma) / 4

    def _missing(self):
        """Status and reason if an assumption of the theorems is missing; without kappa they need no sigma."""
        needed = ["3.2", "3.3", "3.5"] if self.constants.kappa == 0 else ["3.2", "3.3", "3.4", "3.5"]
        for status in (FAILS, OPEN):
            for name in needed:
                if self.lines[f"assumption {name}"]["status"] == status:
                    verb = "fails" if status == FAILS else "is not decided"
                    return (NOT_APPLICABLE if status == FAILS else OPEN), f"Assumption {name} {verb}"
        return None

    def _against(self, bound, K, claim, source, strict):
        """A line on alpha against the bound of a theorem that, unless K is None, relies on Theorem 3.8 with this K."""
        L, mu, kappa, sigma, exact = self.constants
        below = self.alpha < bound if strict else self.alpha <= bound
        values = {"inner_step_size": self.alpha, "bound": bound}
        comparison = f"alpha = {self.alpha:.4g}, bound {bound:.4g}"
        if not below:
            return _line(FAILS, f"{comparison}: too long for it to say that {claim}", source, **values)
        if kappa and K is not None and hessian_bounds(self.alpha, L, mu, kappa, sigma, K)[0] < mu / 8:
            finding = f"{comparison}, but our proof of Theorem 3.8 does not reach beyond 1/(4L) = {1 / (4 * L):.4g}"
            return _line(OPEN, f"{finding}: {claim}, if the theorem holds as printed", source, **values)
        note = "" if exact else " (numerical L, mu, kappa)"
        if not np.isfinite(sigma):
            note = " (kappa = 0: the bound needs no sigma)"
        return _line(HOLDS, f"{comparison}: {claim}{note}", source, **values)

    def _landscape(self):
        H = _matrix(self.F, self.w)
        eigenvalues = np.linalg.eigvalsh((H + H.mT) / 2)
        low, high = float(eigenvalues.min()), float(eigenvalues.max())
        error = self.unit * self._size() if self.quadratic else _DIFFERENCES * max(abs(low), abs(high))
        status = HOLDS if low > error else FAILS if low < -error else OPEN
        how = "of the one quadratic F" if self.quadratic else "at this point, by differences of the gradient"
        self.lines["curvature"] = _line(
            status,
            f"eigenvalues of Hess F from {low:.4g} to {high:.4g}, {how}, within {error:.1e}",
            _DIRECT if self.quadratic else "computed, not proved",
            smallest=low,
            largest=high,
            error=error,
        )
        self.gradient_error = self.unit * self._gradient_size()
        steep = self.gradient_F + self.gradient_error
        self.lines["stationary"] = _line(
            "",
            f"norm(grad F) = {self.gradient_F:.3g} +- {self.gradient_error:.1e}, norm(grad f) = {self.gradient_f:.3g}",
            "computed",
            norm_grad_F=self.gradient_F,
            norm_grad_f=self.gradient_f,
            error=self.gradient_error,
        )
        if self.quadratic:
            self._one_quadratic(low, error, steep)
        else:
            self._around_here(low, error, steep)
            self._everywhere(steep)

    def _one_quadratic(self, low, error, steep):
        """F is one quadratic: strongly convex everywhere, or nowhere."""
        if low > error:
            curvature, distance = low - error, steep / (low - error)
            self.lines["strongly convex"] = _line(
                HOLDS, f"everywhere, with constant {curvature:.4g}", _DIRECT, constant=curvature, radius=np.inf
            )
            for name in ("minimum nearby", "global minimum"):
                self.lines[name] = _line(
                    HOLDS, f"the only minimum of F is within {distance:.3g}", _DIRECT, distance=distance
                )
            return
        found = "F is flat in some direction, to rounding: it is convex, but a minimum need not be near or unique"
        self.lines["strongly convex"] = _line(OPEN, "Hess F is singular, to rounding", _DIRECT)
        for name in ("minimum nearby", "global minimum"):
            self.lines[name] = _line(OPEN, found, _DIRECT)

    def _around_here(self, low, error, steep):
        """Strong convexity in a ball around w, from kappa and L alone.

        Within distance p of w, Hess F changes by at most s p, s = kappa (2 a alpha L + a^3 + a alpha L) with
        a >= norm(I - alpha Hess f_i), of which the last term bounds norm(grad f_i) after adaptation.
        """
        L, mu, kappa, _, exact = self.constants
        source = "Hess F = mean A_i H_i A_i - third derivatives"
        if self.alpha is None:
            reason = "no bound of the third derivatives is known for this adaptation"
            for name in ("strongly convex", "minimum nearby"):
                self.lines[name] = _line(OPEN, reason, source)
            return
        if low < -error:
            self.lines["strongly convex"] = _line(FAILS, f"Hess F has the eigenvalue {low:.4g} here", "computed")
            self.lines["minimum nearby"] = _line(OPEN, "F is not convex here", source)
            return
        alpha, stacks = self.alpha, self.F.stacks
        gradients = []
        for tasks, step in zip(stacks, self.F.steps, strict=True):
            W, _ = adapt(tasks, np.broadcast_to(self.w, tasks.shape), step, 1)
            gradients.append(tasks.gradient(W))
        without = _matrix(MAMLLoss(stacks, n_steps=1, steps=self.F.steps, structure="differentiable"), self.w)
        if all(isinstance(tasks, LinearTasks) for tasks in stacks):
            third = third_derivative_bound(stacks, gradients)
        else:
            third = kappa * np.mean(np.linalg.norm(np.concatenate(gradients), axis=(1, 2))) * np.eye(len(self.w))
        smallest, here = (float(np.linalg.eigvalsh((H + H.mT) / 2).min()) for H in (without, without - alpha * third))
        a = max(1 - alpha * mu, alpha * L - 1)
        here -= self.unit * L * max(1.0, a) ** 2
        change = kappa * (3 * a * alpha * L + a**3)
        note = "" if exact else " (numerical kappa and L)"
        if not here > 0:
            reason = (
                f"third derivatives may outweigh the rest: it has {smallest:.3g}, they may take {smallest - here:.3g}"
            )
            for name in ("strongly convex", "minimum nearby"):
                self.lines[name] = _line(OPEN, reason, source)
            return
        radius = here / change if change else np.inf
        self.lines["strongly convex"] = _line(
            HOLDS,
            f"here, with constant {here:.4g}, and within {radius:.3g}{note}",
            source,
            constant=here,
            radius=radius,
        )
        rest = here**2 - 4 * change * steep
        if rest < 0:
            self.lines["minimum nearby"] = _line(OPEN, "the gradient is too large for the ball of convexity", source)
            return
        distance = 2 * steep / (here + np.sqrt(rest))
        found = f"F has one minimum within {distance:.3g}, and no other within {radius:.3g}{note}"
        self.lines["minimum nearby"] = _line(HOLDS, found, source, distance=distance)

    def _everywhere(self, steep):
        """A global minimum, by the argument of Theorem 3.9."""
        L, mu, kappa, sigma, exact = self.constants
        source = "argument of Theorem 3.9"
        missing = self._missing()
        if self.alpha is None or missing:
            reason = "the theorems are not about this adaptation" if self.alpha is None else missing[1]
            self.lines["global minimum"] = _line(OPEN, reason, source)
            return
        curvature = minimum_curvature(self.alpha, L, mu, kappa, sigma, self.gradient_f)
        if not curvature > 0:
            found = "not proved that F has one critical point only: alpha is too long, or this point too far out"
            self.lines["global minimum"] = _line(OPEN, found, source)
            return
        distance = steep / curvature
        note = "" if exact else " (numerical kappa, L, mu)"
        found = f"the only critical point of F, its global minimum, is within {distance:.3g}{note}"
        self.lines["global minimum"] = _line(HOLDS, found, source, distance=distance, constant=curvature)

    def _time(self, descent):
        """How long the flow takes: Theorem 4.1 if it is that of BI-MAML, otherwise Theorem 3.6."""
        L, mu, kappa, _, _ = self.constants
        norm, tol, eps0, _ = descent
        source = "Theorem 3.6" if eps0 is None else "Theorem 4.1"
        theorem = self.lines[source.lower()]
        if theorem["status"] != HOLDS:
            status = NOT_APPLICABLE if theorem["status"] == NOT_APPLICABLE else OPEN
            self.lines["time"] = _line(status, f"no time is known where {source} is not shown to hold", source)
            return
        if not norm or not tol:
            reason = "tol = 0 is never reached" if norm else "the start is not known"
            self.lines["time"] = _line(NOT_APPLICABLE, reason, source)
            return
        if eps0 is not None:  # the switch is within eps0 / mu of the minimum of f, w within norm(grad f) / mu
            sigma = self._deviation_within((eps0 + self.gradient_f) / mu)
            time = time_bound_4_1(mu, sigma, norm, eps0, tol)
        else:  # a quadratic's flow only comes closer to the minimum; norm(grad f) as in `hessian_bounds`
            low = hessian_bounds(self.alpha, L, mu, kappa, 0.0, 0.0)[0]
            sigma = self._deviation_within(np.inf if kappa else (norm + self.gradient_F + self.gradient_error) / low)
            r = self.alpha * L - (self.alpha * L) ** 2 / 4
            time = time_bound_3_6(self.alpha, L, mu, sigma, (norm + r * sigma) / (1 - 2 * r), tol)
        if not np.isfinite(time):
            self.lines["time"] = _line(OPEN, "the bound is infinite: no bound of the variance on the way", source)
            return
        note = "" if self.constants.exact else " (numerical constants)"
        found = f"from its start, the flow reaches norm(grad F) <= {tol:.3g} by time {time:.4g} / beta{note}"
        self.lines["time"] = _line(HOLDS, found, source, time=time, sigma=sigma, gradient_norm=norm, tol=tol)

    def _deviation_within(self, radius):
        """Bound of sigma in a ball around w."""
        everywhere, kappa = self.constants.sigma, self.constants.kappa
        if not np.isfinite(radius):
            return everywhere
        here, rate = (number(self.F.stacks, self.w) for number in (gradient_deviation, gradient_deviation_rate))
        return min(everywhere, here + rate * radius + kappa * radius**2 / 2)

    def _rate(self, no_flow, descent):
        """How fast a quadratic F is descended, from the extreme eigenvalues of its matrix, and of that of f."""
        if no_flow or not self.quadratic:
            reason = no_flow or "F is not quadratic: no one rate"
            self.lines["rate"] = _line(NOT_APPLICABLE, reason, _DIRECT)
            return
        low, high, error = (self.lines["curvature"]["values"][key] for key in ("smallest", "largest", "error"))
        if low <= error:
            self.lines["rate"] = _line(OPEN, "Hess F is singular, to rounding", _DIRECT)
            return
        norm, tol, eps0, steps = descent
        low, high = low - error, high + error
        beta = steps[1] if steps else 1 / high
        per_step, per_time = contraction_rates([low, high], beta)
        values = {"meta_step_size": beta, "per_step": per_step, "per_time": per_time}
        found = f"gradient descent with beta = {beta:.3g}"
        if per_step >= 1:
            finding = f"{found} need not converge: beta is at least 2 / {high:.4g}"
            self.lines["rate"] = _line(FAILS, finding, _DIRECT, **values)
            return
        found += f" multiplies norm(grad F) by at most {per_step:.6g} a step, its flow by {per_time:.6g} a unit of time"
        if norm is not None and tol:
            n_iter, norm = (0.0, norm) if eps0 is None else self._first_phase(norm, eps0, steps, high)
            n_iter += np.ceil(iteration_bound(per_step, norm, tol))
            if np.isfinite(n_iter):
                values["n_iter"] = n_iter
                found += f"; norm(grad F) <= {tol:.3g} takes at most {n_iter:.6g} steps from the start"
        self.lines["rate"] = _line(HOLDS, f"{found} (exact arithmetic)", _DIRECT, **values)

    def _first_phase(self, norm, eps0, steps, high):
        """Bounds of the steps down f until norm(grad f) <= eps0, and of norm(grad F) there."""
        spectrum, rounding = np.linalg.eigvalsh(_matrix(self.f, self.w)[0]), self.unit * self.constants.L
        lowest, highest = spectrum[0] - rounding, spectrum[-1] + rounding
        if lowest <= 0:
            return np.inf, np.inf
        rate, _ = contraction_rates([lowest, highest], steps[0] if steps else 1 / highest)
        distance = (eps0 + self.gradient_f) / lowest  # from w, by way of the minimum of f
        return np.ceil(iteration_bound(rate, norm, eps0)), self.gradient_F + high * distance

    def _size(self):
        """How large the numbers may be that Hess F is the sum of: their rounding errors do not cancel."""
        return self.constants.L * (self._inflation + self.F.zero_shot)

    def _gradient_size(self):
        """The same for grad F."""
        slopes = max(np.max(_size_of_gradients(tasks, self.w, self.constants.L)) for tasks in self.F.stacks)
        return self._size() * np.linalg.norm(self.w) + (self._inflation + self.F.zero_shot) * slopes

    @cached_property
    def _inflation(self):
        """Bound of norm(I - P_i H_i)^2K, if more than 1: what adaptation may multiply rounding errors with."""
        if self.alpha is not None:
            longest = self.alpha * self.constants.L - 1
        elif self.quadratic and self.F.n_steps:
            parts = zip(self.F.stacks, self.F.steps, strict=True)
            longest = max(_norm_of_correction(tasks, step, self.w) for tasks, step in parts)
        else:
            longest = 1.0
        return max(1.0, longest) ** (2 * self.F.n_steps)


def _norm_of_correction(tasks, step, w):
    """Largest Frobenius norm of I - P_i H_i, for quadratic tasks."""
    m, d, _ = tasks.shape
    _, [(hessp, product)] = adapt(tasks, np.broadcast_to(w, tasks.shape), step, 1)
    squares = np.zeros(m)
    for e in np.eye(d)[..., None]:
        squares += np.sum((e - product(hessp(np.broadcast_to(e, (m, d, 1))))) ** 2, axis=(1, 2))
    return float(np.sqrt(squares.max()))


def _size_of_gradients(tasks, w, L):
    """Sum of the absolute values that each grad f_i(w) is the sum of, or a bound."""
    if isinstance(tasks, QuadraticTasks):
        return np.sqrt(2 * len(w) * L * tasks.b.sum(axis=1))  # |x_j y_j| by Cauchy and Schwarz; the rest is L norm(w)
    if not isinstance(tasks, LinearTasks):
        return np.linalg.norm(tasks.gradient(np.broadcast_to(w, tasks.shape)), axis=(1, 2))
    sizes = []
    for part, X in rows_of(tasks):
        slope = np.linalg.norm(tasks.loss(tasks.Y[part], X @ w)[1], axis=2)
        sizes.append(np.sum(tasks.S[part][..., 0] * slope * np.linalg.norm(X, axis=2), axis=1))
    return np.concatenate(sizes)


def _matrix(function, w):
    """Hess at w, of shape (1 or k, d, d): one block for each output, which have nothing to do with one another."""
    d, k = w.shape
    product = function.expand(w)[2]
    if function.structure == "quadratic":
        return np.concatenate([product(e) for e in np.eye(d)[..., None]], axis=1)[None]
    columns = np.stack([product(np.repeat(e, k, axis=1)) for e in np.eye(d)[..., None]], axis=1)
    return np.moveaxis(columns, -1, 0)


def _line(status, finding, source, **values):
    return {
        "status": status,
        "finding": finding,
        "source": source,
        "values": {key: float(number) for key, number in values.items()},
    }
