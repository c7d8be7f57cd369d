"""Fit and adaptation of torch tensors against NumPy arrays, beside one large matrix product: the limit of the device.

Uses CUDA where torch has it. Results are compared before anything is timed. Run with

    SCIPY_ARRAY_API=1 python benchmarks/arrays.py
"""

import platform
import warnings

import numpy as np
import torch
from measuring import draw_table, median_seconds
from sklearn import config_context
from sklearn.exceptions import ConvergenceWarning

from sklearn_maml import MAMLSVC, MAMLRegressor

REPEATS = 7
LARGEST = 4096
"""Rows and columns of the matrices that are multiplied."""


def on(device, *arrays):
    return [torch.asarray(array, device=device) for array in arrays]


def in_turns(name, calls, device, products):
    """Print the medians, their ratio and the share of time that the matrix products alone would take."""

    def waited_for(call):
        def whole():
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return whole

    with config_context(array_api_dispatch=True):
        times = median_seconds({key: waited_for(call) for key, call in calls.items()}, REPEATS)
    numpy, here = times["NumPy"], times["torch"]
    limit = "" if products is None else f"{here / products:10.1f}"
    print(f"{name:<38}{1e3 * numpy:>10.1f} ms{1e3 * here:>10.1f} ms{numpy / here:>8.2f}{limit}", flush=True)


def check(one, other, tol=1e-8):
    np.testing.assert_allclose(other.cpu().numpy(), one, rtol=tol, atol=tol)


def main():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()} CPU"
    print(f"torch {torch.__version__} on {name}, {torch.get_num_threads()} CPU threads, float64")
    (A,) = on(device, np.random.default_rng(0).standard_normal((LARGEST, LARGEST)))
    product = median_seconds({"product": lambda: (A @ A).sum().item()}, REPEATS)["product"]
    rate = 2 * LARGEST**3 / product
    print(f"one product of two {LARGEST} x {LARGEST} matrices: {1e3 * product:.1f} ms, {rate / 1e9:.0f} Gflop/s\n")
    print(f"{'':<38}{'NumPy':>13}{'torch':>13}{'ratio':>8}  torch over its own matrix products at that rate")

    for m, n, d in ((1000, 100, 50), (500, 1000, 100), (5000, 200, 100)):
        calls = fits(MAMLRegressor, draw_table(m, n, d), device, inner_step_size=0.1)
        in_turns(f"fit, {m} x {n} x {d}, given step", calls, device, 2 * m * (n * d * d + 2 * d**3) / rate)
    X, y, groups = draw_table(1000, 100, 50)
    in_turns("fit, 1000 x 100 x 50, learned metric", fits(MAMLRegressor, (X, y, groups), device), device, None)
    steps = {
        "inner_step_size": 0.1,
        "solver": "gd",
        "algorithm": "maml",
        "meta_step_size": 0.1,
        "max_iter": 20,
        "tol": 0,
    }
    calls = fits(MAMLSVC, (X, (y > 0).astype(int), groups), device, **steps)
    in_turns("MAMLSVC, 1000 x 100 x 50, 20 steps", calls, device, 20 * 8 * X.size / rate)
    for adaptation in ("gradient", "implicit"):
        calls = adaptations(draw_table(20_000, 5, 20), device, adaptation)
        in_turns(f"adapt and predict, 20,000 x 5 x 20, {adaptation[:4]}.", calls, device, None)


def fits(cls, table, device, **parameters):
    """The two fits, once they have agreed."""
    X, y, groups = table
    there = on(device, X, y)
    calls = {
        "NumPy": lambda: cls(**parameters).fit(X, y, groups=groups),
        "torch": lambda: cls(**parameters).fit(*there, groups=groups),
    }
    with config_context(array_api_dispatch=True):
        check(calls["NumPy"]().coef_, calls["torch"]().coef_)
    return calls


def adaptations(table, device, adaptation):
    """Adaptation to many tasks and prediction of their rows, the same way."""
    X, y, groups = table
    there, some = on(device, X, y), slice(5000)
    with config_context(array_api_dispatch=True):
        numpy = MAMLRegressor(adaptation=adaptation).fit(X[some], y[some], groups=groups[some])
        torchs = MAMLRegressor(adaptation=adaptation).fit(there[0][some], there[1][some], groups=groups[some])
        check(numpy.adapt(X, y, groups=groups).task_coef_, torchs.adapt(*there, groups=groups).task_coef_, 1e-6)
    return {
        "NumPy": lambda: numpy.adapt(X, y, groups=groups).predict(X, groups=groups),
        "torch": lambda: torchs.adapt(*there, groups=groups).predict(there[0], groups=groups),
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore", ConvergenceWarning)  # 20 steps are meant
    main()
