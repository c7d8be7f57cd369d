"""The MAML loss against equations (1.1) and (3.1) of the paper written out for one task at a time."""

from functools import reduce
from operator import iadd

import numpy as np
import pytest
from references import summed_up
from scipy.optimize import brentq
from scipy.special import expit

from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.meta import MAMLLoss, OneQuadratic, adapt, collapse, maml
from sklearn_maml.steps import inner_step
from sklearn_maml.tasks import FewRowTasks, Function, LinearTasks

STEPS = pytest.mark.parametrize("n_steps", [0, 1, 3])
STEP_SIZES = pytest.mark.parametrize("step_size", [0.15, "per parameter", "auto"])
LOSSES = pytest.mark.parametrize(
    "loss", [squared_loss, smooth_hinge_loss, squared_hinge_loss, hinge_loss], ids=lambda loss: loss.__name__
)
SMOOTH = pytest.mark.parametrize("loss", [squared_loss, smooth_hinge_loss], ids=lambda loss: loss.__name__)
ORDERS = pytest.mark.parametrize("first_order", [False, True], ids=["second order", "first order"])


class Task:
    """One task with one output: f(w), its gradient, its Hessian, and the bound L of the latter."""

    def __init__(self, X, y, weight, loss, penalty):
        self.X, self.y, self.share = X, y, weight / weight.sum()
        self.loss, self.penalty = loss, penalty.ravel()
        bound = {squared_loss: 2, hinge_loss: 1, squared_hinge_loss: 2, smooth_hinge_loss: 2.5}[loss]
        self.L = np.linalg.eigvalsh(bound * (X.T * self.share) @ X)[-1] + self.penalty.max()

    def derivatives(self, w):
        """Of the pointwise loss at every row: value, slope, curvature."""
        y, z = self.y, self.X @ w
        gap = 1 - y * z
        if self.loss is squared_loss:
            return (y - z) ** 2, 2 * (z - y), np.full(len(y), 2.0)
        if self.loss is hinge_loss:
            return gap * (gap > 0), -y * (gap > 0), np.zeros(len(y))
        if self.loss is squared_hinge_loss:
            return gap**2 * (gap > 0), -2 * y * gap * (gap > 0), 2.0 * (gap > 0)
        p = expit(gap / 0.1)
        return 0.1 * np.log1p(np.exp(gap / 0.1)), -y * p, p * (1 - p) / 0.1

    def f(self, w):
        return self.share @ self.derivatives(w)[0] + self.penalty @ w**2 / 2

    def gradient(self, w):
        return self.X.T @ (self.share * self.derivatives(w)[1]) + self.penalty * w

    def hessian(self, w):
        return (self.X.T * self.share * self.derivatives(w)[2]) @ self.X + np.diag(self.penalty)


class Problem:
    """Tasks of several sizes, in one stack for each size, and the same tasks one by one (one list for each output)."""

    def __init__(self, loss=squared_loss, k=2, d=4, l2=0.2, sizes=((3, 9), (2, 2), (1, 6)), seed=0):
        rng = np.random.default_rng(seed)
        self.loss, self.d, self.k = loss, d, k
        self.penalty = np.r_[np.full(d - 1, l2), 0.0][:, None]
        self.stacks, self.few, self.outputs = [], [], [[] for _ in range(k)]
        for m, n in sizes:
            X, Y, weight = rng.normal(size=(m, n, d)), rng.normal(size=(m, n, k)), rng.uniform(0.5, 2, (m, n))
            if loss is not squared_loss:
                Y = np.sign(Y)
            self.stacks.append(LinearTasks(X, Y, weight, loss, self.penalty))
            self.few.append(FewRowTasks(X, Y, weight, loss, self.penalty))
            for i, j in np.ndindex(m, k):
                self.outputs[j].append(Task(X[i], Y[i, :, j], weight[i], loss, self.penalty))
        self.w, self.v = rng.normal(size=(d, k)), rng.normal(size=(d, k))

    def F(self, *, n_steps=0, step_size="auto", **options):
        structure = "quadratic" if self.loss is squared_loss else "smooth"
        steps = [inner_step(stack, step_size, "gradient") for stack in self.stacks] if n_steps else []
        return MAMLLoss(self.stacks, n_steps=n_steps, steps=steps, structure=structure, **options)

    def expected(self, w, step_size, n_steps, first_order=False):
        """F(w) and grad F(w): tasks and outputs are independent of each other."""
        parts = [maml_of(tasks, w[:, j], step_size, n_steps, first_order) for j, tasks in enumerate(self.outputs)]
        return sum(part[0] for part in parts), np.transpose([part[1] for part in parts])

    def potential(self, step_size, n_steps):
        """First-order MAML of quadratics is the gradient of a quadratic after all: the one that is F at zero."""
        value, at_zero = self.expected(np.zeros_like(self.w), step_size, n_steps, True)
        _, at_w = self.expected(self.w, step_size, n_steps, True)
        return value + np.sum((at_zero + at_w) / 2 * self.w)  # the trapezoidal rule is exact


