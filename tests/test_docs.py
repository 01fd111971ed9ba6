"""Documentation runs: commands parse, named files exist, both languages say the same, screens are the catalogue's."""

import ast
import re
import shlex
import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import dropwhile
from pathlib import Path
from typing import Any

import pytest

from pangzhu import cli
from pangzhu.cli import options
from pangzhu.cli.flags import read_flags
from pangzhu.data import find_problems
from pangzhu.errors import UsageError
from pangzhu.messages import Language, catalogue, text
from tests.docs_scripts import docs_script

pytestmark = pytest.mark.untraced

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "pangzhu"
LESSON = ROOT / "第18_19周" / "操作.md"
HISTORY = ROOT / "docs" / "decisions.md"  # says what was, not what is
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if page != HISTORY]
READMES = sorted(ROOT.glob("README*.md"))
DOCUMENTS = [*READMES, *PAGES, LESSON]
OTHERS = (page for folder in ("tests", "benchmarks") for page in sorted((ROOT / folder).rglob("*.md")))
EVERY_DOCUMENT = [*sorted(ROOT.glob("*.md")), *PAGES, HISTORY, LESSON, *OTHERS]
CHINESE_PAGES = [page for page in DOCUMENTS if page.name.endswith(".zh-CN.md")]

MOST_README_LINES = 249
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELLS = ("bash", "sh", "powershell", "bat", "cmd")
SCRIPTS = {"src/finetune/train_lora.py": "train", "src/finetune/infer_lora.py": "chat"}
PATH = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|/[\w.-]+\.(?:py|md|jsonl?|csv|toml|ya?ml|txt|jinja|safetensors))")
MADE_BY_RUNS = ("run/", "lora_output/", "data/processed/", "previous-N/")  # in output folders, not in the repository
MODULE = re.compile(r"pangzhu((?:\.[a-z_]+)+)(?<!\.json)")
GENERAL_FLAGS = {"--help", "--version", "--no_"}
PLACEHOLDER = "\0"
SAYS_NOTHING = {
    "error.what",
    "error.where",
    "error.fix",
    "error.nearest",
    "finding.line",
    "warning.line",
    "warning.place",
}  # layouts

OWN_MACHINE = re.compile(r"(?<![\w.])/(?:root|work|home|Users)\b|[A-Za-z]:\\Users\\")
REGISTRY = re.compile(r"[\w.-]*(?:pypi|pythonhosted|artifactory|nexus|jfrog|devpi)[\w-]*\.[a-z]{2,}", re.IGNORECASE)
INDEX = re.compile(r"index-url[ =]+(?!https://download\.pytorch\.org/)\S+")  # torch's own CPU builds may be named


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `line` is that of its opening fence."""

    document: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block, as words."""

    block: Block
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.block} {' '.join(self.words[:3])}"


def read(document: Path) -> str:
    return document.read_text(encoding="utf-8")


def blocks(document: Path, *languages: str) -> Iterator[Block]:
    content = read(document)
    for found in FENCE.finditer(content):
        if not languages or found[1] in languages:
            yield Block(document, content.count("\n", 0, found.start()) + 1, found[1], found[2])


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return FENCE.sub("", read(document))


def spans(document: Path) -> list[str]:
    """What stands in backticks in the prose."""
    return re.findall(r"`([^`\n]+)`", prose(document))


def headings(document: Path) -> list[str]:
    return re.findall(r"^(#+ .*)$", prose(document), re.MULTILINE)


def table_rows(document: Path) -> list[str]:
    return re.findall(r"^(\|.*)$", prose(document), re.MULTILINE)


def commands_of(block: Block) -> Iterator[Command]:
    joined = re.sub(r"[\\`^]\n", " ", block.text)
    for line in joined.splitlines():
        for words in split_at_operators(shell_words(line)):
            if command := list(dropwhile(re.compile(r"[A-Z_]+=").match, words)):  # settings before a command
                yield Command(block, tuple(command))


