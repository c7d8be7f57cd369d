"""Checks of arguments, and the two shapes of parameters: (d, k) inside, coef_ and intercept_ outside."""

import numpy as np
from numpy.typing import ArrayLike
from scipy import sparse
from sklearn.utils import check_array, check_random_state
from sklearn.utils.validation import check_non_negative

from ._sklearn import is_dispatched
from .arrays import contiguous, in_double, is_numpy, like, namespace, to_host

Matrix = ArrayLike | sparse.spmatrix | sparse.sparray

_ENGINES = ("dask", "dask_expr", "pyspark", "ray")


def check_is_local(caller, **given):
    """Raise if something given is spread over a cluster: NumPy would download it."""
    for name, value in given.items():
        engine = type(value).__module__.partition(".")[0]
        if engine in _ENGINES:
            raise TypeError(
                f"{caller} got a {engine} {type(value).__name__} as {name}, and would have to download all of it. Make "
                "statistics where the data is, with sklearn_maml.task_statistics, and give their sum to "
                "MAMLRegressor.fit_statistics; predict and adapt partition by partition. Recipes for each engine: "
                "https://sklearn-maml.readthedocs.io/en/stable/scaling.html"
            )


def check_weight(sample_weight, n_rows):
    """Row weights as NumPy array of shape (n_rows,); None is ones."""
    if sample_weight is None:
        return np.ones(n_rows)
    if np.isscalar(sample_weight):
        sample_weight = np.full(n_rows, sample_weight)
    weight = check_array(to_numpy(sample_weight), ensure_2d=False, dtype=np.float64, input_name="sample_weight")
    if weight.shape != (n_rows,):
        raise ValueError(f"sample_weight must hold one weight for each of {n_rows} rows, got shape {weight.shape}")
    check_non_negative(weight, "sample_weight")
    if not np.any(weight):
        raise ValueError("all weights in sample_weight are zero: no row is left")
    if not np.isfinite(weight.sum()):
        raise ValueError("the weights in sample_weight are too large: their sum overflows")
    return weight


def to_numpy(numbers):
    """What may be an array of another library, in NumPy if scikit-learn would not make it so."""
    return to_host(numbers) if is_dispatched(numbers) else numbers


def check_inner_step_size(step_size, n_parameters):
    """The inner step size as "auto", a number, or an array of shape (n_parameters,)."""
    if isinstance(step_size, str):
        return step_size
    if np.ndim(step_size) == 0:
        return float(step_size)
    steps = check_array(to_numpy(step_size), ensure_2d=False, dtype=np.float64, input_name="inner_step_size")
    check_non_negative(steps, "inner_step_size")
    if steps.shape != (n_parameters,):
        raise ValueError(
            f"inner_step_size must be a number, 'auto' or one number for each of {n_parameters} parameters "
            f"(coefficients, then the intercept if there is one), got shape {steps.shape}"
        )
    return steps


def initial_parameters(init, random_state, d, k):
    """The parameters, of shape (d, k), that `init` stands for."""
    if isinstance(init, str):
        return np.zeros((d, k)) if init == "zeros" else check_random_state(random_state).standard_normal((k, d)).T
    parameters = check_array(to_numpy(init), ensure_2d=False, dtype=np.float64, input_name="init")
    if parameters.shape != (k, d) and (k > 1 or parameters.shape != (d,)):
        raise ValueError(
            f"init must hold {d} parameters (coefficients, then the intercept if there is one) for each of {k} "
            f"output(s), got shape {parameters.shape}"
        )
    return parameters.reshape(k, d).T


def to_parameters(coef, intercept, *, one_output, fit_intercept):
    """Parameters (..., d, k) out of coefficients and intercepts in their public shapes."""
    xp, parameters = namespace(coef), in_double(coef)
    if fit_intercept:
        level = xp.reshape(in_double(intercept), (*parameters.shape[:-1], 1))
        parameters = xp.concat([parameters, level], axis=-1)
    if one_output:
        parameters = parameters[..., None, :]
    return parameters.mT


def from_parameters(W, like_X, *, one_output, fit_intercept):
    """Coefficients and intercepts in their public shapes out of parameters (..., d, k), of the type of X, where it is.

    W is NumPy's, or where X is.
    """
    xp = namespace(like_X)
    with np.errstate(over="ignore"):
        parameters = xp.asarray(like(W, like_X).mT, dtype=like_X.dtype, copy=True)
    if not xp.all(xp.isfinite(parameters)):
        raise ValueError(f"the parameters leave the range of {like_X.dtype}: scale X or y")
    if one_output:
        parameters = parameters[..., 0, :]
    coef, intercept = parameters, xp.zeros_like(parameters[..., 0])
    if fit_intercept:
        coef, intercept = contiguous(parameters[..., :-1]), contiguous(parameters[..., -1])
    return coef, intercept[()] if is_numpy(intercept) else intercept
