"""The llama.cpp engine: the same answers as transformers gives, each adapter's its own, whole characters, and a clean end."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import REPLACEMENT, Engine, llamacpp
from pangzhu.engines.llama_server import Continuation, LlamaServer, Place
from pangzhu.engines.llamacpp import LlamaCppEngine, load_chosen
from pangzhu.engines.named_models import BASE, ChosenModels, choose_models
from pangzhu.engines.slots import Slots
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.errors import ModelError, ResourceError, UsageError
from pangzhu.messages import listening
from pangzhu.preparation import prepare_base
from tests.conftest import build_tokenizer
from tests.engines.tiny_gguf import Converter, write_adapter
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, QUESTIONS, SPLIT_TEXTS, Told, Trained, ask

pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

NAMES = (BASE, "english", "chinese")
ANSWERS = {"english": ENGLISH, "chinese": CHINESE}
DRAWN = GenerationOptions(max_new_tokens=24, temperature=0.7, top_p=0.9)
ONE_THREAD = "pangzhu.machine.num_physical_cores"


def choose(trained: Trained, *adapters: str) -> ChosenModels:
    with listening(Told()):
        return choose_models(ModelOptions(model_name_or_path=str(trained.base)), adapters)


@pytest.fixture(scope="module")
def converter(tmp_path_factory: pytest.TempPathFactory) -> Converter:
    return Converter(tmp_path_factory.mktemp("gguf"))


@pytest.fixture(scope="module")
def both(trained: Trained) -> ChosenModels:
    return choose(trained, str(trained.english), str(trained.chinese))


@pytest.fixture(scope="module")
def quick(both: ChosenModels, converter: Converter) -> Iterator[LlamaCppEngine]:
    """The base and both adapters in llama.cpp."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ONE_THREAD, lambda: 1)
        with closing(load_chosen(both, converter)) as engine:
            yield engine


@pytest.fixture
def opened(converter: Converter) -> Iterator[Callable[..., LlamaCppEngine]]:
    """Engines of a test's own, closed after it."""
    engines: list[LlamaCppEngine] = []

    def load(models: ChosenModels, made_by: Converter = converter) -> LlamaCppEngine:
        engines.append(load_chosen(models, made_by))
        return engines[-1]

    yield load
    for engine in engines:
        engine.close()


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What llama.cpp is asked, and as `timings` what it computed for it."""
    kept: list[dict[str, Any]] = []
    post = LlamaServer.ask

    def watched(server: LlamaServer, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if body is None:
            return dict(post(server, path))
        answer = post(server, path, {**body, "response_fields": (*body["response_fields"], "timings")})
        kept.append({**body, "timings": answer["timings"]})
        return answer

    monkeypatch.setattr(LlamaServer, "ask", watched)
    return kept


class Scripted:
    """A llama.cpp that says what it is told to say, at most as many tokens at once as it is asked for."""

    context_length = 2048

    def __init__(self, *token_ids: int, lost_from: int | None = None, ends_at: Sequence[int] = ()) -> None:
        self.asked: list[int] = []
        self._ids, self._lost_from, self._ends = token_ids, lost_from, ends_at
        self._num_prompt: int | None = None

    def continuation(
        self, prompt: Sequence[int], num_tokens: int, place: Place, options: GenerationOptions, **_: object
    ) -> Continuation:
        self._num_prompt = self._num_prompt or len(prompt)
        self.asked.append(num_tokens)
        start = len(prompt) - self._num_prompt
        ids = self._ids[start : start + num_tokens]
        stop = next((place for place, token in enumerate(ids) if token in self._ends), len(ids))
        lost = self._lost_from is not None and start + len(ids) > self._lost_from
        return Continuation(ids[: stop + 1], lost)


def scripted(trained: Trained, server: Scripted) -> LlamaCppEngine:
    base = prepare_base(ModelOptions(model_name_or_path=str(trained.base)))
    return LlamaCppEngine(server, Slots(1, 2048), base)  # type: ignore[arg-type]


def at_full_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is left in one round from the second on."""
    monkeypatch.setattr(llamacpp._Pace, "took", lambda pace, *_: setattr(pace, "num_tokens", 1000))


# --- the same answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", [*QUESTIONS, "never asked 从未问过"])
def test_both_engines_give_the_same_answer(
    quick: LlamaCppEngine, engine: TransformersEngine, name: str, question: str
) -> None:
    assert ask(quick, name, question) == ask(engine, name, question)


