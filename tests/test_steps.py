"""Inner steps against dense matrices, normal equations, other optimisers and finite differences."""

import numpy as np
import pytest
from references import summed_up
from scipy.optimize import approx_fprime, minimize
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from test_tasks import as_blocks

from sklearn_maml import steps as steps_module
from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.meta import MAMLLoss, OneQuadratic, adapt, collapse
from sklearn_maml.prior import Prior
from sklearn_maml.steps import EulerStep, Metric, ProximalStep, inner_step
from sklearn_maml.tasks import FewRowTasks, LinearTasks, QuadraticTasks

D, M = 4, 3  # parameters, the last of them an intercept; tasks
ADAPTATIONS = pytest.mark.parametrize("adaptation", ["gradient", "implicit"])


def logistic_loss(y, z):
    p = expit(-y * z)
    return np.logaddexp(0, -y * z), -y * p, p * (1 - p)


def pinball_loss(y, z):
    """The quantile loss for the quantile 0.3, smoothed over |y - z| < 0.5."""
    r = y - z
    side, near = np.where(r >= 0, 0.3, 0.7), np.abs(r) < 0.5
    return side * np.where(near, r * r, np.abs(r) - 0.25), -side * np.clip(2 * r, -1, 1), 2.0 * side * near


SLOPES = {  # derivative in z, written once more
    squared_loss: lambda y, z: 2 * (z - y),
    squared_hinge_loss: lambda y, z: np.where(y * z < 1, -2 * y * (1 - y * z), 0.0),
    smooth_hinge_loss: lambda y, z: -y * (1 + np.tanh((1 - y * z) / 0.2)) / 2,
    logistic_loss: lambda y, z: -y * (1 - np.tanh(y * z / 2)) / 2,
    pinball_loss: lambda y, z: np.where(z > y, np.minimum(1.4 * (z - y), 0.7), np.maximum(0.6 * (z - y), -0.3)),
}
OTHERS = pytest.mark.parametrize("loss", list(SLOPES)[1:], ids=lambda loss: loss.__name__)
KINDS = {
    "rows": LinearTasks,
    "sparse rows": lambda X, *rest: LinearTasks(as_blocks(X), *rest),
    "few rows": FewRowTasks,
    "few sparse rows": lambda X, *rest: FewRowTasks(as_blocks(X), *rest),
    "statistics": lambda *data: summed_up(LinearTasks(*data)),
}
ANY_KIND = pytest.mark.parametrize("kind", KINDS)


class Problem:
    """A stack of tasks, and the same as dense matrices."""

    def __init__(self, kind="rows", loss=squared_loss, k=1, l2=0.3, n=6, unit=False, seed=0):
        rng = np.random.default_rng(seed)
        self.X, self.Y = rng.normal(size=(M, n, D)) + 0.5, rng.normal(size=(M, n, k))
        self.X[..., -1] = 1
        if loss not in (squared_loss, pinball_loss):
            self.Y = np.sign(self.Y)
        weight = np.ones((M, n)) if unit else rng.uniform(0.5, 2, (M, n))
        self.share, self.loss = (weight / weight.sum(axis=1, keepdims=True))[..., None], loss
        self.penalty = np.r_[np.full(D - 1, l2), 0.0][:, None]
        self.tasks = KINDS[kind](self.X, self.Y, weight, loss, self.penalty)
        self.shots = weight.sum(axis=1)
        self.data = 2 * self.X.mT @ (self.share * self.X)
        self.H = self.data + np.diagflat(self.penalty)
        self.C = 2 * self.X.mT @ (self.share * self.Y)
        self.W, self.V = rng.normal(size=(M, D, k)), rng.normal(size=(M, D, k))

    def gradient(self, W):
        return self.X.mT @ (self.share * SLOPES[self.loss](self.Y, self.X @ W)) + self.penalty * W

    def f(self, i, w):
        """Value of task i at one (d, k)."""
        value = self.loss(self.Y[i], self.X[i] @ w)[0]
        return np.sum(self.share[i] * value) + np.sum(self.penalty * w * w) / 2


def dense(basis, variance):
    """T diag(variance) T'."""
    T = np.eye(D) if basis is None else np.asarray(basis)
    if T.ndim == 1:
        level, T = T, np.eye(D)
        T[-1, :-1] = -level
    return T @ (variance * T.mT)


def bases():
    rng = np.random.default_rng(1)
    return {
        "identity": None,
        "level": rng.normal(size=D - 1),
        "matrix": rng.normal(size=(D, D)),
        "matrix a task": rng.normal(size=(M, D, D)),
    }


