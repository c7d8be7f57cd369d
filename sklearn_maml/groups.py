"""Task ids: from whatever the column `groups` holds to the numbers 0, ..., m - 1."""

from datetime import date

import numpy as np
from scipy import sparse

SAMPLE = 1_000
"""Rows that are looked at to see whether ids come in runs."""


def encode_groups(groups, n_rows):
    """Number the tasks.

    Parameters
    ----------
    groups : array-like of shape (n_rows,)
        Task ids: integers, strings, dates, categories, any hashable objects.
    n_rows : int
        Number of rows that need an id.

    Returns
    -------
    codes : ndarray of int of shape (n_rows,)
        Each row's position in `tasks`.
    tasks : ndarray of shape (n_tasks,)
        The different ids: sorted, or in order of appearance where they cannot be compared.

    Raises
    ------
    ValueError
        If the length is wrong, or an id is missing.
    """
    # a list that mixes strings with numbers or None must not become strings
    ids = np.fromiter(groups, object, len(groups)) if isinstance(groups, list | tuple) else np.asarray(groups)
    if ids.ndim == 2 and ids.shape[1] == 1:
        ids = ids[:, 0]
    if ids.shape != (n_rows,):
        raise ValueError(
            f"groups must hold one task id for each of the {n_rows} rows, got {type(groups).__name__} of shape "
            f"{ids.shape}"
        )
    if ids.dtype.kind in "OT":
        return _encode_objects(ids)
    tasks, codes = _encode_plain(ids)
    if ids.dtype.kind in "fcMm" and np.any(tasks != tasks):
        _raise_missing(np.flatnonzero(ids != ids))
    return codes, _in_common_unit(tasks)


def _encode_plain(ids):
    """Sorted tasks and codes, by the fastest of four ways."""
    n = len(ids)
    sample = ids[:SAMPLE]
    if n > 1 and np.mean(sample[1:] != sample[:-1]) < 0.5:  # in runs: only the first of each needs a look
        firsts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
        if len(firsts) < n / 2:
            tasks, codes = _encode_plain(ids[firsts])
            return tasks, np.repeat(codes, np.diff(firsts, append=n))
    if ids.dtype.kind in "iu" and n:
        lowest, highest = int(ids.min()), int(ids.max())
        if highest - lowest < 2 * n and highest <= np.iinfo(np.int64).max:  # dense: count
            offset = ids.astype(np.int64) - lowest
            present = np.bincount(offset) > 0
            return (np.flatnonzero(present) + lowest).astype(ids.dtype), (np.cumsum(present) - 1)[offset]
    if ids.dtype.kind == "U":  # hashing strings is faster than sorting them
        codes, tasks = _encode_objects(ids)
        return tasks, codes
    return np.unique(ids, return_inverse=True)


def _encode_objects(ids):
    ids = ids.tolist() if ids.dtype.kind == "U" else ids.astype(object).tolist()
    try:
        number = {task: i for i, task in enumerate(dict.fromkeys(ids))}
    except TypeError:
        raise ValueError("groups must hold hashable task ids (strings, numbers, dates)") from None
    codes = np.fromiter(map(number.__getitem__, ids), np.intp, len(ids))
    missing = [code for i, code in number.items() if _is_missing(i)]
    if missing:
        _raise_missing(np.flatnonzero(np.isin(codes, missing)))
    tasks = _as_array(list(number))
    try:
        order = np.argsort(tasks, kind="stable")
    except TypeError:  # ids that cannot be compared stay in order of appearance
        return codes, tasks
    rank = np.empty(len(order), dtype=np.intp)
    rank[order] = np.arange(len(order))
    return rank[codes], tasks[order]


def _as_array(tasks):
    """Different ids of one plain type as an array of that type, others as objects."""
    array = np.fromiter(tasks, dtype=object, count=len(tasks))
    if all(isinstance(i, date) and getattr(i, "tzinfo", None) is None for i in tasks):
        plain = array.astype("datetime64[us]")
    elif len({type(i) for i in tasks}) == 1 and type(tasks[0]) in (str, int, bool, float):
        plain = np.array(tasks)
    else:
        return array
    different = len(set(plain.tolist())) == len(tasks)  # nanoseconds, integers beyond 64 bits may have become equal
    return plain if different else array


def rows_by_task(codes):
    """Numbers of the rows, sorted by task, or None if they are; where each task starts among them, and an end."""
    if np.all(codes[1:] >= codes[:-1]):
        return None, np.append(np.flatnonzero(np.diff(codes, prepend=-1)), len(codes))
    one_a_row = sparse.csr_array((np.zeros(len(codes), np.int8), codes, np.arange(len(codes) + 1)))
    by_task = one_a_row.tocsc()  # a counting sort
    return by_task.indices, by_task.indptr


def _in_common_unit(tasks):
    """Dates in microseconds, so that the same day is the same task in whatever type it came."""
    if tasks.dtype.kind == "M" and np.all(tasks.astype("datetime64[us]") == tasks):
        return tasks.astype("datetime64[us]")
    return tasks


def _is_missing(i):
    """Whether an id is None, NaN, NaT or pandas.NA."""
    if i is None:
        return True
    try:
        return bool(i != i)
    except TypeError:  # pandas.NA compares to NA, which is neither true nor false
        return True
    except ValueError:  # something like an array
        return False


def _raise_missing(rows):
    raise ValueError(
        f"groups holds missing task ids, for {len(rows)} rows, the first in row {rows[0]}: drop these rows or give "
        "them ids"
    )


def merge_tasks(tasks, more):
    """Position of each of `tasks`, then each of `more`, among the different ids of both; and those ids."""
    if tasks.dtype.kind != more.dtype.kind:
        tasks, more = tasks.astype(object), more.astype(object)
    return encode_groups(np.concatenate([tasks, more]), len(tasks) + len(more))


def find_tasks(groups, n_rows, tasks):
    """Position in `tasks` of each row's task, -1 for tasks that are not there.

    Raises
    ------
    ValueError
        If the ids are of another kind (strings instead of numbers, say) and so can never be found.
    """
    codes, ids = encode_groups(groups, n_rows)
    position = {task: i for i, task in enumerate(tasks.tolist())}
    found = np.array([position.get(i, -1) for i in ids.tolist()], dtype=np.intp)
    kinds = {{"U": "text", "M": "date"}.get(a.dtype.kind, "number") for a in (ids, tasks) if a.dtype.kind != "O"}
    if len(kinds) == 2 and np.all(found < 0):
        raise ValueError(f"groups holds ids of type {ids.dtype}, but the tasks known here are of type {tasks.dtype}")
    return found[codes]


def check_held_out_as_a_whole(train, test, tasks):
    """Raise if a split has rows of one task, given by their positions in `tasks`, on both sides."""
    both = np.intersect1d(train, test)
    if len(both):
        raise ValueError(
            f"cv puts rows of task {tasks.tolist()[both[0]]!r} on both sides of a split: tasks have to be held out as "
            "a whole, as a splitter by groups does, such as GroupKFold()"
        )
