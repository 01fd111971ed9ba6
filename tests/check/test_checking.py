"""What a check reads, and what it says that it leaves to another."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pangzhu.check import check
from pangzhu.config import CheckConfig, load_config
from pangzhu.messages import LANGUAGES, Language, listening, set_language, text
from tests.conftest import alpaca
from tests.use_helpers import Told


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_replay_file_named_in_a_file_of_options_is_said_to_be_left_out(
    language: Language, tmp_path: Path, model_folder: Callable[[str], Path]
) -> None:
    set_language(language)
    data = alpaca(tmp_path / "data.jsonl", [("q", "a")])
    replay = alpaca(tmp_path / "replay.jsonl", [("q", "")])  # a row that training would refuse
    options = tmp_path / "run.yaml"
    options.write_text(f"dataset_path: {data}\nreplay_path: {replay}\n", encoding="utf-8")
    config = load_config(CheckConfig, {"model_name_or_path": str(model_folder("qwen2"))}, config_file=options)
    told = Told()
    with listening(told):
        found = check(config)
    assert text("check.replay_apart", path=replay) in told.sentences
    assert (found.exit_code, found.dataset.num_rows) == (0, 1)
