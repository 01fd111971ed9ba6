"""A GGUF file, alone or with a LoRA file on it, asked by the parity gate through llama.cpp (xllamacpp).

llama.cpp's server has no teacher-forced pass. So it decodes greedily and reports each token's log-probability; as long as
it writes the given answer, these are the answer's; it is asked for one token more, so that an end which it does not know
for one is no end. Where it writes another token, the wanted one is pushed in by a bias, which changes what is chosen and
not what is reported, and it goes on behind it. Of a character that is made of several tokens the server reports the last
one only; those before it are left out of the figures.

Prompts go in as ids, each computed anew (`pangzhu.engines.llama_server`).
"""

import gc
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu.config import Device, GenerationOptions
from pangzhu.data.conversation import Turn
from pangzhu.engines.llama_server import LlamaServer
from pangzhu.errors import ModelError, ResourceError
from pangzhu.export.gguf_vocab import Vocabulary, piece_bytes
from pangzhu.export.readers import Ids, Scored, Voice

if TYPE_CHECKING:
    from pangzhu.template import PromptContract

PLACES = 8  # prompts answered side by side: the weights are read once for all of them
MOST_TOKENS = 16_384  # of all places, unless a single prompt needs more: 200 MB of keys and values for a 0.5B Qwen
STEP = 256  # tokens, in which llama.cpp counts its context
PUSH = 1000.0  # nats, onto a token that is wanted
MOST_PUSHES = 8  # in one answer; what differs more often is no export of this adapter, and the rest tells nothing new
UNTIED_HEAD = "output.weight"
ONLY_ADAPTER = 0


@dataclass(frozen=True, slots=True)
class GgufReader:
    """A GGUF file.

    Args:
        title: for a reader.
        file: the model.
        lora: on it; None for none.
        vocabulary: of the base.
        contract: what ends an answer.
        room: most tokens of a prompt and its answer.
    """

    title: str
    file: Path
    lora: Path | None
    vocabulary: Vocabulary
    contract: "PromptContract"
    room: int

    @contextmanager
    def opened(self, device: Device) -> Iterator[Voice]:
        """The file as llama.cpp loads it, on the CPU whatever the device."""
        voice = LlamaCppVoice(self)
        try:
            yield voice
        finally:
            voice.close()
            gc.collect()