def shell_words(line: str) -> list[str]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&")
    lexer.whitespace_split = True
    return list(lexer)


def split_at_operators(words: Iterable[str]) -> list[list[str]]:
    commands: list[list[str]] = [[]]
    for word in words:
        if set(word) <= set("|;&"):
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


def verb_line(words: tuple[str, ...]) -> list[str] | None:
    """What follows `pangzhu`, for a script of src/finetune its verb and its words; None for other programs."""
    match words:
        case ("pangzhu", *rest) | (("python" | "py"), "-m", "pangzhu", *rest):
            return rest
        case (("python" | "python3" | "py"), script, *rest) if script in SCRIPTS:
            return [SCRIPTS[script], *rest]
    return None


def verb(name: str) -> options.Verb[Any]:
    module, function = cli.VERBS[name]
    found: options.Verb[Any] = getattr(import_module(f"pangzhu.cli.{module}"), function)
    return found


def parse(words: list[str]) -> None:
    """Read a command line as the command line would.

    Raises:
        UsageError: a flag or a value does not fit.
    """
    flags, rest = read_flags(words)
    if flags.mistake:
        raise flags.mistake
    if rest and rest[0] not in ("--help", "-h", "help", "--version"):
        assert rest[0] in cli.VERBS, f"there is no verb {rest[0]}"
        options.parse(verb(rest[0]), rest[1:])


def language_of(document: Path) -> Language:
    return "zh" if document == LESSON or document.name.endswith(".zh-CN.md") else "en"


def partner(chinese: Path) -> Path:
    return chinese.with_name(chinese.name.replace(".zh-CN", ""))


COMMANDS = [command for page in DOCUMENTS for block in blocks(page, *SHELLS) for command in commands_of(block)]
OWN_COMMANDS = [command for command in COMMANDS if verb_line(command.words) is not None]
LESSON_COMMANDS = [
    command for command in COMMANDS if any(f"{LESSON.parent.name}/" in word for word in command.words[1:2])
]
EXAMPLES = [block for page in DOCUMENTS for block in blocks(page, "json")]
PYTHON = [block for page in DOCUMENTS for block in blocks(page, "python")]
SCREENS = [
    block
    for page in DOCUMENTS
    for block in blocks(page, "text")
    if re.search(r"^(Error: |错误：|Warning: |注意：)", block.text, re.MULTILINE)
]


# --- commands ----------------------------------------------------------------------------------------------------


def test_the_documents_show_commands() -> None:
    shown = {verb_line(command.words)[0] for command in OWN_COMMANDS}  # type: ignore[index]  # None was left out
    assert shown >= set(cli.VERBS) - {"models"}
    assert LESSON_COMMANDS


