"""Large pages hold what was there before, and only what is large."""

import mmap
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from pangzhu.engines import large_pages, llama_server
from tests.engines.tiny_gguf import write_base

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked")
BLOCK = 48 * 2**20


def in_large_pages() -> int:
    """Kilobytes of this process's memory."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("AnonHugePages")))


@ON_LINUX
def test_a_large_block_is_gathered_and_says_what_it_said() -> None:
    with mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        written = bytes(range(256)) * (BLOCK // 256)
        memory.write(written)
        before = in_large_pages()
        gathered = large_pages.gather(BLOCK - 2**20)
        if not gathered:
            pytest.skip("this Linux has no large pages to give")
        assert in_large_pages() - before > BLOCK // 1024 * 3 // 4
        assert memory[:] == written


@ON_LINUX
def test_nothing_smaller_is_touched() -> None:
    everything = psutil.Process().memory_info().rss
    before = in_large_pages()
    assert large_pages.gather(everything + 1) == 0
    assert in_large_pages() == before


@pytest.mark.parametrize("fault", [psutil.AccessDenied(), FileNotFoundError("/proc/self/smaps")])
def test_where_blocks_cannot_be_seen_memory_stays_as_it_is(fault: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def memory_maps(_process: psutil.Process, *, grouped: bool) -> list[object]:
        raise fault

    monkeypatch.setattr(psutil.Process, "memory_maps", memory_maps, raising=False)
    assert large_pages.gather(0) == 0


def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_pages.sys, "platform", "win32")
    assert large_pages.gather_in_background(0) is None


@ON_LINUX
def test_in_the_background_it_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(large_pages, "gather", asked.append)
    thread = large_pages.gather_in_background(1000)
    assert thread is not None
    thread.join()
    assert asked == [1000]


@pytest.mark.parametrize("large", [True, False])
def test_llamacpp_has_blocks_of_half_a_large_file_gathered(
    large: bool, model_folder: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")
    asked: list[int] = []
    monkeypatch.setattr(large_pages, "gather_in_background", asked.append)
    write_base(model_folder("qwen2"), tmp_path / "base.gguf")
    size = (tmp_path / "base.gguf").stat().st_size
    monkeypatch.setattr(llama_server, "LARGE_FILE", size if large else size + 1)
    with closing(llama_server.LlamaServer(tmp_path / "base.gguf", [], num_slots=1, num_tokens=64)):
        assert asked == ([size // 2] if large else [])
