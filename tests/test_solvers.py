"""Solvers: all come to the same point, found by other means; descent follows the flow; BI-MAML switches once."""

import re
from typing import get_args

import numpy as np
import pytest
from references import summed_up
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import linprog, minimize, root
from scipy.special import expit
from sklearn.svm import LinearSVC

from sklearn_maml import MAMLSVC, BiMAMLMixin, MAMLRegressor
from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.meta import MAMLLoss, OneQuadratic, QuadraticSum, collapse
from sklearn_maml.prior import Prior
from sklearn_maml.rows import TaskRows
from sklearn_maml.solvers import (
    SOLVERS,
    _coordinates,
    biphasic,
    choose_solver,
    exact,
    flow,
    gradient_descent,
    lbfgs,
    newton_cg,
    subgradient_descent,
)
from sklearn_maml.steps import inner_step
from sklearn_maml.tasks import FewRowTasks, LinearTasks
from sklearn_maml.training import meta_losses, meta_train

STRUCTURE = {
    squared_loss: "quadratic",
    smooth_hinge_loss: "smooth",
    squared_hinge_loss: "differentiable",
    hinge_loss: "subdifferentiable",
}
every_solver = pytest.mark.parametrize("solver", SOLVERS)
iterative = pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "exact"])


class Problem:
    """Tasks of eight rows, their F, and F written out once more, task by task, for one output."""

    def __init__(
        self,
        loss=squared_loss,
        m=3,
        d=3,
        l2=0.0,
        alpha=0.1,
        K=1,
        adaptation="gradient",
        first_order=False,
        collapsed=True,
        X=None,
        k=1,
    ):
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(m, 8, d)) if X is None else X
        self.Y = np.random.default_rng(7).normal(size=(*self.X.shape[:2], k))
        if loss is not squared_loss:
            self.Y = np.sign(self.Y)
        self.loss, self.l2, self.alpha, self.K, self.first_order = loss, l2, alpha, K, first_order
        self.adaptation = adaptation
        self.collapsed = collapsed and loss is squared_loss
        kind = FewRowTasks if self.collapsed else LinearTasks
        self.tasks = kind(self.X, self.Y, np.ones(self.X.shape[:2]), loss, np.full((self.X.shape[2], 1), l2))
        self.w0 = rng.normal(size=self.tasks.shape[1:])
        self.F = self.maml_loss(K)

    def maml_loss(self, K):
        step = inner_step(self.tasks, self.alpha, self.adaptation)
        if self.collapsed:
            return OneQuadratic(collapse(self.tasks, step, K, self.first_order))
        return MAMLLoss(
            [self.tasks],
            n_steps=K,
            steps=[step],
            first_order=self.first_order,
            structure=STRUCTURE[self.loss],
        )

    def f_i(self, i, w):
        """One task's value, gradient and Hessian at w of shape (d,)."""
        X, y = self.X[i], self.Y[i, :, 0]
        gap, n = 1 - y * (X @ w), len(y)
        if self.loss is squared_loss:
            value, slope, curvature = (X @ w - y) ** 2, 2 * (X @ w - y), np.full(n, 2.0)
        elif self.loss is smooth_hinge_loss:
            p = expit(gap / 0.1)
            value, slope, curvature = 0.1 * np.logaddexp(0, gap / 0.1), -y * p, 10 * p * (1 - p)
        elif self.loss is squared_hinge_loss:
            value, slope, curvature = gap**2 * (gap > 0), -2 * y * gap * (gap > 0), 2.0 * (gap > 0)
        else:
            value, slope, curvature = gap * (gap > 0), -y * (gap > 0), np.zeros(n)
        hessian = (X.T * curvature) @ X / n + self.l2 * np.eye(len(w))
        return np.mean(value) + self.l2 * w @ w / 2, X.T @ slope / n + self.l2 * w, hessian

    def expand(self, w, K):
        """F(w), (1.1), and its gradient, (3.1)."""
        m, identity = len(self.X), np.eye(len(w))
        F, gradient = 0.0, np.zeros(len(w))
        for i in range(m):
            u, A = w, identity
            for _ in range(K):
                u, jacobian = self.inner(i, u)
                A = A if self.first_order else A @ jacobian
            value, g, _ = self.f_i(i, u)
            F, gradient = F + value / m, gradient + A @ g / m
        return F, gradient

    def inner(self, i, w):
        """One step of adaptation, and its (symmetric) derivative."""
        identity = np.eye(len(w))
        if self.adaptation == "gradient":
            _, g, H = self.f_i(i, w)
            return w - self.alpha * g, identity - self.alpha * H
        if self.loss is squared_loss:
            J = np.linalg.inv(identity + self.alpha * self.f_i(i, w)[2])
            return J @ (w - self.alpha * self.f_i(i, np.zeros_like(w))[1]), J
        result = root(lambda u: u - w + self.alpha * self.f_i(i, u)[1], w, tol=1e-13)
        assert np.linalg.norm(result.fun) < 1e-11
        return result.x, np.linalg.inv(identity + self.alpha * self.f_i(i, result.x)[2])

    def value(self, w):
        return self.expand(w.ravel(), self.K)[0]

    def gradient(self, w):
        return self.expand(w.ravel(), self.K)[1]

    def matrix(self, K=None):
        """A = mean H_i J_i^2K of the squared loss, J_i = I - alpha H_i if explicit, and b = A w - grad F."""
        K = self.K if K is None else K
        A, zero = 0, np.zeros(self.X.shape[2])
        for i in range(len(self.X)):
            jacobian = self.inner(i, zero)[1]
            A = A + self.f_i(i, zero)[2] @ np.linalg.matrix_power(jacobian, K if self.first_order else 2 * K)
        return A / len(self.X), -self.expand(zero, K)[1]

    def solution(self):
        """Where grad F vanishes: the point nearest to w0 by the pseudo-inverse, or by MINPACK."""
        w0 = self.w0[:, 0]
        if self.loss is squared_loss:
            A, b = self.matrix()
            return w0 + np.linalg.pinv(A, rcond=1e-10) @ (b - A @ w0)
        result = root(self.gradient, w0, tol=1e-13)
        assert np.linalg.norm(result.fun) < 1e-11
        return result.x


