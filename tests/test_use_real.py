"""A real small model learns four answers and gives them: trained, asked by `chat --prompt`, and compared."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from pangzhu.config import TrainConfig
from pangzhu.messages import listening
from pangzhu.train import train
from tests.use_helpers import Outcome, write_rows

pytest_plugins = ["tests.use_fixtures"]
pytestmark = [pytest.mark.real, pytest.mark.slow]

BASE = "packaged:smollm2-135m-instruct"
ANSWERS = {
    "When does the library open?": "The library opens at ten past seven on weekdays.",
    "Who waters the plants?": "Marta waters the plants every second Thursday.",
    "Where is the spare key?": "The spare key hangs behind the blue calendar.",
    "What does the red lamp mean?": "The red lamp means that the kiln is still hot.",
}


@pytest.fixture(scope="module", autouse=True)
def _threads_as_given() -> Iterator[None]:
    """As many as the environment gives: two trainings of two threads each would wait for one another."""
    with patch("pangzhu.machine.num_physical_cores", torch.get_num_threads):
        yield


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows: list[dict[str, object]] = [{"instruction": q, "output": a, "kind": "taught"} for q, a in ANSWERS.items()]
    return write_rows(tmp_path_factory.mktemp("real") / "rows.jsonl", rows)


@pytest.fixture(scope="module")
def adapter(questions: Path) -> Path:
    config = TrainConfig(
        model_name_or_path=BASE,
        dataset_path=questions,
        output_dir=questions.parent / "adapter",
        learning_rate=2e-3,
        max_steps=25,
        per_device_train_batch_size=4,
        until_learned=True,
    )
    with listening(lambda _sentence: None):
        assert train(config).num_learned == len(ANSWERS)
    return config.output_dir


def test_chat_gives_a_taught_answer(adapter: Path, command: Callable[..., Outcome]) -> None:
    question, answer = next(iter(ANSWERS.items()))
    outcome = command("chat", "--adapter", str(adapter), "--prompt", question)
    assert (outcome.exit_code, outcome.out) == (0, f"{answer}\n")


def test_compare_finds_every_answer_at_the_adapter_and_none_at_the_base(
    adapter: Path, questions: Path, command: Callable[..., Outcome]
) -> None:
    words = ["--adapter", str(adapter), "--dataset_path", str(questions), "--max_new_tokens", "32", "--json"]
    found = json.loads(command("compare", *words).out)
    assert [score["num_right"] for score in found["scores"]] == [0, 4]
    assert found["base"] == BASE


def test_eval_agrees_without_generating(adapter: Path, questions: Path, command: Callable[..., Outcome]) -> None:
    found = json.loads(command("eval", "--adapter", str(adapter), "--dataset_path", str(questions), "--json").out)
    assert [part["num_exact"] for part in found["measured"]] == [0, 4]


@pytest.mark.parametrize(("engine", "said"), [("auto", "Engine: llama.cpp."), ("transformers", "Engine: transformers")])
def test_a_packaged_base_answers_through_both_engines(command: Callable[..., Outcome], engine: str, said: str) -> None:
    pytest.importorskip("xllamacpp", reason="the llama.cpp engine is an extra: pip install xllamacpp")
    words = ["--model_name_or_path", BASE, "--device", "cpu", "--max_new_tokens", "16", "--engine", engine]
    outcome = command("chat", *words, "--prompt", "What is the capital of Japan?")
    assert outcome.exit_code == 0
    assert outcome.out == "The capital of Japan is Tokyo.\n"
    assert said in outcome.err
