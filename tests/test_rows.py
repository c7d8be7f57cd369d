"""Stacks built from the rows of a table against loops over its tasks, each picked out by a mask."""

import numpy as np
import pytest
from scipy import sparse
from test_tasks import loops

from sklearn_maml import rows as rows_module
from sklearn_maml.losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss, squared_loss
from sklearn_maml.rows import TaskRows
from sklearn_maml.tasks import FewRowTasks, LinearTasks, QuadraticTasks, stays_rows

INTERCEPT = pytest.mark.parametrize("fit_intercept", [True, False], ids=["intercept", "no intercept"])
FORM = pytest.mark.parametrize("form", [np.asarray, sparse.csr_array, sparse.csr_matrix, np.float32])
SIZES = [1, 7, 3, 1, 12, 4, 3, 30, 1, 5, 11, 6]


class Table:
    """Rows of tasks of the given sizes, in random order; `task(i)` is task i picked out by a mask."""

    def __init__(self, form=np.asarray, sizes=SIZES, loss=squared_loss, fit_intercept=True, l2=0.3, n_features=3, k=2):
        rng = np.random.default_rng(6)
        self.codes = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
        n = len(self.codes)
        X = np.where(rng.random((n, n_features)) < 0.7, rng.normal(size=(n, n_features)), 0).astype(np.float32)
        self.given = form(X)
        self.Y = rng.normal(size=(n, k))
        if loss is not squared_loss:
            self.Y = np.sign(self.Y)
        self.weight = rng.uniform(0.5, 2, n)
        self.loss = loss
        self.X = X.astype(float)
        self.penalty = np.full((n_features, 1), l2)
        if fit_intercept:
            self.X = np.c_[self.X, np.ones(n)]
            self.penalty = np.vstack([self.penalty, [[0.0]]])
        self.rows = TaskRows(self.given, self.Y, self.weight, self.codes, loss, l2, fit_intercept)
        self.W, self.V = (
            rng.normal(size=(len(sizes), n_features + fit_intercept, k)),
            rng.normal(size=(len(sizes), n_features + fit_intercept, k)),
        )

    def task(self, i):
        mine = self.codes == i
        return self.X[None, mine], self.Y[None, mine], self.weight[None, mine], self.loss, self.penalty

    def check(self, stack, tasks):
        """The stack's tasks are those of the table."""
        W, V = self.W[tasks], self.V[tasks]
        value, gradient, hessp = stack.expand(W)
        for i, v, g, p in zip(tasks, value, gradient, hessp(V), strict=True):
            own = loops(*self.task(i), self.W[[i]])
            np.testing.assert_allclose(v, own[0][0], rtol=1e-11)
            np.testing.assert_allclose(g, own[1][0], rtol=1e-11, atol=1e-12)
            np.testing.assert_allclose(p, np.einsum("kde,ek->dk", own[2][0], self.V[i]), rtol=1e-11, atol=1e-12)
        weight = [self.weight[self.codes == i].sum() for i in tasks]
        np.testing.assert_allclose(stack.weight, weight)


@FORM
@INTERCEPT
@pytest.mark.parametrize("structure", ["one quadratic", "smooth"])
@pytest.mark.parametrize("limit", [20, 100, 1_000_000])
def test_stacks_of_ragged_tasks(monkeypatch, form, fit_intercept, structure, limit):
    monkeypatch.setattr(rows_module, "NUMBERS_PER_STACK", limit)
    monkeypatch.setattr(rows_module, "NUMBERS_IN_CACHE", limit)
    table = Table(form, fit_intercept=fit_intercept)
    assert table.rows.shape == (len(SIZES), 3 + fit_intercept, 2)
    stacks = table.rows.stacks(structure)
    np.testing.assert_array_equal(np.sort(np.concatenate([tasks for tasks, _ in stacks])), np.arange(len(SIZES)))
    for tasks, build in stacks:
        stack = build()
        few_rows = stays_rows(max(SIZES[i] for i in tasks), table.rows.n_parameters, True)
        kind = LinearTasks if structure == "smooth" else FewRowTasks if few_rows else QuadraticTasks
        assert type(stack) is kind
        table.check(stack, tasks)


@pytest.mark.parametrize(
    ("n", "d", "penalised", "rows"),
    [
        (1, 1, False, False),
        (1, 2, False, True),
        (30, 200, False, True),
        (50, 60, False, True),
        (56, 60, False, False),
        (60, 60, False, False),
        (500, 50, False, False),
        (1, 4, True, True),
        (2, 4, True, False),
        (30, 200, True, True),
        (80, 200, True, False),
    ],
)
def test_route(n, d, penalised, rows):
    """By the multiplications: without a penalty 2 n^2 d + n d^2 against n d^2 / 2 + 2 d^3, which meet at n = .88 d."""
    assert stays_rows(n, d, penalised) == rows
    if not penalised:
        assert rows == (n < (np.sqrt(16.25) - 0.5) / 4 * d)


