"""What the server answers: each model its own, whole and streamed alike, in OpenAI's words."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.serve.conftest import Running, Scripted
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS, Trained

pytest_plugins = ["tests.use_fixtures"]

pytestmark = pytest.mark.usefixtures("one_core")

TAUGHT = {"english": ENGLISH, "chinese": CHINESE}


def test_base_and_adapters_are_model_names(server: Running) -> None:
    listed = server.ask("GET", "/v1/models").json
    assert [(model["id"], model["parent"]) for model in listed["data"]] == [
        ("base", None),
        ("chinese", "base"),
        ("english", "base"),
    ]
    assert server.ask("GET", "/v1/models/english").json == listed["data"][2]


def test_each_model_gives_its_own_taught_answers_many_at_once(server: Running) -> None:
    asked = [
        (name, question, answer) for name in TAUGHT for question, answer in zip(QUESTIONS, TAUGHT[name], strict=True)
    ]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: server.answer(one[0], one[1]), asked))
    assert found == [answer for _, _, answer in asked]


def test_a_stream_says_what_the_whole_answer_says(server: Running) -> None:
    whole = server.chat("chinese", QUESTIONS[0]).json
    streamed = server.chat("chinese", QUESTIONS[0], stream=True, stream_options={"include_usage": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed.text == whole["choices"][0]["message"]["content"] == CHINESE[0]
    *pieces, last, counted = streamed.events
    assert last["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "stop"
    assert (counted["choices"], counted["usage"]) == ([], whole["usage"])
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len({event["id"] for event in streamed.events}) == 1
    assert "\ufffd" not in streamed.text


def test_the_prompt_is_the_one_that_training_had(server: Running) -> None:
    """System text of a request takes the place of the contract's, and parts of a message are one text."""
    content = [{"type": "text", "text": QUESTIONS[1][:2]}, {"type": "text", "text": QUESTIONS[1][2:]}]
    body = {"model": "english", "messages": [{"role": "user", "content": content}], "max_completion_tokens": 24}
    assert server.ask("POST", "/v1/chat/completions", body).json["choices"][0]["message"]["content"] == ENGLISH[1]
    told = server.chat("english", QUESTIONS[1]).json["usage"]["prompt_tokens"]
    system = [{"role": "system", "content": "Be very long indeed."}, {"role": "user", "content": QUESTIONS[1]}]
    longer = server.ask("POST", "/v1/chat/completions", {"model": "english", "messages": system, "max_tokens": 1}).json
    assert longer["usage"]["prompt_tokens"] > told


def test_compare_streams_several_models_told_apart_by_name(server: Running) -> None:
    body = {"models": ["english", "chinese"], "messages": [{"role": "user", "content": QUESTIONS[2]}], "max_tokens": 24}
    reply = server.ask("POST", "/v1/compare", body)
    said = {"english": "", "chinese": ""}
    for event in reply.events:
        for choice in event["choices"]:
            said[event["model"]] += choice["delta"].get("content") or ""
    assert said == {"english": ENGLISH[2], "chinese": CHINESE[2]}
    reasons = [choice["finish_reason"] for event in reply.events for choice in event["choices"]]
    assert reasons.count("stop") == 2


def test_models_that_are_compared_never_speak_for_each_other(server: Running) -> None:
    for number in range(20):
        names = ["english", "chinese"] if number % 2 else ["chinese", "english"]
        question = QUESTIONS[number % 4]
        body = {"models": names, "messages": [{"role": "user", "content": question}], "max_tokens": 24}
        said = dict.fromkeys(names, "")
        for event in server.ask("POST", "/v1/compare", body).events:
            said[event["model"]] += "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        assert said == {"english": ENGLISH[number % 4], "chinese": CHINESE[number % 4]}


def test_a_completion_goes_on_with_a_text_without_a_template(server: Running) -> None:
    prompt = f"<|im_start|>user\n{QUESTIONS[0]}"
    reply = server.ask("POST", "/v1/completions", {"model": "english", "prompt": prompt, "max_tokens": 3})
    assert reply.json["usage"]["prompt_tokens"] == len(prompt)  # a byte a token, the control token's too
    assert reply.json["choices"][0]["finish_reason"] in ("stop", "length")
    streamed = server.ask(
        "POST", "/v1/completions", {"model": "english", "prompt": prompt, "max_tokens": 3, "stream": True}
    )
    assert "".join(event["choices"][0]["text"] for event in streamed.events) == reply.json["choices"][0]["text"]


def test_a_drawn_answer_comes_again_with_its_seed(server: Running) -> None:
    drawing = {"temperature": 2.0, "top_k": 50, "min_p": 0.001, "top_p": 0.99, "max_tokens": 12}
    first, again = (server.answer("base", "x", seed=11, **drawing) for _ in range(2))
    others = {server.answer("base", "x", seed=number, **drawing) for number in range(4)}
    assert first == again
    assert len(others) > 1


