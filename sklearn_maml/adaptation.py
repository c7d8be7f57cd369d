"""Fit, adapt and predict by task, with estimators that contain a meta-learner: pipelines, targets, searches."""

import copy
from typing import Any, TypeVar

from numpy.typing import ArrayLike
from sklearn import config_context
from sklearn.utils import check_array
from sklearn.utils.metadata_routing import MetadataRequest, get_routing_for_object
from sklearn.utils.validation import check_is_fitted

Estimator = TypeVar("Estimator", bound=Any)


def adapt(
    estimator: Estimator,
    X: Any,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
) -> Estimator:
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
        If there is no ``adapt`` inside, or it does not return a new estimator.

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
        given = {"groups": groups, "sample_weight": sample_weight}
        new = estimator.adapt(X, y, **{name: value for name, value in given.items() if value is not None})
        if new is None or new is estimator:
            raise TypeError(f"{type(estimator).__name__}.adapt must return a new estimator and leave this one as it is")
        return new
    check_is_fitted(estimator)
    name, inner = _contained(estimator)
    if inner is None:
        raise TypeError(
            f"{type(estimator).__name__} cannot adapt: it has no method adapt and is no Pipeline, "
            "TransformedTargetRegressor or search (with refit=True) around an estimator that has one"
        )
    from sklearn.compose import TransformedTargetRegressor  # here, as it imports most of scikit-learn
    from sklearn.pipeline import Pipeline

    new = copy.copy(estimator)
    if isinstance(estimator, Pipeline):
        if len(estimator.steps) > 1:
            X = estimator[:-1].transform(X)
        new.steps = [*estimator.steps[:-1], (name, adapt(inner, X, y, groups, sample_weight))]
        return new
    if isinstance(estimator, TransformedTargetRegressor):
        y = _transform_target(estimator, y)
    setattr(new, name, adapt(inner, X, y, groups, sample_weight))
    return new


def can_adapt(estimator):
    """Whether :func:`adapt` finds a method ``adapt`` in this fitted estimator."""
    if callable(getattr(estimator, "adapt", None)):
        return True
    _, inner = _contained(estimator)
    return inner is not None and can_adapt(inner)


def contains_one_that_adapts(estimator):
    """Whether a parameter, at whatever depth, is an estimator that can adapt."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    return any(callable(getattr(inner, "adapt", None)) for inner in params.values())


def _contained(estimator):
    """The fitted estimator that this one hands its rows to, and its name; two times None if there is none."""
    from sklearn.pipeline import Pipeline

    if isinstance(estimator, Pipeline):
        return estimator.steps[-1]
    for name in ("regressor_", "best_estimator_"):
        if hasattr(estimator, name):
            return name, getattr(estimator, name)
    return None, None


def _transform_target(estimator, y):
    """Targets as TransformedTargetRegressor.fit hands it to its regressor."""
    y = check_array(y, input_name="y", ensure_2d=False, dtype="numeric")
    one_dimensional = y.ndim == 1
    y = estimator.transformer_.transform(y.reshape(-1, 1) if one_dimensional else y)
    return y[:, 0] if one_dimensional and y.ndim == 2 and y.shape[1] == 1 else y


def fit_by_task(estimator, X, y, groups, sample_weight=None):
    """Fit an estimator so that `groups`, if it has a use for them, and weights reach whatever is inside."""
    with config_context(enable_metadata_routing=True):
        metadata = {"groups": groups} if _takes_groups(estimator, "fit") else {}
        if sample_weight is not None:
            request_weights(estimator)
            metadata["sample_weight"] = sample_weight
        return estimator.fit(X, y, **metadata)


def request_weights(estimator):
    """Let weights reach an estimator, and all in it that takes them, unless its owner has decided otherwise."""
    for inner in (estimator, *estimator.get_params(deep=True).values()):
        routing = get_routing_for_object(inner)
        if not isinstance(routing, MetadataRequest):
            if hasattr(inner, "set_score_request"):  # scikit-learn < 1.8: a search asks the container, not its parts
                inner.set_score_request(sample_weight=True)
            continue
        if routing.fit.requests.get("sample_weight", False) is None:
            inner.set_fit_request(sample_weight=True)
        if routing.score.requests.get("sample_weight", False) is None:
            inner.set_score_request(sample_weight=True)


def responds_by_task(estimator, method):
    """Whether this method can be told the rows' tasks."""
    estimator = _without_search(estimator)
    if hasattr(estimator, "_responds_by_task"):  # depends on what is inside
        return estimator._responds_by_task(method)
    return _takes_groups(estimator, method)


def respond_by_task(estimator, method, X, groups, **params):
    """What ``predict``, ``decision_function``, ... say of rows, each with the parameters of its own task."""
    with config_context(enable_metadata_routing=True):
        return getattr(_without_search(estimator), method)(X, groups=groups, **params)


def _without_search(estimator):
    """The best estimator, which is what a search predicts with: the search itself takes no groups."""
    while not callable(getattr(estimator, "adapt", None)) and hasattr(estimator, "best_estimator_"):
        estimator = estimator.best_estimator_
    return estimator


def _takes_groups(estimator, method):
    """Whether metadata routing hands `groups` to this method of the estimator, or of something inside."""
    with config_context(enable_metadata_routing=True):  # disabled, a RidgeCV looks for its own routing for ever
        return "groups" in get_routing_for_object(estimator).consumes(method, ["groups"])
