"""llama.cpp in this process, through xllamacpp: a GGUF base, LoRA-GGUFs beside it, and one question to it: what comes next?

xllamacpp runs llama.cpp's server in threads of this process. It is asked through the port it opens on this machine: calls in
process would give text alone, and text loses the ids. Anybody here could knock at that port, so each start makes up its own
key. What a request must say is said each time:

- the scale of every adapter, since an empty list means those given at the start;
- the place it is computed in and whether what that holds may be used again (`pangzhu.engines.slots`). llama.cpp's own store
  of earlier prompts does not ask which adapter they were computed under, so it is off;
- how tokens are drawn, as transformers draws them: the likeliest, or by temperature and then top_k, top_p, min_p.

A token's probability comes along, for one reason: where it is NaN, so is all that follows.

Left to others: prompts, stop tokens and whole answers (`pangzhu.engines.llamacpp`).
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pangzhu import machine
from pangzhu.config import GenerationOptions
from pangzhu.engines import Schema, large_pages, waiting_threads
from pangzhu.errors import ModelError, ResourceError

if TYPE_CHECKING:
    import xllamacpp

OWN_MACHINE = "127.0.0.1"
ANY_FREE_PORT = 0
SILENT = -1
ANY_SEED = 2**32 - 1  # llama.cpp then takes another one each time
UNUSED_TEMPLATE = "chatml"  # prompts come as ids; a template of the file's that llama.cpp cannot read would stop it
OWN_MEMORY_FROM = 2  # sizes of a file that must be free for it to be read into memory of our own, and kept there
LARGE_FILE = 64 * 2**20  # bytes: below, a token takes no time worth saving
WANTED = ("tokens", "completion_probabilities")
AFTER_DRAWING, BEFORE_DRAWING = "prob", "logprob"  # what llama.cpp calls a token's probability


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is computed: the slot, whether what it holds may be used again, and by which adapter (None: the
    base)."""

    slot: int
    reuse: bool
    adapter: int | None


@dataclass(frozen=True, slots=True)
class Continuation:
    """What came next. `lost` tells that a probability was no number: from some token on, none of them means anything."""

    token_ids: tuple[int, ...]
    lost: bool


class LlamaServer:
    """A base and its adapters, loaded.

    Args:
        base: GGUF file.
        adapters: LoRA-GGUF files; a request names them by their number here.
        num_slots: conversations kept side by side.
        num_tokens: of all of them together.
        own_template: let the file's own chat template be asked for.

    Raises:
        ResourceError: xllamacpp is not installed.
        ModelError: llama.cpp cannot load the files.
    """

    def __init__(
        self, base: Path, adapters: Sequence[Path], *, num_slots: int, num_tokens: int, own_template: bool = False
    ) -> None:
        try:
            import xllamacpp
        except ImportError as missing:
            raise ResourceError("error.engine.llamacpp_missing", reason=str(missing)) from missing
        self._num_adapters = len(adapters)
        self._num_tokens = num_tokens
        self._key = secrets.token_hex(32)
        params = xllamacpp.CommonParams()
        params.model.path = str(base)
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(file), 0.0) for file in adapters]
        params.load_mode = _load_mode(base)
        _on_this_machine_alone(params, self._key)
        if not own_template:
            params.chat_template = UNUSED_TEMPLATE
        _compute_on_cores(params)
        _keep_places(params, num_slots, num_tokens)
        waiting_threads.end()
        try:
            self._server: xllamacpp.Server | None = xllamacpp.Server(params)
        except RuntimeError as refused:
            raise ModelError("error.engine.llamacpp_failed", where=str(base), reason=str(refused)) from refused
        # xllamacpp's server waits for ever where it is closed before it has begun to work: after an answer it has.
        self.continuation([0], 1, Place(slot=0, reuse=False, adapter=None), GenerationOptions())
        if base.stat().st_size >= LARGE_FILE:
            large_pages.gather_in_background(base.stat().st_size // 2)

    def continuation(
        self,
        prompt: Sequence[int],
        num_tokens: int,
        place: Place,
        options: GenerationOptions,
        *,
        schema: Schema | None = None,
    ) -> Continuation:
        """The next ids, at most `num_tokens`; fewer where one ends an answer in llama.cpp's eyes, which then is the last.

        Args:
            prompt: ids.
            num_tokens: how many are wanted.
            place: where they are computed.
            options: how they are drawn.
            schema: JSON schema that they begin to fit: all of an answer has to be asked for at once.

        Raises:
            ModelError: llama.cpp refuses, with its reason, or is closed.
        """
        body = {
            "prompt": list(prompt),
            "n_predict": num_tokens,
            "return_tokens": True,
            "response_fields": WANTED,
            "id_slot": place.slot,
            "cache_prompt": place.reuse,
            "lora": self.scales(place.adapter),
            **_drawing(options, self._num_tokens),
            **({} if schema is None else {"json_schema": schema}),
        }
        answer = self.ask("/completion", body)
        if not answer["tokens"]:
            raise ModelError("error.engine.llamacpp_refused", reason="tokens: []")
        lost = any(map(_is_no_number, answer.get("completion_probabilities", [])))  # none in the middle of a character
        return Continuation(tuple(answer["tokens"]), lost)

    def scales(self, adapter: int | None) -> list[dict[str, float]]:
        """What a request says of every adapter, so that one answers, or none of them."""
        return [{"id": number, "scale": 1.0 if number == adapter else 0.0} for number in range(self._num_adapters)]

    @property
    def address(self) -> str:
        """Host and port, while it is open.

        Raises:
            ModelError: it is closed.
        """
        if self._server is None:
            raise ModelError("error.engine.llamacpp_refused", reason="closed")
        return str(urlsplit(self._server.listening_address).netloc)

    def close(self) -> None:
        """Unload the model and end its threads."""
        self._server = None  # xllamacpp's object ends them when it goes

    @property
    def context_length(self) -> int:
        """Most tokens of one conversation: fewer than were asked for where a base has a window that ends before."""
        return int(self.ask("/props")["default_generation_settings"]["n_ctx"])

    def ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """What llama.cpp's server answers, as JSON, to what is posted, or to a plain question without a body. A broken
        connection, which Ctrl-C leaves too, tells it to stop.

        Raises:
            ModelError: it refuses, with its reason, or is closed.
        """
        connection = HTTPConnection(self.address)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._key}"}
        try:
            connection.request(
                "GET" if body is None else "POST", path, None if body is None else json.dumps(body), headers
            )
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, HTTPException, ValueError) as broken:
            raise ModelError("error.engine.llamacpp_refused", reason=str(broken)) from broken
        finally:
            connection.close()
        if response.status != 200:
            raise ModelError("error.engine.llamacpp_refused", reason=answer.get("error", {}).get("message", answer))
        return answer


