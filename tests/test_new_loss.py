"""A loss of one's own with all the tests it needs: copy this file, and write your loss in place of this one."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.estimator_checks import check_estimator

from sklearn_maml import BiMAMLMixin
from sklearn_maml.testing import check_task_loss


class MAMLExpectileRegressor(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """Linear expectile regression: squared errors, weighted by `level` where y is above the prediction."""

    task_structure = "differentiable"  # the slope does not jump; see doc/custom_loss.rst

    def __init__(self, *, level=0.5, inner_step_size="auto"):
        super().__init__(inner_step_size=inner_step_size)
        self.level = level

    def task_loss(self, y, z):
        weight = np.where(y > z, self.level, 1 - self.level)
        return weight * (y - z) ** 2, -2 * weight * (y - z), 2 * weight


@pytest.mark.filterwarnings("ignore")  # the checks pass no groups, and have few iterations
def test_new_loss():
    check_task_loss(MAMLExpectileRegressor(level=0.8))
    check_estimator(MAMLExpectileRegressor(level=0.8), on_skip=None)
