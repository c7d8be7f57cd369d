"""A meta-learner whose task ids come as a column of X, for whatever hands on X and y but no groups."""

import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone, is_classifier
from sklearn.metrics import accuracy_score, r2_score
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from ._sklearn import OriginMixin
from .adaptation import adapt, can_adapt, fit_by_task, respond_by_task, responds_by_task
from .columns import as_table, split_column
from .groups import encode_groups

__all__ = ["GroupsFromColumn"]


def _inner_has(name):
    def check(self):
        return hasattr(getattr(self, "estimator_", self.estimator), name)

    return check


class GroupsFromColumn(OriginMixin, MetaEstimatorMixin, BaseEstimator):
    """Takes the task ids from a column of X, and fits, adapts and predicts with the other columns.

    Use it where `groups` cannot be passed, or would get lost: in StackingRegressor, VotingRegressor, BaggingRegressor,
    AdaBoostRegressor, ``cross_val_score``, with metadata routing on or off. Where it can, ``fit(X, y, groups=g)``
    needs no wrapper. Wrap the whole pipeline, not its last step, so that no transformer sees the ids.

    Parameters
    ----------
    estimator : estimator
        The meta-learner, or a pipeline or search that contains one. It is cloned, and never sees the column.
    column : str or int
        Name of the column if X is a DataFrame, or its position; -1 is the last one. Tools that turn X into an array on
        the way (BaggingRegressor, AdaBoostRegressor, a StackingRegressor's final estimator) need the position.

    Attributes
    ----------
    estimator_ : estimator
        The fitted estimator; after :meth:`adapt` the adapted one.
    classes_ : ndarray of shape (n_classes,)
        Labels, if it is a classifier.
    n_features_in_ : int
        Number of columns of X, the one with task ids among them.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names, if X had names that are all strings.

    See Also
    --------
    FewShotScorer : Scores it on new tasks; its parameter `groups` names the same column.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn_maml import MAMLRegressor
    >>> from sklearn_maml.compose import GroupsFromColumn
    >>> sales = pd.DataFrame({"shop": ["a"] * 4 + ["b"] * 4, "price": [1.0, 2, 3, 4] * 2})
    >>> y = [9.0, 7, 6, 4, 5, 3, 2, 0]
    >>> model = GroupsFromColumn(MAMLRegressor(), column="shop").fit(sales, y)
    >>> model.estimator_.coef_.shape
    (1,)
    >>> new = pd.DataFrame({"shop": ["c", "d"], "price": [1.0, 1.0]})
    >>> adapted = model.adapt(new, [20.0, 0.0])
    >>> above, below = adapted.predict(new)
    >>> bool(above > below)
    True
    """

    __metadata_request__predict = {"groups": True}
    __metadata_request__decision_function = {"groups": True}
    __metadata_request__predict_proba = {"groups": True}
    __metadata_request__score = {"groups": True}

    def __init__(self, estimator: Any, column: str | int):
        self.estimator = estimator
        self.column = column

    def __sklearn_tags__(self):
        tags = copy.deepcopy(get_tags(self.estimator))
        tags.array_api_support = False
        return tags

    @property
    def classes_(self) -> np.ndarray:
        """Labels."""
        return self.estimator_.classes_

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to the other columns, with this one as groups.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Training rows of all tasks, the column with their task ids among the features.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights. In a pipeline they reach every step that takes weights, unless its own
            ``set_fit_request(sample_weight=False)`` says otherwise.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X has no such column, or task ids are missing.
        """
        others, groups = split_column(X, self.column)
        fitted = fit_by_task(clone(self.estimator), others, y, groups, sample_weight)
        new = copy.copy(self)
        validate_data(new, X, skip_check_array=True)
        new.estimator_ = fitted
        self.__dict__ = new.__dict__  # in one step: an interruption comes before or after it
        return self

    @available_if(lambda self: can_adapt(getattr(self, "estimator_", self.estimator)))
    def adapt(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Adapt to the tasks in X from a few labelled rows of each, see :func:`sklearn_maml.adapt`.

        Parameters
        ----------
        X, y :
            The support, with the same columns as in `fit`.
        groups : array-like of shape (n_samples,), default=None
            Task ids to use instead of the column's.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        adapted : object
            A NEW estimator, which predicts each row with the parameters of the task in its column.

        Raises
        ------
        TypeError
            For several tasks, if ``predict`` inside cannot be told the rows' tasks, as in a pipeline that ends in a
            search.
        """
        others, groups = self._split(X, groups)
        if not self._responds_by_task("predict"):
            if len(encode_groups(groups, np.shape(y)[0])[1]) > 1:
                raise TypeError(
                    f"the predict of {type(self.estimator_).__name__} cannot be told the rows' tasks, so that it would "
                    "ignore what it was adapted to: adapt to one task at a time, or, if there is a search inside a "
                    "pipeline or transformed target, put these inside the search"
                )
            groups = None
        new = copy.copy(self)
        new.estimator_ = adapt(self.estimator_, others, y, groups, sample_weight)
        return new

    @available_if(_inner_has("predict"))
    def predict(self, X: ArrayLike, groups: ArrayLike | None = None, **params: Any) -> np.ndarray:
        """Predict each row with the parameters of its own task, if adapted to it, otherwise with the initialisation.

        Parameters
        ----------
        X : {array-like, sparse matrix, DataFrame} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            Task ids to use instead of the column's.
        **params : dict
            Further arguments of the inner ``predict``, such as ``return_std=True``.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,) or (n_samples, n_outputs)
            Predictions, as the inner ``predict`` returns them.
        """
        return self._respond("predict", X, groups, **params)

    @available_if(_inner_has("decision_function"))
    def decision_function(self, X: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Decision values, see :meth:`predict`.

        Parameters
        ----------
        X, groups :
            As in :meth:`predict`.

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Decision values.
        """
        return self._respond("decision_function", X, groups)

    @available_if(_inner_has("predict_proba"))
    def predict_proba(self, X: ArrayLike, groups: ArrayLike | None = None) -> np.ndarray:
        """Class probabilities, see :meth:`predict`.

        Parameters
        ----------
        X, groups :
            As in :meth:`predict`.

        Returns
        -------
        p : ndarray of shape (n_samples, n_classes)
            Probabilities.
        """
        return self._respond("predict_proba", X, groups)

    def score(
        self, X: ArrayLike, y: ArrayLike, groups: ArrayLike | None = None, sample_weight: ArrayLike | None = None
    ) -> float:
        """R^2 of `predict` for regressors, accuracy for classifiers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows, with the same columns as in `fit`.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            True targets.
        groups : array-like of shape (n_samples,), default=None
            Task ids to use instead of the column's.
        sample_weight : array-like of shape (n_samples,), default=None
            Row weights.

        Returns
        -------
        score : float
            The score.
        """
        metric = accuracy_score if is_classifier(self) else r2_score
        return metric(y, self.predict(X, groups), sample_weight=sample_weight)

    def _responds_by_task(self, method):
        return responds_by_task(self.estimator_, method)

    def _respond(self, method, X, groups, **params):
        others, groups = self._split(X, groups)
        if self._responds_by_task(method):
            return respond_by_task(self.estimator_, method, others, groups, **params)
        return getattr(self.estimator_, method)(others, **params)

    def _split(self, X, groups):
        """The other columns, and the task ids."""
        check_is_fitted(self)
        X = as_table(X)
        validate_data(self, X, reset=False, skip_check_array=True)
        others, ids = split_column(X, self.column)
        return others, ids if groups is None else groups
