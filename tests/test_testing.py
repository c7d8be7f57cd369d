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
    fault = Faulty(lambda z, v, s, c: (v, np.where(z > 3, 0.0, s), c))
    with pytest.raises(AssertionError, match="slope"):
        check_task_loss(fault, n_points=10_000)


def test_rejects_a_false_quadratic():
    with pytest.raises(AssertionError, match=r"Faulty\.task_loss is called quadratic.*one number.*\(1, 1000, 1\)"):
        check_task_loss(Faulty(lambda z, *loss: loss, task_structure="quadratic"))


def test_rejects_a_false_quadratic_with_one_number():
    """Here the curvature has the right shape and is the wrong number."""
    with pytest.raises(AssertionError, match="curvature is not the derivative"):
        check_task_loss(Faulty(lambda z, v, s, c: (v, s, np.asarray(0.25)), task_structure="quadratic"))


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