def test_both_are_engines_and_know_the_same_models(quick: LlamaCppEngine, engine: TransformersEngine) -> None:
    engines: tuple[Engine, Engine] = (quick, engine)
    facts = [(known.names, known.first_name, known.base_name, known.context_length) for known in engines]
    assert facts[0] == facts[1]
    assert quick.conditions == engine.conditions


def test_the_prompt_goes_in_as_ids_of_the_contract(quick: LlamaCppEngine, requests: list[dict[str, Any]]) -> None:
    """The tiny GGUF file's own template is none."""
    ask(quick, "english", "one?")
    assert requests[0]["prompt"] == quick.prompt([Turn("user", "one?")], "english")


def test_a_higher_temperature_draws(quick: LlamaCppEngine) -> None:
    hot = GenerationOptions(max_new_tokens=24, temperature=50.0)
    assert len({ask(quick, BASE, "one?", hot).token_ids for _ in range(3)}) == 3


def test_a_small_top_p_leaves_the_likeliest(quick: LlamaCppEngine) -> None:
    sure = GenerationOptions(max_new_tokens=24, temperature=1.0, top_p=1e-6)
    assert ask(quick, BASE, "one?", sure) == ask(quick, BASE, "one?")


# --- the end of an answer ----------------------------------------------------------------------------------------


def test_an_answer_that_runs_into_the_limit_has_not_ended(quick: LlamaCppEngine) -> None:
    answer = ask(quick, "english", "one?", GenerationOptions(max_new_tokens=5))
    assert (answer.text, answer.ended, answer.broke_off) == (ENGLISH[0][:5], False, False)


def test_an_answer_ends_at_the_contract_s_tokens_in_the_middle_of_a_round(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_full_speed(monkeypatch)
    server = Scripted(50, 51, 2, 52, 53)
    answer = ask(scripted(trained, server), BASE, "?")
    assert (answer.token_ids, answer.ended) == ((50, 51), True)
    assert server.asked == [1, GREEDY.max_new_tokens - 1]


def test_an_end_token_that_only_llamacpp_knows_ends_nothing(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    at_full_speed(monkeypatch)
    server = Scripted(50, 0, 51, 2, ends_at=(0, 2))
    engine = scripted(trained, server)
    assert 0 not in engine.contract(BASE).stop_token_ids
    assert ask(engine, BASE, "?").token_ids == (50, 0, 51)


def test_prompt_and_answer_must_fit_and_the_place_is_free_again(quick: LlamaCppEngine) -> None:
    with pytest.raises(UsageError) as refused:
        quick.generate([5] * (quick.context_length - GREEDY.max_new_tokens + 1), BASE, GREEDY)
    assert refused.value.key == "error.chat.too_long"
    assert "only 2024 fit" in str(refused.value)


def test_what_fits_exactly_is_answered_to_the_last_token(quick: LlamaCppEngine) -> None:
    ids = [5 + number % 200 for number in range(quick.context_length - 8)]
    answer = quick.generate(ids, BASE, GenerationOptions(max_new_tokens=8))
    assert len(answer.token_ids) == 8 or answer.ended


# --- numbers that are none ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_an_adapter_without_numbers_breaks_off_and_harms_nobody_else(
    both: ChosenModels,
    quick: LlamaCppEngine,
    tmp_path: Path,
    opened: Callable[..., LlamaCppEngine],
    options: GenerationOptions,
) -> None:
    engine = opened(both, Converter(tmp_path, factor=1e25))
    before = ask(engine, BASE, "one?")
    broken = ask(engine, "english", "one?", options)
    assert (broken.text, broken.ended, broken.broke_off) == ("", False, True)
    assert ask(engine, BASE, "one?") == before == ask(quick, BASE, "one?")


def test_what_was_written_before_the_numbers_went_is_kept(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    at_full_speed(monkeypatch)
    server = Scripted(*range(50, 80), lost_from=3)
    answer = ask(scripted(trained, server), BASE, "?")
    assert (answer.token_ids, answer.ended, answer.broke_off) == ((50, 51, 52), False, True)


def test_a_server_that_gives_nothing_is_an_error_and_no_endless_wait(
    quick: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaServer, "ask", lambda *_: {"tokens": []})
    with pytest.raises(ModelError) as refused:
        ask(quick, BASE, "one?")
    assert refused.value.key == "error.engine.llamacpp_refused"


def test_what_llamacpp_refuses_is_told_with_its_reason(quick: LlamaCppEngine) -> None:
    with pytest.raises(ModelError) as refused:
        quick._server.ask("/completion", {"prompt": [10**9], "n_predict": 1})
    assert refused.value.key == "error.engine.llamacpp_refused"
    assert refused.value.values["reason"]


def test_a_llamacpp_that_is_not_there_is_told(quick: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    monkeypatch.setattr(LlamaServer, "address", f"127.0.0.1:{port}")
    with pytest.raises(ModelError) as refused:
        quick._server.ask("/props")
    assert refused.value.key == "error.engine.llamacpp_refused"


def test_a_schema_that_llamacpp_refuses_is_the_askers_fault(trained: Trained) -> None:
    class Refusing(Scripted):
        def continuation(self, *_: object, **__: object) -> Continuation:
            raise ModelError("error.engine.llamacpp_refused", reason="no grammar")

    with pytest.raises(UsageError) as refused:
        scripted(trained, Refusing()).generate([5], BASE, GREEDY, schema={"type": "object"})
    assert (refused.value.key, refused.value.values["reason"]) == ("error.engine.bad_schema", "no grammar")


# --- streaming and giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_streaming_writes_exactly_the_answer_in_whole_characters(
    quick: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch, name: str, question: str
) -> None:
    monkeypatch.setattr(llamacpp._Pace, "took", lambda *_: None)  # a round a token, and a token is a byte
    pieces: list[str] = []
    answer = quick.generate(quick.prompt([Turn("user", question)], name), name, GREEDY, write=pieces.append)
    assert "".join(pieces) == answer.text == ask(quick, name, question).text
    assert len(pieces) > 1
    if name != BASE:  # the random base writes bytes that are no characters
        assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 5])