@pytest.mark.parametrize("command", OWN_COMMANDS, ids=str)
def test_every_command_fits_the_command_line(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = verb_line(command.words)
    assert words is not None
    if "--config" in words:
        examples = list(blocks(command.block.document, "yaml"))
        (tmp_path / words[words.index("--config") + 1]).write_text(examples[0].text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    parse(words)


@pytest.mark.parametrize("line", ["train --max_step 5 --output_dir x", "train", "chat --temperature warm"])
def test_a_command_that_does_not_fit_is_noticed(line: str) -> None:
    with pytest.raises(UsageError):
        parse(shell_words(line))


def test_a_line_is_read_as_a_shell_reads_it() -> None:
    block = Block(LESSON, 1, "bash", 'A=1 pangzhu chat \\\n  --prompt "问 题"  # comment\npangzhu models | head; ls\n')
    assert [command.words for command in commands_of(block)] == [
        ("pangzhu", "chat", "--prompt", "问 题"),
        ("pangzhu", "models"),
        ("head",),
        ("ls",),
    ]


@pytest.mark.parametrize("command", LESSON_COMMANDS, ids=str)
def test_the_lessons_scripts_are_shown_without_arguments(command: Command) -> None:
    assert len(command.words) == 2


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda page: page.name)
def test_every_flag_and_verb_in_the_text_exists(document: Path) -> None:
    known = GENERAL_FLAGS.union(*(options.flags(verb(name)) for name in cli.VERBS))
    named = [span.split()[0].split("=")[0].replace("-", "_") for span in spans(document) if span.startswith("--")]
    assert {f"--{flag.lstrip('_')}" for flag in named} - known == set()
    verbs = {span.split()[1] for span in spans(document) if re.match(r"pangzhu [a-z]", span)}
    assert verbs - set(cli.VERBS) == set()


# --- files and links ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda page: page.name)
def test_every_file_named_in_the_text_exists(document: Path) -> None:
    named = {span for span in spans(document) if PATH.fullmatch(span) and not span.startswith(MADE_BY_RUNS)}
    bases = (ROOT, ROOT / "src", SOURCE, document.parent)
    assert [path for path in sorted(named) if not any((base / path).exists() for base in bases)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda page: page.name)
def test_every_module_named_in_the_text_exists(document: Path) -> None:
    named = {found[1].split(".")[1] for span in spans(document) if (found := MODULE.fullmatch(span))}
    assert [name for name in named if not (SOURCE / name).is_dir() and not (SOURCE / f"{name}.py").is_file()] == []


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_every_repository_file_in_a_command_exists(command: Command) -> None:
    named = [word for word in command.words if PATH.fullmatch(word) and (ROOT / word.split("/")[0]).exists()]
    assert [word for word in named if not word.startswith(MADE_BY_RUNS) and not (ROOT / word).exists()] == []


@pytest.mark.parametrize("document", EVERY_DOCUMENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_internal_link_leads_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", prose(document))
    assert [target for target in targets if not leads_somewhere(target, document)] == []


def leads_somewhere(target: str, document: Path) -> bool:
    path, _, anchor = target.partition("#")
    page = document.parent / path if path else document
    return page.exists() and (not anchor or anchor in {slug(heading) for heading in headings(page)})


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lstrip("# ").lower()).replace(" ", "-")


# --- two languages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_every_page_is_there_in_both_languages(document: Path) -> None:
    stem = document.name.removesuffix(".md").removesuffix(".zh-CN")
    assert {f"{stem}.md", f"{stem}.zh-CN.md"} <= {page.name for page in document.parent.iterdir()}


@pytest.mark.parametrize("chinese", CHINESE_PAGES, ids=lambda page: page.name)
def test_both_languages_have_the_same_headings(chinese: Path) -> None:
    levels = [[heading.split()[0] for heading in headings(page)] for page in (partner(chinese), chinese)]
    assert levels[0] == levels[1]


@pytest.mark.parametrize("chinese", CHINESE_PAGES, ids=lambda page: page.name)
def test_both_languages_have_the_same_blocks(chinese: Path) -> None:
    languages = [[block.language for block in blocks(page)] for page in (partner(chinese), chinese)]
    assert languages[0] == languages[1]


@pytest.mark.parametrize("chinese", CHINESE_PAGES, ids=lambda page: page.name)
def test_both_languages_have_the_same_table_rows(chinese: Path) -> None:
    columns = [[row.count("|") for row in table_rows(page)] for page in (partner(chinese), chinese)]
    assert columns[0] == columns[1]


@pytest.mark.parametrize("chinese", CHINESE_PAGES, ids=lambda page: page.name)
def test_both_languages_show_the_same_commands(chinese: Path) -> None:
    assert shown_commands(partner(chinese)) == shown_commands(chinese)


def shown_commands(page: Path) -> list[list[str]]:
    """Each command without the texts that may be in the page's language: its program and its flags."""
    found = (command.words for block in blocks(page, *SHELLS) for command in commands_of(block))
    return [[*words[:2], *(word for word in words[2:] if word.startswith("-"))] for words in found]


# --- what is shown -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_options_table_is_the_generated_one(language: Language) -> None:
    script = docs_script("options_table")
    page = read(script.PAGES[language])
    assert page == script.TABLE.renewed(language), "run: python docs/options_table.py"


def test_the_options_table_lists_every_option_once() -> None:
    rows = re.findall(r"^\| `--(\w+)`", docs_script("options_table").options_table("en"), re.MULTILINE)
    fields = {name for verb_name in cli.VERBS for name in verb(verb_name).fields}
    assert sorted(rows) == sorted(fields | {"config", "lang", "json", "debug"})


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_every_data_example_can_be_trained_on(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "example.json"
    file.write_text(block.text, encoding="utf-8")
    assert find_problems(file).rejected == ()


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_every_python_example_is_python(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", SCREENS, ids=str)
def test_every_error_screen_says_what_the_catalogue_says(block: Block) -> None:
    language = language_of(block.document)
    said = [piece for line in block.text.splitlines() for piece in sentences(line)]
    assert [piece for piece in said if not is_said(piece, language)] == []


def test_the_lessons_table_of_errors_quotes_the_catalogue() -> None:
    rows = read(LESSON).partition("| 屏幕上的话 |")[2].partition("\n\n")[0].splitlines()[2:]
    quoted = [re.split(r"(?<!\\)\|", row)[1].strip().replace("\\|", "|") for row in rows]
    assert len(quoted) > 10
    assert [sentence for sentence in quoted if not is_said(sentence, "zh")] == []


def test_a_sentence_that_nobody_says_is_noticed() -> None:
    assert is_said("磁盘已满。", "zh")
    assert not is_said("磁盘快满了。", "zh")


def sentences(line: str) -> list[str]:
    """The sentences of a screen's line: its place and layout taken off; nothing for a picture or a list."""
    if line.startswith("    ") or not line.strip() or re.match(r"  (Where:|位置：)|  +\d+(–\d+)?  ", line):
        return []
    if found := re.match(r"Warning: |注意：", line):
        return line[found.end() :].split(" → ")
    if found := re.match(r"\S+\.jsonl:\d+(?: \w+)?(?:: |：)", line):
        return line[found.end() :].split(" → ")
    return [re.sub(r"^(Error: |错误：|  Fix:   |  办法：|  → )", "", line)]


def is_said(sentence: str, language: Language) -> bool:
    return any(pattern.fullmatch(sentence) for pattern in patterns(language))


@cache
def patterns(language: Language) -> tuple[re.Pattern[str], ...]:
    """Every line of every sentence of the catalogue, whatever is filled in."""
    lines = [
        line
        for key, sentence in catalogue(language).items()
        if key not in SAYS_NOTHING
        for line in unfilled(sentence).splitlines()
        if line.replace(PLACEHOLDER, "").strip()
    ]
    return tuple(re.compile(re.escape(line).replace(re.escape(PLACEHOLDER), ".*")) for line in lines)


def unfilled(sentence: str) -> str:
    """A sentence with one mark in place of each value."""
    parts = string.Formatter().parse(sentence)
    return "".join(literal + (PLACEHOLDER if name is not None else "") for literal, name, _, _ in parts)


def test_unfilled_sentences_keep_their_words() -> None:
    assert unfilled('a {{b}} {loss:.4f}"') == f'a {{b}} {PLACEHOLDER}"'
    assert text("error.what", what="x") == "Error: x"


# --- size and privacy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", READMES, ids=lambda page: page.name)
def test_a_readme_is_short(document: Path) -> None:
    assert len(read(document).splitlines()) <= MOST_README_LINES


@pytest.mark.parametrize("document", EVERY_DOCUMENT, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_document_names_a_machine_or_a_package_registry(document: Path) -> None:
    content = read(document)
    assert [found[0] for pattern in (OWN_MACHINE, REGISTRY, INDEX) for found in pattern.finditer(content)] == []
