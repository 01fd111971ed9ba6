"""Conversation -> token ids, by the base model's own chat template and nothing else.

The `PromptContract` is what training and every later use must agree on: the template, the system text, the token that
ends a turn, the tokens that stop an answer, and the date some templates print, frozen. It is saved beside the adapter
as `prompt.json`. Text is never the interface to the model: `render` gives ids, and control tokens that people write
(`<|im_start|>`) come out as ordinary text.

Left to others: which of the ids are learned (`pangzhu.tokenization`), loading the tokenizer (`pangzhu.model`).

Try it: `render(tokenizer, contract_for(tokenizer), [Turn("user", "你好")], add_generation_prompt=True)`.
"""

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from pangzhu.data.conversation import Turn
from pangzhu.errors import ModelError
from pangzhu.messages import say
from pangzhu.trial import try_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A base without a template gets ChatML's layout; its own end token closes each turn, since it knows no <|im_end|>.
CHATML = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + eos_token + '\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


# A template that prints today's date gets this one: the date Llama 3's own template falls back to. Training, a resumed
# training and every later use then see the same ids, whatever the day.
FROZEN_DATE = date(2024, 7, 26)
LEAVE = (
    "{{- '' }}"  # between a block and a template that stands behind it: what follows stays as it stands, whatever it is
)
DATE_DIRECTIVES = "aAbBdHIjmMpSuUwWyY"
MOST_TOKENS = 2**31
PRIVATE_USE = "[\ue000-\uf8ff\U000f0000-\U0010ffff]"


@dataclass(frozen=True, slots=True)
class PromptContract:
    """How a conversation becomes ids; training, chat, compare, serve and export read the same one.

    Args:
        chat_template: Jinja text.
        system: system text put before conversations that have none; None leaves that to the template.
        end_of_turn_id: the token that closes an assistant's turn; it is learned with every answer.
        stop_token_ids: generation ends at any of these.
        frozen_date: ISO date that a template which prints today's date gets, always the same; None for the others.
    """

    chat_template: str
    system: str | None
    end_of_turn_id: int
    stop_token_ids: tuple[int, ...]
    frozen_date: str | None = None

    @property
    def template_sha256(self) -> str:
        """Fingerprint of the template's text."""
        return hashlib.sha256(self.chat_template.encode()).hexdigest()

    def to_json(self) -> str:
        """The contract as `prompt.json` holds it."""
        fields = asdict(self) | {"template_sha256": self.template_sha256}
        return json.dumps(fields, ensure_ascii=False, indent=2, sort_keys=True) + "\n"

    @classmethod
    def read(cls, file: Path) -> "PromptContract":
        """Read `prompt.json`.

        Raises:
            ModelError: missing, not JSON, or its template is not the one its hash was taken of.
        """
        try:
            fields = json.loads(file.read_text(encoding="utf-8"))
            promised = fields.pop("template_sha256")
            contract = TypeAdapter(cls).validate_json(json.dumps(fields), strict=True)
            if unknown := fields.keys() - asdict(contract).keys():
                raise ValueError(", ".join(sorted(unknown)))
            contract.check_values()
            intact = contract.template_sha256 == promised
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as broken:
            raise ModelError("error.prompt.unreadable", where=str(file), reason=str(broken)) from broken
        if not intact:
            raise ModelError("error.prompt.template_changed", where=str(file))
        try_out(contract.chat_template)
        return contract

    def check_values(self) -> None:
        """Hold what a type does not tell: token ids in their range, a date that is one.

        Raises:
            ValueError: a field is neither.
        """
        if not all(0 <= token_id < MOST_TOKENS for token_id in (self.end_of_turn_id, *self.stop_token_ids)):
            raise ValueError("token ids")
        if self.frozen_date is not None:
            date.fromisoformat(self.frozen_date)


