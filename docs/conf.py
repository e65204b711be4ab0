"""Sphinx: ``make docs``."""

from importlib.metadata import version as version_of

project = "sb3-pg-extras"
author = copyright = "the sb3-pg-extras developers"
release = version = version_of(project)
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx.ext.mathjax", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
# Headings are link targets, as on the pages of the repository.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_inherit_docstrings = True
# Names in double backticks are code.
default_role = "code"
copybutton_exclude = ".linenos, .gp"
# Blocks without a language are commands.
highlight_language = "none"
