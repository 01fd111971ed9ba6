"""Mistakes on the command line, said in Pangzhu's own words.

typer and pydantic complain in English; here their complaints become `UsageError`s of the catalogue, with the nearest
name where one is near.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import typer
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from pangzhu.errors import UsageError, nearest
from pangzhu.messages import text

WORDS = {  # what people write who know other tools
    "--alpha": "--lora_alpha",
    "--base_model": "--model_name_or_path",
    "--batch_size": "--per_device_train_batch_size",
    "--cutoff_len": "--max_seq_length",
    "--data": "--dataset_path",
    "--dropout": "--lora_dropout",
    "--epochs": "--num_train_epochs",
    "--lora_r": "--r",
    "--lora_rank": "--r",
    "--lr": "--learning_rate",
    "--max_length": "--max_seq_length",
    "--model": "--model_name_or_path",
    "--output": "--output_dir",
    "--rank": "--r",
    "--steps": "--max_steps",
}
REASONS = {
    "int_parsing": "cli.reason.whole_number",
    "int_from_float": "cli.reason.whole_number",
    "int_type": "cli.reason.whole_number",
    "float_parsing": "cli.reason.number",
    "float_type": "cli.reason.number",
    "finite_number": "cli.reason.finite",
    "bool_parsing": "cli.reason.yes_or_no",
    "bool_type": "cli.reason.yes_or_no",
    "string_type": "cli.reason.a_text",
    "path_type": "cli.reason.a_path",
    "tuple_type": "cli.reason.a_list",
    "greater_than": "cli.reason.greater_than",
    "greater_than_equal": "cli.reason.at_least",
    "less_than": "cli.reason.less_than",
    "less_than_equal": "cli.reason.at_most",
}


def as_usage_error(fault: typer.TyperException, *, verb: str, flags: Mapping[str, bool]) -> UsageError:
    """A complaint of typer's parser as an error of ours.

    Args:
        fault: what typer raised; it names an option.
        verb: the verb whose line it read.
        flags: the verb's flags, and whether each is a switch without a value.
    """
    name: str = vars(fault)["option_name"]
    if name not in flags:
        return UsageError("error.cli.no_such_option", name=name, hint=_meant(name, flags), verb=verb)
    key = "error.cli.takes_no_value" if flags[name] else "error.cli.value_missing"
    return UsageError(key, name=name, verb=verb)


def unexpected_word(word: str, *, verb: str) -> UsageError:
    """A word that belongs to no option."""
    return UsageError("error.cli.unexpected_word", word=word, verb=verb)


@contextmanager
def in_own_words() -> Iterator[None]:
    """Give the reason of a refused value in the user's language instead of pydantic's English."""
    try:
        yield
    except UsageError as error:
        if isinstance(error.__cause__, ValidationError) and "reason" in error.values:
            error.values["reason"] = _reason(error.__cause__.errors()[0])
        raise


def _meant(name: str, flags: Mapping[str, bool]) -> str:
    known = WORDS.get(name)
    return text("error.nearest", word=known) if known in flags else nearest(name, flags)


def _reason(complaint: ErrorDetails) -> str:
    """Why pydantic refused a value; its own words where ours are missing."""
    bounds = complaint.get("ctx", {})
    if complaint["type"] == "literal_error":
        choices = str(bounds["expected"]).replace("'", "").replace(" or ", ", ")
        return text("cli.reason.one_of", choices=choices)
    values = {name: f"{bound:g}" if isinstance(bound, float) else bound for name, bound in bounds.items()}
    key = REASONS.get(complaint["type"])
    return text(key, **values) if key else complaint["msg"]
