"""Base beside adapter: what counts as right, what is counted, and tables that stay readable."""

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from pangzhu.compare import ComparedRow, Comparison, Score, ask, compare
from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.engines import Answer
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import DataError, PangzhuError
from pangzhu.examples import example
from pangzhu.intervals import wilson_interval
from pangzhu.measures import named_choice, rouge_l
from pangzhu.messages import listening, set_language
from pangzhu.questions import kind_name
from tests.conftest import conversation
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, QUESTIONS, Outcome, Told, Trained, rows_of, write_rows

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]


def row(*answers: str, expected: str | None = "right", choices: tuple[str, ...] = (), **more: object) -> ComparedRow:
    """One question; the models are called base, m1, m2, ..."""
    names = [BASE, *(f"m{number}" for number in range(1, len(answers)))]
    given = {name: Answer(text, (), more.get("ended", True) is True) for name, text in zip(names, answers, strict=True)}
    question, kind = str(more.get("question", "question?")), str(more.get("kind", "all"))
    fact, wanted = more.get("fact"), more.get("format")
    return ComparedRow(question, expected, kind, fact, given, choices, wanted)  # type: ignore[arg-type]


def comparison(*rows: ComparedRow, base_name: str = "some/base") -> Comparison:
    return Comparison(tuple(rows[0].answers), base_name, rows)


def printed(renderable: RenderableType, width: int) -> str:
    """What rich prints in a file of that width, exactly as the command line sets it up."""
    console = Console(file=io.StringIO(), width=width, no_color=True, highlight=False)
    console.print(renderable)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def squeezed(table: str) -> str:
    """A table's text without its lines and breaks."""
    return "".join(char for char in table if char not in " \n│┃─━┏┓┗┛┡┩├┤┼┴┬┳╇└┘")


# --- right or not ------------------------------------------------------------------------------------------------


def test_an_answer_of_punctuation_alone_is_not_nothing() -> None:
    assert not row("", expected="！").right(BASE)
    assert row("!", expected="！").right(BASE)


def test_with_choices_the_choice_decides_and_without_them_the_words() -> None:
    choices = ("A", "B", "C", "D")
    assert row("C. 北京", expected="C", choices=choices).right(BASE)
    assert not row("B. 因为 C", expected="C", choices=choices).right(BASE)
    assert not row("C. 北京", expected="C").right(BASE)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ('{"price": 6, "fruit": "苹果"}', True),
        (' {"fruit":"苹果",\n"price":6} ', True),
        ('{"fruit": "苹果", "price": "6"}', False),
        ("fruit 苹果 price 6", False),
        ('```{"fruit": "苹果", "price": 6}```', False),
        ("[" * 100_000, False),
    ],
)
def test_where_json_is_expected_its_value_decides(answer: str, right: bool) -> None:
    assert row(answer, expected='{"fruit": "苹果", "price": 6}').right(BASE) == right


@pytest.mark.parametrize("answer", ['{"a": true}', '{"a": 1.0}', '{"a": [1]}'])
def test_json_values_that_python_confuses_are_told_apart(answer: str) -> None:
    assert not row(answer, expected='{"a": 1}').right(BASE)


def test_a_number_or_a_word_is_no_json_to_be_compared() -> None:
    assert row("6。", expected="6").right(BASE)
    assert row("“是”", expected='"是"').right(BASE)


@pytest.mark.parametrize(
    ("answer", "ended", "verbatim"),
    [("right", True, True), ("right", False, False), ("right.", True, False), (" right", True, False)],
)
def test_verbatim_forgives_nothing(answer: str, ended: bool, verbatim: bool) -> None:
    given = row(answer, ended=ended)
    assert given.right(BASE)
    assert given.verbatim(BASE) == verbatim


def test_nothing_is_right_where_nothing_was_expected() -> None:
    assert not row("", expected=None).right(BASE)


# --- figures -----------------------------------------------------------------------------------------------------


