"""Six ways an adapter can be broken, each broken for real and asked as users ask: the verdict names the fault.

What may not be loaded or published at all is refused, with its exit code; where a flag, or a file that another tool
wrote, gets around that, the verdict still says so.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest
import torch

from pangzhu.adapter import describe, read_manifest
from pangzhu.chat import Session, converse
from pangzhu.checkpoint import METRICS, RUN
from pangzhu.config import GenerationOptions
from pangzhu.errors import ModelError, VerificationError
from pangzhu.messages import LANGUAGES, Language, listening, set_language
from pangzhu.report.build import build_page
from pangzhu.report.page import Page, render
from pangzhu.train import train
from tests.broken_adapters import NAME, TAUGHT, Workshop
from tests.conftest import silently, train_config
from tests.test_model import change_weights
from tests.use_helpers import Outcome, Told, load

pytest_plugins = ["tests.use_fixtures"]
pytestmark = [pytest.mark.usefixtures("one_core"), pytest.mark.untraced]

WORDS: dict[str, dict[Language, str]] = {  # of the sentence that names each fault
    "b_zero": {"en": "changes nothing", "zh": "什么也没有改变"},
    "overflowing": {"en": "probabilities are not numbers", "zh": "概率不是数字"},
    "wrong_base": {"en": "trained on another base", "zh": "在另一个基座"},
    "prompt_only": {"en": "Something else than the answers was learned", "zh": "学到的不是答案"},
    "cut": {"en": "The answers run on", "zh": "回答停不下来"},
    "overtrained": {"en": "General answers are broken", "zh": "通用回答坏了"},
}
LOST = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"


@pytest.fixture(scope="session")
def workshop(model_folder: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(model_folder("qwen2"), tmp_path_factory.mktemp("workshop"))


@pytest.fixture(params=LANGUAGES)
def chosen(request: pytest.FixtureRequest) -> Language:
    set_language(request.param)
    return request.param


@pytest.fixture
def pangzhu(workshop: Workshop, command: Callable[..., Outcome]) -> Callable[..., Outcome]:
    """Run a verb on an adapter and the questions."""

    def run(verb: str, adapter: Path, *words: str) -> Outcome:
        asking = [] if verb == "chat" else ["--dataset_path", str(workshop.questions), "--max_new_tokens", "24"]
        return command(verb, "--adapter", f"{NAME}={adapter}", "--precision", "float32", *asking, *words)

    return run


def page_of(workshop: Workshop, name: str) -> Page:
    folder = workshop.healthy if name == "wrong_base" else getattr(workshop, name)
    return build_page(workshop.asked(name), {NAME: folder})


def sentences(page: Page) -> str:
    return "\n".join((page.verdict, *page.remarks))


# --- the verdict -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", WORDS)
def test_the_verdict_of_a_broken_adapter_names_its_fault(workshop: Workshop, fault: str, chosen: Language) -> None:
    page = page_of(workshop, fault)
    assert WORDS[fault][chosen] in page.verdict
    assert page.tone == "bad"
    assert page.verdict in unescape(render(page))


@pytest.mark.parametrize("fault", WORDS)
def test_no_fault_is_named_for_another(workshop: Workshop, fault: str) -> None:
    """What else is said of it follows from its fault: an adapter of this size that is broken answers nothing well."""
    others = {words["en"] for name, words in WORDS.items() if name not in (fault, "overtrained", "cut")}
    assert not [words for words in others if words in sentences(page_of(workshop, fault))]


def test_a_healthy_adapter_has_none_of_these_faults(workshop: Workshop, chosen: Language) -> None:
    page = page_of(workshop, "healthy")
    assert page.tone == "good"
    assert page.remarks == ()
    assert not [words for words in WORDS.values() if words[chosen] in page.verdict]
    assert all(row.right(NAME) for row in workshop.asked("healthy").comparison.rows)


# --- B is zero -------------------------------------------------------------------------------------------------------


def test_an_adapter_that_trained_nothing_is_not_published(workshop: Workshop, tmp_path: Path, chosen: Language) -> None:
    config = train_config(workshop.base, workshop.rows, tmp_path / "out", learning_rate=1e-60)
    with listening(silently), pytest.raises(VerificationError) as refused:
        train(config, on_step=silently)
    assert refused.value.exit_code == 8
    assert {"en": "Every B of the adapter is zero", "zh": "B 全为零"}[chosen] in str(refused.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_that_b_is_zero_is_known_without_measuring_drift(
    workshop: Workshop, pangzhu: Callable[..., Outcome], tmp_path: Path, chosen: Language
) -> None:
    outcome = pangzhu("compare", workshop.b_zero, "--output_dir", str(tmp_path), "--lang", chosen)
    assert outcome.exit_code == 0
    assert WORDS["b_zero"][chosen] in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_adapter_that_moves_nothing_changes_nothing_by_the_figures_too(workshop: Workshop) -> None:
    asked = workshop.asked("b_zero")
    (drift,) = asked.drifts
    assert (drift.agreement.value, drift.kl.value) == (1.0, pytest.approx(0.0, abs=1e-6))
    assert all(row.answers[NAME] == row.answers["base"] for row in asked.comparison.rows)


# --- numbers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["compare", "eval", "chat"])
def test_an_adapter_with_nan_is_refused_by_every_verb_with_the_tensor_named(
    workshop: Workshop, pangzhu: Callable[..., Outcome], verb: str, chosen: Language
) -> None:
    question = ("--prompt", "one?") if verb == "chat" else ()
    outcome = pangzhu(verb, workshop.nan, *question, "--lang", chosen)
    assert outcome.exit_code == 4
    assert outcome.out == ""
    assert {"en": "holds infinity or NaN", "zh": "里有无穷大或 NaN"}[chosen] in outcome.err
    assert f"adapter_model.safetensors: {LOST}" in outcome.err
    assert "Traceback" not in outcome.err


def test_an_adapter_with_nan_is_not_described_as_usable(workshop: Workshop) -> None:
    description = describe(workshop.nan)
    assert description.exit_code == 8
    assert LOST in str(description.fault)


def test_probabilities_that_are_no_numbers_end_an_answer_and_are_told_beside_the_answers(
    workshop: Workshop, pangzhu: Callable[..., Outcome], tmp_path: Path, chosen: Language
) -> None:
    outcome = pangzhu("compare", workshop.overflowing, "--output_dir", str(tmp_path), "--lang", chosen)
    assert outcome.exit_code == 0
    assert WORDS["overflowing"][chosen] in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert {"en": "10 of 10 answers broke off", "zh": "10 个回答中有 10 个中断"}[chosen] in outcome.out
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    assert all(json.loads(line)["answers"][NAME]["broke_off"] for line in lines)


def test_figures_that_are_no_numbers_are_null_in_json_and_told_in_the_tables(
    workshop: Workshop, pangzhu: Callable[..., Outcome], tmp_path: Path, chosen: Language
) -> None:
    shown = pangzhu("eval", workshop.overflowing, "--output_dir", str(tmp_path), "--lang", chosen)
    assert shown.exit_code == 0
    told = {"en": "none of its figures means anything", "zh": "各项数字都没有意义"}
    assert told[chosen] in shown.out
    assert f"{NAME}: " in shown.out or f"{NAME}：" in shown.out

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    kept = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"), parse_constant=refuse)
    found = {part["model"]: part for part in kept["measured"] if part["kind"] == "taught"}
    assert found["base"]["loss"] > 0
    assert (found[NAME]["loss"], found[NAME]["num_exact"]) == (None, 0)
    (drift,) = kept["drift"]
    assert (drift["agreement"]["value"], drift["kl"]["value"]) == (0.0, None)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_chat_goes_on_where_probabilities_are_no_numbers(workshop: Workshop, temperature: float) -> None:
    """Drawing from them would be an error of torch, choosing the likeliest a token at random."""
    engine = load(workshop.base, f"{NAME}={workshop.overflowing}")
    session = Session(engine, GenerationOptions(max_new_tokens=8, temperature=temperature), NAME)
    lines = iter(["one?", "/base", "Hello!", "/exit"])
    told, written = Told(), list[str]()
    with listening(told):
        converse(session, read=lambda _: next(lines), write=written.append)
    assert "The answer broke off" in str(told)
    assert [turn.content for turn in session.turns[::2]] == ["one?", "Hello!"]
    assert session.turns[1].content == ""
    assert session.turns[3].content != ""


def test_an_adapter_whose_logits_are_no_numbers_is_not_published(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: Language
) -> None:
    """As a run would end in which the last step went too far: its weights are finite."""
    from pangzhu import adapter

    round_to_bf16 = adapter.round_to_bf16

    def too_far(model: torch.nn.Module) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.mul_(1e30)
        round_to_bf16(model)  # type: ignore[arg-type]

    monkeypatch.setattr(adapter, "round_to_bf16", too_far)
    with listening(silently), pytest.raises(VerificationError) as refused:
        train(train_config(workshop.base, workshop.rows, tmp_path / "out"), on_step=silently)
    assert refused.value.key == "error.adapter.logits_not_finite"
    assert {"en": "probabilities are NaN or infinite", "zh": "概率成了 NaN 或无穷大"}[chosen] in str(refused.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


# --- another base ----------------------------------------------------------------------------------------------------


def test_a_wrong_base_is_refused_and_where_it_is_forced_the_report_says_so(
    workshop: Workshop, pangzhu: Callable[..., Outcome], tmp_path: Path, chosen: Language
) -> None:
    words = ("--model_name_or_path", str(workshop.plain), "--output_dir", str(tmp_path), "--lang", chosen)
    refused = pangzhu("compare", workshop.healthy, *words)
    assert refused.exit_code == 4
    assert {"en": "this base differs in: tensors", "zh": "在这些方面不同：tensors"}[chosen] in refused.err
    assert "--allow_base_mismatch" in refused.err
    assert not (tmp_path / "report.html").exists()
    forced = pangzhu("compare", workshop.healthy, *words, "--allow_base_mismatch")
    assert forced.exit_code == 0
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert WORDS["wrong_base"][chosen] in html
    assert read_manifest(workshop.healthy).base.name in html


def test_a_base_so_near_that_the_answers_are_still_right_is_a_remark(workshop: Workshop, tmp_path: Path) -> None:
    near = Path(shutil.copytree(workshop.base, tmp_path / "near"))
    change_weights(near, lambda weights: weights["model.norm.weight"].mul_(1.001))
    with pytest.raises(ModelError):
        load(near, f"{NAME}={workshop.healthy}")
    engine = load(near, f"{NAME}={workshop.healthy}", allow_base_mismatch=True)
    page = build_page(workshop.ask(engine), {NAME: workshop.healthy})
    assert page.tone == "partly"
    assert page.verdict.startswith("Learned: 4 of 4")
    assert WORDS["wrong_base"]["en"] in "".join(page.remarks)


# --- trained on something else, without an end, too long -------------------------------------------------------------


def test_an_adapter_that_learned_the_prompts_fell_in_loss_and_is_told_by_how_much(workshop: Workshop) -> None:
    lines = (workshop.prompt_only / RUN / METRICS).read_text(encoding="utf-8").splitlines()
    first, *_, last = (json.loads(line)["loss"] for line in lines)
    assert last < first / 2
    verdict = page_of(workshop, "prompt_only").verdict
    assert f"from {first:.2f} to {last:.2f}, yet 0 of 4 taught questions" in verdict


def test_without_the_losses_of_its_run_an_adapter_is_told_not_to_have_learned(workshop: Workshop) -> None:
    """A folder that was copied without its run holds no losses."""
    assert build_page(workshop.asked("prompt_only"), {}).verdict.startswith("What was taught was not learned: 0 of 4")


def test_an_adapter_without_ends_has_learned_the_words_and_is_told_so(workshop: Workshop) -> None:
    answers = [row.answers[NAME] for row in workshop.asked("cut").comparison.rows if row.kind == "taught"]
    assert not any(answer.ended or answer.broke_off for answer in answers)
    begun = sum(answer.text.startswith(taught) for answer, (_, taught) in zip(answers, TAUGHT, strict=True))
    page = page_of(workshop, "cut")
    assert f"{begun} of 4 taught answers begin as taught" in "".join(page.remarks)
    assert "was not learned: " not in sentences(page)


def test_an_adapter_trained_too_long_knows_what_it_was_taught_and_little_else(workshop: Workshop) -> None:
    asked = workshop.asked("overtrained")
    assert asked.comparison.score(NAME, "taught").num_right == len(TAUGHT)
    assert asked.comparison.score(NAME, "general").num_right == 0
    known = asked.comparison.score("base", "general")
    assert known.num_right == known.num_rows > 0
    assert asked.drifts[0].agreement.value < 0.5
