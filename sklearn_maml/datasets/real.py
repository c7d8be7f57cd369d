"""Well-known data cut into tasks: the diabetes patients by sex and age, digits in pairs."""

from importlib.util import find_spec
from numbers import Integral
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike
from sklearn.datasets import fetch_openml, load_diabetes, load_digits
from sklearn.utils import Bunch, check_random_state, check_scalar

DIGIT_TASKS = np.array(["1 v 2", "3 v 4", "5 v 6", "7 v 8", "9 v 0"])

PAPER = 'Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021, section 5.'

DIABETES = f"""442 diabetes patients in four tasks, by sex and by whether they are older than the mean age, 48.5 years.
Eight features: body mass index, blood pressure and six blood serum measurements; sex and age are left out. The target
is the progression of the disease one year later, 25 to 346. The data, sklearn.datasets.load_diabetes, do not say which
sex is coded 1 and which 2. The tasks are those of

{PAPER}

The data are from

Bradley Efron, Trevor Hastie, Iain Johnstone, Robert Tibshirani, "Least Angle Regression", Annals of Statistics 2004."""

DIGIT_PAIRS = f"""Handwritten digits in five tasks, each to tell an odd digit (+1) from an even one (-1):
1 v 2, 3 v 4, 5 v 6, 7 v 8, 9 v 0, the tasks of

{PAPER}

"""

DIGITS = f"""{DIGIT_PAIRS}8 x 8 pixels, 0 to 16, from sklearn.datasets.load_digits: the test set of

E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998."""

MNIST = f"""{DIGIT_PAIRS}28 x 28 pixels, divided by 255, from MNIST, the data set mnist_784, version 1, on OpenML:

Yann LeCun, Leon Bottou, Yoshua Bengio, Patrick Haffner, "Gradient-Based Learning Applied to Document Recognition",
Proceedings of the IEEE 1998."""


def load_diabetes_tasks(
    *,
    scaling: Literal["unit_norm", "standard", "raw"] = "unit_norm",
    return_X_y_groups: bool = False,
    as_frame: bool = False,
) -> Bunch | tuple[Any, Any, Any]:
    """Load the diabetes patients in four tasks, by sex and by whether they are older than the mean age.

    These are the tasks of Xu, Chen & Karbasi (2021), section 5. Sex and age themselves are left out.

    =================== ======
    Tasks                    4
    Rows                   442
    Rows of a task      77-130
    Features                 8
    Targets             25-346
    =================== ======

    Parameters
    ----------
    scaling : {"unit_norm", "standard", "raw"}, default="unit_norm"
        Of the features, over the rows of all tasks.

        - "unit_norm": mean 0 and sum of squares 1, as in :func:`sklearn.datasets.load_diabetes`.
        - "standard": mean 0 and variance 1.
        - "raw": as measured. Cross-validation that shall not know the held-out rows starts here, with a scaler in its
          pipeline.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.
    as_frame : bool, default=False
        Whether data are a pandas DataFrame, and target and groups Series.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple
        With the attributes

        data : {ndarray, DataFrame} of shape (442, 8)
            Rows in the order of :func:`sklearn.datasets.load_diabetes`.
        target : {ndarray, Series} of shape (442,)
            Progression of the disease after a year; it is not scaled.
        groups : {ndarray, Series} of shape (442,)
            Task of each row, such as "sex 1, age < 48.5".
        tasks : ndarray of shape (4,)
            The tasks.
        feature_names : list of str
            Names of the features.
        frame : DataFrame of shape (442, 10) or None
            With ``as_frame=True``: data, target and groups, the latter as column "task".
        DESCR : str
            Description.

    Raises
    ------
    ValueError
        If `scaling` is none of these.
    ImportError
        If `as_frame` needs pandas and it is not installed.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn_maml.datasets import load_diabetes_tasks
    >>> data = load_diabetes_tasks()
    >>> for task in data.tasks:
    ...     print(task, np.sum(data.groups == task))
    sex 1, age < 48.5 125
    sex 1, age > 48.5 110
    sex 2, age < 48.5 77
    sex 2, age > 48.5 130
    """
    if scaling not in ("unit_norm", "standard", "raw"):
        raise ValueError(f"scaling must be 'unit_norm', 'standard' or 'raw', got {scaling!r}")
    raw = load_diabetes(scaled=False)
    age, sex = raw.data[:, 0], raw.data[:, 1]
    X = raw.data if scaling == "raw" else load_diabetes().data
    X = X[:, 2:] * (np.sqrt(len(X)) if scaling == "standard" else 1.0)
    older = age > age.mean()
    groups = np.array(
        [f"sex {s:.0f}, age {'>' if o else '<'} {age.mean():.1f}" for s, o in zip(sex, older, strict=True)]
    )
    return _return(
        "load_diabetes_tasks",
        X,
        raw.target,
        groups,
        return_X_y_groups,
        as_frame,
        tasks=np.unique(groups),
        feature_names=raw.feature_names[2:],
        DESCR=DIABETES,
    )


