"""The model card: the adapter folder's README.md, saying in the user's language what the adapter is and what it reached."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pangzhu.config import LoraOptions, OptimizationOptions
from pangzhu.messages import text

if TYPE_CHECKING:
    from pangzhu.adapter import BaseRecord
    from pangzhu.config import TrainConfig


def model_card(config: "TrainConfig", base: "BaseRecord", result: Mapping[str, object]) -> str:
    """The card as Markdown with the front matter that model hubs read."""
    public = base.public_id or base.name
    front_matter = f"---\nbase_model: {public}\nlibrary_name: peft\ntags:\n- lora\n- pangzhu\n---\n"
    settings = config.model_dump(include={*LoraOptions.model_fields, *OptimizationOptions.model_fields})
    table = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    validation = text("card.validation", **result) if result.get("published_step") is not None else ""
    folder = config.output_dir.resolve().name
    return front_matter + text("card.body", base=public, settings=table, folder=folder, validation=validation, **result)
