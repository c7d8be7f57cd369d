"""Solvers: ways to follow -grad F from w0 to a point where norm(grad F) <= tol.

A solver is a function ``solve(F, w0, *, step_size, tol, max_iter, callback)``. It knows F only as something to expand:
``F.expand(w)`` returns the value, the gradient and the function V -> (Hessian) V at w, of shape (d, k), and
``F.structure``, ``F.first_order`` and ``F.smoothness()`` say what may be assumed. ``callback(w, value, gradient_norm)``
is called at the start and after every iteration, by the flow with the time as a fourth argument. The ``OptimizeResult``
has the fields x, nit, success, message (empty, or why it did not converge and what to do) and step_size. Solvers
without a step size of their own ignore the argument and return None.
"""

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import LinAlgError, cho_factor, cho_solve, lstsq
from scipy.optimize import OptimizeResult, brentq, minimize
from scipy.sparse.linalg import LinearOperator, cg

from .kinks import step_across_kinks

_NO_MINIMUM = (
    "F has no minimum to go to. With first-order MAML the step is too large: lower inner_step_size. Otherwise rounding "
    "errors outweigh what is left of F: centre and scale the features, for instance with StandardScaler"
)
_FEW_DIGITS = (
    "only about {} digits of the solution are right, because F is nearly flat in some direction: centre the features, "
    "leave out nearly collinear ones, raise l2_regularization, or lower inner_step_size or n_inner_steps"
)
PATIENCE = 100
STALLED = 1e-4
"""The subgradient method has converged when PATIENCE steps improve its best value by less than STALLED of it."""
WELL_CONDITIONED = 1e-5
"""Smallest Cholesky pivot, of a matrix of unit diagonal, that is taken as a sign of a regular matrix."""
FEWEST_DIGITS = 5
"""The closed form warns if fewer digits of the solution are right."""
FLATTEST = 1e-12
"""Least curvature, relative to the largest, that counts as one."""
LARGEST_STIFF = 500
"""Largest number of parameters for which the flow is integrated by an implicit method."""


def gradient_descent(F, w0, *, step_size="auto", tol, max_iter, callback):
    """Forward Euler, the paper's MAML: w <- w - beta grad F(w)."""
    step = _step(F, step_size)
    start = None
    for n_iter, (w, value, norm) in enumerate(F.descend(w0, step)):
        callback(w, value, norm)
        start = value if start is None else start
        _check_descent(F, value, start, step)
        if norm <= tol or n_iter == max_iter:
            message = "" if norm <= tol else _out_of_iterations(value, start)
            return OptimizeResult(x=w, nit=n_iter, success=norm <= tol, message=message, step_size=step)


def subgradient_descent(F, w0, *, step_size="auto", tol, max_iter, callback):
    """Subgradient method with decreasing steps, for functions with jumps; the best iterate is kept.

    Steps are beta / sqrt(k + 1) or, for "auto", as far as the iterates have come from w0 over the root of the sum of
    all squared gradient norms (Ivgi, Hinder & Carmon 2023, "DoG is SGD's best friend"), which needs no constant of F.
    Gradients need not vanish at a minimum here: it has converged when 100 steps improve the best value by less than
    a ten-thousandth.
    """
    automatic = isinstance(step_size, str)
    w, start, best, milestone, since, squares, radius = w0, None, np.inf, np.inf, 0, 0.0, 0.0
    for n_iter in range(max_iter + 1):
        value, gradient, _ = F.expand(w)
        norm = np.linalg.norm(gradient)
        callback(w, value, norm)
        start = value if start is None else start
        _check_descent(F, value, start, step_size)
        if value < best:
            best, best_w = value, w
        if n_iter == 0 or best < milestone - STALLED * max(abs(milestone), STALLED * abs(start)):
            milestone, since = best, n_iter
        success = norm <= tol or n_iter - since >= PATIENCE
        if success or n_iter == max_iter:
            message = "" if success else "the best value still falls: raise max_iter"
            used = None if automatic else step_size
            return OptimizeResult(x=best_w, nit=n_iter, success=success, message=message, step_size=used)
        if automatic:
            radius = norm * _step(F, step_size) if n_iter == 0 else max(radius, np.linalg.norm(w - w0))
            squares += norm * norm
            w = w - radius / np.sqrt(squares) * gradient
        else:
            w = w - step_size / np.sqrt(n_iter + 1) * gradient


