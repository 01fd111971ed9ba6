"""Typer options from a configuration class, so that no default and no sentence is written twice.

`@verb(TrainConfig)` above `def train(config: TrainConfig)` is all a verb needs: each field becomes `--name` with the
sentence `option.NAME` of the catalogue and the default of the field. Typer only turns words into texts; whether a value
fits is decided once, by the class itself (`config.load_config`), for flags and YAML alike.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Generic, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from pangzhu import config as options
from pangzhu.cli import help as page
from pangzhu.cli.console import Rendered
from pangzhu.cli.usage import as_usage_error, in_own_words, unexpected_word
from pangzhu.config import ConfigType, Options, load_config
from pangzhu.errors import UsageError
from pangzhu.messages import text

CONTEXT_SETTINGS = {
    "token_normalize_func": lambda name: name.replace("-", "_"),  # --max-steps is --max_steps
    "allow_extra_args": True,  # reported by us, in the user's language
}
VERB_PANEL = "panel.verb"
PANELS: dict[type[Options], str] = {  # in the order of a help page; what no class here introduces is the verb's own
    Options: VERB_PANEL,
    options.ModelOptions: "panel.model",
    options.DataOptions: "panel.data",
    options.LoraOptions: "panel.lora",
    options.OptimizationOptions: "panel.optimization",
    options.ValidationOptions: "panel.validation",
    options.GenerationOptions: "panel.generation",
    options.FastOptions: "panel.fast",
    options.RunOptions: "panel.run",
}
TYPE_WORDS: dict[object, str] = {int: "cli.type.int", float: "cli.type.float", Path: "cli.type.path"}


@dataclass(frozen=True, slots=True)
class Verb(Generic[ConfigType]):
    """A verb of the command line.

    Args:
        name: as the user types it.
        function: what it does; takes the configuration, returns the result.
        config_class: the class whose fields are its options.
        positional: the field that may stand without its flag, and its word in the usage line: `("dataset_path", "DATA")`.
        only: the fields offered; empty for all.
    """

    name: str
    function: Callable[[ConfigType], Rendered | None]
    config_class: type[ConfigType]
    positional: tuple[str, str] | None = None
    only: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, FieldInfo]:
        """The fields offered as options, by name."""
        fields = self.config_class.model_fields
        return {name: field for name, field in fields.items() if not self.only or name in self.only}


def verb(
    config_class: type[ConfigType], *, positional: tuple[str, str] | None = None, only: Sequence[str] = ()
) -> Callable[[Callable[[ConfigType], Rendered | None]], Verb[ConfigType]]:
    """Turn a function of one configuration into a verb of the same name; see `Verb`."""

    def decorate(function: Callable[[ConfigType], Rendered | None]) -> Verb[ConfigType]:
        name = function.__name__.removesuffix("_")  # `eval_` avoids the builtin
        return Verb(name, function, config_class, positional, tuple(only))

    return decorate


def parse(verb: Verb[ConfigType], arguments: Sequence[str]) -> ConfigType | None:
    """Read a verb's configuration from its command line; None where only the help was asked for.

    Raises:
        UsageError: an unknown option, a missing or unfit value, a word too many.
    """
    command = typer.main.get_command(_app(verb))
    try:
        found = command.main(list(arguments), prog_name=f"pangzhu {verb.name}", standalone_mode=False)
    except typer.TyperException as fault:
        raise as_usage_error(fault, verb=verb.name, flags=flags(verb)) from fault
    return found if isinstance(found, verb.config_class) else None


def flags(verb: Verb[ConfigType]) -> dict[str, bool]:
    """Every flag of a verb, and whether it is a switch without a value."""
    known = {"--config": False, "--lang": False, "--json": True, "--debug": True, "--help": True}
    for name, field in verb.fields.items():
        switch = _bare(field) is bool
        known |= dict.fromkeys([f"--{name}", *_aliases(name)], switch)
        if switch:
            known[f"--no_{name}"] = True
    return known


def help_page(verb: Verb[ConfigType]) -> str:
    """The help of one verb: its options by panel, the shared ones last."""
    usage = f"pangzhu {verb.name} " + text("cli.options_word") + (f" [{verb.positional[1]}]" if verb.positional else "")
    rows: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS.values()}
    for name, field in verb.fields.items():
        rows[_panel(verb.config_class, name)].append((_shown_name(verb, name), _sentence(name, field)))
    sections = [page.Section(text(panel), listed) for panel, listed in rows.items() if listed]
    shared = [("--config", text("cli.help.config")), *page.shared_rows()]
    return page.page(usage, text(f"verb.{verb.name}"), [*sections, page.Section(text("panel.general"), shared)])


def _app(verb: Verb[ConfigType]) -> typer.Typer:
    def read(_context: typer.Context, **given: object) -> ConfigType:
        return _read(verb, given, extra=_context.args)

    def show_help(value: bool) -> None:
        if value:
            typer.echo(help_page(verb))
            raise typer.Exit

    help_option = typer.Option(False, "--help", "-h", callback=show_help, is_eager=True, expose_value=False)
    parameters = [*_parameters(verb), _parameter("help_", bool, help_option)]
    read.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
    read.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(context_settings=CONTEXT_SETTINGS, add_help_option=False)(read)
    return app


def _read(verb: Verb[ConfigType], given: Mapping[str, object], *, extra: Sequence[str]) -> ConfigType:
    if extra:
        raise unexpected_word(extra[0], verb=verb.name)
    values = {name: value for name, value in given.items() if name != "help_"}
    config_file = values.pop("config")
    if verb.positional:
        field, word = verb.positional
        first = values.pop("positional_")
        if first and values[field]:
            raise UsageError("error.cli.given_twice", word=word, option=f"--{field}")
        values[field] = first or values[field]
    with in_own_words():
        return load_config(verb.config_class, values, config_file=Path(str(config_file)) if config_file else None)


def _parameters(verb: Verb[ConfigType]) -> list[inspect.Parameter]:
    parameters = [inspect.Parameter("_context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    if verb.positional:
        annotation = _annotation(verb.fields[verb.positional[0]])
        parameters.append(_parameter("positional_", annotation, typer.Argument(None)))
    parameters += [_option(name, field) for name, field in verb.fields.items()]
    return [*parameters, _parameter("config", str | None, typer.Option(None, "--config"))]


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = f"--{name}/--no_{name}" if _bare(field) is bool else f"--{name}"
    return _parameter(name, _annotation(field), typer.Option(None, flag, *_aliases(name)))


def _aliases(name: str) -> list[str]:
    """The other flags of a field."""
    return [f"--{alias}" for alias, field in options.ALIASES.items() if field == name]


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _annotation(field: FieldInfo) -> object:
    """What typer is told: a switch, a repeatable text, or a text."""
    bare = _bare(field)
    if bare is bool:
        return bool | None
    return list[str] | None if get_origin(bare) is tuple else str | None


def _bare(field: FieldInfo) -> object:
    """A field's type without `| None`."""
    rest = [kind for kind in get_args(field.annotation) if kind is not NoneType]
    return rest[0] if len(rest) == 1 and NoneType in get_args(field.annotation) else field.annotation


