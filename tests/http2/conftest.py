"""A client of one connection."""

from __future__ import annotations

import pytest

from tests.http2.peer import Client


@pytest.fixture
async def client() -> Client:
    client = Client()
    client.greet()
    return client
