"""The transformers engine: greedy is greedy, a batch changes nothing, the base beside an adapter stays the base."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pangzhu import machine
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines import visible
from pangzhu.engines.named_models import BASE
from pangzhu.engines.streaming import Characters
from pangzhu.engines.transformers import TransformersEngine, _precision, _Streamer, load_engine
from pangzhu.errors import ModelError, UsageError
from pangzhu.messages import listening
from pangzhu.model import BaseFingerprint, base_fingerprint, load_base
from pangzhu.preparation import prepare_base
from tests.conftest import FAMILIES, build_model, build_tokenizer
from tests.use_helpers import CHINESE, ENGLISH, GREEDY, QUESTIONS, Told, Trained, ask, load, with_system

pytestmark = pytest.mark.usefixtures("one_core")

pytest_plugins = ["tests.use_fixtures"]

NAMES = (BASE, "english", "chinese")
LONGER = tuple("word " * number + "?" for number in range(1, 20))  # prompts of 19 lengths, more than one batch


def argmax_loop(engine: TransformersEngine, prompt: list[int], name: str, *, num_tokens: int) -> list[int]:
    """Greedy decoding by hand: the whole text through the model for each token, no cache, no padding."""
    ids, stops = list(prompt), engine.contract(name).stop_token_ids
    with engine.using(name) as model, torch.inference_mode():
        for _ in range(num_tokens):
            best = int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if best in stops:
                break
            ids.append(best)
    return ids[len(prompt) :]


def logits(engine: TransformersEngine, name: str) -> torch.Tensor:
    with engine.using(name) as model, torch.inference_mode():
        return model(input_ids=torch.tensor([engine.prompt([Turn("user", "one?")], name)]), use_cache=False).logits


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the English adapter under another folder name."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(trained.english, tmp_path / name, ignore=shutil.ignore_patterns("run")))

    return copy


# --- greedy ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", [*QUESTIONS[:2], "never asked 从未问过"])
def test_a_greedy_answer_is_the_argmax_of_every_step(engine: TransformersEngine, name: str, question: str) -> None:
    prompt = engine.prompt([Turn("user", question)], name)
    answer = engine.generate(prompt, name, GREEDY)
    assert list(answer.token_ids) == argmax_loop(engine, prompt, name, num_tokens=GREEDY.max_new_tokens)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_and_batches_hold_for_every_family(model_folder: Callable[[str], Path], family: str) -> None:
    engine = load(model_folder(family))
    prompts = [engine.prompt([Turn("user", question)], BASE) for question in ("a?", "a much longer question?")]
    together = dict(engine.generate_many(prompts, BASE, GREEDY))
    for index, prompt in enumerate(prompts):
        assert list(together[index].token_ids) == argmax_loop(engine, prompt, BASE, num_tokens=GREEDY.max_new_tokens)


@pytest.mark.parametrize("name", NAMES)
def test_batched_answers_equal_single_ones(engine: TransformersEngine, name: str) -> None:
    prompts = [engine.prompt([Turn("user", question)], name) for question in (*LONGER, *QUESTIONS)]
    together = dict(engine.generate_many(prompts, name, GREEDY))
    assert [together[index] for index in range(len(prompts))] == [
        engine.generate(prompt, name, GREEDY) for prompt in prompts
    ]


def test_a_batch_gives_every_question_one_answer(plain: TransformersEngine) -> None:
    prompts = [plain.prompt([Turn("user", question)], BASE) for question in LONGER]
    indices = [index for index, _ in plain.generate_many(prompts, BASE, GenerationOptions(max_new_tokens=1))]
    assert sorted(indices) == list(range(len(LONGER)))


def test_no_questions_have_no_answers(plain: TransformersEngine) -> None:
    assert list(plain.generate_many([], BASE, GREEDY)) == []


# --- the end of an answer ----------------------------------------------------------------------------------------


def test_the_stop_token_ends_an_answer_and_is_not_part_of_it(engine: TransformersEngine) -> None:
    answer = ask(engine, "english", "one?")
    assert (answer.text, answer.ended) == (ENGLISH[0], True)
    assert not set(answer.token_ids) & set(engine.contract("english").stop_token_ids)


def test_an_answer_that_runs_into_the_limit_has_not_ended(plain: TransformersEngine) -> None:
    answer = ask(plain, BASE, "one?", GenerationOptions(max_new_tokens=5))
    assert (len(answer.token_ids), answer.ended) == (5, False)


@pytest.mark.parametrize(("extra", "ended"), [(0, False), (1, True)])
def test_the_end_token_takes_a_place_of_its_own(engine: TransformersEngine, extra: int, ended: bool) -> None:
    options = GenerationOptions(max_new_tokens=len(ENGLISH[0]) + extra)
    answer = ask(engine, "english", "one?", options)
    assert (answer.text, answer.ended) == (ENGLISH[0], ended)


def test_in_a_batch_what_follows_the_stop_token_is_cut_off(engine: TransformersEngine) -> None:
    prompts = [engine.prompt([Turn("user", question)], "english") for question in ("one?", "never asked before")]
    answers = dict(engine.generate_many(prompts, "english", GenerationOptions(max_new_tokens=60)))
    assert (answers[0].text, answers[0].ended) == (ENGLISH[0], True)


def test_every_end_token_of_the_base_stops(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model_folder("qwen2"), tmp_path / "base"))
    unstopped = ask(load(folder), BASE, "one?")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, unstopped.token_ids[3]]}))
    stopped = ask(load(folder), BASE, "one?")
    assert stopped.ended
    assert stopped.token_ids == unstopped.token_ids[: unstopped.token_ids.index(unstopped.token_ids[3])]


# --- drawing -----------------------------------------------------------------------------------------------------

DEFAULTS = {
    "do_sample": True,
    "temperature": 0.1,
    "top_k": 1,
    "repetition_penalty": 9.0,
    "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(3, 200)),
    "min_new_tokens": 20,
    "max_length": 3,
}


def test_the_base_s_own_generation_defaults_change_nothing(trained: Trained, tmp_path: Path) -> None:
    base = Path(shutil.copytree(trained.base, tmp_path / "base"))
    before = load(base, str(trained.english))
    (base / "generation_config.json").write_text(json.dumps(DEFAULTS))
    after = load(base, str(trained.english))
    alone = load(base)
    for question in QUESTIONS:
        assert ask(after, "english", question) == ask(before, "english", question)
        assert ask(after, BASE, question) == ask(before, BASE, question) == ask(alone, BASE, question)


def test_a_seed_makes_drawn_answers_repeatable(plain: TransformersEngine) -> None:
    """There is no --seed for answers: whoever needs it seeds torch, as here."""

    def drawn(seed: int) -> tuple[int, ...]:
        torch.manual_seed(seed)
        return ask(plain, BASE, "one?", GenerationOptions(max_new_tokens=24, temperature=1.0)).token_ids

    assert drawn(1) == drawn(1) != drawn(2)


def test_a_tiny_top_p_leaves_only_the_most_probable_token(plain: TransformersEngine) -> None:
    drawn = ask(plain, BASE, "one?", GenerationOptions(max_new_tokens=24, temperature=1.0, top_p=1e-6))
    assert drawn == ask(plain, BASE, "one?")


def test_nothing_but_what_was_asked_for_limits_the_draw(plain: TransformersEngine) -> None:
    torch.manual_seed(0)
    drawn = ask(plain, BASE, "one?", GenerationOptions(max_new_tokens=300, temperature=50.0))
    assert len(set(drawn.token_ids)) > 50  # the limit transformers sets by itself


# --- base beside adapters ----------------------------------------------------------------------------------------


def test_the_base_beside_adapters_is_the_base_after_any_switching(
    engine: TransformersEngine, plain: TransformersEngine
) -> None:
    untouched = logits(plain, BASE)
    for name in (BASE, "english", BASE, "chinese", "english", BASE, BASE):
        assert torch.equal(logits(engine, BASE), untouched)
        ask(engine, name, "one?")
    assert [ask(engine, BASE, q) for q in QUESTIONS] == [ask(plain, BASE, q) for q in QUESTIONS]


@pytest.mark.parametrize(("name", "answers"), [("english", ENGLISH), ("chinese", CHINESE)])
def test_each_adapter_answers_by_its_name_after_the_other(
    engine: TransformersEngine, name: str, answers: tuple[str, ...]
) -> None:
    for question, answer in zip(QUESTIONS, answers, strict=True):
        ask(engine, "chinese" if name == "english" else "english", question)
        assert ask(engine, name, question).text == answer


def test_an_adapter_beside_another_equals_the_adapter_alone(engine: TransformersEngine, trained: Trained) -> None:
    alone = trained.engine(str(trained.chinese))
    assert torch.equal(logits(alone, "chinese"), logits(engine, "chinese"))


def test_one_base_and_ten_adapters_answer_each_with_its_own_at_once(trained: Trained) -> None:
    folders = {f"a{number}": (trained.english, trained.chinese)[number % 2] for number in range(10)}
    engine = trained.engine(*(f"{name}={folder}" for name, folder in folders.items()))
    known = {trained.english: ENGLISH, trained.chinese: CHINESE}
    jobs = [(name, number) for number in range(4) for name in folders]

    def answer(job: tuple[str, int]) -> tuple[str, str]:
        pieces: list[str] = []
        name, number = job
        prompt = engine.prompt([Turn("user", QUESTIONS[number])], name)
        return engine.generate(prompt, name, GREEDY, write=pieces.append).text, "".join(pieces)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, jobs))
    assert answers == [(known[folders[name]][number],) * 2 for name, number in jobs]


def test_many_questions_at_once_and_single_ones_from_other_threads_do_not_disturb_each_other(
    engine: TransformersEngine,
) -> None:
    prompts = [engine.prompt([Turn("user", question)], "english") for question in QUESTIONS]

    def answer(number: int) -> tuple[str, ...]:
        if number % 2:
            return tuple(ask(engine, "chinese", question).text for question in QUESTIONS)
        return tuple(answer.text for _, answer in sorted(engine.generate_many(prompts, "english", GREEDY)))

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, range(4))) == [ENGLISH, CHINESE] * 2


def test_an_interrupted_answer_leaves_every_model_as_it_was(engine: TransformersEngine) -> None:
    def interrupt(_piece: str) -> None:
        raise KeyboardInterrupt

    before = {name: logits(engine, name) for name in NAMES}
    for name in NAMES:
        with pytest.raises(KeyboardInterrupt):
            engine.generate(engine.prompt([Turn("user", "one?")], name), name, GREEDY, write=interrupt)
        assert all(torch.equal(logits(engine, other), before[other]) for other in NAMES)


def test_the_first_adapter_answers_first_and_the_base_where_there_is_none(
    engine: TransformersEngine, plain: TransformersEngine
) -> None:
    assert (engine.first_name, plain.first_name) == ("english", BASE)
    assert (engine.names, plain.names) == (NAMES, (BASE,))


def test_an_unknown_name_is_refused_with_the_nearest(engine: TransformersEngine) -> None:
    assert engine.require("english") == "english"
    with pytest.raises(UsageError) as refused:
        engine.require("englsh")
    assert "“english”" in str(refused.value)
    assert "base, english, chinese" in str(refused.value)


# --- prompts -----------------------------------------------------------------------------------------------------


def test_the_base_speaks_by_the_first_adapter_s_contract(trained: Trained, copied: Callable[[str], Path]) -> None:
    polite = with_system(copied("polite"), "Be polite.")
    engine = trained.engine(str(polite), str(trained.chinese))
    turns = [Turn("user", "one?")]
    assert engine.prompt(turns, BASE) == engine.prompt(turns, "polite") != engine.prompt(turns, "chinese")
    assert "Be polite." in engine.tokenizer.decode(engine.prompt(turns, BASE))


def test_a_system_turn_wins_over_the_contract_s(trained: Trained, copied: Callable[[str], Path]) -> None:
    engine = trained.engine(str(with_system(copied("polite"), "Be polite.")))
    text = engine.tokenizer.decode(engine.prompt([Turn("system", "Be rude."), Turn("user", "one?")], "polite"))
    assert "Be rude." in text
    assert "Be polite." not in text


def test_the_context_is_the_base_model_s(plain: TransformersEngine) -> None:
    assert plain.context_length == 2048


# --- streaming ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("question", QUESTIONS)
def test_streaming_writes_exactly_the_answer_in_whole_characters(
    engine: TransformersEngine, name: str, question: str
) -> None:
    pieces: list[str] = []
    prompt = engine.prompt([Turn("user", question)], name)
    answer = engine.generate(prompt, name, GREEDY, write=pieces.append)
    assert "".join(pieces) == answer.text == ask(engine, name, question).text
    assert len(pieces) > 1
    if name != BASE:  # the random base writes bytes that are no characters
        assert "\ufffd" not in "".join(pieces)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("😀!", ["😀", "!"]), ("法律", ["法", "律"]), ("a法b", ["a", "法", "b"]), ("é😀", ["é", "😀"])],
)
def test_a_character_is_written_when_its_last_byte_is_there(
    plain: TransformersEngine, text: str, expected: list[str]
) -> None:
    pieces: list[str] = []
    streamer = _Streamer(characters := Characters(plain.tokenizer, plain.contract(BASE), pieces.append))
    streamer.put(torch.tensor([[5, 6, 7]]))  # the prompt
    for token in plain.tokenizer(text)["input_ids"]:
        streamer.put(torch.tensor([token]))
    streamer.end()
    characters.close()
    assert [piece for piece in pieces if piece] == expected


def test_a_character_that_never_ends_is_written_at_the_end_as_the_answer_has_it(plain: TransformersEngine) -> None:
    pieces: list[str] = []
    streamer = _Streamer(characters := Characters(plain.tokenizer, plain.contract(BASE), pieces.append))
    streamer.put(torch.tensor([[5]]))
    ids = plain.tokenizer("a😀")["input_ids"][:-1]
    for token in ids:
        streamer.put(torch.tensor([token]))
    assert "".join(pieces) == "a"
    characters.close()
    assert "".join(pieces) == plain.tokenizer.decode(ids) != "a"


def test_a_stop_token_is_not_streamed(plain: TransformersEngine) -> None:
    pieces: list[str] = []
    streamer = _Streamer(characters := Characters(plain.tokenizer, plain.contract(BASE), pieces.append))
    for token in ([[5]], [plain.contract(BASE).end_of_turn_id]):
        streamer.put(torch.tensor(token))
    characters.close()
    assert "".join(pieces) == ""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("法律 😀\n\ttab", "法律 😀\n\ttab"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\ufffd", "\\ufffd"),
        ("a\u202eb\x00", "a\\u202eb\\x00"),
        ("👨\u200d👩", "👨\u200d👩"),
        ("full\u3000width", "full\u3000width"),
    ],
)
def test_what_a_terminal_would_obey_is_spelled_out(text: str, shown: str) -> None:
    assert visible(text) == shown


# --- names -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "given", "name"),
    [
        ("law", "{}", "law"),
        ("law", "judge={}", "judge"),
        ("law", "法官={}", "法官"),
        ("法律适配器", "{}", "法律适配器"),
        ("my law (2)", "{}", "adapter-1"),
        ("my law (2)", "law={}", "law"),
        ("r=8", "{}", "adapter-1"),
        ("r=8", "r8={}", "r8"),
    ],
)
def test_an_adapter_is_called_as_named_or_as_its_folder(
    trained: Trained, copied: Callable[[str], Path], folder: str, given: str, name: str
) -> None:
    engine = trained.engine(given.format(copied(folder)))
    assert engine.names == (BASE, name)
    assert ask(engine, name, "one?").text == ENGLISH[0]


@pytest.mark.parametrize("name", ["base", "two words", "", "a/b", "x" * 65, "😀", "..", "CON", "nul.x"])
def test_a_name_that_cannot_be_one_is_refused(trained: Trained, name: str) -> None:
    with pytest.raises(UsageError) as refused:
        trained.engine(f"{name}={trained.english}")
    assert refused.value.key == "error.engine.bad_name"
    assert str(refused.value.where).startswith(f"--adapter {name}=")


def test_a_folder_called_base_needs_a_name(trained: Trained, copied: Callable[[str], Path]) -> None:
    folder = copied("base")
    with pytest.raises(UsageError) as refused:
        trained.engine(str(folder))
    assert refused.value.key == "error.engine.bad_name"
    assert trained.engine(f"law={folder}").names == (BASE, "law")


@pytest.mark.parametrize("second", ["law={}", "{}"])
def test_two_adapters_of_one_name_are_refused(trained: Trained, copied: Callable[[str], Path], second: str) -> None:
    with pytest.raises(UsageError) as refused:
        trained.engine(f"law={trained.english}", second.format(copied("law")))
    assert refused.value.key == "error.engine.name_twice"


def test_the_home_folder_may_stand_in_a_named_path(
    trained: Trained, copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(copied("law").parent))
    monkeypatch.setenv("USERPROFILE", str(copied("law2").parent))
    assert trained.engine("law=~/law").names == (BASE, "law")


# --- which base, which files -------------------------------------------------------------------------------------


def test_the_base_is_the_one_the_manifest_records_where_none_is_named(trained: Trained) -> None:
    told = Told()
    with listening(told):
        engine = load_engine(ModelOptions(precision="float32"), [str(trained.english)])
    assert engine.base_name == str(trained.base)
    assert str(trained.base) in str(told)
    assert ask(engine, "english", "two?").text == ENGLISH[1]


@pytest.fixture
def other_base(tmp_path: Path) -> Path:
    """A base of the same shape with other weights: peft would load the adapter on it in silence."""
    model = build_model("qwen2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    model.save_pretrained(tmp_path / "other")
    build_tokenizer().save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.fault("B4")
def test_another_base_is_refused_by_its_weights(trained: Trained, other_base: Path) -> None:
    with pytest.raises(ModelError) as refused:
        load(other_base, str(trained.english))
    assert refused.value.key == "error.adapter.wrong_base"
    assert str(trained.base) in str(refused.value)
    assert "tensors" in str(refused.value)


@pytest.mark.fault("B4")
def test_another_base_is_used_with_a_warning_where_that_is_allowed(trained: Trained, other_base: Path) -> None:
    told = Told()
    options = ModelOptions(model_name_or_path=str(other_base), precision="float32")
    with listening(told):
        engine = load_engine(options, [str(trained.english)], allow_base_mismatch=True)
    assert "Warning" in str(told)
    assert engine.names == (BASE, "english")


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"base": {}}')


def spoil_weights(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")


def spoil_prompt(folder: Path) -> None:
    (folder / "prompt.json").write_text("{}")


def bring_pickle(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "key"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "error.adapter.no_manifest"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "error.adapter.file_missing"),
        (lambda folder: (folder / "prompt.json").unlink(), "error.adapter.file_missing"),
        (spoil_manifest, "error.adapter.manifest_broken"),
        (spoil_weights, "error.adapter.file_changed"),
        (spoil_prompt, "error.adapter.file_changed"),
        (bring_pickle, "error.adapter.pickle"),
    ],
)
@pytest.mark.fault("B2")
def test_a_damaged_adapter_is_refused_before_any_model_is_loaded(
    trained: Trained,
    copied: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    spoil: Callable[[Path], None],
    key: str,
) -> None:
    monkeypatch.setattr("pangzhu.engines.transformers.load_base", lambda *_: pytest.fail("loaded"))
    folder = copied("law")
    spoil(folder)
    with pytest.raises(ModelError) as refused:
        trained.engine(str(folder))
    assert refused.value.key == key
    assert str(folder) in str(refused.value.where)


def test_a_folder_without_an_adapter_is_refused(trained: Trained, tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        trained.engine(f"law={tmp_path / 'typo'}")
    assert (refused.value.key, refused.value.where) == ("error.adapter.none_here", str(tmp_path / "typo"))


def test_what_peft_cannot_load_is_our_error(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_more: object) -> None:
        raise ValueError("no such target")

    monkeypatch.setattr("peft.PeftModel.from_pretrained", refuse)
    with pytest.raises(ModelError) as refused:
        trained.engine(str(trained.english))
    assert refused.value.key == "error.adapter.unloadable"
    assert "no such target" in str(refused.value)


# --- number format -----------------------------------------------------------------------------------------------


def test_the_number_format_asked_for_is_taken(trained: Trained) -> None:
    with listening(Told()):
        engine = load_engine(ModelOptions(model_name_or_path=str(trained.base), precision="bf16"), [])
    assert engine.model.dtype == torch.bfloat16


@pytest.mark.parametrize(("device", "chosen"), [("cuda", "bf16"), ("cpu", "float32")])
def test_a_cpu_is_probed_and_a_gpu_takes_bf16(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, device: str, chosen: str
) -> None:
    def probe(_folder: Path) -> machine.PrecisionProbe:
        return machine.PrecisionProbe(1.0, 2.0, "", "float32", 0.0)

    monkeypatch.setattr(machine, "probe_precision_for", probe)
    options = ModelOptions(model_name_or_path=str(trained.base))
    assert _precision(options, prepare_base(options), device, recorded=None) == chosen  # type: ignore[arg-type]


def record_precision(folder: Path, recorded: object) -> None:
    """Let an adapter's manifest say in what format it was trained; None: not at all."""
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["metrics"].pop("precision", None)
    manifest["metrics"] |= {"precision": recorded} if recorded else {}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("recorded", "asked_for", "dtype"),
    [
        ("bf16", "auto", torch.bfloat16),
        ("float32", "auto", torch.float32),
        ("bf16", "float32", torch.float32),
        (None, "auto", torch.bfloat16),
        ("int3", "auto", torch.bfloat16),
    ],
)
def test_an_adapter_answers_in_the_format_it_was_trained_in_and_without_one_a_probe_decides(
    trained: Trained,
    copied: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    *,
    recorded: str | None,
    asked_for: str,
    dtype: torch.dtype,
) -> None:
    def probe(_folder: Path) -> machine.PrecisionProbe:
        assert recorded not in ("bf16", "float32")
        return machine.PrecisionProbe(2.0, 1.0, "", "bf16", 0.0)

    monkeypatch.setattr(machine, "probe_precision_for", probe)
    folder = copied("law")
    record_precision(folder, recorded)
    options = ModelOptions(model_name_or_path=str(trained.base), device="cpu", precision=asked_for)  # type: ignore[arg-type]
    with listening(Told()):
        assert load_engine(options, [str(folder), str(trained.chinese)]).model.dtype == dtype


# --- what loading costs ------------------------------------------------------------------------------------------


def test_threads_are_set_before_the_probe_and_before_the_model(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def probe(_folder: Path) -> machine.PrecisionProbe:
        order.append("probe")
        return machine.PrecisionProbe(1.0, 2.0, "", "float32", 0.0)

    def load_it(folder: Path, **how: object) -> object:
        order.append("model")
        return load_base(folder, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "set_num_threads", lambda number: order.append(f"{number} threads"))
    monkeypatch.setattr(machine, "num_physical_cores", lambda: 3)
    monkeypatch.setattr(machine, "probe_precision_for", probe)
    monkeypatch.setattr("pangzhu.engines.transformers.load_base", load_it)
    with listening(Told()):
        load_engine(ModelOptions(model_name_or_path=str(trained.base), device="cpu"), [])
    assert order == ["3 threads", "probe", "model"]


def test_two_adapters_of_one_base_have_it_read_once(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def watched(folder: Path) -> BaseFingerprint:
        read.append(folder)
        return base_fingerprint(folder)

    monkeypatch.setattr("pangzhu.adapter.base_fingerprint", watched)
    trained.engine(str(trained.english), str(trained.chinese))
    assert read == [trained.base]
