"""How the site is built: `sphinx-build -W -b html docs build/docs`."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

from outbox.version import __version__

project = "outbox-relay"
author = "the outbox-relay authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx_click",
    "sphinx_copybutton",
    "from_code",
    "llms",
]
# Links into other projects' documentation are written out: a build must not need a network.
intersphinx_mapping: dict[str, tuple[str, str | None]] = {}

source_suffix = {".md": "markdown"}
exclude_patterns = ["_extensions", "build"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline"]
# Files of the repository that pages point at live outside the site; see _extensions/from_code.py.
suppress_warnings: list[str] = []

# In docstrings `x` is code.
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
nitpicky = False

html_theme = "furo"
html_title = "outbox-relay"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"
html_show_copyright = False
