"""`pangzhu merge`: base and adapter as one plain model folder that needs neither Pangzhu nor peft.

The base's own files, of which the adapted weights are replaced: added up in float32, saved in the type the base stores them
in, under the names and in the shards of the base, so that a tied embedding stays one tensor. Beside them the base's
tokenizer, a chat template that carries the whole PromptContract, a generation config that answers as the adapter was
measured (greedily, to its own end tokens), and a model card.

Left to others: whether the folder answers as the adapter does (`pangzhu.export.parity`).
Try it: `pangzhu merge --adapter my-lora --output_dir my-model`.
"""

import json
from pathlib import Path

from pangzhu import storage
from pangzhu.adapter import CARD, CHAT_TEMPLATE
from pangzhu.export import parity
from pangzhu.export.card import model_card
from pangzhu.export.options import MergeConfig
from pangzhu.export.questions import questions_for
from pangzhu.export.readers import FolderReader
from pangzhu.export.staging import Export, alone, begin, keep_parity, publish
from pangzhu.export.subject import Subject, find_subject
from pangzhu.export.update import merged_tensors, read_updates, shapes_of
from pangzhu.messages import say, text
from pangzhu.model import is_tied, read_json
from pangzhu.sources.folder import INDEX, weight_files

KIND = "merged"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
LEGAL = ("LICENSE*", "NOTICE*", "USE_POLICY*")  # what may have to go along with a base


def merge(config: MergeConfig) -> Export:
    """Write the merged model, hold it against the adapter, publish it.

    Raises:
        ModelError: no such base or adapter.
        VerificationError: what was written does not answer as the adapter does; it is not published.
        LockedError: another process exports into the folder.
    """
    with alone(config.output_dir):
        return _merge(config)


def _merge(config: MergeConfig) -> Export:
    subject = find_subject(config)
    num_bytes = sum(file.stat().st_size for file in weight_files(subject.base.source.folder))
    staged = begin(config.output_dir, KIND, num_bytes=num_bytes, made_of=subject.folders)
    say("export.merging", base=subject.base_name, adapter=subject.name)
    write_merged(subject, staged)
    found = None
    if config.verify:
        questions = questions_for(subject, config)
        reader = FolderReader(staged, text("export.merged_folder"))
        found = parity.examine(subject, questions, reader, bound=parity.FINE, device=config.device)
        keep_parity(staged, found)
        found.require(staged)
    else:
        say("export.not_verified")
    storage.write_atomically(staged / CARD, model_card(subject, found, folder_name=config.output_dir.resolve().name))
    files = publish(config.output_dir, KIND, subject.origin())
    return Export(config.output_dir, files, found, (text("export.use_folder", folder=config.output_dir),))


def write_merged(subject: Subject, folder: Path) -> None:
    """Write everything but the model card into a folder that is there.

    Raises:
        VerificationError: the adapter changes a weight that the base has not.
    """
    _write_weights(subject, folder)
    _write_config(subject.base.source.folder, folder)
    _write_tokenizer(subject, folder)
    _write_generation_config(subject, folder)


def _write_weights(subject: Subject, folder: Path) -> None:
    """The base's files, each with the type that the base stores a tensor in."""
    from safetensors.torch import save_file

    base = subject.base.source.folder
    updates = read_updates(subject.adapter.folder, base) if subject.adapter else {}
    names = shapes_of(base)
    for file in weight_files(base):
        tensors = {
            tensor.name: tensor.values.to(tensor.stored_dtype).contiguous()
            for tensor in merged_tensors(file, names, updates)
        }
        with storage.library_writes(folder):
            save_file(tensors, folder / file.name, metadata={"format": "pt"})
    if (base / INDEX).is_file():
        index = read_json(base / INDEX)
        index["weight_map"] = {name: file for name, file in index["weight_map"].items() if name in names}
        _write_json(folder / INDEX, index)


def _write_config(base: Path, folder: Path) -> None:
    config = read_json(base / "config.json")
    config.pop("_name_or_path", None)  # where the base once was
    _write_json(folder / "config.json", config | {"tie_word_embeddings": is_tied(base)})


def _write_tokenizer(subject: Subject, folder: Path) -> None:
    """The base's own files, byte by byte but for the template: readers disagree whether one in tokenizer_config.json or the
    file beside it counts, so there is only the file."""
    base = subject.base.source.folder
    copied = [base / name for name in TOKENIZER_FILES]
    copied += [file for pattern in LEGAL for file in sorted(base.glob(pattern))]
    for file in copied:
        if file.is_file():
            storage.write_atomically(folder / file.name, file.read_bytes())
    config = base / "tokenizer_config.json"
    fields = read_json(config) if config.is_file() else {}
    fields.pop("chat_template", None)
    _write_json(folder / config.name, fields)
    storage.write_atomically(folder / CHAT_TEMPLATE, subject.template)


def _write_generation_config(subject: Subject, folder: Path) -> None:
    """Greedy, as the adapter was measured: a base's own temperature and repetition penalty would change taught answers."""
    tokenizer, contract = subject.base.tokenizer, subject.contract
    config: dict[str, object] = {"do_sample": False, "eos_token_id": list(contract.stop_token_ids)}
    ids = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    _write_json(
        folder / "generation_config.json",
        config | {name: token_id for name, token_id in ids.items() if token_id is not None},
    )


def _write_json(file: Path, content: object) -> None:
    storage.write_atomically(file, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
