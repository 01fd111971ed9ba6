"""Commands from the first word to the last: what a user types, what comes back.

The base is the tiny model, served by a hub on this machine or taken from a folder. The course's two scripts run in processes
of their own; what else is typed is given to the same command line in this process, which need not load torch anew.
"""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from pangzhu.sources import probe
from tests.sources.hub_server import HubServer
from tests.use_helpers import Outcome

pytest_plugins = ["tests.use_fixtures"]
pytestmark = pytest.mark.usefixtures("one_core")

REPOSITORY = Path(__file__).resolve().parents[1]
MODEL = "Qwen/Qwen2.5-0.5B-Instruct"
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def hub(model_folder: Callable[[str], Path]) -> Iterator[HubServer]:
    """A hub that has the tiny model under the course's name."""
    files = {file.name: file.read_bytes() for file in model_folder("qwen2").iterdir() if file.is_file()}
    server = HubServer(files, name=MODEL)
    yield server
    server.close()


def surroundings(folder: Path, *, endpoint: str) -> Mapping[str, str]:
    """Caches of its own, no hub but the one named."""
    return {
        "PANGZHU_CACHE": str(folder / "pangzhu"),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": endpoint,
        "MODELSCOPE_ENDPOINT": NOWHERE,
    }


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing fetched before, and nobody to fetch it from."""
    for name in [name for name in os.environ if name.startswith(("HF_", "LC_", "LANG"))]:
        monkeypatch.delenv(name)
    for name, value in surroundings(tmp_path, endpoint=NOWHERE).items():
        monkeypatch.setenv(name, value)
    probe.forget()
    yield
    probe.forget()


def run(*words: object, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A script as it is typed, in a process of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LC_", "LANG"))}
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=kept | {"LANG": "en_GB.UTF-8", "PYTHONPATH": str(REPOSITORY / "src")} | dict(env),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=300,
        cwd=REPOSITORY,
    )


def test_the_courses_training_and_inference_run_with_a_mirror_that_serves_the_model(
    hub: HubServer, rows_file: Path, tmp_path: Path
) -> None:
    env = surroundings(tmp_path, endpoint=hub.endpoint)
    output = tmp_path / "my-lora"
    trained = run(
        "src/finetune/train_lora.py",
        *("--model_name_or_path", MODEL, "--dataset_path", rows_file, "--output_dir", output, "--max_steps", 3),
        env=env,
    )
    assert trained.returncode == 0, trained.stderr
    assert (output / "adapter_model.safetensors").exists()
    assert json.loads((output / "adapter_config.json").read_text())["base_model_name_or_path"] == MODEL
    asked = run(
        "src/finetune/infer_lora.py",
        *("--model_name_or_path", MODEL, "--adapter_dir", output, "--prompt", "q1?", "--max_new_tokens", 4, "--json"),
        env=env,
    )
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["model"] == "my-lora"


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("locale", "words"), [("zh_CN.UTF-8", ("错误：", "办法：")), ("en_GB.UTF-8", ("Error:", "Fix:"))]
)
def test_a_named_model_that_cannot_be_had_ends_with_4_and_the_ways_that_are_left(
    locale: str,
    words: tuple[str, str],
    tmp_path: Path,
    command: Callable[..., Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("LC_ALL")
    monkeypatch.setenv("LANG", locale)
    done = command("train", "--model_name_or_path", MODEL, "--output_dir", str(tmp_path / "out"))
    assert done.exit_code == 4
    assert all(word in done.err for word in words)
    for way in ("HF_ENDPOINT", "--hub modelscope", "--model_name_or_path", "packaged:qwen2.5-coder-0.5b-instruct"):
        assert way in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_hub")
def test_without_data_the_packaged_examples_are_used_and_it_says_so(
    model_folder: Callable[[str], Path], tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    words = ["--model_name_or_path", str(model_folder("qwen2")), "--output_dir", str(tmp_path / "out")]
    done = command("train", *words, "--max_steps", "2")
    assert done.exit_code == 0, done.err
    assert "instruct_tiny.jsonl" in done.err
    assert "48 rows" in done.err


@pytest.mark.usefixtures("no_hub")
def test_a_chat_session_reads_what_is_piped_and_ends_with_it(
    model_folder: Callable[[str], Path], command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    piped = io.BytesIO(b"hello\n/reset\n/nonsense\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(piped, encoding="utf-8"))
    done = command("chat", "--model_name_or_path", str(model_folder("qwen2")), "--max_new_tokens", "3")
    assert done.exit_code == 0, done.err
    assert "/nonsense" in done.out + done.err
    assert piped.closed or piped.read() == b""


@pytest.mark.usefixtures("no_hub")
def test_bad_rows_of_every_kind_are_named_at_once_and_end_with_3(
    model_folder: Callable[[str], Path], tmp_path: Path, command: Callable[..., Outcome]
) -> None:
    bad_rows = {
        "finding.duplicate_key": '{"instruction": "a", "instruction": "b", "output": "c"}',
        "finding.not_finite": '{"instruction": "a", "output": "c", "score": NaN}',
        "finding.lone_surrogate": '{"instruction": "a", "output": "\\ud800"}',
        "finding.wrong_type": '{"instruction": 5, "output": "c"}',
        "finding.empty_answer": '{"instruction": "a", "output": "  "}',
        "finding.missing_field": '{"instruction": "a"}',
        "finding.control_token_in_answer": '{"instruction": "a", "output": "c <|im_end|>"}',
        "finding.too_long": json.dumps({"instruction": "x" * 300, "output": "c"}),
        "finding.broken_json": '{"instruction": "a", "output": ',
    }
    file = tmp_path / "bad.jsonl"
    file.write_text('{"instruction": "a", "output": "b"}\n' + "\n".join(bad_rows.values()), encoding="utf-8")
    done = command(
        *("train", "--model_name_or_path", str(model_folder("qwen2")), "--dataset_path", str(file), "--json"),
        *("--max_seq_length", "200", "--output_dir", str(tmp_path / "out")),
    )
    assert done.exit_code == 3
    found = json.loads(done.out)
    assert found["error"]["exit_code"] == 3
    assert [finding["line"] for finding in found["findings"]] == list(range(2, 2 + len(bad_rows)))
    assert not (tmp_path / "out" / "adapter_config.json").exists()
