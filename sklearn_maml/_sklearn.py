"""The only place that imports what scikit-learn does not promise to keep."""

from sklearn.utils._param_validation import Interval, StrOptions

__all__ = ["Interval", "StrOptions"]