def test_characters_split_over_rounds_come_whole(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, num_tokens: int
) -> None:
    monkeypatch.setattr(llamacpp._Pace, "took", lambda pace, *_: setattr(pace, "num_tokens", num_tokens))
    engine = scripted(trained, Scripted())
    for text in SPLIT_TEXTS:
        ids, pieces = build_tokenizer()(text)["input_ids"], []
        engine._server = Scripted(*ids, 2)  # type: ignore[assignment]
        answer = engine.generate([5], BASE, GenerationOptions(max_new_tokens=200), write=pieces.append)
        assert "".join(pieces) == answer.text == text
        assert not any(REPLACEMENT in piece for piece in pieces)


def test_a_round_takes_as_many_tokens_as_come_in_time() -> None:
    pace = llamacpp._Pace(0.1, same=False)
    asked = [pace.num_tokens]
    for seconds, num_tokens in ((0.5, 1), (0.025, 1), (0.1, 4), (0.01, 4)):
        pace.took(seconds, num_tokens, 1)
        asked.append(pace.num_tokens)
    assert asked == [1, 1, 4, 4, 40]


def test_of_answers_side_by_side_each_is_given_longer_rounds_up_to_a_limit() -> None:
    pace = llamacpp._Pace(0.1, same=False)
    asked = []
    for num_at_once in (1, 4, 16):
        pace.took(0.1, 4, num_at_once)
        asked.append(pace.num_tokens)
    assert asked == [4, 16, 40]


def test_an_answer_that_can_be_drawn_again_comes_in_the_same_rounds_whatever_the_speed() -> None:
    pace = llamacpp._Pace(0.1, same=True)
    asked = [pace.num_tokens]
    for seconds in (0.5, 0.001):
        pace.took(seconds, llamacpp.SAME_TOKENS, 1)
        asked.append(pace.num_tokens)
    assert asked == [llamacpp.SAME_TOKENS] * 3