def priors():
    """Covariances of every form in which they are learned."""
    rng = np.random.default_rng(2)
    root, one, noise = rng.normal(size=(D, D)) * [0.3, 1.0, 3.0, 1.0], np.ones((1, 1)), np.array([0.7])
    variance = np.array([0.5, 0.01, 2.0, 1.0])[:, None]
    diag = Prior(bases()["level"], variance, noise)
    return {
        "diagonal": Prior(None, variance, noise),
        "level": diag,
        "some do not vary": Prior(bases()["level"], variance * [[1], [0], [1], [0]], noise),
        "full": Prior(root, one, noise),
        "singular": Prior(root * [1, 0, 0, 1], one, noise),
        "of other covariance": diag.with_covariance(dense(root, one)),
        "each": diag.with_covariance(dense(bases()["matrix a task"], one)),
    }


PRIORS = pytest.mark.parametrize("prior", priors())


def covariance_of(prior):
    return dense(prior.basis, prior.variance) * np.ones((M, 1, 1))


def root_of(A):
    """The symmetric root."""
    eigenvalues, Q = np.linalg.eigh(A)
    return Q @ (np.sqrt(eigenvalues.clip(0))[..., None] * Q.mT)


def largest(A):
    return np.linalg.eigvalsh(A)[..., -1]


# the metric