def load_digits_tasks(
    *,
    n_samples: int | None = None,
    random_state: Any = None,
    return_X_y_groups: bool = False,
    as_frame: bool = False,
) -> Bunch | tuple[Any, Any, Any]:
    """Load scikit-learn's digits in five tasks: 1 v 2, 3 v 4, 5 v 6, 7 v 8, 9 v 0.

    The pairs of Xu, Chen & Karbasi (2021), section 5, with smaller images that scikit-learn brings along: no network
    is needed. In every task the odd digit is +1 and the even one -1.

    ==================== =======
    Tasks                      5
    Rows                    1797
    Rows of a task       353-364
    Features, 8 x 8           64
    Feature values          0-16
    Targets               -1, +1
    ==================== =======

    Parameters
    ----------
    n_samples : int or None, default=None
        Number of rows of each task, drawn at random, half of them of each digit (if it is odd, one more of the odd
        digit). None is all.
    random_state : int, RandomState instance or None, default=None
        Seed of that draw.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.
    as_frame : bool, default=False
        Whether data are a pandas DataFrame, and target and groups Series.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple
        With the attributes

        data : {ndarray, DataFrame} of shape (n_rows, 64)
            Pixels, rows in the order of :func:`sklearn.datasets.load_digits`.
        target : {ndarray, Series} of shape (n_rows,)
            +1 for the odd digit, -1 for the even one.
        groups : {ndarray, Series} of shape (n_rows,)
            Task of each row, such as "1 v 2".
        tasks : ndarray of shape (5,)
            The tasks.
        digit : ndarray of shape (n_rows,)
            Digit of each row.
        feature_names : list of str
            Names of the features.
        frame : DataFrame of shape (n_rows, 66) or None
            With ``as_frame=True``: data, target and groups, the latter as column "task".
        DESCR : str
            Description.

    Raises
    ------
    TypeError, ValueError
        If `n_samples` is not an int of at least 2, or larger than there are images.
    ImportError
        If `as_frame` needs pandas and it is not installed.

    See Also
    --------
    fetch_mnist_tasks : The same tasks with images of 28 x 28 pixels.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> from sklearn_maml.datasets import load_digits_tasks
    >>> data = load_digits_tasks(n_samples=200, random_state=0)
    >>> data.data.shape, int(sum(data.groups == "9 v 0"))
    ((1000, 64), 200)
    >>> set(data.digit[(data.groups == "9 v 0") & (data.target == 1)].tolist())
    {9}
    """
    digits = load_digits()
    rows, y, groups = digit_pairs(digits.target, n_samples, random_state)
    return _return(
        "load_digits_tasks",
        digits.data[rows],
        y,
        groups,
        return_X_y_groups,
        as_frame,
        tasks=DIGIT_TASKS.copy(),
        digit=digits.target[rows],
        feature_names=digits.feature_names,
        DESCR=DIGITS,
    )


