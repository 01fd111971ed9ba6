"""`pangzhu export gguf` and `pangzhu export ollama`: GGUF files, for Ollama with a Modelfile, proven and published.

`--content merged` is base and adapter in one file, `base` the base alone, `lora` the adapter alone, which llama.cpp puts on
a GGUF file of the base when it starts or between two requests. F16 and Q8_0 are written here, from float32; the K-quants by
llama.cpp's own quantizer, from F16, where it is on the PATH.

Left to others: the files themselves (`pangzhu.export.gguf_file`), the Modelfile (`pangzhu.export.ollama`), the proof
(`pangzhu.export.parity`). Try it: `pangzhu export gguf --adapter my-lora --output_dir my-gguf`.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pangzhu import storage
from pangzhu.errors import ModelError, UsageError
from pangzhu.export import ollama, parity
from pangzhu.export.gguf_family import Architecture
from pangzhu.export.gguf_file import write_lora, write_model
from pangzhu.export.gguf_vocab import Vocabulary, adds_bos, file_adds_bos, read_vocabulary
from pangzhu.export.llamacpp import GgufReader
from pangzhu.export.options import ExportConfig
from pangzhu.export.questions import Question, questions_for
from pangzhu.export.staging import Export, alone, begin, keep_parity, publish
from pangzhu.export.subject import Subject, find_subject
from pangzhu.export.update import Update, num_numbers, read_updates
from pangzhu.messages import say, text
from pangzhu.template import with_system

QUANTIZER = "llama-quantize"
AS_IT_IS = "present"  # the number format of a base whose file is there already
WRITTEN = ("f16", "q8_0")  # here; the others by the quantizer
FILE_NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True, slots=True)
class Written:
    """The files of an export: the model, and the LoRA file on it where there is one; `model_is_own` unless it lies
    elsewhere."""

    model: Path
    lora: Path | None = None
    model_is_own: bool = True

    @property
    def title(self) -> str:
        """For a reader."""
        return text("export.lora_on", lora=self.lora.name, base=self.model.name) if self.lora else self.model.name


def export(config: ExportConfig) -> Export:
    """Write the files, hold them against the adapter, publish them.

    Raises:
        ModelError: no such base or adapter, or one that GGUF cannot hold.
        UsageError: a number format that needs a program which is not here.
        VerificationError: what was written does not answer as the adapter does; it is not published.
        LockedError: another process exports into the folder.
    """
    with alone(config.output_dir):
        return _export(config)


def _export(config: ExportConfig) -> Export:
    subject = find_subject(config)
    _require_quantizer(config.outtype)
    folder = subject.base.source.folder
    architecture = Architecture(folder)
    vocabulary = read_vocabulary(folder, architecture.vocab_size)
    updates = read_updates(subject.adapter.folder, folder) if subject.adapter else {}
    if config.content == "lora" and any(update.magnitude is not None for update in updates.values()):
        raise ModelError("error.export.dora", where=str(config.adapter[0]))
    present = _present_base(subject, config)
    layout = _layout(subject, present) if config.format == "ollama" else None
    outtype = config.outtype if present is None else AS_IT_IS
    kind = "/".join((config.format, config.content, outtype))
    made_of = (*subject.folders, *([present] if present else []))
    num_bytes = _num_bytes(folder, config, updates, with_model=present is None)
    staged = begin(config.output_dir, kind, num_bytes=num_bytes, made_of=made_of)
    written = _write(staged, subject, config, vocabulary, updates, present=present)
    if layout:
        ollama.write_modelfile(staged, subject, layout, model=written.model, lora=written.lora)
    found = None
    if config.verify:
        questions = questions_for(subject, config)
        if layout:
            chats = [with_system(subject.contract, question.turns) for question in questions]
            ollama.require_whole(subject, layout, chats)
        found = _verify(staged, subject, config, questions, reader=_reader(subject, questions, vocabulary, written))
    else:
        say("export.not_verified")
    files = publish(config.output_dir, kind, subject.origin() | {"outtype": outtype})
    return Export(config.output_dir, files, found, (_hint(config, subject, written),))


def _present_base(subject: Subject, config: ExportConfig) -> Path | None:
    """The GGUF file of the base that a LoRA file is put on, where there is one.

    Raises:
        UsageError: the file that was named is not there.
    """
    if config.content != "lora":
        return None
    if config.base_gguf is not None and not config.base_gguf.is_file():
        raise UsageError("error.config.no_base_gguf", where="--base_gguf", file=config.base_gguf)
    present = config.base_gguf or subject.base.source.gguf
    return present.resolve() if present else None


def _layout(subject: Subject, present: Path | None) -> ollama.Layout:
    """The template for Ollama; the first token is left out where the file lets its reader put it."""
    own = adds_bos(subject.base.tokenizer, subject.contract)
    return ollama.layout_of(subject, without_bos=file_adds_bos(present) if present else own)


def _write(
    staged: Path,
    subject: Subject,
    config: ExportConfig,
    vocabulary: Vocabulary,
    updates: dict[str, Update],
    *,
    present: Path | None,
) -> Written:
    if config.content != "lora":
        return Written(_write_model(staged, subject, config, vocabulary, updates))
    base = present or _write_model(staged, subject, config, vocabulary, {})
    lora = staged / f"{_file_name(subject.name)}-lora.gguf"
    say("export.converting", file=lora.name, outtype="f32")
    write_lora(lora, subject, updates)
    return Written(base, lora, model_is_own=present is None)


def _write_model(
    staged: Path, subject: Subject, config: ExportConfig, vocabulary: Vocabulary, updates: dict[str, Update]
) -> Path:
    name = _file_name(subject.name if updates or not subject.adapter else subject.base_name.rpartition("/")[2])
    file = staged / f"{name}-{config.outtype}.gguf"
    first = config.outtype if config.outtype in WRITTEN else "f16"
    plain = file if first == config.outtype else staged / f"{name}-{first}.gguf"
    say("export.converting", file=plain.name, outtype=first)
    write_model(plain, subject, vocabulary, updates, outtype=first)
    if plain != file:
        _quantize(plain, file, config.outtype)
        storage.remove(plain)
    return file


def _require_quantizer(outtype: str) -> None:
    if outtype not in WRITTEN and shutil.which(QUANTIZER) is None:
        raise UsageError("error.export.no_quantizer", where=f"--outtype {outtype}", outtype=outtype)


def _quantize(plain: Path, file: Path, outtype: str) -> None:
    """By llama.cpp's own program, which is called as it is, with no shell between."""
    program = shutil.which(QUANTIZER) or QUANTIZER
    say("export.quantizing", file=file.name, outtype=outtype, program=program)
    with storage.library_writes(file.parent):
        done = subprocess.run(
            [program, str(plain), str(file), outtype.upper()],
            check=False,
            capture_output=True,
            text=True,
            errors="replace",
        )
    if done.returncode or not file.is_file():
        raise ModelError("error.export.quantizer_failed", where=program, reason=done.stderr[-500:].strip())


