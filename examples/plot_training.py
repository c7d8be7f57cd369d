"""
===========================================
What meta-training does, and what it costs
===========================================

MAML descends F, the loss after adaptation; BI-MAML first descends f, the loss before it, whose gradient needs no
Hessian, and changes to F when it has become small. Here both do so step by step, from the same start and with the same
meta step size, and so does first-order MAML, which leaves the Hessian out for good.

The tasks are sixty simulated regressions of two features, whose coefficients differ, and whose features spread more in
one task than in the other.
"""

# %%
# The fits
# --------
#
# The solver "gd" takes the steps of the paper. (The default for the squared loss, "exact", is at the minimum in one.)

import sys

import matplotlib.pyplot as plt
import numpy as np

from sklearn_maml import MAMLRegressor
from sklearn_maml.inspection import LossLandscapeDisplay, MetaTrainingDisplay

rng = np.random.default_rng(1)
spread, coef = rng.uniform(0.5, 2.0, size=60), rng.normal([2.0, -1.0], size=(60, 2))
task = np.repeat(np.arange(60), 15)
X = spread[task, None] * rng.normal(size=(900, 2)) @ [[1.0, 0.6], [0.0, 0.8]]
y = np.sum(X * coef[task], axis=1) + 0.5 * rng.normal(size=900)

common = {
    "solver": "gd",
    "inner_step_size": 0.08,
    "meta_step_size": 0.05,
    "fit_intercept": False,
    "init": [-4.0, 5.0],
    "switch_tol": 0.5,
    "tol": 1e-6,
}
fits = {
    name: MAMLRegressor(algorithm=algorithm, **common).fit(X, y, groups=task)
    for name, algorithm in {"MAML": "maml", "BI-MAML": "bimaml", "first-order MAML": "fomaml"}.items()
}

# %%
# The table
# ---------
#
# An evaluation of the gradient of F takes two gradients of every task and a product with its Hessian. BI-MAML saves
# some at the start, and no more than that: close to the minimum both take the same steps. First-order MAML takes none,
# and arrives somewhere else.

exact = MAMLRegressor(algorithm="maml", **common | {"solver": "exact"}).fit(X, y, groups=task)
print("                  iterations   gradients   Hessian products   F above its minimum   coefficients")
for name, model in fits.items():
    history = model.history_
    above = history["objective"][-1] - exact.history_["objective"][-1]
    print(
        f"{name:>16}{model.n_iter_:>12}{history['n_gradients'][-1]:>12}{history['n_hessp'][-1]:>19}"
        f"{max(above, 0):>22.1e}   {model.coef_.round(3)}"
    )

# %%
# The picture
# -----------
#
# Above, F and the norm of the gradient that is descended, by the gradients that were taken; below, f and F around their
# minima, which are not the same.

fig, axes = plt.subplots(2, 2, figsize=(10, 8), layout="constrained")
MetaTrainingDisplay.from_estimator(fits, ax=axes[0], x="n_gradients")
LossLandscapeDisplay.from_estimator(fits["MAML"], X, y, groups=task, points="plane", ax=axes[1])
picture = sys.argv[1] if len(sys.argv) > 1 else "plot_training.png"
fig.savefig(picture, dpi=120)
print(f"\nPicture: {picture}")