def twins():
    """Features of which the last is three times the one before."""
    X = np.random.default_rng(1).normal(size=(3, 8, 3))
    X[..., 2] = 3 * X[..., 1]
    return X


def centred(n=7):
    """Features centred within every task, and an intercept: that one has the curvature 2, to rounding."""
    X = np.random.default_rng(5).normal(size=(3, n, 3))
    X -= X.mean(axis=1, keepdims=True)
    X[..., 2] = 1
    return X


PROBLEMS = {
    "well-conditioned": lambda: Problem(),
    "three inner steps": lambda: Problem(K=3),
    "pooled risk": lambda: Problem(K=0, l2=0.1),
    "ill-conditioned": lambda: Problem(X=np.random.default_rng(2).normal(size=(3, 8, 3)) * [1, 0.3, 0.1]),
    "rank-deficient": lambda: Problem(X=twins()),
    "flat where alpha is 1 / curvature": lambda: Problem(X=centred(), alpha=0.5),
    "rows": lambda: Problem(collapsed=False),
    "implicit": lambda: Problem(adaptation="implicit", K=2, l2=0.1),
    "implicit rows": lambda: Problem(adaptation="implicit", collapsed=False),
    "rank-deficient rows": lambda: Problem(X=twins(), K=2, collapsed=False),
    "first order": lambda: Problem(first_order=True),
    "first order rows": lambda: Problem(first_order=True, collapsed=False, alpha=0.2),
    "smooth hinge": lambda: Problem(smooth_hinge_loss, l2=0.5),
    "smooth hinge, three inner steps": lambda: Problem(smooth_hinge_loss, l2=0.5, K=3),
    "smooth hinge, implicit": lambda: Problem(smooth_hinge_loss, l2=0.5, adaptation="implicit"),
    "smooth hinge, pooled risk": lambda: Problem(smooth_hinge_loss, l2=0.5, K=0),
    "squared hinge, pooled risk": lambda: Problem(squared_hinge_loss, l2=0.5, K=0),
}
QUADRATIC = [name for name in PROBLEMS if "hinge" not in name]
SLOW = {
    ("implicit rows", "ode"),
    ("smooth hinge, implicit", "gd"),
    ("rank-deficient rows", "ode"),
    ("smooth hinge, implicit", "ode"),
    ("first order rows", "ode"),
    ("smooth hinge, pooled risk", "ode"),
}


def pairs(names, but=()):
    """Problems and the solvers that they allow."""
    allowed = [(name, solver) for name in names for solver in SOLVERS if solver != "exact" or name in QUADRATIC]
    return pytest.mark.parametrize(("name", "solver"), [pair for pair in allowed if pair not in but])


def solve(solver, F, w0, **options):
    """Result, and what the callback got."""
    trace = []

    def callback(w, *progress):
        trace.append((w.copy(), *progress))

    options = {"tol": 1e-7, "max_iter": 100_000} | options
    return SOLVERS.get(solver, solver)(F, w0, callback=callback, **options), trace


@pairs(PROBLEMS, but=SLOW)
def test_every_solver_comes_to_the_same_point(name, solver):
    problem = PROBLEMS[name]()
    solution, tol = problem.solution(), 1e-7
    w0 = problem.w0.copy()
    result, trace = solve(solver, problem.F, problem.w0, tol=tol)
    assert result.success, result.message
    assert result.message == ""
    assert np.linalg.norm(problem.gradient(result.x)) <= tol * (1 + 1e-6)
    np.testing.assert_allclose(result.x[:, 0], solution, atol=1e-5)
    np.testing.assert_array_equal(problem.w0, w0)
    assert result.x.shape == w0.shape
    w, value, norm = trace[0][:3]
    np.testing.assert_array_equal(w, w0)
    np.testing.assert_allclose(norm, np.linalg.norm(problem.gradient(w0)), rtol=1e-9)
    w, value, norm = trace[-1][:3]
    np.testing.assert_array_equal(w, result.x)
    assert norm <= tol * (1 + 1e-6)
    if not problem.first_order:
        np.testing.assert_allclose(value, problem.value(w), rtol=1e-12)


@every_solver
def test_two_outputs_are_two_problems(solver):
    both = Problem(k=2, K=1)
    result, _ = solve(solver, both.F, both.w0)
    for j in range(2):
        both_j = Problem(k=2)
        both_j.Y, both_j.w0 = both.Y[..., [j]], both.w0[:, [j]]
        np.testing.assert_allclose(result.x[:, j], both_j.solution(), atol=1e-6)


@every_solver
def test_start_at_the_solution_stays_there(solver):
    problem = Problem()
    solution = problem.solution()[:, None]
    result, trace = solve(solver, problem.F, solution)
    assert result.success
    assert len(trace) <= 2
    np.testing.assert_allclose(result.x, solution, rtol=1e-12)


@iterative
@pytest.mark.parametrize("name", ["ill-conditioned", "smooth hinge"])
def test_out_of_iterations_says_so(solver, name):
    problem = PROBLEMS[name]()
    result, _ = solve(solver, problem.F, problem.w0, max_iter=1, tol=1e-12)
    assert not result.success
    assert result.nit == 1
    assert "raise max_iter" in result.message
    assert np.linalg.norm(problem.gradient(result.x)) > 1e-12


def test_tolerance_out_of_reach_says_so():
    """Quasi-Newton ends where floating point does; only where grad F jumps is that convergence."""
    problem = PROBLEMS["smooth hinge"]()
    result, _ = solve("lbfgs", problem.F, problem.w0, tol=0.0, max_iter=1000)
    assert not result.success
    assert result.nit < 1000
    assert "raise tol" in result.message
    problem.F.structure = "differentiable"
    assert solve("lbfgs", problem.F, problem.w0, tol=0.0, max_iter=1000)[0].success


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_fresh_starts_do_not_count_anew(solver):
    problem = PROBLEMS["smooth hinge"]()
    enough = solve(solver, problem.F, problem.w0, tol=0.0, max_iter=1000)[0].nit
    for limit in range(1, enough + 1):
        assert solve(solver, problem.F, problem.w0, tol=0.0, max_iter=limit)[0].nit <= limit


