"""Actors within the tests' own process leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from polku.emit import console


@pytest.fixture(autouse=True)
def own_console() -> Iterator[None]:
    """An emitter's actor makes a relay the console of its process: nobody would fetch what later tests print."""
    before = console.current()
    yield
    console.use(before)