def steps_of(task, step_size):
    """The step of each parameter."""
    return np.full(len(task.penalty), 0.5 / task.L if isinstance(step_size, str) else step_size)


def maml_of(tasks, w, step_size, n_steps, first_order):
    """Mean of f_i(adapted w), (1.1), and its gradient (3.1), where A_i' is the Jacobian of a step."""
    value, gradient, identity = 0.0, 0.0, np.eye(len(w))
    for task in tasks:
        alpha = steps_of(task, step_size)
        u, jacobian = w, identity
        for _ in range(n_steps):
            if not first_order:
                jacobian = (identity - np.diag(alpha) @ task.hessian(u)) @ jacobian
            u = u - alpha * task.gradient(u)
        value += task.f(u) / len(tasks)
        gradient += jacobian.T @ task.gradient(u) / len(tasks)
    return value, gradient


def resolve(step_size):
    return np.array([0.15, 0.02, 0.3, 0.0]) if step_size == "per parameter" else step_size


# adaptation


@LOSSES
@STEP_SIZES
@STEPS
def test_adapt_is_gradient_descent_on_each_task(loss, step_size, n_steps):
    problem, step_size = Problem(loss, k=1), resolve(step_size)
    stack, tasks = problem.stacks[0], problem.outputs[0][:3]
    W = np.random.default_rng(1).normal(size=(3, 4, 1))
    adapted, path = adapt(stack, W, inner_step(stack, step_size, "gradient"), n_steps)
    assert len(path) == n_steps
    for task, w, end in zip(tasks, W[..., 0], adapted[..., 0], strict=True):
        for _ in range(n_steps):
            w = w - steps_of(task, step_size) * task.gradient(w)
        np.testing.assert_allclose(end, w, rtol=1e-12, atol=1e-12)


@LOSSES
def test_inner_step_rule(loss):
    problem = Problem(loss, k=1)
    steps = np.concatenate([inner_step(stack, "auto", "gradient").size for stack in problem.stacks])
    np.testing.assert_allclose(steps, [1 / (2 * task.L) for task in problem.outputs[0]], rtol=1e-12)


def test_given_inner_steps_are_taken_as_they_are():
    stack = Problem().stacks[0]
    assert np.all(inner_step(stack, 0.3, "gradient").product(np.ones((3, 4, 2))) == 0.3)
    steps = np.array([0.1, 0.2, 0.0, 0.4])
    np.testing.assert_array_equal(inner_step(stack, steps, "gradient").product(np.ones((3, 4, 2)))[1, :, 1], steps)


