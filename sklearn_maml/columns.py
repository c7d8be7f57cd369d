"""Task ids that come with the rows: in a column of X, in its index, or in a Series that is looked up by that index."""

from numbers import Integral

import numpy as np
from scipy import sparse

from ._sklearn import safe_indexing


def split_column(X, column):
    """X without one of its columns, given by name or position, and the values of that column."""
    X = as_table(X)
    position = _position(X, column)
    others = [j for j in range(X.shape[1]) if j != position]
    return safe_indexing(X, others, axis=1), _values(X, position)


def ids_of_rows(X, source):
    """The rows' task ids: from the column `source` of X, its "index", or a Series looked up by that index."""
    if isinstance(source, str) and source == "index":
        return _index_of(X, "groups='index'")
    if hasattr(source, "index") and hasattr(source, "iloc"):
        return _look_up(source, _index_of(X, "groups given as a Series"))
    X = as_table(X)
    return _values(X, _position(X, source))


def as_table(X):
    """X as something with rows and columns; lists as an array of objects, in which all ids stay what they are."""
    if not hasattr(X, "shape"):
        X = np.array(X, dtype=object)
    if len(X.shape) != 2:
        raise ValueError(
            f"X must have rows and columns to hold task ids in a column, got shape {X.shape}. Reshape your data"
        )
    return X.tocsr() if sparse.issparse(X) else X


def _position(X, column):
    """Position of a column."""
    n_columns = X.shape[1]
    if isinstance(column, Integral) and not isinstance(column, bool):
        if not -n_columns <= column < n_columns:
            raise ValueError(f"there is no column {column} with task ids: X has {n_columns} columns")
        return int(column) % n_columns
    if not isinstance(column, str):
        raise TypeError(f"the column with task ids must be a name or a position, got {column!r}")
    if not hasattr(X, "columns"):
        raise ValueError(
            f"the task ids are looked for in a column named {column!r}, but X is a {type(X).__name__} without column "
            "names: give the column's position, or X as a DataFrame"
        )
    places = [j for j, name in enumerate(X.columns) if name == column]
    if len(places) != 1:
        raise ValueError(
            f"X must have one column named {column!r} with the task ids, but has {len(places)}; its columns are "
            f"{list(X.columns)}"
        )
    return places[0]


def _values(X, position):
    return X[:, [position]].toarray().ravel() if sparse.issparse(X) else safe_indexing(X, position, axis=1)


def _index_of(X, what):
    if not hasattr(X, "iloc"):
        raise ValueError(
            f"{what} needs X as a pandas DataFrame, whose index tells the rows' tasks, got a {type(X).__name__}. In a "
            "pipeline, transformers keep the frame with set_output(transform='pandas')"
        )
    return X.index


def _look_up(series, index):
    if not series.index.is_unique:
        raise ValueError("groups given as a Series must have an index without duplicates, to be looked up by it")
    position = series.index.get_indexer(index)
    if np.any(position < 0):
        missing = index[position < 0].tolist()
        raise ValueError(
            f"groups given as a Series hold no task for {len(missing)} rows of X, the first with index {missing[0]!r}"
        )
    return series.iloc[position].to_numpy()