def contract_for(
    tokenizer: "PreTrainedTokenizerBase",
    *,
    system: str | None = None,
    generation_stop_ids: Sequence[int] = (),
) -> PromptContract:
    """The contract of a base model.

    Args:
        tokenizer: the base model's own.
        system: system text for conversations without one.
        generation_stop_ids: end tokens that the model's generation config names.

    Raises:
        ModelError: the template never closes an answer, so a model could not learn to stop.
    """
    template = tokenizer.chat_template
    if not template:
        say("template.chatml", eos=tokenizer.eos_token)
        template = CHATML
    if not isinstance(template, str):
        raise ModelError("error.template.several")
    prints_date = "strftime_now" in template or "date_string" in template
    frozen = FROZEN_DATE.isoformat() if prints_date else None
    try_out(template)
    end_of_turn = _end_of_turn(tokenizer, template, frozen)
    stops = {end_of_turn, *generation_stop_ids}
    if tokenizer.eos_token_id is not None:
        stops.add(tokenizer.eos_token_id)
    return PromptContract(template, system, end_of_turn, tuple(sorted(stops)), frozen)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    contract: PromptContract,
    turns: Sequence[Turn],
    *,
    add_generation_prompt: bool = False,
) -> list[int]:
    """The ids of a conversation, control tokens in people's text neutralised.

    Args:
        tokenizer: the base model's own.
        contract: the template and its companions.
        turns: the conversation; the contract's system text is put first if it has none.
        add_generation_prompt: end with the head of an assistant turn, for the model to go on.

    Raises:
        ModelError: the template refuses the conversation (for instance its order of roles).
    """
    return _render(
        tokenizer,
        contract.chat_template,
        with_system(contract, turns),
        frozen_date=contract.frozen_date,
        add_generation_prompt=add_generation_prompt,
    )


def is_plain(tokenizer: "PreTrainedTokenizerBase", contract: PromptContract) -> Callable[[str], bool]:
    """Says of a text whether it holds nothing that `render` would have to neutralise: no control token, and none of the
    private-use characters with which transformers marks such tokens on their way through a template."""
    added = tokenizer.added_tokens_decoder
    tokens = (added[token_id].content for token_id in sorted(control_token_ids(tokenizer, contract)))
    held = re.compile("|".join([*map(re.escape, filter(None, tokens)), PRIVATE_USE]))
    return lambda text: held.search(text) is None


def render_plain(
    tokenizer: "PreTrainedTokenizerBase",
    contract: PromptContract,
    chats: Sequence[Sequence[Turn]],
    *,
    add_generation_prompt: bool = False,
) -> list[list[int]]:
    """The ids of many conversations at once, the same as `render` gives for each.

    Only for conversations of which every text `is_plain`: with nothing to neutralise, the rendered text as a whole is
    what `render` tokenizes too, and one call of the tokenizer does it for all.

    Args:
        tokenizer: the base model's own.
        contract: the template and its companions.
        chats: the conversations.
        add_generation_prompt: end each with the head of an assistant turn.

    Raises:
        ModelError: the template refuses one of them.
    """
    texts = _apply(
        tokenizer,
        contract.chat_template,
        [with_system(contract, chat) for chat in chats],
        frozen_date=contract.frozen_date,
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
    return ids


def standalone_template(contract: PromptContract) -> str:
    """A chat template that renders by itself what `render` does under the contract, for programs that read nothing else: the
    system text and the frozen date stand in it."""
    date_text = "".join(
        f"{{%- set {name} = {json.dumps(value)} -%}}{LEAVE}"
        for name, value in _date_variables(contract.frozen_date).items()
    )
    template = date_text + _with_frozen_clock(contract.chat_template, contract.frozen_date)
    if contract.system is None:
        return template
    system = json.dumps(contract.system, ensure_ascii=False)
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{{'role': 'system', 'content': {system}}}] + messages -%}}"
        f"{{%- endif -%}}{LEAVE}{template}"
    )


