"""The verb that serves models to other programs: `serve`."""

from pangzhu.cli.options import verb
from pangzhu.serve.options import ServeConfig


@verb(ServeConfig)
def serve(config: ServeConfig) -> None:
    """Serve base and adapters to programs that speak OpenAI's protocol, and a page to see them side by side."""
    from pangzhu.engines.choice import load_engine
    from pangzhu.export.kept import KeptGguf
    from pangzhu.serve.run import serve as run

    converter = KeptGguf()
    run(config, lambda chosen: load_engine(chosen, converter))
