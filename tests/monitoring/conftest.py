"""What tests of the live page share."""

from __future__ import annotations

import pytest

from polku.monitoring import live


@pytest.fixture
def fast_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the page updated ten times a second."""
    monkeypatch.setattr(live, "_TICK_SECONDS", 0.1)
