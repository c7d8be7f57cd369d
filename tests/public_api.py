"""What is public: the names in `__all__` of the package and its modules, and the methods of the classes among them."""

import importlib
import inspect
import pkgutil

import sklearn_maml


def _objects():
    names = (info.name for info in pkgutil.walk_packages(sklearn_maml.__path__, "sklearn_maml."))
    for module in map(importlib.import_module, ["sklearn_maml", *(name for name in names if "._" not in name)]):
        for name in getattr(module, "__all__", ()):
            yield f"{module.__name__}.{name}", getattr(module, name)


def _own_function(member):
    """The function behind a method or property, if this package defines it."""
    function = getattr(member, "fget", None) or getattr(member, "fn", None) or getattr(member, "__func__", member)
    function = inspect.unwrap(function)
    return function if inspect.isfunction(function) and function.__module__.startswith("sklearn_maml") else None


def _functions():
    for path, item in OBJECTS.items():
        if inspect.isfunction(item):
            yield path, item
            continue
        for name, member in inspect.getmembers_static(item):
            function = _own_function(member)
            if function is not None and (name == "__init__" or not name.startswith("_")):
                yield f"{path}.{name}", function


OBJECTS = dict(_objects())
"""Classes and functions by the path that users import them from."""

FUNCTIONS = dict(_functions())
"""Functions by that path, with the methods, properties and constructors of the classes."""
