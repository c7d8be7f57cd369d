"""Task ids out of a column, the index or a Series: whatever holds the rows, the same ids and the other columns."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from sklearn_maml.columns import ids_of_rows, split_column

NUMBERS = np.array([[0.5, 7, 1.0], [1.5, 3, 0.0], [0.0, 7, 2.0], [2.5, 0, 3.0]])
OTHERS = NUMBERS[:, [0, 2]]
NAMES = np.array(["g", "c", "g", "a"])
FRAME = pd.DataFrame({"price": NUMBERS[:, 0], "shop": NAMES, "size": NUMBERS[:, 2]}, index=[3, 1, 4, 5])
OBJECTS = FRAME.to_numpy(dtype=object)
POLARS = pl.DataFrame({"price": NUMBERS[:, 0], "shop": NAMES.tolist(), "size": NUMBERS[:, 2]})
SPARSE = [f"{fmt}_{kind}" for fmt in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia") for kind in ("array", "matrix")]

CONTAINERS = {
    "frame": FRAME,
    "polars": POLARS,
    "polars of categories": POLARS.with_columns(pl.col("shop").cast(pl.Categorical)),
    "objects": OBJECTS,
    "lists": OBJECTS.tolist(),
    "tuples": [tuple(row) for row in OBJECTS.tolist()],
}


def assert_split(X, column, ids):
    others, groups = split_column(X, column)
    others = others.toarray() if sparse.issparse(others) else np.asarray(others, dtype=float)
    assert_array_equal(others, OTHERS)
    assert_array_equal(np.asarray(groups), ids)
    assert_array_equal(np.asarray(ids_of_rows(X, column)), ids)


@pytest.mark.parametrize("column", [1, -2, np.int64(1)], ids=repr)
@pytest.mark.parametrize("name", CONTAINERS)
def test_position(name, column):
    assert_split(CONTAINERS[name], column, NAMES)


@pytest.mark.parametrize("X", [FRAME, POLARS], ids=["pandas", "polars"])
def test_name(X):
    assert_split(X, "shop", NAMES)
    assert_split(X, np.str_("shop"), NAMES)


@pytest.mark.parametrize("column", [1, -2])
@pytest.mark.parametrize("X", [NUMBERS, NUMBERS.astype(np.float32), NUMBERS.astype(int) * 1.0, NUMBERS.tolist()])
def test_numbers(X, column):
    expected = np.asarray(X)
    others, ids = split_column(X, column)
    assert_array_equal(np.asarray(others, dtype=expected.dtype), expected[:, [0, 2]])
    assert_array_equal(np.asarray(ids, dtype=expected.dtype), expected[:, 1])
    if isinstance(X, np.ndarray):
        assert others.dtype == ids.dtype == X.dtype


@pytest.mark.filterwarnings("ignore::scipy.sparse.SparseEfficiencyWarning")
@pytest.mark.parametrize("column", [1, -2])
@pytest.mark.parametrize("kind", SPARSE)
def test_sparse(kind, column):
    X = getattr(sparse, kind)(NUMBERS)
    assert_split(X, column, NUMBERS[:, 1])  # a zero that is not stored is an id like others
    assert sparse.issparse(split_column(X, column)[0])


def test_every_position():
    for position in range(-3, 3):
        others, ids = split_column(NUMBERS, position)
        assert_array_equal(others, np.delete(NUMBERS, position, axis=1))
        assert_array_equal(ids, NUMBERS[:, position])


@pytest.mark.parametrize(
    "ids",
    [
        pd.Categorical(NAMES),
        pd.array(NAMES, dtype="string"),
        pd.array([7, 3, 7, 0], dtype="Int64"),
        pd.to_datetime(["2020-01-07", "2020-01-03", "2020-01-07", "2020-01-01"]),
        [datetime.date(2020, 1, day) for day in (7, 3, 7, 1)],
        [("a", 7), ("a", 3), ("a", 7), ("b", 0)],
        [True, False, True, False],
    ],
    ids=["category", "string", "Int64", "timestamp", "date", "tuple", "bool"],
)
def test_ids_stay_what_they_are(ids):
    frame = FRAME.assign(shop=ids)
    others, groups = split_column(frame, "shop")
    assert groups.tolist() == list(ids)
    assert groups.dtype == frame["shop"].dtype
    pd.testing.assert_frame_equal(others, FRAME[["price", "size"]])


def test_lists_keep_numbers_and_text_apart():
    _, ids = split_column([[1.0, 1], [2.0, "1"]], 1)
    assert list(ids) == [1, "1"]


def test_x_is_not_changed():
    before = FRAME.copy()
    others, _ = split_column(FRAME, "shop")
    others["price"] = 0.0
    pd.testing.assert_frame_equal(FRAME, before)
    others, _ = split_column(NUMBERS, 1)
    others[:] = -1
    assert NUMBERS[0, 0] == 0.5


def test_names_that_are_no_text():
    frame = FRAME.set_axis([10, 1, 0], axis=1)
    assert_array_equal(split_column(frame, 1)[1], NAMES)  # an int is a position
    frame = FRAME.set_axis(["price", "shop", 3], axis=1)
    assert_array_equal(split_column(frame, "shop")[1], NAMES)


ERRORS = {
    "no such name": (FRAME, "town", ValueError, "must have one column named 'town'.*has 0; .*'price', 'shop', 'size'"),
    "no such name in polars": (POLARS, "town", ValueError, "must have one column named 'town'.*but has 0"),
    "two of the name": (pd.concat([FRAME, FRAME["shop"]], axis=1), "shop", ValueError, "named 'shop'.*but has 2"),
    "name in an array": (NUMBERS, "shop", ValueError, "named 'shop', but X is a ndarray without.*give the.*position"),
    "name in a list": (NUMBERS.tolist(), "shop", ValueError, "without column names"),
    "name in a sparse array": (sparse.csr_array(NUMBERS), "shop", ValueError, "csr_array without column names"),
    "too large": (NUMBERS, 3, ValueError, "no column 3 with task ids: X has 3 columns"),
    "too small": (FRAME, -4, ValueError, "no column -4 with task ids: X has 3 columns"),
    "no columns": (NUMBERS[:, :0], 0, ValueError, "no column 0 with task ids: X has 0 columns"),
    "bool": (NUMBERS, True, TypeError, "a name or a position, got True"),
    "NumPy's bool": (NUMBERS, np.True_, TypeError, "a name or a position, got .*True"),
    "float": (NUMBERS, 1.0, TypeError, "a name or a position, got 1.0"),
    "None": (NUMBERS, None, TypeError, "a name or a position, got None"),
    "list": (FRAME, ["shop"], TypeError, r"a name or a position, got \['shop'\]"),
    "one dimension": (NUMBERS[:, 0], 0, ValueError, r"rows and columns.*got shape \(4,\)"),
    "three dimensions": (NUMBERS[None], 0, ValueError, r"rows and columns.*got shape \(1, 4, 3\)"),
    "Series": (FRAME["price"], 0, ValueError, r"rows and columns.*got shape \(4,\)"),
    "list of numbers": ([1.0, 2.0], 0, ValueError, r"rows and columns.*got shape \(2,\)"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    X, column, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        split_column(X, column)


# The index, and Series


def test_index():
    frame = FRAME.set_index("shop")
    assert_array_equal(ids_of_rows(frame, "index"), NAMES)
    assert_array_equal(ids_of_rows(frame.iloc[[3, 0]], "index"), NAMES[[3, 0]])
    two_levels = FRAME.set_index(["shop", "size"])
    assert list(ids_of_rows(two_levels, "index")) == list(zip(NAMES, NUMBERS[:, 2], strict=True))


def test_series_is_looked_up():
    series = pd.Series({5: "five", 4: "four", 3: "three", 1: "one", 9: "nine"})
    assert ids_of_rows(FRAME, series).tolist() == ["three", "one", "four", "five"]
    assert ids_of_rows(FRAME.iloc[[2, 0]], series).tolist() == ["four", "three"]
    assert ids_of_rows(FRAME.loc[[1, 1, 3]], series).tolist() == ["one", "one", "three"]


@pytest.mark.parametrize("source", ["index", pd.Series([1, 2, 3, 4])], ids=["index", "series"])
@pytest.mark.parametrize("X", [NUMBERS, POLARS, NUMBERS.tolist()], ids=["array", "polars", "lists"])
def test_without_an_index(X, source):
    with pytest.raises(ValueError, match=f"pandas DataFrame.*got a {type(X).__name__}.*set_output"):
        ids_of_rows(X, source)


def test_series_errors():
    with pytest.raises(ValueError, match="no task for 2 rows of X, the first with index 1"):
        ids_of_rows(FRAME, pd.Series({3: "three", 4: "four"}))
    with pytest.raises(ValueError, match="index without duplicates"):
        ids_of_rows(FRAME, pd.Series([1, 2, 3, 4, 5], index=[3, 1, 4, 5, 5]))
