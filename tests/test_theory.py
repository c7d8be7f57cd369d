"""Constants and bounds against brute force and formulas typed from the paper; what a certificate says, and what not."""

import json
from functools import partial

import numpy as np
import pytest
from references import summed_up
from scipy import sparse
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from scipy.optimize import brentq, root
from scipy.special import expit
from sklearn.datasets import load_diabetes
from third_party import MAMLLogisticRegression, MAMLQuantileRegressor

from sklearn_maml import MAMLSVC, MAMLRegressor
from sklearn_maml.certificate import certificate, certify
from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.tasks import FewRowTasks, Function, LinearTasks, QuadraticTasks
from sklearn_maml.theory import (
    Constants,
    contraction_rates,
    gradient_deviation,
    gradient_deviation_rate,
    hessian_bounds,
    iteration_bound,
    lyapunov_rate,
    minimum_curvature,
    pointwise_bounds,
    step_bound_3_6,
    step_bound_3_8,
    step_bound_3_9,
    step_bound_4_1,
    task_constants,
    third_derivative_bound,
    time_bound_3_6,
    time_bound_4_1,
)


def logistic_loss(y, z):
    wrong = expit(-y * z)
    return np.logaddexp(0, -y * z), -y * wrong, wrong * (1 - wrong)


def log_cosh_loss(y, z):
    r = z - y
    return np.logaddexp(r, -r) - np.log(2), np.tanh(r), 4 * expit(2 * r) * expit(-2 * r)


def huber_loss(y, z):
    r, near = z - y, np.abs(z - y) < 1.35
    return np.where(near, r * r / 2, 1.35 * np.abs(r) - 0.91125), np.clip(r, -1.35, 1.35), 1.0 * near


def quartic_loss(y, z):
    r = z - y
    return r**4 + r**2, 4 * r**3 + 2 * r, 12 * r**2 + 2


def make_stack(loss=logistic_loss, seed=0, m=4, n=12, d=3, k=1, l2=0.3, kind=LinearTasks, spread=1.0):
    """Tasks around one truth; labels if the loss is of a margin."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, n, d))
    Y = X @ (rng.normal(size=(d, k)) + spread * rng.normal(size=(m, d, k))) + rng.normal(size=(m, n, k))
    if loss in (logistic_loss, smooth_hinge_loss):
        Y = np.where(Y > 0, 1.0, -1.0)
    return kind(X, Y, rng.uniform(0.5, 2, size=(m, n)), loss, np.full((d, 1), l2))


class Plain:
    """The same tasks, written out: gradients and Hessians of f_i, F and its derivatives, for one output."""

    def __init__(self, stack, alpha=0.0):
        self.stack, self.alpha = stack, alpha
        self.rows = [(X, y[:, 0], s[:, 0]) for X, y, s in zip(stack.X, stack.Y, stack.S, strict=True)]
        self.l2 = stack.penalty[0, 0]

    def gradients(self, w):
        return np.array([X.T @ (s * self.stack.loss(y, X @ w)[1]) + self.l2 * w for X, y, s in self.rows])

    def hessians(self, w):
        curvatures = [(X, s, np.broadcast_to(self.stack.loss(y, X @ w)[2], s.shape)) for X, y, s in self.rows]
        return np.array([(X.T * s * c) @ X + self.l2 * np.eye(len(w)) for X, s, c in curvatures])

    def f(self, w):
        return self.gradients(w).mean(axis=0)

    def F(self, w):
        total = 0.0
        for i, (g, H) in enumerate(zip(self.gradients(w), self.hessians(w), strict=True)):
            total = total + (np.eye(len(w)) - self.alpha * H) @ self.gradients(w - self.alpha * g)[i]
        return total / len(self.rows)

    def hessian_of_F(self, w):
        h = 1e-5
        H = np.array([(self.F(w + h * e) - self.F(w - h * e)) / (2 * h) for e in np.eye(len(w))])
        return (H + H.T) / 2


class Curves(Function):
    """Two tasks in one dimension, those of Fig. 1."""

    shape = (2, 1, 1)

    def expand(self, W):
        w = W[:, 0, 0]
        a, b = np.array([1.0, 1e-4]), np.array([1.0, 100.0])
        value = 0.505 * w**2 - a * np.sin(b * w)
        slope = 1.01 * w - a * b * np.cos(b * w)
        curvature = 1.01 + a * b**2 * np.sin(b * w)
        return value, slope[:, None, None], lambda V: curvature[:, None, None] * V


# the Hessians differ by at most 2, so that gradients differ by at most 1.01 (cos w - .01 cos 100w) / 2 from their mean
FIG_1 = Constants(L=2.01, mu=0.01, kappa=100.0, sigma=0.505)
LOSSES = pytest.mark.parametrize("loss", [logistic_loss, log_cosh_loss, smooth_hinge_loss], ids=lambda f: f.__name__)


# --- constants ---


@pytest.mark.parametrize("kind", ["rows", "few rows", "statistics"])
def test_constants_of_the_squared_loss(kind):
    n = 2 if kind == "few rows" else 9
    stack = make_stack(squared_loss, n=n, d=4, k=2, kind=FewRowTasks if kind == "few rows" else LinearTasks)
    eigenvalues = np.linalg.eigvalsh(
        [2 * (X.T * s[:, 0]) @ X + 0.3 * np.eye(4) for X, s in zip(stack.X, stack.S, strict=True)]
    )
    found = task_constants([summed_up(stack) if kind == "statistics" else stack])
    assert pytest.approx(eigenvalues.max(), rel=1e-12) == found.L
    assert found.mu == pytest.approx(eigenvalues.min(), rel=1e-12)
    assert (found.kappa, found.sigma, found.exact) == (0.0, np.inf, True)


@LOSSES
def test_constants_bound_brute_force(loss):
    stack = make_stack(loss)
    plain, found = Plain(stack), task_constants([stack])
    assert not found.exact
    assert found.mu == pytest.approx(0.3, abs=1e-6)  # nothing but the penalty, far out
    rng = np.random.default_rng(1)
    L, kappa, sigma = [], [], []
    for scale in np.geomspace(0.01, 100, 150):
        w, u = scale * rng.normal(size=(2, 3))
        u = w + 0.1 * u / np.linalg.norm(u)
        L.append(np.linalg.eigvalsh(plain.hessians(w)).max())
        change = np.linalg.norm(plain.hessians(w) - plain.hessians(u), 2, axis=(1, 2)).max()
        kappa.append(change / np.linalg.norm(w - u))
        g = plain.gradients(w)
        sigma.append(np.sqrt(np.mean(np.sum((g - g.mean(axis=0)) ** 2, axis=1))))
        assert gradient_deviation([stack], w[:, None]) == pytest.approx(sigma[-1], rel=1e-12)
    assert max(L) <= found.L
    assert max(kappa) <= found.kappa
    assert max(sigma) <= found.sigma < np.inf
    if loss is logistic_loss:  # its curvature is largest for all rows at once, at w = 0
        assert np.linalg.eigvalsh(plain.hessians(np.zeros(3))).max() == pytest.approx(found.L, rel=1e-9)


def test_constants_are_tight_for_one_row():
    """One row x = 2: L = 4/4, kappa = 8 / (6 sqrt 3), |f'| < 2."""
    x = np.full((2, 1, 1), 2.0)
    y = np.array([1.0, -1.0]).reshape(2, 1, 1)
    found = task_constants([LinearTasks(x, y, np.ones((2, 1)), logistic_loss, np.zeros((1, 1)))])
    assert pytest.approx(1.0) == found.L
    assert found.kappa == pytest.approx(8 / (6 * np.sqrt(3)), rel=1e-4)
    assert found.sigma == pytest.approx(2.0)
    assert found.mu == pytest.approx(0.0, abs=1e-12)


