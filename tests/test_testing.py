"""`check_task_loss` accepts right losses, and says what is wrong with wrong ones and where."""

import re

import numpy as np
import pytest
from numpy.testing import assert_equal
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils import check_random_state
from third_party import MAMLLogisticRegression, MAMLQuantileRegressor

from sklearn_maml import MAMLSVC, BiMAMLMixin, MAMLRegressor
from sklearn_maml.svm import LOSSES
from sklearn_maml.testing import check_task_loss

RIGHT = [
    MAMLRegressor(),
    *(MAMLSVC(loss=loss) for loss in LOSSES),
    MAMLQuantileRegressor(),
    MAMLQuantileRegressor(quantile=0.9, delta=1.0),
    MAMLLogisticRegression(),
]


class Faulty(MAMLLogisticRegression):
    """Logistic regression with a fault built in: ``fault(z, value, slope, curvature)`` is what it returns."""

    def __init__(self, fault, task_structure="smooth"):
        super().__init__()
        self.fault = fault
        self.task_structure = task_structure

    def task_loss(self, y, z):
        return self.fault(z, *super().task_loss(y, z))


@pytest.mark.parametrize("estimator", RIGHT, ids=repr)
@pytest.mark.parametrize("random_state", [0, 1])
def test_accepts_right_losses(estimator, random_state):
    assert check_task_loss(estimator, random_state=random_state) is None


def test_leaves_estimator_and_random_state_alone():
    estimator = MAMLQuantileRegressor()
    numpy_global = check_random_state(None)  # the generator behind numpy.random.seed
    before, state = dict(vars(estimator)), numpy_global.get_state()
    check_task_loss(estimator)
    assert vars(estimator) == before
    assert_equal(numpy_global.get_state(), state)


FAULTS = {
    "sign of the slope": (lambda z, v, s, c: (v, -s, c), "slope is not the derivative"),
    "size of the slope": (lambda z, v, s, c: (v, 2 * s, 2 * c), "slope is not the derivative"),
    "slope by one per cent": (lambda z, v, s, c: (v, 1.01 * s, c), "slope is not the derivative"),
    "value": (lambda z, v, s, c: (v * v, s, c), "slope is not the derivative"),
    "sign of the curvature": (lambda z, v, s, c: (v, s, -c), "curvature is not the derivative"),
    "size of the curvature": (lambda z, v, s, c: (v, s, c / 2), "curvature is not the derivative"),
    "constant curvature": (lambda z, v, s, c: (v, s, np.asarray(0.25)), "curvature is not the derivative"),
    "curvature forgotten": (lambda z, v, s, c: (v, s, 0.0), "curvature is not the derivative"),
    "nan value": (lambda z, v, s, c: (np.where(z > 2, np.nan, v), s, c), "value is not finite"),
    "nan slope": (lambda z, v, s, c: (v, np.where(z > 2, np.nan, s), c), "slope is not finite"),
    "infinite curvature": (lambda z, v, s, c: (v, s, np.where(z > 2, np.inf, c)), "curvature is not finite"),
    "summed value": (lambda z, v, s, c: (v.sum(axis=1), s, c), "value has shape (1, 1)"),
    "flat slope": (lambda z, v, s, c: (v, s.ravel(), c), "slope has shape (1000,)"),
    "transposed curvature": (lambda z, v, s, c: (v, s, c.mT), "curvature has shape (1, 1, 1000)"),
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.values(), ids=FAULTS.keys())
def test_rejects_wrong_losses(fault, message):
    with pytest.raises(AssertionError, match=rf"^Faulty\.task_loss.*{re.escape(message)}"):
        check_task_loss(Faulty(fault))


@pytest.mark.parametrize(
    ("fault", "numbers"),
    [
        (lambda z, v, s, c: (v, np.where(z > 2, 3.0, s), c), "3 instead of"),
        (lambda z, v, s, c: (v, s, np.where(z > 2, 3.0, c)), "3 instead of"),
        (lambda z, v, s, c: (v, np.where(z > 2, np.nan, s), c), ""),
    ],
)
def test_says_where(fault, numbers):
    with pytest.raises(AssertionError) as error:
        check_task_loss(Faulty(fault))
    message = str(error.value)
    y, z = re.search(r" at y=(\S+), z=([^\s:]+)", message).groups()
    assert float(y) in (-1, 1)
    assert float(z) > 2
    assert numbers in message


