"""The notebooks of the site, which its build runs: here only that they are as they should be kept, and listed."""

import ast
import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY

from specsar_jax.commands import COMMANDS

DOCS = REPOSITORY / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def cells(notebook: Path, kind: str) -> list[str]:
    tree = json.loads(notebook.read_text())
    return ["".join(cell["source"]) for cell in tree["cells"] if cell["cell_type"] == kind]


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request) -> Path:
    return request.param


def test_all_of_them_are_listed_on_the_first_page():
    listed = re.findall(r"^notebooks/(\w+)$", (DOCS / "index.md").read_text(), re.M)
    assert sorted(listed) == [path.stem for path in NOTEBOOKS] and len(listed) == 5


def test_nothing_that_a_run_leaves_is_kept(notebook):
    tree = json.loads(notebook.read_text())
    assert tree["nbformat"] == 4 and set(tree["metadata"]) == {"kernelspec", "language_info"}
    assert tree["metadata"]["kernelspec"]["name"] == "python3"
    assert set(tree["metadata"]["language_info"]) == {"name"}
    for cell in tree["cells"]:
        assert set(cell["metadata"]) <= {"tags", "mystnb"}
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None


def test_no_cell_knows_a_place_of_one_machine(notebook):
    for source in cells(notebook, "code"):
        assert not re.search(r"""(?:^|[\s"'=(])(?:~|\.\.)?/\w""", source, re.M), source


def test_a_command_that_fails_ends_the_build(notebook):
    """`!command` would go on, and so would a cell of several commands behind the first that fails."""
    for source in cells(notebook, "code"):
        assert not re.search(r"^\s*!", source, re.M), source
        if source.startswith("%%bash"):
            commands = source.replace("\\\n", "").splitlines()[1:]
            assert len(commands) == 1 or commands[0] == "set -e", source


def test_commands_are_commands_of_ours_and_python_is_python(notebook):
    for source in cells(notebook, "code"):
        for package, name in re.findall(r"python -m (\w+)\.(\w+)", source):
            assert COMMANDS[name][0] == package
        if not source.startswith(("%%bash", "%%writefile classes.csv")):
            ast.parse(re.sub(r"^%%.*", "", source))


def test_a_picture_is_told_to_those_who_cannot_see_it(notebook):
    tree = json.loads(notebook.read_text())
    drawn = [cell for cell in tree["cells"] if re.search(r"plt\.subplots|^Image\(", "".join(cell["source"]), re.M)]
    assert drawn
    for cell in drawn:
        assert len(cell["metadata"]["mystnb"]["image"]["alt"]) > 20


def test_links_lead_to_pages(notebook):
    links = re.findall(r"\]\(([^)#]+)", "\n".join(cells(notebook, "markdown")))
    assert links
    for link in links:
        assert link.startswith("https://") or (notebook.parent / link).is_file(), link


def test_figures_of_the_quickstart_are_those_of_the_results():
    (told,) = [text for text in cells(DOCS / "notebooks" / "quickstart.ipynb", "markdown") if "mIoU" in text]
    row = next(line for line in (DOCS / "results.md").read_text().splitlines() if "`configs/quickstart.py`" in line)
    named = re.findall(r"(\d+\.\d) %", told)
    assert len(named) == 2 and [cell.strip() for cell in row.split("|")[3:5]] == named
