"""Arrays of other libraries, perhaps on a GPU: the functions that take them, and the way to NumPy and back.

Where NumPy's own name for a function is that of the array API standard, one line of code serves all of them.
"""

import numpy as np

from ._sklearn import array_device, array_namespace, convert_to_numpy, is_dispatched, largest_float

DLPACK_CPU = 1
_NUMPY = (np.ndarray, np.generic, float, int)


def namespace(array):
    """The functions that take this array, by their names in the array API standard: NumPy, or those of its library."""
    return np if is_numpy(array) else array_namespace(array)


def is_numpy(array):
    """Whether it is an array of NumPy, or a stranger to the array API standard, such as a sparse matrix."""
    return isinstance(array, _NUMPY) or not hasattr(array, "__dlpack__")


def is_on_cpu(array):
    """Whether it is in the memory of the host."""
    return is_numpy(array) or array.__dlpack_device__()[0] == DLPACK_CPU


def to_host(array):
    """As a NumPy array, real numbers of other libraries in double precision; of what is on a device it is a copy."""
    if is_numpy(array):
        return array
    numbers = convert_to_numpy(array, array_namespace(array))
    return numbers.astype(np.float64, copy=False) if numbers.dtype.kind == "f" else numbers


def like(numbers, array):
    """What NumPy has, where `array` is: in its library, on its device; real numbers in the best precision there."""
    if is_numpy(array) or not is_numpy(numbers):
        return numbers
    xp, device = array_namespace(array), array_device(array)
    numbers = np.array(numbers)  # libraries may share NumPy's memory, and cannot if it is read-only
    return xp.asarray(numbers, device=device, dtype=largest_float(xp, device) if numbers.dtype.kind == "f" else None)


def move(array, other):
    """Any array, where `other` is, through the memory of the host if it is elsewhere."""
    here = not is_numpy(array) and not is_numpy(other)
    if here and array_namespace(array) is array_namespace(other) and array_device(array) == array_device(other):
        return array
    return like(to_host(array), other)


def in_double(array):
    """In double precision, or the best there is on its device; itself if it is."""
    if is_numpy(array):
        return np.asarray(array, dtype=np.float64)
    xp = array_namespace(array)
    return xp.astype(array, largest_float(xp, array_device(array)), copy=False)


def float_types(X):
    """The types that features may have."""
    if not is_dispatched(X):
        return [np.float64, np.float32]
    xp = array_namespace(X)
    return [xp.float64, xp.float32] if largest_float(xp, array_device(X)) == xp.float64 else [xp.float32]


def contiguous(array):
    """A part of an array, in memory of its own."""
    return np.array(array, order="C") if is_numpy(array) else array_namespace(array).asarray(array, copy=True)


def eye(d, array):
    """The identity where `array` is."""
    if is_numpy(array):
        return np.eye(d)
    return array_namespace(array).eye(d, dtype=array.dtype, device=array_device(array))


def empty(shape, array):
    """Memory to write to where `array` is."""
    if is_numpy(array):
        return np.empty(shape)
    return array_namespace(array).empty(shape, dtype=array.dtype, device=array_device(array))


def einsum(subscripts, *arrays):
    """As in NumPy; the array API standard has none. The operand with most axes has all letters, in their order."""
    xp = namespace(arrays[-1])
    if hasattr(xp, "einsum"):
        return xp.einsum(subscripts, *arrays)
    inputs, output = subscripts.split("->")
    inputs = inputs.split(",")
    letters, total = max(inputs, key=len), 1.0
    for names, array in zip(inputs, arrays, strict=True):
        total = array[tuple(slice(None) if letter in names else None for letter in letters)] * total
    return xp.sum(total, axis=tuple(i for i, letter in enumerate(letters) if letter not in output))


def positive_part(array):
    """max(0, x)."""
    return np.maximum(array, 0.0) if is_numpy(array) else namespace(array).clip(array, 0.0, None)


def divide(numerator, denominator, where, default=0.0):
    """The ratio; the default where it is not wanted."""
    xp = namespace(denominator)
    return xp.where(where, numerator / xp.where(where, denominator, 1.0), default)


def take(array, numbers):
    """These entries along the first axis; `numbers` are NumPy's."""
    if is_numpy(array):
        return array[numbers]
    return array_namespace(array).take(array, like(numbers, array), axis=0)


class InParts:
    """An array of n entries that come in parts, of which there may be none: written in place where that is possible."""

    def __init__(self, n):
        self.n, self.numbers, self.parts = n, [], []

    def add(self, numbers, part):
        """Set the entries with these numbers."""
        if part is None:
            return
        if is_numpy(part):
            self.parts = self.parts or [np.empty((self.n, *part.shape[1:]))]
            self.parts[0][numbers] = part
        else:
            self.numbers.append(numbers)
            self.parts.append(part)

    def whole(self):
        """All entries, in order; None if nothing came."""
        if not self.numbers:
            return self.parts[0] if self.parts else None
        return take(array_namespace(self.parts[0]).concat(self.parts), np.argsort(np.concatenate(self.numbers)))