def flow(F, w0, *, step_size="auto", tol, max_iter, callback):
    """The gradient flow dw/dt = -beta grad F(w), (3.2) in the time unit of Algorithm 1, until norm(grad F) <= tol.

    At time t = k it is where gradient descent is after k steps, to first order in beta; `max_iter` is the horizon.
    """
    if F.structure == "subdifferentiable":
        raise ValueError(
            "solver='ode' follows the gradient, but this loss has a slope that jumps, so that grad F is not defined "
            "everywhere: use solver='gd' or 'auto', or a smooth loss"
        )
    step = _step(F, step_size)
    integrate = _exponential if F.is_one_quadratic else _integrate
    w, time, message = integrate(F, w0, step, tol, max_iter, callback)
    return OptimizeResult(x=w, nit=time, success=not message, message=message, step_size=step)


_OUT_OF_TIME = "the flow needs more time than max_iter: raise max_iter, scale the features, or raise tol"


def _exponential(F, w0, step, tol, horizon, callback):
    """Flow of a quadratic, exactly: grad F(w(t)) = exp(-t beta A) grad F(w0)."""
    value, gradient, hessp = F.expand(w0)
    eigenvalues, Q = np.linalg.eigh(hessp(np.eye(len(w0))))
    if eigenvalues[0] < -1e-8 * eigenvalues[-1]:
        raise ValueError(_NO_MINIMUM)
    rates = step * eigenvalues.clip(0)[:, None]
    gradient = Q.T @ gradient

    def norm(t):
        return np.linalg.norm(np.exp(-rates * t) * gradient)

    def decay(rates, t):  # integral of exp(-rates s) over s in [0, t]
        return np.where(rates == 0, t, -np.expm1(-rates * t) / np.where(rates == 0, 1, rates))

    success = norm(horizon) <= tol
    time = _first_time(norm, tol, 0.0, horizon) if success else horizon
    for t in _record_times(time):
        w = w0 - step * Q @ (decay(rates, t) * gradient)
        callback(w, value - step * np.sum(decay(2 * rates, t) * gradient * gradient), norm(t), t)
    return w, time, "" if success else _OUT_OF_TIME


def _record_times(time):
    """Every whole time unit and the end; at most 1000 of them."""
    whole = np.arange(time) if time <= 1000 else np.linspace(0, time, 1000, endpoint=False)
    return np.append(whole, time) if time > 0 else [0.0]


def _first_time(norm, tol, before, after):
    """When a decreasing norm first is at most tol."""
    if norm(before) <= tol:
        return before
    return brentq(lambda t: norm(t) - tol, before, after, xtol=1e-12, rtol=1e-14)


def _integrate(F, w0, step, tol, horizon, callback):
    """Flow of any F by a stiff integrator; reaching norm(grad F) = tol is a terminal event."""
    latest = -1.0

    def arrived(t, x):  # called at the start, after every step of the integrator, and to locate the event
        nonlocal latest
        w = x.reshape(w0.shape)
        value, gradient, _ = F.expand(w)
        norm = np.linalg.norm(gradient)
        if t > latest and norm > tol:
            latest = t
            callback(w, value, norm, t)
        return norm - tol

    arrived.terminal = True

    def arrive(w, t):
        value, gradient, _ = F.expand(w)
        callback(w, value, np.linalg.norm(gradient), t)
        return w, t, ""

    if np.linalg.norm(F.gradient(w0)) <= tol:
        return arrive(w0, 0.0)
    solution = solve_ivp(
        lambda t, x: -step * F.gradient(x.reshape(w0.shape)).ravel(),
        (0.0, horizon),
        w0.ravel(),
        method="BDF" if w0.size <= LARGEST_STIFF else "RK45",
        events=arrived,
        rtol=1e-6 if F.structure == "differentiable" else 1e-8,
        atol=max(1e-14, min(1e-8, 0.1 * step * tol)),
    )
    w = solution.y[:, -1].reshape(w0.shape)
    if solution.status == 1:
        return arrive(w, solution.t[-1])
    return w, solution.t[-1], _OUT_OF_TIME if solution.status == 0 else f"the integrator gave up: {solution.message}"