def test_newton_takes_few_steps():
    problem = PROBLEMS["smooth hinge"]()
    assert solve("newton-cg", problem.F, problem.w0, tol=1e-6)[0].nit <= 15


# exact


@pytest.mark.parametrize("K", [0, 1])
def test_exact_on_badly_scaled_features(K):
    """Features of sizes 1e-6 to 1e6: compare in units of each feature, where the problem is well conditioned."""
    scale = np.array([1e-6, 1.0, 1e6])
    unit = Problem(K=K)
    problem = Problem(K=K, X=unit.X * scale, alpha="auto")
    A, b = np.zeros((3, 3)), np.zeros(3)
    for X, y in zip(unit.X, unit.Y[..., 0], strict=True):
        H, c = 2 * X.T @ X / 8, 2 * X.T @ y / 8
        M = np.eye(3) - H * scale**2 / (2 * np.linalg.eigvalsh(H * np.outer(scale, scale))[-1])
        M = np.linalg.matrix_power(M, 2 * K)
        A, b = A + M @ H, b + M @ c
    result, _ = solve("exact", problem.F, np.zeros((3, 1)), tol=1e-6)
    assert result.success
    np.testing.assert_allclose(result.x[:, 0] * scale, np.linalg.solve(A, b), rtol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4])
def test_exact_on_badly_scaled_features_with_twins(size):
    """Two equal features make the matrix singular; the others must not go with them, however small they are."""
    scale = np.array([1 / size, size, 1.0, 1.0])
    X = np.random.default_rng(3).normal(size=(1, 50, 4))
    X[..., 3] = X[..., 2]
    problem = Problem(X=X * scale, K=0)
    result, _ = solve("exact", problem.F, np.zeros((4, 1)))
    assert result.success
    unit = np.linalg.lstsq(X[0], problem.Y[0, :, 0])[0]
    np.testing.assert_allclose(result.x[:, 0] * scale, unit, rtol=1e-5)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_exact_allows_for_rounding(size):
    """No tolerance is reached in floating point: what is left is compared with the sizes that cancel."""
    problem = Problem(X=size * Problem().X, alpha=0.1 / size**2)
    result, _ = solve("exact", problem.F, np.zeros((3, 1)), tol=0.0)
    assert result.success
    assert result.nit == 1
    for gap in 1e-9 * np.random.default_rng(0).normal(size=(10, 3, 1)):
        again, _ = solve("exact", problem.F, (1 + gap) * result.x, tol=0.0)
        assert again.success
        np.testing.assert_allclose(again.x, result.x, rtol=1e-12)


def test_exact_on_features_that_are_zero():
    X = np.random.default_rng(4).normal(size=(3, 8, 3))
    X[..., 1] = 0
    problem = Problem(X=X)
    result, _ = solve("exact", problem.F, problem.w0)
    assert result.success
    np.testing.assert_allclose(result.x[1], problem.w0[1], rtol=1e-12)
    np.testing.assert_allclose(result.x[:, 0], problem.solution(), rtol=1e-9)


@pytest.mark.parametrize("n", [7, 10, 23, 49])
@pytest.mark.parametrize("kind", ["rows", "statistics"])
def test_exact_leaves_alone_what_is_flat_to_rounding(kind, n):
    """With alpha = 0.5 one step adapts the intercept fully: its entries of the matrix are noise, not curvature."""
    problem = Problem(X=centred(n), alpha=0.5)
    tasks = problem.tasks if kind == "rows" else summed_up(problem.tasks)
    F = OneQuadratic(collapse(tasks, inner_step(tasks, 0.5, "gradient"), 1))
    result, _ = solve("exact", F, problem.w0)
    np.testing.assert_allclose(result.x[2], problem.w0[2], rtol=1e-9)
    np.testing.assert_allclose(result.x[:, 0], problem.solution(), rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.1, 0.3, 0.7])
def test_exact_leaves_alone_what_is_flat_everywhere(alpha):
    """All curvatures are 1 / alpha: one step solves every task, wherever it starts, and the whole matrix is noise."""
    X = np.linalg.qr(np.random.default_rng(8).normal(size=(3, 8, 3)))[0] * np.sqrt(4 / alpha)
    problem = Problem(X=X, alpha=alpha)
    np.testing.assert_allclose(problem.matrix()[0], 0, atol=1e-12)
    result, _ = solve("exact", problem.F, problem.w0)
    assert result.success
    np.testing.assert_allclose(result.x, problem.w0, rtol=1e-9)


@pytest.mark.parametrize("gap", [2**-3, 2**-10, 2**-13, 2**-18, 2**-20, 2**-22, 1.5 * 2**-23])
def test_exact_tells_how_many_digits_are_left(gap):
    """Features that differ by `gap`: where fewer than five digits are promised, as many are right and hardly more."""
    X = np.random.default_rng(5).integers(-8, 9, size=(1, 40, 2)) / 8
    X[..., 1] = X[..., 0] + gap * X[..., 1]  # without a rounding error
    problem = Problem(X=X, K=0)
    result, _ = solve("exact", problem.F, np.zeros((2, 1)))
    truth = np.linalg.lstsq(X[0], problem.Y[0, :, 0])[0]  # by rows: twice as many digits
    right = -np.log10(np.max(np.abs(result.x[:, 0] / truth - 1)))
    if result.success:
        assert result.message == ""
        assert right > 4.5
        assert gap > 1e-5
    else:
        promised = int(re.search(r"only about (\d) digits of the solution are right", result.message)[1])
        assert promised < 5
        assert -1 <= right - promised < 2.5
        assert gap < 1e-5


@pytest.mark.parametrize("d", [1, 3])
def test_exact_at_the_minimum(d):
    problem = Problem(d=d)
    problem.tasks.Y[:] = 0
    result, _ = solve("exact", problem.maml_loss(1), np.zeros((d, 1)))
    assert result.success
    assert (result.nit, result.message, result.step_size) == (0, "", None)
    np.testing.assert_array_equal(result.x, np.zeros((d, 1)))


