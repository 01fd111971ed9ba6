"""The transformers engine: one base in memory, adapters beside it, answers one by one or in batches.

Adapters are peft's own, unmerged, so that switching costs nothing and the base stays as it was. Each brings the
PromptContract it was trained with; the base speaks by the first adapter's, so that both see the same prompt.

Left to others: what is asked and how it is shown (`pangzhu.chat`, `pangzhu.compare`, `pangzhu.evaluate`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pangzhu import machine
from pangzhu.adapter import PROMPT, BaseMismatch, Manifest, check_base, verify_files
from pangzhu.condition import Condition, condition_of
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.data.findings import visible
from pangzhu.engines import REPLACEMENT, Answer, Write
from pangzhu.engines.decoding import batches, write_in_rounds
from pangzhu.errors import DataError, ModelError, UsageError, nearest
from pangzhu.messages import say
from pangzhu.model import context_length, load_base
from pangzhu.preparation import PreparedBase, decide_device, prepare_base
from pangzhu.sources.folder import is_device_name
from pangzhu.template import PromptContract, render
from pangzhu.vetting import check_names, is_plain_path

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from pangzhu.data.conversation import Conversation, Turn

NumberFormat = Literal["bf16", "float32"]

NUMBER_FORMATS: tuple[NumberFormat, ...] = ("bf16", "float32")
BASE = "base"
NETWORK_SHARE = ("\\\\", "//")  # opening one hands the user's name to whoever runs it
NAME = re.compile(r"\w[\w.-]{0,63}")  # letters of any script


@dataclass(frozen=True, slots=True)
class LoadedAdapter:
    """An adapter beside the base: its name, peft's name for it, its folder, its prompt, and what its files say of it."""

    name: str
    peft_name: str
    folder: Path
    contract: PromptContract
    condition: Condition


class TransformersEngine:
    """A base model and its adapters, ready to answer.

    Args:
        model: base, or base with adapters attached.
        base: tokenizer and the base's own contract.
        adapters: in the order they were named.
    """

    def __init__(self, model: "PreTrainedModel", base: PreparedBase, adapters: Sequence[LoadedAdapter] = ()) -> None:
        from transformers import GenerationConfig

        self._model = model
        self._base = base
        self._adapters = {adapter.name: adapter for adapter in adapters}
        # The base's own sampling defaults (temperature, repetition penalty) would change what greedy decoding writes.
        model.generation_config = GenerationConfig()

    @property
    def model(self) -> "PreTrainedModel":
        """Base and adapters as one model."""
        return self._model

    @property
    def tokenizer(self) -> "PreTrainedTokenizerBase":
        """The base's tokenizer."""
        return self._base.tokenizer

    @property
    def base_name(self) -> str:
        """How the base was named."""
        return self._base.source.name

    @property
    def names(self) -> tuple[str, ...]:
        """The base and every adapter, by name."""
        return (BASE, *self._adapters)

    @property
    def first_name(self) -> str:
        """Who answers where nobody was named: the first adapter, else the base."""
        return next(iter(self._adapters), BASE)

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return context_length(self._model)

    @property
    def conditions(self) -> dict[str, Condition]:
        """What is known of each adapter before it is asked anything, by name."""
        return {name: adapter.condition for name, adapter in self._adapters.items()}

    def contract(self, name: str) -> PromptContract:
        """The prompt contract to speak by: the adapter's own; for the base the first adapter's, if there is one."""
        speaker = self.first_name if name == BASE else name
        return self._base.contract if speaker == BASE else self._adapters[speaker].contract

    def prompt(self, turns: Sequence["Turn"], name: str) -> list[int]:
        """A conversation as ids, ready for `name` to answer."""
        return render(self.tokenizer, self.contract(name), turns, add_generation_prompt=True)

    def fitting_prompt(self, row: "Conversation", name: str, options: GenerationOptions) -> list[int]:
        """A row's question as ids, which with the longest answer fit into the model's context.

        Raises:
            DataError: they do not; the row is named.
        """
        ids = self.prompt(row.prompt, name)
        room = self.context_length - options.max_new_tokens
        if len(ids) > room:
            raise DataError("error.compare.too_long", where=str(row.location), tokens=len(ids), room=max(0, room))
        return ids

    def require(self, name: str) -> str:
        """The name, if there is such a model.

        Raises:
            UsageError: there is none; the nearest is named.
        """
        if name not in self.names:
            raise UsageError(
                "error.engine.no_such_adapter", name=name, names=", ".join(self.names), hint=nearest(name, self.names)
            )
        return name

    @contextmanager
    def using(self, name: str) -> Iterator["PreTrainedModel"]:
        """Inside, the model is the base or the named adapter."""
        if not self._adapters:
            yield self._model
        elif name == BASE:
            with self._model.disable_adapter():
                yield self._model
        else:
            self._model.set_adapter(self._adapters[name].peft_name)
            yield self._model

    def generate(
        self, prompt: Sequence[int], name: str, options: GenerationOptions, *, write: Write | None = None
    ) -> Answer:
        """Answer one prompt; `write` gets the text as it comes."""
        streamer = _Streamer(self.tokenizer, self.contract(name), write) if write else None
        answer = self._generate([prompt], name, options, streamer=streamer)[0]
        if streamer:
            streamer.close()
        return answer

    def generate_many(
        self, prompts: Sequence[Sequence[int]], name: str, options: GenerationOptions
    ) -> Iterator[tuple[int, Answer]]:
        """Answer prompts in batches of like length; gives `(index, answer)` as they are done, not in order."""
        for chosen in batches([len(prompt) for prompt in prompts], options.max_new_tokens):
            yield from zip(chosen, self._generate([prompts[index] for index in chosen], name, options), strict=True)

    def _generate(
        self,
        prompts: Sequence[Sequence[int]],
        name: str,
        options: GenerationOptions,
        *,
        streamer: "_Streamer | None" = None,
    ) -> list[Answer]:
        import torch

        contract = self.contract(name)
        with self.using(name) as model, torch.inference_mode():
            written = write_in_rounds(model, prompts, contract, options, streamer=streamer)
        return [self._answer(ids, contract, options) for ids in written]

    def _answer(self, ids: list[int], contract: PromptContract, options: GenerationOptions) -> Answer:
        ended = bool(ids) and ids[-1] in contract.stop_token_ids
        kept = ids[:-1] if ended else ids
        broke_off = not ended and len(ids) < options.max_new_tokens
        return Answer(str(self.tokenizer.decode(kept, skip_special_tokens=True)), tuple(kept), ended, broke_off)


