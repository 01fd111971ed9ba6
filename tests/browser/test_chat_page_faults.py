"""What goes wrong on the page of `pangzhu serve`: each fault is told in words, and none spoils the conversation."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.chat_page import Open, ask, ended, turns
from tests.browser.chat_server import CHAT, ChatServer, Refusal, Said
from tests.browser.chromium import NEEDS_CHROMIUM

pytestmark = [pytest.mark.early, NEEDS_CHROMIUM]

KEY = "a secret of letters"


def test_a_server_that_wants_a_key_is_given_one_that_is_kept_nowhere(opened: Open, server: ChatServer) -> None:
    server.key = KEY
    tab = opened(ready=False)
    field, dialog = tab.locator("#key"), tab.locator("#key-dialog")
    expect(dialog).to_be_visible()
    expect(tab.locator("#key-wrong")).to_be_hidden()
    assert field.get_attribute("type") == "password"
    field.fill("wrong")
    field.press("Enter")
    expect(tab.locator("#key-wrong")).to_be_visible()
    field.fill(KEY)
    field.press("Enter")
    expect(tab.locator("#model option")).to_have_count(3)
    expect(dialog).to_be_hidden()
    ended(ask(tab, "one?"))
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert tab.evaluate("[localStorage.length, sessionStorage.length, document.cookie, location.href.includes('secret of')]") == [
        0, 0, "", False,
    ]  # fmt: skip
    assert KEY not in tab.content() + field.input_value()


def test_without_the_key_it_says_so_and_asks_again(opened: Open, server: ChatServer) -> None:
    server.key = KEY
    tab = opened(ready=False)
    tab.locator("#key-cancel").click()
    expect(tab.locator("#trouble")).to_have_text("The server asks for its API key.")
    tab.locator("#again").click()
    tab.locator("#key").fill(KEY)
    tab.locator("#key").press("Enter")
    expect(tab.locator("#model option")).to_have_count(3)
    expect(tab.locator("#banner")).to_be_hidden()


def test_a_busy_server_is_waited_for_and_the_question_is_not_lost(opened: Open, server: ChatServer) -> None:
    tab = opened()
    server.refusals.append(Refusal(429, "queue full", {"Retry-After": "7"}))
    exchange = ended(ask(tab, "one?"))
    expect(exchange.locator(".notes")).to_have_text("The server is busy. Please wait 7 s and send again. (queue full)")
    expect(tab.locator("#status")).to_contain_text("7 s")
    expect(tab.locator("#question")).to_have_value("one?")
    tab.locator("#send").click()
    expect(tab.locator(".exchange")).to_have_count(2)
    ended(tab.locator(".exchange").last)
    assert turns(server.asked(CHAT)[1]) == [("user", "one?")]


@pytest.mark.parametrize(
    ("said", "told"),
    [(Said(("It",), fault="NaN"), "NaN"), (Said(("It",), finish=None), "The answer broke off")],
    ids=["error", "silence"],
)
def test_an_answer_that_breaks_off_is_no_part_of_the_conversation(
    opened: Open, server: ChatServer, said: Said, told: str
) -> None:
    tab = opened()
    server.says["law"] = said
    exchange = ended(ask(tab, "one?"))
    expect(exchange.locator(".notes")).to_contain_text(told)
    expect(exchange.locator(".said")).to_have_text("It")
    ended(ask(tab, "two?"))
    assert turns(server.asked(CHAT)[1]) == [("user", "two?")]


def test_a_refusal_is_shown_in_the_server_s_words(opened: Open, server: ChatServer) -> None:
    tab = opened()
    server.refusals.append(Refusal(400, "top_k: too large"))
    expect(ask(tab, "one?").locator(".notes")).to_have_text("top_k: too large")


def test_a_server_that_is_gone_is_said_to_be(opened: Open, server: ChatServer) -> None:
    tab = opened()
    server.close()
    expect(ask(tab, "one?").locator(".notes")).to_contain_text("The server cannot be reached.")
    expect(tab.locator("#question")).to_have_value("one?")
