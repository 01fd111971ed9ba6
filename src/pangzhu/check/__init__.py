"""`check(config) -> CheckResult`: what training would find wrong with a dataset, and what it would learn of each row.

Rows are read, looked through for what is worth a warning (`pangzhu.data.quality`), tokenized and labelled by the code that
training uses, a few hundred at a time, and only counted: 100,000 rows take little memory. `--html` writes each row's
tokens into a page as they come by.

The parts: `checking` (the stage), `result` (what is shown and printed as JSON), `distribution` (lengths and shares),
`anatomy` (which tokens the template wrote, which people wrote), `page` (the HTML page).

Try it: `print(check(CheckConfig(dataset_path="my.jsonl", html="my.html")).render())`.
"""

from pangzhu.check.checking import check
from pangzhu.check.result import CheckResult

__all__ = ["CheckResult", "check"]
