"""Everything here is tiny: a second thread would only wait."""

import pytest


@pytest.fixture(autouse=True)
def _on_one_core(one_core: None) -> None:
    """See `one_core`."""
