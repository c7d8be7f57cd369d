import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pytest
from numpy.testing import assert_array_equal

from sklearn_maml import MAMLSVC, MAMLRegressor
from sklearn_maml.groups import encode_groups, find_tasks, merge_tasks

DAYS = pd.to_datetime(["2020-01-02", "2020-01-01", "2020-01-02", "2021-05-05"])
DATETIMES = [day.to_pydatetime() for day in DAYS]
DATES = [day.date() for day in DATETIMES]
LETTERS = ["b", "a", "b", "c"]

# every one of these is the same partition, in sorted order: codes 1, 0, 1, 2
SORTABLE = {
    "list of int": [3, 1, 3, 5],
    "tuple of int": (3, 1, 3, 5),
    "range-like array": np.array([3, 1, 3, 5], dtype=np.uint8),
    "negative int": [-1, -3, -1, 0],
    "list of float": [1.5, 0.5, 1.5, np.inf],
    "float32": np.array([1.5, 0.5, 1.5, 7], dtype=np.float32),
    "int and float": [3, 1.5, 3.0, 5],
    "list of str": LETTERS,
    "tuple of str": tuple(LETTERS),
    "array of str": np.array(LETTERS),
    "array of object": np.array(LETTERS, dtype=object),
    "StringDType": np.array(LETTERS, dtype=np.dtypes.StringDType()),
    "unicode": ["ß", "z", "ß", "任务"],
    "the string nan": ["nan", "None", "nan", "z"],
    "empty string": ["a", "", "a", "b"],
    "list of bytes": [b"b", b"a", b"b", b"c"],
    "array of bytes": np.array([b"b", b"a", b"b", b"c"]),
    "dates": DATES,
    "datetimes": DATETIMES,
    "datetime64[D]": np.array(DATES, dtype="datetime64[D]"),
    "timedelta": np.array([5, 2, 5, 9], dtype="timedelta64[s]"),
    "column": np.array([[3], [1], [3], [5]]),
    "column of object": np.array([[i] for i in LETTERS], dtype=object),
    "DataFrame of one column": pd.DataFrame({"g": LETTERS}),
    "polars frame of one column": pl.DataFrame({"g": LETTERS}),
    "pandas int": pd.Series([3, 1, 3, 5]),
    "pandas, odd index": pd.Series([3, 1, 3, 5], index=[9, 9, 0, 1]),
    "pandas Int64": pd.Series([3, 1, 3, 5], dtype="Int64"),
    "pandas Float64": pd.Series([3, 1, 3, 5], dtype="Float64"),
    "pandas object": pd.Series(LETTERS, dtype=object),
    "pandas string": pd.Series(LETTERS, dtype="string"),
    "pandas default str": pd.Series(LETTERS),
    "pandas Series of Categorical": pd.Series(LETTERS, dtype="category"),
    "pandas Categorical": pd.Categorical(LETTERS, categories=["unused", "c", "b", "a"]),
    "pandas Categorical of int": pd.Series([3, 1, 3, 5], dtype="category"),
    "pandas Index": pd.Index(LETTERS),
    "pandas datetime": pd.Series(DAYS),
    "pandas DatetimeIndex": DAYS,
    "pandas tz-aware": pd.Series(DAYS.tz_localize("Europe/Berlin")),
    "pandas Period": pd.Series(DAYS.to_period("D")),
    "pandas Timedelta": pd.Series(DAYS - DAYS[0]),
    "polars int": pl.Series([3, 1, 3, 5]),
    "polars float": pl.Series([3.5, 1, 3.5, 5]),
    "polars str": pl.Series(LETTERS),
    "polars categorical": pl.Series(LETTERS, dtype=pl.Categorical),
    "polars enum": pl.Series(LETTERS, dtype=pl.Enum(["c", "b", "a"])),
    "polars date": pl.Series(DATES),
    "polars datetime": pl.Series(DATETIMES),
    "polars tz-aware": pl.Series(DATETIMES).dt.replace_time_zone("Europe/Berlin"),
}
UNSORTABLE = {  # different kinds in one column: in order of appearance, codes 0, 1, 0, 2
    "str and int": ["b", 1, "b", 2],
    "int and digit": [1, "1", 1, "2"],
    "tuple of mixed": ("b", 1, "b", 2.5),
    "date and str": [DATES[0], "a", DATES[0], "b"],
    "bytes and str": [b"a", "a", b"a", "b"],
    "pandas mixed": pd.Series(["b", 1, "b", 2], dtype=object),
}


