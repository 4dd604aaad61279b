"""Settings of the documentation site: `sphinx-build -W -b html docs build/site` builds it, without network.

The pages are Markdown (MyST), the notebooks are run as the site is built, each command's page is what it says with `--help`.
"""

import functools
import os
from pathlib import Path

from nbclient import NotebookClient
from sphinx.application import Sphinx

from specsar_jax import commands
from specsar_jax.version import __version__

HERE = Path(__file__).parent

project = "specsar_jax"
copyright = "the authors of specsar_jax, Apache-2.0"
release = __version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.programoutput",
    "sphinx_copybutton",
]
exclude_patterns = ["pictures", "launch/*"]

default_role = "code"
html_theme = "furo"
html_title = "specsar_jax"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True  # progress lines of a cell in one block
nb_execution_in_temp = True
# Output comes in pieces of 100 bytes, between which MyST-NB would end the line.
NotebookClient.__init__ = functools.partialmethod(NotebookClient.__init__, coalesce_streams=True)

autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True

os.environ["COLUMNS"] = "88"  # of --help
os.environ["TQDM_DISABLE"] = "1"  # no progress bars on the pages


def _commands(app: Sphinx) -> None:
    """Writes the page of each command, from the list that `specsar` prints."""
    folder = HERE / "reference" / "commands"
    folder.mkdir(exist_ok=True)
    for name, (_, purpose) in commands.COMMANDS.items():
        text = f"# {name}\n\n{purpose[0].upper()}{purpose[1:]}.\n\n```{{program-output}} python -m specsar_jax.commands {name} --help\n```\n"
        page = folder / f"{name}.md"
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def setup(app: Sphinx) -> None:
    """Makes the pages of the commands before Sphinx looks for pages."""
    app.connect("builder-inited", _commands)
