"""Descent across kinks: functions whose minima and subdifferentials are known."""

import numpy as np
import pytest
from scipy.optimize import minimize

from sklearn_maml.kinks import _shortest_in_hull, step_across_kinks


def absolute(weights):
    """sum_j weights_j |x_j|; at 0 from the right."""
    weights = np.asarray(weights)
    return lambda x: (weights @ np.abs(x), weights * np.where(x >= 0, 1.0, -1.0))


def test_no_way_down_from_a_minimum():
    lower, shortest = step_across_kinks(absolute([1.0, 2.0, 0.1]), np.zeros(3), 1e-9)
    assert lower is None
    assert shortest < 1e-9


def test_way_along_a_valley():
    """At (1, 0) the gradient (1, 50) points across the valley; the way down is along it."""
    fun = absolute([1.0, 50.0])
    x = np.array([1.0, 0.0])
    value, gradient = fun(x)
    assert all(fun(x - step * gradient)[0] > value for step in 10.0 ** -np.arange(1, 9))
    lower, shortest = step_across_kinks(fun, x, 1e-9)
    assert fun(lower)[0] < value
    assert shortest == pytest.approx(1, rel=1e-3)


def test_smooth_function_is_steepest_descent():
    def fun(x):
        return x @ x, 2 * x

    x = np.array([3.0, 4.0])
    lower, shortest = step_across_kinks(fun, x, 1e-9)
    np.testing.assert_allclose(lower, x - 1e-2 * (1 + 5) * x / 5)
    assert shortest == pytest.approx(10)
    lower, shortest = step_across_kinks(fun, np.zeros(2), 1e-9)
    assert lower is None
    assert shortest == 0


@pytest.mark.parametrize("seed", range(5))
def test_shortest_vector_in_a_hull(seed):
    vectors = np.random.default_rng(seed).normal(size=(4, 6)) + 0.7
    truth = minimize(
        lambda p: np.sum((p @ vectors) ** 2),
        np.full(4, 0.25),
        bounds=[(0, 1)] * 4,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
        options={"ftol": 1e-14},
    )
    np.testing.assert_allclose(_shortest_in_hull(vectors), truth.x @ vectors, atol=1e-5)


def test_shortest_vector_that_is_zero():
    np.testing.assert_allclose(_shortest_in_hull(np.array([[1.0, 0.0], [-2.0, 0.0], [5.0, 3.0]])), 0, atol=1e-12)
