"""Chat: what a session keeps, what each command does, and what comes out of the command line."""

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pangzhu import chat, cli
from pangzhu.chat import ChatAnswer, Session, converse
from pangzhu.config import ChatConfig, GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import Answer, Write
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import UsageError
from pangzhu.messages import listening
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, Outcome, Told, Trained

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]


class Typist:
    """Types lines, one a prompt, then leaves with Ctrl-D; keeps the prompts that were shown."""

    def __init__(self, *lines: str) -> None:
        self.prompts: list[str] = []
        self._lines: Iterator[str] = iter(lines)

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        try:
            return next(self._lines)
        except StopIteration:
            raise EOFError from None


@pytest.fixture
def session(engine: TransformersEngine) -> Session:
    return Session(engine, GREEDY, "english")


@pytest.fixture
def talk(session: Session) -> Callable[..., tuple[str, str]]:
    """Hold a conversation; gives what was written and what was said."""

    def converse_with(*lines: str) -> tuple[str, str]:
        written: list[str] = []
        told = Told()
        with listening(told):
            converse(session, read=Typist(*lines), write=written.append)
        return "".join(written), str(told)

    return converse_with


def with_context(session: Session, monkeypatch: pytest.MonkeyPatch, *, num_tokens: int) -> None:
    monkeypatch.setattr(TransformersEngine, "context_length", num_tokens)


def num_tokens(session: Session, *turns: Turn) -> int:
    return len(session.engine.prompt(turns, session.name))


# --- a session ---------------------------------------------------------------------------------------------------


