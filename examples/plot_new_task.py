"""
=======================================================
What a few rows tell about a new task, and how surely
=======================================================

How far one, three or eight labelled rows carry a new task, with a gradient step and with an implicit one, and how
uncertain the prediction still is.

The tasks are sixty simulated machines, whose wear grows with the hours they have run: each from its own level, and at
its own rate. The model is meta-trained on forty of them. The other twenty are new: of each, a few rows are known.
"""

# %%
# The tasks
# ---------

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import Ridge

from sklearn_maml import MAMLRegressor

rng = np.random.default_rng(0)
N_TASKS, N_ROWS = 60, 20
machine = np.repeat(np.arange(N_TASKS), N_ROWS)
hours = rng.uniform(0, 10, size=N_TASKS * N_ROWS)  # in thousands
level, rate = rng.normal(20, 4, size=N_TASKS), rng.normal(3, 1, size=N_TASKS)
wear = level[machine] + rate[machine] * hours + rng.normal(0, 2, size=len(machine))
X, old = hours[:, None], machine < 40

# %%
# Meta-train and adapt
# --------------------
#
# `fit` learns how machines differ: the covariance of level and rate (`task_covariance_`), and the noise. Adaptation
# weighs it against what the rows say. The implicit step also knows how uncertain it is.

gradient = MAMLRegressor().fit(X[old], wear[old], groups=machine[old])
implicit = MAMLRegressor(adaptation="implicit").fit(X[old], wear[old], groups=machine[old])
print(f"standard deviation of the rates: {np.sqrt(implicit.task_covariance_[0, 0]):.2f} (true: 1.00)")
print(f"standard deviation of the noise: {np.sqrt(implicit.noise_variance_):.2f} (true: 2.00)\n")

SUPPORT_SIZES = [0, 1, 2, 3, 5, 8]
METHODS = ["gradient", "implicit", "task alone", "pooled"]
order = np.argsort(rng.random((N_TASKS, N_ROWS)), axis=1) + N_ROWS * np.arange(N_TASKS)[:, None]
query = order[40:, max(SUPPORT_SIZES) :].ravel()  # the same rows for every number of support rows

error, coverage = {}, {}
for size in SUPPORT_SIZES:
    support = order[40:, :size].ravel()
    predicted = {"pooled": implicit.predict(X[query])}
    mean, std = implicit.predict(X[query], return_std=True)
    if size:
        adapted = implicit.adapt(X[support], wear[support], groups=machine[support])
        mean, std = adapted.predict(X[query], groups=machine[query], return_std=True)
        step = gradient.adapt(X[support], wear[support], groups=machine[support])
        predicted["gradient"] = step.predict(X[query], groups=machine[query])
        predicted["implicit"] = mean
        alone = np.empty(len(query))
        for new in range(40, N_TASKS):
            rows = order[new, :size]
            alone[machine[query] == new] = Ridge(1.0).fit(X[rows], wear[rows]).predict(X[query[machine[query] == new]])
        predicted["task alone"] = alone
    for method, value in predicted.items():
        error[method, size] = np.sqrt(np.mean((wear[query] - value) ** 2))
    coverage[size] = np.mean(np.abs(wear[query] - mean) < 1.645 * std)

# %%
# The table
# ---------
#
# Root mean squared error on rows of the new machines that no model has seen, and the share of them inside the interval
# that should hold 90 %. The gradient step is one step, however much the rows say: from three on, a regression on them
# alone is ahead of it. The implicit step is ahead of that regression throughout.

print("support rows" + "".join(f"{method:>12}" for method in METHODS) + "    inside 90 % interval")
for size in SUPPORT_SIZES:
    errors = "".join(f"{error[method, size]:12.2f}" if (method, size) in error else " " * 12 for method in METHODS)
    print(f"{size:>12}{errors}{100 * coverage[size]:21.0f} %")

# %%
# The picture
# -----------
#
# One new machine, whose rate is unlike the mean: what its first rows teach.

fig, axes = plt.subplots(1, 4, figsize=(13, 3.6), layout="constrained", sharey=True)
new = 40 + np.argmax(np.abs(rate[40:] - 3))
grid = np.linspace(0, 10, 50)[:, None]
for ax, size in zip(axes, [0, 1, 3, 8], strict=True):
    rows = order[new, :size]
    model, step = implicit, gradient
    if size:
        model, step = implicit.adapt(X[rows], wear[rows]), gradient.adapt(X[rows], wear[rows])
    mean, std = model.predict(grid, return_std=True)
    ax.fill_between(grid[:, 0], mean - 1.645 * std, mean + 1.645 * std, color="tab:blue", alpha=0.2, linewidth=0)
    ax.plot(grid[:, 0], mean, color="tab:blue", label="implicit step, with its 90 % interval")
    ax.plot(grid[:, 0], step.predict(grid), color="tab:orange", linestyle="--", label="gradient step")
    rest = order[new, size:]
    ax.plot(hours[rest], wear[rest], "o", markersize=4, color="tab:gray", alpha=0.6, label="its other rows")
    ax.plot(hours[rows], wear[rows], "s", color="black", label="its labelled rows")
    ax.set(xlabel="hours run (thousands)", title=f"{size} labelled rows" if size != 1 else "1 labelled row")
    ax.grid(alpha=0.3)
axes[0].set_ylabel("wear")
handles, labels = axes[-1].get_legend_handles_labels()
fig.legend(handles, labels, loc="outside lower center", ncols=4)
picture = sys.argv[1] if len(sys.argv) > 1 else "plot_new_task.png"
fig.savefig(picture, dpi=120)
print(f"\nPicture: {picture}")
