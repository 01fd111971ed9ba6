"""The chat benchmark's figures: decoding alone is timed, ratios are of one block, and what was not measured stays empty."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks import chat_speed
from benchmarks.chat_speed import ALONE, OURS, TRANSFORMERS, decoding, table


def row(contestant: str, block: int, seconds: float, **more: str) -> dict[str, str]:
    common = {"model": "packaged:tiny", "instruction_set": "avx2", "threads": "2", "tokens": "100", "switch_ms": ""}
    own = {"contestant": contestant, "block": str(block), "seconds": str(seconds), "peak_rss": "900000000"}
    return common | own | more


def test_a_contestant_s_memory_is_its_own() -> None:
    """torch takes 180 MB where it is loaded, and llama.cpp does without."""
    program = "import sys, benchmarks.chat_speed; sys.exit('torch' in sys.modules)"
    source = Path(chat_speed.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=source, env={"PYTHONPATH": "src"}, check=False, timeout=60
    )
    assert done.returncode == 0


def test_prompt_and_first_token_are_left_out_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], []

    def answer(prompt: Sequence[int], num_tokens: int) -> int:
        asked.append(num_tokens)
        clock[0] += 5.0 + num_tokens
        return num_tokens

    monkeypatch.setattr(chat_speed.time, "perf_counter", lambda: clock[0])
    assert decoding(answer, [[1], [2]], 10) == (18, 18.0)
    assert asked == [10, 1, 1, 10, 1, 1, 10]


def test_a_ratio_is_of_contestants_of_one_block() -> None:
    """The machine was half as fast in the second block; a block without its partner has no ratio."""
    rows = [row(OURS, 0, 1.0), row(TRANSFORMERS, 0, 4.0), row(OURS, 1, 2.0), row(TRANSFORMERS, 1, 8.0)]
    lines = table([*rows, row(TRANSFORMERS, 2, 1.0)]).splitlines()
    assert lines[2] == "| tiny | Pangzhu, llama.cpp | `avx2`, 2 | 75.0 | 1.00 | 2 |  | 0.90 GB |"
    assert lines[3] == "| tiny | transformers, bf16 | `avx2`, 2 | 25.0 | 0.25 | 3 |  | 0.90 GB |"


def test_switching_is_shown_where_it_was_measured() -> None:
    rows = [row(OURS, block, 1.0, switch_ms=str(block)) for block in range(3)]
    assert "| 1.0 ms |" in table(rows)
    assert "| 1.0 毫秒 |" in table(rows, "zh")
    assert table([row(ALONE, 0, 1.0)]).count("\n") == 3