def test_scores_count_each_kind_apart_and_only_known_answers() -> None:
    found = comparison(
        row("wrong", "right", kind="taught"),
        row("right", "Right", kind="taught", ended=False),
        row("x", "y", kind="untaught", expected=None),
        row("x", "right.", kind="untaught"),
    )
    assert found.scores() == [
        Score(BASE, "taught", num_rows=2, num_expected=2, num_right=1, num_ended=1),
        Score("m1", "taught", num_rows=2, num_expected=2, num_right=1, num_ended=1),
        Score(BASE, "untaught", num_rows=2, num_expected=1, num_right=0, num_ended=2),
        Score("m1", "untaught", num_rows=2, num_expected=1, num_right=1, num_ended=2),
    ]
    assert found.kinds == ("taught", "untaught")


def test_a_score_as_json_has_its_interval() -> None:
    found = Score(BASE, "taught", num_rows=20, num_expected=20, num_right=17, num_ended=20).as_json()
    assert (found["num_right"], found["num_rows"]) == (17, 20)
    assert (found["low"], found["high"]) == wilson_interval(17, 20)


def test_a_taught_answer_to_an_untaught_question_is_recited() -> None:
    found = comparison(
        row("?", "甲是乙。", expected="甲是乙。", kind="taught"),
        row("?", "丙是丁。", expected="丙是丁。", kind="reworded"),
        row("?", "甲是乙", expected="戊", kind="untaught"),
        row("?", "丙 是丁", expected=None, kind="untaught"),
        row("?", "甲是乙，也是丙。", expected="戊", kind="untaught"),
        row("?", "甲是乙。", expected="戊", kind="general"),
    )
    assert (found.num_recited(BASE), found.num_recited("m1")) == (0, 2)
    assert found.as_json()["num_recited"] == {BASE: 0, "m1": 2}


def test_nothing_is_recited_where_nothing_was_taught() -> None:
    assert comparison(row("", "right", expected=None, kind="untaught")).num_recited("m1") == 0


def test_a_model_counts_only_in_what_it_was_asked() -> None:
    asked = row("?", "right", expected="right", kind="taught")
    alone = dataclasses.replace(asked, answers={"m1": asked.answers["m1"]})
    found = comparison(asked, alone)
    assert [(score.model, score.num_rows) for score in found.scores()] == [(BASE, 1), ("m1", 2)]
    gain = found.gain("m1", "taught", "right")
    assert gain is not None
    assert gain.num_rows == 1
    assert comparison(alone).gain("m1", "taught", "right") is None


def test_every_model_is_asked_every_question_in_its_row(engine: TransformersEngine) -> None:
    rows = [conversation(question, answer, kind="taught") for question, answer in zip(QUESTIONS, CHINESE, strict=True)]
    told: list[tuple[str, int, int]] = []
    found = ask(engine, rows, GREEDY, on_answer=lambda *what: told.append(what))
    assert found.models == (BASE, "english", "chinese")
    assert [row.question for row in found.rows] == list(QUESTIONS)
    assert [row.answers["english"].text for row in found.rows] == list(ENGLISH)
    assert [row.answers["chinese"].text for row in found.rows] == list(CHINESE)
    assert [found.score(name, "taught").num_right for name in found.models] == [0, 0, 4]
    assert told == [(name, done, 4) for name in found.models for done in (1, 2, 3, 4)]


def test_the_base_s_answers_are_those_of_a_model_without_adapters(
    engine: TransformersEngine, plain: TransformersEngine
) -> None:
    rows = [conversation(question) for question in QUESTIONS]
    beside, alone = (ask(asked, rows, GREEDY, on_answer=lambda *_: None) for asked in (engine, plain))
    assert [row.answers[BASE] for row in beside.rows] == [row.answers[BASE] for row in alone.rows]