@LOSSES
def test_constants_in_a_ball(loss):
    """Closer than on the whole space, and valid in the ball."""
    stack = make_stack(loss)
    plain, everywhere = Plain(stack), task_constants([stack])
    rng = np.random.default_rng(2)
    center, radius = rng.normal(size=3), 0.3
    found = task_constants([stack], center[:, None], radius)
    assert everywhere.mu < found.mu < found.L <= everywhere.L
    assert found.kappa <= everywhere.kappa * (1 + 1e-9)
    assert found.sigma < everywhere.sigma
    for _ in range(100):
        direction = rng.normal(size=3)
        w = center + radius * rng.uniform() * direction / np.linalg.norm(direction)
        eigenvalues = np.linalg.eigvalsh(plain.hessians(w))
        assert found.mu <= eigenvalues.min() + 1e-12
        assert eigenvalues.max() <= found.L + 1e-12
        assert gradient_deviation([stack], w[:, None]) <= found.sigma


def test_deviation_of_quadratics_grows_at_the_rate():
    """sigma(w) <= sigma(v) + delta norm(w - v), with equality where the gradients agree at v."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(5, 3, 3))
    tasks = QuadraticTasks(roots @ roots.mT, np.zeros((5, 3, 1)), np.zeros((5, 1)), np.ones(5), np.zeros((3, 1)))
    spread = tasks.H - tasks.H.mean(axis=0)
    values, vectors = np.linalg.eigh(np.mean(spread @ spread, axis=0))
    origin = np.zeros((3, 1))
    assert gradient_deviation_rate([tasks], origin) == pytest.approx(np.sqrt(values[-1]), rel=1e-12)
    assert gradient_deviation([tasks], 7 * vectors[:, -1:]) == pytest.approx(7 * np.sqrt(values[-1]), rel=1e-12)
    assert task_constants([tasks], origin, 7.0).sigma == pytest.approx(7 * np.sqrt(values[-1]), rel=1e-12)
    assert task_constants([tasks], origin).sigma == np.inf
    assert task_constants([tasks.take([0])], origin).sigma == 0.0  # one task


def test_stacks_count_by_their_tasks():
    """Several stacks are one."""
    stack, *parts = make_stack(m=6), *(make_stack(m=6) for _ in range(2))
    for part, tasks in zip(parts, ([0], [1, 2, 3, 4, 5]), strict=True):
        part.X, part.Y, part.S, part.weight = (a[tasks] for a in (part.X, part.Y, part.S, part.weight))
        part.shape = len(tasks), 3, 1
    w = np.full((3, 1), 0.3)
    assert gradient_deviation(parts, w) == pytest.approx(gradient_deviation([stack], w), rel=1e-12)
    np.testing.assert_allclose(task_constants(parts)[:4], task_constants([stack])[:4], rtol=1e-9)


@pytest.mark.parametrize(
    ("loss", "y", "high", "third", "slope"),
    [
        (logistic_loss, [-1.0, 1.0], 0.25, 1 / (6 * np.sqrt(3)), 1.0),
        (smooth_hinge_loss, [-1.0, 1.0], 2.5, 100 / (6 * np.sqrt(3)), 1.0),
        (log_cosh_loss, [-50.0, 0.0, 3.3], 1.0, 4 / (3 * np.sqrt(3)), 1.0),
        (squared_loss, [0.3, 5.0], 2.0, 0.0, np.inf),
        (quartic_loss, [0.0, 2.0], np.inf, np.inf, np.inf),
    ],
)
def test_pointwise_bounds(loss, y, high, third, slope):
    y = np.array(y)
    bounds = pointwise_bounds(loss, y)
    np.testing.assert_allclose(bounds.high, high, rtol=1e-4)
    np.testing.assert_allclose(bounds.third, third, rtol=1e-3)
    np.testing.assert_allclose(bounds.slope, slope, rtol=1e-6)
    np.testing.assert_allclose(bounds.low, 2.0 if loss in (squared_loss, quartic_loss) else 0.0, atol=1e-6)
    assert bounds.exact == (loss is squared_loss)


def test_pointwise_bounds_in_an_interval():
    bounds = pointwise_bounds(quartic_loss, np.zeros(1), 2.0, 1.0)
    found = [float(each[0]) for each in bounds[:4]]
    np.testing.assert_allclose(found, [14.0, 110.0, 72.0, 114.0], rtol=1e-4)


@pytest.mark.parametrize("reach", [np.inf, 3.0])
@pytest.mark.parametrize(
    ("loss", "y", "assumption"),
    [
        (hinge_loss, [-1.0, 1.0], "Assumption 3.2 .*slope of the loss jumps"),
        (squared_hinge_loss, [-1.0, 1.0], "3.5 .*kappa is infinite"),
        (huber_loss, [0.0, 0.7], "3.5 .*kappa is infinite"),
        (MAMLQuantileRegressor().task_loss, [0.0, 2.0], "3.5 .*kappa is infinite"),
    ],
)
def test_losses_that_jump_are_refused(loss, y, assumption, reach):
    with pytest.raises(ValueError, match=assumption):
        pointwise_bounds(loss, np.array(y), 0.0, reach)


def test_other_functions_have_no_constants():
    with pytest.raises(TypeError, match=r"Curves cannot be computed.*give Constants"):
        task_constants([Curves()])


@LOSSES
def test_third_derivatives_are_bounded(loss):
    stack, h = make_stack(loss), 1e-5
    plain, rng = Plain(stack), np.random.default_rng(3)
    for _ in range(5):
        w, v = rng.normal(size=3), rng.normal(size=(4, 3))
        M = third_derivative_bound([stack], [v[:, :, None]])[0]
        third = np.mean(
            [(plain.hessians(w + h * v[i])[i] - plain.hessians(w - h * v[i])[i]) / (2 * h) for i in range(4)], axis=0
        )
        assert np.linalg.eigvalsh(M - third).min() > -1e-8
        assert np.linalg.eigvalsh(M + third).min() > -1e-8


# --- bounds of the step ---


def test_step_bounds_are_those_of_the_paper():
    L, mu, kappa, sigma, eps0 = 3.0, 0.4, 0.7, 1.3, 0.2
    assert step_bound_3_6(L, mu, kappa, sigma) == min(
        1 / (2 * L),
        7 * mu**1.5 / (288 * kappa * sigma + 232 * kappa * mu**0.5 * sigma),
        (2 / 15) ** (1 / 3) * mu ** (1 / 3) * L ** (-5 / 3),
        (1 / 15) ** 0.5 * mu**0.5 * L**-2,
        mu / (15 * L**2),
    )
    tiny = 1e-3  # where L is small it is one of the others that binds
    assert step_bound_3_6(tiny, tiny, 50, 1) == pytest.approx(7 * tiny**1.5 / (50 * (288 + 232 * tiny**0.5)))
    assert step_bound_3_8(L, mu, kappa, sigma, 2.5) == pytest.approx(7 * mu / (8 * kappa * (16 * 2.5 + 9 * sigma)))
    K = (9 / 7 * (L / mu) ** 0.5 + 1) * sigma
    assert step_bound_3_9(L, mu, kappa, sigma) == pytest.approx(7 * mu / (8 * kappa * (16 * K + 9 * sigma)))
    assert step_bound_4_1(L, mu, kappa, sigma, eps0) == pytest.approx(
        7 * mu / (288 * kappa * eps0 + 232 * kappa * sigma)
    )
    quadratic = (L, mu, 0.0, np.inf)
    assert step_bound_3_8(*quadratic, 9.0) == step_bound_4_1(*quadratic, eps0) == 1 / (2 * L)
    assert step_bound_3_9(*quadratic) == 1 / (4 * L)
    assert step_bound_3_6(*quadratic) == pytest.approx(mu / (15 * L**2))


@pytest.mark.parametrize("kappa", [0.0, 0.7])
def test_scale_of_the_loss(kappa):
    """f -> c f divides the bounds by c, but not that of Theorem 3.6."""
    one, c = (3.0, 0.4, kappa, 1.3), 10.0
    other = tuple(c * number for number in one)
    assert step_bound_3_8(*other, c * 2) == pytest.approx(step_bound_3_8(*one, 2) / c)
    assert step_bound_3_9(*other) == pytest.approx(step_bound_3_9(*one) / c)
    assert step_bound_4_1(*other, c * 0.2) == pytest.approx(step_bound_4_1(*one, 0.2) / c)
    for bound in (hessian_bounds, minimum_curvature):
        np.testing.assert_allclose(bound(0.02 / c, *other, c * 0.1), c * np.array(bound(0.02, *one, 0.1)))
    one = (0.5, 0.1, kappa, 1.3) if kappa else (200.0, 100.0, kappa, 1.3)
    other = tuple(c * number for number in one)
    by_hand = c**0.5 * (288 + 232 * 0.1**0.5) / (288 + 232 * (c * 0.1) ** 0.5) if kappa else c**-0.5  # not 1
    assert c * step_bound_3_6(*other) / step_bound_3_6(*one) == pytest.approx(by_hand)


def test_radicals_as_printed_do_not_keep_the_rate_positive():
    for L, mu in [(4.0, 0.5), (2.0, 0.1), (10.0, 5.0)]:
        inside = step_bound_3_6(L, mu, 0.0, 0.0)
        assert lyapunov_rate(inside, L, mu) > mu / 2 * (1 + 1e-9)
        printed = min(
            (2 / 15 * mu ** (1 / 3) * L ** (-5 / 3)) ** (1 / 3),
            (1 / 15 * mu**0.5 * L**-2) ** 0.5,
            (1 / 15 * mu * L**-2) ** 0.5,
            1 / (2 * L),
        )
        assert lyapunov_rate(printed, L, mu) < 0
    assert lyapunov_rate((1 / 15 * 0.5 / 16) ** 0.5, 4.0, 0.5) == pytest.approx(-2.78, abs=0.005)


# --- landscape ---


def problems(n=8):
    """Random problems inside the assumptions: tasks, and their constants."""
    for seed in range(n):
        loss = [logistic_loss, log_cosh_loss, squared_loss][seed % 3]
        stack = make_stack(loss, seed=seed, l2=0.5, spread=0.3 * (1 + seed % 2))
        yield stack, task_constants([stack])


def test_lemma_3_7():
    rng = np.random.default_rng(0)
    n_points = 0
    for stack, (L, mu, *_) in problems():
        for alpha in (0.02 / L, 0.2 / L, 0.5 / L):
            plain = Plain(stack, alpha)
            for scale in (0.1, 1.0, 5.0):
                w = scale * rng.normal(size=3)
                gradients, g = plain.gradients(w), plain.f(w)
                sigma = gradient_deviation([stack], w[:, None])
                slope = -g @ plain.hessians(w).mean(axis=0) @ plain.F(w)
                assert slope <= sigma**2 / 2 - lyapunov_rate(alpha, L, mu) * g @ g
                assert np.linalg.norm(plain.F(w)) <= 9 / 4 * np.linalg.norm(g) + 5 / 4 * sigma  # (3.4)
                assert len(gradients) == 4
                n_points += 1
    assert n_points == 72


def test_lemma_3_7_needs_its_rate():
    """With mu in place of zeta it is wrong: the bound has to give way to alpha."""
    stack = make_stack(squared_loss, m=1, l2=0.0)
    L, mu, *_ = task_constants([stack])
    plain, alpha = Plain(stack, 0.5 / L), 0.5 / L
    v = np.linalg.eigh(plain.hessians(np.zeros(3))[0])[1][:, 0]
    w = np.linalg.solve(plain.hessians(v)[0], 3 * v - plain.f(np.zeros(3)))
    g = plain.f(w)
    slope = -g @ plain.hessians(w)[0] @ plain.F(w)
    assert lyapunov_rate(alpha, L, mu) * g @ g <= -slope < mu * g @ g


def test_theorem_3_8():
    """Eigenvalues of Hess F within [mu/8, 9L/8], and within our bounds, wherever norm(grad F) is what it is."""
    rng = np.random.default_rng(0)
    for stack, (L, mu, kappa, sigma, _) in problems():
        for scale in (0.3, 3.0):
            w = scale * rng.normal(size=3)
            K = np.linalg.norm(Plain(stack, 0.0).f(w)) * 1.5  # norm(grad F) is less, or the next line fails
            alpha = step_bound_3_8(L, mu, kappa, sigma, K) if kappa else 0.5 / L
            plain = Plain(stack, alpha)
            assert kappa == 0 or np.linalg.norm(plain.F(w)) <= K
            eigenvalues = np.linalg.eigvalsh(plain.hessian_of_F(w))
            lower, upper = hessian_bounds(alpha, L, mu, kappa, sigma, K)
            assert mu / 8 <= lower <= eigenvalues.min() + 1e-8
            assert eigenvalues.max() - 1e-8 <= upper <= 9 / 8 * L


def test_our_proof_covers_theorem_3_8_up_to_a_quarter():
    rng = np.random.default_rng(0)
    reached = 0
    for _ in range(2000):
        L, ratio, kappa, sigma, K = 10.0 ** rng.uniform([-2, -3, -3, -3, -3], [2, 0, 3, 3, 3])
        mu = ratio * L
        bound = step_bound_3_8(L, mu, kappa, sigma, K)
        alpha = min(1 / (4 * L), bound)
        lower, upper = hessian_bounds(alpha, L, mu, kappa, sigma, K)
        assert mu / 8 <= lower
        assert upper <= 9 / 8 * L
        reached += alpha == bound
        alpha = step_bound_3_9(L, mu, kappa, sigma)
        edge = np.sqrt(mu / L) * 9 / 7 * np.sqrt(L / mu) * sigma  # norm(grad f) up to which the paper's V reaches
        assert minimum_curvature(alpha, L, mu, kappa, sigma, edge) > mu / 8
    assert 200 < reached < 1900
    assert hessian_bounds(0.5, 1.0, 1.0, 0.0, np.inf, np.inf) == (0.25, 0.25)
    assert hessian_bounds(0.6, 1.0, 0.5, 1e-9, 0.0, 0.0)[0] == -np.inf
    assert minimum_curvature(0.6, 1.0, 0.5, 0.0, 0.0, 0.0) == -np.inf


def test_violated_assumptions_break_bounds():
    """Theorem 3.8 needs alpha <= 1/(2L), and kappa: at 1/L a quadratic is flat, and Fig. 1 is not convex."""
    stack = make_stack(squared_loss, m=1, l2=0.0)
    L, mu, *_ = task_constants([stack])
    assert np.linalg.eigvalsh(Plain(stack, 1 / L).hessian_of_F(np.ones(3))).min() < mu / 8
    assert np.linalg.eigvalsh(Plain(stack, 3 / L).hessian_of_F(np.ones(3))).max() > 9 / 8 * L
    assert step_bound_3_8(*FIG_1[:4], 0.0) < 0.4
    assert certify([Curves()], np.full((1, 1), 0.38165), 0.4, constants=FIG_1)["curvature"]["values"]["smallest"] < -1


def test_constants_of_fig_1():
    """Those given by hand bound the two curves."""
    w = np.linspace(-8, 8, 200_001)
    third = np.array([np.abs(np.cos(w)), np.abs(100 * np.cos(100 * w))])
    second = np.array([1.01 + np.sin(w), 1.01 + np.sin(100 * w)])
    deviation = np.abs(np.cos(w) - 0.01 * np.cos(100 * w)) / 2
    assert FIG_1.mu <= second.min() + 1e-9
    assert second.max() <= FIG_1.L + 1e-9
    assert third.max() <= FIG_1.kappa
    assert deviation.max() <= FIG_1.sigma


def test_minimum_curvature_finds_one_minimum():
    rng = np.random.default_rng(0)
    for seed in range(3):
        stack = make_stack(logistic_loss, seed=seed, l2=0.5)
        L, mu, kappa, sigma, _ = task_constants([stack])
        alpha = 0.1 / L
        plain, ends = Plain(stack, alpha), []
        for _ in range(4):
            ends.append(root(plain.F, 3 * rng.normal(size=3), tol=1e-12).x)
        near = ends[0] + 0.05 * rng.normal(size=3)
        curvature = minimum_curvature(alpha, L, mu, kappa, sigma, np.linalg.norm(plain.f(near)))
        assert curvature > 0
        np.testing.assert_allclose(ends, np.broadcast_to(ends[0], (4, 3)), atol=1e-8)
        assert np.linalg.norm(near - ends[0]) <= np.linalg.norm(plain.F(near)) / curvature
        assert np.linalg.eigvalsh(plain.hessian_of_F(near)).min() >= curvature


def test_proposition_3_1():
    """grad f(w - a g) = (I - a H) g, H the MEAN Hessian on the way; for d > 1 no single point has a Hessian like it."""
    plain, alpha, w = Plain(make_stack(logistic_loss, m=1, n=4, l2=0.0)), 8.0, np.array([0.7, -1.0, 0.4])
    g = plain.gradients(w)[0]
    nodes, weights = np.polynomial.legendre.leggauss(40)
    mean = sum(
        weight / 2 * plain.hessians(w - alpha * (node + 1) / 2 * g)[0]
        for node, weight in zip(nodes, weights, strict=True)
    )
    truth = plain.gradients(w - alpha * g)[0]
    np.testing.assert_allclose(g - alpha * mean @ g, truth, rtol=1e-10)
    misses = [
        np.linalg.norm(g - alpha * plain.hessians(w - t * alpha * g)[0] @ g - truth) for t in np.linspace(0, 1, 1001)
    ]
    assert min(misses) > 1e-3 * np.linalg.norm(truth)


# --- times and rates ---


def flow(gradient, w, time):
    """Where the gradient flow is after this time."""
    return solve_ivp(lambda _, w: -gradient(w), (0, time), w, method="LSODA", rtol=1e-9, atol=1e-12).y[:, -1]


@pytest.mark.parametrize("loss", [squared_loss, logistic_loss], ids=lambda f: f.__name__)
@pytest.mark.parametrize("beta", [1.0, 0.25])
def test_time_of_theorem_4_1(loss, beta):
    """Algorithm 1 is not done before the first phase can be, and is when the bound says."""
    tol, start = 1e-4, np.array([2.0, -3.0, 1.0])
    stack = make_stack(loss, l2=0.5)
    L, mu, kappa, sigma, _ = task_constants([stack])
    plain = Plain(stack)
    g0 = np.linalg.norm(plain.f(start))
    switch_tol = 0.1 * g0
    if loss is squared_loss:
        sigma = task_constants([stack], start[:, None], 10.0).sigma
    plain.alpha = 0.999 * step_bound_4_1(L, mu, kappa, sigma, switch_tol)
    first = np.log(g0 / switch_tol) / mu / beta
    w = flow(lambda w: beta * plain.f(w), start, first)
    assert np.linalg.norm(plain.f(w)) <= switch_tol
    assert np.linalg.norm(plain.F(w)) <= (9 * switch_tol + 5 * sigma) / 4
    bound = time_bound_4_1(mu, sigma, g0, switch_tol, tol, beta)
    w = flow(lambda w: beta * plain.F(w), w, bound - first)
    assert np.linalg.norm(plain.F(w)) <= tol
    product = 8 / mu * np.log((9 * switch_tol + 5 * sigma) * g0 / (4 * switch_tol * tol)) / beta
    assert first < bound <= product
    assert time_bound_4_1(mu, sigma, g0, switch_tol, tol) == pytest.approx(beta * bound)


def test_time_of_theorem_4_1_by_hand():
    t = time_bound_4_1(0.5, 2.0, 8.0, 0.4, 0.01, meta_step_size=0.1)
    assert t == pytest.approx((np.log(20.0) + 8 * np.log((3.6 + 10.0) / 0.04)) / 0.5 / 0.1)
    assert time_bound_4_1(0.5, 0.0, 0.1, 0.4, 1.0) == 0.0  # there already


def test_nine_times_the_tolerance():
    """One task has sigma = 0; where norm(grad f) = eps0, norm(grad F) is more than the printed (eps0 + 5 sigma) / 4."""
    plain = Plain(make_stack(squared_loss, m=1, l2=0.5))
    plain.alpha = 0.05 / task_constants([plain.stack]).L
    w = np.ones(3)
    eps0 = np.linalg.norm(plain.f(w))
    assert eps0 / 4 < np.linalg.norm(plain.F(w)) <= 9 * eps0 / 4


@pytest.mark.parametrize("far", [0.5, 30.0])
def test_time_of_theorem_3_6(far):
    tol, start = 1e-4, far * np.array([2.0, -3.0, 1.0])
    stack = make_stack(logistic_loss, l2=0.5)
    L, mu, kappa, sigma, _ = task_constants([stack])
    alpha = 0.999 * step_bound_3_6(L, mu, kappa, sigma)
    plain = Plain(stack, alpha)
    g0 = np.linalg.norm(plain.f(start))
    bound = time_bound_3_6(alpha, L, mu, sigma, g0, tol)
    assert np.linalg.norm(plain.F(flow(plain.F, start, bound))) <= tol
    second = 8 / mu * np.log((9 / mu**0.5 + 5) * sigma / (4 * tol))
    assert (bound > second + 0.1) == (g0**2 > sigma**2 / mu) == (far > 1)
    if far > 1:
        reached = flow(plain.F, start, bound - second)
        assert np.linalg.norm(plain.f(reached)) ** 2 <= sigma**2 / mu
        zeta = mu - 5 / 4 * L**2 * alpha * (L**3 * alpha**2 + 2 * L**2 * alpha + 2)
        first = np.log((zeta * g0**2 - sigma**2 / 2) / (zeta * sigma**2 / mu - sigma**2 / 2)) / zeta  # as printed
        assert bound - second == pytest.approx(first / 2)
    assert time_bound_3_6(alpha, L, mu, sigma, g0, tol, 0.5) == pytest.approx(2 * bound)
    assert time_bound_3_6(0.5 / L, L, mu, sigma, 1e3, tol) == np.inf


def test_rates_of_quadratics():
    """Gradient descent and the flow shrink a gradient as told, exactly so along the slowest direction."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    eigenvalues = np.array([0.3, 0.5, 1.0, 2.0])
    A = (Q * eigenvalues) @ Q.T
    for beta, slowest in ((0.5, 0), (0.95, 3)):
        per_step, per_time = contraction_rates(eigenvalues, beta)
        w = Q[:, slowest]
        after = w - beta * A @ w
        assert np.linalg.norm(A @ after) / np.linalg.norm(A @ w) == pytest.approx(per_step, rel=1e-12)
        flown = expm(-beta * A) @ Q[:, 0]
        assert np.linalg.norm(flown) == pytest.approx(per_time, rel=1e-12)
        w, n = rng.normal(size=4), 0
        bound = iteration_bound(per_step, np.linalg.norm(A @ w), 1e-6)
        while np.linalg.norm(A @ w) > 1e-6:
            w, n = w - beta * A @ w, n + 1
        assert 0.5 * bound < n <= np.ceil(bound)
    assert iteration_bound(contraction_rates(eigenvalues, 1.1)[0], 1.0, 1e-6) == np.inf
    assert iteration_bound(0.5, 1e-7, 1e-6) == 0.0
    assert iteration_bound(0.0, 1.0, 1e-6) == 1.0


