"""Tiny models and tokenizers, built in process: every test but those marked `real` runs without a network or a download."""

import gc
import json
import random
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pangzhu.config import LoraOptions, TrainConfig
from pangzhu.data.conversation import Conversation, Location, Turn
from pangzhu.messages import listening, set_language
from pangzhu.model import attach_lora
from pangzhu.tokenization import IGNORED, TokenizedExample
from tests.counting import Counting
from tests.errors_raised import ErrorsRaised

LONG = ("slow", "early")  # marks, in the order in which their files are begun
FAMILIES = ("qwen2", "qwen3", "llama", "mistral", "gemma3", "phi3")
CONTROL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = (
    "{%- if messages[0].role != 'system' -%}{{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' -}}{%- endif -%}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """What takes minutes is run on request."""
    parser.addoption("--torture", action="store_true", help="run the tests marked torture too")
    parser.addoption(
        "--counts", metavar="FILE", help="count crashes, damaged files and the like, and write the numbers there"
    )


def pytest_configure(config: pytest.Config) -> None:
    """What is watched while tests run."""
    config.pluginmanager.register(ErrorsRaised(config))
    if file := config.getoption("--counts"):
        config.pluginmanager.register(Counting(config, Path(file)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tests on real models first, then the other long files: what begins late leaves the other worker idle at the end."""
    if not config.getoption("--torture"):
        left_out = [item for item in items if item.get_closest_marker("torture")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
    items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """When a test's file is begun: the smaller, the earlier."""
    return next((turn for turn, mark in enumerate(LONG) if item.get_closest_marker(mark)), len(LONG))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """The long files, and what is marked `untraced`, without coverage: tracing takes a third of the time, and of the package's
    lines they reach one in 300 that others do not. (pytest-cov's own mark `no_cover` does nothing in a worker of xdist.)"""
    measured = item.config.pluginmanager.hasplugin("_cov")  # a debugger traces too
    if not measured or (_turn(item) == len(LONG) and not item.get_closest_marker("untraced")):
        return (yield)
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


@pytest.fixture(autouse=True, scope="session")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Nothing here outlives a power loss, so nothing waits for one; tests/torture tells what a run waits for."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("os.fsync", lambda _descriptor: None)
        yield


@pytest.fixture(autouse=True)
def _in_english() -> None:
    set_language("en")


@pytest.fixture(autouse=True)
def _no_network(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this machine answers: a connection to anywhere else fails the test."""
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else "local"
        if host not in ("127.0.0.1", "localhost", "::1", "local"):
            raise AssertionError(f"a test reached for the network: {address}")
        connect(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket.socket, "connect", guarded)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, one token a byte: any text survives the way there and back."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate((*CONTROL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        chat_template=TEMPLATE,
        model_max_length=2048,
    )


def build_model(family: str) -> torch.nn.Module:
    """A random two-layer model of a family, float32, the same one each time."""
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        MistralConfig,
        MistralForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    kinds = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 8}),
        "llama": (LlamaConfig, LlamaForCausalLM, {}),
        "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": None}),
        "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 8, "sliding_window": 16}),
        "phi3": (Phi3Config, Phi3ForCausalLM, {"pad_token_id": 0}),
    }
    config_class, model_class, special = kinds[family]
    torch.manual_seed(7)
    config = config_class(
        vocab_size=len(CONTROL_TOKENS) + 256,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        bos_token_id=None,
        eos_token_id=2,
        **special,
    )
    return model_class(config).eval()


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """The tiny tokenizer."""
    return build_tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder with the tiny model of a family, as a user would have it on disk."""
    made: dict[str, Path] = {}

    def folder(family: str = "qwen2") -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            build_model(family).save_pretrained(made[family])
            build_tokenizer().save_pretrained(made[family])
        return made[family]

    return folder


@pytest.fixture
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models gain nothing from a second thread and lose much where it has to wait for other work. Trainer collects
    garbage at each start; the libraries' own objects, frozen, are not looked through each time."""
    gc.freeze()
    monkeypatch.setattr("pangzhu.machine.num_physical_cores", lambda: 1)
    torch.set_num_threads(1)


@pytest.fixture
def said() -> Iterator[list[str]]:
    """Every sentence said while the test runs."""
    sentences: list[str] = []
    with listening(sentences.append):
        yield sentences


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own, so that a test neither sees nor leaves anything in the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("PANGZHU_CACHE", str(folder))
    return folder


def conversation(*texts: str, system: str | None = None, line: int = 1, **extra: str) -> Conversation:
    """User and assistant in turn."""
    turns = [Turn("user" if number % 2 == 0 else "assistant", content) for number, content in enumerate(texts)]
    first = [Turn("system", system)] if system is not None else []
    return Conversation((*first, *turns), Location(Path("rows.jsonl"), line, line), tuple(extra.items()))


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Six short rows, alpaca, JSON lines."""
    file = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"q{number}?", "input": "", "output": f"answer {number * 7}."} for number in range(6)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def examples(*lengths: int, prompt: int = 3, seed: int = 1) -> list[TokenizedExample]:
    """Rows of random ordinary tokens; all but the first `prompt` of each are learned."""
    draw = random.Random(seed)
    rows = []
    for number, length in enumerate(lengths, start=1):
        ids = tuple(draw.randrange(len(CONTROL_TOKENS), len(CONTROL_TOKENS) + 256) for _ in range(length))
        labels = tuple(IGNORED if place < prompt else token for place, token in enumerate(ids))
        rows.append(TokenizedExample(ids, labels, Location(Path("rows.jsonl"), number, number)))
    return rows


def build_lora(family: str = "qwen2", *, moved: bool = True, **options: Any) -> Any:  # a PeftModel
    """The tiny model with LoRA attached; `moved` gives B values, so that the adapter does something."""
    base = build_model(family)
    base.requires_grad_(False)
    torch.manual_seed(11)
    model = attach_lora(base, LoraOptions(**options))  # type: ignore[arg-type]
    if moved:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
    return model


def watch_embeddings(model: Any) -> list[torch.Tensor]:
    """The model's input embeddings of each later pass, as leaves whose gradients can be read."""
    seen: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        seen.append(output.detach().requires_grad_(True))
        return seen[-1]

    model.get_input_embeddings().register_forward_hook(keep)
    return seen


def alpaca(file: Path, pairs: Sequence[tuple[str, str]]) -> Path:
    """A dataset file of questions and answers."""
    rows = [{"instruction": question, "input": "", "output": answer} for question, answer in pairs]
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def train_config(base: Path, rows: Path, output_dir: Path, **options: Any) -> TrainConfig:
    """A run small enough for a test, on the CPU in float32 unless said otherwise."""
    small = {"device": "cpu", "precision": "float32", "per_device_train_batch_size": 2, "max_steps": 4, "r": 4}
    fixed = {"model_name_or_path": str(base), "dataset_path": rows, "output_dir": output_dir}
    return TrainConfig(**(small | fixed | options))


def silently(report: object) -> None:
    """Nothing is told of a step."""
