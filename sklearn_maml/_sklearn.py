"""The only place that imports what scikit-learn does not promise to keep."""

from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.metadata_routing import MetadataRequest
from sklearn.utils.validation import _check_sample_weight as check_sample_weight

__all__ = ["Interval", "MetadataRequest", "StrOptions", "check_sample_weight"]