# --- certificates ---


def make_table(seed=0, m=5, n=30, d=3, labels=False):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(m), n)
    X = rng.normal(size=(m * n, d))
    y = np.sum(X * (1 + 0.5 * rng.normal(size=(m, d)))[groups], axis=1) + rng.normal(size=m * n)
    return X, np.where(y > 0, "yes", "no") if labels else y, groups


def status(proved):
    return {name: line["status"] for name, line in proved.items() if line["status"]}


THEOREMS = ("theorem 3.6", "theorem 3.8", "theorem 3.9", "theorem 4.1")
LINES = {
    "objective",
    *(f"assumption 3.{i}" for i in (2, 3, 4, 5)),
    *THEOREMS,
    "curvature",
    "stationary",
    "strongly convex",
    "minimum nearby",
    "global minimum",
    "time",
    "rate",
}


@pytest.mark.parametrize("intercept", [False, True])
def test_certificate_of_a_quadratic_inside_all_bounds(intercept):
    X, y, groups = make_table()
    probe = MAMLRegressor(inner_step_size=0.1, fit_intercept=intercept)
    bound = certificate(probe.fit(X, y, groups=groups), X, y, groups)["theorem 3.6"]["values"]["bound"]
    model = MAMLRegressor(inner_step_size=0.99 * bound, fit_intercept=intercept).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    assert set(proved) == LINES
    expected = dict.fromkeys(LINES - {"objective", "stationary"}, "holds") | {"assumption 3.4": "fails"}
    assert status(proved) == expected
    Z = np.column_stack([X, np.ones(len(X))]) if intercept else X
    H = np.array([2 * Z[groups == i].T @ Z[groups == i] / 30 for i in range(5)])
    c = np.array([2 * Z[groups == i].T @ y[groups == i] / 30 for i in range(5)])
    A = np.eye(Z.shape[1]) - 0.99 * bound * H
    eigenvalues, w = np.linalg.eigvalsh(np.mean(A @ H @ A, axis=0)), np.append(model.coef_, model.intercept_)
    assert proved["curvature"]["values"]["smallest"] == pytest.approx(eigenvalues[0], rel=1e-10)
    assert proved["curvature"]["values"]["largest"] == pytest.approx(eigenvalues[-1], rel=1e-10)
    minimum = np.linalg.solve(np.mean(A @ H @ A, axis=0), np.mean(A @ A @ c[..., None], axis=0)[:, 0])
    distance = proved["global minimum"]["values"]["distance"]
    assert np.linalg.norm(w[: len(minimum)] - minimum) <= distance < 1e-11
    assert proved["assumption 3.2"]["values"]["L"] == pytest.approx(np.linalg.eigvalsh(H).max())
    assert proved["assumption 3.3"]["values"]["mu"] == pytest.approx(np.linalg.eigvalsh(H).min())