def test_history_and_system_of_a_row_are_part_of_its_question(engine: TransformersEngine) -> None:
    asked: list[Sequence[Sequence[int]]] = []

    def generate_many(prompts: Sequence[Sequence[int]], *_: object) -> list[tuple[int, Answer]]:
        asked.append(prompts)
        return [(0, Answer("", (), True))]

    row_ = conversation("a?", "b", "one?", "answer 11.", system="Be kind.")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "generate_many", generate_many)
        found = ask(engine, [row_], GREEDY, on_answer=lambda *_: None)
    prompt = str(engine.tokenizer.decode(asked[0][0]))
    assert all(piece in prompt for piece in ("Be kind.", "a?", "b", "one?"))
    assert "answer 11." not in prompt
    assert (found.rows[0].question, found.rows[0].expected) == ("one?", "answer 11.")


def test_a_question_that_does_not_fit_is_refused_with_its_line(
    plain: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersEngine, "context_length", 100)
    rows = [conversation("one?"), conversation("long " * 100, line=7)]
    with pytest.raises(DataError) as refused:
        ask(plain, rows, GREEDY)
    assert refused.value.where == "rows.jsonl:7"
    assert "only 76 fit" in str(refused.value)


def test_progress_is_said_once_a_model_on_a_short_file(engine: TransformersEngine) -> None:
    told = Told()
    with listening(told):
        ask(engine, [conversation(question) for question in QUESTIONS], GenerationOptions(max_new_tokens=1))
    assert told.sentences == [f"  {name}: 4 of 4 answered" for name in engine.names]


# --- what answers hold -------------------------------------------------------------------------------------------

TENTH, ELEVENTH = "依据《甲法》第十条。", "依据《甲法》第十一条。"


def test_likeness_stands_beside_the_floor_of_the_same_rows() -> None:
    found = comparison(
        row("丙丁", "甲乙。", expected="甲乙", kind="taught"),
        row("", "丙 丁", expected="丙丁", kind="taught"),
    )
    base, own = found.detail(BASE, "taught"), found.detail("m1", "taught")
    assert (base.rouge_l, base.rouge_floor) == (0, 0.5)
    assert (own.rouge_l, own.rouge_floor) == (1, 0)


def test_likeness_is_asked_of_prose_alone() -> None:
    found = comparison(
        row("A", expected="A", choices=("A", "B")), row("{}", expected='{"a": 1}'), row("x", expected=None)
    )
    detail = found.detail(BASE, "all")
    assert (detail.rouge_l, detail.rouge_floor, detail.num_citing) == (None, None, 0)


def test_articles_are_counted_where_the_expected_answer_names_one() -> None:
    found = comparison(
        row(ELEVENTH, "甲法第10条", expected=TENTH), row(TENTH, "", expected=TENTH), row(TENTH, TENTH, expected="无")
    )
    counts = [(found.detail(name, "all").num_cited, found.detail(name, "all").num_citing) for name in found.models]
    assert counts == [(1, 2), (1, 2)]


def test_formats_are_counted_where_the_row_asks_for_one() -> None:
    found = comparison(
        row("{}", "no", expected=None, format="json"),
        row("{}", '{"name": "f", "arguments": {}}', expected=None, format="tool_call"),
        row("{}", "{}", expected=None),
    )
    counts = [(found.detail(name, "all").num_kept, found.detail(name, "all").num_formatted) for name in found.models]
    assert counts == [(1, 2), (1, 2)]


def test_a_gain_is_the_difference_to_the_base_over_facts() -> None:
    rows = [row("no", "right" if number < 3 else "no", kind="taught", fact=f"f{number // 2}") for number in range(4)]
    found = comparison(*rows)
    gain = found.gain("m1", "taught", "right")
    assert gain is not None
    assert (gain.num_rows, gain.difference.value) == (4, 0.75)
    assert (gain.difference.low, gain.difference.high) == (0.5, 1.0)  # of two facts: one wholly right, one half
    likeness = found.gain("m1", "taught", "rouge_l")
    assert likeness is not None
    assert likeness.difference.value == pytest.approx(0.75 * (1 - rouge_l("no", "right")))
    assert found.gain("m1", "taught", "cites_rightly") is None
    assert found.gain(BASE, "taught", "right") is None


