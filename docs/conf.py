"""Sphinx settings: `make docs` builds the pages into docs/_build/html."""

import mmqsdt

project = 'mmqsdt'
author = 'the mmqsdt authors'
release = mmqsdt.__version__
extensions = [
    'myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax',
    'sphinx.ext.napoleon', 'sphinx.ext.viewcode'
]
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = 'mmqsdt'
myst_enable_extensions = ['amsmath', 'dollarmath']
myst_heading_anchors = 3
# In MyST's Markdown, code of the shell and of Python has these names.
highlight_language = 'python'
autodoc_typehints = 'none'  # the docstrings have them
autodoc_member_order = 'bysource'
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Pages link to files of the repository, such as configs; those are no pages.
suppress_warnings = ['myst.xref_missing_source', 'ref.python']
nitpicky = False