def test_draws_enough_points_to_find_rare_faults():
    fault = Faulty(lambda z, v, s, c: (v, np.where(np.abs(z - 30) < 1, 0.0, s), c))
    with pytest.raises(AssertionError, match="slope"):
        check_task_loss(fault, n_points=10_000)


def test_rejects_a_false_quadratic():
    with pytest.raises(AssertionError, match=r"Faulty\.task_loss is called quadratic.*one number.*\(1, 1000, 1\)"):
        check_task_loss(Faulty(lambda z, *loss: loss, task_structure="quadratic"))


def test_rejects_a_false_quadratic_with_one_number():
    """Here the curvature has the right shape and is the wrong number."""
    with pytest.raises(AssertionError, match="curvature is not the derivative"):
        check_task_loss(Faulty(lambda z, v, s, c: (v, s, np.asarray(0.25)), task_structure="quadratic"))


class Pieces(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """A loss of r = z - y that is another one where r > 0.5."""

    def __init__(self, below, above, task_structure="differentiable"):
        super().__init__()
        self.below, self.above, self.task_structure = below, above, task_structure

    def task_loss(self, y, z):
        r = z - y
        return tuple(np.where(r > 0.5, b, a) for a, b in zip(self.below(r), self.above(r), strict=True))


def squares(r):
    return r**2, 2 * r, np.full_like(r, 2.0)


def line(r):
    return r - 0.25, np.ones_like(r), np.zeros_like(r)


def steeper_line(r):
    return 1.2 * (r - 0.5) + 0.25, np.full_like(r, 1.2), np.zeros_like(r)


def higher_line(r):
    return r, np.ones_like(r), np.zeros_like(r)


@pytest.mark.parametrize(
    ("above", "structure", "what"),
    [
        (line, "smooth", "curvature"),
        (line, "differentiable", None),
        (steeper_line, "smooth", "slope"),
        (steeper_line, "differentiable", "slope"),
        (steeper_line, "subdifferentiable", None),
        (higher_line, "subdifferentiable", "value"),
        (higher_line, "differentiable", "value"),
        (squares, "smooth", None),
    ],
)
def test_finds_jumps(above, structure, what):
    if what is None:
        check_task_loss(Pieces(squares, above, structure))
        return
    message = rf"^Pieces\.task_loss: {what} jumps near y=\S+, z=\S+, and task_structure is '{structure}': \w"
    with pytest.raises(AssertionError, match=message) as error:
        check_task_loss(Pieces(squares, above, structure))
    y, z = (float(number) for number in re.search(r"near y=(\S+), z=(\S+),", str(error.value)).groups())
    assert abs(z - y - 0.5) < 1e-4


def test_an_unknown_structure():
    message = r"Faulty\.task_structure is 'smoth': it must be one of quadratic, smooth, differentiable"
    faulty = Faulty(lambda z, *loss: loss, "smoth")
    with pytest.raises(AssertionError, match=message):
        check_task_loss(faulty)
    with pytest.raises(ValueError, match=message):
        faulty.fit([[0.0], [1.0], [2.0]], [0, 1, 1], groups=[0, 0, 1])
    assert not hasattr(faulty, "coef_")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda z, v, s, c: (v, s), "must return value, slope and curvature, got tuple"),
        (lambda z, v, s, c: v, "must return value, slope and curvature, got ndarray"),
        (lambda z, v, s, c: (v.mean(), s, c), r"value has shape \(\) for y and z of shape \(1, 1000, 1\)"),
    ],
)
def test_other_results(fault, message):
    with pytest.raises(AssertionError, match=rf"^Faulty\.task_loss:? {message}"):
        check_task_loss(Faulty(fault))


def test_looks_far_out():
    """Where logistic regression is about a line, a forgotten derivative shows."""
    fault = Faulty(lambda z, v, s, c: (v, np.where(np.abs(z) > 8, 0.0, s), c))
    with pytest.raises(AssertionError, match="slope is not the derivative"):
        check_task_loss(fault)


class SmallUnits(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """Squared error in units of a millionth."""

    def __init__(self, sign=1.0):
        super().__init__()
        self.sign = sign

    def task_loss(self, y, z):
        return 1e-6 * (z - y) ** 2, self.sign * 2e-6 * (z - y), np.full_like(z, self.sign * 2e-6)


def test_judges_by_the_units_of_the_loss():
    check_task_loss(SmallUnits())
    with pytest.raises(AssertionError, match="slope"):
        check_task_loss(SmallUnits(sign=-1.0))
