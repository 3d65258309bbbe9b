"""The site. `make docs` builds it with warnings as errors; `GALLERY=0 make docs` leaves the examples unrun."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

import attviz  # noqa: E402

project = "attviz"
author = "The attviz developers"
copyright = "the attviz developers"
version = release = attviz.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "gallery/**/*.ipynb", "gallery/**/*.py", "gallery/**/*.md5", "gallery/**/*.zip", "gallery/**/*.json"]
suppress_warnings = ["config.cache"]  # the gallery's order is a function, which Sphinx does not store

html_theme = "furo"
html_title = f"attviz {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["table-search.js"]
html_extra_path = ["../llms.txt"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes are in the signatures, as jaxtyping writes them
napoleon_google_docstring = True
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # "*tables rows" is not emphasis

sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "plot_gallery": os.environ.get("GALLERY", "1") != "0",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "matplotlib_animations": False,
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("matplotlib",),
    "remove_config_comments": True,
    "min_reported_time": 1,
}
