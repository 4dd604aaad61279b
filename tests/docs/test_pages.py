"""README and site: short enough to be read, with pictures, and links that lead somewhere."""

import re

import pytest
from conftest import REPOSITORY
from shown_pages import DOCS, PAGES, SITE, TASKS, links, name, words

from specsar_jax.commands import COMMANDS
from specsar_jax.version import __version__

ROOT_PAGES = [
    REPOSITORY / file for file in ("CONTRIBUTING.md", "SECURITY.md", "BENCHMARKS.md", "tfds_dwplus/README.md")
]


def test_the_readme_is_short():
    assert words(REPOSITORY / "README.md") <= 900


@pytest.mark.parametrize("page", TASKS, ids=name)
def test_a_task_page_is_short_and_has_a_picture(page):
    assert words(page) <= 500
    assert any(link.endswith((".webp", ".svg", ".png")) for link in links(page))


def test_there_are_five_tasks():
    assert len(TASKS) == 5


@pytest.mark.parametrize("page", [*PAGES, *ROOT_PAGES], ids=name)
def test_links_lead_to_files_and_headings(page):
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, heading = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if "reference/commands/" in str(target):  # made as the site is built
            assert target.stem in COMMANDS, f"{link} is of no command"
            continue
        assert target.exists(), f"{name(page)} links to {link}"
        if heading:
            assert heading in headings(target), f"{name(page)} links to {link}"


def headings(page) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


def test_each_page_is_in_the_contents():
    listed = set()
    for page in SITE:
        for block in re.findall(r"```\{toctree\}\n((?:.*\n)*?)```", page.read_text()):
            entries = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / entry).resolve() for entry in entries}
    missing = {page.with_suffix("").resolve() for page in SITE} - listed - {DOCS / "index"}
    assert not missing
    assert all(
        any(entry.with_suffix(kind).exists() for kind in (".md", ".ipynb")) or "*" in entry.name for entry in listed
    )


def test_each_picture_is_shown_and_made_by_the_script():
    made = set(re.findall(r"^def ([a-z]\w*)\(real: Path\)", (DOCS / "make_pictures.py").read_text(), re.MULTILINE))
    there = {path.stem for path in (DOCS / "pictures").iterdir()}
    shown = {link.rpartition("/")[2].partition(".")[0] for page in PAGES for link in links(page) if "pictures/" in link}
    assert made == there == shown


def test_the_citation_is_of_this_version():
    assert f"\nversion: {__version__}\n" in (REPOSITORY / "CITATION.cff").read_text()
