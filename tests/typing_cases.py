"""What a user's type checker sees of the public API: read by mypy (`python -m mypy`), never run."""

from typing import Any, assert_type

import numpy as np

from sklearn_maml import (
    MAMLSVC,
    CollapsedStatistics,
    MAMLRegressor,
    MAMLRegressorCV,
    TaskStatistics,
    adapt,
    task_statistics,
)
from sklearn_maml.certificate import Certificate, certificate
from sklearn_maml.compose import GroupsFromColumn
from sklearn_maml.inspection import AdaptationCurveDisplay, LossLandscapeDisplay, MetaTrainingDisplay, TaskDisplay
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.model_selection import cross_validate_tasks
from sklearn_maml.testing import check_task_loss
from sklearn_maml.theory import step_bound_3_6

Pair = tuple[np.ndarray, np.ndarray]


def regression(X: np.ndarray, y: list[float], groups: list[str]) -> None:
    """Fitting and adapting keep the class; a prediction is an array, with `return_std` two."""
    model = MAMLRegressor(inner_step_size=0.1, algorithm="maml", init=np.zeros(2), random_state=0)
    assert_type(model.fit(X, y, groups=groups), MAMLRegressor)
    assert_type(model.partial_fit(X, y, groups, np.ones(3)), MAMLRegressor)
    assert_type(model.adapt(X, y), MAMLRegressor)
    assert_type(model.predict(X), np.ndarray)
    assert_type(model.predict(X, groups, return_std=True), Pair)
    assert_type(model.score(X, y), float)
    assert_type(adapt(model, X, y), MAMLRegressor)
    assert_type(MAMLRegressorCV(inner_step_sizes=["auto", 0.1]).fit(X, y, groups).adapt(X, y), MAMLRegressorCV)
    assert_type(MAMLRegressorCV().predict(X, return_std=True), Pair)
    MAMLRegressor(algorithm="mam")  # type: ignore[arg-type]
    model.fit(X)  # type: ignore[call-arg]


def classification(X: list[list[float]], y: list[str]) -> None:
    """A classifier is no different."""
    model = MAMLSVC(loss="hinge", C=np.inf).fit(X, y)
    assert_type(model, MAMLSVC)
    assert_type(model.partial_fit(X, y, classes=["a", "b"]), MAMLSVC)
    assert_type(model.decision_function(X), np.ndarray)
    assert_type(model.predict(X), np.ndarray)
    MAMLSVC(l2_regularization=1.0)  # type: ignore[call-arg]


def statistics(X: np.ndarray, y: np.ndarray) -> None:
    """Statistics add up to statistics."""
    part = task_statistics(X, y, groups=None)
    assert_type(part + part, TaskStatistics)
    assert_type(TaskStatistics.merge([part, part]), TaskStatistics)
    assert_type(part.nbytes, int)
    collapsed = MAMLRegressor().collapse_statistics(part)
    assert_type(collapsed, CollapsedStatistics)
    assert_type(MAMLRegressor().fit_statistics(collapsed), MAMLRegressor)
    MAMLRegressor().fit_statistics(X)  # type: ignore[arg-type]


def evaluation(model: MAMLRegressor, X: Any, y: np.ndarray, groups: np.ndarray) -> None:
    """Results by name; displays of their own class."""
    assert_type(cross_validate_tasks(model, X, y, groups), dict[str, np.ndarray])
    assert_type(FewShotScorer().score(model, X, y, groups), float | dict[str, float])
    assert_type(GroupsFromColumn(model, column="task").fit(X, y), GroupsFromColumn)
    assert_type(TaskDisplay.from_estimator(model, X, y, X, y), TaskDisplay)
    assert_type(MetaTrainingDisplay.from_estimator(model).plot(), MetaTrainingDisplay)
    assert_type(LossLandscapeDisplay.from_estimator(model, X, y, groups), LossLandscapeDisplay)
    assert_type(AdaptationCurveDisplay.from_estimator(model, X, y, groups), AdaptationCurveDisplay)
    assert_type(certificate(model, X, y, groups), Certificate)
    assert_type(step_bound_3_6(1.0, 0.1, 0.0, 0.0), float)
    check_task_loss(model)
