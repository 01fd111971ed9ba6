"""The shape of the source: imports go one way, functions are small, everything public explains itself.

The figures are those of the style guide: the best general Python keeps them, no fine-tuning codebase does.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from statistics import median, quantiles

import pytest

import pangzhu

pytestmark = pytest.mark.untraced

SOURCE = Path(pangzhu.__file__).parent
LAYERS = (  # a module imports from its own line and from those below it
    {"__main__"},
    {"cli"},
    {
        "train",
        "check",
        "compare",
        "report",
        "card",
        "data_summary",
        "announcing",
        "serve",
        "export",
        "doctor",
        "demo",
        "measure",
        "run_plan",
    },
    {
        "plan",
        "account",
        "chat",
        "evaluate",
        "choices",
        "drift",
        "own_words",
        "engines",
        "trainer",
        "progress",
        "decisions",
        "estimate",
        "advice",
        "trackers",
        "validation",
        "restraint",
    },
    {"step", "batching", "preparation"},
    {"fast", "model", "adapter", "condition", "checkpoint", "vetting", "vllm"},
    {"template", "tokenization", "sources", "machine", "gate", "tables", "trial", "sealed", "row_index", "token_store"},
    {"intervals", "measures", "questions", "measured_rows"},
    {"data", "config"},
    {"storage"},
    {"messages", "errors", "json_text", "hiding"},
    {"examples", "pangzhu"},
)
LIGHT = ("data", "config", "storage", "messages", "errors", "cli")
HEAVY = ("torch", "transformers")
MOST_FILE_LINES = 400
MOST_FUNCTION_LINES = 60
MOST_PARAMETERS = 6
MEDIAN_FUNCTION_LINES = 12
P90_FUNCTION_LINES = 35


@dataclass(frozen=True)
class Import:
    """One import: what it names, in which file and line, whether it runs when the file is loaded."""

    target: str
    file: Path
    line: int
    at_load: bool

    @property
    def importer(self) -> str:
        return stage(".".join(["pangzhu", *self.file.relative_to(SOURCE).with_suffix("").parts]))

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line} imports {self.target}"


def stage(module: str) -> str:
    """`pangzhu.data.findings` -> `data`; the package itself -> `pangzhu`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__init__" else "pangzhu"


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def files() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def functions(file: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def num_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def imports(file: Path) -> Iterator[Import]:
    """Every import of a file, those inside functions and those for the type checker alone included."""
    yield from _imports(tree(file), file, at_load=True)


def _imports(node: ast.AST, file: Path, *, at_load: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, file, child.lineno, at_load) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (Import(target, file, child.lineno, at_load) for target in _targets(child))
        else:
            later = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _for_types_only(child)
            yield from _imports(child, file, at_load=at_load and not later)


def _targets(node: ast.ImportFrom) -> list[str]:
    """`from pangzhu import adapter` imports a module, `from pangzhu.adapter import x` a name of one."""
    if node.module == "pangzhu":
        modules = {path.stem for path in SOURCE.iterdir()}
        return [f"pangzhu.{alias.name}" if alias.name in modules else "pangzhu" for alias in node.names]
    return [node.module or ""]


def _for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own_imports() -> Iterator[Import]:
    for file in files():
        for found in imports(file):
            if found.target.split(".")[0] == "pangzhu" and stage(found.target) != found.importer:
                yield found


def layer(name: str) -> int:
    return next(number for number, names in enumerate(LAYERS) if name in names)


# --- imports -----------------------------------------------------------------------------------------------------


def test_every_module_has_its_layer() -> None:
    known = set().union(*LAYERS)
    modules = {path.stem for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - known - {"__init__"} == set()


def test_imports_go_one_way() -> None:
    upward = [str(found) for found in own_imports() if layer(stage(found.target)) < layer(found.importer)]
    assert not upward


def test_there_is_no_import_cycle() -> None:
    graph: dict[str, set[str]] = {}
    for found in own_imports():
        graph.setdefault(found.importer, set()).add(stage(found.target))
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_no_relative_imports() -> None:
    relative = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in files()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert not relative


def test_light_modules_import_nothing_heavy_themselves() -> None:
    heavy = [
        str(found)
        for file in files()
        for found in imports(file)
        if found.importer in LIGHT and found.at_load and found.target.split(".")[0] in HEAVY
    ]
    assert not heavy


def test_light_modules_load_nothing_heavy_through_others() -> None:
    modules = [
        ".".join(["pangzhu", *file.relative_to(SOURCE).with_suffix("").parts])
        for file in files()
        if Import("", file, 0, at_load=True).importer in LIGHT
    ]
    check = f"import sys, importlib\nfor name in {modules}: importlib.import_module(name)\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PYTHONPATH": str(SOURCE.parent), "PATH": ""},
    )
    assert not set(done.stdout.split()) & set(HEAVY)


