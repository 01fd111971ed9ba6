"""What the tests of the chat page do on it, and what is said to them there."""

from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.browser.chat_server import Said

SAYS = {
    "base": Said(("It is ", "unknown.")),
    "law": Said(("合同是", "民事主体之间", "的协议。")),
    "twin": Said(("It is unknown", ".")),
}
QUESTIONS = (
    ("什么是合同？", "taught"),
    ("合同是指什么？", "reworded"),
    ("What is a tort?", "untaught"),
    ("1 + 1?", "general"),
)

Open = Callable[..., Page]

expect.set_options(timeout=20_000)  # milliseconds: two cores may be busy


def ask(tab: Page, question: str) -> Locator:
    """Send a question; its exchange."""
    number = tab.locator(".exchange").count()
    tab.locator("#question").fill(question)
    tab.locator("#question").press("Enter")
    return tab.locator(".exchange").nth(number)


def ended(exchange: Locator) -> Locator:
    """The exchange, when nobody in it answers any more."""
    expect(exchange.page.locator("#stop")).to_be_hidden()
    return exchange


def compare(tab: Page, *models: str) -> None:
    """Let exactly these answer side by side."""
    tab.locator("[name=mode][value=compare]").check()
    for box in tab.locator("#models input").all():
        box.set_checked(box.get_attribute("value") in models)


def turns(body: dict[str, Any]) -> list[tuple[str, str]]:
    """Who says what in a request."""
    return [(message["role"], message["content"]) for message in body["messages"]]