def exact(F, w0, *, step_size="auto", tol, max_iter, callback):
    """Minimiser of a quadratic F nearest to w0: the change is the minimum-norm solution of A change = -grad F(w0)."""
    if F.structure != "quadratic":
        raise ValueError(
            "solver='exact' needs a quadratic F, that is the squared loss; for other losses use solver='auto', "
            "'lbfgs' or 'newton-cg'"
        )
    value, gradient, hessp = F.expand(w0)
    norm = np.linalg.norm(gradient)
    callback(w0, value, norm)
    if norm == 0:
        return OptimizeResult(x=w0, nit=0, success=True, message="", step_size=None)
    rounding, digits = 0.0, np.inf
    if F.is_one_quadratic:
        A = hessp(np.eye(len(w0)))
        change, digits = _solve_minimum_norm(A, gradient, F.scale)
        w = w0 - change
        rounding = 1e-10 * (norm + np.linalg.norm(A) * np.linalg.norm(w))
    else:
        w = w0 - _conjugate_gradients(hessp, gradient, tol, max_iter)
    value, gradient, _ = F.expand(w)
    norm = np.linalg.norm(gradient)
    callback(w, value, norm)
    message = ""
    if norm > max(tol, rounding):
        message = f"norm(grad F) is {norm:.1e} at the solution: raise max_iter, scale the features"
    elif digits < FEWEST_DIGITS:
        message = _FEW_DIGITS.format(int(digits))
    return OptimizeResult(x=w, nit=1, success=not message, message=message, step_size=None)


def _solve_minimum_norm(A, b, scale):
    """Solution of the positive semi-definite A x = b, of least norm where A is singular, and its digits that are right.

    Whether A is singular is decided in units of `scale`, the curvature of f in each parameter: a small feature is not a
    missing one, but what adaptation cancels is.
    """
    scale = np.sqrt(np.where(scale > 0, scale, 1.0))[:, None]
    scaled, slope = A / (scale * scale.T), b / scale
    if not (np.all(np.isfinite(scaled)) and np.all(np.isfinite(slope))):
        raise LinAlgError("F leaves the range of floating point")
    try:
        factor = cho_factor(scaled)
    except LinAlgError:
        pass
    else:
        if np.min(np.diag(factor[0])) > WELL_CONDITIONED:
            return cho_solve(factor, slope) / scale, np.inf  # enough
    eigenvalues, Q = np.linalg.eigh(scaled)
    rounding = 10 * len(A) * np.finfo(A.dtype).eps * max(1.0, np.abs(eigenvalues).max())
    if eigenvalues[0] < -100 * rounding:
        raise ValueError(_NO_MINIMUM)
    flat = eigenvalues <= rounding
    digits = np.log10(np.min(eigenvalues[~flat], initial=1.0) / np.finfo(A.dtype).eps)
    x = Q[:, ~flat] @ (Q[:, ~flat].T @ slope / eigenvalues[~flat, None]) / scale
    if not np.all(np.isfinite(x)):
        raise LinAlgError("its minimiser leaves the range of floating point")
    null = Q[:, flat] / scale
    return x - null @ lstsq(null, x)[0] if flat.any() else x, digits


def _conjugate_gradients(hessp, b, tol, max_iter):
    """The same solution from products alone: conjugate gradients started at 0 stay in the range of A."""
    operator = LinearOperator((b.size, b.size), lambda v: hessp(v.reshape(b.shape)).ravel(), dtype=b.dtype)
    return cg(operator, b.ravel(), rtol=0.0, atol=tol, maxiter=max_iter)[0].reshape(b.shape)


