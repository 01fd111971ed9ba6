"""The models that can be asked, by name: a base, its adapters, and the prompt each of them is spoken to with.

Every engine has these; what they are computed with is its own. Each adapter brings the PromptContract it was trained with;
the base speaks by the first adapter's, so that both see the same prompt.

Left to others: loading weights and writing answers (`pangzhu.engines.transformers`, `pangzhu.engines.llamacpp`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pangzhu.adapter import PROMPT, BaseMismatch, Manifest, check_base, verify_files
from pangzhu.condition import Condition, condition_of
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.data.findings import visible
from pangzhu.engines import Answer
from pangzhu.engines.streaming import as_text
from pangzhu.errors import DataError, ModelError, UsageError, nearest
from pangzhu.messages import say
from pangzhu.preparation import PreparedBase, prepare_base
from pangzhu.sources.folder import is_device_name
from pangzhu.template import PromptContract, render
from pangzhu.vetting import is_plain_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from pangzhu.data.conversation import Conversation, Turn

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


@dataclass(frozen=True, slots=True)
class ChosenModels:
    """A base and adapters that are here, whole, and belong together; nothing of them is loaded yet."""

    base: PreparedBase
    adapters: tuple[LoadedAdapter, ...]
    manifests: tuple[Manifest, ...]


class NamedModels:
    """A base and its adapters by name.

    Args:
        base: tokenizer and the base's own contract.
        adapters: in the order they were named.
    """

    def __init__(self, base: PreparedBase, adapters: Sequence[LoadedAdapter] = ()) -> None:
        self._base = base
        self._adapters = {adapter.name: adapter for adapter in adapters}

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
        return self._base.context_length

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

    def plain_ids(self, text: str) -> list[int]:
        """A text as ids with no template around it, control tokens in it as ordinary text; a first token where the tokenizer
        puts one."""
        ids: list[int] = self.tokenizer(text, split_special_tokens=True)["input_ids"]
        return ids

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

    def _answer(self, ids: list[int], contract: PromptContract, options: GenerationOptions) -> Answer:
        """What was written, a stop token included, as an answer. With neither a stop token nor as many ids as it may have, it
        broke off."""
        ended = bool(ids) and ids[-1] in contract.stop_token_ids
        kept = ids[:-1] if ended else ids
        broke_off = not ended and len(ids) < options.max_new_tokens
        return Answer(as_text(self.tokenizer, kept), tuple(kept), ended, broke_off)


def choose_models(options: ModelOptions, adapters: Sequence[str], *, allow_base_mismatch: bool = False) -> ChosenModels:
    """Find the base and the named adapters, and hold them against each other.

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
    return ChosenModels(base, tuple(loaded), tuple(manifests.values()))


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
