"""The rows of the measurement are good ones of the size promised, and a start is over with its first steps."""

from collections.abc import Callable
from pathlib import Path

from benchmarks.start_scale import Place, write_large
from pangzhu.data import load_dataset
from tests.conftest import alpaca


def test_a_large_file_is_of_the_size_promised_and_has_no_bad_row(tmp_path: Path) -> None:
    file = write_large(tmp_path / "rows.jsonl", 400_000, row_bytes=4000)
    dataset = load_dataset(file)
    assert 400_000 <= file.stat().st_size < 410_000
    assert 3000 < file.stat().st_size / dataset.num_rows < 5000


def test_a_start_is_stopped_after_its_first_steps(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    rows = alpaca(tmp_path / "rows.jsonl", [(f"q{number}", "answer") for number in range(20)])
    place = Place(tmp_path, model_folder("qwen2"))
    assert place.check(rows).seconds > 0
    started = place.start(rows, "out")
    assert started.peak_megabytes > 50
    assert started.ready_seconds is not None
    assert 0 < started.ready_seconds <= started.seconds
    assert not (tmp_path / "out" / "adapter_config.json").exists()
