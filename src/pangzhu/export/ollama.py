"""The Modelfile of Ollama: which files, the template in Ollama's own language, the system text, what ends an answer.

Ollama does not read the template that a GGUF file carries; it wants one in Go's template language, and where none is
written it guesses. So the chat template is taken apart: conversations of marked texts are rendered, and what stands between
the marks is the `Layout`. Put together again it must give every conversation as the template itself does, or the export is
refused. The layout, said in Go, is the TEMPLATE.

Sampling is written down too: Ollama's own temperature and repetition penalty would change taught answers.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pangzhu import storage
from pangzhu.data.conversation import Role, Turn
from pangzhu.errors import ModelError
from pangzhu.export.subject import Subject
from pangzhu.template import render_text

MODELFILE = "Modelfile"
MARKS = {
    "system": "\ue000system\ue000",
    "first": "\ue001one\ue001",
    "answer": "\ue002two\ue002",
    "second": "\ue003three\ue003",
}
SYSTEM: Role = "system"
USER: Role = "user"
ASSISTANT: Role = "assistant"
NOT_IN_A_NAME = re.compile(r"[^a-z0-9._-]+")  # of a model at Ollama: letters of other scripts are refused
GREEDY = ("temperature 0", "repeat_penalty 1")


@dataclass(frozen=True, slots=True)
class Layout:
    """What a template writes around the texts of a conversation.

    Args:
        bos: what the template writes first and the layout leaves to whoever reads the GGUF file.
        before_first: before the first question, where there is no system text; with the base's own, if its template has one.
        before_system: before a system text; None where the template takes none.
        after_system: between it and the first question.
        before_answer: between a question and an answer that was given.
        to_answer: behind the last question, for the model to go on; some templates open an answer otherwise than they show one.
        before_question: between an answer and the next question.
    """

    bos: str
    before_first: str
    before_system: str | None
    after_system: str
    before_answer: str
    to_answer: str
    before_question: str

    def render(self, turns: Sequence[Turn]) -> str:
        """A conversation that ends with a question, ready to be answered."""
        parts = []
        for before, turn in zip((None, *turns), turns, strict=False):
            if turn.role == SYSTEM:
                parts.append(self.before_system or "")
            elif turn.role == USER:
                between = {None: self.before_first, SYSTEM: self.after_system, ASSISTANT: self.before_question}
                parts.append(between[before.role if before else None])
            else:
                parts.append(self.before_answer)
            parts.append(turn.content)
        return "".join((*parts, self.to_answer))

    def in_go(self) -> str:
        """The same as a template of Ollama: `.System` is the system text, `.Messages` are the turns."""
        parts = [
            *self._opening_in_go(),
            '{{ range $i, $_ := .Messages }}{{ if eq .Role "user" }}{{ .Content }}',
            "{{ if eq (len (slice $.Messages $i)) 1 }}",  # the last one
            _constant(self.to_answer),
            "{{ else }}",
            _constant(self.before_answer),
            '{{ end }}{{ else if eq .Role "assistant" }}{{ .Content }}',
            _constant(self.before_question),
            "{{ end }}{{ end }}",
        ]
        return "".join(parts)

    def _opening_in_go(self) -> list[str]:
        """What stands before the first question, its system text included."""
        first = _constant(self.before_first)
        if self.before_system is None:
            return [first]
        system = [_constant(self.before_system), "{{ .System }}", _constant(self.after_system)]
        return ["{{ if .System }}", *system, "{{ else }}", first, "{{ end }}"]


def layout_of(subject: Subject, *, without_bos: bool) -> Layout:
    """Take the contract's template apart, and prove that it is whole when put together.

    Args:
        subject: its contract's template, without the contract's system text, which is the Modelfile's.
        without_bos: the GGUF file lets its reader put the first token; the template then leaves it out.

    Raises:
        ModelError: the template does more than to write around texts.
    """
    bos = (subject.base.tokenizer.bos_token or "") if without_bos else ""
    plain = _rendered(subject, _chat()).removeprefix(bos)
    before_first, before_answer, before_question, to_answer = _between(plain, ("first", "answer", "second"))
    before_system, after_system = _around_system(subject, bos)
    if before_system is None and subject.contract.system is not None:
        raise _refused(f"it takes no system text, and the adapter has one: {subject.contract.system}")
    layout = Layout(bos, before_first, before_system, after_system, before_answer, to_answer, before_question)
    asked = [_chat(), *([] if before_system is None else [_chat(system=True)])]
    require_whole(subject, layout, [part for whole in asked for part in (whole, whole[:-2])])
    return layout


def require_whole(subject: Subject, layout: Layout, chats: Sequence[Sequence[Turn]]) -> None:
    """Hold a layout against the template on conversations that end with a question.

    Raises:
        ModelError: the two write different texts.
    """
    for chat in chats:
        if layout.bos + layout.render(chat) != _rendered(subject, chat):
            raise _refused(f"put together again it writes another text for “{chat[-1].content[:40]}”")


def _around_system(subject: Subject, bos: str) -> tuple[str | None, str]:
    """What stands before a system text and after it; None and nothing where the template refuses one, or leaves it out."""
    try:
        rendered = _rendered(subject, _chat(system=True)).removeprefix(bos)
    except ModelError:
        return None, ""
    if MARKS["system"] not in rendered:
        return None, ""
    before, after, _ = _between(rendered, ("system", "first"))
    return before, after


def write_modelfile(folder: Path, subject: Subject, layout: Layout, *, model: Path, lora: Path | None) -> None:
    """Write the Modelfile beside the GGUF files it names.

    Args:
        folder: where it goes.
        subject: for system text and stop tokens.
        layout: of the template.
        model: a file in `folder`, or one elsewhere by its whole path.
        lora: a file in `folder`, on it.

    Raises:
        ModelError: a text that a Modelfile cannot hold.
    """
    contract = subject.contract
    stops = [str(subject.base.tokenizer.decode([token])) for token in contract.stop_token_ids]
    if contract.system == "":  # which Ollama takes for none
        layout = replace(layout, before_first=f"{layout.before_system or ''}{layout.after_system}")
    lines = [
        f"FROM {f'./{model.name}' if model.parent == folder else model}",
        *([f"ADAPTER ./{lora.name}"] if lora else []),
        f"TEMPLATE {_tripled(layout.in_go())}",
        *([f"SYSTEM {_tripled(contract.system)}"] if contract.system is not None else []),
        *(f'PARAMETER stop "{stop}"' for stop in stops if stop),  # some bases name ends that their tokenizer has not
        *(f"PARAMETER {setting}" for setting in GREEDY),
    ]
    storage.write_atomically(folder / MODELFILE, "\n".join(lines) + "\n")


def model_name(name: str) -> str:
    """A name that Ollama takes for a model."""
    return NOT_IN_A_NAME.sub("-", name.lower()).strip("-._") or "model"


def _chat(*, system: bool = False) -> list[Turn]:
    """Question, answer, question, each a mark; a system text before them on request."""
    turns = [Turn(USER, MARKS["first"]), Turn(ASSISTANT, MARKS["answer"]), Turn(USER, MARKS["second"])]
    return [Turn(SYSTEM, MARKS["system"]), *turns] if system else turns


def _rendered(subject: Subject, turns: Sequence[Turn]) -> str:
    """A conversation as the template alone writes it."""
    bare = replace(subject.contract, system=None)
    return render_text(subject.base.tokenizer, bare, turns, add_generation_prompt=True)


def _between(rendered: str, names: Sequence[str]) -> list[str]:
    """What stands before each mark, from the one before it on; and what stands behind the last."""
    parts, rest = [], rendered
    for name in names:
        before, mark, rest = rest.partition(MARKS[name])
        if not mark:
            raise _refused(f"a text of the conversation is not in it ({name})")
        parts.append(before)
    return [*parts, rest]


def _constant(text: str) -> str:
    """A text in Go's template language, its line breaks spelled out."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def _tripled(text: str) -> str:
    """A text of a Modelfile, which knows no way to write three quotation marks within one."""
    if '"""' in text:
        raise _refused('"""')
    return f'"""{text}"""'


def _refused(reason: str) -> ModelError:
    return ModelError("error.export.no_layout", reason=reason)