def test_exact_of_one_parameter():
    problem = Problem(d=1)
    np.testing.assert_allclose(solve("exact", problem.F, problem.w0)[0].x[:, 0], problem.solution(), rtol=1e-12)


def test_products_alone_reach_tol_from_far():
    """Conjugate gradients go by `tol`, not by what is left of the gradient they start from."""
    problem = Problem(X=np.random.default_rng(3).normal(size=(3, 40, 20)) * np.geomspace(0.3, 1, 20), collapsed=False)
    result, _ = solve("exact", problem.F, 1e6 * problem.w0, tol=1e-4)
    assert result.success
    assert np.linalg.norm(problem.gradient(result.x)) < 1e-4


def test_newton_cg_takes_products_for_all_outputs():
    problem = Problem(loss=smooth_hinge_loss, k=2, l2=0.1, K=0)
    result, _ = solve("newton-cg", problem.F, problem.w0)
    assert np.linalg.norm(problem.F.gradient(result.x)) <= 1e-6
    assert problem.F.n_hessp > 0


def test_exact_change_has_minimum_norm():
    """The coefficient of a feature that is three times another changes by three times as much, wherever both start."""
    problem = Problem(X=twins(), K=2)
    result, _ = solve("exact", problem.F, problem.w0)
    assert result.success
    change = (result.x - problem.w0)[:, 0]
    np.testing.assert_allclose(change[2], 3 * change[1], rtol=1e-9)
    A, b = problem.matrix()
    least = np.linalg.lstsq(A, b - A @ problem.w0[:, 0], rcond=1e-10)[0]
    np.testing.assert_allclose(change, least, rtol=1e-8)


@pytest.mark.parametrize("d", [30, 60])
def test_exact_with_many_more_features_than_rows(d):
    problem = Problem(X=np.random.default_rng(1).normal(size=(2, 8, d)), K=0)
    result, _ = solve("exact", problem.F, np.zeros((d, 1)))
    assert result.success
    least = np.linalg.lstsq(problem.X.reshape(16, d), problem.Y.ravel())[0]
    np.testing.assert_allclose(result.x[:, 0], least, rtol=1e-8)


@pytest.mark.parametrize("k", [1, 2])
@pytest.mark.parametrize("K", [1, 3])
def test_exact_without_matrices_is_exact_with_one(K, k):
    with_matrix, without = (Problem(X=twins(), K=K, k=k, collapsed=collapsed) for collapsed in (True, False))
    assert with_matrix.F.is_one_quadratic
    assert not without.F.is_one_quadratic
    one, other = (solve("exact", p.F, p.w0, tol=1e-11)[0] for p in (with_matrix, without))
    assert one.success
    assert other.success
    np.testing.assert_allclose(other.x, one.x, rtol=1e-9)
    hasty, _ = solve("exact", without.F, without.w0, tol=1e-11, max_iter=1)
    assert not hasty.success
    assert "raise max_iter" in hasty.message
    assert np.linalg.norm(without.gradient(other.x[:, 0])) <= 1e-11


@pytest.mark.parametrize("loss", [smooth_hinge_loss, squared_hinge_loss, hinge_loss])
def test_exact_refuses_other_losses(loss):
    problem = Problem(loss)
    with pytest.raises(ValueError, match=r"(?s)quadratic.*squared loss"):
        solve("exact", problem.F, problem.w0)


@pytest.mark.parametrize("solver", ["lbfgs", "newton-cg"])
def test_quasi_newton_refuses_first_order(solver):
    problem = Problem(smooth_hinge_loss, first_order=True)
    with pytest.raises(ValueError, match="first-order"):
        solve(solver, problem.F, problem.w0)


@every_solver
def test_iterates_reported_stay_as_they_were(solver):
    """Whoever keeps the callback's w, to draw the path say, keeps the path."""
    problem = PROBLEMS["ill-conditioned"]()
    path, copies = [], []
    SOLVERS[solver](
        problem.F,
        problem.w0,
        tol=1e-3,
        max_iter=10_000,
        callback=lambda w, *_: (path.append(w), copies.append(w.copy())),
    )
    assert len(path) > 1
    np.testing.assert_array_equal(path, copies)


@every_solver
def test_only_the_flow_reports_a_time(solver):
    problem = Problem()
    _, trace = solve(solver, problem.F, problem.w0)
    assert {len(progress) for progress in trace} == {4 if solver == "ode" else 3}


def test_flow_refuses_the_hinge():
    problem = Problem(hinge_loss)
    with pytest.raises(ValueError, match="slope that jumps"):
        solve("ode", problem.F, problem.w0)


@pytest.mark.parametrize("solver", ["gd", "ode"])
def test_descent_takes_first_order(solver):
    problem = Problem(smooth_hinge_loss, first_order=True, l2=0.5, K=2)
    result, _ = solve(solver, problem.F, problem.w0)
    assert result.success
    np.testing.assert_allclose(result.x[:, 0], problem.solution(), atol=1e-5)


# gradient descent and the flow


@pytest.mark.parametrize("loss", [squared_loss, smooth_hinge_loss])
def test_descent_takes_the_steps_it_is_given(loss):
    problem = Problem(loss, l2=0.1)
    result, trace = solve("gd", problem.F, problem.w0, step_size=0.07, max_iter=10)
    w = problem.w0[:, 0]
    assert len(trace) == 11
    assert result.step_size == 0.07
    for at, value, norm in trace:
        np.testing.assert_allclose(at[:, 0], w, rtol=1e-11)
        np.testing.assert_allclose(value, problem.value(w), rtol=1e-11)
        np.testing.assert_allclose(norm, np.linalg.norm(problem.gradient(w)), rtol=1e-10)
        w = w - 0.07 * problem.gradient(w)


@pytest.mark.parametrize("solver", ["gd", "ode"])
def test_automatic_step_is_one_over_the_smoothness(solver):
    problem = Problem()
    result, _ = solve(solver, problem.F, problem.w0)
    np.testing.assert_allclose(result.step_size, 1 / np.linalg.eigvalsh(problem.matrix()[0])[-1])
    flat = Problem(X=1e-3 * problem.X)
    result, _ = solve(solver, flat.F, flat.w0, tol=1e-12)
    np.testing.assert_allclose(result.step_size, 1 / np.linalg.eigvalsh(flat.matrix()[0])[-1])


