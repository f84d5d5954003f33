"""Who is registered, with calls that come at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from polku.contracts import Ingestor
from polku.external.callback import Callback
from polku.external.caller import Caller
from polku.external.registration_rules import PluginRules
from polku.external.registry import Registry
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PluginInfo
from tests.buffer.parts import until
from tests.support.clock import FakeClock


class Routes:
    def serve(self, source: str, ingestor: Ingestor) -> None:
        raise AssertionError

    def expect_plugins(self, seconds: float) -> None:
        pass


class Slot:
    """Be told of addresses; answer when the test says so."""

    def __init__(self) -> None:
        self.told: list[str | None] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: type[BaseException] | None = None

    async def assign(self, name: str, where: Callback | None) -> None:
        if self.error is not None:
            raise self.error
        await self.gate.wait()
        self.told.append(None if where is None else where.address)


class Known(Registry):
    """Believe what plugins say about themselves: there is nobody to call back."""

    async def _call_back(self, info: PluginInfo, address: str, caller: Caller) -> Callback:
        return Callback(address, caller.token)


def registry(slot: Slot, clock: FakeClock | None = None) -> Known:
    rules = PluginRules(token="token", silent_after=10.0)
    return Known(rules, Routes(), {}, {"store": "outlet"}, slot.assign, clock or FakeClock())


def info() -> PluginInfo:
    return PluginInfo(name="store", version="1", type=PLUGIN_TYPE_EMITTER, emitter_name="store")


async def blocked(slot: Slot, work: Callable[[], Awaitable[object]]) -> asyncio.Future[object]:
    """Begin a call that stops where it tells the slot."""
    slot.gate.clear()
    call = asyncio.ensure_future(work())
    for _ in range(5):
        await asyncio.sleep(0)
    return call


async def test_a_heartbeat_beside_a_removal_leaves_no_slot_to_a_plugin_that_has_gone() -> None:
    slot = Slot()
    plugins = registry(slot)
    plugin_id = await plugins.register(info(), "host:1")
    leaving = await blocked(slot, lambda: plugins.unregister(plugin_id))
    beating = asyncio.ensure_future(plugins.heartbeat(plugin_id))
    await asyncio.sleep(0)
    slot.gate.set()
    await leaving
    assert await beating is False
    assert slot.told == ["host:1", None]


async def test_a_heartbeat_beside_a_new_registration_leaves_the_slot_to_the_newer_one() -> None:
    slot = Slot()
    plugins = registry(slot)
    before = await plugins.register(info(), "host:1")
    coming = await blocked(slot, lambda: plugins.register(info(), "host:2"))
    beating = asyncio.ensure_future(plugins.heartbeat(before))
    await asyncio.sleep(0)
    slot.gate.set()
    assert await plugins.heartbeat(str(await coming))
    assert await beating is False
    assert slot.told[-1] == "host:2"
    assert "host:1" not in slot.told[1:]


async def test_a_removal_beside_a_heartbeat_waits_for_it() -> None:
    slot = Slot()
    plugins = registry(slot)
    plugin_id = await plugins.register(info(), "host:1")
    beating = await blocked(slot, lambda: plugins.heartbeat(plugin_id))
    leaving = asyncio.ensure_future(plugins.unregister(plugin_id))
    await asyncio.sleep(0)
    slot.gate.set()
    assert await beating
    await leaving
    assert slot.told == ["host:1", "host:1", None]


@pytest.mark.parametrize("error", [ConnectionError, asyncio.CancelledError])
async def test_a_slot_that_cannot_be_reached_shows_until_it_can_and_the_watch_goes_on(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    slot, clock = Slot(), FakeClock()
    plugins = registry(slot, clock)
    plugins.rules = PluginRules(token="token", silent_after=0.01)
    monkeypatch.setattr(plugins.tasks, "_pause", 0.001)
    await plugins.register(info(), "host:1")
    slot.error = error
    clock.advance(60.0)
    await plugins.start()
    await until(lambda: error.__name__ in plugins.tasks.fault)
    slot.error = None
    await until(lambda: plugins.tasks.fault == "")
    assert slot.told == ["host:1", None]
    await plugins.close()