def load_engine(
    options: ModelOptions, adapters: Sequence[str], *, allow_base_mismatch: bool = False
) -> TransformersEngine:
    """Load the base and the named adapters.

    Args:
        options: which base; where none is named, the one the first adapter's manifest records.
        adapters: `DIR` or `NAME=DIR`.
        allow_base_mismatch: use an adapter on a base other than its own.

    Raises:
        ModelError: no such base or adapter, or an adapter that belongs to another base.
        UsageError: two adapters of one name, or a name that cannot be one.
    """
    folders = named_folders(adapters)
    manifests = {name: verify_files(folder) for name, folder in folders.items()}
    base = prepare_base(with_recorded_base(options, list(manifests.values())))
    template = base.contract.template_sha256
    mismatches = {
        manifest.base.fingerprint: check_base(
            manifest, base.source.folder, template_sha256=template, allow_mismatch=allow_base_mismatch
        )
        for manifest in _of_distinct_bases(manifests.values())
    }
    loaded = [
        _beside(name, f"adapter_{number}", folder, mismatches[manifests[name].base.fingerprint])
        for number, (name, folder) in enumerate(folders.items())
    ]
    say("engine.loading", why=base.source.why)
    device = decide_device(options.device)
    machine.use_physical_cores()  # before the probe, which would time too many threads
    precision = _precision(options, base, device, recorded=_recorded_precision(list(manifests.values())))
    model = load_base(base.source.folder, precision=precision, device=device)
    return TransformersEngine(_attach(model, loaded), base, loaded)


def named_folders(adapters: Sequence[str]) -> dict[str, Path]:
    """`DIR` and `NAME=DIR` as names and folders; an unnamed folder is called by its own name where that is a name.

    Raises:
        UsageError: two adapters of one name, or a name that cannot be one.
    """
    folders: dict[str, Path] = {}
    for number, given in enumerate(adapters, start=1):
        head, separator, tail = given.partition("=")
        named = separator and not Path(given).exists()
        folder = Path(tail if named else given).expanduser()
        own_name = folder.resolve().name
        name = head if named else own_name if NAME.fullmatch(own_name) else f"adapter-{number}"
        if not NAME.fullmatch(name) or name == BASE or is_device_name(name):
            raise UsageError("error.engine.bad_name", where=f"--adapter {given}", name=name)
        if name in folders:
            raise UsageError("error.engine.name_twice", where=f"--adapter {given}", name=name)
        folders[name] = folder
    return folders


