"""Threads: over stacks where that is asked for, and none inside the many small matrix products."""

from contextlib import nullcontext
from functools import cache

from joblib import Parallel, delayed
from threadpoolctl import ThreadpoolController  # comes with scikit-learn, which needs it

LARGEST_SERIAL = 500
"""Largest d for which the threads of the linear algebra library cost more than they gain."""


def run_parallel(n_jobs, calls):
    """Results of calls (function, *arguments) as they come, in order: in threads unless n_jobs is None."""
    if n_jobs in (None, 1) or len(calls) == 1:
        return (function(*arguments) for function, *arguments in calls)
    parallel = Parallel(n_jobs=n_jobs, require="sharedmem", return_as="generator")
    return parallel(delayed(function)(*arguments) for function, *arguments in calls)


def blas_threads(d, n_jobs=None):
    """A context in which matrix products, d wide, are made by one thread each: if they are small, or made side by side.

    scikit-learn does the same in KMeans. The limit is one of the whole process; that threads which overlap leave it as
    they found it is seen to by threadpoolctl (3.7 or newer).
    """
    if d > LARGEST_SERIAL and n_jobs in (None, 1):
        return nullcontext()
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller():
    return ThreadpoolController()  # looks for the libraries that are loaded, which takes a millisecond