def test_what_the_writer_raises_ends_the_answer_and_the_next_one_is_whole(quick: LlamaCppEngine) -> None:
    def write(_piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quick.generate(quick.prompt([Turn("user", "one?")], "english"), "english", GREEDY, write=write)
    assert ask(quick, "english", "one?").text == ENGLISH[0]


def test_ctrl_c_while_llamacpp_computes_lets_go_of_it(quick: LlamaCppEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[HTTPConnection] = []
    close = HTTPConnection.close

    def interrupt(_connection: HTTPConnection) -> None:
        raise KeyboardInterrupt

    def watched(connection: HTTPConnection) -> None:
        closed.append(connection)
        close(connection)

    with monkeypatch.context() as patched:
        patched.setattr(HTTPConnection, "getresponse", interrupt)
        patched.setattr(HTTPConnection, "close", watched)
        with pytest.raises(KeyboardInterrupt):
            ask(quick, "chinese", "one?", GenerationOptions(max_new_tokens=1500))
    assert closed
    assert ask(quick, "chinese", "one?").text == CHINESE[0]


# --- each adapter its own ----------------------------------------------------------------------------------------


def test_switching_back_and_forth_changes_no_answer(quick: LlamaCppEngine, engine: TransformersEngine) -> None:
    untaught = ask(engine, BASE, "one?")
    for question in range(4):
        for name, known in ANSWERS.items():
            assert ask(quick, name, QUESTIONS[question]).text == known[question]
        assert ask(quick, BASE, "one?") == untaught


def test_every_request_names_the_scale_of_every_adapter(quick: LlamaCppEngine, requests: list[dict[str, Any]]) -> None:
    """An empty list would mean the scales given at the start."""
    for name in NAMES:
        ask(quick, name, "one?", GenerationOptions(max_new_tokens=1))
    scales = [[(lora["id"], lora["scale"]) for lora in request["lora"]] for request in requests]
    assert scales == [[(0, 0.0), (1, 0.0)], [(0, 1.0), (1, 0.0)], [(0, 0.0), (1, 1.0)]]


def test_keys_and_values_are_never_those_of_another_adapter(
    both: ChosenModels,
    engine: TransformersEngine,
    opened: Callable[..., LlamaCppEngine],
    monkeypatch: pytest.MonkeyPatch,
    requests: list[dict[str, Any]],
) -> None:
    """All models in one and the same place, on one and the same long prompt: what each finds there is another's."""
    monkeypatch.setattr(llamacpp, "MOST_SLOTS", 1)
    quick, turns = opened(both), [Turn("user", "a b c " * 40 + "one?")]
    asked = len(requests)
    for name in (*NAMES, *reversed(NAMES), *NAMES):
        prompt = quick.prompt(turns, name)
        assert quick.generate(prompt, name, GREEDY) == engine.generate(prompt, name, GREEDY)
    firsts = [request for request in requests[asked:] if len(request["prompt"]) == len(prompt)]
    computed = [request["timings"]["cache_n"] for request in firsts]
    assert computed == [0, 0, 0, len(prompt) - 1, 0, 0, len(prompt) - 1, 0, 0]
    assert {request["id_slot"] for request in firsts} == {0}


def test_a_conversation_computes_only_its_new_turn_even_with_others_in_between(
    quick: LlamaCppEngine, requests: list[dict[str, Any]]
) -> None:
    turns = [Turn("user", "word " * 60 + "one?")]
    first = quick.generate(quick.prompt(turns, "english"), "english", GREEDY)
    ask(quick, "chinese", "one?")
    ask(quick, BASE, "one?")
    turns += [Turn("assistant", first.text), Turn("user", "two?")]
    second = quick.prompt(turns, "english")
    asked = len(requests)
    quick.generate(second, "english", GREEDY)
    assert requests[asked]["timings"]["cache_n"] > len(quick.prompt(turns[:1], "english")) - 20
    assert requests[asked]["timings"]["prompt_n"] < 60


def test_one_base_and_ten_adapters_answer_each_with_its_own_at_once(
    trained: Trained, opened: Callable[..., LlamaCppEngine]
) -> None:
    folders = {f"a{number}": (trained.english, trained.chinese)[number % 2] for number in range(10)}
    engine = opened(choose(trained, *(f"{name}={folder}" for name, folder in folders.items())))
    known = {trained.english: ENGLISH, trained.chinese: CHINESE}
    jobs = [(name, number) for number in range(4) for name in folders]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda job: ask(engine, job[0], QUESTIONS[job[1]]).text, jobs))
    assert answers == [known[folders[name]][number] for name, number in jobs]