def test_long_flow_is_recorded_a_thousand_times():
    problem = PROBLEMS["well-conditioned"]()
    result, trace = solve("ode", problem.F, problem.w0, step_size=1e-5, tol=0.0, max_iter=5000)
    times = [progress[3] for progress in trace]
    np.testing.assert_allclose(times, np.arange(0, 5001, 5))
    assert result.nit == 5000
    for limit in (1000, 1001):
        assert len(solve("ode", problem.F, problem.w0, step_size=1e-5, tol=0.0, max_iter=limit)[1]) == 1001


@pytest.mark.parametrize("name", ["well-conditioned", "three inner steps", "rank-deficient", "first order"])
@pytest.mark.parametrize("time", [1, 7, 100])
def test_flow_of_a_quadratic_is_the_exponential(name, time):
    problem = PROBLEMS[name]()
    solution, (A, _) = problem.solution(), problem.matrix()
    result, trace = solve("ode", problem.F, problem.w0, step_size=0.2, tol=0.0, max_iter=time)
    assert not result.success
    assert result.nit == time
    times = [progress[3] for progress in trace]
    assert times == list(range(time + 1))
    for w, value, norm, t in trace[:: max(1, time // 5)]:
        expected = solution + expm(-0.2 * t * A) @ (problem.w0[:, 0] - solution)
        np.testing.assert_allclose(w[:, 0], expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(norm, np.linalg.norm(problem.gradient(expected)), rtol=1e-8, atol=1e-12)
        if not problem.first_order:
            np.testing.assert_allclose(value, problem.value(expected), rtol=1e-10)


@pytest.mark.parametrize("name", ["rows", "smooth hinge"])
def test_flow_is_the_integrated_path(name):
    problem = PROBLEMS[name]()
    path = solve_ivp(
        lambda _, w: -0.2 * problem.gradient(w), (0, 9), problem.w0[:, 0], method="DOP853", rtol=1e-12, atol=1e-13
    )
    result, trace = solve("ode", problem.F, problem.w0, step_size=0.2, tol=0.0, max_iter=9)
    assert not result.success
    np.testing.assert_allclose(result.x[:, 0], path.y[:, -1], atol=1e-6)
    times = np.array([progress[3] for progress in trace])
    assert np.all(np.diff(times) > 0)
    assert times[0] == 0
    np.testing.assert_allclose(times[-1], 9)


@pytest.mark.parametrize("name", ["well-conditioned", "rows", "smooth hinge"])
def test_flow_that_has_arrived_stays(name):
    problem = PROBLEMS[name]()
    norm = np.linalg.norm(problem.F.gradient(problem.w0))
    result, trace = solve("ode", problem.F, problem.w0, tol=norm)
    assert result.success
    assert result.nit == 0
    assert [time for *_, time in trace] == [0]
    np.testing.assert_array_equal(result.x, problem.w0)


@pytest.mark.parametrize("name", ["well-conditioned", "rows", "smooth hinge"])
def test_flow_that_has_nearly_arrived_goes_on(name):
    """For less than a unit of time; also from w = 0."""
    problem = PROBLEMS[name]()
    for start in (problem.w0, 0 * problem.w0):
        norm = np.linalg.norm(problem.F.gradient(start))
        result, _ = solve("ode", problem.F, start, tol=0.99 * norm)
        assert result.success
        assert 0 < result.nit < 1
        np.testing.assert_allclose(np.linalg.norm(problem.F.gradient(result.x)), 0.99 * norm, rtol=1e-6)


@pytest.mark.parametrize("name", ["well-conditioned", "rows", "smooth hinge"])
def test_descent_in_small_steps_follows_the_flow(name):
    """At time k the flow is where descent is after k steps, up to an error that halves with the step."""
    problem = PROBLEMS[name]()
    errors = []
    for n_steps in (20, 40, 80):
        options = {"step_size": 2 / n_steps, "max_iter": n_steps, "tol": 0.0}
        steps, _ = solve("gd", problem.F, problem.w0, **options)
        smooth, _ = solve("ode", problem.F, problem.w0, **options)
        errors.append(np.linalg.norm(steps.x - smooth.x))
    assert errors[0] < 0.05 * np.linalg.norm(steps.x - problem.w0)
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 2, atol=0.25)


@pytest.mark.parametrize("name", ["well-conditioned", "smooth hinge"])
def test_flow_stops_when_it_arrives(name):
    """At the first time at which norm(grad F) = tol, in the middle of a step if need be."""
    problem = PROBLEMS[name]()
    result, trace = solve("ode", problem.F, problem.w0, tol=0.01)
    assert result.success
    assert result.nit == trace[-1][3] < 1000
    np.testing.assert_allclose(np.linalg.norm(problem.gradient(result.x)), 0.01, rtol=1e-6)
    assert all(norm > 0.01 for _, _, norm, _ in trace[:-1])
    assert np.all(np.diff([time for *_, time in trace]) >= 0)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("well-conditioned", 3), ("well-conditioned", 1000), ("rows", 5), ("squared hinge, pooled risk", 1000)],
)
def test_divergence_names_a_stable_step(name, factor):
    problem = PROBLEMS[name]()
    step = factor / problem.F.smoothness()
    with pytest.raises(ValueError, match=re.escape(f"meta_step_size={step}")) as error:
        solve("gd", problem.F, problem.w0, step_size=step, max_iter=1000)
    stable = float(re.search(r"a stable one is (\S+)", str(error.value))[1])
    assert stable < step / 2
    assert solve("gd", problem.F, problem.w0, step_size=stable)[0].success


@pytest.mark.parametrize("collapsed", [True, False])
def test_divergence_beyond_the_range_of_floating_point(collapsed):
    problem = Problem(collapsed=collapsed)
    with pytest.raises(ValueError, match="gradient descent diverges"):
        solve("gd", problem.F, problem.w0, step_size=1e200)


