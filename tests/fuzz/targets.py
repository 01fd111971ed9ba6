"""The readers that are fed, and what must hold of each whatever it is fed.

A target takes bytes, gives them to its reader, and names what came of them: `accepted`, `findings`, or the key of an error.
Anything else is a fault: an exception that is not ours, an error without a remedy, more than five seconds, or an input
that was accepted as something it is not.
"""

import json
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from safetensors.numpy import save

from pangzhu.adapter import MANIFEST, PROMPT, BaseRecord, Manifest, describe, read_manifest, sha256_of, verify_files
from pangzhu.data import Dataset, find_problems
from pangzhu.data.findings import count_bad_rows, has_file_fault
from pangzhu.errors import ModelError, PangzhuError
from pangzhu.messages import LANGUAGES, set_language
from pangzhu.model import BaseFingerprint
from pangzhu.template import PromptContract
from pangzhu.vetting import CONFIG, WEIGHTS, check_config, check_weights
from tests.conftest import TEMPLATE
from tests.fuzz import oracle
from tests.fuzz.mutation import damaged_bytes, spelled

MOST_SECONDS = 5.0

ALPACA: list[dict[str, Any]] = [
    {"instruction": "什么是合同？", "input": "", "output": "合同是协议。"},
    {"instruction": "Translate", "input": "你好 🙂", "output": "Hello\nworld", "fact": "f1", "score": 0.5},
    {"system": "Be brief.", "question": "q", "answer": "a", "history": [["one", "two"]]},
]
CHATS: list[dict[str, Any]] = [
    {
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
        ]
    },
    {"conversations": [{"from": "human", "value": "问"}, {"from": "gpt", "value": "答"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]},
]
BLANK = " \t\n\ufeff"  # what may stand between rows
ROWS = [*ALPACA, *CHATS]


@dataclass(frozen=True)
class Target:
    """A reader: its name, its valid inputs as bytes and as values, and what feeds it."""

    name: str
    seeds: Sequence[bytes]
    values: Sequence[Any]
    feed: Callable[[bytes, Path], str]

    @property
    def inputs(self) -> st.SearchStrategy[bytes]:
        """Inputs damaged in their bytes or in their structure."""
        return st.one_of(damaged_bytes(self.seeds), spelled(self.values)) if self.values else damaged_bytes(self.seeds)

    def run(self, content: bytes, folder: Path) -> str:
        """Feed the reader within its time; the name of what came of it."""
        begun = time.process_time()
        try:
            outcome = self.feed(content, folder)
        except PangzhuError as refused:
            outcome = _said(refused)
        assert time.process_time() - begun < MOST_SECONDS, "too slow"
        return outcome


def _said(refused: PangzhuError) -> str:
    """An error must be a sentence with a remedy, in both languages."""
    for language in LANGUAGES:
        set_language(language)
        assert refused.what
        assert refused.fix
        assert len(str(refused)) < 100_000
    set_language("en")
    return refused.key


# --- datasets ----------------------------------------------------------------------------------------------------------


