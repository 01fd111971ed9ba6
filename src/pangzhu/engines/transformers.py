"""The transformers engine: one base in memory, adapters beside it, answers one by one or in batches.

Adapters are peft's own, unmerged, so that switching costs nothing and the base stays as it was. The next turn of a conversation
computes only what is new (`pangzhu.engines.known_turns`).

Left to others: who can be asked, and how (`pangzhu.engines.named_models`); what is asked and how it is shown
(`pangzhu.chat`, `pangzhu.compare`, `pangzhu.evaluate`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal

from pangzhu import machine
from pangzhu.adapter import Manifest
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.engines import Answer, EndAnswerError, Schema, Write
from pangzhu.engines.decoding import batches, write_in_rounds
from pangzhu.engines.known_turns import KnownTurns
from pangzhu.engines.named_models import BASE, ChosenModels, LoadedAdapter, NamedModels, choose_models
from pangzhu.engines.streaming import Characters
from pangzhu.errors import ModelError, UsageError
from pangzhu.model import context_length, load_base
from pangzhu.preparation import PreparedBase, decide_device
from pangzhu.vetting import check_names

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

NumberFormat = Literal["bf16", "float32"]

NUMBER_FORMATS: tuple[NumberFormat, ...] = ("bf16", "float32")


class TransformersEngine(NamedModels):
    """A base model and its adapters, ready to answer; safe to ask from several threads, whose answers are written one after the
    other: a model is one adapter's at a time.

    Args:
        model: base, or base with adapters attached.
        base: tokenizer and the base's own contract.
        adapters: in the order they were named.
    """

    def __init__(self, model: "PreTrainedModel", base: PreparedBase, adapters: Sequence[LoadedAdapter] = ()) -> None:
        from transformers import GenerationConfig

        super().__init__(base, adapters)
        self._model = model
        self._turns = KnownTurns(model)
        self._one_at_a_time = RLock()
        # The base's own sampling defaults (temperature, repetition penalty) would change what greedy decoding writes.
        model.generation_config = GenerationConfig()

    @property
    def model(self) -> "PreTrainedModel":
        """Base and adapters as one model."""
        return self._model

    @property
    def context_length(self) -> int:
        """Most tokens of prompt and answer together."""
        return context_length(self._model)

    @contextmanager
    def using(self, name: str) -> Iterator["PreTrainedModel"]:
        """Inside, the model is the base or the named adapter, and this thread's alone."""
        with self._one_at_a_time:
            if not self._adapters:
                yield self._model
            elif name == BASE:
                with self._model.disable_adapter():
                    yield self._model
            else:
                self._model.set_adapter(self._adapters[name].peft_name)
                yield self._model

    def generate(
        self,
        prompt: Sequence[int],
        name: str,
        options: GenerationOptions,
        *,
        write: Write | None = None,
        schema: Schema | None = None,
    ) -> Answer:
        """Answer one prompt; `write` gets the text as it comes."""
        if schema is not None:
            raise UsageError("error.engine.no_schema")
        if write is None:
            return self._generate([prompt], name, options)[0]
        characters = Characters(self.tokenizer, self.contract(name), write)
        try:
            [answer] = self._generate([prompt], name, options, streamer=_Streamer(characters))
            characters.close()
        except EndAnswerError:
            return characters.answer()
        return answer

    def generate_many(
        self, prompts: Sequence[Sequence[int]], name: str, options: GenerationOptions
    ) -> Iterator[tuple[int, Answer]]:
        """Answer prompts in batches of like length; gives `(index, answer)` as they are done, not in order."""
        for chosen in batches([len(prompt) for prompt in prompts], options.max_new_tokens):
            yield from zip(chosen, self._generate([prompts[index] for index in chosen], name, options), strict=True)

    def close(self) -> None:
        """Nothing runs beside the engine: its memory goes when it goes."""

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
            if options.draw_seed is not None:
                torch.manual_seed(options.draw_seed)
            known = self._turns.begin(name, prompts[0], options.max_new_tokens) if len(prompts) == 1 else None
            written = write_in_rounds(model, prompts, contract, options, streamer=streamer, known=known)
            answers = [self._answer(ids, contract, options) for ids in written]
            if known is not None and not answers[0].broke_off:
                self._turns.keep(name, [*prompts[0], *written[0]], known)
        return answers


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
    return load_chosen(choose_models(options, adapters, allow_base_mismatch=allow_base_mismatch), options)


def load_chosen(models: ChosenModels, options: ModelOptions) -> TransformersEngine:
    """Load what was chosen.

    Raises:
        ModelError: weights that cannot be read, or an adapter that peft cannot load.
    """
    base = models.base
    device = decide_device(options.device)
    machine.use_physical_cores()  # before the probe, which would time too many threads
    precision = _precision(options, base, device, recorded=_recorded_precision(models.manifests))
    model = load_base(base.source.folder, precision=precision, device=device)
    return TransformersEngine(_attach(model, models.adapters), base, models.adapters)


class _Streamer:
    """Hands on text as ids arrive from `generate`."""

    def __init__(self, characters: Characters) -> None:
        self._characters = characters
        self._prompt_seen = False

    def put(self, value: "torch.Tensor") -> None:
        """Called by transformers: first with the prompt, then with each new id."""
        if self._prompt_seen:
            self._characters.add(value.reshape(-1).tolist())
        self._prompt_seen = True

    def end(self) -> None:
        """Called by transformers after the last id; what is left is written by who knows that the answer is whole."""


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