def fetch_mnist_tasks(
    *,
    n_samples: int | None = 200,
    random_state: Any = None,
    data_home: str | PathLike | None = None,
    cache: bool = True,
    n_retries: int = 3,
    delay: float = 1.0,
    return_X_y_groups: bool = False,
) -> Bunch | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fetch the MNIST digits in five tasks: 1 v 2, 3 v 4, 5 v 6, 7 v 8, 9 v 0.

    These are the tasks of Xu, Chen & Karbasi (2021), section 5. In every task the odd digit is +1 and the even one -1.
    The first call downloads MNIST from OpenML, later ones find it in the cache. Reading it is several times faster with
    pandas installed.

    ==================== ===========
    Tasks                          5
    Rows                 up to 70000
    Features, 28 x 28            784
    Feature values               0-1
    Targets                   -1, +1
    ==================== ===========

    Parameters
    ----------
    n_samples : int or None, default=200
        Number of rows of each task, drawn at random, half of them of each digit (if it is odd, one more of the odd
        digit). None is all.
    random_state : int, RandomState instance or None, default=None
        Seed of that draw.
    data_home : str, path-like or None, default=None
        Where the cache is, see :func:`sklearn.datasets.get_data_home`.
    cache : bool, default=True
        Whether to keep what was downloaded.
    n_retries : int, default=3
        How often to try again after a network error.
    delay : float, default=1.0
        Seconds between tries.
    return_X_y_groups : bool, default=False
        Whether to return ``(data, target, groups)`` instead of a Bunch.

    Returns
    -------
    tasks : :class:`~sklearn.utils.Bunch` or tuple of ndarray
        With the attributes

        data : ndarray of shape (n_rows, 784)
            Pixels divided by 255, rows in the order of MNIST.
        target : ndarray of shape (n_rows,)
            +1 for the odd digit, -1 for the even one.
        groups : ndarray of shape (n_rows,)
            Task of each row, such as "1 v 2".
        tasks : ndarray of shape (5,)
            The tasks.
        digit : ndarray of shape (n_rows,)
            Digit of each row.
        feature_names : list of str
            Names of the features.
        DESCR : str
            Description.

    Raises
    ------
    OSError
        If MNIST is neither in the cache nor can be downloaded.
    TypeError, ValueError
        If `n_samples` is not an int of at least 2, or larger than there are images.

    See Also
    --------
    load_digits_tasks : The same tasks with images of 8 x 8 pixels, without a network.

    References
    ----------
    Ruitu Xu, Lin Chen, Amin Karbasi, "Meta Learning in the Continuous Time Limit", AISTATS 2021.

    Examples
    --------
    >>> from sklearn_maml.datasets import fetch_mnist_tasks
    >>> X, y, groups = fetch_mnist_tasks(random_state=0, return_X_y_groups=True)  # doctest: +SKIP
    >>> X.shape  # doctest: +SKIP
    (1000, 784)
    """
    try:
        mnist = fetch_openml(
            "mnist_784",
            version=1,
            data_home=data_home,
            cache=cache,
            as_frame=False,
            n_retries=n_retries,
            delay=delay,
            # The faster parser needs pandas. It takes digits for categories, which fails with pandas 3.1 and
            # scikit-learn 1.9: https://github.com/scikit-learn/scikit-learn/issues/34892.
            parser="pandas" if find_spec("pandas") else "liac-arff",
            read_csv_kwargs={"dtype": np.float32},
        )
    except OSError as error:
        raise OSError(
            f"fetch_mnist_tasks could not get MNIST from OpenML ({error}): check the network and data_home, or use "
            "load_digits_tasks, the same tasks with smaller images that come with scikit-learn"
        ) from error
    digit = mnist.target.astype(int)
    rows, y, groups = digit_pairs(digit, n_samples, random_state)
    X = mnist.data[rows].astype(np.float64) / 255
    if return_X_y_groups:
        return X, y, groups
    return Bunch(
        data=X,
        target=y,
        groups=groups,
        tasks=DIGIT_TASKS.copy(),
        digit=digit[rows],
        feature_names=mnist.feature_names,
        DESCR=MNIST,
    )


def digit_pairs(
    digit: ArrayLike, n_samples: int | None = None, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut images of digits into the tasks 1 v 2, 3 v 4, 5 v 6, 7 v 8, 9 v 0.

    Parameters
    ----------
    digit : array-like of shape (n_images,)
        What each image shows, 0 to 9.
    n_samples : int or None, default=None
        Number of rows of each task, half of them of each digit (if it is odd, one more of the odd digit). None is all.
    random_state : int, RandomState instance or None, default=None
        Seed of the draw of these rows.

    Returns
    -------
    rows : ndarray of shape (n_rows,)
        Which images are in the tasks, in increasing order.
    y : ndarray of shape (n_rows,)
        +1 for the odd digit, -1 for the even one.
    groups : ndarray of shape (n_rows,)
        Task of each of them.

    Raises
    ------
    TypeError, ValueError
        If `n_samples` is not an int of at least 2, or larger than there are images.

    Examples
    --------
    >>> from sklearn_maml.datasets.real import digit_pairs
    >>> rows, y, groups = digit_pairs([0, 1, 2, 9])
    >>> y
    array([-1,  1, -1,  1])
    >>> groups
    array(['9 v 0', '1 v 2', '1 v 2', '9 v 0'], dtype='<U5')
    """
    digit = np.asarray(digit).astype(int)  # of unsigned ones, 0 - 1 would be 255
    rows = np.arange(len(digit))
    if n_samples is not None:
        check_scalar(n_samples, "n_samples", Integral, min_val=2)
        rng = check_random_state(random_state)
        rows = np.sort(np.concatenate([_draw(digit, d, (n_samples + d % 2) // 2, n_samples, rng) for d in range(10)]))
    odd = digit[rows] % 2 == 1
    return rows, np.where(odd, 1, -1), DIGIT_TASKS[(digit[rows] - 1) % 10 // 2]


def _draw(digit, d, size, n_samples, rng):
    """Rows of `size` images of the digit d."""
    rows = np.flatnonzero(digit == d)
    if size > len(rows):
        raise ValueError(f"n_samples={n_samples} needs {size} images of {d}, but there are {len(rows)}: ask for fewer")
    return rng.choice(rows, size, replace=False)


def _return(caller, X, y, groups, return_X_y_groups, as_frame, **more):
    """What `caller` returns: a Bunch or the tuple, of arrays or of pandas' types."""
    frame = None
    if as_frame:
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(f"{caller}(as_frame=True) needs pandas: install it, or leave as_frame out") from error
        X = pd.DataFrame(X, columns=more["feature_names"])
        y, groups = pd.Series(y, name="target"), pd.Series(groups, name="task")
        frame = pd.concat([X, y, groups], axis=1)
    if return_X_y_groups:
        return X, y, groups
    return Bunch(data=X, target=y, groups=groups, frame=frame, **more)