@pytest.mark.parametrize("kind", SORTABLE)
def test_sorted_codes(kind):
    codes, tasks = encode_groups(SORTABLE[kind], 4)
    assert codes.tolist() == [1, 0, 1, 2]
    assert codes.dtype.kind == "i"
    assert isinstance(tasks, np.ndarray)
    assert tasks.shape == (3,)


@pytest.mark.parametrize("kind", UNSORTABLE)
def test_codes_in_order_of_appearance(kind):
    ids = list(UNSORTABLE[kind])
    codes, tasks = encode_groups(UNSORTABLE[kind], 4)
    assert codes.tolist() == [0, 1, 0, 2]
    assert tasks.tolist() == [ids[0], ids[1], ids[3]]
    assert [type(i) for i in tasks] == [type(ids[0]), type(ids[1]), type(ids[3])]


def test_bool():
    for groups in (
        [True, False, True],
        np.array([True, False, True]),
        pd.Series([True, False, True], dtype="boolean"),
        pl.Series([True, False, True]),
    ):
        codes, tasks = encode_groups(groups, 3)
        assert codes.tolist() == [1, 0, 1]
        assert tasks.tolist() == [False, True]


@pytest.mark.parametrize(
    "kind",
    ["list of int", "list of str", "array of str", "pandas Int64", "pandas string", "polars str", "array of bytes"],
)
def test_tasks_are_the_ids(kind):
    groups = SORTABLE[kind]
    codes, tasks = encode_groups(groups, 4)
    assert tasks[codes].tolist() == list(groups)
    assert tasks.tolist() == sorted(set(groups))


@pytest.mark.parametrize("kind", ["pandas datetime", "polars date", "datetime64[D]", "polars datetime"])
def test_tasks_are_the_dates(kind):
    assert np.array_equal(encode_groups(SORTABLE[kind], 4)[1], np.unique(np.array(DATES, dtype="datetime64[ns]")))


def test_tz_aware_ids_keep_their_zone():
    _, tasks = encode_groups(SORTABLE["pandas tz-aware"], 4)
    assert tasks[0] == pd.Timestamp("2020-01-01", tz="Europe/Berlin")
    assert tasks[0] != pd.Timestamp("2020-01-01", tz="UTC")


def test_tuples_in_an_object_array():
    groups = np.empty(3, dtype=object)
    groups[:] = [("b", 1), ("a", 2), ("b", 1)]
    codes, tasks = encode_groups(groups, 3)
    assert codes.tolist() == [1, 0, 1]
    assert tasks.tolist() == [("a", 2), ("b", 1)]


def test_codes_agree_with_a_plain_dictionary():
    rng = np.random.default_rng(0)
    ids = [f"task {i}" for i in rng.integers(0, 50, size=300)]
    codes, tasks = encode_groups(ids, 300)
    number = {task: i for i, task in enumerate(sorted(set(ids)))}
    assert codes.tolist() == [number[i] for i in ids]
    assert tasks.tolist() == sorted(set(ids))


