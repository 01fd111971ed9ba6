"""The options of `pangzhu merge` and `pangzhu export`."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from pangzhu.config import ModelOptions
from pangzhu.errors import UsageError

Content = Literal["merged", "lora", "base"]
Outtype = Literal["f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m"]  # llama.cpp's names for the number formats of a GGUF file


class MergeConfig(ModelOptions):
    """Everything `pangzhu merge` needs to know. `adapter` holds the one adapter, `DIR` or `NAME=DIR`. Unless `verify` is
    off, the export is held against it on at most `gate_questions` of its own questions, which are read from
    `dataset_path`."""

    adapter: tuple[str, ...] = ()
    output_dir: Path
    verify: bool = True
    dataset_path: Path | None = None
    gate_questions: int = Field(200, ge=1)

    @field_validator("adapter", mode="before")
    @classmethod
    def _accept_a_single_adapter(cls, value: object) -> object:
        """YAML may give one folder."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _require_adapters(self) -> Self:
        if len(self.adapter) != self.num_adapters:
            key = "error.config.one_adapter" if self.num_adapters else "error.config.no_adapter"
            raise UsageError(key, where="--adapter", num=len(self.adapter))
        return self

    @property
    def num_adapters(self) -> int:
        """How many adapters the export is made of."""
        return 1


class ExportConfig(MergeConfig):
    """Everything `pangzhu export` needs to know. `content` is what becomes a GGUF file. A LoRA file is asked on
    `base_gguf`, else on the GGUF file that a packaged base came as, else on one that is written beside it."""

    format: Literal["gguf", "ollama"]
    content: Content = "merged"
    outtype: Outtype = "q8_0"
    base_gguf: Path | None = None

    @property
    def num_adapters(self) -> int:
        """None where the base is exported alone."""
        return 0 if self.content == "base" else 1

    @model_validator(mode="after")
    def _refuse_idle_base_gguf(self) -> Self:
        if self.base_gguf is not None and self.content != "lora":
            raise UsageError("error.config.idle_base_gguf", where="--base_gguf", content=self.content)
        return self
