"""A tiny model folder, a hub on this machine, caches of their own: no test here reaches a network.

Lets the tests of this folder share their helpers too (`tiny_folder`, `hub_server`, `llamacpp_reference`, `proof_texts`).
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hub_server import HubServer
from tiny_folder import NOWHERE, TOKEN, tiny_files, write_files

from pangzhu.messages import listening
from pangzhu.sources import probe, transfer


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    return write_files(tmp_path / "model", tiny_files())


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches, a token, no proxies, both hubs nowhere, little patience."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PANGZHU_CACHE", str(tmp_path / "pangzhu"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "modelscope"))
    monkeypatch.setenv("HF_ENDPOINT", NOWHERE)
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", NOWHERE + "9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    patience = transfer.Patience(read_seconds=0.3, tries=3, first_wait=0.01, longest_wait=0.05)
    monkeypatch.setattr(transfer, "PATIENCE", patience)
    probe.forget()
    return tmp_path


@pytest.fixture
def hub(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that behaves, until told otherwise; it also has files nobody should want."""
    unwanted = {
        "README.md": b"# Tiny",
        "pytorch_model.bin": b"pickle",
        "modeling_tiny.py": b"print('run')",
        "model.gguf": b"GGUF",
        "tokenizer_tiny.py": b"print('run')",
    }
    server = HubServer(tiny_files() | unwanted)
    monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
    yield server
    server.close()


@pytest.fixture
def said() -> Iterator[list[str]]:
    """What the user was told."""
    sentences: list[str] = []
    with listening(sentences.append):
        yield sentences
