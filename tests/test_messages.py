"""The catalogue: both languages say the same, nothing is missing, nothing is unused."""

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from string import Formatter

import pytest

import pangzhu
from pangzhu import cli, config, messages
from pangzhu.config import Options
from pangzhu.messages import LANGUAGES, catalogue, detect_language, listening, say, text

pytestmark = pytest.mark.untraced

SOURCE = Path(pangzhu.__file__).parent
KEY = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+")
LAYOUT = {"error.what", "error.where", "error.fix", "error.nearest", "finding.line"}
REMEDIED = {key for key in catalogue("en") if key.startswith(("error.", "finding.")) and not key.endswith(".fix")}
NOT_FILLED_IN = {"where", "signal_number"}  # taken by the error itself


def placeholders(sentence: str) -> set[str]:
    return {re.split(r"[.\[]", name)[0] for _, name, _, _ in Formatter().parse(sentence) if name is not None}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for file in sorted(SOURCE.rglob("*.py")):
        if "messages" not in file.relative_to(SOURCE).parts:
            yield file, ast.parse(file.read_text(encoding="utf-8"), str(file))


def literals(node: ast.AST) -> Iterator[str]:
    """Text constants of an argument: itself, or either side of a conditional."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    if isinstance(node, ast.IfExp):
        yield from literals(node.body)
        yield from literals(node.orelse)


def name_of(call: ast.Call) -> str:
    function = call.func
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def speaking_calls() -> Iterator[tuple[str, ast.Call, str]]:
    """`file:line`, call and key of every call that takes a key of the catalogue."""
    for file, tree in trees():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            if name_of(node) in ("text", "say", "Finding", "Notice") or name_of(node).endswith("Error"):
                for key in literals(node.args[0]):
                    if KEY.fullmatch(key):
                        yield f"{file.relative_to(SOURCE)}:{node.lineno}", node, key


def all_literals() -> set[str]:
    return {
        node.value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def all_fields() -> set[str]:
    """Fields of every class of options, of `config` and of the verbs' own."""
    for module in iter_modules(cli.__path__):
        import_module(f"pangzhu.cli.{module.name}")
    kinds = [Options]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {name for kind in kinds if kind.__module__.startswith("pangzhu.") for name in kind.model_fields}


# --- the two languages -------------------------------------------------------------------------------------------


def test_both_languages_have_the_same_keys() -> None:
    assert catalogue("zh").keys() == catalogue("en").keys()


def test_both_languages_fill_in_the_same_values() -> None:
    english, chinese = catalogue("en"), catalogue("zh")
    both = english.keys() & chinese.keys()
    differing = {key for key in both if placeholders(english[key]) != placeholders(chinese[key])}
    assert not differing


def test_both_languages_have_the_same_files() -> None:
    areas = [{file.name for file in (SOURCE / "messages" / language).glob("*.py")} for language in ("zh", "en")]
    assert areas[0] == areas[1]


def test_each_sentence_is_in_its_language() -> None:
    english = {key for key, sentence in catalogue("en").items() if re.search(r"[\u3000-\u303f\u4e00-\uffef]", sentence)}
    assert not english
    words = re.compile(r"\b(the|is|are|not|with|and)\b")
    chinese = {key for key, sentence in catalogue("zh").items() if words.search(re.sub(r"`[^`]*`", "", sentence))}
    assert not chinese


@pytest.mark.parametrize("key", sorted(REMEDIED - LAYOUT))
def test_every_fault_has_its_remedy_in_both_languages(key: str) -> None:
    assert all(catalogue(language).get(f"{key}.fix", "").strip() for language in LANGUAGES)


def test_every_remedy_has_its_fault() -> None:
    orphans = {
        key for key in catalogue("en") if key.endswith(".fix") and key.removesuffix(".fix") not in catalogue("en")
    }
    assert orphans - LAYOUT == set()


# --- the catalogue and the source --------------------------------------------------------------------------------


def test_every_key_in_the_source_is_in_the_catalogue() -> None:
    missing = [f"{place} {key}" for place, _, key in speaking_calls() if key not in catalogue("en")]
    assert not missing


def test_every_fault_named_anywhere_is_in_the_catalogue() -> None:
    named = {literal for literal in all_literals() if re.fullmatch(r"(error|finding|panel)(\.[a-z0-9_]+)+", literal)}
    assert named - catalogue("en").keys() == set()


def test_every_key_of_the_catalogue_is_used() -> None:
    used = all_literals()
    used |= {f"option.{name}" for name in all_fields()} | {f"verb.{name}" for name in cli.VERBS}
    used |= {f"{key}.fix" for key in used}
    assert catalogue("en").keys() - used == set()


def test_every_option_and_verb_has_its_sentence() -> None:
    wanted = {f"option.{name}" for name in all_fields()} | {f"verb.{name}" for name in cli.VERBS}
    assert wanted - catalogue("en").keys() == set()
    assert {name for name in vars(config) if name.endswith("Config")} >= {"TrainConfig", "ChatConfig", "CompareConfig"}


def test_every_value_a_sentence_needs_is_given() -> None:
    lacking = []
    for place, call, key in speaking_calls():
        given = {keyword.arg for keyword in call.keywords}
        if None in given or key not in catalogue("en") or name_of(call) in ("Finding", "Notice"):
            continue
        sentences = catalogue("en")[key] + catalogue("en").get(f"{key}.fix", "")
        if needed := placeholders(sentences) - given:
            lacking.append(f"{place} {key}: {sorted(needed)}")
        if name_of(call).endswith("Error") and (taken := placeholders(sentences) & NOT_FILLED_IN):
            lacking.append(f"{place} {key}: {sorted(taken)} is not among the values")
    assert not lacking


# --- speaking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "Chinese (Simplified)_China.936"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LC_ALL": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_ALL": "en_US.UTF-8", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_MESSAGES": "zh_CN.UTF-8", "LANG": "en_US.UTF-8"}, "zh"),
        ({"LC_ALL": "", "LANG": "zh_CN.UTF-8"}, "zh"),
    ],
)
def test_the_language_is_that_of_the_locale(environment: dict[str, str], language: str) -> None:
    assert detect_language(environment) == language


@pytest.mark.parametrize(
    ("locale", "language"), [(None, "en"), ("zh_CN", "zh"), ("Chinese (Simplified)_China", "zh"), ("de_DE", "en")]
)
def test_without_an_environment_the_system_decides(
    locale: str | None, language: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(messages.locale, "getlocale", lambda: (locale, None))
    assert detect_language({}) == language


def test_say_reaches_who_listens_and_only_them(capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[str] = []
    with listening(heard.append):
        say("error.where", where="x")
    say("error.where", where="y")
    assert heard == [text("error.where", where="x")]
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text("error.where", where="y") + "\n")


def test_a_key_or_value_that_is_not_there_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        text("no.such.key")
    with pytest.raises(KeyError):
        text("error.where")
