"""Runs array_api_cases.py in a process of its own: SciPy has to be told of other arrays before it is imported."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.utils import get_tags

from sklearn_maml import MAMLSVC, MAMLRegressor, _sklearn


@pytest.mark.skipif(not _sklearn.DISPATCHES, reason="arrays of other libraries need scikit-learn 1.9")
def test_array_api():
    environment = os.environ | {"SCIPY_ARRAY_API": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", "array_api_cases.py"],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(re.search(r"(\d+) passed", result.stdout)[1]) >= 43


def test_older_scikit_learn(monkeypatch):
    """There all arrays are NumPy's, the tags say so, and others are an error that says what to do."""
    monkeypatch.setattr(_sklearn, "DISPATCHES", False)
    monkeypatch.setattr("sklearn_maml.base.DISPATCHES", False)
    library = type("Library", (), {"__name__": "torch"})()
    monkeypatch.setattr(_sklearn, "get_namespace", lambda X: (library, True))
    for estimator in (MAMLRegressor(), MAMLSVC()):
        assert not get_tags(estimator).array_api_support
        with pytest.raises(ImportError, match=r"arrays of torch need scikit-learn 1\.9 or newer, but .* is installed"):
            estimator.fit(SimpleNamespace(shape=(4, 1)), [0, 1, 0, 1], groups=[1, 1, 2, 2])
    monkeypatch.undo()
    monkeypatch.setattr(_sklearn, "DISPATCHES", False)
    X = np.arange(4.0)[:, None]
    model = MAMLRegressor(inner_step_size=0.01).fit(X, X[:, 0], groups=[1, 1, 2, 2])
    assert model.adapt(X[:2], X[:2, 0]).predict(X).shape == (4,)