NAN, NAT = float("nan"), np.datetime64("NaT", "s")
MISSING = {  # rows 1 and 3 of four are missing
    "None among str": ["a", None, "b", None],
    "NaN among str": ["a", NAN, "b", NAN],
    "np.nan among str": ["a", np.nan, "b", np.nan],
    "NaN and None": ["a", NAN, "b", None],
    "None among int": [1, None, 2, None],
    "NaN among float": [1.0, NAN, 2.0, NAN],
    "two different NaN": [1.0, NAN, 2.0, float("nan")],
    "tuple": ("a", None, "b", None),
    "pd.NA": ["a", pd.NA, "b", pd.NA],
    "pd.NaT": [DAYS[0], pd.NaT, DAYS[1], pd.NaT],
    "NaT of NumPy": [np.datetime64("2020"), NAT, np.datetime64("2021"), NAT],
    "float array": np.array([1, np.nan, 2, np.nan]),
    "float32 array": np.array([1, np.nan, 2, np.nan], dtype=np.float32),
    "column": np.array([[1], [np.nan], [2], [np.nan]]),
    "object array": np.array(["a", None, "b", np.nan], dtype=object),
    "datetime64": np.array(["2020", "NaT", "2021", "NaT"], dtype="datetime64[D]"),
    "timedelta64": np.array([1, "NaT", 2, "NaT"], dtype="timedelta64[s]"),
    "pandas object": pd.Series(["a", None, "b", np.nan], dtype=object),
    "pandas default str": pd.Series(["a", None, "b", None]),
    "pandas string": pd.Series(["a", pd.NA, "b", pd.NA], dtype="string"),
    "pandas float": pd.Series([1, None, 2, None]),
    "pandas Int64": pd.Series([1, pd.NA, 2, pd.NA], dtype="Int64"),
    "pandas boolean": pd.Series([True, pd.NA, False, pd.NA], dtype="boolean"),
    "pandas Categorical": pd.Series(["a", None, "b", None], dtype="category"),
    "pandas Categorical of int": pd.Series([1, None, 2, None], dtype="category"),
    "pandas datetime": pd.Series([DAYS[0], pd.NaT, DAYS[1], pd.NaT]),
    "pandas tz-aware": pd.Series([DAYS[0], pd.NaT, DAYS[1], pd.NaT]).dt.tz_localize("UTC"),
    "polars int": pl.Series([1, None, 2, None]),
    "polars float": pl.Series([1.0, None, 2.0, NAN]),
    "polars bool": pl.Series([True, None, False, None]),
    "polars str": pl.Series(["a", None, "b", None]),
    "polars categorical": pl.Series(["a", None, "b", None], dtype=pl.Categorical),
    "polars date": pl.Series([DATES[0], None, DATES[1], None]),
    "polars datetime": pl.Series([DATETIMES[0], None, DATETIMES[1], None]),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_ids(kind):
    with pytest.raises(ValueError, match=r"groups holds missing task ids, for 2 rows, the first in row 1\b"):
        encode_groups(MISSING[kind], 4)


@pytest.mark.parametrize("groups", [[None] * 3, [NAN] * 3, pl.Series([None] * 3), pd.Series([pd.NA] * 3)])
def test_all_ids_missing(groups):
    with pytest.raises(ValueError, match=r"groups.* for 3 rows, the first in row 0\b"):
        encode_groups(groups, 3)


@pytest.mark.parametrize("missing", [None, NAN, pd.NA])
@pytest.mark.parametrize("estimator", [MAMLRegressor(), MAMLSVC()])
def test_missing_is_no_task_called_nan(missing, estimator):
    X, y = np.arange(4.0)[:, None], [0, 1, 0, 1]
    with pytest.raises(ValueError, match=r"groups.* for 2 rows, the first in row 2\b"):
        estimator.fit(X, y, groups=["a", "a", missing, missing])
    estimator.fit(X, y, groups=["a", "a", "b", "b"])
    with pytest.raises(ValueError, match=r"groups.* for 1 rows, the first in row 1\b"):
        estimator.adapt(X[:2], y[:2], groups=["a", missing])
    adapted = estimator.adapt(X, y, groups=["a", "a", "nan", "nan"])
    assert adapted.tasks_.tolist() == ["a", "nan"]
    for model in (estimator, adapted):
        with pytest.raises(ValueError, match=r"groups.* for 1 rows, the first in row 0\b"):
            model.predict(X[:2], groups=[missing, "a"])


@pytest.mark.parametrize(
    ("groups", "shape"),
    [
        ([1, 2], r"\(2,\)"),
        ([1, 2, 3, 4], r"\(4,\)"),
        ([], r"\(0,\)"),
        (5, r"\(\)"),
        ("abc", r"\(\)"),
        ({1, 2, 3}, r"\(\)"),
        (np.zeros((3, 2)), r"\(3, 2\)"),
        (np.zeros((1, 3)), r"\(1, 3\)"),
        (np.zeros((3, 1, 1)), r"\(3, 1, 1\)"),
        (pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 3]}), r"\(3, 2\)"),
    ],
)
def test_wrong_shape(groups, shape):
    with pytest.raises(
        ValueError, match=rf"groups must hold one task id for each of the 3 rows, got \w+ of shape {shape}"
    ):
        encode_groups(groups, 3)


