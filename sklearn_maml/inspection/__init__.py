"""Pictures of meta-learning: curves of few-shot scores, meta-training, one new task, the landscape of the loss."""

from .adaptation_curve import AdaptationCurveDisplay
from .loss_landscape import LossLandscapeDisplay
from .meta_training import MetaTrainingDisplay
from .task import TaskDisplay

__all__ = ["AdaptationCurveDisplay", "LossLandscapeDisplay", "MetaTrainingDisplay", "TaskDisplay"]
