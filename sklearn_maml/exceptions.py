"""Warnings of this package."""


class SingleTaskWarning(UserWarning):
    """`fit` was called without `groups`, so all rows are ONE task and there is nothing to learn across tasks.

    The usual cause: `cross_validate(est, X, y, groups=g, cv=GroupKFold())` and `GridSearchCV(est).fit(X, y, groups=g)`
    split by groups but, with scikit-learn's metadata routing off, do not pass them on to `fit`.
    """
