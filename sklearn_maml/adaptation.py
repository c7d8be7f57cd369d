"""`adapt` for estimators that contain a meta-learner: pipelines, transformed targets, searches."""

import copy

from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import Pipeline
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted


def adapt(estimator, X, y, groups=None, sample_weight=None):
    """Adapt a fitted estimator to a new task, or tasks, from a few labelled rows.

    Parameters
    ----------
    estimator : object
        A fitted estimator with a method ``adapt``, or a Pipeline, TransformedTargetRegressor, GridSearchCV or other
        search that contains one, however nested. Transformers stay as they were fitted.
    X : array-like of shape (n_samples, n_features)
        The support: labelled rows of the new task, as `estimator` takes them.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Their targets.
    groups : array-like of shape (n_samples,), default=None
        Task ids, to adapt to many tasks at once. None is one task.
    sample_weight : array-like of shape (n_samples,), default=None
        Row weights.

    Returns
    -------
    adapted : object
        A NEW estimator of the same type; `estimator` is left as it is.

    Raises
    ------
    TypeError
        If there is no ``adapt`` inside.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from sklearn_maml import MAMLRegressor, adapt
    >>> X = np.arange(12.0).reshape(-1, 1)
    >>> y = np.r_[X[:6, 0], X[6:, 0] + 5]
    >>> pipe = make_pipeline(StandardScaler(), MAMLRegressor())
    >>> pipe = pipe.fit(X, y, mamlregressor__groups=["a"] * 6 + ["b"] * 6)
    >>> adapt(pipe, X[:2], y[:2] + 1).predict(X[:3]).shape
    (3,)
    """
    if callable(getattr(estimator, "adapt", None)):
        return estimator.adapt(X, y, groups=groups, sample_weight=sample_weight)
    check_is_fitted(estimator)
    new = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        if len(estimator.steps) > 1:
            X = estimator[:-1].transform(X)
        new.steps = [*estimator.steps[:-1], (name, adapt(last, X, y, groups, sample_weight))]
    elif isinstance(estimator, TransformedTargetRegressor):
        y = _transform_target(estimator, y)
        new.regressor_ = adapt(estimator.regressor_, X, y, groups, sample_weight)
    elif hasattr(estimator, "best_estimator_"):
        new.best_estimator_ = adapt(estimator.best_estimator_, X, y, groups, sample_weight)
    else:
        raise TypeError(
            f"{type(estimator).__name__} cannot adapt: it has no method adapt and is no Pipeline, "
            "TransformedTargetRegressor or search (with refit=True) around an estimator that has one"
        )
    return new


def _transform_target(estimator, y):
    """Targets as TransformedTargetRegressor.fit hands it to its regressor."""
    y = check_array(y, input_name="y", ensure_2d=False, dtype="numeric")
    one_dimensional = y.ndim == 1
    y = estimator.transformer_.transform(y.reshape(-1, 1) if one_dimensional else y)
    return y[:, 0] if one_dimensional and y.ndim == 2 and y.shape[1] == 1 else y