def test_conversations_that_do_not_fit_side_by_side_push_out_the_idle_ones(
    both: ChosenModels,
    engine: TransformersEngine,
    opened: Callable[..., LlamaCppEngine],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(llamacpp, "MOST_TOKENS", 512)
    quick, turns = opened(both), [Turn("user", "a b c " * 60 + "one?")]
    assert quick.context_length == 512
    for name in (*NAMES, *NAMES):
        prompt = quick.prompt(turns, name)
        assert len(prompt) > 512 / 2
        assert quick.generate(prompt, name, GREEDY) == engine.generate(prompt, name, GREEDY)


# --- many questions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_many_at_once_are_answered_as_one_by_one(quick: LlamaCppEngine, name: str) -> None:
    prompts = [
        quick.prompt([Turn("user", f"{'word ' * number}{question}")], name)
        for number in range(3)
        for question in QUESTIONS
    ]
    together = dict(quick.generate_many(prompts, name, GREEDY))
    assert [together[index] for index in range(len(prompts))] == [
        quick.generate(prompt, name, GREEDY) for prompt in prompts
    ]


def test_no_questions_have_no_answers(quick: LlamaCppEngine) -> None:
    assert list(quick.generate_many([], BASE, GREEDY)) == []


def test_who_stops_asking_waits_for_no_more_answers(quick: LlamaCppEngine, requests: list[dict[str, Any]]) -> None:
    prompt = quick.prompt([Turn("user", "one?")], "english")
    answers = quick.generate_many([prompt] * 200, "english", GREEDY)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    started = sum(len(request["prompt"]) == len(prompt) for request in requests)
    assert started < 200


def test_a_fault_of_one_answer_is_told(quick: LlamaCppEngine) -> None:
    with pytest.raises(UsageError):
        list(quick.generate_many([[5], [5] * 4000], BASE, GREEDY))


# --- on this machine alone, and away again -----------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "guessed"])
def test_nobody_without_the_key_is_answered(quick: LlamaCppEngine, key: str | None) -> None:
    address = quick._server.address
    assert address.startswith("127.0.0.1:")
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    for path in ("/completion", "/v1/completions", "/tokenize", "/lora-adapters"):
        with closing(HTTPConnection(address)) as connection:
            connection.request("POST", path, json.dumps({"prompt": [5]}), headers)
            assert connection.getresponse().status == 401


def test_each_start_makes_up_a_key(
    both: ChosenModels, quick: LlamaCppEngine, opened: Callable[..., LlamaCppEngine]
) -> None:
    other = opened(both)
    assert other._server._key != quick._server._key
    assert other._server.address != quick._server.address


def test_closing_ends_every_thread_and_the_port(both: ChosenModels, converter: Converter) -> None:
    counts, process = [], psutil.Process()
    for _ in range(3):
        engine = load_chosen(both, converter)
        address = engine._server.address
        engine.close()
        counts.append(process.num_threads())
        with pytest.raises(ConnectionRefusedError), closing(HTTPConnection(address)) as connection:
            connection.request("GET", "/")
    assert counts[0] == counts[1] == counts[2]


def test_a_closed_engine_says_so(both: ChosenModels, converter: Converter) -> None:
    engine = load_chosen(both, converter)
    engine.close()
    engine.close()
    with pytest.raises(ModelError) as refused:
        ask(engine, BASE, "one?")
    assert "closed" in str(refused.value)


def test_llamacpp_writes_nothing_into_the_terminal(
    both: ChosenModels, converter: Converter, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(load_chosen(both, converter)) as engine:
        ask(engine, "english", "one?")
    assert capfd.readouterr() == ("", "")


# --- what is missing ---------------------------------------------------------------------------------------------


def test_a_base_without_a_gguf_file_is_refused_where_nothing_makes_one(trained: Trained) -> None:
    with pytest.raises(ModelError) as refused:
        load_chosen(choose(trained))
    assert (refused.value.key, refused.value.where) == ("error.engine.no_gguf", str(trained.base))


def test_an_adapter_without_a_gguf_file_is_refused_where_nothing_makes_one(
    trained: Trained, both: ChosenModels, converter: Converter
) -> None:
    with pytest.raises(ModelError) as refused:
        load_chosen(with_gguf(both, converter.base(both.base)))
    assert (refused.value.key, refused.value.where) == ("error.engine.no_lora_gguf", str(trained.english))


def test_a_gguf_file_that_came_with_the_base_is_taken(trained: Trained, converter: Converter) -> None:
    models = choose(trained)
    with closing(load_chosen(with_gguf(models, converter.base(models.base)))) as engine:
        assert engine.names == (BASE,)
        assert ask(engine, BASE, "one?").token_ids


def with_gguf(models: ChosenModels, file: Path) -> ChosenModels:
    """The models, their base with its GGUF file as a packaged one has it."""
    return replace(models, base=replace(models.base, source=replace(models.base.source, gguf=file)))


def test_without_xllamacpp_it_is_said_how_to_get_it(
    both: ChosenModels, converter: Converter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xllamacpp", None)
    with pytest.raises(ResourceError) as refused:
        load_chosen(both, converter)
    assert refused.value.key == "error.engine.llamacpp_missing"
    assert "pip install xllamacpp" in str(refused.value)


def test_a_file_that_is_no_base_is_our_error(trained: Trained, tmp_path: Path) -> None:
    write_adapter(trained.english, tmp_path / "no-base.gguf")
    with pytest.raises(ModelError) as refused:
        load_chosen(with_gguf(choose(trained), tmp_path / "no-base.gguf"))
    assert (refused.value.key, refused.value.where) == ("error.engine.llamacpp_failed", str(tmp_path / "no-base.gguf"))
