"""Tests of channels run on both event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The event loop that asyncio brings along, and the one that gateways use where it is there."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