def _reader(subject: Subject, questions: list[Question], vocabulary: Vocabulary, written: Written) -> GgufReader:
    return GgufReader(
        title=written.title,
        file=written.model,
        lora=written.lora,
        vocabulary=vocabulary,
        contract=subject.contract,
        room=_room(questions),
    )


def _verify(
    staged: Path, subject: Subject, config: ExportConfig, questions: list[Question], *, reader: GgufReader
) -> parity.Parity:
    own_file = reader.file.parent == staged
    bound = parity.FINE if config.outtype == "f16" and own_file else parity.COARSE
    found = parity.examine(subject, questions, reader, bound=bound, device=config.device, own_file=own_file)
    keep_parity(staged, found)
    found.require(staged)
    return found


def _room(questions: list[Question]) -> int:
    """Tokens of the longest prompt and the longest answer together, and the one behind a given answer."""
    return max(len(question.prompt) for question in questions) + parity.most_tokens(questions) + 1


def _num_bytes(folder: Path, config: ExportConfig, updates: dict[str, Update], *, with_model: bool) -> int:
    """What the files will take at the most: of a model two bytes a number, and what is quantized from them; of a LoRA file
    four."""
    lora = (
        4 * sum(update.a.numel() + update.b.numel() for update in updates.values()) if config.content == "lora" else 0
    )
    numbers = num_numbers(folder) if with_model else 0
    return lora + numbers * (2 if config.outtype in WRITTEN else 4)


def _file_name(name: str) -> str:
    return FILE_NAME.sub("-", name).strip("-") or "model"


def _hint(config: ExportConfig, subject: Subject, written: Written) -> str:
    folder = config.output_dir
    if config.format == "ollama":
        return text("export.use_ollama", folder=folder, name=ollama.model_name(subject.name))
    model = folder / written.model.name if written.model_is_own else written.model
    if written.lora:
        return text("export.use_lora", base=model, file=folder / written.lora.name)
    return text("export.use_gguf", file=model)
