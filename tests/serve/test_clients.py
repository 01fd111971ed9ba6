"""The clients that people use, against both engines: openai-python, LangChain, LlamaIndex, curl, and the snippets of docs/serve.md."""

import asyncio
import contextlib
import io
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.serve.conftest import Running
from tests.use_helpers import CHINESE, ENGLISH, QUESTIONS

pytest_plugins = ["tests.use_fixtures"]

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.untraced]

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").glob("serve*.md"))
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def client(server: Running) -> Iterator[OpenAI]:
    """openai-python, which holds every answer against its own schema."""
    url = f"http://127.0.0.1:{server.port}/v1"
    with OpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as opened:
        yield opened


def messages(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def test_openai_lists_and_chats(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["base", "chinese", "english"]
    assert client.models.retrieve("english").id == "english"
    for name, answers in (("english", ENGLISH), ("chinese", CHINESE)):
        for question, expected in zip(QUESTIONS, answers, strict=True):
            answer = client.chat.completions.create(model=name, messages=messages(question), max_tokens=24)  # type: ignore[arg-type]
            assert answer.choices[0].message.content == expected
            assert answer.usage is not None
            assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_openai_streams(client: OpenAI) -> None:
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model="chinese",
        messages=messages(QUESTIONS[1]),
        max_tokens=24,
        stream=True,
        stream_options=options,  # type: ignore[arg-type, call-overload]
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == CHINESE[1]
    assert chunks[-1].usage.completion_tokens > 0
    with client.chat.completions.stream(model="english", messages=messages(QUESTIONS[1]), max_tokens=24) as events:  # type: ignore[arg-type]
        assert events.get_final_completion().choices[0].message.content == ENGLISH[1]


def test_openai_completes(client: OpenAI, server: Running) -> None:
    whole = client.completions.create(model="base", prompt="one", max_tokens=4)
    # Its schema of a text's piece has no piece that does not end, though OpenAI sends them: not held against it.
    with OpenAI(base_url=f"http://127.0.0.1:{server.port}/v1", api_key="none", max_retries=0) as loose:
        streamed = loose.completions.create(model="base", prompt="one", max_tokens=4, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == whole.choices[0].text


def test_openai_async_many_at_once(server: Running) -> None:
    async def ask() -> list[str | None]:
        url = f"http://127.0.0.1:{server.port}/v1"
        async with AsyncOpenAI(base_url=url, api_key="none", max_retries=0, _strict_response_validation=True) as many:
            asked = [
                many.chat.completions.create(model="english", messages=messages(question), max_tokens=24)  # type: ignore[arg-type]
                for question in QUESTIONS
            ]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(ask()) == list(ENGLISH)


def test_openai_knows_our_faults_by_their_class(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=messages("x"))  # type: ignore[arg-type]
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as unfit:
        client.chat.completions.create(model="base", messages=messages("x"), n=2)  # type: ignore[arg-type]
    assert unfit.value.param == "n"


def test_langchain_chats_and_streams(server: Running) -> None:
    langchain = pytest.importorskip("langchain_openai")
    url = f"http://127.0.0.1:{server.port}/v1"
    model = langchain.ChatOpenAI(base_url=url, api_key="none", model="english", temperature=0, max_tokens=24)
    assert model.invoke(QUESTIONS[0]).content == ENGLISH[0]
    assert "".join(str(piece.content) for piece in model.stream(QUESTIONS[1])) == ENGLISH[1]
    assert [answer.content for answer in model.batch(list(QUESTIONS))] == list(ENGLISH)


def test_llama_index_chats_and_streams(server: Running) -> None:
    like = pytest.importorskip("llama_index.llms.openai_like")
    url = f"http://127.0.0.1:{server.port}/v1"
    given = {"is_chat_model": True, "temperature": 0, "max_tokens": 24}
    model = like.OpenAILike(api_base=url, api_key="none", model="chinese", **given)
    assert model.complete(QUESTIONS[0]).text == CHINESE[0]
    assert list(model.stream_complete(QUESTIONS[1]))[-1].text == CHINESE[1]


# --- the pages' own snippets ---------------------------------------------------------------------------------------


def snippets(page: Path, language: str) -> list[str]:
    return [block for kind, block in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def served_here(snippet: str, server: Running) -> str:
    """A snippet for this server: its port, an adapter that is here, a question it was taught."""
    here = snippet.replace("http://127.0.0.1:8000", f"http://127.0.0.1:{server.port}")
    return here.replace("my-lora", "english").replace("When is the office open?", QUESTIONS[0])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_python_snippet_prints_the_taught_answer(server: Running, page: Path, number: int) -> None:
    snippet = snippets(page, "python")[number]
    for module in re.findall(r"^from ([\w.]+) import", snippet, re.MULTILINE):
        pytest.importorskip(module)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(served_here(snippet, server), page.name, "exec"), {})
    assert ENGLISH[0] in printed.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_curl_snippet_gets_the_taught_answer(server: Running, page: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl here")
    [command] = [block for block in snippets(page, "bash") if block.startswith("curl")]
    done = subprocess.run(
        [*shlex.split(served_here(command, server)), "-s"], capture_output=True, text=True, check=True
    )
    assert ENGLISH[0] in done.stdout
