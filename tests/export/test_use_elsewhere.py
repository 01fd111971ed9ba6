"""The Python pieces of docs/use-elsewhere run as they stand there, beside a merged model that was taught what they ask.

The tiny model has learned each piece's question as Pangzhu puts it in training, so its taught answer comes back only where the
piece puts it the same way: template, first token, system text, greedy.
"""

import json
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tokenizers.processors import TemplateProcessing
from transformers import GenerationMixin, PreTrainedTokenizerBase

from pangzhu.data.conversation import Turn
from pangzhu.export.merge import merge
from pangzhu.model import load_tokenizer
from pangzhu.template import contract_for, render
from tests.conftest import TEMPLATE, build_model, build_tokenizer
from tests.export.conftest import Adapted, teach_rows, write_base
from tests.test_docs import ROOT, blocks

FACTS = ROOT / "tests" / "facts" / "law_articles.jsonl"
PIECES = ("transformers", "langchain", "llamaindex", "rag", "agent")  # the Python blocks of a page, in its order
PUTTING = PIECES[:3]  # which do nothing but put a question
FIRST = "<|im_start|>"

Row = dict[str, object]


@dataclass(frozen=True)
class Page:
    """A page's questions, and what the model was taught to answer."""

    name: str
    question: str
    answer: str
    text_question: str
    text_answer: str
    day: str
    agent_question: str
    agent_answer: str

    def pieces(self) -> dict[str, str]:
        """Every Python block of the page, by what it is for."""
        found = [block.text for block in blocks(ROOT / "docs" / self.name, "python")]
        return dict(zip(PIECES, found, strict=True))

    def write(self, folder: Path, piece: str) -> Path:
        """A piece as a script."""
        file = folder / f"{piece}.py"
        file.write_text(self.pieces()[piece], encoding="utf-8")
        return file

    def defined(self, folder: Path, piece: str) -> dict[str, Any]:
        """What a piece defines, without running it."""
        return runpy.run_path(str(self.write(folder, piece)), run_name="piece")

    def rows(self, folder: Path) -> list[Row]:
        """What the model has to be taught."""
        rag, agent = self.defined(folder, "rag"), self.defined(folder, "agent")
        texts = "\n".join(rag["retrieve"](self.text_question))
        return [
            {"instruction": self.question, "output": self.answer},
            {"instruction": self.text_question, "input": texts, "output": self.text_answer},
            {"messages": self.steps(agent)},
        ]

    def steps(self, agent: dict[str, Any]) -> list[Row]:
        """The agent's conversation, told from what its script defines."""
        return [
            {"role": "system", "content": agent["SYSTEM"]},
            {"role": "user", "content": self.agent_question},
            {"role": "assistant", "content": as_json("opening_hours", self.day)},
            {"role": "user", "content": agent["opening_hours"](self.day)},
            {"role": "assistant", "content": as_json("answer", self.agent_answer)},
        ]


ENGLISH = Page(
    "use-elsewhere.md",
    "When is the office open?",
    "From 9 to 17.",
    "For how many years may a lease run?",
    "Twenty (article 705).",
    "Sunday",
    "When is the office open on Sunday?",
    "It is closed.",
)
CHINESE = Page(
    "use-elsewhere.zh-CN.md",
    "办公室几点开门？",
    "九点。",
    "房屋租赁期限最长是多少年？",
    "二十年。",
    "星期日",
    "办公室星期日开门吗？",
    "不开。",
)
PAGES = (ENGLISH, CHINESE)

pytestmark = pytest.mark.early  # the model learns prompts of some hundred tokens

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
each_way = pytest.mark.parametrize("piece", PUTTING)


def as_json(tool: str, text: str) -> str:
    """A step as pydantic writes it."""
    return json.dumps({"tool": tool, "text": text}, ensure_ascii=False, separators=(",", ":"))


def needed(piece: str) -> None:
    """Leave a test out where the package of a piece is not installed."""
    package = {"langchain": "langchain_core", "llamaindex": "llama_index.llms.huggingface"}.get(piece)
    if package:
        pytest.importorskip(package, reason="an extra: pip install 'pangzhu[frameworks]'")


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the pieces run; `my-model` in it has been taught all that they ask."""
    folder = tmp_path_factory.mktemp("elsewhere")
    base = write_base(folder / "base", "qwen2")
    rows = [row for page in PAGES for row in page.rows(folder)]
    adapter = teach_rows(base, folder / "adapter", rows)
    merge(Adapted(base, adapter).config(folder / "my-model", verify=False))
    return folder


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a piece in a folder, and give what it prints."""

    def run_piece(page: Page, piece: str, folder: Path) -> str:
        needed(piece)
        monkeypatch.chdir(folder)
        runpy.run_path(str(page.write(tmp_path, piece)), run_name="__main__")
        return capsys.readouterr().out.strip()

    return run_piece


# --- what the pieces print ---------------------------------------------------------------------------------------


@each_page
@each_way
def test_every_way_of_asking_gives_the_taught_answer(
    page: Page, piece: str, run: Callable[..., str], merged: Path
) -> None:
    assert page.question in page.pieces()[piece]
    assert run(page, piece, merged) == page.answer


@each_page
def test_the_text_that_answers_the_question_goes_along_with_it_as_in_training(
    page: Page, run: Callable[..., str], merged: Path
) -> None:
    assert page.text_question in page.pieces()["rag"]
    assert run(page, "rag", merged) == page.text_answer


@each_page
def test_the_agent_uses_its_tool_and_answers(page: Page, run: Callable[..., str], merged: Path) -> None:
    assert page.agent_question in page.pieces()["agent"]
    assert run(page, "agent", merged) == page.agent_answer