# --- size --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", files(), ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_file_is_two_ideas(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= MOST_FILE_LINES


def test_no_function_is_long() -> None:
    long = [
        f"{file.relative_to(SOURCE)}:{function.lineno} {function.name}: {num_lines(function)}"
        for file in files()
        for function in functions(file)
        if num_lines(function) > MOST_FUNCTION_LINES
    ]
    assert not long


def test_most_functions_are_short() -> None:
    lengths = [num_lines(function) for file in files() for function in functions(file)]
    assert median(lengths) < MEDIAN_FUNCTION_LINES
    assert quantiles(lengths, n=10)[-1] < P90_FUNCTION_LINES


def test_no_function_takes_many_parameters() -> None:
    many = []
    for file in files():
        for function in functions(file):
            arguments = function.args
            names = [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > MOST_PARAMETERS:
                many.append(f"{file.relative_to(SOURCE)}:{function.lineno} {function.name}: {names}")
    assert not many


# --- habits ------------------------------------------------------------------------------------------------------


ANYTHING = {"Exception", "BaseException"}
SWALLOWERS = {  # where anything may be caught and goes no further, and why
    "cli/__init__.py": "the one place where nothing may pass: it is told and gives the exit code",
    "doctor/compute.py": "whatever importing torch raises is the finding",
    "serve/answers.py": "whoever waits for the answer must be told that none comes",
    "serve/models.py": "an adapter that cannot be loaded is told and refused by name, and the others go on",
    "sources/probe.py": "whatever went wrong, the hub was not reached",
    "trial/child.py": "what a template raises is told where it is used",
}
AGAIN = {  # loops that go on after an exception, and what ends them
    "chat.py converse": "the person who types the lines",
    "data/csv_rows.py _records": "the end of the text: every turn reads on",
    "sources/transfer.py patiently": "PATIENCE.tries in a row that bring nothing new",
    "trial/__init__.py _hand_over": "MOST_WAITING_SECONDS",
}
WAITERS = {
    "storage.py _patiently": "PAUSES",
    "sources/transfer.py _wait": "PATIENCE.longest_wait",
}  # and what bounds them
LEAVES = (ast.Raise, ast.Return, ast.Break)


def swallows(node: ast.AST) -> bool:
    """Whether it catches anything at all and does not end in raising again."""
    if isinstance(node, ast.ExceptHandler):
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        broad = any(kind is None or ast.unparse(kind) in ANYTHING for kind in caught)
        return broad and not isinstance(node.body[-1], ast.Raise)
    suppressing = isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress")
    return suppressing and any(ast.unparse(kind) in ANYTHING for kind in node.args)


def goes_on(node: ast.AST) -> bool:
    """Whether it is a loop without an end of its own that takes another turn after an exception."""
    endless = isinstance(node, ast.For) and re.match(
        r"(itertools\.)?(count|cycle|repeat|iter)\(", ast.unparse(node.iter)
    )
    handlers = (inner for inner in ast.walk(node) if isinstance(inner, ast.ExceptHandler))
    return bool(isinstance(node, ast.While) or endless) and any(not isinstance(h.body[-1], LEAVES) for h in handlers)


def waits(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "sleep"


def functions_with(found: Callable[[ast.AST], bool]) -> set[str]:
    """`file function` of all functions in which something is found."""
    return {
        f"{file.relative_to(SOURCE).as_posix()} {function.name}"
        for file in files()
        for function in functions(file)
        if any(found(node) for node in ast.walk(function))
    }


def test_no_exception_is_caught_without_saying_which() -> None:
    places = {file for file in files() for node in ast.walk(tree(file)) if swallows(node)}
    assert {file.relative_to(SOURCE).as_posix() for file in places} == SWALLOWERS.keys()


def test_whatever_is_tried_again_ends() -> None:
    assert functions_with(goes_on) == AGAIN.keys()
    assert functions_with(waits) == WAITERS.keys()


@pytest.mark.parametrize(
    "code",
    ["try: f()\nexcept: g()", "try: f()\nexcept BaseException: g()", "try: f()\nexcept (OSError, Exception) as e: g(e)",
     "with suppress(Exception): f()", "with contextlib.suppress(OSError, BaseException): f()"],
)  # fmt: skip
def test_a_swallowed_exception_is_noticed(code: str) -> None:
    assert any(swallows(node) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["try: f()\nexcept BaseException:\n g()\n raise", "try: f()\nexcept Exception as e:\n raise Mine(e) from e",
     "try: f()\nexcept OSError: g()", "with suppress(OSError): f()"],
)  # fmt: skip
def test_an_exception_that_is_raised_again_or_named_is_let_pass(code: str) -> None:
    assert not any(swallows(node) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["while True:\n try: return f()\n except OSError: pass", "for n in count():\n try: return f()\n except OSError: g()"],
)  # fmt: skip
def test_an_endless_retry_is_noticed(code: str) -> None:
    assert any(goes_on(node) for node in ast.walk(ast.parse(code)))


@pytest.mark.parametrize(
    "code",
    ["for pause in PAUSES:\n try: return f()\n except OSError: pass", "while True:\n try: f()\n except OSError: return"],
)  # fmt: skip
def test_a_loop_that_ends_is_let_pass(code: str) -> None:
    assert not any(goes_on(node) for node in ast.walk(ast.parse(code)))


def test_everything_public_explains_itself() -> None:
    silent = [
        f"{file.relative_to(SOURCE)}: {getattr(node, 'name', 'module')}"
        for file in files()
        for node in public(tree(file))
        if not ast.get_docstring(node)
    ]
    assert not silent


def public(
    node: ast.Module | ast.ClassDef,
) -> Iterator[ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """A module, its public classes and functions, and the public methods of those classes."""
    yield node
    for child in node.body:
        if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
            yield from public(child)
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield child


METHODS = {  # that change what is on the disk
    "write_text", "write_bytes", "touch", "unlink", "rename", "rmdir", "mkdir", "symlink_to", "hardlink_to", "chmod", "truncate",
    "save", "save_pretrained", "save_model",
}  # fmt: skip
FUNCTIONS = {
    "makedirs", "renames", "removedirs", "unlink", "rmdir", "mkdir", "mkdtemp", "mkstemp", "rmtree", "move", "copy", "copy2",
    "copyfile", "copyfileobj", "copytree", "symlink", "TemporaryDirectory", "NamedTemporaryFile", "save_file",
}  # fmt: skip
OF_OS = {"os.remove", "os.replace", "os.open", "os.link", "os.write", "os.fsync"}
OURS = ("storage.", "self._new.", "self._progress.")  # what is called by these names goes through storage
WRITERS = {  # who else writes, and why
    "storage.py": "the one way to the disk",
    "adapter.py": "peft and the tokenizer write themselves, into the staged folder",
    "sources/gguf_import.py": "transformers writes the converted model, into a scratch folder",
    "sources/gguf_tokenizer.py": "tokenizers writes itself, into the same",
    "export/merge.py": "safetensors writes itself, into a folder aside",
    "measure.py": "what is timed goes into a temporary folder and is thrown away",
    "cli/__init__.py": "closes standard output for a reader that has left",
}


def writing_calls(file: Path) -> Iterator[str]:
    """`line: call` of every call that changes the disk, as far as its name and its arguments tell."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Call) and _writes(node):
            yield f"{node.lineno}: {ast.unparse(node)[:80]}"


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    whole = ast.unparse(call.func)
    if whole.startswith(OURS):
        return False
    if whole in OF_OS:
        return True
    if name == "open":
        modes = [*call.args, *(keyword.value for keyword in call.keywords)]
        constants = [mode.value for mode in modes if isinstance(mode, ast.Constant) and isinstance(mode.value, str)]
        return any(len(mode) <= 3 and set(mode) & set("wax+") for mode in constants)
    if name == "replace":  # a text's takes two arguments, a dataclass's keywords
        return isinstance(call.func, ast.Attribute) and len(call.args) == 1 and not call.keywords
    return name in FUNCTIONS or (name in METHODS and isinstance(call.func, ast.Attribute))


def test_every_write_goes_through_storage() -> None:
    found = {str(file.relative_to(SOURCE).as_posix()) for file in files() if any(writing_calls(file))}
    assert found - WRITERS.keys() == set()


def test_no_exception_is_kept_for_a_module_that_does_not_write() -> None:
    assert [name for name in WRITERS if not any(writing_calls(SOURCE / name))] == []


@pytest.mark.parametrize(
    "code",
    ["path.write_text('x')", "open(path, 'w')", "path.open(mode='ab')", "path.open('rb+')", "os.replace(a, b)",
     "part.replace(target)", "shutil.rmtree(folder)", "path.unlink()", "tempfile.mkdtemp()", "torch.save(a, b)"],
)  # fmt: skip
def test_a_write_past_storage_is_noticed(code: str) -> None:
    assert _writes(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "code",
    ["path.open('rb')", "text.replace('a', 'b')", "replace(record, state='failed')", "storage.move(a, b)", "open(path)",
     "names.remove('a')", "path.open(encoding='utf-8')"],
)  # fmt: skip
def test_what_only_reads_is_let_pass(code: str) -> None:
    assert not _writes(ast.parse(code, mode="eval").body)  # type: ignore[arg-type]


def test_nobody_below_the_command_line_prints_or_exits() -> None:
    forbidden = [
        f"{file.relative_to(SOURCE)}:{node.lineno}"
        for file in files()
        for node in ast.walk(tree(file))
        if Import("", file, 0, at_load=True).importer not in ("cli", "messages", "__main__")
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("print", "sys.exit", "exit", "quit", "os._exit")
    ]
    assert not forbidden
