"""Warnings of this package."""


class SingleTaskWarning(UserWarning):
    """`fit` was called without `groups`, so all rows are ONE task and there is nothing to learn across tasks.

    The usual cause: `cross_validate(est, X, y, groups=g, cv=GroupKFold())` and `GridSearchCV(est).fit(X, y, groups=g)`
    split by groups but, with scikit-learn's metadata routing off, do not pass them on to `fit`.

    Examples
    --------
    >>> import warnings
    >>> from sklearn_maml import MAMLRegressor, SingleTaskWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", SingleTaskWarning)
    ...     MAMLRegressor().fit([[0.0], [1.0]], [0.0, 1.0])
    Traceback (most recent call last):
        ...
    sklearn_maml.exceptions.SingleTaskWarning: MAMLRegressor got no groups, so all rows are ONE task...
    """
