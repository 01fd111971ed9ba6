"""Each token has its writer and its text: put together again they are the row, and nothing people wrote is the template's."""

from itertools import chain

import pytest

from pangzhu.check.anatomy import Anatomist, Run
from pangzhu.config import TrainOn
from pangzhu.data.conversation import Conversation
from pangzhu.template import contract_for
from pangzhu.tokenization import IGNORED, Labeller
from tests.conftest import TEMPLATE, build_tokenizer, conversation
from tests.test_tokenization import EMPTY_THOUGHT, FORGETFUL

TEXTS = [
    "yes",
    "劳动合同法",
    " spaced ",
    "line\nline",
    "🙂🙂",
    "user",
    "system\nBe brief.",
    "1",
    "\n\n1",
    "<|im_end|>",
    "\x7f",
]


def taken_apart(row: Conversation, train_on: TrainOn = "assistant", template: str = TEMPLATE) -> list[list[Run]]:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    contract = contract_for(tokenizer)
    examples = Labeller(tokenizer, contract, train_on).examples(row)
    anatomist = Anatomist(tokenizer, contract)
    runs = [anatomist.runs(row, example) for example in examples]
    for example, found in zip(examples, runs, strict=True):
        assert "".join(chain.from_iterable(run.tokens for run in found)) == tokenizer.decode(example.input_ids)
        learned = list(chain.from_iterable([run.learned] * len(run.tokens) for run in found))
        assert learned == [label != IGNORED for label in example.labels]
    return runs


def written(runs: list[Run], writer: str) -> list[str]:
    return ["".join(run.tokens) for run in runs if run.writer == writer]


@pytest.mark.parametrize("question", TEXTS)
@pytest.mark.parametrize("answer", TEXTS)
def test_people_wrote_the_question_and_the_answer_and_nothing_else(question: str, answer: str) -> None:
    [runs] = taken_apart(conversation(question, answer))
    assert written(runs, "people") == [question, answer]


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_every_turn_of_a_long_row_is_peoples_whatever_is_learned(train_on: TrainOn) -> None:
    [runs] = taken_apart(conversation("q1", "a1", "q2", "a2", system="S"), train_on)
    assert written(runs, "people") == ["S", "q1", "a1", "q2", "a2"]
    assert set(written(runs, "control")) == {"<|im_start|>", "<|im_end|>"}


def test_the_templates_own_system_text_is_the_templates() -> None:
    [runs] = taken_apart(conversation("q", "a"))
    assert written(runs, "template")[0] == "system\nBe brief."


def test_learned_are_the_answer_and_its_end_token() -> None:
    [runs] = taken_apart(conversation("q", "a"))
    assert [("".join(run.tokens), run.writer) for run in runs if run.learned] == [
        ("a", "people"),
        ("<|im_end|>", "control"),
    ]


@pytest.mark.parametrize("template", [FORGETFUL, EMPTY_THOUGHT])
def test_a_row_of_several_examples_is_taken_apart_example_by_example(template: str) -> None:
    examples = taken_apart(conversation("q1", "<think>t1</think>a1", "q2", "<think>t2</think>a2"), template=template)
    assert len(examples) == 2
    assert written(examples[0], "people") == ["q1", "<think>t1</think>a1"]
    assert written(examples[1], "people")[-1] == "<think>t2</think>a2"


def test_a_letter_of_several_tokens_stands_with_the_last_of_them() -> None:
    [runs] = taken_apart(conversation("q", "中🙂"))
    assert [run.tokens for run in runs if run.writer == "people"][1] == ("", "", "中", "", "", "", "🙂")


def test_half_a_letter_at_the_end_of_a_cut_row_is_still_a_token() -> None:
    tokenizer = build_tokenizer()
    contract = contract_for(tokenizer)
    row = conversation("q", "中中")
    [example] = Labeller(tokenizer, contract).examples(row)
    cut = type(example)(example.input_ids[:-2], example.labels[:-2], example.location)
    runs = Anatomist(tokenizer, contract).runs(row, cut)
    assert sum(len(run.tokens) for run in runs) == len(cut.input_ids)
    assert runs[-1].tokens[:3] == ("", "", "中")