@FORM
@pytest.mark.parametrize("loss", [hinge_loss, squared_hinge_loss, smooth_hinge_loss])
def test_stacks_of_any_loss(form, loss):
    table = Table(form, loss=loss)
    for tasks, build in table.rows.stacks("smooth"):
        table.check(build(), tasks)


@FORM
@INTERCEPT
def test_all_statistics_are_in_task_order(monkeypatch, form, fit_intercept):
    monkeypatch.setattr(rows_module, "NUMBERS_IN_CACHE", 60)
    table = Table(form, fit_intercept=fit_intercept)
    table.check(table.rows.all_statistics(), np.arange(len(SIZES)))


@pytest.mark.parametrize(
    ("form", "stays_sparse"),
    [(np.asarray, False), (np.asarray, True), (sparse.csr_array, False), (sparse.csr_array, True)],
)
@pytest.mark.parametrize("limit", [400, 2000])
def test_stack_size(monkeypatch, form, stays_sparse, limit):
    """A stack holds at most so many numbers (of sparse rows about so many); few stacks, and little padding in each.

    Sparse rows of few features count as dense ones: the metric makes them dense.
    """
    if stays_sparse:
        monkeypatch.setattr(rows_module, "LARGEST_METRIC", 4)
    sizes = np.random.default_rng(7).integers(1, 40, 200)
    monkeypatch.setattr(rows_module, "NUMBERS_PER_STACK", limit)
    table = Table(form, sizes=sizes, n_features=4)
    stacks = table.rows.stacks("smooth")
    assert len(stacks) < 100
    for tasks, _ in stacks:
        longest = sizes[tasks].max()
        assert longest <= 1.25 * sizes[tasks].min()
        if form is np.asarray or not stays_sparse:
            assert len(tasks) * longest * 5 <= limit
        else:
            assert sum(np.count_nonzero(table.task(i)[0]) for i in tasks) <= 1.3 * limit


@FORM
@INTERCEPT
def test_task_larger_than_a_stack_is_summed_in_parts(monkeypatch, form, fit_intercept):
    table = Table(form, sizes=[2, 57, 3], fit_intercept=fit_intercept)
    monkeypatch.setattr(rows_module, "NUMBERS_IN_CACHE", 40)
    take, parts = table.rows._features, []
    monkeypatch.setattr(table.rows, "_features", lambda rows: parts.append(rows.size) or take(rows))
    (build,) = (build for tasks, build in table.rows.stacks("one quadratic") if 1 in tasks)
    stack = build()
    assert sum(parts) == 57
    assert len(parts) >= 4
    assert (max(parts) - 1) * table.rows.n_parameters < 40
    table.check(stack, [1])


@pytest.mark.parametrize(("l2", "sizes"), [(0.0, [20, 20, 10]), (0.3, [5] * 10)])
def test_one_row_tasks(monkeypatch, l2, sizes):
    """Many at once: as many as fit in a stack, with a d x d matrix for each if there is a penalty."""
    table = Table(sizes=[1] * 50, l2=l2)
    monkeypatch.setattr(rows_module, "NUMBERS_IN_CACHE", 80)
    stacks = table.rows.stacks("one quadratic")
    assert [len(tasks) for tasks, _ in stacks] == sizes
    for tasks, build in stacks:
        stack = build()
        assert isinstance(stack, FewRowTasks)
        table.check(stack, tasks)


@FORM
@INTERCEPT
def test_same_rows_with_the_squared_loss(form, fit_intercept):
    """The labels are then targets; there is no penalty, and the rows themselves stay as they are."""
    table = Table(form, loss=hinge_loss, fit_intercept=fit_intercept)
    squared = table.rows.with_squared_loss()
    assert table.rows.loss is hinge_loss
    np.testing.assert_array_equal(table.rows.penalty, table.penalty)
    assert squared.shape == table.rows.shape
    table.loss, table.penalty = squared_loss, 0 * table.penalty
    table.check(squared.all_statistics(), np.arange(len(SIZES)))
    for tasks, build in squared.stacks("one quadratic"):
        table.check(build(), tasks)


def test_order_of_rows_does_not_matter():
    table = Table()
    order = np.random.default_rng(8).permutation(len(table.codes))
    rows = TaskRows(
        table.given[order], table.Y[order], table.weight[order], table.codes[order], squared_loss, 0.3, True
    )
    table.check(rows.all_statistics(), np.arange(len(SIZES)))


def test_rows_are_computed_in_double_precision():
    """float32 features of size 1e4 lose half their digits when squared in float32."""
    table = Table(lambda X: np.float32(1e4) * X)
    X = table.given.astype(float)
    mine = table.codes == 7
    scaled = np.sqrt(table.weight[mine] / table.weight[mine].sum())[:, None] * X[mine]
    (H,) = table.rows.statistics(np.array([7])).H
    np.testing.assert_allclose(H[:3, :3], 2 * scaled.T @ scaled, rtol=1e-9)
