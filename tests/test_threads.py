"""Threads over calls, and the limit of the linear algebra library's own threads."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from sklearn_maml.threads import LARGEST_SERIAL, blas_threads, run_parallel


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


@pytest.mark.usefixtures("two_threads")
def test_small_products_are_made_by_one_thread():
    with blas_threads(10):
        assert blas() == {1}
    with blas_threads(LARGEST_SERIAL + 1):
        assert blas() == {2}
    with blas_threads(LARGEST_SERIAL + 1, n_jobs=2):
        assert blas() == {1}


@pytest.mark.usefixtures("two_threads")
def test_the_limit_is_taken_back_after_an_error():
    def fail():
        with blas_threads(10):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert blas() == {2}