@pytest.mark.parametrize("algorithm", ["maml", "bimaml"])
def test_time_and_rate_of_a_quadratic(algorithm):
    """The exact flow has arrived by the time that is printed, a plain loop within the steps; neither long before."""
    X, y, groups = make_table(d=2)
    w0 = np.array([3.0, -2.0])
    given = {"inner_step_size": 0.004, "fit_intercept": False, "init": w0, "tol": 1e-5, "meta_step_size": 0.3}
    model = MAMLRegressor(algorithm=algorithm, solver="gd", **given).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    time, rate = (proved[name]["values"] for name in ("time", "rate"))
    assert proved["time"]["source"] == ("Theorem 3.6" if algorithm == "maml" else "Theorem 4.1")
    assert proved["time"]["status"] == proved["rate"]["status"] == "holds"
    Hs = np.array([2 * X[groups == i].T @ X[groups == i] / 30 for i in range(5)])
    cs = np.array([2 * X[groups == i].T @ y[groups == i] / 30 for i in range(5)])
    As = np.eye(2) - 0.004 * Hs
    f = Hs.mean(axis=0), cs.mean(axis=0)
    F = np.mean(As @ Hs @ As, axis=0), np.mean(As @ As @ cs[..., None], axis=0)[:, 0]
    phases = [(F, 1e-5)] if algorithm == "maml" else [(f, model.switch_tol_), (F, 1e-5)]
    w, v, flown, n_iter = w0, w0, 0.0, 0
    for (A, b), goal in phases:
        g = A @ w - b
        t = brentq(lambda t, A=A, g=g, goal=goal: np.linalg.norm(expm(-t * A) @ g) - goal, 0, 100)
        w, flown = np.linalg.solve(A, b + expm(-t * A) @ g), flown + t
        while np.linalg.norm(A @ v - b) > goal:
            v, n_iter = v - 0.3 * (A @ v - b), n_iter + 1
    assert 0.05 * time["time"] < flown <= time["time"]
    assert n_iter == model.n_iter_
    assert 0.8 * rate["n_iter"] < n_iter <= rate["n_iter"]
    eigenvalues = np.linalg.eigvalsh(F[0])
    assert rate["per_step"] == pytest.approx(np.abs(1 - 0.3 * eigenvalues).max(), rel=1e-9)
    assert rate["per_time"] == pytest.approx(np.exp(-0.3 * eigenvalues[0]), rel=1e-9)
    too_long = model.set_params(meta_step_size=2.01 / eigenvalues[-1], max_iter=1, switch_tol=1e6, tol=1e6)
    assert status(certificate(too_long.fit(X, y, groups=groups), X, y, groups))["rate"] == "fails"


