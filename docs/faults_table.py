"""The table of faults in docs/faults.md and docs/faults.zh-CN.md, made from the tests.

A test says which fault it shows by `@pytest.mark.fault("B3")` above it (or `pytestmark` for a whole file); here the tests
are read, not run. `python docs/faults_table.py` writes the table between the two marks of both pages; tests/test_faults.py
fails where a page is stale, where a mark names no row, and where a row has neither a test nor a reason.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from page_marks import Generated

from pangzhu.messages import Language

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGES: dict[Language, Path] = {"en": HERE / "faults.md", "zh": HERE / "faults.zh-CN.md"}
MARK = "pytest.mark.fault"


@dataclass(frozen=True)
class Row:
    """A fault and what is to happen, in both languages."""

    number: str
    en: tuple[str, str]
    zh: tuple[str, str]


ROWS = (
    Row(
        "A1",
        (
            "crash at each write of a save, before it and half way",
            "an earlier checkpoint is whole; the next start goes on or refuses",
        ),
        ("保存时在每一次写入之前或写到一半崩溃", "较早的检查点完好；下次启动时继续或拒绝"),
    ),
    Row(
        "A2",
        ("power loss: what was not synced is gone, cut or zero", "as A1"),
        ("断电：没有落盘的内容丢失、截断或变成零", "同 A1"),
    ),
    Row(
        "A3",
        ("killed while reading, tokenizing, stepping, saving, evaluating, publishing", "as A1"),
        ("在读取、分词、训练、保存、评估、发布时被强行终止", "同 A1"),
    ),
    Row(
        "A4",
        ("Ctrl-C or SIGTERM once; twice", "the step is finished and saved, exit 130 or 143; leaves at once"),
        ("一次 Ctrl-C 或 SIGTERM；两次", "做完这一步并保存，退出码 130 或 143；立即退出"),
    ),
    Row(
        "A5",
        (
            "disk full in save, publish, metrics, merge, export",
            "known beforehand, or exit 5; nothing half is published",
        ),
        ("保存、发布、记录、合并、导出时磁盘已满", "事先得知，或退出码 5；不发布半成品"),
    ),
    Row(
        "A6",
        ("read-only folder, a path that is a file, a folder deleted in mid-run", "exit 5, one clear error"),
        ("只读文件夹、路径是文件、训练途中文件夹被删", "退出码 5，一条清楚的错误"),
    ),
    Row(
        "A7",
        ("two runs on one output folder", "the second exits 7 and names the first; a stale lock is taken over"),
        ("两个训练用同一个输出文件夹", "后一个以 7 退出并指出前一个；失效的锁会被接管"),
    ),
    Row(
        "A8",
        ("the output folder holds another run", "refused with the difference; never mixed"),
        ("输出文件夹里是另一次训练", "列出差异并拒绝；绝不混在一起"),
    ),
    Row(
        "A9",
        ("a file held open by another process (Windows)", "tries again for up to 5 s; the old file is whole"),
        ("文件被另一个进程占用（Windows）", "最多重试 5 秒；旧文件完好"),
    ),
    Row(
        "A10",
        ("the clock goes back; file times are wrong", "order by step number"),
        ("时钟倒退；文件时间有误", "按步数排序"),
    ),
    Row(
        "A11",
        ("out of memory", "planned for; the longest micro-batch first; the budget is halved, the optimizer steps stay"),
        ("内存不足", "事先计划；先试最长的微批；预算减半，优化步不变"),
    ),
    Row(
        "A12",
        (
            "NaN or infinite loss, exploding gradient, a run that learns nothing",
            "exit 6 or 8, the rows named, nothing published",
        ),
        ("损失为 NaN 或无穷、梯度爆炸、什么也没学到", "退出码 6 或 8，指出是哪些行，不发布任何东西"),
    ),
    Row(
        "A13",
        ("the machine sleeps", "the run goes on; the estimate comes right again"),
        ("机器休眠", "训练继续；剩余时间的估计会恢复"),
    ),
    Row(
        "B1",
        (
            "each checkpoint file missing, cut, flipped in one bit, with bytes to spare",
            "set aside, the older one is used, and it says so",
        ),
        ("检查点的任一文件缺失、截断、一位翻转、多出字节", "放到一边，改用较早的，并说明"),
    ),
    Row(
        "B2",
        ("adapter weights cut, flipped, NaN, of another type, tensors too many or few", "refused, the tensor named"),
        ("适配器权重被截断、翻转、含 NaN、类型不对、张量多了或少了", "拒绝，指出张量"),
    ),
    Row(
        "B3",
        (
            "adapter_config.json not JSON, of another type, r wrong, deep, 10 MB, paths with `..`",
            "refused, the field named",
        ),
        ("adapter_config.json 不是 JSON、类型不对、r 有误、嵌套过深、10 MB、路径含 `..`", "拒绝，指出字段"),
    ),
    Row(
        "B4",
        ("wrong base: sizes, layers, weights, tokenizer, template", "refused, the parts named that differ"),
        ("基座不对：尺寸、层数、权重、分词器、模板", "拒绝，指出哪些部分不同"),
    ),
    Row(
        "B5",
        ("a pickle in place of safetensors", "refused; a canary inside does not run"),
        ("用 pickle 代替 safetensors", "拒绝；其中的探针没有运行"),
    ),
    Row(
        "B6",
        (
            "base folder not whole: a shard is missing, a git-lfs pointer, a web page",
            "the file named, and how to fetch it again",
        ),
        ("基座文件夹不完整：缺分片、git-lfs 指针、网页", "指出文件，并说明怎样重新获取"),
    ),
    Row(
        "B7",
        ("`auto_map`, `trust_remote_code`, kernel names in config.json", "refused; no option turns it on"),
        ("config.json 里有 `auto_map`、`trust_remote_code`、kernel 名称", "拒绝；没有任何选项能打开"),
    ),
    Row(
        "B8",
        (
            "a chat template that loops, explodes or reaches for attributes",
            "refused: by the sandbox, or at 2 s of computing, 512 MB, 1 MB of text",
        ),
        ("对话模板死循环、爆炸或去够不该碰的属性", "拒绝：由沙箱，或在计算满 2 秒、内存 512 MB、文本 1 MB 时"),
    ),
    Row(
        "C1",
        (
            "byte order mark, UTF-16, GB18030, encodings mixed",
            "read, or refused with the command to convert; never U+FFFD",
        ),
        ("BOM、UTF-16、GB18030、编码混用", "读取，或给出转换命令并拒绝；绝不产生 U+FFFD"),
    ),
    Row(
        "C2",
        ("CRLF, CR, U+2028 in texts, no last line break, blank lines", "the same rows"),
        ("CRLF、CR、文本里有 U+2028、结尾没有换行、空行", "得到同样的行"),
    ),
    Row(
        "C3",
        ("list, lines, `data` key, objects one after another, a wrong extension", "told apart, and said"),
        ("列表、逐行、`data` 键、对象连写、扩展名不对", "分辨清楚并说明"),
    ),
    Row(
        "C4",
        (
            "last line cut; one bad row among many",
            "stops with line and caret; `--skip_bad` up to 1%, what is left out is kept in a file",
        ),
        ("最后一行被截断；许多行里有一行坏的", "停下并指出行和位置；`--skip_bad` 最多略去 1%，略去的另存"),
    ),
    Row(
        "C5",
        (
            "duplicate keys, NaN, 1e999, lone surrogates, wrong types, depth 100,000",
            "the row is refused with the reason",
        ),
        ("重复的键、NaN、1e999、孤立代理、类型不对、嵌套十万层", "拒绝该行并说明原因"),
    ),
    Row(
        "C6",
        ("empty file, empty answers, missing fields, roles out of order", "counted and listed; an error"),
        ("空文件、空答案、缺字段、角色次序不对", "计数并列出；报错"),
    ),
    Row(
        "C7",
        ("a row longer than the limit, a row of megabytes, an answer cut to nothing", "counted and listed; an error"),
        ("超过上限的行、几兆字节的一行、答案被截得一点不剩", "计数并列出；报错"),
    ),
    Row(
        "C8",
        ("100,000 rows; a file of 1 GB", "bounded memory"),
        ("十万行；1 GB 的文件", "内存有界"),
    ),
    Row(
        "C9",
        ("control tokens in questions, in answers", "neutralised; in answers an error until allowed"),
        ("问题里、答案里有控制词元", "化为普通文本；答案里的要先允许"),
    ),
    Row(
        "C10",
        (
            "duplicates, near duplicates, one question with two answers, rows of the evaluation file, personal data",
            "warnings with place and count",
        ),
        ("重复、近似重复、一问两答、与评测文件重合、个人信息", "警告，带位置和数量"),
    ),
    Row(
        "D1",
        (
            "the hub drops, trickles, answers 416, 429, 5xx or HTML; its name is not known",
            "goes on, backs off, then names the other ways",
        ),
        ("模型站断线、滴流、返回 416、429、5xx 或网页；域名无法解析", "继续、退避，然后给出别的办法"),
    ),
    Row(
        "D2",
        ("offline, the cache whole or in part", "works, or names the missing file"),
        ("离线，缓存完整或不完整", "可用，或指出缺哪个文件"),
    ),
    Row(
        "D3",
        ("other bytes than promised", "refused"),
        ("内容与承诺的不符", "拒绝"),
    ),
    Row(
        "D5",
        ("gated, private, token expired", "says so; the token is never printed"),
        ("需要授权、私有、令牌过期", "说明情况；绝不打印令牌"),
    ),
)

GROUPS: dict[str, dict[Language, str]] = {
    "A": {"en": "Crashes, disks, signals, memory", "zh": "崩溃、磁盘、信号、内存"},
    "B": {"en": "Damaged and hostile files", "zh": "损坏的与恶意的文件"},
    "C": {"en": "Data", "zh": "数据"},
    "D": {"en": "Hubs", "zh": "模型站"},
}

# Rows that a test in process cannot show; how to see them all the same.
ELSEWHERE: dict[str, dict[Language, str]] = {
    "A13": {
        "en": "on a laptop: close the lid for some minutes during `pangzhu train`",
        "zh": "在笔记本上：运行 `pangzhu train` 时合上盖子几分钟",
    },
}

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "head": "| # | fault | what is to happen | tests |",
        "by_hand": "by hand, {how}",
        "count": "{tests} tests for {rows} of {all} faults; by hand: {by_hand}.",
    },
    "zh": {
        "head": "| # | 故障 | 应当发生什么 | 测试 |",
        "by_hand": "手工，{how}",
        "count": "{tests} 个测试，覆盖 {all} 种故障中的 {rows} 种；手工：{by_hand}。",
    },
}


@dataclass(frozen=True, order=True)
class Shown:
    """A test and the file it stands in, relative to the repository."""

    file: str
    name: str

    @property
    def link(self) -> str:
        """Its name as a link, from a page in docs/."""
        return f"[`{self.name}`](../{self.file})"


def shown_by_fault(root: Path = ROOT) -> dict[str, list[Shown]]:
    """Every marked test, by the rows its marks name, in the order of files and lines."""
    found: dict[str, list[Shown]] = defaultdict(list)
    for file in sorted((root / "tests").rglob("test_*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"), str(file))
        whole_file = list(_marks_of_file(tree))
        for test in _tests(tree):
            for row in dict.fromkeys([*whole_file, *_rows(test.decorator_list)]):
                found[row].append(Shown(file.relative_to(root).as_posix(), test.name))
    return dict(found)


def faults_table(language: Language) -> str:
    """Every group of faults as Markdown: a heading and a table."""
    return "\n".join(_lines(language, shown_by_fault()))


def _tests(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"))


def _marks_of_file(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark":
            yield from _rows(node.value.elts if isinstance(node.value, ast.List | ast.Tuple) else [node.value])


def _rows(marks: list[ast.expr]) -> Iterator[str]:
    for mark in marks:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == MARK:
            yield from (str(ast.literal_eval(argument)) for argument in mark.args)


def _lines(language: Language, tests: dict[str, list[Shown]]) -> Iterator[str]:
    words = WORDS[language]
    shown = {test for row in tests.values() for test in row}
    by_hand = ", ".join(number for number in ELSEWHERE if number not in tests)
    yield words["count"].format(tests=len(shown), rows=len(tests), all=len(ROWS), by_hand=by_hand)
    for letter, titles in GROUPS.items():
        yield from ("", f"## {titles[language]}", "", words["head"], "|---|---|---|---|")
        for row in ROWS:
            if row.number[0] == letter:
                fault, outcome = row.en if language == "en" else row.zh
                yield f"| {row.number} | {fault} | {outcome} | {_cell(row.number, language, tests)} |"


def _cell(number: str, language: Language, tests: dict[str, list[Shown]]) -> str:
    if number in tests:
        return "<br>".join(test.link for test in tests[number])
    return WORDS[language]["by_hand"].format(how=ELSEWHERE[number][language])


TABLE = Generated("faults", PAGES, faults_table)

if __name__ == "__main__":
    TABLE.write()
