"""Estimators as third parties write them: a pointwise loss and a mixin. The documentation includes them from here."""

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from sklearn_maml import BiMAMLClassifierMixin, BiMAMLMixin


class MAMLQuantileRegressor(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """Linear quantile regression, pinball loss smoothed over |r| < delta."""

    def __init__(self, *, quantile=0.5, delta=0.1, inner_step_size=0.1, switch_tol="auto"):
        super().__init__(inner_step_size=inner_step_size, switch_tol=switch_tol)
        self.quantile = quantile
        self.delta = delta

    def task_loss(self, y, z):
        r = y - z
        side = np.where(r >= 0, self.quantile, 1 - self.quantile)
        near = np.abs(r) < self.delta
        value = side * np.where(near, r * r / (2 * self.delta), np.abs(r) - self.delta / 2)
        slope = -side * np.clip(r / self.delta, -1, 1)
        return value, slope, side * near / self.delta


class MAMLLogisticRegression(ClassifierMixin, BiMAMLClassifierMixin, BaseEstimator):
    """Logistic regression, log(1 + exp(-yz)) with a ridge penalty."""

    task_structure = "smooth"

    def __init__(self, *, l2_regularization=0.01, inner_step_size="auto", n_inner_steps=1, adaptation="gradient"):
        super().__init__(
            l2_regularization=l2_regularization,
            inner_step_size=inner_step_size,
            n_inner_steps=n_inner_steps,
            adaptation=adaptation,
        )

    def task_loss(self, y, z):
        wrong = expit(-y * z)
        return np.logaddexp(0, -y * z), -y * wrong, wrong * (1 - wrong)