def render_text(
    tokenizer: "PreTrainedTokenizerBase",
    contract: PromptContract,
    turns: Sequence[Turn],
    *,
    add_generation_prompt: bool = False,
) -> str:
    """The text of a conversation as the template writes it, nothing neutralised: to be shown or compared, not to be
    tokenized."""
    [rendered] = _apply(
        tokenizer,
        contract.chat_template,
        [with_system(contract, turns)],
        frozen_date=contract.frozen_date,
        add_generation_prompt=add_generation_prompt,
        tokenize=False,
    )
    return str(rendered)


def with_system(contract: PromptContract, turns: Sequence[Turn]) -> Sequence[Turn]:
    """A conversation with the contract's system text put first, if there is one and the conversation has none."""
    if contract.system is None or turns[0].role == "system":
        return turns
    return [Turn("system", contract.system), *turns]


def control_token_ids(tokenizer: "PreTrainedTokenizerBase", contract: PromptContract) -> frozenset[int]:
    """Ids only a template may write: the special tokens, and the added tokens that stand in the template."""
    return frozenset(
        token_id
        for token_id, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in contract.chat_template and not token.content.isspace())
    )


def _render(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    turns: Sequence[Turn],
    *,
    frozen_date: str | None,
    add_generation_prompt: bool,
) -> list[int]:
    [ids] = _apply(
        tokenizer,
        template,
        [turns],
        frozen_date=frozen_date,
        add_generation_prompt=add_generation_prompt,
        tokenize=True,
    )
    return list(ids)


def _apply(
    tokenizer: "PreTrainedTokenizerBase",
    template: str,
    chats: Sequence[Sequence[Turn]],
    *,
    frozen_date: str | None,
    add_generation_prompt: bool,
    tokenize: bool,
) -> list[Any]:
    """Many conversations by transformers: as ids, control tokens neutralised, or as texts; its refusals as errors of ours."""
    try:
        rendered: list[Any] = tokenizer.apply_chat_template(
            [[{"role": turn.role, "content": turn.content} for turn in chat] for chat in chats],
            chat_template=_with_frozen_clock(template, frozen_date),
            add_generation_prompt=add_generation_prompt,
            tokenize=tokenize,
            sanitize_control_tokens=tokenize,
            return_dict=False,
            **_date_variables(frozen_date),
        )
    except MemoryError:
        raise
    except Exception as refused:  # a template is a program: it may stumble over anything
        raise ModelError("error.template.refused", reason=str(refused)) from refused
    return rendered


def _date_variables(frozen_date: str | None) -> dict[str, str]:
    """Llama 3's template reads its date from `date_string`."""
    return {} if frozen_date is None else {"date_string": date.fromisoformat(frozen_date).strftime("%d %b %Y")}


def _with_frozen_clock(template: str, frozen_date: str | None) -> str:
    """Other templates call `strftime_now`. transformers hands no function on to a template, so a macro of that name,
    put before it, gives the frozen date."""
    if frozen_date is None:
        return template
    day = date.fromisoformat(frozen_date)
    parts = {"%-d": str(day.day), "%-m": str(day.month)}
    parts |= {f"%{letter}": day.strftime(f"%{letter}") for letter in DATE_DIRECTIVES}
    filled_in = "".join(f".replace('{directive}', '{part}')" for directive, part in parts.items())
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{filled_in} -}}}}{{%- endmacro -%}}{LEAVE}{template}"


def _end_of_turn(tokenizer: "PreTrainedTokenizerBase", template: str, frozen_date: str | None) -> int:
    """The first control token after an answer: what two renderings that differ in the answer alone end with."""
    endings = [
        _render(
            tokenizer,
            template,
            [Turn("user", "1"), Turn("assistant", answer)],
            frozen_date=frozen_date,
            add_generation_prompt=False,
        )
        for answer in ("2", "3")
    ]
    common: list[int] = []
    for left, right in zip(reversed(endings[0]), reversed(endings[1]), strict=False):
        if left != right:
            break
        common.insert(0, left)
    added = tokenizer.added_tokens_decoder
    for token_id in common:
        if token_id in added and not added[token_id].content.isspace():
            return int(token_id)
    raise ModelError("error.template.no_end")
