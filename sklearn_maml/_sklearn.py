"""The only place that imports what scikit-learn does not promise to keep."""

import contextlib
import functools
import sys

import sklearn
from sklearn.utils import _safe_indexing as safe_indexing
from sklearn.utils._param_validation import Interval, StrOptions

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn < 1.9

    class CallbackSupportMixin:
        """Stands in for scikit-learn's: `fit` asks for contexts, which do nothing, and callbacks are an error."""

        def set_callbacks(self, *callbacks):
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

    def with_callbacks(method):
        """Call the method, through one frame as with scikit-learn's: warnings are counted out of it."""

        @functools.wraps(method)
        def call(estimator, *args, **kwargs):
            return method(estimator, *args, **kwargs)

        return call


__all__ = [
    "CallbackSupportMixin",
    "DocLinkMixin",
    "Interval",
    "StrOptions",
    "has_callbacks",
    "safe_indexing",
    "with_callbacks",
]


def has_callbacks(estimator):
    """Whether somebody follows the fit of this estimator: otherwise it need not report every iteration."""
    return hasattr(estimator, "_skl_callbacks")


class DocLinkMixin:
    """Links an estimator's HTML diagram to its page; not that of a class which somebody else derives from it."""

    _doc_link_module = "sklearn_maml"

    @property
    def _doc_link_template(self):
        cls = type(self)
        package = cls.__module__.partition(".")[0]
        module = package if hasattr(sys.modules[package], cls.__name__) else cls.__module__
        return f"https://sklearn-maml.readthedocs.io/en/stable/_generated/{module}.{cls.__name__}.html"
