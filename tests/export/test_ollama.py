"""The Modelfile says in Ollama's language what the template says in Jinja, or the export is refused."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pangzhu.config import ModelOptions
from pangzhu.data.conversation import Turn
from pangzhu.errors import ModelError
from pangzhu.export.gguf import export
from pangzhu.export.ollama import Layout, layout_of, model_name, require_whole, write_modelfile
from pangzhu.export.subject import Subject
from pangzhu.preparation import prepare_base
from pangzhu.template import render_text
from tests.conftest import TEMPLATE
from tests.export.conftest import Adapt, Adapted, write_base
from tests.use_helpers import with_system

MISTRAL = (
    "{{- bos_token -}}{%- for m in messages -%}{%- if m.role == 'user' -%}{{- '[INST] ' + m.content + ' [/INST]' -}}"
    "{%- elif m.role == 'assistant' -%}{{- ' ' + m.content + eos_token -}}"
    "{%- else -%}{{- raise_exception('no system text') -}}{%- endif -%}{%- endfor -%}"
)
GEMMA = (
    "{%- if messages[0].role == 'system' -%}{%- set first = messages[0].content + '\\n\\n' -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}{%- for m in rest -%}"
    "{{- '<|im_start|>' + ('model' if m.role == 'assistant' else 'user') + '\\n' + (first if loop.first else '') + m.content"
    " + '<|im_end|>\\n' -}}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>model\\n' -}}{%- endif -%}"
)
THINKING = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}"
)
COUNTING = (
    "{%- for m in messages -%}{{- loop.index ~ m.role ~ m.content ~ '<|im_end|>' -}}{%- endfor -%}{{- 'answer' -}}"
)
LISTED = (Turn("user", 'a "quoted" {{ 1 }}\nquestion'), Turn("assistant", "an answer"), Turn("user", "另一个？"))


def in_go(template: str, turns: list[Turn]) -> str:
    """As Ollama fills in a template, as far as the one we write needs it: constants, `.System`, `if`, `range` over turns."""
    system = next((turn.content for turn in turns if turn.role == "system"), "")
    head, body = template.split("{{ range $i, $_ := .Messages }}")
    found = re.fullmatch(r"{{ if \.System }}(.*){{ else }}(.*){{ end }}", head)
    opening = (found[1] if system else found[2]) if found else head
    parts = re.fullmatch(
        r'{{ if eq \.Role "user" }}{{ \.Content }}{{ if eq \(len \(slice \$\.Messages \$i\)\) 1 }}(.*){{ else }}(.*){{ end }}'
        r'{{ else if eq \.Role "assistant" }}{{ \.Content }}(.*){{ end }}{{ end }}',
        body,
    )
    assert parts
    written = [_filled(opening, system)]
    for number, turn in enumerate(turns):
        if turn.role != "system":  # of which the template writes nothing a second time
            after = parts[3] if turn.role == "assistant" else parts[1] if number == len(turns) - 1 else parts[2]
            written += [turn.content, _filled(after, system)]
    return "".join(written)


def _filled(piece: str, system: str) -> str:
    words = re.findall(r"{{ (.*?) }}(?={{|$)", piece)
    return "".join(system if word == ".System" else str(json.loads(word)) for word in words)


def subject_with(template: str, folder: Path) -> Subject:
    base = prepare_base(ModelOptions(model_name_or_path=str(write_base(folder, "qwen2"))))
    return Subject(base, None, replace(base.contract, chat_template=template))


@pytest.mark.parametrize(
    "template", [TEMPLATE, MISTRAL, GEMMA, THINKING], ids=["chatml", "mistral", "gemma", "thinking"]
)
@pytest.mark.parametrize("system", [None, "Be kind.\n\n"])
def test_the_template_in_go_writes_what_the_one_in_jinja_writes(
    tmp_path: Path, template: str, system: str | None
) -> None:
    subject = subject_with(template, tmp_path / "base")
    layout = layout_of(subject, without_bos=False)
    if system and layout.before_system is None:
        pytest.skip("this template takes no system text")
    turns = [*([Turn("system", system)] if system else []), *LISTED]
    wanted = render_text(subject.base.tokenizer, subject.contract, turns, add_generation_prompt=True)
    assert layout.render(turns) == wanted
    assert in_go(layout.in_go(), turns) == wanted


def test_a_template_that_does_more_than_write_around_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        layout_of(subject_with(COUNTING, tmp_path / "base"), without_bos=False)
    assert caught.value.key == "error.export.no_layout"
    assert "llama-server" in caught.value.fix


def test_a_system_text_that_a_modelfile_cannot_hold_is_refused(tmp_path: Path) -> None:
    subject = subject_with(TEMPLATE, tmp_path / "base")
    spoken = replace(subject, contract=replace(subject.contract, system='say """'))
    with pytest.raises(ModelError):
        write_modelfile(tmp_path, spoken, layout_of(spoken, without_bos=False), model=tmp_path / "m.gguf", lora=None)