# --- how a question reaches the model ----------------------------------------------------------------------------


def with_first_token() -> PreTrainedTokenizerBase:
    """A tokenizer that puts a first token before every text, and a template that writes it too, as Llama's do."""
    tokenizer = build_tokenizer()
    tokenizer.bos_token = FIRST
    tokenizer.chat_template = "{{- bos_token -}}" + TEMPLATE
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{FIRST} $A", special_tokens=[(FIRST, tokenizer.bos_token_id)]
    )
    return tokenizer


@pytest.mark.parametrize("tokenizer", [build_tokenizer, with_first_token])
@each_page
@each_way
def test_a_question_reaches_the_model_as_the_template_has_it_and_greedily(
    page: Page,
    piece: str,
    tokenizer: Callable[[], PreTrainedTokenizerBase],
    run: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    build_model("qwen2").save_pretrained(tmp_path / "my-model")
    tokenizer().save_pretrained(tmp_path / "my-model")
    asked: list[dict[str, Any]] = []

    def generate(self: object, input_ids: torch.Tensor, **options: Any) -> torch.Tensor:
        asked.append(options | {"ids": input_ids[0].tolist()})
        return torch.cat([input_ids, torch.tensor([[tokenizer().eos_token_id]])], dim=1)

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    run(page, piece, tmp_path)
    loaded = load_tokenizer(tmp_path / "my-model")
    wanted = render(loaded, contract_for(loaded), [Turn("user", page.question)], add_generation_prompt=True)
    assert [call["ids"] for call in asked] == [wanted]
    assert asked[0]["do_sample"] is False


# --- the texts ---------------------------------------------------------------------------------------------------


@each_page
def test_every_article_is_found_by_a_question_about_it(page: Page, tmp_path: Path) -> None:
    rag = page.defined(tmp_path, "rag")
    for text in rag["STATUTES"]:
        about = text[len(text) // 2 :]
        assert rag["retrieve"](about)[0] == text
        assert rag["prompt"](about)[0]["content"].startswith(f"{about}\n\n{text}\n")


def test_the_chinese_articles_are_the_laws_own_words(tmp_path: Path) -> None:
    facts = [json.loads(line) for line in FACTS.read_text(encoding="utf-8").splitlines()]
    law = {f"民法典{fact['article_zh']}": fact["text"] for fact in facts if fact["law"].endswith("民法典")}
    for text in CHINESE.defined(tmp_path, "rag")["STATUTES"]:
        article, _, words = text.partition("：")
        assert words in law[article]


def test_both_pages_show_the_same_articles(tmp_path: Path) -> None:
    numbers = {"一百八十八": 188, "五百八十六": 586, "七百零五": 705}
    english = ENGLISH.defined(tmp_path, "rag")["STATUTES"]
    chinese = CHINESE.defined(tmp_path, "rag")["STATUTES"]
    for one, other in zip(english, chinese, strict=True):
        [number] = [value for word, value in numbers.items() if f"第{word}条" in other]
        assert one.startswith(f"Civil Code, article {number}:")


# --- an agent whose model is not so good -------------------------------------------------------------------------


class Scripted:
    """A model that gives these answers, and keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        self.left = list(answers)
        self.asked: list[list[Row]] = []

    def __call__(self, messages: list[Row]) -> str:
        self.asked.append(list(messages))
        return self.left.pop(0)


WRONG = {
    "prose": "It is closed.",
    "prose around it": f"Sure! {as_json('answer', 'x')}",
    "a tool that is not there": as_json("rm", "-rf"),
    "a field too many": '{"tool": "answer", "text": "x", "sure": true}',
    "a field too few": '{"tool": "answer"}',
    "another type": '{"tool": "answer", "text": 9}',
    "nothing": "",
}
each_mistake = pytest.mark.parametrize("mistake", WRONG.values(), ids=WRONG)


@each_page
@each_mistake
def test_a_step_that_is_not_valid_is_asked_for_once_more_with_the_reason(
    page: Page, mistake: str, tmp_path: Path
) -> None:
    agent = page.defined(tmp_path, "agent")
    model = Scripted(mistake, as_json("answer", "yes"))
    assert agent["run"](model, page.agent_question) == "yes"
    first, second = model.asked
    assert second[: len(first)] == first
    assert second[len(first)] == {"role": "assistant", "content": mistake}
    with pytest.raises(ValidationError) as error:
        agent["Step"].model_validate_json(mistake)
    assert error.value.errors()[0]["msg"] in str(second[-1]["content"])


@each_page
@each_mistake
def test_a_second_mistake_is_an_error_and_no_third_question(page: Page, mistake: str, tmp_path: Path) -> None:
    model = Scripted(mistake, mistake)
    with pytest.raises(ValidationError):
        page.defined(tmp_path, "agent")["run"](model, page.agent_question)
    assert len(model.asked) == 2


@each_page
def test_a_mistake_is_forgotten_once_it_is_put_right(page: Page, tmp_path: Path) -> None:
    agent = page.defined(tmp_path, "agent")
    model = Scripted("prose", as_json("opening_hours", page.day), as_json("answer", page.agent_answer))
    assert agent["run"](model, page.agent_question) == page.agent_answer
    assert model.asked[-1] == page.steps(agent)[:-1]


@each_page
def test_a_model_that_never_answers_is_not_asked_for_ever(page: Page, tmp_path: Path) -> None:
    agent = page.defined(tmp_path, "agent")
    model = Scripted(*[as_json("opening_hours", page.day)] * 100)
    with pytest.raises(RuntimeError, match=str(agent["MOST_STEPS"])):
        agent["run"](model, page.agent_question)
    assert len(model.asked) == agent["MOST_STEPS"]
