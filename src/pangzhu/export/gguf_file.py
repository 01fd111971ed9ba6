"""GGUF files of a model and of an adapter, written tensor by tensor, so that no more than one is held at a time.

A model's matrices are F16 or Q8_0 (blocks of 32 numbers, which the `gguf` library quantizes), its vectors F32; a matrix
whose rows are no multiple of 32 stays F16. They are made from the float32 sum of base and adapter, never from a file that
was quantized before. A LoRA file holds A and B in F32, since what is rounded once more is another adapter, and an alpha
that gives the adapter's scale: llama.cpp multiplies B·A by alpha / r, whatever the adapter was trained with.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pangzhu import storage
from pangzhu.errors import VerificationError
from pangzhu.export.gguf_family import Architecture
from pangzhu.export.gguf_vocab import Vocabulary, add_vocabulary
from pangzhu.export.subject import Subject
from pangzhu.export.update import Update, merged_tensors, shapes_of
from pangzhu.sources.folder import weight_files

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from torch import Tensor

ROPE_FACTORS = "rope_freqs.weight"
LORA_PARTS = ("lora_a", "lora_b")


@dataclass(frozen=True, slots=True)
class _Planned:
    """A tensor that will be written: the base's name for it, the file's, its shape, its number format."""

    source: str
    name: str
    shape: tuple[int, ...]
    kind: "GGMLQuantizationType"

    @property
    def num_bytes(self) -> int:
        """In the file."""
        from gguf import GGML_QUANT_SIZES

        block, size = GGML_QUANT_SIZES[self.kind]
        num_blocks = math.prod(self.shape) // int(block)
        return num_blocks * int(size)


def write_model(
    file: Path, subject: Subject, vocabulary: Vocabulary, updates: Mapping[str, Update], *, outtype: str
) -> None:
    """Write a model file.

    Args:
        file: in a folder that is there.
        subject: base, contract and names.
        vocabulary: of the base.
        updates: what the adapter adds; none for the base as it is.
        outtype: `f16` or `q8_0`.

    Raises:
        ModelError: a model that llama.cpp does not compute.
        VerificationError: numbers that the format cannot hold.
    """
    import gguf
    import numpy as np

    folder = subject.base.source.folder
    architecture = Architecture(folder)
    planned = _plan(architecture, shapes_of(folder), gguf.GGMLQuantizationType[outtype.upper()])
    writer = gguf.GGUFWriter(file, architecture.arch)
    _describe(writer, subject, "model")
    architecture.add_hyperparameters(writer)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{outtype.upper()}"])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    add_vocabulary(writer, vocabulary, subject.base.tokenizer, subject.contract)
    writer.add_chat_template(subject.template)
    factors = architecture.rope_factors()
    if factors is not None:
        writer.add_tensor_info(ROPE_FACTORS, factors.shape, np.dtype(np.float32), factors.nbytes)
    for tensor in planned.values():
        writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.num_bytes, raw_dtype=tensor.kind)
    with storage.library_writes(file.parent):
        _write_head(writer)
        if factors is not None:
            writer.write_tensor_data(factors.numpy())
        for tensor, values in _in_order(folder, planned, updates):
            writer.write_tensor_data(_encoded(tensor, architecture.arranged(tensor.source, values)))
        writer.close()


def write_lora(file: Path, subject: Subject, updates: Mapping[str, Update]) -> None:
    """Write an adapter file for hot swapping on a GGUF file of its base.

    Args:
        file: in a folder that is there.
        subject: base and adapter.
        updates: of the adapter, which is no DoRA.
    """
    import gguf
    import numpy as np

    architecture = Architecture(subject.base.source.folder)
    names = architecture.tensor_names(list(updates))
    writer = gguf.GGUFWriter(file, architecture.arch)
    _describe(writer, subject, "adapter")
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    first = next(iter(updates.values()))
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, first.scale * first.a.shape[0])
    pairs = {
        f"{names[name]}.{part}": values.contiguous().numpy()
        for name, update in updates.items()
        for part, values in zip(LORA_PARTS, (update.a, architecture.arranged(name, update.b)), strict=True)
    }
    for name, values in pairs.items():
        writer.add_tensor_info(name, values.shape, np.dtype(np.float32), values.nbytes)
    with storage.library_writes(file.parent):
        _write_head(writer)
        for values in pairs.values():
            writer.write_tensor_data(values)
        writer.close()


def _describe(writer: "GGUFWriter", subject: Subject, kind: str) -> None:
    writer.add_type(kind)
    writer.add_name(subject.name)
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, subject.base_name)


def _write_head(writer: "GGUFWriter") -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def _plan(
    architecture: Architecture, shapes: Mapping[str, tuple[int, ...]], wanted: "GGMLQuantizationType"
) -> dict[str, _Planned]:
    """Every tensor of the base, in the order in which its files hold them."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    names = architecture.tensor_names(list(shapes))
    planned = {}
    for source, shape in shapes.items():
        kind = wanted if shape[-1] % GGML_QUANT_SIZES[wanted][0] == 0 else GGMLQuantizationType.F16
        kind = kind if len(shape) > 1 else GGMLQuantizationType.F32
        planned[source] = _Planned(source, names[source], shape, kind)
    return planned


def _in_order(
    folder: Path, planned: Mapping[str, _Planned], updates: Mapping[str, Update]
) -> "Iterator[tuple[_Planned, Tensor]]":
    for file in weight_files(folder):
        for tensor in merged_tensors(file, planned, updates):
            yield planned[tensor.name], tensor.values.float()


def _encoded(tensor: _Planned, values: "Tensor") -> Any:
    """Values as the bytes of their number format; numpy's arrays carry no types that mypy knows here."""
    import numpy as np
    from gguf import GGMLQuantizationType, quantize

    with np.errstate(over="ignore"):  # looked for right below
        found = quantize(values.contiguous().numpy(), tensor.kind)
    if tensor.kind == GGMLQuantizationType.F16 and not _is_finite(found):
        raise VerificationError("error.export.overflow", name=tensor.source)
    return found


def _is_finite(values: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(values).all())