def test_a_repetition_penalty_changes_a_greedy_answer(server: Running) -> None:
    assert server.answer("english", QUESTIONS[0], repetition_penalty=2.0) != ENGLISH[0]


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_fits_a_schema_where_the_engine_can(server: Running, *, stream: bool) -> None:
    answers = {
        "type": "object",
        "properties": {"n": {"enum": ["1", "2"]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": answers}}
    reply = server.chat("english", QUESTIONS[0], response_format=wanted, max_tokens=400, stream=stream)
    if server.engine == "transformers":
        assert (reply.status, reply.json["error"]["param"]) == (400, "response_format")
        return
    text = reply.text if stream else reply.json["choices"][0]["message"]["content"]
    assert json.loads(text)["n"] in ("1", "2")
    assert server.answer("english", QUESTIONS[0]) == ENGLISH[0]
    whole = server.chat("english", QUESTIONS[0], response_format={"type": "json_object"}, max_tokens=300).json[
        "choices"
    ][0]
    assert whole["message"]["content"].startswith("{")


def test_a_schema_that_cannot_be_kept_is_refused(server: Running) -> None:
    wanted = {"type": "json_schema", "json_schema": {"schema": {"type": "nonsense"}}}
    reply = server.chat("english", QUESTIONS[0], response_format=wanted)
    assert (reply.status, reply.json["error"]["param"]) == (400, "response_format")
    long = {"type": "json_schema", "json_schema": {"schema": {"enum": ["x" * 30_000]}}}
    assert server.chat("english", QUESTIONS[0], response_format=long).status == 400


# --- ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "left"),
    [
        ("e tw", "on"),
        (["eee", "ree"], "one two th"),
        ("never", "one two three"),
        ("one", ""),
        ("threee", "one two three"),
    ],
)
def test_an_answer_ends_before_a_stop_text(
    scripted: Callable[..., Scripted], stop: object, left: str, *, stream: bool
) -> None:
    server = scripted(["on", "e t", "wo th", "ree"]).server
    reply = server.chat("base", "x", stop=stop, stream=stream)
    found = reply.text if stream else reply.json["choices"][0]["message"]["content"]
    assert found == left


def test_ends_of_lines_that_are_none_in_events_stay_text(scripted: Callable[..., Scripted]) -> None:
    said = "a\nb\r\nc\x85d\u2028e\u2029f\x0bg\x1ch"
    reply = scripted([*said]).server.chat("base", "x", stream=True)
    assert reply.text == said
    assert len(reply.body.decode().splitlines()) == reply.body.count(b"\n")


def test_an_answer_of_as_many_tokens_as_allowed_says_so(scripted: Callable[..., Scripted]) -> None:
    reply = scripted().server.chat("base", "a b c", max_tokens=2).json
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def test_the_token_that_ended_an_answer_is_counted(scripted: Callable[..., Scripted]) -> None:
    assert scripted().server.chat("base", "a b c").json["usage"]["completion_tokens"] == 4


# --- adapters that come, go and change -----------------------------------------------------------------------------


def lay(trained: Path, folder: Path) -> None:
    shutil.copytree(trained, folder, ignore=shutil.ignore_patterns("run"))


def test_an_adapter_laid_down_while_serving_answers_by_its_name(server: Running, trained: Trained) -> None:
    assert server.chat("late", QUESTIONS[0]).status == 404
    served = next(lying.folder.parent for lying in server.models.known.adapters.values())  # type: ignore[union-attr]
    lay(trained.english, served / "late")
    assert server.answer("late", QUESTIONS[0]) == ENGLISH[0]
    shutil.rmtree(served / "late")
    lay(trained.chinese, served / "late")
    assert server.answer("late", QUESTIONS[0]) == CHINESE[0]
    shutil.rmtree(served / "late")
    assert server.chat("late", QUESTIONS[0]).status == 404
    assert server.answer("english", QUESTIONS[3]) == ENGLISH[3]


def test_a_damaged_adapter_is_refused_by_name_and_the_others_go_on(server: Running, trained: Trained) -> None:
    served = next(lying.folder.parent for lying in server.models.known.adapters.values())  # type: ignore[union-attr]
    lay(trained.english, served / "damaged")
    (served / "damaged" / "adapter_model.safetensors").write_bytes(b"nothing")
    refused = server.chat("damaged", QUESTIONS[0])
    assert (refused.status, refused.json["error"]["code"]) == (409, "model_not_usable")
    assert str(served) not in refused.body.decode()
    assert server.answer("english", QUESTIONS[0]) == ENGLISH[0]
    assert "damaged" not in [model["id"] for model in server.ask("GET", "/v1/models").json["data"]]
    shutil.rmtree(served / "damaged")
