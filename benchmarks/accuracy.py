"""Numerical accuracy: how many digits are right on ill-conditioned tasks, measured with 50-digit arithmetic.

Run ``python benchmarks/accuracy.py`` (with the extra dev; three minutes). The truth is the minimiser of F for the same
rows and the same inner steps, by mpmath's QR decomposition. Beside it stand, in double precision, the textbook way,
least squares on the transformed rows Z_i = (I - s X_i X_i') X_i, and scikit-learn's LinearRegression and Ridge on all
rows, whose truth is their own, for orientation: there, too, digits are lost where the features are ill-conditioned.
"""

import warnings

import mpmath as mp
import numpy as np
from measuring import print_table
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression, Ridge

from sklearn_maml import MAMLRegressor, task_statistics
from sklearn_maml.training import ZERO_SHOT

mp.mp.dps = 50
SOLVERS = "exact", "lbfgs", "newton-cg", "gd", "ode"
PROBLEMS = [
    *[("condition", 10.0**k) for k in (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14)],
    *[("mean/std", 10.0**k) for k in (1, 2, 3, 4, 5, 6, 7, 8)],
    *[("units", 10.0**k) for k in (6, 12)],
    ("rows < features", 1.0),
    ("collinear", 1.0),
]


def draw(kind, size):
    """X, y, groups of tasks of this condition number, means that far from zero, units that different, or few rows."""
    rng = np.random.default_rng(0)
    m, n, d = (3, 2, 10) if kind == "rows < features" else (5, 12, 4)
    X = rng.normal(size=(m * n, d))
    groups = np.repeat(np.arange(m), n)
    coef = (1 + 0.3 * rng.normal(size=(m, d)))[groups]
    y = np.sum(X * coef, axis=1) + rng.normal(size=m * n)
    if kind == "condition":
        rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
        X = X * np.geomspace(1, 1 / size, d) @ rotation
    elif kind == "mean/std":
        X = X + size
    elif kind == "units":
        X = X * np.geomspace(size**-0.5, size**0.5, d)
    elif kind == "collinear":
        X = np.round(X, 1) * 10 / 16  # such that the difference is without a rounding error
        X[:, -1] = X[:, 0] - X[:, 1]
    return X, y, groups


def precise(array):
    return mp.matrix(np.asarray(array, dtype=float).tolist())


def with_ones(X):
    return np.column_stack([X, np.ones(len(X))])


def least_squares(R, z, kind):
    """Minimiser of norm(R w - z), of least norm."""
    if kind == "collinear":  # which direction is flat is known
        d = R.cols
        Q, _ = mp.qr(mp.matrix([1, -1] + [0] * (d - 4) + [-1, 0]))
        basis = Q[:, 1:]
        return basis * least_squares(R * basis, z, None)
    if R.rows >= R.cols:
        Q, U = mp.qr(R, mode="skinny")
        return mp.lu_solve(U, Q.T * z)
    Q, U = mp.qr(R.T, mode="skinny")
    return Q * mp.lu_solve(U.T, z)


def stacked(parts):
    return mp.matrix([row for part in parts for row in part.tolist()])


def minimiser(X, y, groups, metrics, kind, zero_shot=0.0):
    """Of mean_i norm(X_i (w - A_i grad f_i(w)) - y_i)^2 / n_i, and zero_shot times the same without A_i."""
    rows, targets = [], []
    for task, A in zip(np.unique(groups), metrics, strict=True):
        R, z = precise(with_ones(X[groups == task])), precise(y[groups == task, None])
        left = mp.eye(R.rows) - R * A * R.T * 2 / R.rows  # of the residuals after the step
        rows += [left * R] + ([mp.sqrt(zero_shot) * R] if zero_shot else [])
        targets += [left * z] + ([mp.sqrt(zero_shot) * z] if zero_shot else [])
    return least_squares(stacked(rows), stacked(targets), kind)


def learned_metrics(model):
    """A_i of the explicit or implicit step, w' = w - A_i grad f_i(w), of the prior as it is in the fitted estimator."""
    prior, d = model._prior, len(model.coef_) + 1
    basis = mp.eye(d)
    for j, mean in enumerate(prior.basis.tolist()):
        basis[d - 1, j] = -mp.mpf(mean)
    G = basis * mp.diag([mp.mpf(v) for v in prior.variance[:, 0].tolist()]) * basis.T
    return [mp.mpf(factor) * G for factor in model.inner_step_size_.tolist()]


def implicit(A, R):
    """(A^-1 + H)^-1 = A - A U (I + U'A U)^-1 U'A where H = U U'."""
    U = R.T * mp.sqrt(mp.mpf(2) / R.rows)
    return A - A * U * mp.inverse(mp.eye(R.rows) + U.T * A * U) * U.T * A


def digits(found, true, X):
    """Digits of the worst coefficient / of the predictions on the rows of training; at most 16."""
    d, found, R = X.shape[1], precise(np.reshape(found, (-1, 1))), precise(with_ones(X))
    errors = (
        max(abs(found[j] - true[j]) / abs(true[j]) for j in range(d)),
        mp.norm(R * (found - true)) / mp.norm(R * true),
    )
    return "/".join(f"{float(-mp.log10(min(max(error, 1e-16), 1))):.0f}" for error in errors)


