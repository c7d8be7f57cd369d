"""How many small matrix products are made: by threads side by side where that is asked for, by one thread each."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import copy_context
from functools import cache

import numpy as np
from joblib import cpu_count
from threadpoolctl import ThreadpoolController  # which scikit-learn needs, and brings along

LARGEST_SERIAL = 500
"""Largest d for which the threads of the linear algebra library cost more than they gain."""


def run_parallel(n_jobs, calls):
    """Results of calls (function, *arguments) as they come, in order: by as many threads, counted as joblib does."""
    n_threads = n_jobs or 1
    if n_threads < 0:
        n_threads = max(1, cpu_count() + 1 + n_jobs)
    if n_threads == 1 or len(calls) == 1:
        return (function(*arguments) for function, *arguments in calls)
    return _in_threads(n_threads, calls)


def _in_threads(n_threads, calls):
    """As the standard library does it: starting joblib's threads takes longer than many an iteration of training."""
    with ThreadPoolExecutor(n_threads) as pool:
        futures = [pool.submit(copy_context().run, *call) for call in calls]  # the context has NumPy's errstate
        try:
            yield from (future.result() for future in futures)
        finally:
            for future in futures:
                future.cancel()


def small_products(d, n_jobs=None):
    """A context for many matrix products of width d: by one thread each, if they are small or made side by side.

    scikit-learn does the same in KMeans. The limit is one of the whole process; that threads which overlap leave it as
    they found it is seen to by threadpoolctl (3.7 or newer).
    """
    _keep_freed_memory()
    if d > LARGEST_SERIAL and n_jobs in (None, 1):
        return nullcontext()
    return _controller().limit(limits=1, user_api="blas")


@cache
def _keep_freed_memory():
    """Make glibc keep the memory of small arrays for the next ones, as it does once an array of this size was freed.

    Otherwise it hands each back to the system, and getting its pages anew takes as long as the products.
    """
    np.empty(400_000)  # never touched


@cache
def _controller():
    return ThreadpoolController()  # looks for the libraries that are loaded, which takes a millisecond