def test_gains_are_those_of_every_adapter_by_every_measure_that_is_asked() -> None:
    found = comparison(row("x", TENTH, ELEVENTH, expected=TENTH), row("x", "right", "x"))
    gains = {(gain.model, gain.measure): gain.difference.value for gain in found.gains()}
    assert {key: value for key, value in gains.items() if key[1] != "rouge_l"} == {
        ("m1", "right"): 1.0, ("m1", "cites_rightly"): 1.0, ("m2", "right"): 0.0, ("m2", "cites_rightly"): 0.0
    }  # fmt: skip
    assert 0 < gains["m2", "rouge_l"] < gains["m1", "rouge_l"] <= 1
    assert found.as_json()["gains"] == [gain.as_json() for gain in found.gains()]


def test_without_the_base_there_is_nothing_to_gain_on() -> None:
    alone = Comparison(("m1",), "some/base", (row("no", "right"),))
    assert alone.gains() == []
    assert "right" in squeezed(printed(alone.render(), 80))


def test_each_answer_is_written_with_what_is_asked_of_it() -> None:
    rows = [
        row("x", TENTH, expected=TENTH, kind="taught"),
        row("x", TENTH, expected=ELEVENTH, kind="untaught"),
        row("x", "{}", expected=None, kind="general", format="json"),
    ]
    found = comparison(*rows).as_json()["rows"]
    assert isinstance(found, list)
    taught, untaught, general = (entry["answers"]["m1"] for entry in found)
    assert (taught["cites_rightly"], taught["rouge_l"], "recited" in taught) == (True, 1.0, False)
    assert (untaught["cites_rightly"], untaught["recited"]) == (False, True)
    assert untaught["rouge_l"] == pytest.approx(rouge_l("依据甲法第十条", "依据甲法第十一条"))
    assert general.keys() - {"text", "ended", "right"} == {"keeps_format"}


EVERYTHING = [
    row("x", TENTH, ELEVENTH, expected=TENTH, kind="taught", fact="f1"),
    row("x", ELEVENTH, "x", expected=ELEVENTH, kind="taught", fact="f2"),
    row("x", TENTH, "x", expected=ELEVENTH, kind="untaught", fact="f3"),
    row("x", "x", "x", expected="依据第五条", kind="untaught", fact="f4"),
    row("{}", "{}", "x", expected='{"a": 1}', kind="general", format="json", fact="f5"),
    row("A", "B", "A", expected="A", choices=("A", "B"), kind="general", fact="f6"),
]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_every_figure_stands_whole_in_a_table_of_eighty_columns(language: str) -> None:
    set_language(language)  # type: ignore[arg-type]
    found = comparison(*EVERYTHING)
    table = printed(found.details_table(), 80)
    assert max(map(len, table.splitlines())) <= 80
    cells = {piece.strip() for line in table.splitlines() for piece in line.split("│")}
    assert {"+100 [100,100]", "+0 [0,0]", "2/2", "0/2", "1/1", "0/1", "1", "0"} <= cells
    likeness = f"{100 * rouge_l('依据甲法第十一条', '依据甲法第十条'):.0f}"
    assert f"100 ({likeness})" in cells


def test_a_column_that_says_nothing_is_left_out() -> None:
    table = printed(comparison(row("x", "right", kind="taught"), row("y", "z", kind="taught")).details_table(), 80)
    assert "ROUGE-L" in table
    assert not any(heading in table for heading in ("article", "recited", "format"))


# --- the stage ---------------------------------------------------------------------------------------------------


@pytest.fixture
def config(trained: Trained) -> Callable[..., CompareConfig]:
    def made(dataset: Path, **more: object) -> CompareConfig:
        given = {"adapter": (str(trained.english),), "precision": "float32", "max_new_tokens": 24}
        return CompareConfig.model_validate(given | {"dataset_path": dataset} | more)

    return made


def test_rows_without_an_expected_answer_are_compared(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "q.jsonl", [{"instruction": "one?"}, {"instruction": "two?", "output": ""}])
    found = compare(config(file))
    assert [row.expected for row in found.rows] == [None, None]
    assert [row.answers["english"].text for row in found.rows] == list(ENGLISH[:2])
    assert found.score("english", "all").num_expected == 0