@LOSSES
def test_task_without_curvature_stays_where_it_is(loss):
    X = np.random.default_rng(2).normal(size=(2, 5, 3))
    X[0] = 0
    stack = LinearTasks(X, np.ones((2, 5, 1)), np.ones((2, 5)), loss, np.zeros((3, 1)))
    step = inner_step(stack, "auto", "gradient")
    assert step.size[0] == 0 < step.size[1]
    F = MAMLLoss([stack], n_steps=2, steps=[step])
    value, gradient, hessp = F.expand(np.ones((3, 1)))
    alone = LinearTasks(X[1:], np.ones((1, 5, 1)), np.ones((1, 5)), loss, np.zeros((3, 1)))
    alone = MAMLLoss([alone], n_steps=2, steps=[inner_step(alone, "auto", "gradient")])
    at_zero = loss(np.ones(1), np.zeros(1))[0][0]
    np.testing.assert_allclose(value, (at_zero + alone.value(np.ones((3, 1)))) / 2)
    np.testing.assert_allclose(gradient, alone.gradient(np.ones((3, 1))) / 2)
    assert np.all(np.isfinite(hessp(np.ones((3, 1)))))


# F and its derivatives


@LOSSES
@STEP_SIZES
@STEPS
@ORDERS
def test_value_and_gradient(loss, step_size, n_steps, first_order):
    problem, step_size = Problem(loss), resolve(step_size)
    F = problem.F(n_steps=n_steps, step_size=step_size, first_order=first_order)
    value, gradient = problem.expected(problem.w, step_size, n_steps, first_order)
    if first_order and loss is squared_loss:
        value = problem.potential(step_size, n_steps)
    np.testing.assert_allclose(F.value(problem.w), value, rtol=1e-12)
    np.testing.assert_allclose(F.gradient(problem.w), gradient, rtol=1e-10, atol=1e-12)


@SMOOTH
@STEP_SIZES
@STEPS
def test_gradient_against_finite_differences(loss, step_size, n_steps):
    problem = Problem(loss)
    F = problem.F(n_steps=n_steps, step_size=resolve(step_size))
    w, v, h = problem.w, problem.v, 1e-5
    difference = (F.value(w + h * v) - F.value(w - h * v)) / (2 * h)
    np.testing.assert_allclose(np.sum(F.gradient(w) * v), difference, rtol=1e-6, atol=1e-8)


