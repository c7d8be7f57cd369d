"""Stacks of tasks against loops over tasks and rows, finite differences and eigenvalues of explicit Hessians."""

import math

import numpy as np
import pytest
from references import summed_up
from scipy import sparse

from sklearn_maml import tasks as tasks_module
from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.steps import Metric
from sklearn_maml.tasks import BlockDiagonal, FewRowTasks, LinearTasks, QuadraticTasks

POINTWISE = {  # loss: value, slope, curvature for numbers y, z
    squared_loss: lambda y, z: ((y - z) ** 2, 2 * (z - y), 2.0),
    hinge_loss: lambda y, z: (max(0.0, 1 - y * z), -y * (y * z < 1), 0.0),
    squared_hinge_loss: lambda y, z: (max(0.0, 1 - y * z) ** 2, -2 * y * max(0.0, 1 - y * z), 2.0 * (y * z < 1)),
    smooth_hinge_loss: lambda y, z: (
        0.1 * math.log1p(math.exp((1 - y * z) / 0.1)),
        -y / (1 + math.exp(-(1 - y * z) / 0.1)),
        0.1 / (0.1 * (math.exp((1 - y * z) / 0.2) + math.exp(-(1 - y * z) / 0.2))) ** 2,
    ),
}
LOSSES = pytest.mark.parametrize("loss", POINTWISE, ids=lambda loss: loss.__name__)
SHAPES = pytest.mark.parametrize("n", [9, 2], ids=["n > d", "n < d"])


def loop(X, y, weight, loss, penalty, w):
    """One task and one output, row by row: value, gradient and Hessian."""
    d = len(w)
    value, gradient, hessian = 0.0, np.zeros(d), np.zeros((d, d))
    for x, target, share in zip(X, y, weight / weight.sum(), strict=True):
        v, slope, curvature = POINTWISE[loss](target, float(x @ w))
        value += share * v
        gradient += share * slope * x
        hessian += share * curvature * np.outer(x, x)
    penalty = penalty.ravel()
    return value + sum(penalty * w * w) / 2, gradient + penalty * w, hessian + np.diag(penalty)


def loops(X, Y, weight, loss, penalty, W):
    """A stack of them: values (m,), gradients (m, d, k), Hessians (m, k, d, d)."""
    outputs = range(Y.shape[2])
    parts = [[loop(X[i], Y[i, :, j], weight[i], loss, penalty, W[i, :, j]) for j in outputs] for i in range(len(X))]
    values = np.array([sum(part[0] for part in row) for row in parts])
    gradients = np.array([np.transpose([part[1] for part in row]) for row in parts])
    return values, gradients, np.array([[part[2] for part in row] for row in parts])


def make_data(m=3, n=9, d=4, k=2, loss=squared_loss, seed=0):
    rng = np.random.default_rng(seed)
    X, Y = rng.normal(size=(m, n, d)), rng.normal(size=(m, n, k))
    if loss is not squared_loss:
        Y = np.sign(Y)
    penalty = np.r_[np.full(d - 1, 0.3), 0.0][:, None]
    return X, Y, rng.uniform(0.5, 2, (m, n)), loss, penalty


def make_points(X, Y, seed=1):
    rng = np.random.default_rng(seed)
    shape = len(X), X.shape[2], Y.shape[2]
    return rng.normal(size=shape), rng.normal(size=shape)


def as_blocks(X):
    m, n, d = X.shape
    return BlockDiagonal.from_rows(sparse.csr_matrix(X.reshape(m * n, d)), m)


@pytest.fixture(params=["dense", "sparse", "sparse and large"])
def stacked(request, monkeypatch):
    """How a stack holds its rows; large ones are never made dense."""
    if request.param == "sparse and large":
        monkeypatch.setattr(tasks_module, "NUMBERS_PER_STACK", 1)
    return np.asarray if request.param == "dense" else as_blocks


def thin(X, share=0.5, seed=2):
    """Zeros in most places, a whole row of them among the rest."""
    X = np.where(np.random.default_rng(seed).random(X.shape) < share, X, 0.0)
    X[0, 0] = 0
    return X