def _coordinates(H):
    """Products with T and T', w = T u, such that H, (d, d) or its diagonal, (d,), is the identity for u: where known.

    Directions that H does not see keep their length, so that rounding errors do not carry w along them.
    """
    if H is None or not np.all(np.isfinite(H)):
        return lambda V: V, lambda V: V
    eigenvalues, Q = np.linalg.eigh(H) if H.ndim == 2 else (H, None)
    largest = np.max(eigenvalues, initial=0.0) or 1.0
    units = 1 / np.sqrt(np.where(eigenvalues > FLATTEST * largest, eigenvalues, largest))
    if Q is None:
        return lambda V: units[:, None] * V, lambda V: units[:, None] * V
    return lambda V: (units * Q) @ V, lambda V: (units * Q).T @ V


class _Memory:
    """F for SciPy's minimisers: flat arguments, and the last expansion remembered between value, gradient, products."""

    def __init__(self, F, shape):
        self.F, self.shape, self.x = F, shape, None

    def at(self, x):
        if self.x is None or not np.array_equal(x, self.x):
            self.x, self.expansion = x, self.F.expand(x.reshape(self.shape))
        return self.expansion

    def fun(self, x):
        value, gradient, _ = self.at(x)
        return value, gradient.ravel()

    def hessp(self, x, v):
        return self.at(x)[2](v.reshape(self.shape)).ravel()


def lbfgs(F, w0, *, step_size="auto", tol, max_iter, callback):
    """Limited-memory quasi-Newton (scipy's L-BFGS-B)."""
    return _quasi_newton(F, w0, tol, max_iter, callback, "L-BFGS-B", {"ftol": 0.0, "gtol": 0.0, "maxcor": 20})


def newton_cg(F, w0, *, step_size="auto", tol, max_iter, callback):
    """Newton's method with conjugate gradients on Hessian products (scipy's Newton-CG)."""
    return _quasi_newton(F, w0, tol, max_iter, callback, "Newton-CG", {"xtol": 0.0})


@np.errstate(over="ignore", invalid="ignore")  # a loss that is not finite is looked for at the end
def _quasi_newton(F, w0, tol, max_iter, callback, method, options):
    """One of SciPy's minimisers, stopped at norm(grad F) <= tol, started afresh where its line search gives up.

    When a fresh start brings no further decrease either, F has none to give in floating point. If grad F jumps, that is
    convergence where the gradients nearby cancel out; if they do not, they show a way down.
    """
    if F.first_order and F.structure != "quadratic":
        raise ValueError(
            "first-order MAML follows a direction that is not the gradient of any function, so no line search can be "
            "made: use solver='gd' or 'ode', or algorithm='maml'"
        )
    memory = _Memory(F, w0.shape)
    to, back = _coordinates(F.working_hessian())  # as if features were centred, uncorrelated and scaled
    x, n_iter = w0.ravel(), 0

    def at(u):
        return x + to(u.reshape(w0.shape)).ravel()

    def fun(u):
        value, gradient = memory.fun(at(u))
        return value, back(gradient.reshape(w0.shape)).ravel()

    def hessp(u, v):
        product = memory.hessp(at(u), to(v.reshape(w0.shape)).ravel())
        return back(product.reshape(w0.shape)).ravel()

    def arrived(x):
        return np.linalg.norm(memory.at(x)[1]) <= tol

    def record(x):
        value, gradient, _ = memory.at(x)
        callback(x.reshape(w0.shape).copy(), value, np.linalg.norm(gradient))

    def after_iteration(intermediate_result):
        nonlocal n_iter
        n_iter += 1
        record(at(intermediate_result.x))
        if arrived(at(intermediate_result.x)):
            raise StopIteration

    record(x)
    message, exhausted, at_kink = "", False, False
    while not (arrived(x) or exhausted or n_iter >= max_iter):
        before = memory.at(x)[0]
        x = at(
            minimize(
                fun,
                np.zeros(x.size),
                jac=True,
                hessp=hessp if method == "Newton-CG" else None,
                method=method,
                callback=after_iteration,
                options=options | {"maxiter": max_iter - n_iter},
            ).x
        )
        exhausted = not memory.at(x)[0] < before
        if exhausted and F.structure == "differentiable" and n_iter < max_iter:
            lower, shortest = step_across_kinks(memory.fun, x, tol)
            if lower is not None:
                x, exhausted = lower, False
                n_iter += 1
                record(x)
            else:
                at_kink = shortest <= max(tol, 1e-2 * np.linalg.norm(memory.at(x)[1]))
    w, norm = x.reshape(w0.shape), np.linalg.norm(memory.at(x)[1])
    if not np.isfinite(memory.at(x)[0]):
        raise ValueError(
            "the loss is not finite along the search: lower inner_step_size, with which F may have no minimum, or "
            "scale the features"
        )
    success = norm <= tol or at_kink
    if exhausted:
        message = f"F cannot be decreased further in floating point, at norm(grad F) = {norm:.1e}: raise tol"
    elif not success:
        message = (
            f"norm(grad F) is {norm:.1e} after max_iter iterations: raise max_iter, scale the features, or raise tol"
        )
    return OptimizeResult(x=w, nit=n_iter, success=success, message=message, step_size=None)


