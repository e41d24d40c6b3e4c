"""Every test of learning runs on one thread."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def _on_one_thread(one_thread: None) -> None:
    """See `one_thread`."""
