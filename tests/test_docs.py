"""The documentation names everything that there is, nothing that there is not, and quotes the print-outs."""

import re
from pathlib import Path

import pytest
from public_api import OBJECTS

import sklearn_maml

PACKAGE = Path(sklearn_maml.__file__).parent
ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "doc").glob("*.rst"))]


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def names_on_the_api_page():
    module = None
    for line in read("doc/api.rst").splitlines():
        if line.startswith(".. currentmodule:: "):
            module = line.split()[-1]
        elif re.fullmatch(r"   \w+", line):
            yield f"{module}.{line.strip()}"


def test_api_page_names_everything_public():
    names = list(names_on_the_api_page())
    assert sorted(names) == sorted(OBJECTS)


def test_contributing_page_names_every_file():
    listed = re.findall(r"^\| `([\w/.]+)` \|", read("CONTRIBUTING.md").split("## Where things live")[1], re.MULTILINE)
    files = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert sorted(listed) == sorted(files | {f"{path.parent.name}/" for path in PACKAGE.glob("*/__init__.py")})


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_named_on_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    named = re.findall(
        r"(?<![\w/])(?:doc|tests|tests_distributed|benchmarks|examples|experiments|\.ci)/[\w./]*\w(?![\w<])", text
    )
    missing = {path for path in named if not path.startswith("doc/_build") and not (ROOT / path).exists()}
    assert not missing


def test_page_against_quotes_the_print_outs():
    """Every number of two digits or more on the page is one of the print-outs."""
    page = re.sub(r"``[^`]*``|:\w+:`[^`]*`", " ", read("doc/when_not.rst"))
    printed = "".join(map(read, ["benchmarks/value.txt", "benchmarks/peers.txt", "experiments/paper.txt"]))
    number = r"\d+/\d+|\d+\.\d+|\d\d+"
    quoted = set(re.findall(number, page))
    assert len(quoted) > 30
    assert quoted <= set(re.findall(number, printed)), quoted - set(re.findall(number, printed))


def test_new_loss_is_short():
    """As the contributing page says."""
    assert len(read("tests/test_new_loss.py").splitlines()) < 30