SOLVERS = {"gd": gradient_descent, "ode": flow, "exact": exact, "lbfgs": lbfgs, "newton-cg": newton_cg}


def choose_solver(name, F):
    """The solver of that name; "auto" goes by what F is."""
    if name != "auto":
        return SOLVERS[name]
    if F.structure == "quadratic":
        return exact
    if F.structure == "subdifferentiable":
        return subgradient_descent
    return gradient_descent if F.first_order else lbfgs


def biphasic(solve, f, F, w0, *, switch_tol, step_size="auto", tol, max_iter, callback):
    """BI-MAML (Algorithm 1, latched): descend f until norm(grad f) <= switch_tol, then F until norm(grad F) <= tol.

    ``callback(phase, ...)`` gets the phase as first argument. The exact solver descends f to its minimiser.
    """

    def phase(number, function, w, tol, max_iter):
        def report(*progress):
            callback(number, *progress)

        return solve(function, w, step_size=step_size, tol=tol, max_iter=max_iter, callback=report)

    direct = solve is exact
    first = phase(1, f, w0, tol if direct else switch_tol, max_iter)
    left = max_iter if direct else max_iter - first.nit
    if left <= 0:
        first.success = False
        first.message = (
            f"the first phase, until norm(grad f) <= switch_tol={switch_tol:.1e}, used up max_iter: raise one of them"
        )
        return first
    second = phase(2, F, first.x, tol, left)
    second.nit += first.nit
    if second.step_size and isinstance(step_size, str):
        second.step_size = np.array([first.step_size, second.step_size])
    return second


def _step(F, step_size):
    """The meta step size beta: as given, or 1 / L."""
    if not isinstance(step_size, str):
        return step_size
    L = F.smoothness()
    return 1 / L if L > 0 else 1.0


def _check_descent(F, value, start, step):
    """Stop a descent whose loss explodes."""
    if np.isfinite(value) and abs(value) <= 1e3 * max(abs(start), 1.0):
        return
    L = F.smoothness()
    stable = f"a stable one is {1 / L:.3g} (meta_step_size='auto'). " if L > 0 and np.isfinite(L) else ""
    raise ValueError(
        f"gradient descent diverges: the loss went from {start:.3g} to {value:.3g} with meta_step_size={step}; {stable}"
        "Features of very different scales need small steps: scale them, or lower inner_step_size"
    )


def _out_of_iterations(value, start):
    if value > start:
        return f"the loss rose from {start:.3g} to {value:.3g}: lower meta_step_size"
    return "gradient descent needs more than max_iter iterations: raise max_iter, scale the features, or raise tol"
