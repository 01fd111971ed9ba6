"""The scripts in docs/ as modules: docs is no package, and what stands beside a script is importable when it runs."""

import sys
from functools import cache
from importlib import util
from pathlib import Path
from types import ModuleType

DOCS = Path(__file__).resolve().parents[1] / "docs"


@cache
def docs_script(name: str) -> ModuleType:
    """docs/NAME.py."""
    spec = util.spec_from_file_location(name, DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.path.insert(0, str(DOCS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(DOCS))
    return module