def test_subgradient_descent_that_diverges():
    problem = Problem(hinge_loss, l2=1.0)
    with pytest.raises(ValueError, match="gradient descent diverges"):
        solve(subgradient_descent, problem.F, problem.w0, step_size=1e6)


def test_divergence_names_a_stable_step_that_is_long():
    problem = Problem(X=1e-3 * Problem().X)
    L = problem.F.smoothness()
    with pytest.raises(ValueError, match=re.escape(f"a stable one is {1 / L:.3g}")):
        solve("gd", problem.F, problem.w0, step_size=10 / L)


@every_solver
def test_function_without_a_minimum(solver):
    """First-order MAML that overshoots falls for ever: an error, neither NaN nor the advice to go on."""
    problem = Problem(first_order=True, alpha=3.0)
    assert np.linalg.eigvalsh(problem.matrix()[0])[0] < -1
    with pytest.raises(ValueError, match="inner_step_size"):
        solve(solver, problem.F, problem.w0, max_iter=1000)


@pytest.mark.parametrize("solver", ["exact", "ode"])
def test_one_direction_without_a_minimum(solver):
    A = np.diag([1.0, -1e-3, 2.0])
    F = OneQuadratic(QuadraticSum(A, np.ones((3, 1)), 0.0, np.ones(3), 1))
    with pytest.raises(ValueError, match="F has no minimum"):
        solve(solver, F, np.zeros((3, 1)), max_iter=10)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_flow_allows_for_rounding(size):
    """A curvature that is negative by rounding, beside a large one, is none."""
    F = OneQuadratic(QuadraticSum(size * np.diag([1.0, -1e-15, 1.0]), np.zeros((3, 1)), 0.0, np.ones(3), 1))
    assert solve("ode", F, np.ones((3, 1)), step_size=1 / size, tol=1e-6 * size)[0].success


def test_descent_where_there_is_nothing_to_lose():
    problem = Problem()
    problem.tasks.Y[:] = 0
    result, trace = solve("gd", problem.maml_loss(1), np.zeros((3, 1)))
    assert result.success
    assert [value for _, value, _ in trace] == [0]
    assert solve("exact", problem.maml_loss(1), np.zeros((3, 1)))[0].nit == 0


# losses whose slope jumps


@pytest.mark.parametrize("step_size", ["auto", 4.0])
def test_subgradient_steps(step_size):
    """Either beta / sqrt(k + 1), or the farthest that the iterates have come over the root of the sum of squares."""
    problem = Problem(hinge_loss, l2=0.1)
    result, trace = solve(subgradient_descent, problem.F, problem.w0, step_size=step_size, tol=0.0, max_iter=60)
    w, w0, farthest, squares = problem.w0[:, 0], problem.w0[:, 0], 0.0, 0.0
    L = np.mean([np.linalg.norm(X, 2) ** 2 / 8 + 0.1 for X in problem.X])
    for k, (at, value, _) in enumerate(trace):
        np.testing.assert_allclose(at[:, 0], w, rtol=1e-9)
        np.testing.assert_allclose(value, problem.value(w), rtol=1e-9)
        gradient = problem.gradient(w)
        farthest = max(farthest, np.linalg.norm(w - w0)) if k > 0 else np.linalg.norm(gradient) / L
        squares += gradient @ gradient
        step = 4.0 / np.sqrt(k + 1) if step_size == 4.0 else farthest / np.sqrt(squares)
        w = w - step * gradient
    assert len(trace) == 61
    values = [value for _, value, _ in trace]
    assert min(values) < values[-1]
    np.testing.assert_array_equal(result.x, trace[np.argmin(values)][0])


@pytest.mark.parametrize("step_size", ["auto", 0.5])
def test_subgradients_against_linear_svc(step_size):
    problem = Problem(hinge_loss, m=1, d=4, l2=0.1, K=0)
    svc = LinearSVC(loss="hinge", C=1 / (0.1 * 8), fit_intercept=False, tol=1e-10, max_iter=10**6, random_state=0)
    best = problem.value(svc.fit(problem.X[0], problem.Y[0, :, 0]).coef_)
    result, trace = solve(subgradient_descent, problem.F, problem.w0, step_size=step_size, tol=1e-6, max_iter=5000)
    assert result.success
    assert best <= problem.value(result.x) <= best + 1e-2 * best
    assert problem.value(result.x) <= min(value for _, value, _ in trace) * (1 + 1e-12)
    assert result.step_size == (None if step_size == "auto" else 0.5)


def test_subgradients_against_linear_programming():
    """Without penalty the mean hinge over all tasks is a linear programme in w and the rows' losses."""
    problem = Problem(hinge_loss, m=4, d=3, K=0)
    rows = (problem.X * problem.Y).reshape(32, 3)
    programme = linprog(
        np.r_[np.zeros(3), np.full(32, 1 / 32)],
        A_ub=-np.hstack([rows, np.eye(32)]),
        b_ub=-np.ones(32),
        bounds=[(None, None)] * 3 + [(0, None)] * 32,
    )
    assert programme.success
    result, _ = solve(subgradient_descent, problem.F, problem.w0, tol=1e-6, max_iter=5000)
    assert result.success
    assert programme.fun * (1 - 1e-9) <= problem.value(result.x) <= programme.fun * 1.01


def test_subgradients_stop_at_max_iter():
    problem = Problem(hinge_loss)
    result, trace = solve(subgradient_descent, problem.F, problem.w0, tol=1e-6, max_iter=5)
    assert not result.success
    assert len(trace) == 6
    assert result.nit == 5
    assert "raise max_iter" in result.message


@pytest.mark.parametrize("K", [1, 3])
def test_squared_hinge_ends_where_f_cannot_be_lowered(K):
    """Its grad F jumps and need not vanish; a search without gradients finds nothing better nearby."""
    problem = Problem(squared_hinge_loss, l2=0.1, K=K)
    result, _ = solve(choose_solver("auto", problem.F), problem.F, problem.w0)
    assert result.success
    search = minimize(problem.value, result.x[:, 0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-13})
    assert problem.value(result.x) <= search.fun + 1e-7


