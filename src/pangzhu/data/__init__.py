"""The first stage: a dataset file becomes conversations, each with the place it came from.

The way of a row: `encoding` (bytes to text) -> `reading` (text to raw rows: `json_rows`, `csv_rows`) -> `formats` (raw
row to conversation: alpaca, `messages`, ShareGPT) -> `dataset` (all of them, or every finding at once). Nothing is
repaired, guessed or left out in silence: what is wrong is named by file, line and field, with the remedy.

Beside that way: `quality` warns of rows that are right in form and yet worth a look: duplicates, contradictions, questions of
the evaluation file, personal data. Not here: token ids, lengths and templates (the next stages).

Try it: `load_dataset(Path("data/raw/instruct_tiny.jsonl")).conversations[0].turns`.
"""

from pangzhu.data.control_tokens import CONTROL_TOKENS, find_control_tokens
from pangzhu.data.conversation import Conversation, Location, Role, Turn
from pangzhu.data.dataset import Dataset, find_problems, load_dataset
from pangzhu.data.findings import BadRowsError, Finding, Notice, TooManyBadRowsError

__all__ = [
    "CONTROL_TOKENS",
    "BadRowsError",
    "Conversation",
    "Dataset",
    "Finding",
    "Location",
    "Notice",
    "Role",
    "TooManyBadRowsError",
    "Turn",
    "find_control_tokens",
    "find_problems",
    "load_dataset",
]