def test_the_system_text_of_a_contract_is_the_modelfiles_and_no_part_of_the_template(tmp_path: Path) -> None:
    subject = subject_with(TEMPLATE, tmp_path / "base")
    spoken = replace(subject, contract=replace(subject.contract, system="Be kind."))
    assert layout_of(spoken, without_bos=False) == layout_of(subject, without_bos=False)
    write_modelfile(tmp_path, spoken, layout_of(spoken, without_bos=False), model=tmp_path / "m.gguf", lora=None)
    assert 'SYSTEM """Be kind."""' in (tmp_path / "Modelfile").read_text(encoding="utf-8")


def test_an_empty_system_text_is_written_as_the_template_writes_it(tmp_path: Path) -> None:
    """Ollama takes it for none, and the base's template would put its own text there."""
    subject = subject_with(TEMPLATE, tmp_path / "base")
    silent = replace(subject, contract=replace(subject.contract, system=""))
    write_modelfile(tmp_path, silent, layout_of(silent, without_bos=False), model=tmp_path / "m.gguf", lora=None)
    found = re.search(r'TEMPLATE """(.*)"""', (tmp_path / "Modelfile").read_text(encoding="utf-8"))
    assert found
    turns = list(LISTED)
    wanted = render_text(subject.base.tokenizer, silent.contract, turns, add_generation_prompt=True)
    assert "Be brief" not in wanted
    assert in_go(found[1], turns) == wanted


def test_an_end_token_that_the_tokenizer_has_not_is_no_stop_text(tmp_path: Path) -> None:
    """Some generation configs name ids of rows that no token has; as text that would be “None”, or nothing at all."""
    subject = subject_with(TEMPLATE, tmp_path / "base")
    ends = (subject.contract.end_of_turn_id, 2**20)
    odd = replace(subject, contract=replace(subject.contract, stop_token_ids=ends))
    write_modelfile(tmp_path, odd, layout_of(odd, without_bos=False), model=tmp_path / "m.gguf", lora=None)
    lines = (tmp_path / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if "stop" in line] == ['PARAMETER stop "<|im_end|>"']


def test_a_stop_text_stands_as_it_is_since_ollama_unescapes_nothing(tmp_path: Path) -> None:
    subject = subject_with(TEMPLATE, tmp_path / "base")
    subject.base.tokenizer.add_special_tokens({"additional_special_tokens": ["<|a\\b|>"]})
    ends = (subject.base.tokenizer.convert_tokens_to_ids("<|a\\b|>"),)
    odd = replace(subject, contract=replace(subject.contract, stop_token_ids=ends))
    write_modelfile(tmp_path, odd, layout_of(odd, without_bos=False), model=tmp_path / "m.gguf", lora=None)
    assert 'PARAMETER stop "<|a\\b|>"' in (tmp_path / "Modelfile").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize(
    ("name", "known"), [("law", "law"), ("My_Law.v2", "my_law.v2"), ("法律", "model"), ("法律-2", "2"), ("über", "ber")]
)
def test_the_name_told_is_one_that_ollama_takes(name: str, known: str) -> None:
    assert model_name(name) == known


def test_export_ollama_writes_a_model_proven_as_gguf_and_its_modelfile(adapted: Adapt, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    made = adapted()
    adapter = with_system(Path(shutil.copytree(made.adapter, tmp_path / "adapter")), "Be kind.")
    done = export(Adapted(made.base, adapter).gguf(tmp_path / "ollama", format="ollama"))
    assert sorted(done.files) == ["Modelfile", "law-q8_0.gguf", "parity.json"]
    lines = (done.folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "FROM ./law-q8_0.gguf"
    assert 'SYSTEM """Be kind."""' in lines
    assert 'PARAMETER stop "<|im_end|>"' in lines
    assert {"PARAMETER temperature 0", "PARAMETER repeat_penalty 1"} <= set(lines)
    assert "ollama create law" in done.hints[0]


def test_a_lora_file_becomes_the_adapter_of_its_base(adapted: Adapt, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    done = export(adapted().gguf(tmp_path / "ollama", format="ollama", content="lora", outtype="f16"))
    lines = (done.folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["FROM ./base-f16.gguf", "ADAPTER ./law-lora.gguf"]


def test_a_layout_is_put_together_turn_by_turn() -> None:
    layout = Layout("", "(", "[", "](", ")<", ")?", ">(")
    chat = [Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")]
    assert layout.render(chat) == "[s](a)<b>(c)?"
    assert layout.render(chat[1:]) == "(a)<b>(c)?"


@pytest.mark.parametrize("without_bos", [True, False])
def test_the_first_token_is_left_out_where_the_files_reader_puts_it(tmp_path: Path, without_bos: bool) -> None:
    subject = subject_with(TEMPLATE, tmp_path / "base")
    subject.base.tokenizer.bos_token = "<|im_start|>"
    layout = layout_of(subject, without_bos=without_bos)
    assert layout.render(LISTED).startswith("system\n" if without_bos else "<|im_start|>system\n")


def test_a_template_that_trims_is_found_out_by_a_question(tmp_path: Path) -> None:
    subject = subject_with(TEMPLATE.replace("message.content", "message.content | trim"), tmp_path / "base")
    layout = layout_of(subject, without_bos=False)
    require_whole(subject, layout, [[Turn("user", "one?")]])
    with pytest.raises(ModelError):
        require_whole(subject, layout, [[Turn("user", " one? ")]])