def test_each_phase_has_its_own_rate():
    """With alpha = .3 F is far flatter than f: the step of one phase would not do in the other."""
    X, y, groups = make_table()
    model = MAMLRegressor(inner_step_size=0.3, solver="gd", fit_intercept=False, tol=1e-6).fit(X, y, groups=groups)
    values = certificate(model, X, y, groups)["rate"]["values"]
    assert model.meta_step_size_[1] > 2.5 * model.meta_step_size_[0]
    Hs = np.array([2 * X[groups == i].T @ X[groups == i] / 30 for i in range(5)])
    f = np.linalg.eigvalsh(Hs.mean(axis=0))
    n_first = np.ceil(np.log(10) / -np.log(1 - f[0] / f[-1]))  # the switch is at a tenth
    n_second = np.log(model.history_["grad_norm"][model.history_["phase"] == 2][0] / 1e-6) / -np.log(values["per_step"])
    assert model.n_iter_ <= values["n_iter"]
    assert n_first + n_second <= values["n_iter"] < n_first + 1.5 * n_second
    assert values["meta_step_size"] == pytest.approx(model.meta_step_size_[1])


@pytest.mark.parametrize("algorithm", ["maml", "bimaml"])
def test_time_of_a_smooth_loss(algorithm):
    """The flow of F, and before it for BI-MAML that of f, written out."""
    X, y, groups = make_table(labels=True, m=3, n=20)
    start = np.array([2.0, -3.0, 1.0])
    model = MAMLSVC(loss="smooth_hinge", C=0.02, inner_step_size=1e-6, fit_intercept=False, init=start)
    model.set_params(tol=1e-4, algorithm=algorithm).fit(X, y, groups=groups)
    values = certificate(model, X, y, groups)["time"]["values"]
    labels = np.where(y == "yes", 1.0, -1.0).reshape(3, 20, 1)
    penalty = np.full((3, 1), model.l2_regularization_)
    plain = Plain(LinearTasks(X.reshape(3, 20, 3), labels, np.ones((3, 20)), smooth_hinge_loss, penalty), 1e-6)
    w, flown = start, 0.0
    for gradient, goal in [(plain.f, model.switch_tol_)] * (algorithm == "bimaml") + [(plain.F, 1e-4)]:

        def arrived(_, w, gradient=gradient, goal=goal):
            return np.linalg.norm(gradient(w)) - goal

        arrived.terminal = True
        way = solve_ivp(lambda _, w, g=gradient: -g(w), (0, 1e4), w, "LSODA", events=arrived, rtol=1e-9, atol=1e-12)
        w, flown = way.y[:, -1], flown + way.t[-1]
    assert np.linalg.norm(plain.F(w)) <= 1.01e-4
    assert 1e-3 * values["time"] < flown <= values["time"]