@pytest.mark.parametrize("basis", bases())
@pytest.mark.parametrize("form", ["one number", "per parameter", "per task", "some zero"])
def test_metric_is_the_dense_matrix(basis, form):
    rng = np.random.default_rng(3)
    variance = rng.uniform(0.1, 2, {"one number": (1, 1), "per task": (M, D, 1)}.get(form, (D, 1)))
    if form == "some zero":
        variance[1] = 0
    basis = bases()[basis]
    A = dense(basis, variance)
    metric = Metric(basis, variance, np.zeros((D, 1)))
    eye = np.broadcast_to(np.eye(D), (M, D, D))
    T, R = metric.to(eye), metric.half(eye)
    np.testing.assert_allclose(T * np.sqrt(variance).mT, R, rtol=1e-13)
    np.testing.assert_allclose(R @ R.mT, A * np.ones((M, 1, 1)), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(dense(basis, np.ones((1, 1))) * np.ones((M, 1, 1)), T @ T.mT, rtol=1e-12, atol=1e-13)
    for V in (rng.normal(size=(M, D, 2)), rng.normal(size=(M, D, 7)), rng.normal(size=(M, D, 1))):
        np.testing.assert_allclose(metric(V), A @ V, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(metric.to(V), T @ V, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(metric.back(V), T.mT @ V, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(metric.half(V), R @ V, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(metric.half_transposed(V), R.mT @ V, rtol=1e-12, atol=1e-13)
    factor = np.array([0.5, 0.0, 3.0])[:, None, None]
    np.testing.assert_allclose(metric.scaled(factor)(eye), factor * A, rtol=1e-12, atol=1e-13)
    assert metric.scaled(factor).penalty is metric.penalty


@pytest.mark.parametrize("basis", ["identity", "level"])
@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_penalty_joins_the_metric(basis, l2):
    """(A^-1 + diag(penalty))^-1; the basis of the level leaves the penalty diagonal, as the intercept has none."""
    variance, penalty = np.array([0.3, 1.0, 2.5, 0.8])[:, None], np.array([l2, 2 * l2, l2, 0.0])[:, None]
    A, metric = dense(bases()[basis], variance), Metric(bases()[basis], variance, penalty)
    expected = np.linalg.inv(np.linalg.inv(A) + np.diagflat(penalty))
    np.testing.assert_allclose(metric.with_penalty()(np.eye(D)), expected, rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(metric.largest_penalty(), largest(root_of(A) @ (penalty * root_of(A))), atol=1e-12)
    factor = np.array([0.5, 1.0, 3.0])[:, None, None]
    expected = np.linalg.inv(np.linalg.inv(factor * A) + np.diagflat(penalty))
    scaled = metric.scaled(factor)
    np.testing.assert_allclose(scaled.with_penalty()(np.eye(D)), expected, rtol=1e-11, atol=1e-13)
    expected = factor[:, 0, 0] * largest(root_of(A) @ (penalty * root_of(A)))
    np.testing.assert_allclose(scaled.largest_penalty(), expected, atol=1e-12)


@pytest.mark.parametrize("form", ["one", "each", "singular", "zero"])
@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_metric_of_a_root(form, l2):
    root = bases()["matrix a task" if form == "each" else "matrix"].copy()
    if form == "singular":
        root[:, 2] = root[:, 0] - root[:, 1]
    root *= form != "zero"
    penalty = np.array([l2, 2 * l2, l2, 0.0])[:, None]
    A, metric = root @ root.mT, Metric.of_root(root, penalty)
    np.testing.assert_allclose(metric(np.eye(D)), A, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(metric.half(np.eye(D)) @ metric.half(np.eye(D)).mT, A, rtol=1e-11, atol=1e-12)
    R = metric.half(np.eye(D))
    np.testing.assert_allclose(R.mT @ (penalty * R), metric.penalty * np.eye(D), rtol=1e-10, atol=1e-12)
    inner = np.eye(D) + root.mT @ (penalty * root)
    expected = root @ np.linalg.solve(inner, root.mT)  # (A^-1 + diag(penalty))^-1, by Woodbury's formula
    if form in ("one", "each"):
        np.testing.assert_allclose(np.linalg.inv(np.linalg.inv(A) + np.diagflat(penalty)), expected, rtol=1e-8)
    np.testing.assert_allclose(metric.with_penalty()(np.eye(D)), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(metric.largest_penalty(), largest(root.mT @ (penalty * root)), rtol=1e-10, atol=1e-12)


# numbers are taken as they are


@ANY_KIND
@ADAPTATIONS
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("step_size", [0.3, 0.0, [0.1, 2.0, 0.0, 0.4]])
def test_given_step_of_quadratic_tasks(kind, adaptation, k, l2, step_size):
    """Explicit: w - a grad f. Implicit: the normal equations of f(w') + norm(w' - w)^2 / 2a; a = 0 does not move."""
    problem = Problem(kind, k=k, l2=l2)
    a = np.broadcast_to(step_size, D)[:, None]
    step = inner_step(problem.tasks, np.array(step_size), adaptation)
    expected = problem.W - a * (problem.H @ problem.W - problem.C)
    if adaptation == "implicit":
        expected = np.linalg.solve(np.eye(D) + a * problem.H, problem.W + a * problem.C)
    moved, _, _ = step(problem.tasks, problem.W)
    np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(moved[:, a[:, 0] == 0], problem.W[:, a[:, 0] == 0])
    assert step.size is None


@OTHERS
def test_given_implicit_step_is_the_minimiser(loss):
    problem, step_size = Problem(loss=loss), [0.1, 2.0, 0.0, 0.4]
    moves = np.array(step_size) > 0
    a = np.array(step_size)[moves]
    moved, _, _ = inner_step(problem.tasks, np.array(step_size), "implicit")(problem.tasks, problem.W)
    np.testing.assert_array_equal(moved[:, ~moves], problem.W[:, ~moves])
    for i, w in enumerate(problem.W[..., 0]):

        def moreau(change, i=i, w=w):
            there = w.copy()
            there[moves] += change
            return problem.f(i, there[:, None]) + np.sum(change**2 / (2 * a))

        mine = moved[i, moves, 0] - w[moves]
        best = minimize(moreau, np.zeros(len(a)), method="BFGS", options={"gtol": 1e-8})
        assert moreau(mine) <= best.fun + 1e-12
        np.testing.assert_allclose(mine, best.x, atol=1e-5)


@OTHERS
@ADAPTATIONS
def test_zero_step_does_not_move(loss, adaptation):
    problem = Problem(loss=loss)
    moved, hessp, product = inner_step(problem.tasks, 0.0, adaptation)(problem.tasks, problem.W)
    np.testing.assert_array_equal(moved, problem.W)
    np.testing.assert_array_equal(problem.V - product(hessp(problem.V)), problem.V)


# "auto" is what was learned


@ANY_KIND
@PRIORS
@pytest.mark.parametrize(("k", "l2"), [(1, 0.0), (3, 0.3)])
def test_explicit_step_in_the_learned_metric(kind, prior, k, l2):
    """Sigma grad f / (2 s2/K + lambda_max(Sigma^1/2 H Sigma^1/2)); the penalty's largest curvature is added to H's."""
    problem, prior = Problem(kind, k=k, l2=l2), priors()[prior]
    s2, G = prior.noise[0], covariance_of(prior)
    root = root_of(s2 * G)
    curvature = largest(root @ problem.data @ root) + largest(root @ (problem.penalty * root))
    if l2 == 0:
        np.testing.assert_allclose(curvature, largest(root @ problem.H @ root), rtol=1e-9)
    for shots in (problem.shots, 1.0, 25.0):
        length = 1 / (2 * s2 / shots + curvature)
        expected = problem.W - length[:, None, None] * (s2 * G) @ (problem.H @ problem.W - problem.C)
        step = inner_step(problem.tasks, "auto", "gradient", prior, shots)
        moved, _, _ = step(problem.tasks, problem.W)
        np.testing.assert_allclose(moved, expected, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(step.size, length * s2, rtol=1e-9)


@ANY_KIND
@PRIORS
@pytest.mark.parametrize(("k", "l2"), [(1, 0.0), (3, 0.3)])
def test_implicit_step_in_the_learned_metric(kind, prior, k, l2):
    """(H + Lambda)^-1 (c + Lambda w), Lambda = (2 s2/K) Sigma^-1: the best linear unbiased prediction."""
    problem, prior = Problem(kind, k=k, l2=l2), priors()[prior]
    s2, G = prior.noise[0], covariance_of(prior)
    for shots in (problem.shots, 1.0):
        A = np.reshape(shots / (2 * s2), (-1, 1, 1)) * (s2 * G)
        expected = problem.W - np.linalg.solve(np.eye(D) + A @ problem.H, A @ (problem.H @ problem.W - problem.C))
        if np.linalg.matrix_rank(G[0]) == D:
            Lambda = np.linalg.inv(A)
            np.testing.assert_allclose(
                np.linalg.solve(problem.H + Lambda, problem.C + Lambda @ problem.W), expected, rtol=1e-7, atol=1e-9
            )
        step = inner_step(problem.tasks, "auto", "implicit", prior, shots)
        moved, _, _ = step(problem.tasks, problem.W)
        np.testing.assert_allclose(moved, expected, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(step.size, shots / 2 * np.ones(M))


@pytest.mark.parametrize("kind", ["rows", "few rows", "statistics"])
@PRIORS
def test_one_row_is_predicted_best_by_either_step(kind, prior):
    """Kriging: w + Sigma x (y - x'w) / (s2 + x'Sigma x)."""
    problem, prior = Problem(kind, k=2, l2=0.0, n=1, unit=True), priors()[prior]
    s2 = prior.noise[0]
    Sigma, x = s2 * covariance_of(prior), problem.X.mT
    residual = problem.Y - problem.X @ problem.W
    expected = problem.W + Sigma @ x @ residual / (s2 + problem.X @ Sigma @ x)
    for adaptation in ("gradient", "implicit"):
        step = inner_step(problem.tasks, "auto", adaptation, prior, problem.tasks.weight)
        np.testing.assert_allclose(step(problem.tasks, problem.W)[0], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("loss", [squared_hinge_loss, hinge_loss, smooth_hinge_loss, logistic_loss, pinball_loss])
@PRIORS
def test_learned_metric_with_other_losses(loss, prior):
    """In units of the working curvature: with c of a row in place of the 2 of the squared loss."""
    for kind in ("rows", "sparse rows"):
        problem, known = Problem(kind, loss=loss, k=2), priors()[prior]
        y, G = problem.Y, covariance_of(known)
        slope = SLOPES.get(loss, lambda y, z: np.where(y * z < 1, -y, 0.0))
        c = ((slope(y, y) - slope(y, 0 * y)) / y).max(axis=2, keepdims=True)
        root, mean = root_of(G), np.sum(problem.share * c, axis=(1, 2))
        H = problem.X.mT @ (problem.share * c * problem.X)
        curvature = largest(root @ H @ root) + largest(root @ (problem.penalty * root))
        explicit = inner_step(problem.tasks, "auto", "gradient", known, problem.shots)
        np.testing.assert_allclose(explicit.size, 1 / (mean / problem.shots + curvature), rtol=1e-9)
        gradient = problem.tasks.gradient(problem.W)
        expected = problem.W - explicit.size[:, None, None] * (G @ gradient)
        np.testing.assert_allclose(explicit(problem.tasks, problem.W)[0], expected, rtol=1e-9, atol=1e-11)
        if loss is not hinge_loss:
            implicit = inner_step(problem.tasks, "auto", "implicit", known, problem.shots)
            np.testing.assert_allclose(implicit.size, problem.shots / mean, rtol=1e-9)


def test_loss_without_curvature_has_nowhere_to_go():
    """A slope that is the same everywhere: the step is zero, not infinite."""

    def linear(y, z):
        return y * z, y * np.ones_like(z), np.zeros_like(z)

    problem = Problem(loss=logistic_loss)
    tasks = LinearTasks(problem.X, problem.Y, problem.share[..., 0], linear, problem.penalty)
    for adaptation in ("gradient", "implicit"):
        step = inner_step(tasks, "auto", adaptation, priors()["level"], 5.0)
        np.testing.assert_array_equal(step.size, 0)
        np.testing.assert_array_equal(step(tasks, problem.W)[0], problem.W)


@ANY_KIND
@ADAPTATIONS
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_without_a_prior_the_step_is_within_the_bound_of_the_paper(kind, adaptation, l2):
    """1 / (2 L_i); none for a task that is flat."""
    problem = Problem(kind, k=2, l2=l2)
    L = largest(problem.data) + l2
    step = inner_step(problem.tasks, "auto", adaptation)
    np.testing.assert_allclose(step.size, 1 / (2 * L), rtol=1e-10)
    a = 1 / (2 * L)[:, None, None]
    gradient = problem.H @ problem.W - problem.C
    move = a * gradient if adaptation == "gradient" else np.linalg.solve(np.eye(D) / a + problem.H, gradient)
    np.testing.assert_allclose(step(problem.tasks, problem.W)[0], problem.W - move, rtol=1e-9, atol=1e-11)
    X = problem.X.copy()
    X[0] = 0
    flat = KINDS[kind](X, problem.Y, problem.share[..., 0], squared_loss, np.zeros((D, 1)))
    step = inner_step(flat, "auto", adaptation)
    assert step.size[0] == 0 < step.size[1]
    moved, _, _ = step(flat, problem.W)
    np.testing.assert_array_equal(moved[0], problem.W[0])
    assert np.all(np.isfinite(moved))


@ADAPTATIONS
@pytest.mark.parametrize("prior", [None, "level", "each"])
@pytest.mark.parametrize("loss", SLOPES, ids=lambda loss: loss.__name__)
def test_adaptation_of_a_task_does_not_depend_on_the_others(loss, adaptation, prior):
    """Nor on their number or order."""
    problem, prior = Problem(loss=loss, k=2), prior and priors()[prior]
    problem.Y[1, :3] = 0
    weight = problem.share[..., 0] * 7

    def adapted(numbers):
        tasks = LinearTasks(problem.X[numbers], problem.Y[numbers], weight[numbers], loss, problem.penalty)
        step = inner_step(tasks, "auto", adaptation, prior and prior.of_tasks(numbers), tasks.weight)
        return adapt(tasks, problem.W[numbers], step, 2)[0]

    together = adapted(np.arange(M))
    np.testing.assert_allclose(adapted(np.array([2, 0])), together[[2, 0]], rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(adapted(np.array([1])), together[[1]], rtol=1e-9, atol=1e-10)


# one proximal step, any loss


METRICS = {
    "number": (0.4, None),
    "per parameter": (np.array([0.1, 2.0, 0.0, 0.4]), None),
    "without prior": ("auto", None),
    **{name: ("auto", prior) for name, prior in priors().items()},
}
PROXIMAL = pytest.mark.parametrize(
    ("kind", "metric"),
    [
        *(("rows", name) for name in METRICS if name not in ("diagonal", "of other covariance")),
        ("sparse rows", "level"),
    ],
)


def proximal(problem, metric):
    """The step, and the dense matrices A_i."""
    step_size, prior = METRICS[metric]
    step = inner_step(problem.tasks, step_size, "implicit", prior, problem.shots)
    if prior is not None:
        return step, step.size[:, None, None] * covariance_of(prior)
    a = step.size[:, None, None] if isinstance(step_size, str) else np.reshape(step_size, (-1, 1))
    return step, a * np.ones((M, D, 1)) * np.eye(D)


@pytest.mark.parametrize("loss", SLOPES, ids=lambda loss: loss.__name__)
@PROXIMAL
def test_proximal_step_is_stationary(loss, kind, metric):
    """w' - w + A grad f(w') = 0; that point is the only one, as f is convex."""
    problem = Problem(kind, loss=loss, k=2)
    step, A = proximal(problem, metric)
    assert isinstance(step, ProximalStep)
    for far in (1, 30):
        W = far * problem.W
        moved, _, _ = step(problem.tasks, W)
        residual = moved - W + A @ problem.gradient(moved)
        assert np.abs(residual).max() < 1e-9 * np.abs(A @ problem.gradient(W)).max()
    again, _, _ = step(problem.tasks, moved - A @ -problem.gradient(moved))  # the step that leads to the same point
    np.testing.assert_allclose(again, moved, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("loss", SLOPES, ids=lambda loss: loss.__name__)
@PROXIMAL
def test_derivative_of_a_proximal_step(loss, kind, metric):
    """dw' = dw - P (Hess f) dw."""
    problem = Problem(kind, loss=loss, k=2)
    step, _ = proximal(problem, metric)
    h = 1e-5
    _, hessp, product = step(problem.tasks, problem.W)
    ahead, behind = (step(problem.tasks, problem.W + s * h * problem.V)[0] for s in (1, -1))
    expected = (ahead - behind) / (2 * h)
    np.testing.assert_allclose(problem.V - product(hessp(problem.V)), expected, rtol=1e-5, atol=1e-6)


def test_proximal_step_of_a_quadratic_needs_no_matrices():
    """Too many features for d x d numbers: rows of the squared loss go by conjugate gradients."""
    problem, prior = Problem(k=2), priors()["level"]
    one, other = (
        inner_step(tasks, "auto", "implicit", prior, problem.shots)
        for tasks in (problem.tasks, summed_up(problem.tasks))
    )
    assert isinstance(one, ProximalStep)
    assert isinstance(other, EulerStep)
    moved, hessp, product = one(problem.tasks, problem.W)
    expected, hessp_, product_ = other(summed_up(problem.tasks), problem.W)
    np.testing.assert_allclose(moved, expected, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(product(problem.V), product_(problem.V), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(hessp(problem.V), hessp_(problem.V), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("loss", [squared_hinge_loss, smooth_hinge_loss, logistic_loss])
def test_proximal_step_from_far_away_and_with_large_steps(loss):
    """Newton's method from where the loss is straight, and nearly without the term that keeps it near."""
    problem = Problem(loss=loss)
    for a, far in ((1e3, 1.0), (1e-3, 1e3), (1e2, 1e2)):
        step = inner_step(problem.tasks, a, "implicit")
        W = far * problem.W
        moved, _, _ = step(problem.tasks, W)
        size = np.abs(a * problem.gradient(W)).max() + np.abs(W).max()
        assert np.abs(moved - W + a * problem.gradient(moved)).max() < 1e-9 * size


def test_proximal_step_of_a_loss_with_sharp_corners():
    """Newton's method meets a new piece of the loss nearly everywhere, and gets there all the same."""

    def sharp(y, z):
        r = 100 * (y - z)
        side, near = np.where(r >= 0, 0.3, 0.7), np.abs(r) < 1
        return side * np.where(near, r * r / 2, np.abs(r) - 0.5) / 100, -side * np.clip(r, -1, 1), 100 * side * near

    rng = np.random.default_rng(5)
    X, Y, W = rng.normal(size=(8, 20, 20)), rng.normal(size=(8, 20, 1)), rng.normal(size=(8, 20, 1))
    tasks = LinearTasks(X, Y, np.ones((8, 20)), sharp, np.zeros((20, 1)))
    moved, _, _ = inner_step(tasks, 100.0, "implicit")(tasks, W)
    gradient = X.mT @ sharp(Y, X @ moved)[1] / 20
    np.testing.assert_allclose(moved - W, -100 * gradient, rtol=1e-7, atol=1e-7)


def test_proximal_step_that_is_not_reached_says_so(monkeypatch):
    problem = Problem(loss=smooth_hinge_loss)
    monkeypatch.setattr(steps_module, "NEWTON_STEPS", 1)
    with pytest.warns(ConvergenceWarning, match="inner_step_size"):
        inner_step(problem.tasks, 3.0, "implicit")(problem.tasks, problem.W)


# F with implicit steps


def implicit_loss(problem, metric, n_steps, **options):
    step, _ = proximal(problem, metric)
    if problem.loss is squared_loss:
        options["structure"] = "quadratic"
    return MAMLLoss([problem.tasks], n_steps=n_steps, steps=[step], **options)


@pytest.mark.parametrize(
    ("kind", "loss"), [("rows", loss) for loss in SLOPES] + [("few rows", squared_loss), ("statistics", squared_loss)]
)
@pytest.mark.parametrize(("n_steps", "metric"), [(1, "full"), (3, "level"), (2, "per parameter")])
def test_gradient_of_the_loss_after_implicit_steps(kind, loss, n_steps, metric):
    """Value: the mean loss where the steps lead. Gradient: finite differences of the value."""
    problem = Problem(kind, loss=loss, k=2)
    F = implicit_loss(problem, metric, n_steps)
    step, _ = proximal(problem, metric)
    w, v = problem.W[0], problem.V[0]
    W = np.tile(w, (M, 1, 1))
    for _ in range(n_steps):
        W, _, _ = step(problem.tasks, W)
    np.testing.assert_allclose(F.value(w), np.mean([problem.f(i, W[i]) for i in range(M)]), rtol=1e-10)
    slope = (
        approx_fprime([0.0], lambda t: F.value(w + t * v), 1e-6),
        approx_fprime([0.0], lambda t: F.value(w - t * v), 1e-6),
    )
    np.testing.assert_allclose(np.sum(F.gradient(w) * v), (slope[0] - slope[1])[0] / 2, rtol=1e-6, atol=1e-8)
    first = implicit_loss(problem, metric, n_steps, first_order=True)
    np.testing.assert_allclose(first.gradient(w), problem.gradient(W).mean(axis=0), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("kind", "loss"),
    [(kind, squared_loss) for kind in ("rows", "few rows", "statistics")] + [("sparse rows", logistic_loss)],
)
@pytest.mark.parametrize(("n_steps", "metric"), [(1, "full"), (3, "number")])
@pytest.mark.parametrize("first_order", [False, True])
def test_hessp_of_the_loss_after_implicit_steps(kind, loss, n_steps, metric, first_order):
    problem = Problem(kind, loss=loss, k=2)
    F = implicit_loss(problem, metric, n_steps, first_order=first_order)
    w, v, h = problem.W[0], problem.V[0], 1e-4
    expected = (F.gradient(w + h * v) - F.gradient(w - h * v)) / (2 * h)
    np.testing.assert_allclose(F.hessp(w, v), expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


# F of quadratic tasks in any metric, with a share of f, is one quadratic


def maml_by_hand(problem, A, adaptation, n_steps, first_order, w):
    """F(w) and its gradient (3.1), its Hessian, by dense matrices for one task at a time."""
    value, gradient, hessian = 0.0, np.zeros(w.shape), np.zeros((D, D))
    for i, (H, C) in enumerate(zip(problem.H, problem.C, strict=True)):
        P = A[i] if adaptation == "gradient" else np.linalg.solve(np.eye(D) + A[i] @ H, A[i])
        u, J = w, np.eye(D)
        for _ in range(n_steps):
            u, J = u - P @ (H @ u - C), (np.eye(D) - P @ H) @ J
        left = np.eye(D) if first_order else J.T
        value += problem.f(i, u) / M
        gradient += left @ (H @ u - C) / M
        hessian += left @ H @ J / M
    return value, gradient, hessian


def matrices(problem, prior, adaptation, shots):
    """A_i, written out once more."""
    if prior is None:
        A = np.diag([0.1, 0.02, 0.0, 0.3])
        return A * np.ones((M, 1, 1))
    G = covariance_of(prior)
    if adaptation == "implicit":
        return shots / 2 * G
    root = root_of(G)
    curvature = largest(root @ problem.data @ root) + largest(root @ (problem.penalty * root))
    return G / (2 / shots + curvature)[:, None, None]


@pytest.mark.parametrize(
    ("kind", "n", "l2"),
    [("rows", 6, 0.3), ("few rows", 2, 0.0), ("few rows", 3, 0.3), ("few sparse rows", 2, 0.3), ("statistics", 6, 0.3)],
)
@ADAPTATIONS
@pytest.mark.parametrize("prior", [None, "some do not vary", "full"])
def test_share_of_the_loss_before_adaptation(kind, n, l2, adaptation, prior):
    """F + share f by value, gradient, Hessian product, bound and cost; collapsed it is one quadratic."""
    problem, prior = Problem(kind, k=2, l2=l2, n=n), priors().get(prior)
    step_size, share, shots = ("auto" if prior else np.array([0.1, 0.02, 0.0, 0.3])), 0.25, 1.5
    step = inner_step(problem.tasks, step_size, adaptation, prior, shots)
    A, w, v = matrices(problem, prior, adaptation, shots), problem.W[0], problem.V[0]
    pooled = maml_by_hand(problem, A, adaptation, 0, False, w)
    for n_steps in (1, 2, 3):
        options = {"n_steps": n_steps, "steps": [step], "structure": "quadratic"}
        F = MAMLLoss([problem.tasks], zero_shot=share, **options)
        by_hand = maml_by_hand(problem, A, adaptation, n_steps, False, w)
        expected = [a + share * b for a, b in zip(by_hand, pooled, strict=True)]
        value, gradient, hessp = F.expand(w)
        np.testing.assert_allclose(value, expected[0], rtol=1e-9)
        np.testing.assert_allclose(gradient, expected[1], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(hessp(v), expected[2] @ v, rtol=1e-8, atol=1e-10)
        assert F.smoothness() >= largest(expected[2]) * (1 - 1e-12)
        assert (F.n_gradients, F.n_hessp) == (n_steps + 2, n_steps + (2 * n_steps + 2))
        first = MAMLLoss([problem.tasks], zero_shot=share, first_order=True, **options)
        by_hand = maml_by_hand(problem, A, adaptation, n_steps, True, w)
        np.testing.assert_allclose(first.gradient(w), by_hand[1] + share * pooled[1], rtol=1e-8, atol=1e-10)
        if kind == "rows":
            continue
        for first_order, truth in ((False, F), (True, first)):
            one = collapse(problem.tasks, step, n_steps, first_order).plus(collapse(problem.tasks, None, 0), share)
            one = OneQuadratic(one)
            assert one.is_one_quadratic
            for at in (w, 100 * v):
                np.testing.assert_allclose(one.gradient(at), truth.gradient(at), rtol=1e-8, atol=1e-9)
                np.testing.assert_allclose(one.value(at), truth.value(at), rtol=1e-9)
            np.testing.assert_allclose(one.hessp(w, v), truth.hessp(w, v), rtol=1e-8, atol=1e-9)
            np.testing.assert_allclose(one.scale, np.diagonal(problem.H, axis1=1, axis2=2).mean(axis=0), rtol=1e-12)


@ADAPTATIONS
@pytest.mark.parametrize("loss", [smooth_hinge_loss, squared_hinge_loss])
@pytest.mark.parametrize("first_order", [False, True])
def test_share_of_other_losses(loss, adaptation, first_order):
    problem = Problem(loss=loss, k=2)
    step = inner_step(problem.tasks, "auto", adaptation, priors()["level"], 1.0)
    structure = "differentiable" if loss is squared_hinge_loss else "smooth"
    options = {"n_steps": 2, "steps": [step], "first_order": first_order, "structure": structure}
    both, F = (MAMLLoss([problem.tasks], zero_shot=share, **options) for share in (0.25, 0.0))
    f = MAMLLoss([problem.tasks], structure=structure)
    w, v = problem.W[0], problem.V[0]
    np.testing.assert_allclose(both.value(w), F.value(w) + 0.25 * f.value(w), rtol=1e-12)
    np.testing.assert_allclose(both.gradient(w), F.gradient(w) + 0.25 * f.gradient(w), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(both.hessp(w, v), F.hessp(w, v) + 0.25 * f.hessp(w, v), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(both.smoothness(), F.smoothness() + 0.25 * f.smoothness(), rtol=1e-12)


def test_share_is_the_same_in_several_stacks_and_threads():
    one, other = Problem(k=2), Problem("few rows", k=2, n=2, seed=1)
    prior = priors()["full"]
    stacks = [one.tasks, other.tasks]
    steps = [inner_step(tasks, "auto", "gradient", prior, 1.0) for tasks in stacks]
    options = {"n_steps": 2, "structure": "quadratic", "zero_shot": 0.25}
    F = MAMLLoss(stacks, steps=steps, **options)
    w = one.W[0]
    parts = [MAMLLoss([tasks], steps=[step], **options) for tasks, step in zip(stacks, steps, strict=True)]
    for same in (F, MAMLLoss(stacks, steps=steps, n_jobs=2, **options)):
        np.testing.assert_allclose(same.value(w), np.mean([part.value(w) for part in parts]), rtol=1e-12)
        np.testing.assert_allclose(same.gradient(w), np.mean([part.gradient(w) for part in parts], axis=0), rtol=1e-11)
        np.testing.assert_allclose(same.smoothness(), np.mean([part.smoothness() for part in parts]), rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
@ADAPTATIONS
@pytest.mark.parametrize("prior", [None, "some do not vary", "full", "each"])
def test_smoothness_bounds_the_hessian(seed, adaptation, prior):
    """Of quadratics, however large the prior and however many rows are reckoned with."""
    for kind, n, l2 in (("few rows", 2, 0.0), ("statistics", 9, 0.0), ("statistics", 9, 3.0)):
        problem = Problem(kind, n=n, l2=l2, seed=seed)
        for shots in (0.1, 1.0, 1e3):
            step = inner_step(problem.tasks, "auto", adaptation, priors().get(prior), shots)
            for n_steps in (1, 2):
                for first_order in (False, True):
                    A = OneQuadratic(collapse(problem.tasks, step, n_steps, first_order)).A
                    F = MAMLLoss([problem.tasks], n_steps=n_steps, steps=[step], first_order=first_order)
                    assert np.abs(np.linalg.eigvalsh(A)).max() <= F.smoothness() * (1 + 1e-12)


@ADAPTATIONS
@pytest.mark.parametrize("loss", [smooth_hinge_loss, squared_hinge_loss, logistic_loss])
@pytest.mark.parametrize("prior", [None, "level", "full"])
def test_smoothness_bounds_the_hessian_of_other_losses(loss, adaptation, prior):
    """Without the terms of third derivatives, of which the bound knows nothing."""
    problem = Problem(loss=loss)
    step = inner_step(problem.tasks, "auto", adaptation, priors().get(prior), problem.shots)
    F = MAMLLoss([problem.tasks], n_steps=1, steps=[step], structure="differentiable")
    bound = F.smoothness()
    for far in (0.2, 1):
        for w in far * problem.W:
            _, _, hessp = F.expand(w)
            A = np.hstack([hessp(e[:, None]) for e in np.eye(D)])
            assert np.abs(np.linalg.eigvalsh((A + A.T) / 2)).max() <= bound * (1 + 1e-9)


def test_statistics_are_the_rows_in_any_metric():
    """Collapsed tasks cannot be told apart by the form they had: in training and in adapting."""
    for prior in priors().values():
        for adaptation in ("gradient", "implicit"):
            moved = []
            for kind in ("rows", "few rows", "few sparse rows", "statistics"):
                problem = Problem(kind, k=2, n=3)
                step = inner_step(problem.tasks, "auto", adaptation, prior, problem.shots)
                moved.append(adapt(problem.tasks, problem.W, step, 2)[0])
            for same in moved[1:]:
                np.testing.assert_allclose(same, moved[0], rtol=1e-9, atol=1e-10)
    assert isinstance(problem.tasks, QuadraticTasks)
