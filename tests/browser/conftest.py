"""One Chromium for each file of tests, and the chat page in it."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.chat_page import QUESTIONS, SAYS, Open
from tests.browser.chat_server import ChatServer
from tests.browser.chromium import browser as browser


@pytest.fixture
def server() -> Iterator[ChatServer]:
    """A base and two adapters, with questions at hand."""
    running = ChatServer(dict(SAYS), QUESTIONS)
    yield running
    running.close()


@pytest.fixture
def opened(browser: Browser, server: ChatServer) -> Iterator[Open]:
    """Opens the page with its models; at the end it has broken no rule of its policy and stumbled nowhere."""
    contexts: list[BrowserContext] = []
    broken: list[str] = []

    def show(*, ready: bool = True, before: str = "", **options: Any) -> Page:
        context = browser.new_context(**{"locale": "en-GB", "viewport": {"width": 1440, "height": 900}} | options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: broken.append(str(error)))
        tab.on("console", lambda told: broken.append(told.text) if "Content Security" in told.text else None)
        if before:
            tab.add_init_script(before)
        tab.goto(server.address)
        if ready:
            expect(tab.locator("#model option")).to_have_count(len(server.says))
        return tab

    yield show
    for context in contexts:
        context.close()
    assert broken == []
