"""The adapter made weaker: no learned row is lost, no smaller factor would do, and what is published is what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

from pangzhu import restraint
from pangzhu.adapter import read_manifest, round_to_bf16, verify_files
from pangzhu.errors import UsageError
from pangzhu.messages import listening, text
from pangzhu.restraint import FACTORS, weaken
from pangzhu.step import RowOutcome
from pangzhu.train import TrainResult
from tests.conftest import alpaca, build_lora, examples, train_config
from tests.test_train import SIX_ROWS, UNTIL_LEARNED, WEIGHTS, Runs
from tests.use_helpers import Told

if TYPE_CHECKING:
    from peft import PeftModel

pytestmark = pytest.mark.usefixtures("one_core")
MORE: dict[str, Any] = UNTIL_LEARNED | {"until_learned": False, "num_train_epochs": 80}  # long after all is learned


@pytest.fixture
def runs(model_folder: Callable[[str], Path], tmp_path: Path) -> Runs:
    rows = alpaca(tmp_path / "rows.jsonl", SIX_ROWS)
    return Runs(model_folder("qwen2"), rows, tmp_path)


@dataclass(frozen=True)
class Both:
    """The same run published as it was trained and weakened, and what was said of the latter."""

    runs: Runs
    whole: TrainResult
    weak: TrainResult
    told: Told

    def folder(self, name: str) -> Path:
        return self.runs.folder / name


@pytest.fixture(scope="module")
def both(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Both:
    folder, told = tmp_path_factory.mktemp("both"), Told()
    runs = Runs(model_folder("qwen2"), alpaca(folder / "rows.jsonl", SIX_ROWS), folder)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("pangzhu.machine.num_physical_cores", lambda: 1)
        whole = runs.train("whole", **MORE)
        with listening(told):
            weak = runs.train("weak", **MORE, weaken_to_learned=True)
    return Both(runs, whole, weak, told)


@pytest.fixture
def lora_model() -> PeftModel:
    model: PeftModel = build_lora()
    round_to_bf16(model)
    return model


@pytest.mark.parametrize("least", [*FACTORS[::6], 0.99, 1.0, 2.0])
def test_the_smallest_factor_that_loses_no_row_is_found(
    least: float, lora_model: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    strengths = [parameter for name, parameter in lora_model.named_parameters() if "lora_B" in name]
    with torch.no_grad():
        for strength in strengths:
            strength.fill_(1.0)
    monkeypatch.setattr(restraint, "_none_lost", lambda *_: float(strengths[0].detach()[0, 0]) > least - 0.005)
    factor = weaken(lora_model, examples(6, 7), [0, 1], 1000)
    assert factor == min(least, 1.0)
    for strength in strengths:
        assert torch.equal(strength, torch.full_like(strength, factor).to(torch.bfloat16).float())


@pytest.mark.parametrize(("full_leads", "factor"), [((1.0, 0.2), 0.5), ((1.0, 0.8), 0.63), ((0.5, 9.0), 1.0)])
def test_a_row_that_leads_amply_goes_on_doing_so(
    full_leads: tuple[float, ...], factor: float, lora_model: PeftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    strength = next(parameter for name, parameter in lora_model.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        strength.fill_(1.0)

    def measure(_model: PeftModel, rows: Iterable[tuple[int, Any]], *_: Any) -> list[RowOutcome]:
        leads = {index: full_leads[index] * float(strength.detach()[0, 0]) for index, _ in rows}
        return [
            RowOutcome(index, 0.0, 1, learned=True, lead=lead, near_tie=False, ended=True)
            for index, lead in leads.items()
        ]

    monkeypatch.setattr(restraint, "measure_rows", measure)
    assert weaken(lora_model, examples(6, 7), [0, 1], 1000) == factor


def test_without_a_learned_row_nothing_is_scaled(lora_model: PeftModel) -> None:
    before = {name: parameter.detach().clone() for name, parameter in lora_model.named_parameters()}
    assert weaken(lora_model, examples(6), [], 1000) == 1.0
    assert all(torch.equal(parameter, before[name]) for name, parameter in lora_model.named_parameters())


def test_rows_behind_one_that_is_lost_are_not_measured(lora_model: PeftModel, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[tuple[int, Any]]] = []
    measure = restraint.measure_rows
    monkeypatch.setattr(restraint, "ROWS_AT_ONCE", 1)
    monkeypatch.setattr(
        restraint, "measure_rows", lambda model, rows, *rest: asked.append([*rows]) or measure(model, asked[-1], *rest)
    )
    weaken(lora_model, examples(5, 6, 7, 8), [0, 1, 2, 3], 1000)  # nothing is learned by random weights
    full, *weaker = [[index for index, _ in rows] for rows in asked]
    assert full == [0, 1, 2, 3]
    assert weaker == [[0]] * len(weaker) != []


def test_a_published_adapter_is_the_trained_one_times_the_factor_and_has_lost_nothing(both: Both) -> None:
    whole, weak = both.whole, both.weak
    assert whole.num_learned == weak.num_learned > 1
    assert whole.weakened_to is None
    assert weak.weakened_to in FACTORS[:-1]
    trained, published = (load_file(both.folder(name) / WEIGHTS) for name in ("whole", "weak"))
    for name, tensor in trained.items():
        factor = weak.weakened_to if "lora_B" in name else 1.0
        assert torch.equal(published[name], (tensor.float() * factor).to(torch.bfloat16))
    assert verify_files(both.folder("weak")).metrics["weakened_to"] == weak.weakened_to


def test_it_is_told_and_a_resumed_run_publishes_the_same_bytes(both: Both, runs: Runs) -> None:
    weak = both.weak
    assert weak.weakened_to is not None
    assert text("train.weakened", percent=100 * weak.weakened_to, num=weak.num_learned) in both.told.sentences
    runs.stop_at(20, **MORE, weaken_to_learned=True)
    runs.train(**MORE, weaken_to_learned=True)
    assert runs.weights() == both.runs.weights("weak")


def test_the_validation_rows_are_measured_with_what_is_published(runs: Runs, tmp_path: Path) -> None:
    held_out = alpaca(tmp_path / "validation.jsonl", [("q7?", "answer 49."), ("q8?", "answer 56.")])
    options: dict[str, Any] = MORE | {"validation_path": held_out, "load_best_model_at_end": False, "eval_steps": 80}
    whole, weak = runs.train("whole", **options), runs.train("weak", **options, weaken_to_learned=True)
    assert whole.published_step == weak.published_step
    assert whole.validation_loss is not None
    assert weak.validation_loss is not None
    assert weak.validation_loss < whole.validation_loss  # nearer to a base that was not sure of anything


def test_a_magnitude_cannot_be_weakened(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        train_config(tmp_path, tmp_path, tmp_path / "out", weaken_to_learned=True, use_dora=True)
    assert refused.value.key == "error.config.weaken_dora"


def test_a_run_that_does_not_ask_for_it_says_nothing_of_it(both: Both) -> None:
    assert read_manifest(both.folder("whole")).metrics["weakened_to"] is None