def _on_this_machine_alone(params: "xllamacpp.CommonParams", key: str) -> None:
    params.hostnames = [OWN_MACHINE]
    params.port = ANY_FREE_PORT
    params.api_keys = [key]
    params.ui = False
    params.endpoint_slots = False  # would tell what was asked
    params.verbosity = SILENT


def _compute_on_cores(params: "xllamacpp.CommonParams") -> None:
    params.n_gpu_layers = 0
    params.fit_params = False  # reads the file once more, to divide it among GPUs
    params.check_tensors = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = machine.num_physical_cores()


def _keep_places(params: "xllamacpp.CommonParams", num_slots: int, num_tokens: int) -> None:
    params.n_parallel = num_slots
    params.n_ctx = num_tokens
    params.kv_unified = True
    params.swa_full = True  # a window of attention that forgets could not be used again
    params.cache_ram_mib = 0
    params.cache_idle_slots = False
    params.ctx_shift = False


def _load_mode(base: Path) -> "xllamacpp.llama_load_mode":
    """Memory of our own is 2% faster than the mapped file, and what llama.cpp arranges anew it holds once; a mapped file can be
    larger than the memory."""
    import xllamacpp

    modes = xllamacpp.llama_load_mode
    fits = base.stat().st_size * OWN_MEMORY_FROM <= machine.available_memory()
    return modes.LLAMA_LOAD_MODE_MLOCK if fits else modes.LLAMA_LOAD_MODE_MMAP


def _drawing(options: GenerationOptions, num_tokens: int) -> dict[str, object]:
    """How llama.cpp draws a token, and which probability it tells.

    Of the likeliest token the one of after drawing, among two: the other gets none, and where they are NaN it stays NaN; one
    among all words takes 3% of the time, and a single candidate gets 1 whatever it was. Of a drawn token the one of before.
    """
    chain: dict[str, object] = {
        "samplers": ["penalties", "top_k", "temperature"],
        "top_k": 2,
        "temperature": 0,
        "post_sampling_probs": True,
    }
    if options.temperature:
        chain = {
            "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"],
            "temperature": options.temperature,
            "top_k": options.top_k,
            "top_p": options.top_p,
            "min_p": options.min_p,
            "seed": ANY_SEED if options.draw_seed is None else options.draw_seed,
            "post_sampling_probs": False,
        }
    return {**chain, "repeat_penalty": options.repetition_penalty, "repeat_last_n": num_tokens, "n_probs": 1}


def _is_no_number(token: Mapping[str, object]) -> bool:
    """JSON has no NaN: llama.cpp writes null."""
    return token[AFTER_DRAWING if AFTER_DRAWING in token else BEFORE_DRAWING] is None
