"""Where the recipes are, the Python of Spark's workers, and a small cluster of each engine."""

import os
import sys
from pathlib import Path

import pytest
import ray
from dask.distributed import Client
from pyspark.sql import SparkSession

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "scaling"))
os.environ["PYSPARK_PYTHON"] = sys.executable


@pytest.fixture(scope="session")
def client():
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        yield client


@pytest.fixture(scope="session")
def spark():
    with SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).getOrCreate() as spark:
        yield spark


@pytest.fixture(scope="session")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()