class _Streamer:
    """Hands on text as ids arrive, holding back a character until all its bytes are there."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", contract: PromptContract, write: Write) -> None:
        self._tokenizer = tokenizer
        self._stops = contract.stop_token_ids
        self._write = write
        self._ids: list[int] = []
        self._written = 0
        self._prompt_seen = False

    def put(self, value: "torch.Tensor") -> None:
        """Called by transformers: first with the prompt, then with each new id."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._ids += [token for token in value.reshape(-1).tolist() if token not in self._stops]
        text = str(self._tokenizer.decode(self._ids, skip_special_tokens=True))
        if not text.endswith(REPLACEMENT):
            self._flush(text)

    def end(self) -> None:
        """Called by transformers after the last id; `close` writes what is left."""

    def close(self) -> None:
        """Write what is left, finished or not."""
        self._flush(str(self._tokenizer.decode(self._ids, skip_special_tokens=True)))

    def _flush(self, text: str) -> None:
        self._write(text[self._written :])
        self._written = len(text)


def _beside(name: str, peft_name: str, folder: Path, mismatch: BaseMismatch | None) -> LoadedAdapter:
    contract = PromptContract.read(folder / PROMPT)
    return LoadedAdapter(name, peft_name, folder, contract, condition_of(folder, mismatch))


def with_recorded_base(options: ModelOptions, manifests: Sequence[Manifest]) -> ModelOptions:
    """Where no base is named, the one that the first adapter's manifest records.

    Raises:
        ModelError: what is recorded is no name that may be followed.
    """
    if options.model_name_or_path is not None or not manifests:
        return options
    recorded = manifests[0].base
    if not is_plain_path(recorded.name) or recorded.name.startswith(NETWORK_SHARE):
        raise ModelError("error.adapter.base_elsewhere", base=visible(recorded.name))
    return options.model_copy(update={"model_name_or_path": recorded.name, "revision": recorded.revision})


def _of_distinct_bases(manifests: Iterable[Manifest]) -> list[Manifest]:
    """One manifest a recorded base: to hold a base against them reads the base each time."""
    told_apart = {(manifest.base.fingerprint, manifest.template_sha256): manifest for manifest in manifests}
    return list(told_apart.values())


def _recorded_precision(manifests: Sequence[Manifest]) -> NumberFormat | None:
    """The format the first adapter was trained in, where its manifest tells."""
    recorded = manifests[0].metrics.get("precision") if manifests else None
    return next((known for known in NUMBER_FORMATS if known == recorded), None)


def _precision(
    options: ModelOptions, base: PreparedBase, device: Literal["cpu", "cuda"], *, recorded: NumberFormat | None
) -> NumberFormat:
    """As asked for; else as the adapter was trained, since a probe near its threshold may choose otherwise each time;
    else bf16 on a GPU, and on a CPU what a probe finds faster."""
    if options.precision != "auto":
        return options.precision
    if recorded:
        return recorded
    return "bf16" if device == "cuda" else machine.probe_precision_for(base.source.folder).chosen


def _attach(model: "PreTrainedModel", adapters: Sequence[LoadedAdapter]) -> Any:  # base or PeftModel
    """The base with every adapter loaded beside it, none of them merged."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import SafetensorError

    attached: Any = model
    for adapter in adapters:
        try:
            if attached is model:
                attached = PeftModel.from_pretrained(model, str(adapter.folder), adapter_name=adapter.peft_name)
            else:
                attached.load_adapter(str(adapter.folder), adapter_name=adapter.peft_name)
        except (ValueError, RuntimeError, OSError, TypeError, KeyError, SafetensorError) as broken:
            raise ModelError("error.adapter.unloadable", where=str(adapter.folder), reason=str(broken)) from broken
        loaded = get_peft_model_state_dict(attached, adapter_name=adapter.peft_name, save_embedding_layers=False)
        check_names(adapter.folder, loaded)  # peft leaves out what does not fit with a warning at the most
    return attached.eval()
