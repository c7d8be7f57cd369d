"""The experiment on the paper's claims, at a small scale: its targets, and that its own check would notice."""

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import approx_fprime

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "experiments" / "paper.py"


@pytest.fixture(scope="module")
def paper():
    """The script as a module; pictures go nowhere but to files."""
    import matplotlib

    matplotlib.use("agg")
    spec = importlib.util.spec_from_file_location("paper", PATH)
    module = sys.modules["paper"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["paper"]


@pytest.mark.parametrize("n_inner_steps", [0, 1, 3])
@pytest.mark.parametrize("make", ["regression", "svm", "diabetes"])
def test_gradients_are_those_of_the_values(paper, make, n_inner_steps):
    """Finite differences."""
    problem = getattr(paper, make)(0)
    losses, w = paper.Losses(problem.estimator, *problem.rows), problem.estimator.init
    expected = approx_fprime(w, lambda w: losses.at(w, n_inner_steps)[0])
    assert_allclose(losses.at(w, n_inner_steps)[1], expected, rtol=1e-4, atol=1e-4)


def test_first_order_leaves_the_hessian_out(paper):
    """With the plain hinge, which has none, that changes nothing."""
    problem = paper.svm(0, n_tasks=5, loss="hinge")
    losses, w = paper.Losses(problem.estimator, *problem.rows), problem.estimator.init
    assert_allclose(paper.first_order(losses, w, 1), losses.at(w, 1)[1])


def test_diabetes_is_the_sum_loss(paper):
    X, y, groups = paper.load_diabetes_tasks(return_X_y_groups=True)
    y = (y - y.mean()) / y.std()
    problem = paper.diabetes(0)
    w = problem.estimator.init
    expected = np.mean([np.sum((y[groups == t] - X[groups == t] @ w) ** 2) for t in np.unique(groups)])
    assert_allclose(paper.Losses(problem.estimator, *problem.rows).at(w, 0)[0], expected)


def test_diabetes_centred_without_the_new_task(paper):
    """The rows to learn from have mean zero, as they were before they were multiplied; the tasks are the same."""
    X, _, groups = paper.load_diabetes_tasks(return_X_y_groups=True)
    problem, centred = paper.diabetes(0), paper.diabetes(0, centred_on_training=True)
    for (_, plain, _), (old, other, new) in zip(problem.new, centred.new, strict=True):
        assert_allclose(other[0].mean(axis=0), 0, atol=1e-12)
        assert_allclose(other[1].mean(), 0, atol=1e-12)
        assert abs(plain[1].mean()) > 1e-3
        sizes = np.array([np.sum(groups == task) for task in other[2]])
        assert_allclose(old[0], other[0] * np.sqrt(sizes)[:, None])
        assert_allclose(old[1], other[1] * np.sqrt(sizes))
        [task] = np.unique(new[2])
        assert_allclose(np.ptp(new[0], axis=0), np.ptp(X[groups == task], axis=0))


def test_one_variance_adapts_all_coefficients_alike(paper):
    """By SHOTS / 2 gradients times the mean of the variances, in units of the noise."""
    X, y, groups = paper.svm(0, n_tasks=5, n_samples=60).rows
    model = paper.MAMLSVC().fit(X, y, groups=groups)
    variances = np.diag(model.task_covariance_)[:20]
    assert variances.max() > 2 * variances.mean()
    adapted = paper.one_variance(model).adapt(X[:5], y[:5])
    margin = y[:5] * (X[:5] @ model.coef_[0] + model.intercept_)
    gradient = -2 * X[:5].T @ (y[:5] * np.maximum(1 - margin, 0)) / 5 + model.l2_regularization_ * model.coef_[0]
    assert_allclose(adapted.coef_[0], model.coef_[0] - 2.5 * variances.mean() / model.noise_variance_ * gradient)


def test_wrong_histories_are_noticed(paper, monkeypatch):
    problem = paper.regression(0)
    fitted = paper.fitted

    def wrong(*args, **parameters):
        model = fitted(*args, **parameters)
        model.history_["objective"][10] *= 1.001
        return model

    monkeypatch.setattr(paper, "fitted", wrong)
    with pytest.raises(AssertionError, match="Not equal"):
        paper.followed(problem, algorithm="maml")


def test_regression(paper):
    records = []
    for seed in range(6):
        problem = paper.regression(seed)
        least = paper.minimum(problem)[1]
        records.append(
            {name: paper.followed(problem, algorithm=name) for name in ("maml", "bimaml")} | {"least": least}
        )
    for k in (25, 50):
        assert all(each["bimaml"].F[k] < each["maml"].F[k] for each in records)
        assert all(each["bimaml"].norm[k] < each["maml"].norm[k] for each in records)
    left = {name: [paper.gap(each[name], each["least"])[25] for each in records] for name in ("maml", "bimaml")}
    assert 0.40 <= np.median(left["maml"]) <= 0.52
    assert 0.05 <= np.median(left["bimaml"]) <= 0.12
    assert records[0]["maml"].cost == 3 * 51
    switch = int(records[0]["bimaml"].switch)
    assert records[0]["bimaml"].cost == switch + 1 + 3 * (51 - switch)


def test_diabetes(paper):
    problem = paper.diabetes(3)
    least = paper.minimum(problem)[1]
    maml, bimaml = (paper.followed(problem, algorithm=name) for name in ("maml", "bimaml"))
    assert paper.gap(bimaml, least)[25] <= 0.25
    assert paper.gap(maml, least)[25] >= 0.30
    assert np.all(bimaml.falls[[25, 50]] < maml.falls[[25, 50]])
    flow = paper.flows(problem, "maml", maml, least)
    assert 0.003 < flow["coef"] < 0.01
    assert flow["gap"] < 0.003
    assert abs(paper.flows(problem, "bimaml", bimaml, least)["switch"] - bimaml.switch) < 1


def test_svm(paper):
    problem = paper.svm(0)
    maml, bimaml = (paper.followed(problem, algorithm=name) for name in ("maml", "bimaml"))
    assert bimaml.falls[30] < 0.13
    assert maml.falls[30] > 0.3
    plain = paper.svm(0, n_tasks=10, loss="hinge")
    models = [paper.fitted(plain, algorithm=name).coef_ for name in ("maml", "fomaml")]
    np.testing.assert_array_equal(*models)


def test_figure_1(paper, tmp_path):
    """Its rows hold, and F' and F'' are the derivatives of F."""
    assert all(row[1] for row in paper.figure_1(tmp_path))
    assert (tmp_path / "fig1.png").stat().st_size > 10_000
    F, w, h = paper.TwoTasks(0.4), np.linspace(0.2, 0.5, 7), 1e-6
    _, slope, curvature = F.derivatives(w)
    above, below = F.derivatives(w + h), F.derivatives(w - h)
    assert_allclose(slope, (above[0] - below[0]) / (2 * h), atol=1e-7)
    assert_allclose(curvature, (above[1] - below[1]) / (2 * h), atol=1e-4)


def test_table_and_figure_2_without_mnist(paper, tmp_path, monkeypatch, capsys):
    """A missing data set is said to be left out; claims that fail are printed as such."""
    monkeypatch.setattr(paper, "mnist_images", lambda: None)
    svm_records, diabetes = paper.svm_records, paper.diabetes
    monkeypatch.setattr(paper, "svm_records", lambda seed: svm_records(seed, n_tasks=5, n_samples=60))
    monkeypatch.setattr(paper, "diabetes", lambda *a, **k: replace(diabetes(*a, **k), new=diabetes(*a, **k).new[:1]))
    monkeypatch.setattr(paper, "figure_1", lambda output: [])
    paper.main(["--seeds", "1", "--jobs", "1", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert (tmp_path / "fig2.png").stat().st_size > 10_000
    assert "left out" in printed
    assert "| NO " in printed
    assert "| yes " in printed


def test_mnist(paper):
    """On made-up images: the tasks, and the switch where it was asked for."""
    rng = np.random.default_rng(0)
    digit = np.repeat(np.arange(10), 10)
    images = rng.random((100, 30)) + digit[:, None] % 2, digit, "made up"
    problem = paper.mnist(0, images, n_samples=10)
    assert len(problem.rows[0]) == 50
    runs = paper.race(problem, paper.switching_after(problem, 25))
    assert runs["bimaml"].switch == 25


def numbers(text):
    """Numbers with a decimal point, a fraction or a percent sign."""
    return re.findall(r"\d[\d.,e+]*/\d+|\d+\.\d+(?:e[+-]?\d+)?%?|\d+%", text)


def test_page_quotes_the_print_out():
    """Every number on the page is one of the print-out, or of an equation or a theorem."""
    page = (ROOT / "doc" / "algorithms.rst").read_text(encoding="utf-8")
    print_out = (ROOT / "experiments" / "paper.txt").read_text(encoding="utf-8")
    page = re.sub(r"(?s)\.\. math::.*?\n\n|:math:`[^`]*`|``[^`]*``", " ", page)
    page = re.sub(r"\(\d\.\d\)|(?:Theorems?|Lemma|and) \d\.\d+", " ", page)
    quoted = set(numbers(page.replace(" %", "%")))
    assert len(quoted) > 20
    assert quoted <= set(numbers(print_out)), quoted - set(numbers(print_out))


def test_print_out_has_the_seeds(paper):
    """At full scale: 50 of the regressions."""
    first = (ROOT / "experiments" / "paper.txt").read_text(encoding="utf-8").splitlines()[0]
    assert all(f"{name} {number}" in first for name, number in paper.SEEDS.items())
    assert paper.SEEDS["regression"] >= 50
