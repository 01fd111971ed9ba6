"""Long chats, on both engines: two hundred turns cost what is new in them, and leave nothing behind."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

import psutil
import pytest

from pangzhu.chat import Session
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.engines import known_turns, llamacpp
from pangzhu.engines.llama_server import LlamaServer
from pangzhu.engines.llamacpp import load_chosen
from pangzhu.engines.named_models import choose_models
from pangzhu.engines.transformers import TransformersEngine
from pangzhu.fast.prefix import common_length
from pangzhu.messages import listening
from tests.engines.tiny_gguf import Converter
from tests.use_helpers import Told, Trained

pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.early]

pytest_plugins = ["tests.use_fixtures"]

NUM_TURNS = 200
SHORT = GenerationOptions(max_new_tokens=3)
CONTEXT = 512
MOST_KEPT = 4  # halves of conversations that have gone on without them
MOST_GROWTH = 8 * 2**20  # of the process, in the second half of the turns

Chat = tuple[Session, list[int], Callable[[], int]]  # and places computed of each prompt, and how many caches are kept


@pytest.fixture
def with_transformers(engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    monkeypatch.setattr(TransformersEngine, "context_length", CONTEXT)
    monkeypatch.setattr(known_turns, "MAX_BATCH_TOKENS", 2 * CONTEXT)
    talker = TransformersEngine(engine.model, engine._base, tuple(engine._adapters.values()))
    computed: list[int] = []
    passes: list[int] = []
    generate = talker.generate

    def watched(*given: Any, **more: Any) -> Any:
        passes.clear()
        answer = generate(*given, **more)
        computed.append(passes[0])
        assert set(passes[1:]) <= {1}
        return answer

    monkeypatch.setattr(talker, "generate", watched)
    embedding = talker.model.get_input_embeddings()
    hook = embedding.register_forward_hook(lambda _, given, __: passes.append(given[0].shape[1]))
    yield Session(talker, SHORT, "english"), computed, lambda: len(talker._turns._turns)
    hook.remove()


@pytest.fixture
def with_llamacpp(
    trained: Trained, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Chat]:
    pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")
    monkeypatch.setattr(llamacpp, "MOST_TOKENS", CONTEXT)
    with listening(Told()):
        models = choose_models(ModelOptions(model_name_or_path=str(trained.base)), [str(trained.english)])
    computed: list[int] = []
    post = LlamaServer.ask

    def watched(server: LlamaServer, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = post(server, path, {**body, "response_fields": (*body["response_fields"], "timings")})
        if body["n_predict"] == 1 and len(body["prompt"]) > 1:  # the first round of an answer, not the warm-up
            computed.append(answer["timings"]["prompt_n"])
        return answer

    with closing(load_chosen(models, Converter(tmp_path_factory.mktemp("gguf")))) as quick:
        monkeypatch.setattr(llamacpp._Pace, "took", lambda pace, *_: setattr(pace, "num_tokens", 1000))
        monkeypatch.setattr(LlamaServer, "ask", watched)
        yield (
            Session(quick, SHORT, "english"),
            computed,
            lambda: sum(bool(place.owner) for place in quick._slots._places),
        )


@pytest.mark.parametrize("engine_name", ["transformers", "llamacpp"])
def test_two_hundred_turns_compute_what_is_new_and_leave_nothing_behind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, engine_name: str
) -> None:
    session, computed, num_kept = request.getfixturevalue(f"with_{engine_name}")
    asked: list[list[int]] = []
    generate = session.engine.generate
    monkeypatch.setattr(
        session.engine, "generate", lambda ids, *rest, **more: (asked.append(ids), generate(ids, *rest, **more))[1]
    )
    told, resident = Told(), []
    with listening(told):
        for number in range(NUM_TURNS):
            session.ask(f"{number}?")
            resident.append(psutil.Process().memory_info().rss)

    assert len(computed) == len(asked) == NUM_TURNS
    read_anew = 0
    for before, ids, num_computed in zip(asked, asked[1:], computed[1:], strict=False):
        num_new = len(ids) - common_length([before, ids])  # the answer before is among it
        anew = num_new > CONTEXT // 4
        read_anew += anew
        assert num_computed <= (len(ids) if anew else num_new + 1)
        assert anew or num_computed < 60
    times_said = sum("left out" in sentence for sentence in told.sentences)
    assert read_anew == times_said
    assert 0 < times_said < NUM_TURNS // 5
    assert max(map(len, asked)) <= CONTEXT - SHORT.max_new_tokens
    assert num_kept() <= MOST_KEPT
    assert resident[-1] - resident[NUM_TURNS // 2] < MOST_GROWTH
