"""Threads over calls, and the limit of the linear algebra library's own threads."""

import threading
import time

import joblib
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_maml.threads import LARGEST_SERIAL, run_parallel, small_products


def blas():
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


@pytest.fixture
def two_threads():
    np.ones((2, 2)) @ np.ones((2, 2))
    with threadpool_limits(2, user_api="blas"):
        assert blas() == {2}
        yield
        assert blas() == {2}


@pytest.mark.parametrize("n_jobs", [None, 1, 2, -1])
def test_results_come_in_order(n_jobs):
    assert list(run_parallel(n_jobs, [(pow, i, 2) for i in range(20)])) == [i * i for i in range(20)]


@pytest.mark.parametrize("options", [{"backend": "loky"}, {"backend": "multiprocessing"}, {"prefer": "processes"}])
def test_threads_where_processes_are_asked_for(options, capfd):
    """Without a word: that is for what scikit-learn does in processes."""
    here = []
    with joblib.parallel_config(n_jobs=2, **options):
        list(run_parallel(2, [(here.append, i) for i in range(20)]))
        threads = set(run_parallel(2, [(threading.get_ident,)] * 20))
    assert sorted(here) == list(range(20))
    assert threading.get_ident() not in threads
    assert capfd.readouterr() == ("", "")


def test_threads_have_the_context_of_their_caller():
    def overflow(x):
        return np.float64(1e300) * x

    with np.errstate(over="raise"):
        with pytest.raises(FloatingPointError):
            list(run_parallel(2, [(overflow, 1.0), (overflow, 1e300)]))
        with np.errstate(over="ignore"):
            assert list(run_parallel(2, [(overflow, 1.0), (overflow, 1e300)])) == [1e300, np.inf]


def test_an_error_ends_the_others():
    begun = []

    def work(i):
        begun.append(i)
        if i == 0:
            raise ZeroDivisionError
        time.sleep(0.01)

    with pytest.raises(ZeroDivisionError):
        list(run_parallel(2, [(work, i) for i in range(1000)]))
    assert len(begun) < 500


@pytest.mark.usefixtures("two_threads")
def test_small_products_are_made_by_one_thread():
    with small_products(10):
        assert blas() == {1}
    with small_products(LARGEST_SERIAL + 1):
        assert blas() == {2}
    with small_products(LARGEST_SERIAL + 1, n_jobs=2):
        assert blas() == {1}


@pytest.mark.usefixtures("two_threads")
def test_the_limit_is_taken_back_after_an_error():
    def fail():
        with small_products(10):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert blas() == {2}
