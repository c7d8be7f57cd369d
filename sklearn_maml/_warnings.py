"""What fit and adapt warn of."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from .exceptions import SingleTaskWarning

_ONE_TASK = (
    "{} got no groups, so all rows are ONE task and nothing is learned across tasks. Pass groups=, one task id a row. "
    "With scikit-learn's metadata routing off, groups given to cross_validate, GridSearchCV.fit or Pipeline.fit do not "
    "reach fit: use cross_validate(..., params={{'groups': g}}) or pipe.fit(X, y, step__groups=g), in a search over a "
    "Pipeline search.fit(X, y, groups=g, step__groups=g); or turn routing on, which always works: "
    "sklearn.set_config(enable_metadata_routing=True). Where only X and y are handed on, as in a VotingRegressor, wrap "
    "the estimator in sklearn_maml.compose.GroupsFromColumn."
)
_NO_PRIOR = (
    "inner_step_size='auto' could not learn how tasks differ from {} tasks with {} parameters: it takes more rows "
    "(total sample_weight) than parameters, tasks of more than one row, a target that varies, and at most 500 "
    "parameters. Adaptation falls back to one step of 1 / (2 L) for all parameters. Give a number as inner_step_size "
    "to choose it yourself."
)


def warn_of_one_task(estimator, groups, stacklevel=3):
    """Warn if there are no groups."""
    if groups is None:
        warnings.warn(_ONE_TASK.format(type(estimator).__name__), SingleTaskWarning, stacklevel=stacklevel)


def warn_unless_converged(result, stacklevel):
    if not result.success:
        warnings.warn(f"Meta-training did not converge: {result.message}.", ConvergenceWarning, stacklevel=stacklevel)


def warn_without_prior(estimator, tasks, stacklevel=3):
    """Warn if there are several tasks, but nothing was learned of how they differ."""
    if tasks.shape[0] > 1 and estimator._learns_prior() and estimator._prior is None:
        warnings.warn(_NO_PRIOR.format(*tasks.shape[:2]), UserWarning, stacklevel=stacklevel)


def warn_of_overshooting(step_size, safe):
    """Warn if a number as step size is too long for the curvature of some tasks' support."""
    if isinstance(step_size, str) or np.ndim(step_size) or not np.any(step_size > 2 * safe):
        return
    warnings.warn(
        f"inner_step_size={step_size:.3g} overshoots on the support of {np.sum(step_size > 2 * safe)} task(s): their "
        f"loss is too curved for it, so that the step increases it. Use at most {np.min(safe):.3g}, or 'auto'.",
        UserWarning,
        stacklevel=3,
    )
