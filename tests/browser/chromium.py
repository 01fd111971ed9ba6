"""Chromium for the tests of pages: where it is, how it is started, and what is asked of every page.

`.ci/run` installs it and asks for it (`PANGZHU_REQUIRE_BROWSER=1`); where there is none, these tests are skipped.
"""

import os
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

SHOWN = ((390, "light"), (1440, "dark"))  # what is laid out is the same in both schemes, colours at both widths
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WANTED = os.environ.get("PANGZHU_REQUIRE_BROWSER") == "1"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
NEEDS_CHROMIUM = pytest.mark.skipif(CHROMIUM is None and not WANTED, reason="no Chromium on this machine")
STICKING_OUT = """() => [...document.querySelectorAll('body *')].filter(element => {
  const box = element.getBoundingClientRect();
  const scrolled = element.closest('.scroll, pre, svg');
  return box.width > 0 && !scrolled && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(element => element.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for a file of tests."""
    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


def without_barrier(tab: Page, width: int) -> None:
    """Nothing wider than the screen, and nothing that axe finds. Only what it finds fault with is described: with the rest it
    takes half as long again."""
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(STICKING_OUT) == []
    found = Axe().run(tab, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(violation["id"], [node["html"][:150] for node in violation["nodes"]]) for violation in found] == []
