"""Data that come in tasks: made up, cut out of well-known tables, or fetched."""

from .real import fetch_mnist_tasks, load_diabetes_tasks, load_digits_tasks
from .simulated import make_classification_tasks, make_regression_tasks, make_sinusoid_tasks

__all__ = [
    "fetch_mnist_tasks",
    "load_diabetes_tasks",
    "load_digits_tasks",
    "make_classification_tasks",
    "make_regression_tasks",
    "make_sinusoid_tasks",
]
