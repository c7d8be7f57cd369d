"""
====================================================
Adapting to a new group of patients from a few rows
====================================================

How to meta-train on three tasks, adapt to a fourth from a handful of its rows, and find out whether that pays.

The tasks are four groups of patients in scikit-learn's Diabetes data: sex times age (above the mean or not), with sex
and age left out of the features. Each group in turn plays the new task. The adapted model is compared with the same
model before adaptation, with one ridge regression on the three other groups (pooled), and with a ridge regression on
the few rows alone. The four groups differ little, so this is a hard case for adaptation: see the table.
"""

# %%
# The tasks
# ---------

import sys

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.metrics import mean_squared_error
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_maml import MAMLRegressor, adapt

data = load_diabetes(scaled=False)
age, sex = data.data[:, 0], data.data[:, 1]
X, y = data.data[:, 2:], data.target
groups = 2 * (sex == 2).astype(int) + (age > age.mean())
names = [f"sex {s}, age {side} {age.mean():.1f}" for s in (1, 2) for side in ("up to", "above")]

# %%
# Meta-train, adapt, compare
# --------------------------
#
# Whatever is learned before the new task arrives, the scaling of the features included, is learned from the other
# three. Of the new task, at most 20 rows are support; the rest are query rows, the same for every number of support
# rows, on which nothing is ever fitted. The draw of the support is repeated.

SUPPORT_SIZES = [1, 2, 5, 10, 20]
METHODS = ["no adaptation", "pooled ridge", "task alone", "adapted"]
N_DRAWS = 40

error = np.empty((len(METHODS), len(SUPPORT_SIZES), len(names), N_DRAWS))
for task in range(len(names)):
    train, new = groups != task, np.flatnonzero(groups == task)
    model = make_pipeline(StandardScaler(), MAMLRegressor())
    model.fit(X[train], y[train], mamlregressor__groups=groups[train])
    scaler = model[0]
    Z = scaler.transform(X)
    pooled = RidgeCV(np.logspace(-2, 4, 13)).fit(Z[train], y[train])
    for draw in range(N_DRAWS):
        rows = np.random.default_rng([task, draw]).permutation(new)
        query = rows[max(SUPPORT_SIZES) :]
        error[0, :, task, draw] = mean_squared_error(y[query], model.predict(X[query]))
        error[1, :, task, draw] = mean_squared_error(y[query], pooled.predict(Z[query]))
        for i, size in enumerate(SUPPORT_SIZES):
            support = rows[:size]
            # penalty 10: of 1, 3, 10 and 30 the one that serves best here, which favours the task alone
            alone = Ridge(alpha=10).fit(Z[support], y[support])
            error[2, i, task, draw] = mean_squared_error(y[query], alone.predict(Z[query]))
            adapted = adapt(model, X[support], y[support])
            error[3, i, task, draw] = mean_squared_error(y[query], adapted.predict(X[query]))

# %%
# The table, and who wins
# -----------------------
#
# The last columns say whether adaptation paid: its change of the error against pooled ridge, with the standard error
# over the draws, and in how many of the new tasks the error fell.

mean = error.mean(axis=(2, 3))
difference = error[3] - error[1]
per_cent = 100 / mean[1, :, None, None] * difference
change = per_cent.mean(axis=(1, 2))
noise = per_cent.mean(axis=1).std(axis=1, ddof=1) / np.sqrt(N_DRAWS)
n_better = np.sum(difference.mean(axis=2) < 0, axis=1)

print(f"Mean squared error on query rows, mean over {len(names)} new tasks and {N_DRAWS} draws of their support\n")
print("support rows" + "".join(f"{method:>15}" for method in METHODS) + "    adapted against pooled ridge")
for i, size in enumerate(SUPPORT_SIZES):
    verdict = f"{change[i]:+5.1f} % (± {noise[i]:.1f}), better in {n_better[i]} of {len(names)} tasks"
    print(f"{size:>12}" + "".join(f"{value:15.0f}" for value in mean[:, i]) + "    " + verdict)

winners = {}
for size, best in zip(SUPPORT_SIZES, mean.argmin(axis=0), strict=True):
    winners.setdefault(METHODS[best], []).append(str(size))
print("\nSmallest error: " + "; ".join(f"{name} with {', '.join(sizes)} rows" for name, sizes in winners.items()) + ".")

# %%
# The picture
# -----------

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
styles = [("tab:gray", "--", ""), ("black", "-", ""), ("tab:orange", "-", "s"), ("tab:blue", "-", "o")]
for method, value, (color, line, marker) in zip(METHODS, mean, styles, strict=True):
    left.plot(SUPPORT_SIZES, value, color=color, linestyle=line, marker=marker, label=method)
left.set(yscale="log", ylabel="mean squared error (points of the score, squared)")
left.set(title="Error, mean over the four new tasks", yticks=[3000, 4000, 6000, 8000, 12000])
left.yaxis.set_major_formatter("{x:.0f}")

by_task = 100 * difference.mean(axis=2) / error[1].mean(axis=2)
for name, line, color in zip(names, by_task.T, plt.cm.viridis(np.linspace(0, 0.85, len(names))), strict=True):
    right.plot(SUPPORT_SIZES, line, color=color, marker=".", linewidth=1, label=name)
right.errorbar(
    SUPPORT_SIZES,
    change,
    noise,
    color="tab:blue",
    marker="o",
    linewidth=2.5,
    capsize=4,
    label="all four (± standard error)",
)
right.axhline(0, color="black", label="pooled ridge")
right.set(ylabel="change of the error (%), below 0 is better", title="Adapted against pooled ridge, by new task")

for ax in (left, right):
    ax.set(xscale="log", xlabel="support rows of the new task", xticks=SUPPORT_SIZES, xticklabels=SUPPORT_SIZES)
    ax.minorticks_off()
    ax.grid(alpha=0.3)
left.legend()
low, high = by_task.min(), by_task.max()
right.set_ylim(low - 0.45 * (high - low), high + 0.1 * (high - low))  # room for the legend
right.legend(ncols=2, loc="lower left")
picture = sys.argv[1] if len(sys.argv) > 1 else "plot_diabetes.png"
fig.savefig(picture, dpi=120)
print(f"Picture: {picture}")
