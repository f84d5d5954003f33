"""The site of the documents: `make docs`. It is built from what is installed, without a network."""

import sys
from pathlib import Path

import polku

sys.path.insert(0, str(Path(__file__).parent / "_site"))

project = "POLKU"
author = "the authors of POLKU"
version = release = polku.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "pages", "docstrings", "reference"]
exclude_patterns = ["_build", "_site"]
html_theme = "furo"
html_title = f"POLKU {release}"
html_show_copyright = False
html_copy_source = False
myst_heading_anchors = 3
default_role = "code"
smartquotes = False  # they would make one dash of the two before an option
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
