"""Meta-learning for scikit-learn: learn an initialisation over tasks, adapt it to a new one from a few rows."""

from .adaptation import adapt
from .base import BiMAMLMixin
from .classifier import BiMAMLClassifierMixin
from .exceptions import SingleTaskWarning
from .linear_model import MAMLRegressor, task_statistics
from .linear_model_cv import MAMLRegressorCV
from .statistics import CollapsedStatistics, TaskStatistics
from .svm import MAMLSVC

__version__ = "0.1.0"

__all__ = [
    "MAMLSVC",
    "BiMAMLClassifierMixin",
    "BiMAMLMixin",
    "CollapsedStatistics",
    "MAMLRegressor",
    "MAMLRegressorCV",
    "SingleTaskWarning",
    "TaskStatistics",
    "adapt",
    "task_statistics",
]
