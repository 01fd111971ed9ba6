"""The table of all options in docs/training.md and docs/training.zh-CN.md, made from `config.py` and the catalogue.

A default stands once, in `config.py`, and an option's sentence once, in `messages`; so the documents' table is generated.
`python docs/options_table.py` writes it between the two marks of both pages; tests/test_docs.py fails where a page is stale.
"""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from page_marks import Generated
from pydantic.fields import FieldInfo

from pangzhu import messages
from pangzhu.cli import VERBS
from pangzhu.cli.options import PANELS, VERB_PANEL, Verb
from pangzhu.config import TrainConfig
from pangzhu.messages import Language, text

HERE = Path(__file__).resolve().parent
PAGES: dict[Language, Path] = {"en": HERE / "training.md", "zh": HERE / "training.zh-CN.md"}
WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "head": "| option | default | commands | meaning |",
        "required": "required",
        "off": "off",
        "all": "all",
        "all_but": "all but {names}",
        "between": ": ",
        "other": "Other commands",
    },
    "zh": {
        "head": "| 选项 | 默认值 | 命令 | 含义 |",
        "required": "必填",
        "off": "关",
        "all": "全部",
        "all_but": "除 {names} 外全部",
        "between": "：",
        "other": "其他命令",
    },
}
GENERAL = {
    "--config": "cli.help.config",
    "--lang": "cli.help.lang",
    "--json": "cli.help.json",
    "--debug": "cli.help.debug",
}


def options_table(language: Language) -> str:
    """Every option of every verb as Markdown: a heading and a table for each panel of the help pages."""
    before = messages.language()
    messages.set_language(language)
    try:
        return "\n".join(_lines(WORDS[language]))
    finally:
        messages.set_language(before)


def _lines(words: dict[str, str]) -> Iterator[str]:
    verbs = _verbs()
    names = list(dict.fromkeys(name for verb in verbs for name in verb.fields))
    for panel in [*(panel for panel in PANELS.values() if panel != VERB_PANEL), VERB_PANEL]:
        rows = [_row(name, verbs, words) for name in names if _panel(name, verbs) == panel]
        if rows:
            yield from _section(words["other"] if panel == VERB_PANEL else text(panel), rows, words)
    general = [f"| `{flag}` | – | {words['all']} | {_cell(text(key))} |" for flag, key in GENERAL.items()]
    yield from _section(text("panel.general"), general, words)


def _section(title: str, rows: list[str], words: dict[str, str]) -> Iterator[str]:
    yield from ("", f"### {title}", "", words["head"], "|---|---|---|---|", *rows)


def _verbs() -> list[Verb[Any]]:
    """All verbs, `train` first: its panels and its order are the ones that count."""
    found = [getattr(import_module(f"pangzhu.cli.{module}"), name) for module, name in VERBS.values()]
    return sorted(found, key=lambda verb: verb.config_class is not TrainConfig)


def _panel(name: str, verbs: list[Verb[Any]]) -> str:
    """The panel of the class that introduces a field, in the first verb where such a class does."""
    for verb in (verb for verb in verbs if name in verb.fields):
        owners = [kind for kind in PANELS if issubclass(verb.config_class, kind) and name in kind.model_fields]
        if owners:
            return PANELS[owners[-1]]
    return VERB_PANEL


def _row(name: str, verbs: list[Verb[Any]], words: dict[str, str]) -> str:
    taking = [verb for verb in verbs if name in verb.fields]
    return (
        f"| `--{name}` | {_defaults(name, taking, words)} | {_commands(taking, verbs, words)} "
        f"| {_cell(text(f'option.{name}'))} |"
    )


def _commands(taking: list[Verb[Any]], verbs: list[Verb[Any]], words: dict[str, str]) -> str:
    others = ", ".join(verb.name for verb in verbs if verb not in taking)
    if not others:
        return words["all"]
    if len(taking) > len(verbs) / 2:
        return words["all_but"].format(names=others)
    return ", ".join(verb.name for verb in taking)


def _defaults(name: str, verbs: list[Verb[Any]], words: dict[str, str]) -> str:
    """The default, or each verb's own where they differ."""
    by_default: dict[str, list[str]] = {}
    for verb in verbs:
        by_default.setdefault(_default(verb.fields[name], words), []).append(verb.name)
    if len(by_default) == 1:
        return next(iter(by_default))
    return "; ".join(f"{', '.join(names)}{words['between']}{default}" for default, names in by_default.items())


def _default(field: FieldInfo, words: dict[str, str]) -> str:
    if field.is_required():
        return words["required"]
    if isinstance(field.default, bool):
        return "`on`" if field.default else words["off"]
    if field.default is None or field.default == ():
        return "–"
    value = f"{field.default:g}" if isinstance(field.default, float) else str(field.default)
    others = [choice for choice in _choices(field) if choice != value]
    return f"`{value}`" + (f" ({', '.join(others)})" if others else "")


def _choices(field: FieldInfo) -> tuple[str, ...]:
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if kind is not NoneType]
    return next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())


def _cell(sentence: str) -> str:
    return sentence.replace("|", "\\|")


TABLE = Generated("options", PAGES, options_table)

if __name__ == "__main__":
    TABLE.write()