def fitted(X, y, groups, way="fit", **parameters):
    """The fitted estimator, and whether it warned that digits are lost or that it did not converge."""
    model = MAMLRegressor(**{"max_iter": 10_000, "tol": 1e-12} | parameters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if way == "fit":
            model.fit(X, y, groups=groups)
        elif way == "statistics":
            model.fit_statistics(task_statistics(X, y, groups))
        else:
            for part in np.array_split(np.random.default_rng(2).permutation(len(y)), 4):
                model.partial_fit(X[part], y[part], groups=groups[part])
    return model, any(w.category is ConvergenceWarning or "digits" in str(w.message) for w in caught)


def cell(true, X, y, groups, **how):
    try:
        model, warned = fitted(X, y, groups, **how)
    except ValueError:
        return "error"
    return digits(np.append(model.coef_, model.intercept_), true, X) + "!" * warned


def of_learned_step(X, y, groups, kind, adaptation):
    try:
        model, warned = fitted(X, y, groups, adaptation=adaptation)
    except ValueError:
        return "error"
    if model._prior is None:
        return "-"
    metrics = learned_metrics(model)
    if adaptation == "implicit":
        metrics = [implicit(A, precise(with_ones(X[groups == task]))) for task, A in enumerate(metrics)]
    true = minimiser(X, y, groups, metrics, kind, ZERO_SHOT)
    return digits(np.append(model.coef_, model.intercept_), true, X) + "!" * warned


def textbook(X, y, groups, step):
    """Least squares on the transformed rows."""
    rows, targets = [], []
    for task in np.unique(groups):
        R, z = with_ones(X[groups == task]), y[groups == task]
        left = np.eye(len(R)) - 2 * step / len(R) * R @ R.T
        rows.append(left @ R)
        targets.append(left @ z)
    return np.linalg.lstsq(np.concatenate(rows), np.concatenate(targets), rcond=None)[0]


def of_scikit_learn(X, y, kind):
    """LinearRegression and Ridge(alpha=1e-3), each beside its own truth."""
    R, z, d = precise(with_ones(X)), precise(y[:, None]), X.shape[1]
    model = LinearRegression(tol=1e-14).fit(X, y)
    yield digits(np.append(model.coef_, model.intercept_), least_squares(R, z, kind), X)
    penalty = mp.diag([mp.sqrt(mp.mpf("0.001"))] * d + [0])[:d, :]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = Ridge(alpha=1e-3).fit(X, y)
    true = least_squares(stacked([R, penalty]), stacked([z, mp.zeros(d, 1)]), None)
    yield digits(np.append(model.coef_, model.intercept_), true, X) + "!" * bool(caught)


def main():
    by_solver, by_way = [], []
    for kind, size in PROBLEMS:
        name = kind if size == 1 and kind != "condition" else f"{kind} {size:.0e}"
        X, y, groups = draw(kind, size)
        tasks = np.unique(groups)
        step = 0.25 / max(np.linalg.norm(with_ones(X[groups == i]), 2) ** 2 * 2 / np.sum(groups == i) for i in tasks)
        metrics = [mp.mpf(step) * mp.eye(X.shape[1] + 1)] * len(tasks)
        true = minimiser(X, y, groups, metrics, kind)
        given = {"inner_step_size": step}
        exact, *others = [cell(true, X, y, groups, solver=solver, **given) for solver in SOLVERS]
        of_rows = digits(textbook(X, y, groups, step), true, X)
        rest = of_scikit_learn(X, y, kind) if X.shape[1] < len(X) else ["-", "-"]
        by_solver.append([name, exact, *others, of_rows, *rest])
        single = X.astype(np.float32)
        ways = [cell(true, X, y, groups, way=way, **given) for way in ("statistics", "partial_fit")]
        if np.all(single.std(axis=0) > 0) and (kind != "mean/std" or size < 1e6):
            ways.append(cell(minimiser(single, y, groups, metrics, kind), single, y, groups, **given))
        else:  # nothing of the features is left
            ways.append("-")
        learned = [of_learned_step(X, y, groups, kind, adaptation) for adaptation in ("gradient", "implicit")]
        by_way.append([name, exact, *ways, *learned])
    print(__doc__.splitlines()[0])
    print("Of each cell: digits of the worst coefficient / digits of the predictions; ! where there was a warning.")
    columns = ["problem", *SOLVERS, "lstsq on Z", "LinearRegression", "Ridge"]
    print_table("Given inner step, 1 / (4 L): solvers (tol=1e-12), and other ways", columns, by_solver)
    columns = ["problem", "fit", "fit_statistics", "partial_fit", "float32 X", "learned step", "implicit"]
    print_table("Solver exact: from rows, statistics, chunks; the learned step", columns, by_way)


if __name__ == "__main__":
    main()
