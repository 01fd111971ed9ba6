"""Which engine answers: the one asked for, else llama.cpp where it can, and it is said which.

llama.cpp is the faster one on a CPU. It needs xllamacpp, a GGUF file of the base and one of every adapter; what is missing is
the reason that is told, unless llama.cpp was asked for: then it is an error with its remedy.

Left to others: the engines themselves (`pangzhu.engines.transformers`, `pangzhu.engines.llamacpp`).
"""

from importlib.util import find_spec
from pathlib import Path

from pangzhu.adapter import CONFIG
from pangzhu.config import ChatConfig
from pangzhu.engines import Engine, llamacpp, transformers
from pangzhu.engines.llamacpp import GgufConverter
from pangzhu.engines.named_models import ChosenModels, choose_models
from pangzhu.errors import ResourceError
from pangzhu.messages import say, text
from pangzhu.model import read_json
from pangzhu.preparation import decide_device


def load_engine(config: ChatConfig, converter: GgufConverter | None = None) -> Engine:
    """Load base and adapters into the engine asked for, or the best one.

    Args:
        config: models, and which engine.
        converter: makes the GGUF files that are not here; None where nothing does.

    Raises:
        PangzhuError: base or adapter cannot be used, or not by this engine.
    """
    models = choose_models(config, config.adapter, allow_base_mismatch=config.allow_base_mismatch)
    reason = None if config.engine == "llamacpp" else _why_transformers(config, models, converter)
    if reason is None:
        try:
            engine = llamacpp.load_chosen(models, converter)
        except ResourceError as lacking:  # no room for a file that is to be made, no cache that can be written
            if config.engine == "llamacpp":
                raise
            reason = lacking.what
        else:
            say("engine.llamacpp")
            return engine
    say("engine.transformers", reason=reason)
    return transformers.load_chosen(models, config)


def _why_transformers(config: ChatConfig, models: ChosenModels, converter: GgufConverter | None) -> str | None:
    """Why llama.cpp does not answer; None where it does."""
    if config.engine == "transformers":
        return text("engine.reason.asked_for")
    if config.precision != "auto":
        return text("engine.reason.precision", precision=config.precision)
    if decide_device(config.device) != "cpu":
        return text("engine.reason.gpu")
    return _what_is_missing(models, converter)


def _what_is_missing(models: ChosenModels, converter: GgufConverter | None) -> str | None:
    """What llama.cpp would need and is not here."""
    if kept := next((adapter.name for adapter in models.adapters if _uses_dora(adapter.folder)), None):
        return text("engine.reason.dora", name=kept)
    if find_spec("xllamacpp") is None:
        return text("engine.reason.not_installed")
    return _what_cannot_be_made(models, converter)


def _what_cannot_be_made(models: ChosenModels, converter: GgufConverter | None) -> str | None:
    """Which GGUF file neither is here nor can be made."""
    if converter is None:
        missing = models.base.source.gguf is None, bool(models.adapters)
        keys = ("engine.reason.no_gguf", "engine.reason.no_lora_gguf")
        return next((text(key) for key, lacks in zip(keys, missing, strict=True) if lacks), None)
    obstacle = None if models.base.source.gguf else converter.obstacle(models.base)
    return obstacle.what if obstacle else None


def _uses_dora(adapter: Path) -> bool:
    """A magnitude beside the direction, which a LoRA-GGUF has no place for."""
    return bool(read_json(adapter / CONFIG).get("use_dora"))
