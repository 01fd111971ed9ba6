"""The page before the real server: what each assumes of the other holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.chat_page import ask, compare, ended
from tests.browser.chromium import NEEDS_CHROMIUM
from tests.serve.conftest import KEY, Running, Scripted, wait_until
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS

pytest_plugins = ["tests.use_fixtures", "tests.browser.chromium"]

pytestmark = [pytest.mark.early, NEEDS_CHROMIUM]


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    broken: list[str] = []
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.on("console", lambda told: broken.append(told.text) if "Content Security" in told.text else None)
    yield page
    context.close()
    assert broken == []


def test_base_and_adapters_answer_on_the_page_one_by_one_and_side_by_side(server: Running, tab: Page) -> None:
    tab.goto(f"http://127.0.0.1:{server.port}/")
    expect(tab.locator("#model option")).to_have_text(["base", "chinese", "english"])
    tab.locator("#model").select_option("english")
    expect(ended(ask(tab, QUESTIONS[0])).locator(".said")).to_have_text(ENGLISH[0])
    expect(tab.locator(".notes")).to_contain_text("tokens: ")
    tab.locator("#new").click()
    compare(tab, "chinese", "english")
    exchange = ended(ask(tab, QUESTIONS[1]))
    expect(exchange.locator(".said")).to_have_text([CHINESE[1], ENGLISH[1]])
    expect(exchange.locator(".notes").nth(1)).to_contain_text("Differs from chinese")
    again = ended(ask(tab, QUESTIONS[2]))
    expect(again.locator(".notes .fault")).to_have_count(0)
    expect(again.locator(".top button:visible")).to_have_count(2)


def test_a_stopped_answer_frees_its_place(scripted: Callable[..., Scripted], tab: Page) -> None:
    started = scripted(pieces=["one "] * 10_000)
    started.engine.gate.clear()
    tab.goto(f"http://127.0.0.1:{started.server.port}/")
    expect(tab.locator("#model option")).to_have_count(1)
    exchange = ask(tab, "one?")
    wait_until(lambda: started.engine.at_work == 1, "the engine works")
    tab.locator("#stop").click()
    started.engine.gate.set()
    wait_until(lambda: started.engine.at_work == 0, "the engine is at rest")
    expect(exchange.locator(".notes")).to_contain_text("Stopped")


def test_the_page_asks_for_the_key_of_the_server(scripted: Callable[..., Scripted], tab: Page) -> None:
    started = scripted(api_key=KEY)
    tab.goto(f"http://127.0.0.1:{started.server.port}/")
    tab.locator("#key").fill(KEY)
    tab.locator("#key").press("Enter")
    expect(tab.locator("#model option")).to_have_count(1)
    expect(ended(ask(tab, "one?")).locator(".said")).to_have_text("one two three", use_inner_text=True)