def test_no_time_is_claimed_without_its_theorem():
    X, y, groups = make_table()
    given = {"inner_step_size": 0.4, "fit_intercept": False}
    assert status(certificate(MAMLRegressor(**given).fit(X, y, groups=groups), X, y, groups))["time"] == "not decided"
    given["inner_step_size"] = 0.004
    first_order = MAMLRegressor(algorithm="fomaml", **given).fit(X, y, groups=groups)
    found = status(certificate(first_order, X, y, groups))
    assert found["time"] == found["rate"] == "not applicable"
    never = MAMLRegressor(**given, solver="exact", tol=0.0).fit(X, y, groups=groups)
    proved = certificate(never, X, y, groups)
    assert status(proved)["time"] == "not applicable"
    assert "n_iter" not in proved["rate"]["values"]
    stack = make_stack(squared_loss)
    without_start = certify([stack], np.zeros((3, 1)), 1e-4, switch_tol=0.1)["time"]
    assert (without_start["status"], without_start["finding"]) == ("not applicable", "the start is not known")


def test_time_counts_from_the_start_given():
    """With the norm of grad f for BI-MAML and that of grad F for MAML, and the variance around the switch."""
    stack, w, start = make_stack(squared_loss), np.zeros((3, 1)), np.ones((3, 1))
    L, mu, *_ = task_constants([stack])
    plain, eps0 = Plain(stack, 1e-4), 0.1
    values = certify([stack], w, 1e-4, switch_tol=eps0, start=start, tol=1e-3)["time"]["values"]
    reach = (eps0 + np.linalg.norm(plain.f(w[:, 0]))) / mu
    sigma = gradient_deviation([stack], w) + gradient_deviation_rate([stack], w) * reach
    g0 = np.linalg.norm(plain.f(start[:, 0]))
    assert values["time"] == pytest.approx((np.log(g0 / eps0) + 8 * np.log((9 * eps0 + 5 * sigma) / 4e-3)) / mu)
    values = certify([stack], w, 1e-4, start=start, tol=1e-3)["time"]["values"]
    K = np.linalg.norm(plain.F(start[:, 0]))
    assert values["gradient_norm"] == pytest.approx(K)
    reach = (K + np.linalg.norm(plain.F(w[:, 0]))) / ((1 - 1e-4 * L) ** 2 * mu)
    sigma = gradient_deviation([stack], w) + gradient_deviation_rate([stack], w) * reach
    assert values["sigma"] == pytest.approx(sigma)
    assert sigma >= gradient_deviation([stack], start)
    stack, start = make_stack(squared_loss, n=500, spread=0.1), 30 * start
    L, mu, *_ = task_constants([stack])
    plain, alpha = Plain(stack, 1e-3), 1e-3
    values = certify([stack], w, alpha, start=start, tol=1e-3)["time"]["values"]
    sigma, r = values["sigma"], alpha * L - (alpha * L) ** 2 / 4
    g0 = (np.linalg.norm(plain.F(start[:, 0])) + r * sigma) / (1 - 2 * r)
    assert g0**2 > sigma**2 / mu
    assert g0 >= np.linalg.norm(plain.f(start[:, 0]))
    zeta = mu - 5 / 4 * L**2 * alpha * (L**3 * alpha**2 + 2 * L**2 * alpha + 2)
    first = np.log((zeta * g0**2 - sigma**2 / 2) / (zeta * sigma**2 / mu - sigma**2 / 2)) / (2 * zeta)
    assert values["time"] == pytest.approx(first + 8 / mu * np.log((9 / mu**0.5 + 5) * sigma / 4e-3))


@pytest.mark.parametrize("solver", ["gd", "exact"])
def test_certificate_of_a_quadratic_outside_the_bounds(solver):
    """No theorem applies, but F is one quadratic: the distance is what it is, also after too few iterations."""
    X, y, groups = make_table()
    given = {"inner_step_size": 0.4, "fit_intercept": False, "tol": 1e-2, "solver": solver, "switch_tol": 0.5}
    model = MAMLRegressor(**given).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    assert {status(proved)[name] for name in THEOREMS} == {"fails"}
    exact = MAMLRegressor(**given | {"solver": "exact"}).fit(X, y, groups=groups)
    distance = proved["global minimum"]["values"]["distance"]
    assert status(proved)["global minimum"] == "holds"
    assert np.linalg.norm(model.coef_ - exact.coef_) <= distance
    if solver == "gd":
        g = proved["stationary"]["values"]["norm_grad_F"]
        assert 1e-4 < g <= 1e-2
        assert distance == pytest.approx(g / proved["curvature"]["values"]["smallest"], rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_taken_into_account(dtype):
    """The returned point, rounded to the dtype of X, and large numbers that cancel."""
    X, y, groups = make_table()
    X, y = X.astype(dtype), 1e3 + y
    model = MAMLRegressor(inner_step_size=0.05).fit(X, y, groups=groups)
    distance = certificate(model, X, y, groups)["global minimum"]["values"]["distance"]
    Z = np.column_stack([X, np.ones(len(X))]).astype(np.longdouble)
    total = 0
    for _ in range(3):  # Newton's method in longer numbers
        w = total if np.ndim(total) else np.append(model.coef_, model.intercept_).astype(np.longdouble)
        A, g = np.zeros((4, 4)), 0
        for i in range(5):
            R, t = Z[groups == i], y[groups == i].astype(np.longdouble)
            H = 2 * R.T @ R / 30
            P = np.eye(4) - np.longdouble(0.05) * H
            A, g = A + P @ H @ P / 5, g + P @ P @ (H @ w - 2 * R.T @ t / 30) / 5
        total = w - np.linalg.solve(A.astype(float), g.astype(float))
    error = np.linalg.norm((np.append(model.coef_, model.intercept_) - total).astype(float))
    assert 0 < error <= distance < 1e3 * (np.finfo(dtype).eps * 1e3)


def test_certificate_of_flat_quadratics():
    """Fewer rows than parameters: f_i are flat in some directions, and at alpha = 1/lambda F is."""
    rng = np.random.default_rng(0)
    X, y, groups = rng.normal(size=(8, 6)), rng.normal(size=8), np.repeat([0, 1], 4)
    model = MAMLRegressor(inner_step_size=0.01, fit_intercept=False).fit(X, y, groups=groups)
    found = status(certificate(model, X, y, groups))
    assert found["assumption 3.3"] == "fails"
    assert {found[name] for name in THEOREMS} == {"not applicable"}
    assert found["global minimum"] == "holds"  # together the two tasks span the space
    model = MAMLRegressor(inner_step_size=0.01, fit_intercept=False).fit(X[:5], y[:5], groups=groups[:5])
    found = status(certificate(model, X[:5], y[:5], groups[:5]))
    assert [found[name] for name in ("curvature", "strongly convex", "global minimum")] == ["not decided"] * 3
    one = MAMLRegressor(inner_step_size=0.5, fit_intercept=False).fit([[1.0], [1.0]], [1.0, 2.0], groups=[0, 1])
    assert status(certificate(one, [[1.0], [1.0]], [1.0, 2.0], [0, 1]))["global minimum"] == "not decided"


def test_certificate_of_diabetes():
    """The paper's four tasks and constants: alpha is within 1/(2L) and not within the bound of Theorem 3.6."""
    X, y = load_diabetes(return_X_y=True)
    groups = 2 * (X[:, 1] > 0) + (X[:, 0] > 0)
    X, y = X[:, 2:], (y - y.mean()) / y.std()
    model = MAMLRegressor(inner_step_size=0.5, algorithm="maml", fit_intercept=False).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    L, bound = proved["assumption 3.2"]["values"]["L"], proved["theorem 3.8"]["values"]["bound"]
    assert bound == 1 / (2 * L)
    assert 0.5 * L < 0.05  # the mean loss of columns of length one: hardly curved
    assert status(proved)["theorem 3.8"] == status(proved)["theorem 3.9"] == status(proved)["global minimum"] == "holds"
    assert status(proved)["theorem 4.1"] == "not applicable"
    assert "no switch_tol" in proved["theorem 4.1"]["finding"]


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({}, "inner_step_size='auto'"),
        ({"adaptation": "implicit", "inner_step_size": 0.1}, "explicit step"),
        ({"inner_step_size": [0.1, 0.1, 0.1, 0.0]}, "array"),
        ({"inner_step_size": 0.1, "n_inner_steps": 2}, "one step"),
        ({"n_inner_steps": 0}, "F is f"),
    ],
    ids=["default", "implicit", "array", "two steps", "no step"],
)
def test_other_adaptations_are_not_what_the_theorems_are_about(parameters, reason):
    X, y, groups = make_table()
    model = MAMLRegressor(**parameters).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    assert all(status(proved)[name] == "not applicable" and reason in proved[name]["finding"] for name in THEOREMS)
    assert status(proved)["global minimum"] == "holds"
    assert proved["global minimum"]["values"]["distance"] < 1e-9
    learned = not parameters
    assert ("+ f(w) * 0.1" in proved["objective"]["finding"]) == learned
    away = MAMLRegressor(**parameters, init=np.append(model.coef_, model.intercept_) + 0.1, max_iter=1, solver="gd")
    away.set_params(meta_step_size=1e-12, switch_tol=1e6, tol=1e6).fit(X, y, groups=groups)
    distance = np.linalg.norm(np.append(model.coef_ - away.coef_, model.intercept_ - away.intercept_))
    assert distance == pytest.approx(0.2, rel=1e-6)
    assert distance <= certificate(away, X, y, groups)["global minimum"]["values"]["distance"] < 10 * distance


