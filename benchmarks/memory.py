"""Peak memory of fit, adapt and predict, as a multiple of the input: X, y and groups.

Run ``python benchmarks/memory.py`` (Linux; ten minutes; up to 2 GB). Every case is a process of its own; 1.5 means that
half of the input is needed beside it. One thread.
"""

import warnings

import numpy as np
from measuring import draw_table, peak_memory, print_table, show
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.svm import LinearSVC

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, task_statistics

MEGABYTE = 1e6
GIVEN = {"inner_step_size": 0.05, "max_iter": 20}
MODELS = {
    "MAMLRegressor, learned": lambda: MAMLRegressor(max_iter=20),
    "MAMLRegressor, implicit": lambda: MAMLRegressor(adaptation="implicit", max_iter=20),
    "MAMLRegressor, full": lambda: MAMLRegressor(metric="full", max_iter=20),
    **{
        f"MAMLRegressor, {s}": lambda s=s: MAMLRegressor(solver=s, **GIVEN)
        for s in ("exact", "lbfgs", "newton-cg", "gd")
    },
    "MAMLRegressor, ode": lambda: MAMLRegressor(solver="ode", **GIVEN),
    "MAMLRegressorCV": lambda: MAMLRegressorCV(),
    "MAMLSVC, squared hinge": lambda: MAMLSVC(loss="squared_hinge", **GIVEN),
    "MAMLSVC, smooth hinge": lambda: MAMLSVC(loss="smooth_hinge", **GIVEN),
    "MAMLSVC, hinge": lambda: MAMLSVC(loss="hinge", **GIVEN),
    "MAMLSVC, learned": lambda: MAMLSVC(loss="squared_hinge", max_iter=20),
}
THEIRS = {"Ridge": Ridge, "LogisticRegression": LogisticRegression, "LinearSVC": LinearSVC}
"""Of scikit-learn, to compare with; they are given no tasks."""
LAYOUTS = "sorted", "shuffled", "Fortran", "float32", "CSR"


def draw(model, shape, megabytes, layout):
    """X, y, groups of so many megabytes."""
    n, d = shape
    width = 4 if layout == "float32" else 8
    m = max(3, round(megabytes * MEGABYTE / (n * (width * d + 16))))
    X, y, groups = draw_table(m, n, d)
    if "SVC" in model or "Logistic" in model:
        y = np.where(y > 0, 1, -1)
    if layout == "shuffled":
        order = np.random.default_rng(1).permutation(len(y))
        X, y, groups = X[order], y[order], groups[order]
    elif layout == "Fortran":
        X = np.asfortranarray(X)
    elif layout == "float32":
        X = X.astype(np.float32)
    elif layout == "CSR":
        X[np.random.default_rng(1).random(X.shape) < 0.9] = 0
        X = sparse.csr_array(X)
    return X, y, groups


def prepare(what, model, shape, megabytes, layout, tiny=False):
    """The call to measure."""
    warnings.simplefilter("ignore")
    X, y, groups = draw(model, shape, 0.0 if tiny else megabytes, layout)
    for part in (X.data, X.indices, X.indptr, y, groups) if sparse.issparse(X) else (X, y, groups):
        part.flags.writeable = False
    if what == "task_statistics":
        return lambda: task_statistics(X, y, groups)
    if model in THEIRS:
        return lambda: THEIRS[model]().fit(X, y)
    if what == "fit":
        return lambda: MODELS[model]().fit(X, y, groups=groups)
    n = 3 * shape[0]
    fitted = MODELS[model]().fit(X[:n], y[:n], groups=np.repeat([0, 1, 2], shape[0]))
    if what == "adapt":
        return lambda: fitted.adapt(X, y, groups=groups)
    adapted = fitted.adapt(X, y, groups=groups)
    return lambda: adapted.predict(X, groups=groups)


def ratio(what, model, shape, megabytes, layout):
    return show(1 + peak_memory(prepare, what, model, shape, megabytes, layout) / (megabytes * MEGABYTE))


def main():
    print(__doc__.splitlines()[0])
    few, many = (10, 20), (1000, 20)
    rows = []
    for model in (*MODELS, *THEIRS):
        size = 30 if "CV" in model else 100
        rows.append([model, *(ratio("fit", model, shape, size, "sorted") for shape in (few, many))])
    columns = ["fit", "tasks of 10 rows", "of 1000 rows"]
    print_table("Estimators and solvers: 100 MB (MAMLRegressorCV: 30), 20 features, sorted by task", columns, rows)
    models = "MAMLRegressor, exact", "MAMLRegressor, learned", "MAMLSVC, squared hinge", *THEIRS
    rows = [[layout, *(ratio("fit", model, few, 100, layout) for model in models)] for layout in LAYOUTS]
    print_table("Layouts: 100 MB, tasks of 10 rows", ["fit", *models], rows)
    rows = [
        [f"{size} MB", *(ratio("fit", model, (100, 20), size, "sorted") for model in models)] for size in (10, 50, 400)
    ]
    print_table("Sizes: tasks of 100 rows", ["fit", *models], rows)
    rows = []
    for what, model in [
        ("task_statistics", models[0]),
        ("adapt", models[0]),
        ("adapt", models[1]),
        ("adapt", models[2]),
        ("predict", models[0]),
    ]:
        of = "" if what == "task_statistics" else f", {model}"
        rows.append(
            [
                what + of,
                *(
                    ratio(what, model, shape, 100, layout)
                    for shape, layout in [(few, "sorted"), (few, "shuffled"), (many, "sorted")]
                ),
            ]
        )
    columns = ["of all tasks at once", "10 rows", "10 rows, shuffled", "1000 rows"]
    print_table("Adaptation and prediction: 100 MB", columns, rows)


if __name__ == "__main__":
    main()
