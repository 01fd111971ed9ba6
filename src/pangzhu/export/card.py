"""The model card of a merged folder: what it was made of, how it compares with its adapter, how it is used."""

from typing import TYPE_CHECKING

import yaml

from pangzhu.export.subject import Subject
from pangzhu.messages import text

if TYPE_CHECKING:
    from pangzhu.export.parity import Parity

USE = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained({name!r}, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained({name!r})
```"""


def model_card(subject: Subject, parity: "Parity | None", *, folder_name: str) -> str:
    """The card in the language in force, with the front matter that model hubs read.

    Args:
        subject: what was merged.
        parity: what the gate found; None where it was left out.
        folder_name: whoever gets the folder puts it elsewhere, and keeps its name.
    """
    known: dict[str, object] = {}
    if subject.base.source.public_id:
        known = {"base_model": subject.base.source.public_id, "base_model_relation": "finetune"}
    known |= {"library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["lora", "merged", "pangzhu"]}
    sha256 = subject.origin().get("adapter_sha256")
    parts = [
        f"---\n{yaml.safe_dump(known, sort_keys=False, allow_unicode=True)}---\n\n# {folder_name}",
        text("export.card.intro", base=subject.base_name, adapter=subject.name, sha256=sha256),
        f"## {text('export.card.parity')}",
        _parity(parity),
        f"## {text('report.use')}",
        USE.format(name=folder_name),
        text("export.card.greedy"),
        text("card.trust"),
    ]
    return "\n\n".join(parts) + "\n"


def _parity(parity: "Parity | None") -> str:
    if parity is None:
        return text("export.card.not_verified")
    head, *lines = parity.rows()
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)