def _panel(config_class: type[Options], name: str) -> str:
    """The panel of the class that introduces a field."""
    owners = [kind for kind in PANELS if issubclass(config_class, kind) and name in kind.model_fields]
    return PANELS[owners[-1]] if owners else VERB_PANEL


def _shown_name(verb: Verb[ConfigType], name: str) -> str:
    word = [verb.positional[1]] if verb.positional and verb.positional[0] == name else []
    return ", ".join([*word, f"--{name}", *_aliases(name)])


def _sentence(name: str, field: FieldInfo) -> str:
    """What an option means, what it takes, and its default where it has one."""
    takes = _switch_word(name, field) if _bare(field) is bool else _type_word(_bare(field))
    if field.is_required():
        note = text("cli.required", takes=takes)
    elif any(field.default is nothing for nothing in (None, False, True, ())):  # 0 is a default worth showing
        note = text("cli.no_default", takes=takes)
    else:
        value = f"{field.default:g}" if isinstance(field.default, float) else field.default
        note = text("cli.default", takes=takes, value=value)
    return f"{text(f'option.{name}')} {note}"


def _switch_word(name: str, field: FieldInfo) -> str:
    key = "cli.switch_on" if field.default is True else "cli.switch"
    return text(key, opposite=f"--no_{name}")


def _type_word(bare: object) -> str:
    """The word for a value in help: `cosine|linear`, or whole number, number, path, text."""
    element = get_args(bare)[0] if get_origin(bare) is tuple else bare
    if get_origin(element) is Literal:
        return "|".join(get_args(element))
    return text(TYPE_WORDS.get(element, "cli.type.text"))
