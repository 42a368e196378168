"""Settings of Sphinx: the guides beside this file, and the reference from the docstrings.

``sphinx-build -W -b html docs OUTPUT`` builds them; the extra ``docs`` installs what that needs.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from hgwire_wsgi import __version__

project = "hgwire-wsgi"
copyright = "The hgwire-wsgi contributors"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"hgwire-wsgi {__version__}"

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
# The backend can be described where Mercurial is not installed.
autodoc_mock_imports = ["mercurial", "hgext"]

napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Documented attributes of attrs classes; as separate entries they would appear twice.
napoleon_use_ivar = True
