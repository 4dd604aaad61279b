"""Chromium, which opens the pages in tests that want a browser."""

import contextlib
import importlib.resources
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextlib.contextmanager
def started() -> Iterator[Any]:
    """Starts Chromium. While it runs, its thread has an event loop."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with playwright.sync_playwright() as made:
        browser = made.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


@contextlib.contextmanager
def viewed(browser: Any, shown: Any, hash_: str = "", **context: Any) -> Iterator[tuple[Any, list[str]]]:
    """Opens the page of view; yields the page, and what it asks for. Fails if a script fails, opens a dialog, breaks the page's own policy,
    or asks others.

    Args:
        browser: of `started`.
        shown: what the page shows.
        hash_: end of the address.
        context: of the browser, such as `color_scheme` and `viewport`.
    """
    from specsar_jax.viewer import map_server

    server = map_server.listen(shown, map_server.page_files(), "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    troubles, asked = [], []
    try:
        opened = browser.new_context(
            **({"viewport": {"width": 1000, "height": 700}, "reduced_motion": "reduce"} | context)
        )
        page = opened.new_page()
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if "Security Policy" in line.text else None)
        page.on("dialog", lambda dialog: troubles.append(dialog.message))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address + hash_)
        # Not wait_for_function: it evaluates a string time and again, which the page's own policy forbids.
        page.locator("body[data-ready]").wait_for()
        page.wait_for_load_state("networkidle")
        yield page, asked
        opened.close()
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert not troubles
    assert asked and all(url.startswith((address, f"blob:{address}")) for url in asked)


def violations(page: Any) -> list[str]:
    """Returns what axe-core finds that keeps readers from a page, by WCAG 2.2 to AA and its best practices, each in a line."""
    axe = pytest.importorskip("axe_playwright_python", reason="needs axe-core: pip install axe-playwright-python")
    # By the browser itself: the page's own policy allows no script of others. The size of targets, of WCAG 2.2, axe leaves out unless told.
    page.evaluate((importlib.resources.files(axe) / "axe.min.js").read_text())
    found = page.evaluate("axe.run({rules: {'target-size': {enabled: true}}})")["violations"]
    return [
        f"{one['id']} ({one['impact']}): {one['help']}: {[node['target'] for node in one['nodes']][:5]} "
        f"{one['nodes'][0].get('failureSummary', '')}"
        for one in found
    ]