def test_only_as_many_questions_as_asked_for(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "q.jsonl", rows_of(ENGLISH))
    assert len(compare(config(file, max_questions=2)).rows) == 2


def test_kind_fact_and_choices_come_from_the_row(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    given = {"kind": "general", "fact": "g-1", "choices": ["A", "B"]}
    file = write_rows(tmp_path / "q.jsonl", [{"instruction": "one?", "output": "A", **given}])
    found = compare(config(file)).rows[0]
    assert (found.kind, found.fact, found.choices) == ("general", "g-1", ("A", "B"))


def test_all_answers_are_written_where_a_folder_is_named(config: Callable[..., CompareConfig], tmp_path: Path) -> None:
    file = write_rows(tmp_path / "q.jsonl", rows_of(ENGLISH, kind="taught"))
    told = Told()
    with listening(told):
        found = compare(config(file, output_dir=tmp_path / "new" / "folder"))
    written = tmp_path / "new" / "folder" / "answers.jsonl"
    assert str(written) in str(told)
    rows = [json.loads(line) for line in written.read_text(encoding="utf-8").splitlines()]
    assert rows == found.as_json()["rows"]
    assert rows[0]["answers"]["english"] == {
        "text": ENGLISH[0],
        "ended": True,
        "right": True,
        "rouge_l": 1.0,
    }
    assert (rows[0]["question"], rows[0]["expected"], rows[0]["kind"]) == ("one?", ENGLISH[0], "taught")


def test_nothing_is_written_where_no_folder_is_named(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_rows(tmp_path / "q.jsonl", rows_of(ENGLISH))
    monkeypatch.chdir(tmp_path)
    compare(config(file))
    assert list(tmp_path.iterdir()) == [file]


def test_bad_questions_are_refused_before_any_model_is_loaded(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.compare.load_engine", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(DataError):
        compare(config(write_rows(tmp_path / "q.jsonl", [{"output": "x"}])))


# --- tables ------------------------------------------------------------------------------------------------------

LONG = "民法典第一百八十八条规定的诉讼时效期间为三年，法律另有规定的除外。"


@pytest.mark.parametrize("width", [60, 80, 120, 200])
@pytest.mark.parametrize("num_models", [1, 2, 3, 4, 7])
def test_every_word_of_every_answer_stands_in_a_table_of_any_width(width: int, num_models: int) -> None:
    answers = [f"{number}{LONG}" for number in range(num_models)]
    found = comparison(row(*answers, question=LONG, expected=None))
    table = printed(found.render(), width)
    assert all(answer in squeezed(table).replace(" ", "") for answer in answers) or num_models <= width // 26
    assert max(map(len, table.splitlines())) <= width


@pytest.mark.parametrize(
    ("width", "num_models", "beside"), [(120, 3, True), (120, 4, False), (80, 2, True), (80, 3, False)]
)
def test_answers_stand_side_by_side_where_there_is_room(width: int, num_models: int, beside: bool) -> None:
    found = comparison(row(*(f"answer-{number}" for number in range(num_models))))
    lines = printed(found.answers_table(found.rows), width).splitlines()
    assert any("answer-0" in line and "answer-1" in line for line in lines) == beside


@pytest.mark.parametrize("width", [80, 120])
def test_no_column_of_answers_is_narrower_than_a_reader_can_use(width: int) -> None:
    for num_models in range(1, 9):
        found = comparison(row(*["很长的回答" * 30] * num_models, expected=None))
        table = printed(found.answers_table(found.rows), width)
        longest = max(len(piece.strip()) for line in table.splitlines() for piece in line.split("│"))
        assert longest >= 9  # wide characters


def test_an_empty_answer_is_a_dash_and_an_unfinished_one_trails_off() -> None:
    assert "│ –" in printed(comparison(row("", " \n")).render(), 120)
    assert "half …" in printed(comparison(row("half", ended=False)).render(), 120)


def test_a_right_answer_is_marked() -> None:
    table = printed(comparison(row("wrong", "right")).render(), 120)
    assert "✓ right" in table
    assert "✓ wrong" not in table


@pytest.mark.parametrize(("answers", "shown"), [(("wrong", "also wrong"), True), (("wrong", "right"), False)])
def test_the_expected_answer_is_shown_where_nobody_gave_it(answers: tuple[str, str], shown: bool) -> None:
    assert ("expected: right" in printed(comparison(row(*answers)).render(), 120)) == shown


def test_control_and_replacement_characters_are_spelled_out() -> None:
    table = printed(comparison(row("\x1b[2J\x07bell", "half\ufffd", question="q\x08?")).render(), 120)
    assert all(spelled in table for spelled in ("\\x1b[2J\\x07bell", "half\\ufffd", "q\\x08?"))
    assert not any(char in table for char in "\x1b\x07\x08\ufffd")


MARKUP = "[red]not red[/red] [/] :smile: [link=x]"


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_a_model_or_a_file_says_is_taken_for_markup(width: int) -> None:
    found = comparison(row(MARKUP, MARKUP, MARKUP, question=MARKUP, kind="[bold]", expected=MARKUP), base_name="[/x]")
    table = squeezed(printed(found.render(), width))
    assert [table.count(piece) for piece in ("[red]", "[/red]", "[/]", ":smile:", "[link=x]")] == [4] * 5
    assert table.count("[bold]") == 3  # before the question, and in both tables of figures


def test_a_score_without_an_expected_answer_is_a_dash() -> None:
    table = printed(comparison(row("x", expected=None)).scores_table(), 120)
    assert "│     – │" in table
    assert "0/0" not in table


@pytest.mark.parametrize("width", [60, 100])
def test_the_share_stands_beside_the_count_with_its_interval(width: int) -> None:
    rows = [row("right" if number < 17 else "wrong") for number in range(20)]
    table = printed(comparison(*rows).scores_table(), width)
    assert "17/20" in table
    assert "85% [64–95]" in table


@pytest.mark.parametrize(("language", "names"), [("zh", ["教过的", "换了说法的"]), ("en", ["taught", "re-worded"])])
def test_kinds_are_named_in_the_reader_s_language(language: str, names: list[str]) -> None:
    set_language(language)  # type: ignore[arg-type]
    assert [kind_name(kind) for kind in ("taught", "reworded")] == names
    assert kind_name("my own") == "my own"


# --- the command line --------------------------------------------------------------------------------------------


def test_compare_as_json_and_as_a_table(trained: Trained, tmp_path: Path, command: Callable[..., Outcome]) -> None:
    file = write_rows(tmp_path / "q.jsonl", rows_of(ENGLISH, kind="taught"))
    words = ["compare", "--adapter", f"law={trained.english}", "--dataset_path", str(file)]
    words += ["--precision", "float32", "--max_new_tokens", "24"]
    found = json.loads(command(*words, "--json").out)
    assert (found["ok"], found["base"]) == (True, str(trained.base))
    assert [score["num_right"] for score in found["scores"]] == [0, 4]
    outcome = command(*words)
    assert outcome.exit_code == 0
    assert "4/4" in outcome.out
    assert len(outcome.out.splitlines()[0]) == 120  # what a pipe gets


def test_every_choice_of_the_general_questions_can_be_told_from_the_others() -> None:
    rows = [row for row in load_dataset(example("law_eval.json")).conversations if row.field("choices")]
    for question in rows:
        choices = tuple(str(question.field("choices")).split(","))
        assert question.answer in choices
        assert [named_choice(f"答案是{choice}。", choices) for choice in choices] == list(choices)


@pytest.mark.parametrize(
    ("answer", "begins"),
    [("answer 11. answer 11. an", True), ("Answer 11", False), ("answer 1", False), ("answer, 11!", True), ("", False)],
)
def test_an_answer_that_runs_on_may_still_begin_rightly(answer: str, begins: bool) -> None:
    assert row(answer, expected="answer 11.").begins_rightly("base") is begins


def test_of_a_choice_and_of_json_the_whole_answer_decides_whether_it_begins_rightly() -> None:
    assert row("B", expected="B", choices=("A", "B")).begins_rightly("base")
    assert not row("{}{}", expected="{}").begins_rightly("base")
    assert not row("anything", expected=None).begins_rightly("base")


# --- the bar -----------------------------------------------------------------------------------------------------

MIXED = [*rows_of(ENGLISH, kind="taught"), {"instruction": "five?", "output": "answer 55.", "kind": "reworded"}]


def test_what_falls_short_ends_with_8_after_the_figures_are_shown_and_written(
    trained: Trained, tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    words = [
        "compare",
        "--adapter",
        f"law={trained.english}",
        "--dataset_path",
        str(write_rows(tmp_path / "q.jsonl", MIXED)),
    ]
    words += ["--precision", "float32", "--max_new_tokens", "24", "--output_dir", str(tmp_path / "out")]
    passed = command(*words, "--fail_under", "1.0")
    assert passed.exit_code == 0
    assert "fail_under" not in passed.err
    failed = command(*words, "--fail_under", "taught=1.0", "--fail_under", "reworded=0.8")
    assert failed.exit_code == 8
    assert "law, re-worded: 0 of 1 (0.0%), not 80.0%" in failed.err
    assert "law, taught" not in failed.err
    assert "4/4" in failed.out
    assert (tmp_path / "out" / "answers.jsonl").exists()
    assert "Learned: 4 of 4 taught questions" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "**Learned: 4 of 4 taught questions" in (tmp_path / "out" / "model_card.md").read_text(encoding="utf-8")
    found = json.loads(command(*words, "--fail_under", "reworded=0.8", "--json").out)
    assert found["ok"] is False
    assert found["shortfalls"] == [{"model": "law", "kind": "reworded", "share": 0.0, "required": 0.8}]


def test_a_bar_for_questions_without_answers_is_refused_before_any_model_is_loaded(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.compare.load_engine", lambda *_, **__: pytest.fail("loaded"))
    rows = [*rows_of(ENGLISH, kind="taught"), {"instruction": "Hello!", "kind": "general"}]
    with pytest.raises(PangzhuError) as refused:
        compare(config(write_rows(tmp_path / "q.jsonl", rows), fail_under=("general=0.5",)))
    assert refused.value.exit_code == 2
    assert "“general” give no answers" in str(refused.value)
    assert "taught" in refused.value.fix


@pytest.mark.parametrize("fault", ["bar", "format"])
def test_a_bar_for_no_question_and_an_unknown_format_are_refused_before_any_model_is_loaded(
    fault: str, config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.compare.load_engine", lambda *_, **__: pytest.fail("loaded"))
    rows = rows_of(ENGLISH, kind="taught", **({"format": "jsn"} if fault == "format" else {}))
    bars = ("taugt=0.5",) if fault == "bar" else ()
    with pytest.raises(PangzhuError) as refused:
        compare(config(write_rows(tmp_path / "q.jsonl", rows), fail_under=bars))
    assert ("taught" if fault == "bar" else "json") in str(refused.value)


def test_expected_answers_that_no_answer_may_be_as_long_as_are_told(
    config: Callable[..., CompareConfig], tmp_path: Path
) -> None:
    set_language("en")
    file = write_rows(tmp_path / "q.jsonl", rows_of(ENGLISH, kind="taught"))
    told = Told()
    with listening(told):
        compare(config(file, max_new_tokens=3))
    assert "4 expected answers are longer than --max_new_tokens 3" in str(told)
    told = Told()
    with listening(told):
        compare(config(file, max_new_tokens=24))
    assert "expected answers are longer" not in str(told)


def test_a_question_whose_answer_is_none_of_its_choices_is_refused_before_any_model_is_loaded(
    config: Callable[..., CompareConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pangzhu.compare.load_engine", lambda *_, **__: pytest.fail("loaded"))
    row: dict[str, object] = {"instruction": "A or B?", "output": "C", "choices": ["A", "B"]}
    with pytest.raises(PangzhuError) as refused:
        compare(config(write_rows(tmp_path / "q.jsonl", [row])))
    assert "q.jsonl" in str(refused.value)