@pytest.mark.parametrize("groups", [[{"a"}, 1, 2], [{}, {}, {}], np.array([[1], [2, 3], [4]], dtype=object)])
def test_unhashable(groups):
    with pytest.raises(ValueError, match="groups must hold hashable"):
        encode_groups(groups, 3)


@pytest.mark.parametrize("kind", [*SORTABLE, *UNSORTABLE])
def test_every_id_is_found_again(kind):
    groups = (SORTABLE | UNSORTABLE)[kind]
    codes, tasks = encode_groups(groups, 4)
    assert_array_equal(find_tasks(groups, 4, tasks), codes)
    position, both = merge_tasks(tasks, tasks)
    assert_array_equal(position, [0, 1, 2, 0, 1, 2])
    assert_array_equal(find_tasks(groups, 4, both), codes)


STAMPS = np.array([2, 1, 2], dtype="datetime64[ns]")


@pytest.mark.parametrize("groups", [STAMPS, pd.Series(STAMPS), pl.Series(STAMPS), list(pd.Series(STAMPS))])
def test_nanoseconds(groups):
    codes, tasks = encode_groups(groups, 3)
    assert codes.tolist() == [1, 0, 1]
    assert len(set(tasks.tolist())) == 2
    assert find_tasks(groups, 3, tasks).tolist() == [1, 0, 1]


def test_find_tasks():
    _, tasks = encode_groups(["b", "a", "d"], 3)
    assert find_tasks(["d", "c", "a", "a"], 4, tasks).tolist() == [2, -1, 0, 0]
    assert find_tasks(pl.Series(["zzz"]), 1, tasks).tolist() == [-1]
    assert find_tasks([3, 1.0, 2], 3, np.array([1, 3])).tolist() == [1, 0, -1]
    assert find_tasks(pd.Series([3, 1], dtype="Int64"), 2, np.array([1.0, 3.0])).tolist() == [1, 0]
    assert find_tasks(["b", 1, 2], 3, encode_groups([1, "b"], 2)[1]).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    ("groups", "tasks"),
    [
        (DAYS, [1, 3]),
        ([1, 3], DAYS),
        (["1", "3"], [1, 3]),
        ([1, 3], ["1", "3"]),
        (["1.0"], [1.0]),
        (DAYS, ["2020-01-01"]),
        (["2020-01-01"], DAYS),
    ],
)
def test_ids_of_another_kind(groups, tasks):
    with pytest.raises(ValueError, match=r"groups holds ids of type .*, but the tasks known here are of type"):
        find_tasks(groups, len(groups), encode_groups(tasks, len(tasks))[1])


@pytest.mark.parametrize("first", ["pandas datetime", "polars date", "polars datetime", "datetimes", "datetime64[D]"])
@pytest.mark.parametrize("then", ["pandas datetime", "polars date", "polars datetime", "datetimes", "datetime64[D]"])
def test_a_date_is_found_in_whatever_form(first, then):
    assert find_tasks(SORTABLE[then], 4, encode_groups(SORTABLE[first], 4)[1]).tolist() == [1, 0, 1, 2]


