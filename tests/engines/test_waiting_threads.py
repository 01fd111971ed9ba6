"""What torch leaves behind is ended, and torch goes on."""

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch

from pangzhu.engines import llama_server, waiting_threads
from tests.engines.tiny_gguf import write_base

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch and llama.cpp share no threads")


def num_threads_after(*steps: Callable[[], object]) -> list[int]:
    """Threads of this process after each step; all of them in a thread that owns whatever they leave."""

    def run() -> list[int]:
        before = torch.get_num_threads()
        try:
            return [(step(), psutil.Process().num_threads())[1] for step in steps]
        finally:
            waiting_threads.end()
            torch.set_num_threads(before)

    with ThreadPoolExecutor(1) as own:
        return own.submit(run).result()


def work() -> float:
    """In two threads."""
    torch.set_num_threads(2)
    return float(torch.ones(2**20).add(1).sum())


@ON_LINUX
def test_threads_that_torch_left_are_ended_and_it_starts_them_again() -> None:
    with_torch, ended, again = num_threads_after(work, waiting_threads.end, work)
    assert (with_torch, again) == (ended + 1, ended + 1)


@ON_LINUX
def test_llamacpp_starts_without_them(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")
    write_base(model_folder("qwen2"), tmp_path / "base.gguf")

    def load_and_close() -> None:
        with closing(llama_server.LlamaServer(tmp_path / "base.gguf", [], num_slots=1, num_tokens=64)):
            pass

    _, without, with_torch, after = num_threads_after(load_and_close, waiting_threads.end, work, load_and_close)
    assert (with_torch, after) == (without + 1, without)


@pytest.mark.parametrize("platform", ["win32", "linux"])
def test_without_the_library_nothing_happens(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ctypes.CDLL:
        assert (platform, name) == ("linux", "libgomp.so.1")
        raise OSError(name)

    monkeypatch.setattr(waiting_threads.sys, "platform", platform)
    monkeypatch.setattr(waiting_threads.ctypes, "CDLL", missing)
    waiting_threads.end()
