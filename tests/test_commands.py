"""Commands from the first word to the last, in a process of their own: what a user types, what comes back.

The base is the tiny model, served by a hub on this machine or taken from a folder.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.sources.hub_server import HubServer

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


def environment(folder: Path, *, endpoint: str, **more: str) -> Mapping[str, str]:
    """Caches of its own, no hub but the one named."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "LC_", "LANG"))}
    return kept | {
        "PANGZHU_CACHE": str(folder / "pangzhu"),
        "HF_HOME": str(folder / "hf"),
        "HF_ENDPOINT": endpoint,
        "MODELSCOPE_ENDPOINT": NOWHERE,
        "LANG": "en_GB.UTF-8",
        "PYTHONPATH": str(REPOSITORY / "src"),
        **more,
    }


def run(*words: object, env: Mapping[str, str], stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        env=dict(env),
        input=stdin,
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
    env = environment(tmp_path, endpoint=hub.endpoint)
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


@pytest.mark.parametrize(
    ("locale", "words"), [("zh_CN.UTF-8", ("错误：", "办法：")), ("en_GB.UTF-8", ("Error:", "Fix:"))]
)
def test_a_named_model_that_cannot_be_had_ends_with_4_and_the_ways_that_are_left(
    locale: str, words: tuple[str, str], tmp_path: Path
) -> None:
    env = environment(tmp_path, endpoint=NOWHERE, LANG=locale)
    done = run("src/finetune/train_lora.py", "--model_name_or_path", MODEL, "--output_dir", tmp_path / "out", env=env)
    assert done.returncode == 4
    assert all(word in done.stderr for word in words)
    for way in ("HF_ENDPOINT", "--hub modelscope", "--model_name_or_path", "packaged:qwen2.5-coder-0.5b-instruct"):
        assert way in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_without_data_the_packaged_examples_are_used_and_it_says_so(
    model_folder: Callable[[str], Path], tmp_path: Path
) -> None:
    done = run(
        "src/finetune/train_lora.py",
        *("--model_name_or_path", model_folder("qwen2"), "--output_dir", tmp_path / "out", "--max_steps", 2),
        env=environment(tmp_path, endpoint=NOWHERE),
    )
    assert done.returncode == 0, done.stderr
    assert "instruct_tiny.jsonl" in done.stderr
    assert "48 rows" in done.stderr


def test_a_chat_session_reads_a_pipe_and_ends_with_it(model_folder: Callable[[str], Path], tmp_path: Path) -> None:
    done = run(
        "-m",
        "pangzhu",
        *("chat", "--model_name_or_path", model_folder("qwen2"), "--max_new_tokens", 3),
        env=environment(tmp_path, endpoint=NOWHERE),
        stdin="hello\n/reset\n/nonsense\n",
    )
    assert done.returncode == 0, done.stderr
    assert "/nonsense" in done.stdout + done.stderr


def test_bad_rows_of_every_kind_are_named_at_once_and_end_with_3(
    model_folder: Callable[[str], Path], tmp_path: Path
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
    done = run(
        "-m",
        "pangzhu",
        *("train", "--model_name_or_path", model_folder("qwen2"), "--dataset_path", file, "--json"),
        *("--max_seq_length", 200, "--output_dir", tmp_path / "out"),
        env=environment(tmp_path, endpoint=NOWHERE),
    )
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert found["error"]["exit_code"] == 3
    assert [finding["line"] for finding in found["findings"]] == list(range(2, 2 + len(bad_rows)))
    assert not (tmp_path / "out" / "adapter_config.json").exists()
