"""Fitting, adapting and predicting: tables of (tasks, rows of a task, features)."""

import pickle

import numpy as np

from sklearn_maml import MAMLSVC, MAMLRegressor, MAMLRegressorCV, task_statistics

FEW, MANY, WIDE = (20, 50, 10), (2000, 20, 10), (50, 30, 200)


def draw(size):
    """Rows X (m n, d), y and groups (m n,) of m tasks that differ in their coefficients."""
    m, n, d = size
    rng = np.random.default_rng(0)
    X = rng.standard_normal((m, n, d))
    y = (X @ (1 + 0.3 * rng.standard_normal((m, d, 1))))[..., 0] / np.sqrt(d) + rng.standard_normal((m, n))
    return X.reshape(-1, d), y.ravel(), np.repeat(np.arange(m), n)


class Regressor:
    """MAMLRegressor: both adaptations."""

    params = ([FEW, MANY, WIDE], ["gradient", "implicit"])
    param_names = ("size", "adaptation")

    def setup(self, size, adaptation):
        self.X, self.y, self.groups = draw(size)
        self.model = MAMLRegressor(adaptation=adaptation)
        self.fitted = MAMLRegressor(adaptation=adaptation).fit(self.X, self.y, self.groups)
        self.adapted = self.fitted.adapt(self.X, self.y, self.groups)

    def time_fit(self, size, adaptation):
        self.model.fit(self.X, self.y, self.groups)

    def time_adapt_one(self, size, adaptation):
        self.fitted.adapt(self.X[:5], self.y[:5])

    def time_adapt_all(self, size, adaptation):
        self.fitted.adapt(self.X, self.y, self.groups)

    def time_predict_by_task(self, size, adaptation):
        self.adapted.predict(self.X, self.groups)

    def peakmem_fit(self, size, adaptation):
        self.model.fit(self.X, self.y, self.groups)

    def track_pickle(self, size, adaptation):
        return len(pickle.dumps(self.fitted))

    track_pickle.unit = "bytes"


class Descent:
    """MAMLRegressor with a given step: the solvers."""

    params = ["exact", "lbfgs", "newton-cg", "gd", "ode"]
    param_names = ("solver",)

    def setup(self, solver):
        self.data = draw(FEW)
        self.model = MAMLRegressor(solver=solver, inner_step_size=0.05, l2_regularization=0.01, tol=1e-4)

    def time_fit(self, solver):
        self.model.fit(*self.data)


class SVC:
    """MAMLSVC: the losses."""

    params = ([FEW, (200, 20, 10)], ["squared_hinge", "smooth_hinge", "hinge"])
    param_names = ("size", "loss")

    def setup(self, size, loss):
        X, y, groups = draw(size)
        self.data = X, y > 0, groups
        self.model = MAMLSVC(loss=loss)

    def time_fit(self, size, loss):
        self.model.fit(*self.data)


class Choice:
    """MAMLRegressorCV: numbers are chosen by a formula, "auto" takes folds."""

    params = [0.1, "auto"]
    param_names = ("inner_step_size",)

    def setup(self, inner_step_size):
        self.data = draw(FEW)
        self.model = MAMLRegressorCV(inner_step_sizes=[inner_step_size], l2_regularizations=[0.0, 0.1])

    def time_fit(self, inner_step_size):
        self.model.fit(*self.data)


class Statistics:
    """What the squared loss needs of rows: making, adding and fitting it."""

    params = ([MANY, WIDE],)
    param_names = ("size",)

    def setup(self, size):
        self.data = draw(size)
        self.parts = [task_statistics(*(part[i::4] for part in self.data)) for i in range(4)]
        self.total = sum(self.parts)

    def time_make(self, size):
        task_statistics(*self.data)

    def time_add(self, size):
        sum(self.parts)

    def time_fit(self, size):
        MAMLRegressor().fit_statistics(self.total)


class Import:
    """How long the package takes to be imported, beside scikit-learn."""

    def timeraw_import(self):
        return "import sklearn_maml"

    def timeraw_import_sklearn(self):
        return "import sklearn"
