"""What is learned of each row, and the proof that it is right."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from pangzhu.config import TrainOn
from pangzhu.data.conversation import Conversation, Location, Turn
from pangzhu.template import contract_for, render
from pangzhu.tokenization import (
    IGNORED,
    Labeller,
    TokenizedDataset,
    TokenizedExample,
    joined,
    supervised_preview,
    supervised_text,
    tokenize,
    tokenize_in_batches,
)
from tests.conftest import TEMPLATE, build_tokenizer, conversation

END = "<|im_end|>"
# Qwen3's way: reasoning stays in the last answer and is taken out of the ones before.
FORGETFUL = TEMPLATE.replace(
    "message.content + '<|im_end|>\\n'",
    "(message.content if loop.last or message.role != 'assistant' else message.content.split('</think>')[-1]) + "
    "'<|im_end|>\\n'",
)
# Thinks in the last answer alone, whether or not the row does, as Qwen3 does with its empty reasoning.
EMPTY_THOUGHT = TEMPLATE.replace(
    "message.role + '\\n' + message.content",
    "message.role + '\\n' + ('<think></think>' if loop.last and message.role == 'assistant' else '') + message.content",
)
TWO_TURNS = ("q1", "a1", "q2", "a2")


def labeller(train_on: TrainOn = "assistant", template: str = TEMPLATE, **contract: str) -> Labeller:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return Labeller(tokenizer, contract_for(tokenizer, **contract), train_on)  # type: ignore[arg-type]


def learned(example: TokenizedExample) -> str:
    return supervised_text(build_tokenizer(), example)


def run(
    rows: list[Conversation], *, limit: int = 2048, overlong: str = "fail", template: str = TEMPLATE
) -> TokenizedDataset:
    return tokenize(rows, labeller(template=template), max_seq_length=limit, overlong=overlong)  # type: ignore[arg-type]


# --- what is learned ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["yes", "劳动合同法第八十二条。", " spaced ", "line\nline", "🙂", "x" * 300])
def test_what_is_learned_is_the_answer_and_its_end_token(answer: str) -> None:
    [example] = labeller().examples(conversation("q", answer))
    assert learned(example) == answer + END


@pytest.mark.parametrize(
    ("train_on", "expected"),
    [
        ("assistant", f"a1{END}a2{END}"),
        ("last", f"a2{END}"),
        ("all", f"<|im_start|>system\nS{END}\n<|im_start|>user\nq1{END}\n<|im_start|>assistant\na1{END}\n"
                f"<|im_start|>user\nq2{END}\n<|im_start|>assistant\na2{END}\n"),
    ],
)  # fmt: skip
def test_train_on_chooses_every_answer_the_last_or_the_whole(train_on: TrainOn, expected: str) -> None:
    [example] = labeller(train_on).examples(conversation(*TWO_TURNS, system="S"))
    assert learned(example) == expected


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
def test_the_prompt_that_chat_will_use_is_a_true_prefix(train_on: TrainOn) -> None:
    row = conversation(*TWO_TURNS, system="S")
    tokenizer = build_tokenizer()
    prompt = render(tokenizer, contract_for(tokenizer), row.prompt, add_generation_prompt=True)
    [example] = labeller(train_on).examples(row)
    assert list(example.input_ids[: len(prompt)]) == prompt
    assert example.input_ids[len(prompt)] == tokenizer.convert_tokens_to_ids("a")


@pytest.mark.parametrize("system", [None, "", "Be kind."])
def test_nothing_of_system_and_question_is_learned(system: str | None) -> None:
    [example] = labeller().examples(conversation("secret question", "ok", system=system))
    unlearned = [token for token, label in zip(example.input_ids, example.labels, strict=True) if label == IGNORED]
    assert "secret question" in build_tokenizer().decode(unlearned)
    assert learned(example) == "ok" + END


def test_labels_are_the_ids_themselves_and_end_with_the_last_end_token() -> None:
    [example] = labeller().examples(conversation(*TWO_TURNS))
    assert all(label in (IGNORED, token) for token, label in zip(example.input_ids, example.labels, strict=True))
    assert len(example.input_ids) == len(example.labels)
    assert example.labels[-1] == build_tokenizer().convert_tokens_to_ids(END)


def test_the_contracts_system_text_is_part_of_the_row_and_not_learned() -> None:
    [example] = labeller(system="Answer in Latin.").examples(conversation("q", "a"))
    assert "Answer in Latin." in build_tokenizer().decode(example.input_ids)
    assert learned(example) == "a" + END


def test_the_preview_shows_the_whole_row_with_its_learned_runs() -> None:
    tokenizer = build_tokenizer()
    [example] = labeller().examples(conversation(*TWO_TURNS))
    runs = supervised_preview(tokenizer, example)
    assert "".join(text for text, _ in runs) == tokenizer.decode(example.input_ids)
    assert [text for text, is_learned in runs if is_learned] == ["a1" + END, "a2" + END]


def test_the_first_token_of_a_row_is_never_counted_as_learned() -> None:
    [example] = labeller("all").examples(conversation("q", "a"))
    assert example.num_supervised == len(example.input_ids) - 1


# --- templates that rewrite earlier turns --------------------------------------------------------------------------


@pytest.mark.parametrize("train_on", ["assistant", "last"])
def test_a_template_that_drops_earlier_reasoning_gives_a_row_an_answer(train_on: TrainOn) -> None:
    row = conversation("q1", "<think>t1</think>a1", "q2", "<think>t2</think>a2")
    examples = labeller(train_on, FORGETFUL).examples(row)
    expected = [f"<think>t1</think>a1{END}", f"<think>t2</think>a2{END}"]
    assert [learned(example) for example in examples] == (expected if train_on == "assistant" else expected[1:])
    assert "t1" not in build_tokenizer().decode(examples[-1].input_ids)


def test_a_template_that_drops_nothing_of_this_row_gives_one_example() -> None:
    assert len(labeller(template=FORGETFUL).examples(conversation(*TWO_TURNS))) == 1


def test_an_empty_thought_that_the_template_adds_is_learned_with_the_answer() -> None:
    examples = labeller(template=EMPTY_THOUGHT).examples(conversation(*TWO_TURNS))
    assert [learned(example) for example in examples] == [f"<think></think>a1{END}", f"<think></think>a2{END}"]


# --- control tokens in people's text -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["<|im_end|>", "<|im_start|>assistant\n", "<|endoftext|>", "<|im_end|>\n<|im_start|>user\nx"]
)
@pytest.mark.fault("C9")
def test_control_tokens_in_an_answer_are_learned_as_text(text: str) -> None:
    [example] = labeller().examples(conversation("q", f"say {text} now"))
    assert learned(example) == f"say {text} now{END}"
    assert [label for label in example.labels if label in (0, 1, 2)] == [2]


@pytest.mark.fault("C9")
def test_control_tokens_in_a_question_change_nothing_but_its_letters() -> None:
    [neutral] = labeller().examples(conversation("a~b", "ok"))
    [forged] = labeller().examples(conversation("a<|im_end|>b", "ok"))
    assert len(forged.input_ids) == len(neutral.input_ids) + len("<|im_end|>") - 1
    assert forged.num_supervised == neutral.num_supervised


def test_text_that_does_change_the_control_tokens_is_a_finding() -> None:
    twice = TEMPLATE.replace(
        "{%- for", "{%- if 'again' in messages[-1].content -%}{{- '<|im_end|>' -}}{%- endif -%}{%- for", 1
    )
    dataset = run([conversation("q", "again"), conversation("q", "once")], template=twice)
    assert [finding.key for finding in dataset.findings] == ["finding.control_tokens_changed"]
    assert len(dataset.examples) == 1


# --- what cannot be proven -----------------------------------------------------------------------------------------

UNPROVABLE = {  # what a template does to the answer "bad" -> what is found
    "hint_in_the_question": ("{%- if messages[-1].content == 'bad' -%}{{- 'HINT' -}}{%- endif -%}", "prompt_no_prefix"),
    "refusal": (
        "{%- if messages[-1].content == 'bad' -%}{{- raise_exception('no') -}}{%- endif -%}",
        "template_refused",
    ),
    "no_end": ("message.content + ('' if message.content == 'bad' else '<|im_end|>')", "control_tokens_changed"),
    "no_answer": ("(message.content if message.content != 'bad' else '') + '<|im_end|>'", "nothing_supervised"),
}


def spoilt(piece: str) -> str:
    if piece.startswith("{%"):
        return TEMPLATE.replace("{%- for", piece + "{%- for", 1)
    return TEMPLATE.replace("message.content + '<|im_end|>\\n'", piece + " + '\\n'")


@pytest.mark.parametrize("case", UNPROVABLE)
def test_a_row_that_cannot_be_proven_is_named_and_the_others_stay(case: str) -> None:
    piece, key = UNPROVABLE[case]
    rows = [conversation("q", "good", line=1), conversation("q", "bad", line=2), conversation("q", "fine", line=3)]
    dataset = run(rows, template=spoilt(piece))
    assert [(finding.key, finding.location.line) for finding in dataset.findings] == [(f"finding.{key}", 2)]
    assert dataset.findings[0].reason
    assert dataset.findings[0].fix
    assert [example.location.line for example in dataset.examples] == [1, 3]


def test_an_answer_of_white_space_that_the_template_strips_is_a_finding() -> None:
    stripped = TEMPLATE.replace("message.content", "message.content.strip()")
    assert [finding.key for finding in run([conversation("q", "  ")], template=stripped).findings] == [
        "finding.nothing_supervised"
    ]


# --- rows that are too long ----------------------------------------------------------------------------------------


@pytest.fixture
def long_rows() -> list[Conversation]:
    """A short row, one with a long answer, one with a long question."""
    return [conversation("q", "a"), conversation("q", "b" * 80, line=2), conversation("c" * 80, "d", line=3)]


def test_a_row_of_exactly_the_limit_is_not_too_long() -> None:
    [example] = run([conversation("q", "a")]).examples
    assert run([conversation("q", "a")], limit=len(example.input_ids)).findings == ()
    assert len(run([conversation("q", "a")], limit=len(example.input_ids) - 1).findings) == 1


@pytest.mark.fault("C7")
def test_overlong_fail_names_every_row_with_both_lengths(long_rows: list[Conversation]) -> None:
    dataset = run(long_rows, limit=90)
    assert [(finding.key, finding.location.line) for finding in dataset.findings] == [
        ("finding.too_long", 2),
        ("finding.too_long", 3),
    ]
    assert dataset.findings[0].values["limit"] == 90
    assert dataset.findings[0].values["length"] == run(long_rows).longest
    assert (dataset.num_dropped, dataset.num_truncated) == (0, 0)


@pytest.mark.fault("C7")
def test_overlong_drop_counts_what_it_leaves_out(long_rows: list[Conversation]) -> None:
    dataset = run(long_rows, limit=90, overlong="drop")
    assert (len(dataset.examples), dataset.num_dropped, dataset.findings) == (1, 2, ())


def test_overlong_truncate_keeps_the_head_and_counts_it(long_rows: list[Conversation]) -> None:
    dataset = run(long_rows[:2], limit=90, overlong="truncate")
    [whole] = run(long_rows[1:2]).examples
    assert dataset.num_truncated == 1
    assert dataset.examples[1].input_ids == whole.input_ids[:90]
    assert dataset.examples[1].labels == whole.labels[:90]
    assert dataset.longest == 90


@pytest.mark.fault("C7")
def test_an_answer_cut_to_nothing_is_a_finding_not_a_row(long_rows: list[Conversation]) -> None:
    dataset = run(long_rows, limit=90, overlong="truncate")
    assert [(finding.key, finding.location.line) for finding in dataset.findings] == [("finding.cut_to_nothing", 3)]
    assert len(dataset.examples) == 2


def test_the_counts_of_a_dataset_are_sums_over_its_rows(long_rows: list[Conversation]) -> None:
    dataset = run(long_rows)
    assert dataset.num_tokens == sum(len(example.input_ids) for example in dataset.examples)
    assert dataset.num_supervised == 2 + 81 + 2
    assert dataset.longest == max(len(example.input_ids) for example in dataset.examples)


def test_no_rows_is_an_empty_dataset() -> None:
    assert (run([]).num_tokens, run([]).longest) == (0, 0)


def test_an_unsupported_order_of_roles_is_a_finding_where_the_template_refuses_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    strict = "{%- if messages[0].role == 'system' -%}{{- raise_exception('System role not supported') -}}{%- endif -%}"
    row = Conversation(
        (Turn("system", "s"), Turn("user", "q"), Turn("assistant", "a")), Location(Path("rows.jsonl"), 4, 4)
    )
    bare = strict + TEMPLATE[TEMPLATE.index("{%- for") :]
    [finding] = run([row], template=bare).findings
    assert finding.key == "finding.template_refused"
    assert "System role not supported" in finding.reason


# --- rows rendered ahead ---------------------------------------------------------------------------------------------

MIXED = [
    conversation("q", "a"),
    conversation(*TWO_TURNS, system="S", line=2),
    conversation("q <|im_end|>", "a <|im_start|> b", line=3),
    conversation("q", "\U000f0000a", line=4),
    conversation("q1", "<think>t1</think>a1", "q2", "<think>t2</think>a2", line=5),
    conversation("离婚冷静期？", "三十日。🙂", line=6),
    conversation("q", "a", line=7),
]


@pytest.mark.parametrize("train_on", ["assistant", "last", "all"])
@pytest.mark.parametrize("template", [TEMPLATE, FORGETFUL, EMPTY_THOUGHT])
@pytest.mark.parametrize("system", [None, "Be kind.", "<|im_end|>"])
def test_rows_tokenized_together_are_those_tokenized_one_by_one(
    train_on: TrainOn, template: str, system: str | None
) -> None:
    options = {} if system is None else {"system": system}
    one_by_one = [example for row in MIXED for example in labeller(train_on, template, **options).examples(row)]
    together = tokenize(MIXED, labeller(train_on, template, **options), max_seq_length=2048)
    assert together.examples == tuple(one_by_one)
    assert together.findings == ()


@pytest.mark.parametrize("place", [0, 1, 700, 1199])
def test_a_row_that_the_template_refuses_is_named_among_many_and_the_others_stay(place: int) -> None:
    piece, _ = UNPROVABLE["refusal"]
    rows = [conversation("q", "bad" if line == place else f"a{line}", line=line) for line in range(1200)]
    dataset = run(rows, template=spoilt(piece))
    assert [(finding.key, finding.location.line) for finding in dataset.findings] == [
        ("finding.template_refused", place)
    ]
    assert [example.location.line for example in dataset.examples] == [line for line in range(1200) if line != place]


def test_what_is_rendered_together_is_not_rendered_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [conversation("q", f"a{line}", line=line) for line in range(30)]
    made = labeller()
    calls: list[object] = []
    monkeypatch.setattr(
        "pangzhu.tokenization.render", lambda *given, **options: calls.append(given) or render(*given, **options)
    )
    tokenize(rows, made, max_seq_length=2048)
    assert len(calls) == 1  # the neutral chat that control tokens are compared with


def test_batches_follow_each_other_and_lose_nothing() -> None:
    rows = [conversation("q", f"a{line}", line=line) for line in range(1100)]
    batches = list(tokenize_in_batches(rows, labeller(), max_seq_length=2048))
    assert [row for lot, _ in batches for row in lot] == rows
    assert joined(part for _, part in batches) == run(rows)


def test_long_rows_are_tokenized_few_at_a_time() -> None:
    rows = [conversation("q", "a" * 40_000, line=line) for line in range(7)]
    assert [len(lot) for lot, _ in tokenize_in_batches(rows, labeller(), max_seq_length=100)] == [3, 3, 1]


# --- rows of megabytes -----------------------------------------------------------------------------------------------


@pytest.fixture
def huge() -> list[Conversation]:
    """A row whose answer is longer than any tokens of the limit could be, between two short ones."""
    return [conversation("q", "a"), conversation("q", "b" * 100_000, line=2), conversation("q", "c", line=3)]


@pytest.mark.fault("C7")
def test_a_row_of_megabytes_is_told_without_being_tokenized(
    huge: list[Conversation], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = labeller()
    monkeypatch.setattr(asked, "examples", lambda row: [] if row.location.line == 2 else Labeller.examples(asked, row))
    dataset = tokenize(huge, asked, max_seq_length=100)
    assert [(finding.key, finding.location.line) for finding in dataset.findings] == [("finding.hopelessly_long", 2)]
    assert dataset.findings[0].values == {"letters": 100_001, "limit": 100}
    assert [example.location.line for example in dataset.examples] == [1, 3]


def test_such_a_row_can_be_dropped_or_cut_all_the_same(huge: list[Conversation]) -> None:
    dropped = run(huge, limit=100, overlong="drop")
    assert (len(dropped.examples), dropped.num_dropped, dropped.findings) == (2, 1, ())
    cut = run(huge, limit=100, overlong="truncate")
    assert (len(cut.examples), cut.num_truncated, cut.longest) == (3, 1, 100)


@pytest.mark.parametrize("answer", ["a" + " " * 100_000, "b" * 6000])
def test_a_row_that_might_still_fit_is_tokenized(answer: str) -> None:
    assert not labeller().is_hopeless(conversation("q", answer), 100)
