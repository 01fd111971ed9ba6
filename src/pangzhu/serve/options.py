"""The options of `pangzhu serve`."""

import re
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from pydantic import Field, field_validator, model_validator

from pangzhu.config import EngineName, ModelOptions
from pangzhu.errors import UsageError

LEAST_KEY = 16  # characters
SENDABLE = re.compile(r"[!-~]([ -~]*[!-~])?")  # what a header carries as it is


class ServeConfig(ModelOptions):
    """Everything `pangzhu serve` needs to know. `adapters` is a folder whose adapters are found by name, also those that come
    later, or one adapter; `adapter` names single ones, `DIR` or `NAME=DIR`."""

    adapters: Path | None = None
    adapter: tuple[str, ...] = ()
    engine: EngineName = "auto"
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_key: str | None = None
    allowed_host: tuple[str, ...] = ()
    examples_path: Path | None = None

    @field_validator("adapter", "allowed_host", mode="before")
    @classmethod
    def _accept_one(cls, value: object) -> object:
        """YAML may give a single one."""
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _require_key_in_public(self) -> Self:
        if self.api_key is None and not self.is_private:
            raise UsageError("error.serve.no_key", where=f"--host {self.host}", host=self.host)
        if self.api_key is not None and not (len(self.api_key) >= LEAST_KEY and SENDABLE.fullmatch(self.api_key)):
            raise UsageError("error.serve.short_key", where="--api_key", num=LEAST_KEY)
        return self

    @property
    def is_private(self) -> bool:
        """Whether nobody but this machine can reach the port."""
        if self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False
