"""Axes to draw on: those given, or new ones."""

import numpy as np


def axes_for(display, ax, n_axes=1):
    """The `n_axes` axes to draw on, as a list, new ones if `ax` is None; raises if matplotlib is not installed."""
    name = type(display).__name__
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(f'{name}.plot needs matplotlib: pip install "sklearn-maml[examples]"') from error
    if ax is None:
        width = 6.4 if n_axes == 1 else 4.8 * n_axes
        _, ax = plt.subplots(1, n_axes, figsize=(width, 4.2), layout="constrained")
    axes = list(np.atleast_1d(np.asarray(ax, dtype=object)).ravel())
    if len(axes) != n_axes:
        raise ValueError(f"{name}.plot draws on {n_axes} axes, got {len(axes)}: pass that many, or ax=None")
    return axes


def neutral():
    """The colour of text: black on a light background, white on a dark one."""
    import matplotlib.pyplot as plt

    return plt.rcParams["text.color"]
