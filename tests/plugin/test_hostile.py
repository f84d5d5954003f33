"""A plugin's own code may raise anything: the router gets an answer, and the plugin lives on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from polku import new_event
from polku.batch.batch import Batch
from polku.errors import UserCodeError
from polku.plugin.service import EmitterService, IngestorService
from polku.v1.plugin_pb2 import IngestRequest, PluginInfo
from tests.support.hostile import HOSTILE

INFO = PluginInfo(name="odd", version="1")


class AbortError(Exception):
    """Stand for grpc's, which ends a call."""


class Context:
    """Stand for the context of a call."""

    async def abort(self, status: Any, details: str) -> None:
        raise AbortError(details)


class Component:
    def __init__(self, error: type[BaseException], how: str) -> None:
        self.error = error
        self.how = how

    def _fail(self) -> Any:
        if self.how == "iterator":
            return iter(_Raising(self.error))
        raise self.error

    def ingest(self, data: bytes, context: object) -> Any:
        return self._later() if self.how == "async" else self._fail()

    def emit(self, batch: Batch) -> Any:
        return self._later() if self.how == "async" else self._fail()

    def health(self) -> Any:
        raise self.error

    async def _later(self) -> Any:
        await asyncio.sleep(0)
        raise self.error


class _Raising:
    def __init__(self, error: type[BaseException]) -> None:
        self.error = error

    def __iter__(self) -> _Raising:
        return self

    def __next__(self) -> Any:
        raise self.error


CASES = pytest.mark.parametrize(("error", "how"), [(e, h) for e in HOSTILE for h in ("sync", "async", "iterator")])


@CASES
async def test_what_an_ingestor_raises_ends_its_own_call(error: type[BaseException], how: str) -> None:
    service = IngestorService(Component(error, how), INFO, 2)
    async with asyncio.timeout(30):
        with pytest.raises(AbortError, match=error.__name__):
            await service._ingest(IngestRequest(source="s", data=b"x"), Context())


@CASES
async def test_what_an_emitter_raises_ends_its_own_call(error: type[BaseException], how: str) -> None:
    service = EmitterService(Component(error, how), INFO)
    request = Batch.from_events([new_event("x")]).payload
    async with asyncio.timeout(30):
        with pytest.raises(AbortError, match=error.__name__):
            await service._emit(request, Context())


@pytest.mark.parametrize("error", [*HOSTILE, StopIteration])
async def test_what_health_raises_is_an_answer(error: type[BaseException]) -> None:
    service = EmitterService(Component(error, "sync"), INFO)
    async with asyncio.timeout(30):
        answer = await service._health(None, None)  # type: ignore[arg-type]
    assert not answer.healthy
    assert error.__name__ in answer.message


async def test_a_hook_that_leaves_the_process_is_an_error_of_its_own() -> None:
    class Leaving(Component):
        def start(self) -> None:
            raise SystemExit(2)

    with pytest.raises(UserCodeError, match="SystemExit: 2"):
        await EmitterService(Leaving(ValueError, "sync"), INFO).open()
