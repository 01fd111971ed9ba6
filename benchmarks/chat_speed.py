"""`python -m benchmarks.chat_speed`: how fast a chat answers, each contestant in turn; a second start goes on from its CSV.

In every block each contestant answers the same questions in a process of its own: Pangzhu's llama.cpp engine, streaming as chat
does; transformers' generate in bf16; xllamacpp alone on the same GGUF file. What is timed is decoding: an answer of many
tokens less one of a single token, prompt and warm-up left out of both. Switching is the first token of another adapter less
the first token of the same one, both with their prompt known; it needs two `--adapter`. Quoted are medians of pairs of a block.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.summary import put_into
from pangzhu import machine
from pangzhu.config import GenerationOptions, ModelOptions
from pangzhu.data import load_dataset
from pangzhu.data.conversation import Turn
from pangzhu.engines import Engine, llamacpp, transformers
from pangzhu.engines.named_models import BASE, ChosenModels, NamedModels, choose_models
from pangzhu.examples import example
from pangzhu.export.kept import KeptGguf
from pangzhu.messages import Language

HERE = Path(__file__).parent
OURS = "Pangzhu, llama.cpp"
TRANSFORMERS = "transformers, bf16"
ALONE = "xllamacpp alone"
CONTESTANTS = (OURS, TRANSFORMERS, ALONE)
NUM_SWITCHES = 20
GIGABYTE = 1e9
PAGES: dict[Language, Path] = {
    "en": HERE.parent / "docs" / "adapters.md",
    "zh": HERE.parent / "docs" / "adapters.zh-CN.md",
}
HEADS: dict[Language, str] = {
    "en": "| model | | processor | tokens/s | speed, Pangzhu = 1 (median of pairs) | blocks | switching adapters | "
    "peak memory |\n",
    "zh": "| 模型 | | 处理器指令集 | 词元/秒 | 速度与 Pangzhu 之比（成对中位数） | 组数 | 切换适配器 | 内存峰值 |\n",
}
MILLISECONDS: dict[Language, str] = {"en": "ms", "zh": "毫秒"}

Answer = Callable[[Sequence[int], int], int]  # ids and most tokens -> tokens written


@dataclass(frozen=True, slots=True)
class Speed:
    """One contestant in one block. `switch_ms` is None where there is nothing to switch between."""

    tokens: int
    seconds: float
    switch_ms: float | None
    peak_rss: int


def main() -> None:
    """Run what is missing in the CSV, then write the table into the pages; or be one contestant."""
    given = _arguments()
    if given.contestant:
        print(json.dumps(asdict(_measure(given))))
        return
    from benchmarks.bench import fill_csv  # brings torch along, which a contestant may do without

    rows = fill_csv(Path(given.csv), _runs(given))
    print(table(rows))
    if not given.no_pages:
        for language, page in PAGES.items():
            put_into(page, table(rows, language), mark="chat-speed")


def _runs(given: argparse.Namespace) -> Iterator[tuple[dict[str, str], Callable[[], dict[str, Any]]]]:
    """Every block, each contestant first in its turn."""
    from benchmarks.bench import instruction_set

    processor, threads = instruction_set(), str(machine.num_physical_cores())
    for block in range(given.blocks):
        first = block % len(CONTESTANTS)
        for contestant in CONTESTANTS[first:] + CONTESTANTS[:first]:
            key = {
                "model": given.model,
                "instruction_set": processor,
                "threads": threads,
                "block": str(block),
                "contestant": contestant,
            }
            yield key, lambda contestant=contestant: _run(given, contestant)  # type: ignore[misc]


def _run(given: argparse.Namespace, contestant: str) -> dict[str, Any]:
    """One contestant in a process of its own."""
    words = ["--contestant", contestant, "--model", given.model, "--tokens", str(given.tokens)]
    words += ["--questions", str(given.questions)]
    words += [word for adapter in given.adapter for word in ("--adapter", adapter)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.chat_speed", *words], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"when": time.strftime("%Y-%m-%d %H:%M:%S"), **found}


def _measure(given: argparse.Namespace) -> Speed:
    options = ModelOptions(model_name_or_path=given.model, device="cpu", precision="bf16")
    models = choose_models(options, given.adapter)
    if given.contestant == ALONE:
        return _speed_alone(models, given)
    with closing(_load(models, options, given.contestant)) as engine:
        name = engine.first_name

        def answer(ids: Sequence[int], num_tokens: int) -> int:
            written = engine.generate(
                ids, name, GenerationOptions(max_new_tokens=num_tokens), write=lambda _piece: None
            )
            return len(written.token_ids)

        tokens, seconds = decoding(answer, _prompts(engine, given.questions), given.tokens)
        switch = switching(engine) if len(engine.names) > 2 else None
    return Speed(tokens, round(seconds, 3), switch, machine.peak_memory())


def _load(models: ChosenModels, options: ModelOptions, contestant: str) -> Engine:
    return llamacpp.load_chosen(models, KeptGguf()) if contestant == OURS else transformers.load_chosen(models, options)


def _speed_alone(models: ChosenModels, given: argparse.Namespace) -> Speed:
    """xllamacpp as its own documents use it, on the same ids."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(models.base.source.gguf)
    params.n_ctx = llamacpp.MOST_TOKENS
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = machine.num_physical_cores()
    params.verbosity = -1
    params.api_keys = [str(time.time_ns())]
    server = xllamacpp.Server(params)

    def answer(ids: Sequence[int], num_tokens: int) -> int:
        written = server.handle_completions({"prompt": list(ids), "max_tokens": num_tokens, "temperature": 0})
        return int(written["usage"]["completion_tokens"])

    prompts = _prompts(NamedModels(models.base, models.adapters), given.questions)
    tokens, seconds = decoding(answer, prompts, given.tokens)
    return Speed(tokens, round(seconds, 3), None, machine.peak_memory())


