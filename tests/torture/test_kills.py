"""`kill -9` at six stages of a real run: SmolLM2 in bf16 on the fast path, killed twelve times, ends with the same bytes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pangzhu.adapter import WEIGHTS, describe
from tests.conftest import alpaca

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.torture]

BASE = "packaged:smollm2-135m-instruct"
STAGES = ("reading", "tokenizing", "stepping", "saving", "confirming", "publishing")
LEAST_KILLS = 12
SECONDS = 600
ROWS = [(f"What is kept in drawer {number}?", f"Drawer {number} keeps {number * 7} keys.") for number in range(1, 9)]


@dataclass(frozen=True)
class Kill:
    """At the `call`-th call of `where`, or `seconds` after it, the process is gone."""

    stage: str
    where: str
    call: int = 1
    seconds: float = 0.0


KILLS = (
    Kill("reading", "pangzhu.data.dataset:open_source"),
    Kill("reading", "pangzhu.train:read_dataset", seconds=0.002),
    Kill("tokenizing", "pangzhu.tokenization:Labeller.examples", call=5),
    Kill("tokenizing", "pangzhu.train:label_rows", seconds=0.05),
    Kill("stepping", "pangzhu.trainer:RowTrainer.training_step", call=2, seconds=0.2),
    Kill("saving", "transformers:Trainer._save_rng_state"),
    Kill("saving", "pangzhu.checkpoint:seal_checkpoint", seconds=0.01),
    Kill("stepping", "pangzhu.trainer:RowTrainer.training_step", call=4),
    Kill("confirming", "pangzhu.train:confirm_learned", seconds=0.2),
    Kill("confirming", "pangzhu.adapter:prove_adapter", seconds=0.1),
    Kill("publishing", "pangzhu.adapter:publish"),
    Kill("publishing", "pangzhu.storage:move", call=4),
)


@dataclass(frozen=True)
class Real:
    """Training of the real model in processes of their own."""

    folder: Path
    options: Sequence[str]

    def train(self, name: str, kill: Kill | None = None) -> subprocess.CompletedProcess[str]:
        """Give the command; `kill` ends it."""
        deadly = [kill.where, str(kill.call), str(kill.seconds)] if kill else ["-", "0", "0"]
        words = ["train", "--output_dir", str(self.folder / name), *self.options, "--lang", "en"]
        return subprocess.run(
            [sys.executable, str(Path(__file__).with_name("killed_run.py")), *deadly, *words],
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
            env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONUTF8": "1"},
        )

    def weights(self, name: str) -> bytes:
        """The published weights."""
        return (self.folder / name / WEIGHTS).read_bytes()


def real_run(folder: Path, *, num_rows: int = 8, max_steps: int = 12) -> Real:
    """A small run of the real model, in bf16 on the fast path, with a checkpoint every second step."""
    rows = alpaca(folder / "rows.jsonl", ROWS[:num_rows])
    options = ["--model_name_or_path", BASE, "--dataset_path", str(rows), "--max_steps", str(max_steps)]
    options += ["--save_steps", "2", "--per_device_train_batch_size", "2", "--learning_rate", "2e-3"]
    return Real(folder, [*options, "--precision", "bf16", "--fast", "on", "--device", "cpu"])


def survives(run: Real, kills: Sequence[Kill]) -> None:
    """Kill one run again and again; in the end it is the run that was not killed, to the bit."""
    unbroken = run.train("unbroken")
    assert unbroken.returncode == 0, unbroken.stderr
    for kill in kills:
        killed = run.train("killed", kill)
        assert killed.returncode == -signal.SIGKILL, f"{kill}: {killed.stderr}"
        assert "Traceback" not in killed.stderr
        assert not (run.folder / "killed" / "manifest.json").exists()
    ended = run.train("killed")
    assert ended.returncode == 0, ended.stderr
    assert run.weights("killed") == run.weights("unbroken")
    assert describe(run.folder / "killed").fault is None


@pytest.mark.fault("A3")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no kill -9")
def test_killed_at_every_stage_the_run_ends_with_the_bytes_of_the_unbroken_one(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    assert {kill.stage for kill in KILLS} == set(STAGES)
    survives(real_run(tmp_path), KILLS)
    record_property("kill -9 of a real run, ended with the same bytes", len(KILLS))
    assert len(KILLS) >= LEAST_KILLS
