"""The verbs that carry an adapter elsewhere: `merge`, `export`."""

from pangzhu.cli.console import Rendered
from pangzhu.cli.options import verb
from pangzhu.export.options import ExportConfig, MergeConfig

NOT_OFFERED = ("precision",)  # the gate computes in float32
MERGE_FIELDS = tuple(name for name in MergeConfig.model_fields if name not in NOT_OFFERED)
EXPORT_FIELDS = tuple(name for name in ExportConfig.model_fields if name not in NOT_OFFERED)


@verb(MergeConfig, only=MERGE_FIELDS)
def merge(config: MergeConfig) -> Rendered:
    """Merge an adapter into its base: a plain model folder."""
    from pangzhu.export.merge import merge as run

    return run(config)


@verb(ExportConfig, positional=("format", "gguf|ollama"), only=EXPORT_FIELDS)
def export(config: ExportConfig) -> Rendered:
    """Write GGUF files, and for Ollama a Modelfile."""
    from pangzhu.export.gguf import export as run

    return run(config)