@SMOOTH
@STEP_SIZES
@STEPS
@ORDERS
def test_hessp_against_finite_differences(loss, step_size, n_steps, first_order):
    """Differences of the gradient written out above, not of the library's."""
    problem, step_size = Problem(loss), resolve(step_size)
    F = problem.F(n_steps=n_steps, step_size=step_size, first_order=first_order)
    w, v, h = problem.w, problem.v, 1e-4
    ahead, behind = (problem.expected(w + s * h * v, step_size, n_steps, first_order)[1] for s in (1, -1))
    expected = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(F.hessp(w, v), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_hessp_by_differences_where_w_has_length_one():
    problem = Problem(smooth_hinge_loss)
    F = problem.F(n_steps=1, step_size=0.15)
    w, h = problem.w / np.linalg.norm(problem.w), 1e-5
    np.testing.assert_array_equal(F.hessp(w, 0 * problem.v), 0 * problem.v)
    np.testing.assert_allclose(F.hessp(w, 1e9 * problem.v), 1e9 * F.hessp(w, problem.v), rtol=1e-6)
    expected = (F.gradient(w + h * problem.v) - F.gradient(w - h * problem.v)) / (2 * h)
    np.testing.assert_allclose(F.hessp(w, problem.v), expected, rtol=1e-4, atol=1e-6 * np.abs(expected).max())


@STEP_SIZES
@STEPS
@ORDERS
def test_hessp_of_quadratic_is_the_closed_form(step_size, n_steps, first_order):
    problem, step_size = Problem(k=1), resolve(step_size)
    F = problem.F(n_steps=n_steps, step_size=step_size, first_order=first_order)
    A = 0
    for task in problem.outputs[0]:
        H = task.hessian(np.zeros(4))
        M = np.eye(4) - np.diag(steps_of(task, step_size)) @ H
        M = np.linalg.matrix_power(M, n_steps)
        A = A + (H @ M if first_order else M.T @ H @ M) / 6
    np.testing.assert_allclose(F.hessp(problem.w, problem.v), A @ problem.v, rtol=1e-11)


def test_hinge_without_penalty_has_no_hessian_correction():
    problem = Problem(hinge_loss, l2=0)
    F, first = (problem.F(n_steps=2, step_size=0.3, first_order=first_order) for first_order in (False, True))
    np.testing.assert_array_equal(F.gradient(problem.w), first.gradient(problem.w))


def test_hessian_correction_matters_elsewhere():
    problem = Problem()
    F, first = (problem.F(n_steps=2, step_size=0.3, first_order=first_order) for first_order in (False, True))
    assert np.linalg.norm(F.gradient(problem.w) - first.gradient(problem.w)) > 0.1


def test_sum_over_a_stack():
    problem = Problem(k=1)
    stack = problem.stacks[0]
    value, gradient, product = maml(stack, problem.w, inner_step(stack, 0.15, "gradient"), 2)
    expected = maml_of(problem.outputs[0][:3], problem.w[:, 0], 0.15, 2, False)
    np.testing.assert_allclose(value, 3 * expected[0])
    np.testing.assert_allclose(gradient[:, 0], 3 * expected[1])
    assert product(problem.v).shape == (4, 1)


class Figure1(Function):
    """Two tasks of one parameter, not linear models at all: Figure 1 of the paper."""

    shape, penalty = (2, 1, 1), np.zeros((1, 1))

    def expand(self, W):
        scale, frequency = np.array([1, 1e-4])[:, None, None], np.array([1, 100])[:, None, None]
        value = 0.505 * W**2 - scale * np.sin(frequency * W)
        gradient = 1.01 * W - scale * frequency * np.cos(frequency * W)
        curvature = 1.01 + scale * frequency**2 * np.sin(frequency * W)
        return value[:, 0, 0], gradient, lambda V: curvature * V


def critical_points(F):
    def slope(w):
        return F.gradient(np.array([[w]])).item()

    grid = np.linspace(-0.1, 0.9, 1001)
    slopes = np.array([slope(w) for w in grid])
    changes = np.flatnonzero(slopes[:-1] * slopes[1:] < 0)
    return [brentq(slope, grid[i], grid[i + 1], xtol=1e-13) for i in changes]


def test_figure_1():
    """F has seven critical points for alpha = 0.4, four of them minima, and one for alpha = 0.1."""
    F, gentle = (MAMLLoss([Figure1()], n_steps=1, steps=[inner_step(Figure1(), a, "gradient")]) for a in (0.4, 0.1))
    points = critical_points(F)
    known = [0.288087736, 0.311260605, 0.344866362, 0.381651739, 0.402744483, 0.449469233, 0.460737285]
    np.testing.assert_allclose(points, known, atol=1e-9)
    bend = [F.hessp(np.array([[w]]), np.ones((1, 1))).item() for w in points]
    assert np.sign(bend).tolist() == [1, -1, 1, -1, 1, -1, 1]
    np.testing.assert_allclose(min(F.value(np.array([[w]])) for w in points), -0.1791097, atol=1e-7)
    assert len(critical_points(gentle)) == 1


# collapse: F of quadratic tasks is one quadratic


def collapsed(problem, step_size, n_steps, first_order):
    """All stacks collapsed and averaged, in both forms that a stack can have."""
    stacks = [summed_up(stack) if i == 1 else stack for i, stack in enumerate(problem.few)]
    parts = [collapse(stack, inner_step(stack, step_size, "gradient"), n_steps, first_order) for stack in stacks]
    return OneQuadratic(reduce(iadd, parts))


@STEP_SIZES
@STEPS
@ORDERS
def test_collapse_is_the_maml_loss_everywhere(step_size, n_steps, first_order):
    problem, step_size = Problem(), resolve(step_size)
    one = collapsed(problem, step_size, n_steps, first_order)
    assert one.is_one_quadratic
    rng = np.random.default_rng(3)
    for scale in (0, 1, 100):
        w = scale * rng.normal(size=(4, 2))
        value, gradient = problem.expected(w, step_size, n_steps, first_order)
        np.testing.assert_allclose(one.gradient(w), gradient, rtol=1e-10, atol=1e-11 * max(scale, 1))
        if not first_order:
            np.testing.assert_allclose(one.value(w), value, rtol=1e-11)
    if first_order:
        np.testing.assert_allclose(one.value(problem.w), problem.potential(step_size, n_steps), rtol=1e-12)


@STEPS
@pytest.mark.parametrize("kind", ["rows", "statistics"])
def test_collapse_is_the_closed_form(kind, n_steps):
    """A = mean H_i (I - alpha H_i)^2K and b = mean (I - alpha H_i)^2K c_i; its solution is the minimiser of F."""
    problem, alpha = Problem(k=1, l2=0, sizes=((5, 7),)), 0.15
    A = b = 0
    for task in problem.outputs[0]:
        H, c = 2 * (task.X.T * task.share) @ task.X, 2 * task.X.T @ (task.share * task.y)
        power = np.linalg.matrix_power(np.eye(4) - alpha * H, 2 * n_steps)
        A, b = A + H @ power / 5, b + power @ c / 5
    stack = problem.few[0] if kind == "rows" else summed_up(problem.few[0])
    total = collapse(stack, inner_step(stack, alpha, "gradient"), n_steps)
    np.testing.assert_allclose(total.A / 5, A, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(total.b[:, 0] / 5, b, rtol=1e-10, atol=1e-12)
    assert total.n_tasks == 5
    minimiser = np.linalg.solve(A, b)
    np.testing.assert_allclose(maml_of(problem.outputs[0], minimiser, alpha, n_steps, False)[1], 0, atol=1e-12)


# what does not matter


@pytest.mark.parametrize("step_size", ["auto", 0.15])
def test_task_order_and_stacking_do_not_matter(step_size):
    rng = np.random.default_rng(4)
    X, Y, weight = rng.normal(size=(12, 6, 4)), np.sign(rng.normal(size=(12, 6, 1))), rng.uniform(1, 2, (12, 6))
    penalty = np.full((4, 1), 0.1)
    w = rng.normal(size=(4, 1))

    def derivatives(*stacks, n_jobs=None):
        stacks = [LinearTasks(X[i], Y[i], weight[i], smooth_hinge_loss, penalty) for i in stacks]
        steps = [inner_step(stack, step_size, "gradient") for stack in stacks]
        return MAMLLoss(stacks, n_steps=2, steps=steps, n_jobs=n_jobs).expand(w)[:2]

    order = rng.permutation(12)
    value, gradient = derivatives(np.arange(12))
    for same in (
        derivatives(order),
        derivatives(order[:1], order[1:5], order[5:]),
        derivatives(*order[:, None]),
        derivatives(order[:4], order[4:], n_jobs=2),
    ):
        np.testing.assert_allclose(same[0], value, rtol=1e-13)
        np.testing.assert_allclose(same[1], gradient, rtol=1e-12, atol=1e-14)


def test_total_weight_of_a_task_does_not_matter():
    """F is the unweighted mean over tasks, of rows and of statistics."""
    problem = Problem(sizes=((3, 9),))
    stack = problem.stacks[0]
    weight = stack.S[..., 0] * np.array([[1], [10], [100]])
    heavier = LinearTasks(stack.X, stack.Y, weight, squared_loss, problem.penalty)
    value, gradient = problem.expected(problem.w, 0.15, 1)
    for tasks in (heavier, summed_up(heavier)):
        np.testing.assert_allclose(tasks.weight, [1, 10, 100])
        F = MAMLLoss([tasks], n_steps=1, steps=[inner_step(tasks, 0.15, "gradient")], structure="quadratic")
        np.testing.assert_allclose(F.value(problem.w), value, rtol=1e-12)
        np.testing.assert_allclose(F.gradient(problem.w), gradient, rtol=1e-11)


# the constants


@STEPS
@ORDERS
@pytest.mark.parametrize("step_size", ["auto", 0.05, 1.5, "per parameter"])
def test_smoothness_bounds_the_hessian_of_quadratics(step_size, n_steps, first_order):
    """Also where adaptation overshoots."""
    problem, step_size = Problem(k=1), resolve(step_size)
    A = 0
    for task in problem.outputs[0]:
        H = task.hessian(np.zeros(4))
        M = np.eye(4) - np.diag(steps_of(task, step_size)) @ H
        A = A + H @ np.linalg.matrix_power(M, n_steps if first_order else 2 * n_steps) / 6
    largest = np.abs(np.linalg.eigvalsh((A + A.T) / 2)).max()
    bound = problem.F(n_steps=n_steps, step_size=step_size, first_order=first_order).smoothness()
    assert largest <= bound
    if n_steps == 0 or isinstance(step_size, str):  # where nothing overshoots
        np.testing.assert_allclose(bound, np.mean([task.L for task in problem.outputs[0]]), rtol=1e-12)
    elif isinstance(step_size, float):
        power = n_steps if first_order else 2 * n_steps
        L = np.array([task.L for task in problem.outputs[0]])
        np.testing.assert_allclose(bound, np.mean(L * np.maximum(1, np.abs(1 - step_size * L)) ** power), rtol=1e-12)
    if n_steps == 0:
        np.testing.assert_allclose(collapsed(problem, "auto", 0, False).smoothness(), largest, rtol=1e-12)


@SMOOTH
@STEPS
@ORDERS
def test_costs(loss, n_steps, first_order):
    """K + 1 gradients and K Hessian products an evaluation; first-order MAML needs no products, nor does f."""
    problem = Problem(loss)
    F = problem.F(n_steps=n_steps, first_order=first_order)
    assert (F.n_gradients, F.n_hessp) == (0, 0)
    cost = np.array([n_steps + 1, 0 if first_order else n_steps])
    for calls in (1, 2, 3):
        F.gradient(problem.w)
        assert [F.n_gradients, F.n_hessp] == (calls * cost).tolist()
    F.hessp(problem.w, problem.v)
    if loss is squared_loss or n_steps == 0:  # forwards along the path, once at its end, and backwards
        expected = 4 * cost + [0, n_steps + 1 + (0 if first_order else n_steps)]
    else:  # two more gradients
        expected = 6 * cost
    assert [F.n_gradients, F.n_hessp] == expected.tolist()


def test_cost_of_a_collapsed_loss_is_that_of_its_tasks():
    stack = Problem().few[0]
    F = OneQuadratic(collapse(stack, inner_step(stack, 0.1, "gradient"), 3), cost=(4, 3))
    F.gradient(np.zeros((4, 2)))
    assert (F.n_gradients, F.n_hessp) == (4, 3)
    F.hessp(np.zeros((4, 2)), np.ones((4, 2)))
    assert (F.n_gradients, F.n_hessp) == (8, 3 + 3 + 7)
    f = OneQuadratic(collapse(stack, None, 0))
    f.gradient(np.zeros((4, 2)))
    assert (f.n_gradients, f.n_hessp) == (1, 0)


def test_working_hessian_is_the_mean_over_tasks():
    problem = Problem()
    H = np.mean([task.hessian(problem.w[:, 0]) for task in problem.outputs[0]], axis=0)
    np.testing.assert_allclose(MAMLLoss(problem.stacks).working_hessian(), H, rtol=1e-12)
    assert MAMLLoss([*problem.stacks, summed_up(problem.stacks[0])]).working_hessian() is None


@LOSSES
def test_overflow_is_left_to_whoever_looks_at_the_value(loss):
    value, _, _ = Problem(loss).F(n_steps=1, step_size=1.0).expand(np.full((4, 2), 1e200))
    assert not np.isfinite(value)