@pytest.mark.parametrize("diagonal", [False, True])
def test_coordinates_of_the_search(diagonal):
    """The Hessian is the identity in them, and what it does not see keeps its length."""
    root = np.diag([2.0, 30.0, 400.0, 1e-7, 0.0])
    if not diagonal:
        root = root @ np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0]
    H = root.T @ root
    to, back = _coordinates(np.diag(H).copy() if diagonal else H)
    T = to(np.eye(5))
    np.testing.assert_allclose(back(np.eye(5)), T.T, rtol=1e-12)
    unseen = [1e-14 / 160000, 0]  # of the size of 1 / sqrt(the largest curvature)
    np.testing.assert_allclose(np.linalg.eigvalsh(T.T @ H @ T), [*unseen[::-1], 1, 1, 1], rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(T, 2), 1 / 2)
    np.testing.assert_allclose(np.linalg.norm(np.linalg.inv(T), 2), 400)


@pytest.mark.parametrize("H", [None, np.full((2, 2), np.nan), np.zeros((2, 2)), np.zeros(2)])
def test_coordinates_without_curvature_are_the_parameters(H):
    V = np.arange(4.0).reshape(2, 2)
    for product in _coordinates(H):
        np.testing.assert_array_equal(np.abs(product(V)), V)


def test_automatic_choice_goes_by_structure():
    assert choose_solver("auto", Problem().F) is exact
    assert choose_solver("auto", Problem(collapsed=False).F) is exact
    assert choose_solver("auto", Problem(smooth_hinge_loss).F) is lbfgs
    assert choose_solver("auto", Problem(squared_hinge_loss).F) is lbfgs
    assert choose_solver("auto", Problem(smooth_hinge_loss, first_order=True).F) is gradient_descent
    assert choose_solver("auto", Problem(hinge_loss).F) is subgradient_descent
    names = {"gd": gradient_descent, "ode": flow, "exact": exact, "lbfgs": lbfgs, "newton-cg": newton_cg}
    assert names.items() <= {name: choose_solver(name, Problem().F) for name in SOLVERS}.items()


@pytest.mark.parametrize("cls", [BiMAMLMixin, MAMLRegressor, MAMLSVC])
def test_estimators_take_every_solver(cls):
    """By constraint, type and docstring."""
    every = {"auto", *SOLVERS}
    assert cls._parameter_constraints["solver"][0].options == every
    assert set(get_args(cls.__init__.__annotations__["solver"])) == every
    if cls is not BiMAMLMixin:
        text = re.search(r"^    solver : \{(.*)\}", cls.__doc__, flags=re.MULTILINE)[1]
        assert {name.strip('"') for name in text.split(", ")} == every


# BI-MAML


def bimaml(problem, solver, switch_tol, **options):
    trace = []

    def callback(phase, w, *progress):
        trace.append((phase, w.copy(), *progress))

    options = {"switch_tol": switch_tol, "tol": 1e-7, "max_iter": 100_000} | options
    f, F = problem.maml_loss(0), problem.F
    return biphasic(SOLVERS[solver], f, F, problem.w0, callback=callback, **options), trace


