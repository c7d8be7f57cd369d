"""The shape of the package: imports point down only, and importing it has no side effects."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_maml

PACKAGE = Path(sklearn_maml.__file__).parent
LAYERS = [  # a file may import from the lines above its own
    {"exceptions", "groups", "kinks", "threads", "_sklearn"},
    {"arrays"},
    {"losses"},
    {"_validation", "_warnings", "columns", "probing", "tasks"},
    {"steps", "rows", "statistics"},
    {"meta", "prior", "prediction"},
    {"solvers", "constants"},
    {"theory"},
    {"training", "few_shot", "proofs"},
    {"streaming"},
    {"base"},
    {"classifier", "certificate"},
    {"linear_model", "svm"},
    {"adaptation", "linear_model_cv", "testing"},
    {"compose", "queries"},
    {"metrics"},
    {"datasets.simulated", "datasets.real"},
    {"datasets.__init__"},
    {"model_selection"},
    {"inspection.figure"},
    {"inspection.adaptation_curve", "inspection.meta_training", "inspection.task", "inspection.loss_landscape"},
    {"inspection.__init__"},
    {"__init__"},
]
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}


def imports(path):
    """Pairs of module and name, wherever in the file they are imported; relative modules start with a dot."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def imported_files(path):
    """Files of the package among them."""
    package = ["sklearn_maml", *path.relative_to(PACKAGE).parent.parts]
    for module, name in imports(path):
        absolute = module.lstrip(".")
        level = len(module) - len(absolute)
        parts = [*(package[: len(package) - level + 1] if level else []), *filter(None, absolute.split("."))]
        if parts[:1] == ["sklearn_maml"]:
            candidates = (".".join(inside) for inside in (parts[1:], [*parts[1:], name], [*parts[1:], "__init__"]))
            yield next(each for each in candidates if each in FILES)


def test_table_holds_every_file():
    assert set(LAYER) == set(FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_down(name):
    upward = {other for other in imported_files(FILES[name]) if LAYER[other] >= LAYER[name]}
    assert not upward, f"{name}.py imports {upward}, not below it"


def test_layers_are_used():
    """The parser sees the imports that hold the package together."""
    edges = {(name, other) for name, path in FILES.items() for other in imported_files(path)}
    core = {("tasks", "losses"), ("meta", "tasks"), ("prior", "steps"), ("training", "steps"), ("training", "solvers")}
    assert core | {("base", "prior"), ("classifier", "base"), ("svm", "classifier")} <= edges


@pytest.mark.parametrize("name", sorted(set(FILES) - {"_sklearn"}))
def test_private_scikit_learn_stays_in_one_file(name):
    private = {
        (module, imported)
        for module, imported in imports(FILES[name])
        if module.split(".")[0] == "sklearn"
        and any(part.startswith("_") and not part.endswith("__") for part in (*module.split("."), imported))
    }
    assert not private, f"{name}.py imports {private}: import them in _sklearn.py"


@pytest.mark.parametrize("name", sorted(FILES))
def test_optional_libraries_are_not_imported_by_name(name):
    """At the top of a file, that is; a Display may import matplotlib where it draws."""
    top = ast.parse(FILES[name].read_text(encoding="utf-8")).body
    modules = {alias.name for node in top if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module for node in top if isinstance(node, ast.ImportFrom) and node.level == 0}
    assert not {"pandas", "polars", "matplotlib"} & {module.split(".")[0] for module in modules}


def test_import_has_no_side_effects():
    code = """
import json, sys, warnings
import sklearn, sklearn.base, sklearn.metrics  # they may import pandas themselves
config, modules = sklearn.get_config(), set(sys.modules)
warnings.simplefilter("error")
import sklearn_maml
print(json.dumps([config == sklearn.get_config(), sorted(set(sys.modules) - modules)]))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    same_config, new_modules = json.loads(run.stdout)
    assert same_config
    assert "sklearn_maml" in new_modules
    assert not {"pandas", "polars", "matplotlib"} & set(new_modules)
    assert not {"sklearn.compose", "sklearn.linear_model", "sklearn.pipeline"} & set(new_modules)  # they take long
