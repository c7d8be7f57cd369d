"""Everything public is documented as numpydoc wants it, and annotated."""

import inspect

import pytest
from numpydoc.validate import validate
from public_api import FUNCTIONS, OBJECTS

LEFT_OUT = {
    "ES01",  # most methods need no extended summary,
    "SA01",  # no See Also
    "EX01",  # and no example of their own: classes and functions do
    "GL01",  # the summary begins beside the quotes
    "GL02",
    "PR04",  # "X, y, groups : as in fit" has no types
    "PR08",  # descriptions may begin with a symbol
    "RT02",  # results have names
    "RT04",
    "SS02",
    "SS05",  # "Statistics of rows" is no third person
}
MADE_ELSEWHERE = {  # constructors that their class sends the reader away from
    "sklearn_maml.BiMAMLMixin": "Parameters are those of :class:`MAMLRegressor`",
    "sklearn_maml.BiMAMLClassifierMixin": "See :class:`BiMAMLMixin`",
    "sklearn_maml.CollapsedStatistics": "Made by :meth:`MAMLRegressor.collapse_statistics`",
    "sklearn_maml.TaskStatistics": "Made by :func:`task_statistics`",
}


def test_names_are_found():
    assert {"sklearn_maml.MAMLSVC", "sklearn_maml.theory.step_bound_3_6"} <= set(OBJECTS)
    assert {"sklearn_maml.MAMLSVC.fit", "sklearn_maml.MAMLRegressorCV.coef_"} <= set(FUNCTIONS)
    assert {"sklearn_maml.compose.GroupsFromColumn.adapt", "sklearn_maml.TaskStatistics.merge"} <= set(FUNCTIONS)


@pytest.mark.parametrize("path", sorted(path for path in {*OBJECTS, *FUNCTIONS} if not path.endswith(".__init__")))
def test_docstring(path):
    found = validate(path)
    errors = {code: text for code, text in found["errors"] if code not in LEFT_OUT}
    if path in MADE_ELSEWHERE:
        assert MADE_ELSEWHERE[path] in " ".join(found["docstring"].split())
        del errors["PR01"]
    assert not errors


@pytest.mark.parametrize("path", sorted(OBJECTS))
def test_example(path):
    assert "EX01" not in [code for code, _ in validate(path)["errors"]]


@pytest.mark.parametrize("path", sorted(FUNCTIONS))
def test_annotations(path):
    signature = inspect.signature(FUNCTIONS[path])
    parameters = (each for each in signature.parameters.values() if each.name not in ("self", "cls"))
    missing = [each.name for each in parameters if each.annotation is each.empty]
    assert not missing, f"{path} has no types for {missing}"
    assert path.endswith(".__init__") or signature.return_annotation is not signature.empty
