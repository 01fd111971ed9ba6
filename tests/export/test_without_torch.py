"""A chat through llama.cpp does without torch, which takes 180 MB: nothing on its way loads it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pangzhu
from pangzhu import machine
from tests.export.conftest import Adapt
from tests.use_helpers import ENGLISH, QUESTIONS, Outcome

pytest.importorskip("xllamacpp")

pytest_plugins = ["tests.use_fixtures"]

IN_A_FRESH_PROCESS = """
import sys
from pangzhu import cli
exit_code = cli.main(sys.argv[1:])
from pangzhu.machine import peak_memory
print(peak_memory(), file=sys.stderr)
print("loaded:", *sorted({"torch", "peft", "xllamacpp"} & sys.modules.keys()), file=sys.stderr)
sys.exit(exit_code)
"""


@pytest.mark.skipif(machine._has_gpu_driver(), reason="torch is asked for a GPU where there may be one")
@pytest.mark.parametrize("engine", ["auto", "llamacpp"])
def test_a_chat_through_llamacpp_takes_no_memory_for_torch(
    adapted: Adapt, command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    """Where the GGUF files are here, and the base's tokenizer is called as that of a Qwen is."""
    monkeypatch.setenv("PANGZHU_CACHE", str(tmp_path / "cache"))
    base = Path(shutil.copytree(adapted().base, tmp_path / "base"))
    described = base / "tokenizer_config.json"
    fields = json.loads(described.read_text(encoding="utf-8")) | {"tokenizer_class": "Qwen2Tokenizer"}
    described.write_text(json.dumps(fields), encoding="utf-8")
    words = ["chat", "--model_name_or_path", str(base), "--adapter", f"law={adapted().adapter}", "--engine", engine]
    words += ["--max_new_tokens", "24", "--prompt", QUESTIONS[0]]
    assert command(*words).out == f"{ENGLISH[0]}\n"
    source = str(Path(pangzhu.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={"PYTHONPATH": source, "PATH": "", "PANGZHU_CACHE": str(tmp_path / "cache"), "LC_ALL": "en_GB.UTF-8"},
    )
    assert (done.returncode, done.stdout) == (0, f"{ENGLISH[0]}\n")
    assert done.stderr.splitlines()[-1] == "loaded: xllamacpp"


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(machine._has_gpu_driver(), reason="torch is asked for a GPU where there may be one")
def test_a_chat_with_the_packaged_qwen_takes_less_than_a_gigabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PANGZHU_CACHE")  # the packaged models are in the user's own
    words = ["chat", "--model_name_or_path", "packaged:qwen2.5-coder-0.5b-instruct", "--max_new_tokens", "32"]
    done = subprocess.run(
        [sys.executable, "-c", IN_A_FRESH_PROCESS, *words, "--prompt", "What is a lease? " * 40],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(pangzhu.__file__).parents[1])},
    )
    *_, peak, loaded = done.stderr.splitlines()
    assert (len(done.stdout) > 10, loaded) == (True, "loaded: xllamacpp")
    assert int(peak) < 10**9