def test_first_order_maml_ends_elsewhere():
    X, y, groups = make_table()
    model = MAMLRegressor(algorithm="fomaml", inner_step_size=0.05, fit_intercept=False).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    assert [status(proved)[name] for name in THEOREMS] == ["not applicable", "holds", "holds", "not applicable"]
    exact = MAMLRegressor(inner_step_size=0.05, fit_intercept=False).fit(X, y, groups=groups)
    assert 1e-6 < np.linalg.norm(model.coef_ - exact.coef_) <= proved["global minimum"]["values"]["distance"]


def test_certificate_of_smooth_losses():
    X, y, groups = make_table(labels=True)
    model = MAMLSVC(loss="smooth_hinge", C=0.02, inner_step_size=1e-6, fit_intercept=False, tol=1e-8)
    proved = certificate(model.fit(X, y, groups=groups), X, y, groups)
    expected = dict.fromkeys(LINES - {"objective", "stationary"}, "holds") | {"rate": "not applicable"}
    assert status(proved) == expected
    assert "numerical" in proved["theorem 3.9"]["finding"]
    assert "numerical" in proved["global minimum"]["finding"]
    distance, constant = (proved["global minimum"]["values"][key] for key in ("distance", "constant"))
    assert distance * constant >= proved["stationary"]["values"]["norm_grad_F"]
    longer = model.set_params(inner_step_size=0.02)
    proved = certificate(longer.fit(X, y, groups=groups), X, y, groups)
    found = status(proved)
    assert {found[name] for name in THEOREMS} == {"fails"}
    assert (found["strongly convex"], found["minimum nearby"], found["global minimum"]) == (
        "holds",
        "holds",
        "not decided",
    )


def test_certificate_of_a_third_party_estimator():
    """Its intercept is not penalised: mu > 0 is not proved, and nothing global; but a minimum nearby is."""
    X, y, groups = make_table(labels=True)
    model = MAMLLogisticRegression(inner_step_size=0.01, l2_regularization=0.1).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    found = status(proved)
    assert {found[name] for name in ("assumption 3.3", *THEOREMS, "global minimum")} == {"not decided"}
    assert found["strongly convex"] == found["minimum nearby"] == "holds"
    Z = np.column_stack([X, np.ones(len(X))]).reshape(5, 30, 4)
    Y = np.where(y == model.classes_[1], 1.0, -1.0).reshape(5, 30, 1)
    penalty = np.array([0.1, 0.1, 0.1, 0.0])[:, None]
    plain = Plain(LinearTasks(Z, Y, np.ones((5, 30)), logistic_loss, penalty), 0.01)
    plain.l2 = penalty[:, 0]
    plain.hessians = partial(_hessians_with, plain)
    w = np.append(model.coef_, model.intercept_)
    minimum = root(plain.F, w, tol=1e-13).x
    assert np.linalg.norm(w - minimum) <= proved["minimum nearby"]["values"]["distance"] < 1e-4
    eigenvalues = np.linalg.eigvalsh(plain.hessian_of_F(w))
    values = proved["curvature"]["values"]
    np.testing.assert_allclose([values["smallest"], values["largest"]], eigenvalues[[0, -1]], rtol=1e-6)
    values = proved["strongly convex"]["values"]
    assert 0.5 * eigenvalues[0] < values["constant"] <= eigenvalues[0]
    rng = np.random.default_rng(0)
    for _ in range(10):
        v = rng.normal(size=4)
        there = w + 0.5 * values["radius"] * v / np.linalg.norm(v)
        assert np.linalg.eigvalsh(plain.hessian_of_F(there)).min() >= 0.5 * values["constant"]


def _hessians_with(plain, w):
    return np.array([(X.T * s * plain.stack.loss(y, X @ w)[2]) @ X + np.diag(plain.l2) for X, y, s in plain.rows])


def test_several_outputs():
    """One versus the rest: Hess F is one block for each class."""
    X, _, groups = make_table()
    y = np.argmax(X, axis=1)
    model = MAMLSVC(loss="smooth_hinge", inner_step_size=0.01, C=0.1, fit_intercept=False).fit(X, y, groups=groups)
    together = certificate(model, X, y, groups)
    apart = []
    for label in range(3):
        one = MAMLSVC(loss="smooth_hinge", inner_step_size=0.01, C=0.1, fit_intercept=False, init=model.coef_[[label]])
        one.set_params(max_iter=1, solver="gd", meta_step_size=1e-15, tol=1e6).fit(X, y == label, groups=groups)
        apart.append(certificate(one, X, y == label, groups)["curvature"]["values"])
    assert together["curvature"]["values"]["smallest"] == pytest.approx(min(a["smallest"] for a in apart), rel=1e-6)
    assert together["curvature"]["values"]["largest"] == pytest.approx(max(a["largest"] for a in apart), rel=1e-6)


