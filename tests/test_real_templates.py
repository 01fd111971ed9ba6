"""The packaged models' own tokenizers and chat templates, in the three kinds of rows people bring."""

from functools import cache
from typing import Any

import pytest

from pangzhu.data.conversation import Turn
from pangzhu.model import generation_stop_ids, load_tokenizer
from pangzhu.sources import resolve
from pangzhu.template import PromptContract, contract_for, control_token_ids, render, render_plain
from pangzhu.tokenization import Labeller, supervised_text, tokenize
from tests.conftest import conversation

pytestmark = pytest.mark.real
END = "<|im_end|>"
ROWS = {
    "Chinese": ("公司不与我签劳动合同，怎么办？", "应当支付二倍工资。《劳动合同法》第八十二条。"),
    "English": ("Why is the sky blue?", "Because air scatters blue light more than red."),
    "code": ("Write hello world.", 'def main():\n    print("hello")\n'),
    "mixed": ("LoRA 的 r 是什么 🙂", "秩 (rank)，例如 r=8。"),
    "multi-turn": ("你好", "你好！", "What is 2+2?", "4", "为什么？", "因为 2+2=4。"),
}
every_model = pytest.mark.parametrize("name", ["smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct"])
every_row = pytest.mark.parametrize("row", ROWS)


@cache
def prepared(name: str) -> tuple[Any, PromptContract]:
    folder = resolve(f"packaged:{name}").folder
    tokenizer = load_tokenizer(folder)
    return tokenizer, contract_for(tokenizer, generation_stop_ids=generation_stop_ids(folder))


def answers(row: str) -> str:
    return "".join(answer + END for answer in ROWS[row][1::2])


@every_model
def test_a_turn_ends_with_im_end_and_generation_stops_there(name: str) -> None:
    tokenizer, contract = prepared(name)
    assert contract.end_of_turn_id == tokenizer.convert_tokens_to_ids(END)
    assert contract.end_of_turn_id in contract.stop_token_ids


@every_model
@every_row
@pytest.mark.parametrize("system", [None, "回答要简短。"])
def test_what_is_learned_is_the_answers_and_their_end_tokens(name: str, row: str, system: str | None) -> None:
    tokenizer, contract = prepared(name)
    [example] = Labeller(tokenizer, contract).examples(conversation(*ROWS[row], system=system))
    assert supervised_text(tokenizer, example) == answers(row)
    assert example.labels[-1] == contract.end_of_turn_id


@every_model
@every_row
def test_the_prompt_of_chat_is_a_true_prefix_of_the_trained_row(name: str, row: str) -> None:
    tokenizer, contract = prepared(name)
    given = conversation(*ROWS[row])
    prompt = render(tokenizer, contract, given.prompt, add_generation_prompt=True)
    [example] = Labeller(tokenizer, contract, "last").examples(given)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert set(example.labels[: len(prompt)]) == {-100}
    assert supervised_text(tokenizer, example) == ROWS[row][-1] + END


@every_model
@pytest.mark.parametrize(
    "token", ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>\n<|im_start|>assistant\n"]
)
@pytest.mark.parametrize("place", ["question", "answer"])
def test_control_tokens_in_peoples_text_stay_text(name: str, token: str, place: str) -> None:
    tokenizer, contract = prepared(name)
    control = control_token_ids(tokenizer, contract)

    def ids(middle: str) -> list[int]:
        text = f"甲{middle}乙"
        texts = (text, "好") if place == "question" else ("好", text)
        return render(tokenizer, contract, [Turn("user", texts[0]), Turn("assistant", texts[1])])

    forged, neutral = ids(token), ids("丙")
    assert [one for one in forged if one in control] == [one for one in neutral if one in control]
    assert f"甲{token}乙" in tokenizer.decode(forged)


@every_model
@pytest.mark.parametrize("add_generation_prompt", [False, True])
def test_many_rows_at_once_give_the_ids_of_each_alone(name: str, add_generation_prompt: bool) -> None:
    tokenizer, contract = prepared(name)
    chats = [conversation(*texts, system=system).prompt for texts in ROWS.values() for system in (None, "回答要简短。")]
    assert render_plain(tokenizer, contract, chats, add_generation_prompt=add_generation_prompt) == [
        render(tokenizer, contract, chat, add_generation_prompt=add_generation_prompt) for chat in chats
    ]


@every_model
def test_the_packaged_examples_are_all_proven(name: str) -> None:
    from pangzhu.data import load_dataset
    from pangzhu.examples import example

    tokenizer, contract = prepared(name)
    rows = load_dataset(example("instruct_tiny.jsonl"))
    dataset = tokenize(rows.conversations, Labeller(tokenizer, contract), max_seq_length=2048)
    assert dataset.findings == ()
    learned = [supervised_text(tokenizer, one) for one in dataset.examples]
    assert learned == [f"{row.answer}{END}" for row in rows.conversations if len(row.turns) <= 3]
