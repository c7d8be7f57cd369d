"""Sphinx configuration: everything is built from the checkout, and nothing is fetched."""

import sys
from pathlib import Path

import sklearn_maml

sys.path.insert(0, str(Path(__file__).parent))

project = "sklearn-maml"
author = "The sklearn-maml developers"
copyright = author
version = release = sklearn_maml.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "numpydoc",
    "myst_parser",
    "sphinx_gallery.gen_gallery",
    "site_tools",
]
exclude_patterns = ["_build", "auto_examples/**/*.ipynb", "auto_examples/**/*.md5"]
templates_path = ["_templates"]
default_role = "literal"  # `fit` is code
smartquotes = False  # default="auto" is code, too

autodoc_typehints = "none"  # numpydoc sections say more
autosummary_generate = True
numpydoc_show_class_members = False

html_math_renderer = "mathml"
html_theme = "pydata_sphinx_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"index": [], "changelog": [], "contributing": [], "getting_started": []}
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "backreferences_dir": "_backreferences",
    "doc_module": ("sklearn_maml",),
    "reset_modules": ("matplotlib", "site_tools.reset_scikit_learn"),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "min_reported_time": 1_000_000,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
}
