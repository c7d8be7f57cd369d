"""What the benchmarks of speed share: tables of simulated tasks, medians of interleaved repetitions, peak memory."""

import re
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

SHORTEST = 0.02
"""Seconds that a timed repetition takes at least: faster calls are repeated within it."""


def draw_tasks(m, n, d, seed=0):
    """Features (m, n, d) and targets (m, n) of m tasks of n rows that differ in their d coefficients."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((m, n, d))
    coef = 1 + 0.3 * rng.standard_normal((m, d, 1))
    return X, (X @ coef)[..., 0] / np.sqrt(d) + rng.standard_normal((m, n))


def draw_table(m, n, d, seed=0):
    """The same as a table, sorted by task: X (m n, d), y and groups (m n,)."""
    X, y = draw_tasks(m, n, d, seed)
    return X.reshape(-1, d), y.ravel(), np.repeat(np.arange(m), n)


def seconds(call, loops=1):
    """Mean seconds of one of these calls in a row."""
    start = time.perf_counter()
    for _ in range(loops):
        call()
    return (time.perf_counter() - start) / loops


def median_seconds(calls, repeats):
    """Median seconds of each of the named calls, made in turns."""
    rounds = [[seconds(call) for call in calls.values()]]
    loops = [1 + int(SHORTEST / first) for first in rounds[0]]
    while len(rounds) < repeats:
        rounds.append([seconds(call, n) for call, n in zip(calls.values(), loops, strict=True)])
    return dict(zip(calls, np.median(rounds, axis=0), strict=True))


def _memory_now(name):
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def _rise(prepare, *arguments):
    prepare(*arguments, tiny=True)()  # what is imported on first use is not memory that the data need
    call = prepare(*arguments)
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = _memory_now("VmRSS")
        with threadpool_limits(1):
            call()
        return _memory_now("VmHWM") - before
    except FileNotFoundError:
        return np.nan


def peak_memory(prepare, *arguments):
    """Bytes by which ``prepare(*arguments)()`` lets the memory of a process of its own rise above imports and data.

    ``prepare(*arguments, tiny=True)`` is the same call on hardly any data. NaN where the system is not Linux.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_rise, prepare, *arguments).result()


def print_table(title, columns, rows):
    """Print a Markdown table whose columns are as wide as their cells."""
    cells = [[str(cell) for cell in row] for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * (width - 1) + ":" for width in widths))
    print(f"\n{title}\n", *(f"| {line} |" for line in lines), sep="\n", flush=True)


def show(number, digits=3):
    """A number with so many significant digits, never in scientific notation."""
    return "-" if np.isnan(number) else np.format_float_positional(number, digits, fractional=False, trim="-")
