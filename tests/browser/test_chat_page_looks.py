"""How the page of `pangzhu serve` looks: on a telephone and a wide screen, light and dark, in both languages, whatever is said."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.chat_page import QUESTIONS, Open, ask, compare, ended
from tests.browser.chat_server import CHAT, ChatServer, Refusal, Said
from tests.browser.chromium import NEEDS_CHROMIUM, SHOWN, without_barrier

pytestmark = [pytest.mark.early, NEEDS_CHROMIUM]

LOCALES = ("en-GB", "zh-CN")
HOSTILE = (
    "</div></script><script>window.hit = 1</script><img src=x onerror='window.hit = 2'> **bold** [link](javascript:0)\n"
    "  kept   spaces\u202e right to left \u202c" + "长" * 300 + "w" * 300
)


def test_what_models_and_the_server_say_is_text(opened: Open, server: ChatServer) -> None:
    hostile_name = HOSTILE.partition(" **")[0]
    server.says = {"base": Said((HOSTILE,)), hostile_name: Said((HOSTILE[:40], HOSTILE[40:]))}
    server.questions, server.root = ((HOSTILE, "taught"), ("?", hostile_name)), hostile_name
    tab = opened()
    assert tab.locator("#questions button").first.text_content() == HOSTILE
    compare(tab, *server.says)
    exchange = ended(ask(tab, HOSTILE))
    assert exchange.locator(".said").evaluate_all("found => found.map(each => each.textContent)") == [HOSTILE, HOSTILE]
    assert exchange.locator("h3").nth(1).text_content() == hostile_name
    assert exchange.locator(".said").first.evaluate("each => getComputedStyle(each).whiteSpace") == "pre-wrap"
    server.refusals.append(Refusal(400, HOSTILE))
    server.refusals.append(Refusal(400, HOSTILE))
    assert ended(ask(tab, "again?")).locator(".notes span").first.text_content() == HOSTILE
    assert tab.evaluate("window.hit") is None
    assert tab.locator("main :is(img, script, a, b, strong)").count() == 0


def test_the_page_asks_nobody_but_its_server(opened: Open, server: ChatServer) -> None:
    tab = opened(ready=False)
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.reload()
    ended(ask(tab, "one?"))
    paths = ["/", "/v1/examples", "/v1/models", CHAT]
    assert sorted(url for url in asked if not url.startswith("data:")) == sorted(
        server.address + path for path in paths
    )


def test_the_page_speaks_the_reader_s_language_and_the_other_at_a_click(opened: Open, server: ChatServer) -> None:
    server.questions = (("What is a tort?", "taught"),)
    server.says["law"] = Said(("A contract.",), finish="length")
    tab = opened(locale="zh-CN")
    exchange = ended(ask(tab, "one?"))
    expect(tab.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(exchange.locator(".notes")).to_contain_text("到 max_tokens 时被截断")
    expect(tab.locator("#question")).to_have_attribute("placeholder", "您的问题")
    tab.locator("#language").click()
    expect(tab.locator("html")).to_have_attribute("lang", "en")
    expect(exchange.locator(".notes")).to_contain_text("Cut at max_tokens")
    expect(tab.locator("#question")).to_have_attribute("placeholder", "Your question")
    chinese = """() => [...document.querySelectorAll('body *:not(script, style, noscript, h1, #language)')].filter(element =>
      /[\\u4e00-\\u9fff]/.test([...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('') + element.ariaLabel))
      .map(element => element.outerHTML)"""
    assert tab.evaluate(chinese) == []
    tab.locator("#language").click()
    expect(exchange.locator(".notes")).to_contain_text("到 max_tokens 时被截断")


@pytest.mark.parametrize("locale", LOCALES)
@pytest.mark.parametrize(("width", "scheme"), SHOWN)
def test_nothing_sticks_out_and_no_barrier_is_found(
    opened: Open, server: ChatServer, width: int, scheme: str, locale: str
) -> None:
    server.questions = (*QUESTIONS, (HOSTILE, "taught"))
    server.says["twin"] = Said((HOSTILE,), finish="length")
    server.root = f"/a/folder/{'deep' * 40}"
    tab = opened(locale=locale, color_scheme=scheme, viewport={"width": width, "height": 900}, bypass_csp=True)
    without_barrier(tab, width)
    tab.locator("#settings summary").click()
    compare(tab, "base", "law", "twin")
    ended(ask(tab, HOSTILE))
    server.refusals.append(Refusal(429, HOSTILE, {"Retry-After": "7"}))
    ended(ask(tab, "two?"))
    compare(tab, "law")
    ask(tab, "three?")
    without_barrier(tab, width)
    server.key = "s3cret"
    tab.locator("[name=mode][value=chat]").check()
    tab.locator("#send").click()
    expect(tab.locator("#key-dialog")).to_be_visible()
    without_barrier(tab, width)
