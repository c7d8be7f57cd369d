"""Sphinx configuration."""

import sklearn_maml

project = "sklearn-maml"
author = "The sklearn-maml developers"
version = release = sklearn_maml.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
autosummary_generate = True
numpydoc_show_class_members = False
exclude_patterns = ["_build"]
html_theme = "alabaster"
