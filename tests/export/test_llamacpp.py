"""How the gate asks llama.cpp: in bounded memory, and past the end of an answer."""

import pytest

from pangzhu.export.gguf_family import Architecture
from pangzhu.export.gguf_vocab import read_vocabulary
from pangzhu.export.llamacpp import MOST_TOKENS, STEP, GgufReader, LlamaCppVoice
from pangzhu.template import PromptContract
from tests.export.conftest import Adapt, Adapted

END = 2


class Server:
    """A llama.cpp that was opened and is asked nothing."""

    def __init__(self, *_: object, num_slots: int, num_tokens: int, own_template: bool) -> None:
        self.num_slots, self.num_tokens = num_slots, num_tokens

    def scales(self, _adapter: int) -> list[dict[str, float]]:
        return []


def voice_of(made: Adapted, monkeypatch: pytest.MonkeyPatch, *, room: int = 8) -> LlamaCppVoice:
    monkeypatch.setattr("pangzhu.export.llamacpp.LlamaServer", Server)
    vocabulary = read_vocabulary(made.base, Architecture(made.base).vocab_size)
    contract = PromptContract.read(made.adapter / "prompt.json")
    assert contract.stop_token_ids == (END,)
    return LlamaCppVoice(GgufReader("", made.base, None, vocabulary, contract, room))


@pytest.mark.parametrize(("room", "num_places"), [(100, 8), (5000, 3), (30_000, 1)])
def test_the_longer_the_questions_the_fewer_are_asked_side_by_side(
    adapted: Adapt, monkeypatch: pytest.MonkeyPatch, room: int, num_places: int
) -> None:
    server = voice_of(adapted(), monkeypatch, room=room)._server
    assert server.num_slots == num_places  # type: ignore[attr-defined]
    assert num_places * room < server.num_tokens <= max(MOST_TOKENS, room + STEP)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("answer", "behind", "certain"),
    [((50, END), (), True), ((50, END), (51,), False), ((50, 51), (52,), True)],
    ids=["ends", "does not know its end for one", "was cut"],
)
def test_a_file_that_writes_on_behind_the_end_of_an_answer_does_not_give_that_answer(
    adapted: Adapt, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, ...], behind: tuple[int, ...], certain: bool
) -> None:
    voice = voice_of(adapted(), monkeypatch)
    written = [(token, -0.1) for token in (*answer, *behind)]
    monkeypatch.setattr(voice, "_decode", lambda _prompt, num_tokens, **_: written[:num_tokens])
    scored = voice._score((5,), answer)
    assert (scored.log_probs, scored.certain) == ((-0.1, -0.1), certain)
