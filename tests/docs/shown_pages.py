"""The pages of README and site, and what they show: commands, words, links."""

import re
from pathlib import Path

from conftest import REPOSITORY

DOCS = REPOSITORY / "docs"
SITE = sorted(page for page in DOCS.rglob("*.md") if page.parent.name != "commands")
PAGES = [REPOSITORY / "README.md", *SITE]
TASKS = sorted((DOCS / "tasks").glob("*.md"))

_FENCED = re.compile(r"^(`{3,}|:{3,})(?P<kind>.*)\n(?P<text>(?:.*\n)*?)\1\s*$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(REPOSITORY))


def commands(page: Path) -> list[str]:
    """The commands that a page shows, in their order: lines of its code blocks that begin like one, continued lines joined."""
    text = page.read_text()
    blocks = [
        match["text"] for match in _FENCED.finditer(text) if match["kind"] in ("", "sh", "shell", "bash", "console")
    ]
    indented = re.findall(r"(?:^(?: {4,}|\t).*\n)+", _FENCED.sub("", text), re.MULTILINE)
    found = []
    for block in [*blocks, *indented]:
        for line in re.sub(r"\\\n\s*", "", block).splitlines():
            if re.match(r"(python |pip |pytest|specsar|git |sphinx-build|[A-Z_]+=\S* python )", line.strip()):
                found.append(line.strip())
    return found


def words(page: Path) -> int:
    """The words of a page as `wc -w` counts them."""
    return len(page.read_text().split())


def links(page: Path) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", _FENCED.sub("", page.read_text()))
