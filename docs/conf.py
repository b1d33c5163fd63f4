"""How Sphinx builds the documentation."""

from __future__ import annotations

from adapty_async import __version__

project = "adapty-async"
author = "The adapty-async maintainers"
project_copyright = "2026, The adapty-async maintainers"
release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "adapty-async"
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_use_ivar = True
myst_heading_anchors = 3