@pytest.mark.parametrize("w", [0.288087736, 0.344866362, 0.381651739, 0.460737285, 0.36, -3.0])
def test_fig_1_is_not_certified(w):
    """Seven critical points: no claim of a single one, and none of convexity that is wrong."""
    proved = certify([Curves()], np.full((1, 1), w), 0.4, constants=FIG_1, switch_tol=0.1)
    found = status(proved)
    assert {found[name] for name in THEOREMS} == {"fails"}
    assert found["global minimum"] == "not decided"
    at = Curves().gradient

    def slope(x):
        one, other = (at(np.full((2, 1, 1), x))[i, 0, 0] for i in (0, 1))
        adapted = at(np.array([x - 0.4 * one, x - 0.4 * other]).reshape(2, 1, 1))[:, 0, 0]
        return np.mean((1 - 0.4 * np.array([1.01 + np.sin(x), 1.01 + np.sin(100 * x)])) * adapted)

    assert (found["curvature"] == "fails") == (slope(w + 1e-6) < slope(w - 1e-6))
    if found["curvature"] == "fails":
        assert found["strongly convex"] == "fails"
        assert found["minimum nearby"] == "not decided"


def test_fig_1_with_a_tiny_step_is_certified():
    """And its minimum is where it is claimed to be."""
    alpha = 0.5 * step_bound_3_9(*FIG_1[:4])
    w = np.full((1, 1), 0.7)
    proved = certify([Curves()], w, alpha, constants=FIG_1)
    assert status(proved)["theorem 3.9"] == "holds"
    F = [-5.0, 5.0]

    def slope(x):
        f1, f2 = Curves().gradient(np.full((2, 1, 1), x))[:, 0, 0]
        return (f1 + f2) / 2  # alpha is near 1e-8

    for _ in range(60):
        middle = sum(F) / 2
        F = [F[0], middle] if slope(middle) > 0 else [middle, F[1]]
    near = certify([Curves()], np.full((1, 1), F[0]), alpha, constants=FIG_1)
    assert status(near)["global minimum"] == "holds"
    assert near["global minimum"]["values"]["distance"] < 1e-3


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_kinks_are_refused(loss):
    X, y, groups = make_table(labels=True)
    model = MAMLSVC(loss=loss, inner_step_size=0.01, tol=1e-2).fit(X, y, groups=groups)
    with pytest.raises(ValueError, match=r"Assumption.* 3\.[25]"):
        certificate(model, X, y, groups)


def test_other_estimators_are_refused():
    with pytest.raises(TypeError, match="pass the fitted meta-learner inside"):
        certificate(object(), [[1.0]], [1.0])


def test_certificate_reads_as_table_and_dict():
    X, y, groups = make_table()
    model = MAMLRegressor(inner_step_size=0.05).fit(X, y, groups=groups)
    proved = certificate(model, X, y, groups)
    table = str(proved)
    assert max(map(len, table.splitlines())) <= 120
    assert all(name in table for name in LINES)
    assert all(source in table for source in ("Theorem 3.6", "Assumption 3.5"))
    assert json.loads(json.dumps(proved.to_dict())) == proved.to_dict()
    proved.to_dict()["curvature"]["values"].clear()
    assert proved["curvature"]["values"]
    assert repr(proved) == table


def test_weights_count():
    """A weight of two is the row twice."""
    X, y, groups = make_table()
    weight = np.where(np.arange(len(y)) % 7 == 0, 2.0, 1.0)
    model = MAMLRegressor(inner_step_size=0.05).fit(X, y, groups=groups, sample_weight=weight)
    rows = np.repeat(np.arange(len(y)), weight.astype(int))
    one = certificate(model, X, y, groups, weight)
    other = certificate(model, X[rows], y[rows], groups[rows])
    for name, line in one.items():
        known = {key: value for key, value in line["values"].items() if key not in ("error", "distance", "norm_grad_F")}
        assert other[name]["values"] | known == pytest.approx(other[name]["values"], rel=1e-9)


@pytest.mark.parametrize("loss", ["squared", "smooth hinge"])
def test_sparse_rows(loss):
    X, y, groups = make_table(labels=loss != "squared", n=4, d=6)
    X[np.abs(X) < 0.5] = 0
    model = MAMLRegressor(inner_step_size=0.05) if loss == "squared" else MAMLSVC(loss="smooth_hinge", C=0.1)
    model.set_params(inner_step_size=0.01).fit(X, y, groups=groups)
    dense, thin = (certificate(model, rows, y, groups) for rows in (X, sparse.csr_matrix(X)))
    for name, line in dense.items():
        for key, value in line["values"].items():
            if key not in ("distance", "norm_grad_F"):
                assert thin[name]["values"][key] == pytest.approx(value, rel=1e-5), (name, key)
    assert status(thin) == status(dense)


def test_deviation_of_bounded_slopes():
    """The finer of two bounds: norm(X'S slope) by the rows' lengths, and by lambda_max(X'SX)."""
    stack = make_stack(logistic_loss, n=40)
    found = task_constants([stack]).sigma
    spectrum = [np.linalg.eigvalsh((X.T * s[:, 0]) @ X)[-1] for X, s in zip(stack.X, stack.S, strict=True)]
    lengths = np.sum(stack.S[..., 0] * np.linalg.norm(stack.X, axis=2), axis=1)
    assert found <= np.sqrt(np.mean(spectrum)) * (1 + 1e-6)
    assert found <= np.sqrt(np.mean(lengths**2)) * (1 + 1e-6)
    assert task_constants([make_stack(logistic_loss, m=1)]).sigma == 0.0


def test_hessian_bounds_by_hand():
    lower, upper = hessian_bounds(0.1, 2.0, 0.5, 0.3, 0.7, 0.4)
    r = 0.2 - 0.01
    third = 0.1 * 0.3 * (0.4 + (1 - r) * 0.7) / (1 - 2 * r)
    assert (lower, upper) == pytest.approx((0.64 * 0.5 - third, 0.95**2 * 2.0 + third))


def test_beyond_our_proof_is_not_decided():
    """Within the bound of Theorem 3.8 as printed, but beyond 1/(4L) and what we can prove."""
    tasks = make_stack(squared_loss, m=1)
    L, mu, *_ = task_constants([tasks])
    w, alpha = np.ones((3, 1)), 0.45 / L
    K = certify([tasks], w, alpha)["stationary"]["values"]["norm_grad_F"]
    constants = Constants(L, mu, kappa=0.999 * 7 * mu / (8 * alpha * 16 * K), sigma=0.0)
    line = certify([tasks], w, alpha, constants=constants)["theorem 3.8"]
    assert line["values"]["inner_step_size"] < line["values"]["bound"]
    assert line["status"] == "not decided"


def test_no_curvature_out_of_rounding():
    """One row less than parameters: mu is zero, whatever the sign of its rounding error."""
    for seed in range(8):
        X, y, groups = make_table(seed, m=1, n=5, d=6)  # one zero eigenvalue
        model = MAMLRegressor(inner_step_size=0.01, fit_intercept=False).fit(X, y, groups=groups)
        assert status(certificate(model, X, y, groups))["assumption 3.3"] == "fails"


def test_learned_metric_of_a_smooth_loss():
    X, y, groups = make_table(labels=True)
    model = MAMLSVC(loss="smooth_hinge").fit(X, y, groups=groups)
    found = status(certificate(model, X, y, groups))
    assert {found[name] for name in THEOREMS} == {"not applicable"}
    assert {found[name] for name in ("strongly convex", "minimum nearby", "global minimum")} == {"not decided"}


def test_long_steps_inflate_rounding():
    X, y, groups = make_table()
    errors = []
    for size in (0.1, 1e3):
        model = MAMLRegressor(inner_step_size=np.full(4, size)).fit(X, y, groups=groups)
        errors.append(certificate(model, X, y, groups)["curvature"]["values"]["error"])
    assert errors[1] > 1e5 * errors[0]
