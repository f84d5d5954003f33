"""What tests of the live page share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polku.monitoring import live
from tests.support.browser import Browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser for the tests of one file."""
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def fast_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the page updated ten times a second."""
    monkeypatch.setattr(live, "_TICK_SECONDS", 0.1)
