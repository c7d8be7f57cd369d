"""Meta-learned linear support vector classification."""

from numbers import Real

from sklearn.base import BaseEstimator, ClassifierMixin

from ._sklearn import Interval, StrOptions
from .base import BiMAMLClassifierMixin
from .losses import hinge_loss, smooth_hinge_loss, squared_hinge_loss

LOSSES = {
    "hinge": (hinge_loss, "subdifferentiable"),
    "squared_hinge": (squared_hinge_loss, "differentiable"),
    "smooth_hinge": (smooth_hinge_loss, "smooth"),
}


class MAMLSVC(ClassifierMixin, BiMAMLClassifierMixin, BaseEstimator):
    _parameter_constraints = BiMAMLClassifierMixin._parameter_constraints | {
        "loss": [StrOptions(set(LOSSES))],
        "C": [Interval(Real, 0, None, closed="neither")],
    }
    del _parameter_constraints["l2_regularization"]

    def __init__(
        self,
        *,
        loss="squared_hinge",
        C=1.0,
        algorithm="bimaml",
        solver="auto",
        inner_step_size="auto",
        n_inner_steps=1,
        meta_step_size="auto",
        switch_tol="auto",
        fit_intercept=True,
        init="zeros",
        warm_start=False,
        max_iter=1000,
        tol=1e-6,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.loss = loss
        self.C = C
        self.algorithm = algorithm
        self.solver = solver
        self.inner_step_size = inner_step_size
        self.n_inner_steps = n_inner_steps
        self.meta_step_size = meta_step_size
        self.switch_tol = switch_tol
        self.fit_intercept = fit_intercept
        self.init = init
        self.warm_start = warm_start
        self.max_iter = max_iter
        self.tol = tol
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    @property
    def task_structure(self):
        """What solvers may assume of the loss."""
        return LOSSES[self.loss][1]

    def task_loss(self, y, z):
        """The chosen hinge of the margin y z, and its two derivatives in z."""
        return LOSSES[self.loss][0](y, z)

    def _l2(self, mean_task_weight):
        return 1 / (self.C * mean_task_weight)