def check_same(one, other, W, V):
    for a, b in zip(one.expand(W)[:2], other.expand(W)[:2], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(one.hessp(W, V), other.hessp(W, V), rtol=1e-12, atol=1e-12)


def check_loops(stack, data, W, V):
    value, gradient, hessian = loops(*data, W)
    np.testing.assert_allclose(stack.value(W), value, rtol=1e-11)
    np.testing.assert_allclose(stack.gradient(W), gradient, rtol=1e-11, atol=1e-12)
    product = np.einsum("mkde,mek->mdk", hessian, V)
    np.testing.assert_allclose(stack.hessp(W, V), product, rtol=1e-11, atol=1e-12)


# linear tasks


@pytest.mark.parametrize("d", [4, 6])
@pytest.mark.parametrize("limit", [3, 500], ids=["diagonals alone", "matrices"])
def test_working_hessian_is_that_of_the_squared_loss(monkeypatch, stacked, limit, d):
    monkeypatch.setattr(tasks_module, "LARGEST_METRIC", limit)
    X, *rest = data = make_data(m=5, d=d)
    H = loops(*data, make_points(*data[:2])[0])[2][:, 0].sum(axis=0)
    found = LinearTasks(stacked(X), *rest).working_hessian()
    np.testing.assert_allclose(found, np.diag(H) if limit < d else H, rtol=1e-12, atol=1e-12)


@LOSSES
@SHAPES
def test_linear_tasks_are_weighted_means_over_rows(loss, n):
    data = make_data(n=n, loss=loss)
    check_loops(LinearTasks(*data), data, *make_points(*data[:2]))


@pytest.mark.parametrize("loss", [squared_loss, smooth_hinge_loss])
def test_linear_tasks_against_finite_differences(loss):
    stack = LinearTasks(*make_data(loss=loss))
    W, V = make_points(stack.X, stack.Y)
    h = 1e-5
    slope = (stack.value(W + h * V) - stack.value(W - h * V)) / (2 * h)
    np.testing.assert_allclose(np.sum(stack.gradient(W) * V, axis=(1, 2)), slope, rtol=1e-7)
    bend = (stack.gradient(W + h * V) - stack.gradient(W - h * V)) / (2 * h)
    np.testing.assert_allclose(stack.hessp(W, V), bend, rtol=1e-6, atol=1e-7)


@LOSSES
def test_padding_does_not_matter(loss):
    X, Y, weight, *rest = make_data(loss=loss)
    rng = np.random.default_rng(3)
    padded = (
        np.concatenate([X, 10 * rng.normal(size=(3, 2, 4))], axis=1),
        np.concatenate([Y, np.sign(rng.normal(size=(3, 2, 2)))], axis=1),
        np.concatenate([weight, np.zeros((3, 2))], axis=1),
    )
    stack, same = LinearTasks(*padded, *rest), LinearTasks(X, Y, weight, *rest)
    check_same(stack, same, *make_points(X, Y))
    np.testing.assert_allclose(stack.smoothness(), same.smoothness(), rtol=1e-12)
    np.testing.assert_allclose(stack.weight, weight.sum(axis=1))


@LOSSES
def test_weights_are_repetition(loss):
    X, Y, _, *rest = make_data(m=1, loss=loss)
    times = np.array([1, 3, 0, 2, 1, 1, 5, 0, 2])
    rows = np.repeat(np.arange(9), times)
    weighted = LinearTasks(X, Y, times[None].astype(float), *rest)
    repeated = LinearTasks(X[:, rows], Y[:, rows], np.ones((1, times.sum())), *rest)
    check_same(weighted, repeated, *make_points(X, Y))
    np.testing.assert_allclose(weighted.smoothness(), repeated.smoothness(), rtol=1e-12)


@SHAPES
def test_smoothness_is_the_largest_eigenvalue(n, stacked):
    X, Y, weight, loss, penalty = make_data(n=n)
    _, _, hessian = loops(X, Y, weight, loss, 0 * penalty, make_points(X, Y)[0])
    largest = np.linalg.eigvalsh(hessian[:, 0])[:, -1]
    stack = LinearTasks(stacked(X), Y, weight, loss, 0 * penalty)
    np.testing.assert_allclose(stack.smoothness(), largest, rtol=1e-12)
    np.testing.assert_allclose(summed_up(stack).smoothness(), largest, rtol=1e-12)
    penalised = LinearTasks(stacked(X), Y, weight, loss, penalty)
    for tasks in (penalised, summed_up(penalised)):
        np.testing.assert_allclose(tasks.smoothness(), largest + 0.3, rtol=1e-12)


@pytest.mark.parametrize("loss", [squared_loss, squared_hinge_loss, smooth_hinge_loss])
@SHAPES
def test_smoothness_bounds_the_hessian_everywhere(loss, n):
    data = make_data(n=n, loss=loss)
    L = LinearTasks(*data).smoothness()
    for scale in (0, 0.1, 0.3, 1, 3):
        _, _, hessian = loops(*data, scale * make_points(*data[:2])[0])
        largest = np.linalg.eigvalsh(hessian)[..., -1]
        assert np.all(largest <= L[:, None] * (1 + 1e-12))


@pytest.mark.parametrize("n", [9, 5])
@pytest.mark.parametrize("form", [np.asarray, as_blocks])
def test_smoothness_without_matrices(monkeypatch, n, form):
    data = make_data(n=n, d=7)
    truth = [
        np.linalg.norm(x * np.sqrt(2 * s / s.sum())[:, None], 2) ** 2 for x, s in zip(data[0], data[2], strict=True)
    ]
    monkeypatch.setattr(tasks_module, "LARGEST_MATRIX", 3)
    monkeypatch.setattr(tasks_module, "_gram", None)
    monkeypatch.setattr(np.linalg, "eigvalsh", None)
    stack = LinearTasks(form(data[0]), *data[1:4], np.zeros((7, 1)))
    np.testing.assert_allclose(stack.smoothness(), truth, rtol=1e-8)


@pytest.mark.parametrize("form", [np.asarray, as_blocks])
def test_smoothness_without_matrices_of_negative_features(monkeypatch, form):
    X, *rest = make_data(d=7)
    stacks = [LinearTasks(form(sign * np.abs(X)), *rest) for sign in (1, -1)]
    monkeypatch.setattr(tasks_module, "LARGEST_MATRIX", 3)
    np.testing.assert_allclose(*(stack.smoothness() for stack in stacks), rtol=1e-10)


@pytest.mark.parametrize("n", [9, 2])
def test_curvature_that_depends_on_the_row(n):
    """Of (y z)^2 / 2, the curvature y^2 is that of the row, the largest of its outputs, and no other row's."""
    X, Y, weight, _, penalty = make_data(n=n)
    stack = LinearTasks(X, Y, weight, lambda y, z: ((y * z) ** 2 / 2, y * y * z, y * y), penalty)
    H = np.einsum("mn,mnd,mne->mde", weight / weight.sum(axis=1)[:, None] * np.max(Y**2, axis=2), X, X)
    np.testing.assert_allclose(stack.smoothness(), np.linalg.eigvalsh(H)[:, -1] + 0.3, rtol=1e-6)
    np.testing.assert_allclose(stack.working_hessian(), H.sum(axis=0) + 3 * np.diag(penalty[:, 0]), rtol=1e-10)


def test_smoothness_without_matrices_of_nothing(monkeypatch):
    X, *rest = make_data(d=7)
    X[1] = 0
    monkeypatch.setattr(tasks_module, "LARGEST_MATRIX", 3)
    for form in (np.asarray, as_blocks):
        assert LinearTasks(form(X), *rest).smoothness()[1] == 0.3


@pytest.mark.parametrize("form", [np.asarray, as_blocks])
def test_smoothness_without_matrices_of_comparisons(monkeypatch, form):
    """One feature minus another, as in models of paired comparisons: the vector of ones tells nothing about X."""
    X, *rest = make_data(d=7)
    X = np.zeros_like(X)
    for i, j in np.ndindex(3, 9):
        X[i, j, j % 7], X[i, j, (j + i + 1) % 7] = 1, -1
    truth = [np.linalg.norm(x * np.sqrt(2 * s / s.sum())[:, None], 2) ** 2 for x, s in zip(X, rest[1], strict=True)]
    monkeypatch.setattr(tasks_module, "LARGEST_MATRIX", 3)
    np.testing.assert_allclose(LinearTasks(form(X), *rest[:-1], np.zeros((7, 1))).smoothness(), truth, rtol=1e-8)


# quadratic tasks


@SHAPES
def test_statistics_are_the_rows(n, stacked):
    data = make_data(n=n)
    stack = summed_up(LinearTasks(stacked(data[0]), *data[1:]))
    assert stack.shape == (3, 4, 2)
    np.testing.assert_allclose(stack.weight, data[2].sum(axis=1))
    check_loops(stack, data, *make_points(*data[:2]))


QUADRATIC = {
    "few rows": FewRowTasks,
    "few sparse rows": lambda X, *rest: FewRowTasks(as_blocks(X), *rest),
    "statistics": lambda *data: summed_up(LinearTasks(*data)),
    "statistics of few rows": lambda *data: summed_up(FewRowTasks(*data)),
}
KINDS = pytest.mark.parametrize("kind", QUADRATIC)


def half_squared_loss(y, z):
    return (y - z) ** 2 / 2, z - y, np.asarray(1.0)


def dense_hessians(X, weight, penalty, curvature=2.0):
    """X'diag(weight)X c / sum(weight) + diag(penalty) for each task."""
    return np.array(
        [curvature * (x.T * s) @ x / s.sum() + np.diag(penalty[:, 0]) for x, s in zip(X, weight, strict=True)]
    )


@KINDS
@SHAPES
@pytest.mark.parametrize("step", ["zero", "number", "per parameter", "per task", "matrices"])
@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_hessian_sum(kind, n, step, l2):
    X, Y, weight, loss, _ = make_data(n=n)
    penalty = np.array([l2, l2, l2, 0.0])[:, None]
    root = 0.2 * np.random.default_rng(6).normal(size=(3, 4, 4))
    P = {
        "zero": np.zeros((3, 4, 4)),
        "number": np.tile(0.1 * np.eye(4), (3, 1, 1)),
        "per parameter": np.tile(np.diag([0.1, 0.0, 0.05, 0.2]), (3, 1, 1)),
        "per task": np.array([0.1, 0.3, 0.02])[:, None, None] * np.eye(4),
        "matrices": root @ root.mT,
    }[step]
    stack = QUADRATIC[kind](X, Y, weight, loss, penalty)
    H = [loop(X[i], Y[i, :, 0], weight[i], loss, penalty, np.zeros(4))[2] for i in range(3)]
    terms = H
    for power in range(7):
        product = (lambda V: P @ V) if power else None  # not looked at
        np.testing.assert_allclose(stack.hessian_sum(product, power), sum(terms), rtol=1e-10, atol=1e-12)
        terms = [(np.eye(4) - H[i] @ P[i]) @ terms[i] for i in range(3)]


@KINDS
@SHAPES
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("loss", [squared_loss, half_squared_loss])
def test_forms_of_quadratic_tasks_are_the_rows(kind, n, l2, loss):
    X, Y, weight, _, _ = make_data(n=n)
    penalty = np.array([l2, l2, l2, 0.0])[:, None]
    W, V = make_points(X, Y)
    c = 2.0 if loss is squared_loss else 1.0
    residual = X @ W - Y
    share = (weight / weight.sum(axis=1, keepdims=True))[..., None]
    value = c / 2 * np.sum(share * residual**2, axis=(1, 2)) + np.sum(penalty * W**2, axis=(1, 2)) / 2
    stack = QUADRATIC[kind](X, Y, weight, loss, penalty)
    np.testing.assert_allclose(stack.value(W), value, rtol=1e-12)
    np.testing.assert_allclose(stack.gradient(W), c * X.mT @ (share * residual) + penalty * W, rtol=1e-11, atol=1e-12)
    H = dense_hessians(X, weight, penalty, c)
    np.testing.assert_allclose(stack.hessp(W, V), H @ V, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(stack.scale, np.diagonal(H, axis1=1, axis2=2), rtol=1e-12)
    np.testing.assert_allclose(stack.mean_curvature, c, rtol=1e-12)
    np.testing.assert_allclose(stack.weight, weight.sum(axis=1))


# metrics


def roots(d=4, m=3):
    """Of matrices A = root root': one for all tasks or one for each, one of them singular."""
    rng = np.random.default_rng(7)
    singular = rng.normal(size=(d, d))
    singular[:, 1] = singular[:, 0]
    return {"one": rng.normal(size=(d, d)), "singular": singular, "each": rng.normal(size=(m, d, d))}


def inverse_plus(A, H):
    """(A^-1 + H)^-1 also for singular A."""
    return np.linalg.solve(np.eye(len(H[0])) + A @ H, np.broadcast_to(A, H.shape))


def metrics(penalty):
    """Each kind of metric, and the roots R of the matrices A = R R' that it stands for."""
    mean, variance = np.array([0.5, -1.0, 2.0]), np.array([0.5, 0.0, 2.0, 1.0])[:, None]
    factor, R, T = np.array([0.5, 0.0, 3.0])[:, None, None], np.sqrt(np.diagflat(variance)), np.eye(4)
    T[3, :3] = -mean
    return {
        "identity": (Metric(None, np.full((1, 1), 0.3), penalty), np.sqrt(0.3) * np.eye(4)),
        "diagonal": (Metric(None, variance, penalty), R),
        "level": (Metric(mean, variance, penalty), T @ R),
        "scaled": (Metric(mean, variance, penalty).scaled(factor), np.sqrt(factor) * (T @ R)),
    } | {name: (Metric.of_root(root, penalty), root) for name, root in roots().items()}


METRICS = pytest.mark.parametrize("metric", metrics(np.zeros((4, 1))))


@KINDS
@SHAPES
@pytest.mark.parametrize("l2", [0.0, 0.3])
@METRICS
def test_resolvent(kind, n, l2, metric):
    """(A^-1 + H)^-1, in the usual form for invertible A as well."""
    penalty = np.array([l2, l2, l2, 0.0])[:, None]
    given, R = metrics(penalty)[metric]
    A = R @ R.mT
    for loss, c in ((squared_loss, 2.0), (half_squared_loss, 1.0)):
        X, Y, weight, _, _ = make_data(n=n)
        H = dense_hessians(X, weight, penalty, c)
        expected = inverse_plus(A, H)
        if metric in ("identity", "one", "each"):
            np.testing.assert_allclose(expected, np.linalg.inv(np.linalg.inv(A) + H), rtol=1e-9, atol=1e-12)
        product = QUADRATIC[kind](X, Y, weight, loss, penalty).resolvent(given)
        _, V = make_points(X, Y)
        np.testing.assert_allclose(product(V), expected @ V, rtol=1e-9, atol=1e-11)
        P = product(np.tile(np.eye(4), (3, 1, 1)))
        np.testing.assert_allclose(P, P.mT, rtol=1e-9, atol=1e-12)


def test_other_losses_have_no_resolvent():
    data = make_data(loss=smooth_hinge_loss)
    assert LinearTasks(*data).resolvent(Metric(None, np.ones((1, 1)), data[-1])) is None


ROWS = {"rows": LinearTasks, "sparse rows": lambda X, *rest: LinearTasks(as_blocks(X), *rest)}


@pytest.mark.parametrize(
    ("kind", "loss"),
    [(kind, squared_loss) for kind in QUADRATIC] + [(kind, loss) for kind in ROWS for loss in POINTWISE],
)
@SHAPES
@METRICS
def test_curvature_in_a_metric(kind, loss, n, metric):
    """lambda_max of R'X'SCXR plus that of R'diag(penalty)R: a bound of that of their sum, tight without penalty."""
    X, Y, weight, _, _ = make_data(n=n, loss=loss)
    c = {squared_loss: 2.0, squared_hinge_loss: 2.0, hinge_loss: 1.0, smooth_hinge_loss: 0.5}[loss]
    rtol = 2e-4 if loss is smooth_hinge_loss else 1e-9
    for l2 in (0.0, 0.3):
        penalty = np.array([l2, l2, l2, 0.0])[:, None]
        given, R = metrics(penalty)[metric]
        H = dense_hessians(X, weight, 0 * penalty, c)
        expected = np.linalg.eigvalsh(R.mT @ H @ R)[:, -1] + np.linalg.eigvalsh(R.mT @ (penalty * R))[..., -1]
        actual = (QUADRATIC | ROWS)[kind](X, Y, weight, loss, penalty).curvature_in(given)
        np.testing.assert_allclose(actual, expected, rtol=rtol, atol=1e-13)
        whole = np.linalg.eigvalsh(R.mT @ (H + np.diagflat(penalty)) @ R)[:, -1]
        assert np.all(actual * (1 + rtol) + 1e-13 >= whole)
        if l2 == 0:
            np.testing.assert_allclose(actual, whole, rtol=rtol, atol=1e-13)


def test_curvature_of_several_outputs_is_the_largest():
    """A loss that is more curved for some targets than for others: (y z)^2 / 2 has the curvature y^2."""

    def loss(y, z):
        return (y * z) ** 2 / 2, y * y * z, y * y

    X, Y, weight, _, penalty = make_data(n=5)
    stack = LinearTasks(X, Y, weight, loss, 0 * penalty)
    c, s = (Y**2).max(axis=2), weight / weight.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(stack.mean_curvature, np.sum(s * c, axis=1), rtol=1e-12)
    H = [(x.T * own) @ x for x, own in zip(X, s * c, strict=True)]
    np.testing.assert_allclose(
        stack.curvature_in(Metric(None, np.ones((1, 1)), 0 * penalty)), np.linalg.eigvalsh(H)[:, -1], rtol=1e-10
    )


# least squares


@KINDS
@SHAPES
@pytest.mark.parametrize("loss", [squared_loss, half_squared_loss])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_factor_is_the_weighted_sum_of_squares(kind, n, loss, l2):
    """Without the penalty: of the data alone."""
    X, Y, weight, _, _ = make_data(n=n)
    X[1, :, 2] = 0  # a feature that is zero in a task
    penalty = np.array([l2, l2, l2, 0.0])[:, None]
    R, Z, rest, total = QUADRATIC[kind](X, Y, weight, loss, penalty).factor()
    np.testing.assert_allclose(total, weight.sum(axis=1))
    assert isinstance(R, np.ndarray)
    assert R.shape[::2] == (3, 4)
    assert rest.shape == (3, 2)
    assert np.all(rest >= 0)
    for seed in range(3):
        W, _ = make_points(X, Y, seed)
        squares = np.sum((Z - R @ W) ** 2, axis=1) + rest
        np.testing.assert_allclose(squares, np.sum(weight[..., None] * (Y - X @ W) ** 2, axis=1), rtol=1e-10)


def test_factor_does_not_depend_on_the_units_of_the_features():
    """A rate beside a population: in units of its own, the small feature explains as much as it did."""
    X, Y, weight, loss, penalty = make_data(n=9)
    scale = np.array([1e-8, 1.0, 1e5, 1.0])
    stack = summed_up(LinearTasks(X * scale, Y, weight, loss, 0 * penalty))
    R, Z, rest, _ = stack.factor()
    W, _ = make_points(X, Y)
    squares = np.sum((Z - R @ (W / scale[:, None])) ** 2, axis=1) + rest
    np.testing.assert_allclose(squares, np.sum(weight[..., None] * (Y - X @ W) ** 2, axis=1), rtol=1e-6)


def test_factor_of_merged_statistics():
    X, Y, weight, *rest = make_data(n=12)
    parts = [summed_up(LinearTasks(X[:, i], Y[:, i], weight[:, i], *rest)) for i in (slice(0, 5), slice(5, 12))]
    R, Z, left, total = QuadraticTasks.concatenate(parts).reduce([0, 1, 2, 0, 1, 2]).factor()
    W, _ = make_points(X, Y)
    squares = np.sum((Z - R @ W) ** 2, axis=1) + left
    np.testing.assert_allclose(squares, np.sum(weight[..., None] * (Y - X @ W) ** 2, axis=1), rtol=1e-10)
    np.testing.assert_allclose(total, weight.sum(axis=1))


def test_curvature_of_the_loss_stays_with_the_statistics():
    data = make_data()
    stack = summed_up(LinearTasks(*data[:3], half_squared_loss, data[4]))
    for same in (stack.take([0, 2]), QuadraticTasks.concatenate([stack, stack]), stack.reduce([0, 0, 1])):
        assert same.mean_curvature == 1
    (_, build), *_ = stack.stacks()
    assert build().mean_curvature == 1


@pytest.mark.parametrize("form", [np.asarray, as_blocks])
def test_scale_is_the_diagonal_of_the_hessian(form):
    data = make_data()
    diagonal = np.array([np.diag(H[0]) for H in loops(*data, make_points(*data[:2])[0])[2]])
    rows = FewRowTasks(form(data[0]), *data[1:])
    statistics = summed_up(rows)
    np.testing.assert_allclose(rows.scale, diagonal, rtol=1e-12)
    np.testing.assert_allclose(statistics.scale, diagonal, rtol=1e-12)
    np.testing.assert_allclose(statistics.take([2, 0]).scale, diagonal[[2, 0]], rtol=1e-12)
    statistics.weight = np.array([1.0, 1.0, 3.0])
    expected = [diagonal[1], (diagonal[0] + 3 * diagonal[2]) / 4]
    np.testing.assert_allclose(statistics.reduce([1, 0, 1]).scale, expected, rtol=1e-12)


def test_take_and_stacks(monkeypatch):
    data = make_data(m=7)
    stack = summed_up(LinearTasks(*data))
    W, V = make_points(*data[:2])
    some = [5, 0, 2]
    check_loops(stack.take(some), [*(a[some] for a in data[:3]), *data[3:]], W[some], V[some])
    monkeypatch.setattr(tasks_module, "NUMBERS_PER_STACK", 3 * 4 * 4)
    stacks = stack.stacks()
    assert len(stacks) == 3
    np.testing.assert_array_equal(np.concatenate([tasks for tasks, _ in stacks]), np.arange(7))
    for tasks, build in stacks:
        assert len(tasks) <= 3
        check_loops(build(), [*(a[tasks] for a in data[:3]), *data[3:]], W[tasks], V[tasks])
    whole = QuadraticTasks.concatenate([build() for _, build in stacks])
    check_loops(whole, data, W, V)


def test_stacks_hold_one_task_where_it_is_too_large(monkeypatch):
    monkeypatch.setattr(tasks_module, "NUMBERS_PER_STACK", 5)
    stacks = summed_up(LinearTasks(*make_data())).stacks()
    assert [tasks.tolist() for tasks, _ in stacks] == [[0], [1], [2]]


def test_reduce_merges_parts_into_the_whole():
    """Rows of three tasks dealt out to shards at random, in any order, with weights."""
    data = make_data(n=12)
    X, Y, weight, *rest = data
    shard = np.random.default_rng(4).integers(0, 4, (3, 12))
    parts, key = [], []
    for s in (2, 0, 3, 1):
        for i in (1, 2, 0):
            rows = shard[i] == s
            if rows.any():
                parts.append(
                    summed_up(LinearTasks(X[i : i + 1, rows], Y[i : i + 1, rows], weight[i : i + 1, rows], *rest))
                )
                key.append(i)
    merged = QuadraticTasks.concatenate(parts).reduce(key)
    assert len(parts) > 6
    assert merged.shape == (3, 4, 2)
    np.testing.assert_allclose(merged.weight, weight.sum(axis=1))
    check_loops(merged, data, *make_points(X, Y))


def test_reduce_to_the_mean_over_tasks():
    """With equal weights, one key is the mean over tasks."""
    data = make_data()
    stack = summed_up(LinearTasks(*data))
    stack.weight = np.full(3, 5.0)
    w, v = (a[:1] for a in make_points(*data[:2]))
    value, gradient, hessian = loops(*data, np.repeat(w, 3, axis=0))
    mean = stack.reduce([0, 0, 0])
    np.testing.assert_allclose(mean.value(w), [value.mean()], rtol=1e-12)
    np.testing.assert_allclose(mean.gradient(w)[0], gradient.mean(axis=0), rtol=1e-11)
    np.testing.assert_allclose(mean.hessp(w, v)[0], hessian.mean(axis=0)[0] @ v[0], rtol=1e-11)
    assert mean.weight == [15]


# sparse stacks


def test_block_diagonal_multiplies_like_an_array():
    X = thin(make_data(m=3, n=5, d=4)[0])
    blocks = as_blocks(X)
    rng = np.random.default_rng(5)
    right, left, scale = rng.normal(size=(3, 4, 2)), rng.normal(size=(3, 5, 2)), rng.normal(size=(3, 5, 1))
    assert blocks.shape == X.shape
    assert blocks.mT.shape == (3, 4, 5)
    np.testing.assert_array_equal(blocks.toarray(), X)
    np.testing.assert_allclose(blocks @ right, [X[i] @ right[i] for i in range(3)], atol=1e-14)
    np.testing.assert_allclose(blocks.mT @ left, [X[i].T @ left[i] for i in range(3)], atol=1e-14)
    np.testing.assert_array_equal((scale * blocks).toarray(), scale * X)
    for block, x in zip(blocks.blocks(), X, strict=True):
        np.testing.assert_array_equal(block.toarray(), x)


@LOSSES
@SHAPES
def test_sparse_is_dense(loss, n):
    X, *rest = make_data(n=n, loss=loss)
    X = thin(X)
    check_loops(LinearTasks(as_blocks(X), *rest), (X, *rest), *make_points(X, rest[0]))
