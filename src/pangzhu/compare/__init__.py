"""Base beside adapter on the same questions, in one process: what each answers, and how often it is right.

An answer is right when it equals the expected one after white space and punctuation are set aside; where a row gives
`choices`, when it opens with the expected one or names no other; where JSON is expected, when it is JSON of the same
value (`pangzhu.measures`). How near a wrong answer comes, whether it names the law's article, keeps the format it was asked
for, or recites what was taught for another question, is said beside it.
Answers are greedy and generated in batches. Rows may carry a `kind` (taught, reworded, untaught, general); figures are
given for each kind apart, because only together do they say what was learned.

The way of a question: asked here, `rows` (each model's answer to it) -> `figures` (one model on one kind) -> `comparison`
(all of them) -> `tables` (for a screen).
Left to others: generation (`pangzhu.engines`), loss and recall without generation (`pangzhu.evaluate`).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from pangzhu import gate
from pangzhu.choices import check_choices
from pangzhu.compare.comparison import Comparison
from pangzhu.compare.figures import Detail, Gain, Score
from pangzhu.compare.rows import ComparedRow
from pangzhu.config import CompareConfig, GenerationOptions
from pangzhu.data import load_dataset
from pangzhu.engines import Answer
from pangzhu.engines.named_models import BASE
from pangzhu.engines.transformers import load_engine
from pangzhu.messages import say
from pangzhu.questions import choices_of, format_of, kind_of

if TYPE_CHECKING:
    from pangzhu.data.conversation import Conversation
    from pangzhu.engines.transformers import TransformersEngine

__all__ = ["ComparedRow", "Comparison", "Detail", "Gain", "Score", "ask", "compare"]


def compare(config: CompareConfig) -> Comparison:
    """Ask base and adapters every question of a file.

    Raises:
        PangzhuError: questions, base or adapters cannot be read.
    """
    questions = load_dataset(config.dataset_path, require_answer=False).conversations[: config.max_questions]
    answered = [question for question in questions if question.answer is not None]
    gate.require_kinds(config.thresholds, map(kind_of, questions), answered=map(kind_of, answered))
    for question in questions:
        format_of(question)  # an unknown one is refused before anything is loaded
    for question in answered:
        check_choices(question)
    engine = load_engine(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    _warn_of_cut_answers(engine, questions, config.max_new_tokens)
    asked = ask(engine, questions, GenerationOptions(max_new_tokens=config.max_new_tokens))
    shortfalls = gate.find_shortfalls(config.thresholds, asked.shares(), base=BASE)
    comparison = replace(asked, shortfalls=shortfalls)
    if config.output_dir:
        say("compare.written", file=comparison.write(config.output_dir))
    gate.report(shortfalls)
    return comparison


def ask(
    engine: "TransformersEngine",
    questions: "Sequence[Conversation]",
    options: GenerationOptions,
    *,
    names: Sequence[str] | None = None,
    on_answer: Callable[[str, int, int], None] | None = None,
) -> Comparison:
    """Models of an engine on every question.

    Args:
        engine: base and adapters.
        questions: conversations; a last assistant turn is what is expected.
        options: how answers are drawn.
        names: which models; None means all of the engine's.
        on_answer: told model, answers so far, and questions; default: `say` after each batch.
    """
    answers: list[dict[str, Answer]] = [{} for _ in questions]
    tell = on_answer or _say_answered
    asked = tuple(names or engine.names)
    for name in asked:
        prompts = [engine.fitting_prompt(question, name, options) for question in questions]
        for done, (index, answer) in enumerate(engine.generate_many(prompts, name, options), start=1):
            answers[index][name] = answer
            tell(name, done, len(questions))
    rows = (_compared(question, given) for question, given in zip(questions, answers, strict=True))
    return Comparison(asked, engine.base_name, tuple(rows), conditions=engine.conditions)


def _warn_of_cut_answers(engine: "TransformersEngine", questions: "Sequence[Conversation]", most: int) -> None:
    """Say so where an expected answer and its end do not fit: no model could be right."""
    answers = [question.answer for question in questions if question.answer]
    lengths = [len(ids) for ids in engine.tokenizer(answers, add_special_tokens=False)["input_ids"]] if answers else []
    if num := sum(length >= most for length in lengths):
        say("compare.answers_cut", num=num, most=most, wanted=max(lengths) + 1)


def _compared(question: "Conversation", answers: dict[str, Answer]) -> ComparedRow:
    return ComparedRow(
        question=question.prompt[-1].content,
        expected=question.answer,
        kind=kind_of(question),
        fact=question.field("fact"),
        answers=answers,
        choices=choices_of(question),
        format=format_of(question),
    )


def _say_answered(name: str, done: int, total: int) -> None:
    if done % 50 == 0 or done == total:
        say("compare.answered", model=name, done=done, total=total)