def _prompts(models: Engine | NamedModels, num: int) -> list[list[int]]:
    """Questions of the law example, as the first model is asked them."""
    rows = load_dataset(example("law_data.json")).conversations[:num]
    return [models.prompt([Turn("user", row.prompt[-1].content)], models.first_name) for row in rows]


def decoding(answer: Answer, prompts: Sequence[Sequence[int]], num_tokens: int) -> tuple[int, float]:
    """Tokens written after the first one of each answer, and their seconds; the first answer is a warm-up."""
    answer(prompts[0], num_tokens)
    tokens, seconds = 0, 0.0
    for prompt in prompts:
        answer(prompt, 1)  # from here on the prompt is known to whoever remembers it
        started = time.perf_counter()
        answer(prompt, 1)
        between = time.perf_counter()
        tokens += answer(prompt, num_tokens) - 1
        seconds += (time.perf_counter() - between) - (between - started)
    return tokens, seconds


def switching(engine: Engine) -> float:
    """Milliseconds that the first token of another adapter takes longer than that of the same one, at the median."""
    names = [name for name in engine.names if name != BASE][:2]
    prompts = {name: engine.prompt([Turn("user", "?")], name) for name in names}
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(NUM_SWITCHES):
        for name in names:
            for switched in (True, False):
                started = time.perf_counter()
                engine.generate(prompts[name], name, GenerationOptions(max_new_tokens=1))
                times[switched].append(1000 * (time.perf_counter() - started))
    return round(median(times[True]) - median(times[False]), 2)


def table(rows: Sequence[dict[str, str]], language: Language = "en") -> str:
    """Markdown: a row for each model, processor and contestant."""
    settings = dict.fromkeys((row["model"], row["instruction_set"], row["threads"]) for row in rows)
    lines = "".join(
        _line(of_setting, contestant, language)
        for setting in settings
        if (of_setting := [row for row in rows if (row["model"], row["instruction_set"], row["threads"]) == setting])
        for contestant in CONTESTANTS
        if any(row["contestant"] == contestant for row in of_setting)
    )
    return f"{HEADS[language]}|---|---|---|---|---|---|---|---|\n{lines}"


def _line(rows: Sequence[dict[str, str]], contestant: str, language: Language) -> str:
    own = {row["block"]: row for row in rows if row["contestant"] == contestant}
    ours = {row["block"]: row for row in rows if row["contestant"] == OURS}
    ratios = [rate(own[block]) / rate(ours[block]) for block in own if block in ours]
    switches = [float(row["switch_ms"]) for row in own.values() if row["switch_ms"]]
    some = next(iter(own.values()))
    cells = (
        some["model"].removeprefix("packaged:"),
        contestant,
        f"`{some['instruction_set']}`, {some['threads']}",
        f"{median(map(rate, own.values())):.1f}",
        f"{median(ratios):.2f}" if ratios else "",
        str(len(own)),
        f"{median(switches):.1f} {MILLISECONDS[language]}" if switches else "",
        f"{median(int(row['peak_rss']) for row in own.values()) / GIGABYTE:.2f} GB",
    )
    return f"| {' | '.join(cells)} |\n"


def rate(row: dict[str, str]) -> float:
    """Tokens a second."""
    return int(row["tokens"]) / float(row["seconds"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--csv", default=str(HERE / "results" / "chat.csv"), help="raw figures, appended to")
    parser.add_argument("--model", default="packaged:qwen2.5-coder-0.5b-instruct")
    parser.add_argument("--adapter", action="append", default=[], help="DIR or NAME=DIR; two for the time of switching")
    parser.add_argument("--blocks", type=int, default=9)
    parser.add_argument("--questions", type=int, default=4, help="answered in a block")
    parser.add_argument("--tokens", type=int, default=128, help="most tokens of an answer")
    parser.add_argument("--contestant", choices=CONTESTANTS, help="be this one; used by the benchmark itself")
    parser.add_argument("--no_pages", action="store_true", help="leave the documents as they are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
