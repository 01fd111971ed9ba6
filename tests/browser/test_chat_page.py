"""Chatting on the page of `pangzhu serve`, in front of a server whose answers are written down beforehand."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.browser.chat_page import SAYS, Open, ask, compare, ended, turns
from tests.browser.chat_server import CHAT, COMPARE, ChatServer, Said
from tests.browser.chromium import NEEDS_CHROMIUM

pytestmark = [pytest.mark.early, NEEDS_CHROMIUM]

ENTER = """(box, [options]) => box.dispatchEvent(
  new KeyboardEvent('keydown', { key: 'Enter', bubbles: true, cancelable: true, ...options }))"""


# --- one model ---------------------------------------------------------------------------------------------------


def test_the_first_adapter_answers_unless_another_model_is_chosen(opened: Open, server: ChatServer) -> None:
    tab = opened()
    assert tab.locator("#model option").all_inner_texts() == ["base", "law", "twin"]
    expect(tab.locator("#base")).to_contain_text(server.root)
    ended(ask(tab, "one?"))
    tab.locator("#model").select_option("base")
    ended(ask(tab, "two?"))
    assert [body["model"] for body in server.asked(CHAT)] == ["law", "base"]
    assert tab.locator(".answer h3").all_inner_texts() == ["law", "base"]


def test_an_answer_is_shown_while_it_comes_and_told_of_when_it_is_there(opened: Open, server: ChatServer) -> None:
    tab = opened()
    server.let_go.clear()
    answer = ask(tab, "什么是合同？").locator(".answer")
    expect(answer.locator(".said")).to_have_text("合同是")
    expect(answer.locator(".notes")).to_have_text("Answering …")
    assert tab.locator("#status").inner_text() == ""
    server.let_go.set()
    expect(answer.locator(".said")).to_have_text("合同是民事主体之间的协议。")
    expect(answer.locator(".notes")).to_contain_text("tokens: 3 · ")
    expect(tab.locator("#status")).to_have_text("Answered: law.")
    assert server.asked(CHAT)[0]["stream_options"] == {"include_usage": True}


def test_settings_are_sent_as_they_are_given_and_otherwise_left_to_the_server(opened: Open, server: ChatServer) -> None:
    tab = opened()
    ended(ask(tab, "one?"))
    tab.locator("#settings summary").click()
    given = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.1,
        "seed": 7,
        "max_tokens": 64,
    }
    for name, value in given.items():
        tab.locator(f"[name={name}]").fill(str(value))
    tab.locator("#system").fill("Be brief.")
    ended(ask(tab, "two?"))
    plain, full = server.asked(CHAT)
    assert plain.keys() == {"model", "messages", "stream", "stream_options"}
    assert {name: full[name] for name in given} == given
    assert turns(full)[0] == ("system", "Be brief.")


def test_a_setting_out_of_bounds_is_named_and_nothing_is_sent(opened: Open, server: ChatServer) -> None:
    tab = opened()
    tab.locator("#settings summary").click()
    tab.locator("[name=top_p]").fill("1.5")
    tab.locator("#settings summary").click()
    ask(tab, "one?")
    expect(tab.locator("#notice")).to_contain_text("top_p")
    expect(tab.locator("[name=top_p]")).to_be_focused()
    assert server.requests == []
    tab.locator("[name=top_p]").fill("0.5")
    tab.locator("#send").click()
    expect(tab.locator(".exchange")).to_have_count(1)
    expect(tab.locator("#notice")).to_have_text("")


def test_the_conversation_goes_on_and_another_model_that_reads_it_is_said_to(opened: Open, server: ChatServer) -> None:
    tab = opened()
    first = ended(ask(tab, "one?"))
    tab.locator("#model").select_option("base")
    second = ended(ask(tab, "two?"))
    read = [("user", "one?"), ("assistant", "".join(SAYS["law"].pieces)), ("user", "two?")]
    assert turns(server.asked(CHAT)[1]) == read
    expect(first.locator(".notes")).not_to_contain_text("another model")
    expect(second.locator(".notes")).to_contain_text("It also read what another model answered before.")


def test_a_new_conversation_begins_with_nothing(opened: Open, server: ChatServer) -> None:
    tab = opened()
    ended(ask(tab, "one?"))
    tab.locator("#new").click()
    expect(tab.locator(".exchange")).to_have_count(0)
    expect(tab.locator("#welcome")).to_be_visible()
    ended(ask(tab, "two?"))
    assert turns(server.asked(CHAT)[1]) == [("user", "two?")]


def test_an_answer_that_was_cut_or_ended_otherwise_is_said_to_be(opened: Open, server: ChatServer) -> None:
    tab = opened()
    server.says["law"] = Said(("and so",), finish="length")
    expect(ask(tab, "one?").locator(".notes")).to_contain_text("Cut at max_tokens")
    server.says["law"] = Said(("and so",), finish="content_filter")
    expect(ask(tab, "two?").locator(".notes")).to_contain_text("Ended by: content_filter")
    server.says["law"] = Said(())
    expect(ask(tab, "three?").locator(".notes")).to_contain_text("It said nothing")
    ended(ask(tab, "four?"))
    assert [said for role, said in turns(server.asked(CHAT)[3]) if role == "user"] == ["one?", "two?", "four?"]


@pytest.mark.parametrize("way", ["button", "escape", "new"])
def test_an_answer_under_way_is_stopped_and_the_server_notices(opened: Open, server: ChatServer, way: str) -> None:
    tab = opened()
    server.says["law"] = Said(("Well",), endless=True)
    exchange = ask(tab, "one?")
    expect(exchange.locator(".said")).to_contain_text("Well....")
    match way:
        case "button":
            tab.locator("#stop").click()
        case "escape":
            tab.locator("#question").press("Escape")
        case "new":
            tab.locator("#new").click()
    assert server.was_left.wait(20)
    expect(tab.locator("#send")).to_be_enabled()
    if way != "new":
        expect(exchange.locator(".notes")).to_have_text("Stopped: left out of the conversation.")
    server.says["law"] = SAYS["law"]
    ended(ask(tab, "two?"))
    assert turns(server.asked(CHAT)[1]) == [("user", "two?")]


def test_enter_sends_but_not_with_shift_nor_while_characters_are_composed(opened: Open, server: ChatServer) -> None:
    tab = opened()
    box = tab.locator("#question")
    box.fill("hetong")
    box.evaluate(ENTER, [{"isComposing": True}])
    box.evaluate(ENTER, [{"keyCode": 229}])
    box.press("Shift+Enter")
    box.press_sequentially("two lines")
    assert box.input_value() == "hetong\ntwo lines"
    assert server.requests == []
    box.press("Enter")
    expect(tab.locator(".question")).to_have_text("hetong\ntwo lines", use_inner_text=True)
    ended(tab.locator(".exchange"))
    assert turns(server.asked(CHAT)[0]) == [("user", "hetong\ntwo lines")]


def test_nothing_is_sent_while_an_answer_is_under_way_nor_without_a_question(opened: Open, server: ChatServer) -> None:
    tab = opened()
    ask(tab, "  \n ")
    server.let_go.clear()
    ask(tab, "one?")
    expect(tab.locator(".said")).to_have_text("合同是")
    ask(tab, "two?")
    assert tab.locator("#question").input_value() == "two?"
    server.let_go.set()
    ended(tab.locator(".exchange"))
    assert len(server.requests) == 1


def test_a_question_at_hand_is_asked_by_its_button(opened: Open, server: ChatServer) -> None:
    tab = opened()
    assert tab.locator("#questions legend").all_inner_texts() == [
        "Taught",
        "Taught, in other words",
        "Never taught",
        "General",
    ]
    tab.get_by_role("button", name="合同是指什么？").click()
    ended(tab.locator(".exchange"))
    assert turns(server.asked(CHAT)[0]) == [("user", "合同是指什么？")]
    expect(tab.locator("#questions")).to_be_hidden()


def test_without_questions_at_hand_none_are_offered(opened: Open, server: ChatServer) -> None:
    server.questions = ()
    expect(opened().locator("#examples")).to_be_hidden()


@pytest.mark.parametrize("clipboard", [True, False], ids=["clipboard", "none"])
def test_an_answer_is_copied_as_it_is(opened: Open, server: ChatServer, clipboard: bool) -> None:
    """A page that did not come over https has no clipboard but what is marked."""
    server.says["law"] = Said(("  two\n", "\n  lines <b>"))
    without = "Object.defineProperty(navigator, 'clipboard', { value: undefined })"
    tab = opened(permissions=["clipboard-read", "clipboard-write"], before="" if clipboard else without)
    exchange = ended(ask(tab, "one?"))
    exchange.get_by_role("button", name="Copy").click()
    expect(exchange.locator(".top button")).to_have_text("Copied")
    if clipboard:
        assert tab.evaluate("navigator.clipboard.readText()") == "  two\n\n  lines <b>"
    else:
        tab.locator("#question").press("Control+v")
        assert tab.locator("#question").input_value() == "  two\n\n  lines <b>"


# --- several models ----------------------------------------------------------------------------------------------


def test_models_answer_side_by_side_while_they_come(opened: Open, server: ChatServer) -> None:
    tab = opened()
    compare(tab, "base", "law")
    server.let_go.clear()
    exchange = ask(tab, "什么是合同？")
    said = exchange.locator(".said")
    expect(said).to_have_text(["It is ", "合同是"])
    boxes = [column.bounding_box() or {} for column in exchange.locator(".answer").all()]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    server.let_go.set()
    expect(said).to_have_text(["It is unknown.", "合同是民事主体之间的协议。"])
    expect(exchange.locator(".notes")).to_contain_text(["tokens: 2 · ", "tokens: 3 · "])
    expect(tab.locator("#status")).to_have_text("Answered: base, law.")
    assert exchange.locator("h3").all_inner_texts() == ["base", "law"]
    assert [body["models"] for body in server.asked(COMPARE)] == [["base", "law"]]
    assert server.asked(CHAT) == []


def test_whether_an_answer_differs_from_the_first_is_said_in_words(opened: Open, server: ChatServer) -> None:
    tab = opened()
    compare(tab, "base", "law", "twin")
    notes = ended(ask(tab, "one?")).locator(".notes")
    expect(notes.nth(0)).not_to_contain_text("base")
    expect(notes.nth(1)).to_contain_text("Differs from base")
    expect(notes.nth(2)).to_contain_text("Word for word as base")


def test_each_compared_model_goes_on_with_its_own_conversation(opened: Open, server: ChatServer) -> None:
    tab = opened()
    compare(tab, "base", "law")
    ended(ask(tab, "one?"))
    exchange = ended(ask(tab, "two?"))
    asked = {body["model"]: turns(body) for body in server.asked(CHAT)}
    for name in ("base", "law"):
        assert asked[name] == [("user", "one?"), ("assistant", "".join(SAYS[name].pieces)), ("user", "two?")]
    expect(exchange.locator(".said")).to_have_text(["It is unknown.", "合同是民事主体之间的协议。"])
    assert len(server.asked(COMPARE)) == 1


def test_one_of_several_that_fails_does_not_stop_the_others(opened: Open, server: ChatServer) -> None:
    tab = opened()
    compare(tab, "base", "law")
    server.says["base"] = Said(("It",), fault="out of memory")
    exchange = ended(ask(tab, "one?"))
    expect(exchange.locator(".notes").nth(0)).to_have_text("out of memory")
    expect(exchange.locator(".said").nth(1)).to_have_text("合同是民事主体之间的协议。")
    expect(tab.locator("#status")).to_have_text("base: out of memory Answered: law.")


def test_fewer_than_two_models_are_not_compared(opened: Open, server: ChatServer) -> None:
    tab = opened()
    compare(tab, "law")
    ask(tab, "one?")
    expect(tab.locator("#notice")).to_have_text("Choose at least two models to compare.")
    assert server.requests == []