class LlamaCppVoice:
    """A GGUF file in llama.cpp's server, in this process.

    Args:
        reader: which file.

    Raises:
        ResourceError: xllamacpp is not installed.
        ModelError: llama.cpp does not load the file.
    """

    def __init__(self, reader: GgufReader) -> None:
        self._reader = reader
        adapters = [reader.lora] if reader.lora else []
        room = (reader.room // STEP + 1) * STEP
        self._places = max(1, min(PLACES, MOST_TOKENS // room))
        with _named(reader.file):
            self._server = LlamaServer(
                reader.file, adapters, num_slots=self._places, num_tokens=self._places * room, own_template=True
            )
        self._greedy: dict[str, object] = {
            "temperature": 0,
            "cache_prompt": False,
            "return_tokens": True,
            "lora": self._server.scales(ONLY_ADAPTER),
        }

    @property
    def tied(self) -> bool:
        """Whether one matrix is both embeddings."""
        from gguf import GGUFReader

        return all(tensor.name != UNTIED_HEAD for tensor in GGUFReader(self._reader.file).tensors)

    def prompt(self, turns: Sequence[Turn]) -> Ids:
        """By the file's own template and vocabulary, as llama.cpp makes it of a chat."""
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = str(self._ask("/apply-template", {"messages": messages})["prompt"])
        body = {"content": text, "add_special": True, "parse_special": True}
        return tuple(self._ask("/tokenize", body)["tokens"])

    def write(self, prompts: Sequence[Ids], options: GenerationOptions) -> list[Ids]:
        """Side by side."""
        if not prompts:
            return []
        body = {
            "prompt": [list(prompt) for prompt in prompts],
            "n_predict": options.max_new_tokens,
        }
        found = self._ask("/completion", body | self._greedy)
        answers = found if isinstance(found, list) else [found]
        return [self._ended(answer["tokens"]) for answer in sorted(answers, key=lambda answer: answer["index"])]

    def score(self, prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[Scored]:
        """Each by itself, some side by side."""
        with ThreadPoolExecutor(self._places) as pool:
            return list(pool.map(self._score, prompts, answers))

    def close(self) -> None:
        """Give the memory back."""
        self._server.close()

    def _score(self, prompt: Ids, answer: Ids) -> Scored:
        """One answer, from one place where the model would write another token to the next."""
        log_probs: list[float | None] = []
        certain, ends = False, answer[-1] in self._reader.contract.stop_token_ids
        for number in range(MOST_PUSHES + 1):
            done = len(log_probs)
            told = self._decode((*prompt, *answer[:done]), len(answer) - done + 1)
            goes_on = len(told) > len(answer) - done
            same = _num_alike([token for token, _ in told], answer[done:])
            log_probs += [log_prob for _, log_prob in told[:same]]
            certain = certain or (number == 0 and same == len(answer) and not (ends and goes_on))
            if len(log_probs) == len(answer):
                break
            wanted = answer[len(log_probs)]
            [(_, log_prob)] = self._decode((*prompt, *answer[: len(log_probs)]), 1, push=wanted)
            log_probs.append(log_prob)
        left = len(answer) - len(log_probs)
        return Scored((*log_probs, *[None] * left), certain)

    def _decode(self, prompt: Ids, num_tokens: int, *, push: int | None = None) -> list[tuple[int, float | None]]:
        """Greedy tokens, each with its log-probability where it is told."""
        body: dict[str, object] = {
            "prompt": list(prompt),
            "n_predict": num_tokens,
            "n_probs": 1,
            "logit_bias": [] if push is None else [[push, PUSH]],
        }
        found = self._ask("/completion", body | self._greedy)
        tokens = [int(token) for token in found["tokens"]]
        told = self._told(tokens, found.get("completion_probabilities", []))
        return [(token, told.get(place)) for place, token in enumerate(tokens)]

    def _told(self, tokens: Sequence[int], entries: Sequence[dict[str, Any]]) -> dict[int, float]:
        """The log-probabilities by place: those of the tokens after which the text ends with a whole character."""
        text, places = b"", []
        for place, token in enumerate(tokens):
            text += piece_bytes(self._reader.vocabulary, token)
            if not _is_cut(text):
                places.append(place)
        if [entry["id"] for entry in entries] != [tokens[place] for place in places]:
            reason = f"{[entry['id'] for entry in entries]}, {tokens}"
            raise ModelError("error.export.llamacpp", where=str(self._reader.file), reason=reason)
        return {place: float(entry["logprob"]) for place, entry in zip(places, entries, strict=True)}

    def _ask(self, path: str, body: dict[str, object]) -> Any:
        with _named(self._reader.file):
            return self._server.ask(path, body)

    def _ended(self, tokens: Sequence[int]) -> Ids:
        """An answer's ids, whichever of the tokens that may end it being the end of a turn."""
        contract = self._reader.contract
        ended = bool(tokens) and tokens[-1] in contract.stop_token_ids
        return (*tokens[:-1], contract.end_of_turn_id) if ended else tuple(tokens)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Faults of the engine as faults of an export, whose remedies are others."""
    try:
        yield
    except ResourceError as missing:
        raise ResourceError("error.export.no_llamacpp") from missing
    except ModelError as failed:
        raise ModelError("error.export.llamacpp", where=str(file), reason=failed.values["reason"]) from failed


def _num_alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two answers begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def _is_cut(text: bytes) -> bool:
    """Whether llama.cpp takes text to end within a character of UTF-8: one of its last bytes promises more than follow it."""
    return any(back < _promised(byte) for back, byte in enumerate(reversed(text[-4:]), start=1))


def _promised(byte: int) -> int:
    """Bytes of the character that a byte begins; 0 where it begins none of several."""
    return 2 if byte >> 5 == 0b110 else 3 if byte >> 4 == 0b1110 else 4 if byte >> 3 == 0b11110 else 0
