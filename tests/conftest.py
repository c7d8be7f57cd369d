"""What holds for all tests."""

import pytest
from threadpoolctl import threadpool_limits


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Tiny matrices: the threads of BLAS would cost more than they bring, most of all with several test workers."""
    with threadpool_limits(1):
        yield