@pairs(["well-conditioned", "rows", "smooth hinge"])
def test_switch(name, solver):
    """At the first iterate with norm(grad f) <= switch_tol; the norms recorded are those of f, then those of F."""
    problem = PROBLEMS[name]()
    solution = problem.solution()
    switch_tol = 0.1 * np.linalg.norm(problem.expand(problem.w0[:, 0], 0)[1])
    result, trace = bimaml(problem, solver, switch_tol)
    assert result.success
    np.testing.assert_allclose(result.x[:, 0], solution, atol=1e-5)
    phases = [progress[0] for progress in trace]
    assert phases == sorted(phases)
    assert set(phases) == {1, 2}
    first, second = ([progress for progress in trace if progress[0] == phase] for phase in (1, 2))
    for progress in trace[:: 1 + len(trace) // 40]:
        phase, w, _, norm = progress[:4]
        _, gradient = problem.expand(w[:, 0], 0 if phase == 1 else problem.K)
        np.testing.assert_allclose(norm, np.linalg.norm(gradient), rtol=1e-6, atol=1e-9)
    assert all(norm > switch_tol for _, _, _, norm, *_ in first[:-1])
    assert first[-1][3] <= switch_tol * (1 + 1e-9)
    np.testing.assert_array_equal(first[-1][1], second[0][1])


@pytest.mark.parametrize("X", [twins(), centred()], ids=["twins", "flat where alpha is 1 / curvature"])
def test_exact_switches_at_the_minimiser_of_f(X):
    """So where F is flat it stays as near as possible to that minimiser, not to w0."""
    problem = Problem(X=X, alpha=0.5)
    w = problem.w0[:, 0]
    for K in (0, 1):
        A, b = problem.matrix(K)
        w = w + np.linalg.lstsq(A, b - A @ w, rcond=1e-10)[0]
    result, _ = bimaml(problem, "exact", 1e-3)
    np.testing.assert_allclose(result.x[:, 0], w, rtol=1e-8)


def test_switch_is_latched():
    """On its way to the minimiser of F, norm(grad f) rises above switch_tol again: phase two goes on all the same."""
    problem = Problem(alpha=0.4)
    switch_tol = 1e-3
    result, trace = bimaml(problem, "gd", switch_tol)
    assert result.success
    assert np.linalg.norm(problem.expand(result.x[:, 0], 0)[1]) > 10 * switch_tol
    assert np.sum(np.diff([progress[0] for progress in trace])) == 1
    assert np.linalg.norm(problem.gradient(result.x)) <= 1e-7


def test_no_first_phase_if_f_is_already_flat():
    problem = Problem()
    result, trace = bimaml(problem, "gd", 1e9)
    alone, _ = solve("gd", problem.F, problem.w0)
    assert [progress[0] for progress in trace[:3]] == [1, 2, 2]
    assert result.nit == alone.nit == len(trace) - 2
    np.testing.assert_array_equal(result.x, alone.x)


def test_one_iteration_left_for_the_second_phase():
    problem = PROBLEMS["ill-conditioned"]()
    switch_tol = 0.1 * np.linalg.norm(problem.expand(problem.w0[:, 0], 0)[1])
    _, trace = bimaml(problem, "gd", switch_tol)
    in_first = sum(progress[0] == 1 for progress in trace) - 1
    result, trace = bimaml(problem, "gd", switch_tol, max_iter=in_first + 1)
    assert [progress[0] for progress in trace[-2:]] == [2, 2]
    assert "switch_tol" not in result.message
    result, trace = bimaml(problem, "gd", switch_tol, max_iter=in_first)
    assert trace[-1][0] == 1
    assert not result.success
    assert "switch_tol" in result.message


@iterative
def test_max_iter_bounds_both_phases(solver):
    problem = PROBLEMS["ill-conditioned"]()
    switch_tol = 0.1 * np.linalg.norm(problem.expand(problem.w0[:, 0], 0)[1])
    enough, trace = bimaml(problem, solver, switch_tol)
    in_first = sum(progress[0] == 1 for progress in trace) - 1
    assert 0 < in_first < enough.nit
    limit = int(enough.nit) - 1
    result, trace = bimaml(problem, solver, switch_tol, max_iter=limit)
    assert not result.success
    np.testing.assert_allclose(result.nit, limit)
    assert "max_iter" in result.message
    if solver != "ode":
        starts = len({progress[0] for progress in trace})
        assert len(trace) == limit + starts
    result, trace = bimaml(problem, solver, 1e-12, max_iter=2)
    assert not result.success
    assert {progress[0] for progress in trace} == {1}
    assert "switch_tol=1.0e-12" in result.message


def test_both_step_sizes_are_reported():
    problem = Problem()
    result, _ = bimaml(problem, "gd", 0.1)
    expected = [1 / np.linalg.eigvalsh(problem.matrix(K)[0])[-1] for K in (0, 1)]
    assert isinstance(result.step_size, np.ndarray)
    np.testing.assert_allclose(result.step_size, expected)


# the history of meta-training


def paper_loop(problem, switch_tol, beta, tol):
    """Algorithm 1 with the latched switch, as a textbook would: what the history must hold, iterate by iterate."""
    w, phase, rows, n_gradients, n_hessp = problem.w0[:, 0], 1, [], 0, 0
    while True:
        value, gradient = problem.expand(w, 0 if phase == 1 else problem.K)
        n_gradients += 1 if phase == 1 else problem.K + 1
        n_hessp += 0 if phase == 1 else problem.K
        norm = np.linalg.norm(gradient)
        if phase == 1 and norm <= switch_tol:
            phase = 2
            continue
        rows.append((phase, norm, value, n_gradients, n_hessp))
        if phase == 2 and norm <= tol:
            return w, dict(
                zip(("phase", "grad_norm", "objective", "n_gradients", "n_hessp"), np.transpose(rows), strict=True)
            )
        w = w - beta * gradient


@pytest.mark.parametrize("structure", ["one quadratic", "quadratic", "smooth"])
@pytest.mark.parametrize("K", [1, 2])
def test_history_is_that_of_the_paper(structure, K):
    problem = Problem(smooth_hinge_loss if structure == "smooth" else squared_loss, m=5, l2=0.05, K=K)
    m, n, d = problem.X.shape
    rows = TaskRows(
        problem.X.reshape(m * n, d),
        problem.Y.reshape(m * n, 1),
        np.ones(m * n),
        np.repeat(np.arange(m), n),
        problem.loss,
        problem.l2,
        False,
    )
    switch_tol = 0.1 * np.linalg.norm(problem.expand(problem.w0[:, 0], 0)[1])
    w, expected = paper_loop(problem, switch_tol, beta=0.2, tol=1e-3)
    losses = meta_losses(
        rows.stacks(structure),
        structure,
        inner_step_size=0.1,
        n_inner_steps=K,
        adaptation="gradient",
        prior=None,
        first_order=False,
        n_jobs=None,
    )
    result = meta_train(
        losses,
        problem.w0,
        algorithm="bimaml",
        solver="gd",
        meta_step_size=0.2,
        switch_tol="auto",
        max_iter=10_000,
        tol=1e-3,
        verbose=0,
    )
    assert result.success
    np.testing.assert_allclose(result.x[:, 0], w, rtol=1e-9)
    np.testing.assert_allclose(result.switch_tol, switch_tol, rtol=1e-12)
    assert len(result.history["phase"]) == result.nit + 1
    assert 1 < np.sum(result.history["phase"] == 1) < result.nit
    assert result.history.keys() == expected.keys()
    for name, numbers in expected.items():
        np.testing.assert_allclose(result.history[name], numbers, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("adaptation", ["gradient", "implicit"])
@pytest.mark.parametrize("algorithm", ["bimaml", "maml", "fomaml"])
def test_learned_metric_is_the_same_from_rows_and_statistics(adaptation, algorithm):
    """Also what it costs: f is added to F whether or not F is collapsed to one quadratic."""
    problem = Problem(m=5, l2=0.05)
    m, n, d = problem.X.shape
    table = problem.X.reshape(m * n, d), problem.Y.reshape(m * n, 1)
    rows = TaskRows(*table, np.ones(m * n), np.repeat(np.arange(m), n), squared_loss, 0.05, False)
    one, other = (
        meta_train(
            meta_losses(
                rows.stacks(structure),
                structure,
                inner_step_size="auto",
                n_inner_steps=2,
                adaptation=adaptation,
                prior=Prior(None, np.array([[0.4], [0.0], [2.0]]), np.ones(1)),
                first_order=algorithm == "fomaml",
                n_jobs=None,
            ),
            problem.w0,
            algorithm=algorithm,
            solver="gd",
            meta_step_size=0.1,
            switch_tol="auto",
            max_iter=10_000,
            tol=1e-2,
            verbose=0,
        )
        for structure in ("one quadratic", "quadratic")
    )
    assert one.success
    np.testing.assert_allclose(one.x, other.x, rtol=1e-8)
    np.testing.assert_allclose(one.inner_step_size, other.inner_step_size, rtol=1e-10)
    for name in other.history:
        np.testing.assert_allclose(one.history[name], other.history[name], rtol=1e-7, err_msg=name)