@pytest.mark.parametrize("then", ["pandas tz-aware", "polars tz-aware"])
def test_a_tz_aware_date_is_found(then):
    tasks = encode_groups(SORTABLE["pandas tz-aware"], 4)[1]
    found = find_tasks(SORTABLE["pandas tz-aware"], 4, tasks)
    assert found.tolist() == [1, 0, 1, 2]


def test_merge_tasks():
    position, both = merge_tasks(np.array(["b", "d"]), np.array(["a", "bcd", "b"]))
    assert both.tolist() == ["a", "b", "bcd", "d"]
    assert position.tolist() == [1, 3, 0, 2, 1]
    position, both = merge_tasks(np.array([5, 1]), np.array([5, 2]))
    assert both.tolist() == [1, 2, 5]
    assert position.tolist() == [2, 0, 2, 1]
    position, both = merge_tasks(np.array([1, 2]), np.array([2.0, 2.5]))
    assert both.tolist() == [1, 2, 2.5]
    assert position.tolist() == [0, 1, 1, 2]
    position, both = merge_tasks(np.array([1, 2]), np.array(["1", "x"]))
    assert sorted(map(repr, both.tolist())) == ["'1'", "'x'", "1", "2"]
    assert both[position].tolist() == [1, 2, "1", "x"]


@pytest.mark.parametrize("other", [np.array(["a"]), np.array([7]), np.array(["a", 7], dtype=object)])
def test_merge_keeps_dates(other):
    dates = encode_groups(pd.Series(DAYS), 4)[1]
    for first, second in ((dates, other), (other, dates)):
        position, both = merge_tasks(first, second)
        assert len(both) == len(dates) + len(other)
        merged = [pd.Timestamp(i) for i in both if isinstance(i, np.datetime64 | dt.datetime)]
        assert sorted(merged) == sorted(set(DAYS))
        assert np.array_equal(np.sort(position), np.arange(len(both)))


@pytest.mark.parametrize(
    "kind", ["tuple of int", "list of str", "pandas Categorical", "pandas tz-aware", "polars date"]
)
def test_labels_of_tasks_do_not_matter(kind):
    rng = np.random.default_rng(0)
    X, y, rows = rng.normal(size=(40, 3)), rng.normal(size=40), rng.integers(0, 4, size=40)
    ids = SORTABLE[kind]
    groups = [list(ids)[i] for i in rows] if kind != "pandas Categorical" else ids.take(rows)
    expected = MAMLRegressor().fit(X, y, groups=np.array([1, 0, 1, 2])[rows])
    model = MAMLRegressor().fit(X, y, groups=groups)
    np.testing.assert_allclose(model.coef_, expected.coef_, rtol=1e-12)
    adapted, expected = model.adapt(X, y, groups=groups), expected.adapt(X, y, groups=np.array([1, 0, 1, 2])[rows])
    np.testing.assert_allclose(adapted.task_coef_, expected.task_coef_, rtol=1e-12)
    np.testing.assert_allclose(
        adapted.predict(X, groups=groups), expected.predict(X, groups=np.array([1, 0, 1, 2])[rows]), rtol=1e-11
    )


def test_predict_with_ids_of_another_kind():
    rng = np.random.default_rng(0)
    X, y, groups = rng.normal(size=(12, 2)), rng.normal(size=12), np.repeat([1, 2, 3], 4)
    model = MAMLRegressor().fit(X, y, groups=groups).adapt(X, y, groups=groups)
    with pytest.raises(ValueError, match="groups holds ids of type"):
        model.predict(X, groups=groups.astype(str))
    np.testing.assert_array_equal(model.predict(X, groups=groups.astype(float)), model.predict(X, groups=groups))


def test_many_tasks_are_fast():
    ids = [f"task {i}" for i in range(50_000)]
    codes, tasks = encode_groups(ids + ids, 100_000)
    assert np.array_equal(codes[:50_000], codes[50_000:])
    assert tasks[codes[:50_000]].tolist() == ids
