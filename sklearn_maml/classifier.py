"""The mixin for classifiers: labels become -1 and +1, decision values become labels."""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._sklearn import check_namespace
from ._validation import Matrix, to_numpy
from ._warnings import warn_of_one_task
from .arrays import float_types, is_numpy, like, namespace, to_host
from .base import BiMAMLMixin


class BiMAMLClassifierMixin(BiMAMLMixin):
    """Meta-learning for a linear classifier with any pointwise loss of the target -1 or +1 and the decision value z.

    With more than two classes there is one decision function, and one column of -1 and +1, for each: one versus rest.
    See :class:`BiMAMLMixin`; ``task_loss(self, y, z)`` gets y in {-1, +1}.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import expit
    >>> from sklearn.base import BaseEstimator, ClassifierMixin
    >>> from sklearn_maml import BiMAMLClassifierMixin
    >>> class MAMLLogisticRegression(ClassifierMixin, BiMAMLClassifierMixin, BaseEstimator):
    ...     task_structure = "smooth"
    ...
    ...     def __init__(self, *, l2_regularization=0.01):
    ...         super().__init__(l2_regularization=l2_regularization)
    ...
    ...     def task_loss(self, y, z):
    ...         p = expit(-y * z)
    ...         return np.logaddexp(0, -y * z), -y * p, p * (1 - p)
    >>> X = np.array([[0.0], [1.0], [2.0], [3.0]])
    >>> model = MAMLLogisticRegression().fit(X, ["no", "yes", "no", "yes"], groups=[1, 1, 2, 2])
    >>> model.predict([[3.0]])
    array(['yes'], dtype='<U3')
    """

    __metadata_request__decision_function = {"groups": True}

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = False
        return tags

    def partial_fit(
        self,
        X: Matrix,
        y: ArrayLike,
        groups: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        classes: ArrayLike | None = None,
    ) -> Self:
        """Meta-train on one more batch of rows: one step of gradient descent, see :meth:`BiMAMLMixin.partial_fit`.

        Parameters
        ----------
        X, y, groups, sample_weight :
            As in :meth:`fit`.
        classes : array-like of shape (n_classes,), default=None
            All labels that will ever occur; required in the first call.

        Returns
        -------
        self : object
            The estimator.
        """
        self._validate_params()
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("classes must be passed on the first call to partial_fit")
        warn_of_one_task(self, groups)
        return self._partial_fit(X, y, groups, sample_weight, classes)

    def decision_function(self, X: Matrix, groups: ArrayLike | None = None) -> np.ndarray:
        """Decision values x'coef + intercept.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, see :meth:`predict`.

        Returns
        -------
        z : ndarray of shape (n_samples,) or (n_samples, n_classes)
            Positive for ``classes_[1]`` if there are two classes; otherwise one column for each class.
        """
        Z = self._linear_predictor(X, groups, method="decision_function")
        return Z[:, 0] if Z.shape[1] == 1 else Z

    def predict(self, X: Matrix, groups: ArrayLike | None = None) -> np.ndarray:
        """Predict labels.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Rows.
        groups : array-like of shape (n_samples,), default=None
            The rows' tasks, after :meth:`adapt` with groups: each row is predicted with its own task's parameters, rows
            of unknown tasks with the initialisation.

        Returns
        -------
        y_pred : ndarray of shape (n_samples,)
            Labels.
        """
        check_is_fitted(self)
        check_namespace(X, self, "predict")
        Z = self.decision_function(X, groups)
        xp = namespace(Z)
        number = xp.asarray(Z > 0, dtype=xp.int64) if Z.ndim == 1 else xp.argmax(Z, axis=1)
        labels = to_host(self.classes_)
        if not is_numpy(Z) and labels.dtype.kind not in "biuf":  # strings are the host's
            return labels[to_host(number)]
        return xp.take(like(labels, Z), number, axis=0)

    def _validate_xy(self, X, y, reset):
        X, y = validate_data(self, X, to_numpy(y), accept_sparse="csr", dtype=float_types(X), reset=reset)
        try:
            check_classification_targets(y)
        except TypeError:
            raise ValueError("y holds labels that cannot be compared, such as numbers among strings") from None
        return X, y

    def _learn_target(self, y):
        """Remember the labels."""
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes, but y contains only one class: "
                f"{self.classes_[0]!r}"
            )

    def _encode_target(self, y):
        """-1 and +1, one column for two classes, otherwise one for each."""
        labels = to_host(self.classes_)
        unseen = np.setdiff1d(y, labels)
        if len(unseen):
            raise ValueError(f"y contains labels that were not seen in fit: {unseen.tolist()}")
        labels = labels[1:] if len(labels) == 2 else labels
        return np.where(y[:, None] == labels, 1.0, -1.0)