def test_question_and_answer_are_kept_and_seen_by_the_next(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []
    generate = session.engine.generate

    def watched(prompt: list[int], *rest: object, **more: object) -> Answer:
        seen.append(prompt)
        return generate(prompt, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(session.engine, "generate", watched)
    first = session.ask("one?")
    session.ask("two?")
    turns = [Turn("user", "one?"), Turn("assistant", first.text), Turn("user", "two?")]
    assert seen[1] == session.engine.prompt(turns, "english")
    assert session.turns[:3] == turns
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2


def test_control_tokens_in_a_question_are_ordinary_text(session: Session) -> None:
    ids = session.engine.prompt([Turn("user", "<|im_end|>")], "english")
    plain = session.engine.prompt([Turn("user", "a")], "english")
    end = session.engine.contract("english").end_of_turn_id
    assert ids.count(end) == plain.count(end)


def test_a_system_text_replaces_the_contract_s_until_it_is_taken_back(session: Session) -> None:
    seen: list[str] = []

    def generate(prompt: list[int], *_rest: object, **_more: object) -> Answer:
        seen.append(str(engine.tokenizer.decode(prompt)))
        return Answer("", (), True)

    engine = session.engine
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(engine, "generate", generate)
        for system in (None, "Speak as a judge.", "", None):
            session.system = system
            session.reset()
            session.ask("one?")
    assert ["Be brief." in prompt for prompt in seen] == [True, False, False, True]
    assert ["Speak as a judge." in prompt for prompt in seen] == [False, True, False, False]


def test_comparing_keeps_nothing(session: Session) -> None:
    session.ask("one?")
    before = list(session.turns)
    session.compare("two?")
    session.compare()
    assert session.turns == before


def test_comparing_asks_every_model(session: Session) -> None:
    answers = session.compare("one?")
    assert list(answers) == [BASE, "english", "chinese"]
    assert (answers["english"].text, answers["chinese"].text) == (ENGLISH[0], CHINESE[0])


def test_comparing_the_last_question_asks_it_as_it_was_asked(session: Session) -> None:
    """Not again after its own answer, which would put the answer in everybody's mouth."""
    first = session.ask("one?")
    assert session.compare()["english"] == first
    assert session.compare()["chinese"].text == CHINESE[0]


def test_there_must_be_something_to_compare(session: Session) -> None:
    with pytest.raises(UsageError) as refused:
        session.compare()
    assert refused.value.key == "error.chat.nothing_to_compare"


# --- a context that overflows ------------------------------------------------------------------------------------


def test_the_oldest_exchange_is_left_out_and_said(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.turns = [Turn("user", "old " * 20), Turn("assistant", "a"), Turn("user", "b"), Turn("assistant", "c")]
    kept = [*session.turns[2:], Turn("user", "one?")]
    with_context(session, monkeypatch, num_tokens=2 * num_tokens(session, *kept) + GREEDY.max_new_tokens)
    told = Told()
    with listening(told):
        answer = session.ask("one?")
    assert session.turns == [*kept, Turn("assistant", answer.text)]
    assert told.sentences[0] == (
        "The conversation is longer than the model's context; exchanges left out, the oldest first: 1."
    )


def test_several_exchanges_left_out_are_said_once(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.turns = [Turn("user", "a"), Turn("assistant", "b")] * 3
    with_context(session, monkeypatch, num_tokens=num_tokens(session, Turn("user", "one?")) + GREEDY.max_new_tokens)
    told = Told()
    with listening(told):
        session.ask("one?")
    assert [sentence for sentence in told.sentences if "left out" in sentence] == [
        "The conversation is longer than the model's context; exchanges left out, the oldest first: 3."
    ]


def test_a_conversation_that_grew_too_long_is_halved(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is read anew, so it is not to grow too long again at the next question."""
    session.turns = [Turn("user", "a"), Turn("assistant", "b")] * 20
    room = num_tokens(session, *session.turns)
    with_context(session, monkeypatch, num_tokens=room + GREEDY.max_new_tokens)
    with listening(Told()):
        session.ask("one?")
    *kept, _ = session.turns
    assert (
        num_tokens(session, *kept) <= room // 2 < num_tokens(session, Turn("user", "a"), Turn("assistant", "b"), *kept)
    )
    assert kept[-1] == Turn("user", "one?")


def test_a_question_longer_than_half_the_room_is_asked_alone(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.turns = [Turn("user", "a"), Turn("assistant", "b")] * 2
    question = Turn("user", "long " * 20)
    room = num_tokens(session, *session.turns[2:], question)
    with_context(session, monkeypatch, num_tokens=room + GREEDY.max_new_tokens)
    with listening(Told()):
        session.ask(question.content)
    assert session.turns[:-1] == [question]


def test_what_fits_exactly_is_kept(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.turns = [Turn("user", "a"), Turn("assistant", "b")]
    whole = num_tokens(session, *session.turns, Turn("user", "one?"))
    with_context(session, monkeypatch, num_tokens=whole + GREEDY.max_new_tokens)
    session.ask("one?")
    assert len(session.turns) == 4


@pytest.mark.parametrize("context", [60, 24, 10])
def test_a_question_too_long_by_itself_is_refused_and_nothing_is_forgotten(
    session: Session, monkeypatch: pytest.MonkeyPatch, context: int
) -> None:
    before = [Turn("user", "a"), Turn("assistant", "b")]
    session.turns = list(before)
    with_context(session, monkeypatch, num_tokens=context)
    with pytest.raises(UsageError) as refused:
        session.ask("long " * 100)
    assert refused.value.key == "error.chat.too_long"
    assert f"only {max(0, context - GREEDY.max_new_tokens)} fit" in str(refused.value)
    assert session.turns == before


def test_comparing_in_a_full_context_forgets_nothing_for_good(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.turns = [Turn("user", "a"), Turn("assistant", "b")]
    with_context(session, monkeypatch, num_tokens=num_tokens(session, Turn("user", "one?")) + GREEDY.max_new_tokens)
    with listening(Told()):
        session.compare("one?")
    assert len(session.turns) == 2


# --- the conversation in a terminal ------------------------------------------------------------------------------


def test_an_answer_is_written_as_it_comes_and_closed_with_a_line_break(talk: Callable[..., tuple[str, str]]) -> None:
    assert talk("one?", "", "   ", "two?")[0].startswith(f"{ENGLISH[0]}\n")


def test_the_prompt_names_who_answers(session: Session) -> None:
    typist = Typist("/base", "/use chinese", "/exit", "never read")
    converse(session, read=typist, write=lambda _: None)
    assert typist.prompts == ["english> ", "base> ", "chinese> "]


@pytest.mark.parametrize("word", ["/exit", "/quit", "  /exit  "])
def test_exit_leaves(talk: Callable[..., tuple[str, str]], word: str) -> None:
    assert talk(word, "one?")[0] == ""


def test_use_changes_who_answers(talk: Callable[..., tuple[str, str]]) -> None:
    assert talk("/use chinese", "one?")[0] == f"{CHINESE[0]}\n"


@pytest.mark.parametrize("line", ["/use", "/use nobody", "/use chines"])
def test_use_of_a_name_that_is_not_there_names_those_that_are(
    talk: Callable[..., tuple[str, str]], session: Session, line: str
) -> None:
    said = talk(line)[1]
    assert "base, english, chinese" in said
    assert ("“chinese”" in said) == (line == "/use chines")
    assert session.name == "english"


def test_base_lets_the_base_answer(
    talk: Callable[..., tuple[str, str]], session: Session, plain: TransformersEngine
) -> None:
    written, _ = talk("/base", "one?")
    prompt = plain.prompt([Turn("user", "one?")], BASE)
    assert written == plain.generate(prompt, BASE, GREEDY).text + "\n"
    assert session.name == BASE


def test_compare_writes_every_model_s_answer_under_its_name(talk: Callable[..., tuple[str, str]]) -> None:
    written, _ = talk("/compare one?")
    assert f"── english\n{ENGLISH[0]}\n── chinese\n{CHINESE[0]}\n" in written
    assert written.startswith("── base\n")


def test_compare_alone_takes_the_last_question(talk: Callable[..., tuple[str, str]]) -> None:
    written, _ = talk("one?", "/compare")
    assert f"── chinese\n{CHINESE[0]}\n" in written


def test_compare_alone_needs_a_question(talk: Callable[..., tuple[str, str]]) -> None:
    assert "Nothing has been asked yet." in talk("/compare")[1]


def test_system_is_set_and_taken_back(talk: Callable[..., tuple[str, str]], session: Session) -> None:
    assert "System text set." in talk("/system 你是法官。  请简短。")[1]
    assert session.system == "你是法官。  请简短。"
    assert "the model's own again" in talk("/system")[1]
    assert session.system is None


def test_reset_forgets_the_conversation(talk: Callable[..., tuple[str, str]], session: Session) -> None:
    assert "Conversation forgotten." in talk("one?", "/reset")[1]
    assert session.turns == []


def test_help_lists_every_command_and_every_name(talk: Callable[..., tuple[str, str]]) -> None:
    written, said = talk("/help")
    assert written == ""
    assert all(word in said for word in (*chat.COMMANDS, "base, english, chinese"))


@pytest.mark.parametrize(("line", "near"), [("/hlep", "“/help”"), ("/uses chinese", "“/use”"), ("/xyzzy", None)])
def test_an_unknown_command_is_told_with_the_nearest(
    talk: Callable[..., tuple[str, str]], line: str, near: str | None
) -> None:
    written, said = talk(line, "/help")
    assert f"There is no command {line.split()[0]}." in said
    assert near is None or near in said
    assert written == ""


def test_after_a_fault_the_session_goes_on(
    talk: Callable[..., tuple[str, str]], session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_context(session, monkeypatch, num_tokens=num_tokens(session, Turn("user", "one?")) + GREEDY.max_new_tokens)
    written, said = talk("long " * 100, "one?")
    assert "The question has" in said
    assert written == f"{ENGLISH[0]}\n"


def test_ctrl_c_ends_the_answer_and_keeps_the_session(session: Session) -> None:
    written: list[str] = []

    def write(piece: str) -> None:
        written.append(piece)
        if len(written) == 3:
            raise KeyboardInterrupt

    session.ask("two?")
    converse(session, read=Typist("one?", "one?"), write=write)
    assert "".join(written[3:]) == f"\n{session.turns[-1].content}\n"
    assert session.turns[-1].content.startswith("".join(written[:3]))
    assert [turn.content for turn in session.turns if turn.role == "user"] == ["two?", "one?"]


def test_ctrl_c_at_the_prompt_leaves(session: Session) -> None:
    def read(_prompt: str) -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        converse(session, read=read, write=lambda _: None)


def test_an_answer_that_was_cut_says_so(talk: Callable[..., tuple[str, str]], session: Session) -> None:
    session.options = GenerationOptions(max_new_tokens=4)
    written, said = talk("one?")
    assert written == "answ\n"
    assert "cut at 4 tokens" in said


def test_an_answer_that_ended_says_nothing(talk: Callable[..., tuple[str, str]]) -> None:
    assert talk("one?")[1] == ""


# --- the stage ---------------------------------------------------------------------------------------------------


def config(trained: Trained, **more: object) -> ChatConfig:
    given = {"adapter": (str(trained.english),), "precision": "float32", "max_new_tokens": 24} | more
    return ChatConfig.model_validate(given)


def run(config: ChatConfig, *lines: str, write: Write | None = None) -> ChatAnswer | None:
    with listening(Told()):
        return chat.run(config, read=Typist(*lines), write=write)


def test_prompt_gives_one_answer_of_the_first_adapter(trained: Trained) -> None:
    answer = run(config(trained, adapter=(f"zh={trained.chinese}", f"en={trained.english}"), prompt="one?"))
    assert answer == ChatAnswer("zh", str(trained.base), "one?", CHINESE[0], ended=True, streamed=False)
    assert answer.render() == CHINESE[0]


def test_without_an_adapter_the_base_answers(trained: Trained, plain: TransformersEngine) -> None:
    answer = run(config(trained, adapter=(), model_name_or_path=str(trained.base), prompt="one?"))
    assert answer is not None
    assert (answer.model, answer.ended) == (BASE, False)
    assert answer.answer == plain.generate(plain.prompt([Turn("user", "one?")], BASE), BASE, GREEDY).text


def test_what_was_streamed_is_not_rendered_again(trained: Trained) -> None:
    written: list[str] = []
    answer = run(config(trained, prompt="one?"), write=written.append)
    assert answer is not None
    assert ("".join(written), answer.render()) == (ENGLISH[0], "")


@pytest.mark.parametrize(
    ("prompt", "key"), [("", "empty"), ("  \n", "empty"), ("\u3000", "empty"), ("caf\udce9?", "undecoded")]
)
def test_a_prompt_that_is_no_question_is_refused_before_anything_is_loaded(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, prompt: str, key: str
) -> None:
    monkeypatch.setattr(chat, "load_engine", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(UsageError) as refused:
        run(config(trained, prompt=prompt))
    assert (refused.value.key, refused.value.where) == (f"error.chat.{key}_prompt", "--prompt")


def test_a_session_welcomes_with_names_and_commands(trained: Trained) -> None:
    told = Told()
    with listening(told):
        assert chat.run(config(trained, adapter=(f"law={trained.english}",)), read=Typist()) is None
    assert "base, law" in told.sentences[-1]
    assert "“law” answers" in told.sentences[-1]


def test_the_system_text_of_the_command_line_is_the_session_s(trained: Trained) -> None:
    sessions: list[Session] = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(chat, "converse", lambda session, **_: sessions.append(session))
        run(config(trained, system="你是法官。"))
    assert sessions[0].system == "你是法官。"


# --- the command line --------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Standard input or output that a person sits at."""

    def isatty(self) -> bool:
        return True


def words(trained: Trained, *more: str) -> list[str]:
    return ["chat", "--adapter", f"law={trained.english}", "--precision", "float32", "--max_new_tokens", "24", *more]


def test_prompt_prints_the_answer_once(trained: Trained, command: Callable[..., Outcome]) -> None:
    outcome = command(*words(trained, "--prompt", "one?"))
    assert (outcome.exit_code, outcome.out) == (0, f"{ENGLISH[0]}\n")


def test_prompt_as_json_is_one_object(trained: Trained, command: Callable[..., Outcome]) -> None:
    assert json.loads(command(*words(trained, "--prompt", "one?", "--json")).out) == {
        "ok": True,
        "model": "law",
        "base": str(trained.base),
        "prompt": "one?",
        "answer": ENGLISH[0],
        "ended": True,
    }


def test_an_empty_prompt_ends_with_2(trained: Trained, command: Callable[..., Outcome]) -> None:
    outcome = command(*words(trained, "--prompt", " "))
    assert (outcome.exit_code, outcome.out) == (2, "")


def test_questions_may_come_through_a_pipe_and_answers_leave_without_a_prompt(trained: Trained) -> None:
    source = str(Path(cli.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-m", "pangzhu", *words(trained)],
        input="one?\n\n/base\n/use law\nmore \xff\n/exit\n".encode("utf-8", "surrogateescape") + b"\xff\n",
        capture_output=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": source, "PATH": "", "PYTHONIOENCODING": "utf-8", "LC_ALL": "en_GB.UTF-8"},
    )
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0] == ENGLISH[0]
    assert len(lines) == 2
    assert "> " not in done.stdout.decode()
    assert "“law” answers" in done.stderr.decode()


def test_a_pipe_gets_no_prompt_and_bytes_that_are_no_text_do_not_end_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("问\n".encode() + b"\xff\n"), encoding="utf-8"))
    read = chat._standard_input()
    assert (read("law> "), read("law> ")) == ("问", "\ufffd")
    assert capsys.readouterr().out == ""
    with pytest.raises(EOFError):
        read("law> ")


def test_a_terminal_gets_the_prompt_and_a_line_after_ctrl_d(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("问\n"))
    read = chat._standard_input()
    assert read("law> ") == "问"
    assert capsys.readouterr().out == "law> "
    told = Told()
    with listening(told), pytest.raises(EOFError):
        read("law> ")
    assert str(told).startswith("\n")


@pytest.mark.parametrize(("terminal", "written"), [(True, "\\x1b[2Jok\n"), (False, "\x1b[2Jok\n")])
def test_a_terminal_is_not_given_control_characters(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, written: str
) -> None:
    output = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setattr(chat, "run", lambda _config, write, **_: write("\x1b[2Jok\n"))
    cli.main(["chat", "--prompt", "?"])
    assert output.getvalue() == written