def _lines(rows: Sequence[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


DATASETS = (
    _lines(ROWS),
    json.dumps(ROWS, ensure_ascii=False, indent=2).encode(),
    json.dumps({"name": "x", "data": ROWS}, ensure_ascii=False).encode(),
    "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    'instruction,input,output\r\n什么是法？,,规则。\r\n"a, ""b""",c,"d\ne"\r\n'.encode(),
    b"question\tanswer\nq\ta\nq2\ta2\n",
    b"\xef\xbb\xbf" + _lines(ALPACA),
    _lines(ALPACA).decode().encode("gb18030"),
    _lines(ALPACA).decode().encode("utf-16"),
)


def feed_reader(content: bytes, folder: Path) -> str:
    """Read a dataset; what is accepted has to be what Python's json says it is."""
    file = folder / "data.jsonl"
    file.write_bytes(content)
    dataset = find_problems(file)
    for finding in dataset.rejected:
        assert finding.reason
        assert finding.fix
    for notice in dataset.notices:
        assert str(notice)
    for conversation in dataset.conversations:
        assert not any("\ufffd" in turn.content for turn in conversation.turns)
    assert dataset.num_rows == len(dataset.conversations) + count_bad_rows(dataset.rejected) or has_file_fault(
        dataset.rejected
    )
    _hold_against_json(dataset, content)
    return "findings" if dataset.rejected else "accepted"


def _hold_against_json(dataset: Dataset, content: bytes) -> None:
    if dataset.encoding != "UTF-8" or not dataset.layout.startswith("JSON"):
        return
    text = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    if dataset.layout == "JSON lines":
        lines = text.split("\n")
        expected = [
            oracle.strict(lines[(found.location.line or 0) - 1].strip(BLANK)) for found in dataset.conversations
        ]
    elif dataset.rejected:
        return
    elif dataset.layout == "JSON objects":
        expected = _one_after_another(text)
    else:
        whole = _list_of_rows(text.strip(BLANK))
        expected = whole if isinstance(whole, list) else whole["data"]
    found = [[(turn.role, turn.content) for turn in conversation.turns] for conversation in dataset.conversations]
    assert found == [oracle.turns(row) for row in expected]


def _list_of_rows(text: str) -> Any:
    """A list as JSON has it, but for U+FEFF between rows: it is left where files with a byte order mark were put together."""
    try:
        return oracle.strict(text)
    except json.JSONDecodeError as broken:
        before, after = text[: broken.pos], text[broken.pos :]
        if (
            not after.startswith("\ufeff")
            or before.rstrip(BLANK)[-1] not in "[,}"
            or after.lstrip(BLANK)[0] not in "{,]"
        ):
            raise
        return _list_of_rows(before + after[1:])


def _one_after_another(text: str) -> list[Any]:
    decoder, rows, place = json.JSONDecoder(), [], 0
    while rest := text[place:].lstrip(BLANK):
        place = len(text) - len(rest)
        _, length = decoder.raw_decode(rest)
        rows.append(oracle.strict(rest[:length]))
        place += length
    return rows


# --- adapters ----------------------------------------------------------------------------------------------------------

LORA: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "r": 2,
    "lora_alpha": 4,
    "lora_dropout": 0.0,
    "target_modules": ["q_proj"],
    "bias": "none",
    "init_lora_weights": True,
    "inference_mode": True,
    "use_dora": False,
    "use_rslora": False,
    "base_model_name_or_path": "Qwen/Qwen2.5-0.5B-Instruct",
    "revision": None,
    "rank_pattern": {},
    "peft_version": "0.21.2",
}
CONTRACT = PromptContract(TEMPLATE, "Be brief.", 2, (0, 2))
PREFIX = "base_model.model.model.layers.0.self_attn.q_proj"


def _weights() -> bytes:
    """One layer, in bf16: numpy has no such type, so the header is written over 16-bit integers."""
    tensors = {
        f"{PREFIX}.lora_A.weight": np.ones((2, 4), np.int16),
        f"{PREFIX}.lora_B.weight": np.ones((4, 2), np.int16),
    }
    raw = save(tensors)
    length = int.from_bytes(raw[:8], "little")
    header = raw[8 : 8 + length].replace(b'"I16"', b'"BF16"').rstrip()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


WEIGHTS_SEED = _weights()
MANIFEST_SEED = Manifest(
    base=BaseRecord("Qwen/Qwen2.5-0.5B-Instruct", None, "a" * 40, BaseFingerprint("c" * 16, "t" * 16, "k" * 16)),
    data_sha256="d" * 64,
    template_sha256=CONTRACT.template_sha256,
    files={},
    versions={"torch": "2.13.0"},
    metrics={"num_learned": 3, "precision": "bf16", "loss": 0.5},
)


def whole_adapter(folder: Path) -> None:
    """A folder as published, small: its manifest vouches for the other files."""
    (folder / CONFIG).write_text(json.dumps(LORA), encoding="utf-8")
    (folder / PROMPT).write_text(CONTRACT.to_json(), encoding="utf-8")
    (folder / WEIGHTS).write_bytes(WEIGHTS_SEED)
    (folder / MANIFEST).write_bytes(manifest_of(folder))


def manifest_of(folder: Path) -> bytes:
    """The manifest that vouches for the files of a folder."""
    files = {name: sha256_of(folder / name) for name in (CONFIG, PROMPT, WEIGHTS)}
    return json.dumps(asdict(MANIFEST_SEED) | {"files": files}).encode()


def feed_config(content: bytes, folder: Path) -> str:
    """Read an adapter_config.json; what is accepted peft has to read as the same plain LoRA."""
    from peft import LoraConfig, PeftConfig

    (folder / CONFIG).write_bytes(content)
    shape = check_config(folder)
    with warnings.catch_warnings(action="ignore"):  # of fields it does not know; those accepted are empty
        config = PeftConfig.from_pretrained(str(folder))
    assert type(config) is LoraConfig
    assert (config.r, config.target_modules, config.use_dora) == (shape.r, set(shape.target_modules), shape.use_dora)
    assert not any((config.modules_to_save, config.rank_pattern, config.alpha_pattern, config.auto_mapping))
    assert (config.bias or "none") == "none"
    return "accepted"


def feed_manifest(content: bytes, folder: Path) -> str:
    """Read and verify a manifest beside whole files; what is accepted is what Python's json says it is."""
    (folder / MANIFEST).write_bytes(content)
    try:
        manifest = read_manifest(folder)
        assert _same(asdict(manifest), asdict(manifest) | json.loads(content))
        assert _same(asdict(verify_files(folder)), asdict(manifest))
    except ModelError:
        description = describe(folder)
        assert description.exit_code == 8
        assert description.render()
        raise
    assert describe(folder).render()
    return "accepted"


def feed_prompt(content: bytes, folder: Path) -> str:
    """Read a prompt contract; what is accepted is written again as it was."""
    (folder / PROMPT).write_bytes(content)
    contract = PromptContract.read(folder / PROMPT)
    assert _same(json.loads(contract.to_json()), {"frozen_date": None} | json.loads(content))
    return "accepted"


def feed_weights(content: bytes, folder: Path) -> str:
    """Look at an adapter's weights; what is accepted safetensors reads, finite and of the rank that was told."""
    from safetensors.torch import load

    (folder / WEIGHTS).write_bytes(content)
    check_weights(folder, check_config(folder))
    tensors = load(content)
    assert {2} == {
        sizes
        for name, tensor in tensors.items()
        for sizes in tensor.shape
        if ("lora_A" in name) == (sizes == tensor.shape[0])
    }
    assert all(bool(tensor.isfinite().all()) for tensor in tensors.values())
    return "accepted"


def _same(one: Any, other: Any) -> bool:
    """Equal as JSON, where NaN equals itself and 1 is not True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _contract_fields() -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(CONTRACT.to_json())
    return fields


def make_folder() -> Path:
    """A folder with a whole adapter, to be fed in."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    whole_adapter(folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Leave nothing behind."""
    shutil.rmtree(folder)


def _seed_of_manifest() -> bytes:
    folder = make_folder()
    try:
        return manifest_of(folder)
    finally:
        remove_folder(folder)


VALID_MANIFEST = _seed_of_manifest()

TARGETS = (
    Target("reader", DATASETS, [ROWS, {"data": ROWS}, *ROWS], feed_reader),
    Target("adapter_config", [json.dumps(LORA).encode()], [LORA], feed_config),
    Target("manifest", [VALID_MANIFEST], [json.loads(VALID_MANIFEST)], feed_manifest),
    Target("prompt", [CONTRACT.to_json().encode()], [_contract_fields()], feed_prompt),
    Target("weights", [WEIGHTS_SEED], [], feed_weights),
)
