"""The only place that imports what scikit-learn does not promise to keep."""

import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import numpy as np
import sklearn
from sklearn.exceptions import InconsistentVersionWarning
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._array_api import _convert_to_numpy as convert_to_numpy
from sklearn.utils._array_api import _is_numpy_namespace, get_namespace
from sklearn.utils._array_api import _max_precision_float_dtype as largest_float
from sklearn.utils._param_validation import Interval, StrOptions

try:
    from sklearn.externals.array_api_compat import array_namespace
    from sklearn.externals.array_api_compat import device as array_device
    from sklearn.utils._array_api import check_same_namespace

    DISPATCHES = True
except ImportError:  # scikit-learn < 1.9: all arrays are NumPy's
    array_namespace = array_device = check_same_namespace = None
    DISPATCHES = False

try:
    from sklearn.callback import CallbackSupportMixin
    from sklearn.callback import with_callbacks as _with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Stands in for scikit-learn's: `fit` asks for contexts, which do nothing, and callbacks are an error."""

        def set_callbacks(self, *callbacks: Any) -> NoReturn:
            """Raise: this scikit-learn has no callbacks.

            Parameters
            ----------
            *callbacks : object
                Callbacks.

            Raises
            ------
            ImportError
                Always.
            """
            raise ImportError(
                f"{type(self).__name__}.set_callbacks needs scikit-learn 1.9 or newer, but {sklearn.__version__} is "
                "installed: upgrade scikit-learn, or follow the training by verbose=1 and history_"
            )

        def _init_callback_context(self, **kwargs):
            return _NoContext()

    class _NoContext:
        """A task that nobody follows."""

        def subcontext(self, **kwargs):
            return self

        def call_on_fit_task_begin(self, **kwargs):
            return self

        def call_on_fit_task_end(self, **kwargs):
            return False

        def propagate_callback_context(self, sub_estimator):
            return contextlib.nullcontext()

    def _with_callbacks(method):
        """Call the method, through one frame as with scikit-learn's: warnings are counted out of it."""

        @functools.wraps(method)
        def call(estimator, *args, **kwargs):
            return method(estimator, *args, **kwargs)

        return call


__all__ = [
    "DISPATCHES",
    "CallbackSupportMixin",
    "Interval",
    "OriginMixin",
    "StrOptions",
    "array_device",
    "array_namespace",
    "check_namespace",
    "convert_to_numpy",
    "has_callbacks",
    "is_dispatched",
    "largest_float",
    "safe_indexing",
    "with_callbacks",
]


Method = TypeVar("Method", bound=Callable)


def with_callbacks(method: Method) -> Method:
    """scikit-learn's decorator of `fit`, which keeps its type."""
    return _with_callbacks(method)


def is_dispatched(X):
    """Whether scikit-learn's array API dispatch has X stay in its library, on its device.

    Raises
    ------
    ImportError
        If this scikit-learn lacks what it takes.
    """
    if X is None or isinstance(X, np.ndarray):
        return False
    xp, dispatched = get_namespace(X)
    if not dispatched or _is_numpy_namespace(xp):
        return False
    if not DISPATCHES:
        raise ImportError(
            f"arrays of {xp.__name__} need scikit-learn 1.9 or newer, but {sklearn.__version__} is installed: upgrade "
            "it, or convert them to NumPy"
        )
    return True


def check_namespace(X, estimator, method):
    """Raise if X is in another library or on another device than the rows of `fit`."""
    if not DISPATCHES:
        return
    check_same_namespace(X, estimator, attribute="coef_", method=method)
    if not (isinstance(estimator.coef_, np.ndarray) or sklearn.get_config()["array_api_dispatch"]):
        library = type(estimator.coef_).__module__.partition(".")[0]
        raise ValueError(
            f"{type(estimator).__name__} was fitted to arrays of {library}: call {method} in "
            "sklearn.config_context(array_api_dispatch=True) as well"
        )


def has_callbacks(estimator):
    """Whether somebody follows the fit of this estimator: otherwise it need not report every iteration."""
    return hasattr(estimator, "_skl_callbacks")


class OriginMixin:
    """Where an estimator comes from: the page that its HTML diagram links to, the versions that its pickle was made by.

    The page is not that of a class which somebody else derives from it.
    """

    _doc_link_module = "sklearn_maml"

    def __getstate__(self):
        return super().__getstate__() | {"_versions": _versions()}

    def __setstate__(self, state):
        here, there = _versions(), state.get("_versions", {})
        for package, version in here.items():
            if version != there.get(package):
                warnings.warn(
                    InconsistentVersionWarning(
                        estimator_name=type(self).__name__,
                        current_sklearn_version=f"{package} {version}",
                        original_sklearn_version=f"{package} {there.get(package, 'unknown')}",
                    ),
                    stacklevel=2,
                )
        super().__setstate__({name: value for name, value in state.items() if name != "_versions"})

    @property
    def _doc_link_template(self):
        cls = type(self)
        package = cls.__module__.partition(".")[0]
        module = package if hasattr(sys.modules[package], cls.__name__) else cls.__module__
        return f"https://sklearn-maml.readthedocs.io/en/stable/_generated/{module}.{cls.__name__}.html"


def _versions():
    """Versions of the packages that say what the attributes of an estimator mean."""
    return {"sklearn-maml": sys.modules["sklearn_maml"].__version__, "scikit-learn": sklearn.__version__}
