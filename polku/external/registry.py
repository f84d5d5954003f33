"""The plugins that registered themselves: taken in after a call back, kept while they give signs of life."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from polku.aio.tasks import TaskSet
from polku.clock import Clock, SystemClock
from polku.contracts import Ingestor
from polku.emit.grpc.addresses import parse_address
from polku.errors import PlanError, PolkuError
from polku.external.callback import Callback, locate
from polku.external.caller import ANYBODY, Caller
from polku.external.client import CallError, ask_once
from polku.external.connection import PluginConnection
from polku.external.info_checks import emitter_fault, ingestor_fault, routing_name
from polku.external.plugin_ingestor import PluginIngestor
from polku.external.registration_rules import PluginRules
from polku.external.unavailable import Absent
from polku.hooks import close_each
from polku.ids import new_id
from polku.log import RepeatedLog
from polku.text import said, span
from polku.usercode import is_ours
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PLUGIN_TYPE_INGESTOR, PluginInfo

if TYPE_CHECKING:
    from polku.security.account import Account

_LOG = logging.getLogger(__name__)
_REPEATED = RepeatedLog(_LOG)
_CONCURRENCY = 64
_MOST_SOURCES = 1_000
_CALLBACKS = 8  # at once
_SWEEP = "silent plugins"

Assign = Callable[[str, Callback | None], Awaitable[None]]


class RefusedError(PolkuError):
    """Say why a plugin was not taken in."""


class Routes(Protocol):
    """Where the sources of plugins are put: the ingestors of an intake."""

    def serve(self, source: str, ingestor: Ingestor) -> None:
        """Let an ingestor serve a source from now on."""
        ...

    def expect_plugins(self, seconds: float) -> None:
        """Answer UNAVAILABLE for unknown sources for so long."""
        ...


@dataclass
class _Entry:
    plugin_id: str
    info: PluginInfo
    where: Callback
    heard: float
    owner: str = ""
    ingestor: PluginIngestor | None = None
    sources: Sequence[str] = ()
    slot: str | None = field(default=None)


class Registry:
    """Take plugins in and out.

    `taken` are the sources that the pipeline serves itself, with what serves them; `slots` its `PluginSlot`s by name,
    with the names of their outlets; `assign` tells an outlet where its plugin is, or None. An answer of a registered
    ingestor may have `answer_bytes`.
    """

    def __init__(
        self,
        rules: PluginRules,
        routes: Routes,
        taken: Mapping[str, str],
        slots: Mapping[str, str],
        assign: Assign,
        clock: Clock | None = None,
        *,
        answer_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.rules = rules
        self._answer_bytes = answer_bytes
        self._routes = routes
        self._taken = dict(taken)
        self._slots = dict(slots)
        self._assign = assign
        self._clock = clock or SystemClock()
        self._entries: dict[str, _Entry] = {}
        self._gone: set[str] = set()
        self._turn = asyncio.Lock()
        self._callbacks = asyncio.Semaphore(_CALLBACKS)
        self.tasks = TaskSet("plugin registry")
        self._is_started = False

    async def start(self) -> None:
        """Begin to look for plugins that are silent."""
        if self._is_started:  # a port is opened again
            return
        self._is_started = True
        self._routes.expect_plugins(self.rules.silent_after)
        self.tasks.keep_alive(_SWEEP, self._sweep)

    async def close(self) -> None:
        """Let go of every plugin."""
        await self.tasks.close()
        entries, self._entries = self._entries, {}
        await close_each(
            (f"plugin {entry.info.name!r}", entry.ingestor.close)
            for entry in entries.values()
            if entry.ingestor is not None
        )

    async def register(self, info: PluginInfo, address: str, caller: Caller = ANYBODY) -> str:
        """Call the plugin back and take it in; returns its id, raises `RefusedError`.

        A plugin that is known by the same name is replaced, where it is of the same principal. Others go on meanwhile.
        """
        self._refuse_conflicts(info, caller)
        where = await self._call_back(info, address, caller)
        async with self._turn:
            self._refuse_conflicts(info, caller)  # others may have come meanwhile
            entry = _Entry(new_id(), info, where, self._clock.monotonic(), caller.owner)
            before = next((e for e in self._entries.values() if e.info.name == info.name), None)
            if info.type == PLUGIN_TYPE_INGESTOR:
                await self._admit_ingestor(entry, caller.account)
            else:
                await self._admit_emitter(entry)
            self._entries[entry.plugin_id] = entry
            if before is not None:
                await self._remove(before, f"plugin {info.name!r} registered again without it", alarm=True, by=entry)
            _REPEATED.info(info.name, "plugin %r %s at %s is registered", info.name, info.version, where.address)
            return entry.plugin_id

    async def heartbeat(self, plugin_id: str, caller: Caller = ANYBODY) -> bool:
        """Note a sign of life; False where the plugin is not known (any more), or another principal's."""
        entry = self._entries.get(plugin_id)
        if entry is None or entry.owner != caller.owner or caller.fault(entry.info):
            return False
        entry.heard = self._clock.monotonic()
        if entry.slot is None:
            return True
        async with self._turn:  # it may be taken out, or replaced, meanwhile: then its slot is another's, or nobody's
            if plugin_id not in self._entries:
                return False
            await self._assign(self._slots[entry.slot], entry.where)  # the emitter may have been restarted since
            return True

    async def unregister(self, plugin_id: str, caller: Caller = ANYBODY) -> None:
        """Take a plugin out; an unknown id, or that of another principal's plugin, is no error."""
        async with self._turn:
            entry = self._entries.get(plugin_id)
            if entry is not None and entry.owner == caller.owner:
                await self._remove(entry, f"plugin {entry.info.name!r} has unregistered", alarm=False)

    async def remove_silent(self) -> None:
        """Take out what has been silent for too long."""
        async with self._turn:
            fault: BaseException | None = None
            for entry in list(self._entries.values()):
                silence = self._clock.monotonic() - entry.heard
                if silence > self.rules.silent_after:
                    reason = f"plugin {entry.info.name!r} has given no sign of life for {span(silence)}"
                    _REPEATED.warning((entry.info.name, "silent"), "%s: it is taken out", reason)
                    try:
                        await self._remove(entry, reason, alarm=True)
                    except BaseException as error:  # a slot that cannot be reached keeps no other from it
                        if is_ours(error):
                            raise
                        fault = error
            if fault is not None:
                raise fault

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(min(1.0, self.rules.silent_after / 4))
            await self.remove_silent()
            self.tasks.works(_SWEEP)

    def _refuse_conflicts(self, info: PluginInfo, caller: Caller) -> None:
        if not info.name:
            raise RefusedError("info.name is empty; set it")
        if fault := caller.fault(info):
            raise RefusedError(fault)
        known = next((entry for entry in self._entries.values() if entry.info.name == info.name), None)
        if known is not None and known.owner != caller.owner:
            raise RefusedError(f"plugin {info.name!r} is registered by another principal; choose another name")
        others = [entry for entry in self._entries.values() if entry.info.name != info.name]
        if info.type == PLUGIN_TYPE_INGESTOR:
            self._refuse_sources(info, others)
        elif info.type == PLUGIN_TYPE_EMITTER:
            self._refuse_slot(info, others)
        else:
            raise RefusedError(f"info.type={info.type}; set PLUGIN_TYPE_INGESTOR or PLUGIN_TYPE_EMITTER")

    def _refuse_sources(self, info: PluginInfo, others: Sequence[_Entry]) -> None:
        if not info.sources or not all(info.sources):
            raise RefusedError(f"info.sources={list(info.sources)}; name the sources that the plugin serves")
        for source in info.sources:
            if source in self._taken:
                raise RefusedError(
                    f"source {source!r} is served by {self._taken[source]} of the pipeline; "
                    f"plugin {info.name!r} cannot have it"
                )
            for other in others:
                if source in other.sources:
                    raise RefusedError(
                        f"source {source!r} is served by plugin {other.info.name!r} at {other.where.address}; "
                        f"plugin {info.name!r} cannot have it as well"
                    )
        known = self._gone.union(info.sources, *(other.sources for other in others))
        if len(known) > _MOST_SOURCES:
            raise RefusedError(f"there would be {len(known)} sources of plugins, the limit is {_MOST_SOURCES}")

    def _refuse_slot(self, info: PluginInfo, others: Sequence[_Entry]) -> None:
        name = routing_name(info)
        if name not in self._slots:
            reserved = ", ".join(map(repr, self._slots)) or "none"
            fix = f"add .emitter(PluginSlot({name!r})); it keeps places for {reserved}"
            raise RefusedError(f"the pipeline keeps no place for emitter {name!r}: {fix}")
        for other in others:
            if other.slot == name:
                raise RefusedError(
                    f"emitter {name!r} is plugin {other.info.name!r} at {other.where.address}; "
                    f"plugin {info.name!r} cannot be it as well"
                )

    async def _call_back(self, info: PluginInfo, address: str, caller: Caller) -> Callback:
        """Return where the plugin is, once it has answered there as what it registers as; raises `RefusedError`.

        What went wrong is in the log alone: else whoever registers could find out what else answers in this network.
        """

        def check(answer: PluginInfo) -> str:
            if answer.name != info.name:
                return f"Info: expected the name that was registered, {info.name!r}, got {answer.name!r}"
            if info.type == PLUGIN_TYPE_INGESTOR:
                return ingestor_fault(answer, info.sources)
            return emitter_fault(answer, routing_name(info))

        service = "IngestorPlugin" if info.type == PLUGIN_TYPE_INGESTOR else "EmitterPlugin"
        try:
            target = parse_address("Register", address)
        except PlanError as error:
            raise RefusedError(f"address: {error.message}") from None
        to, fault = await locate(target, caller.host, self.rules.addresses)
        if fault:
            raise RefusedError(f"address={address[:200]!r} {fault}")
        where = Callback(f"https://{to}" if target.tls else to, caller.token)
        try:
            async with self._callbacks:
                await ask_once(service, self._connection(where), check)
        except (PlanError, CallError) as error:
            _REPEATED.warning(
                (info.name, "called back"), "plugin %r is refused: called back: %s", info.name, said(error)
            )
            what = f"{where.address} does not answer as the {service} {info.name!r}"
            raise RefusedError(f"called back: {what}; the log of the gateway says why") from None
        return where

    async def _admit_ingestor(self, entry: _Entry, account: Account | None) -> None:
        entry.sources = tuple(entry.info.sources)
        entry.ingestor = PluginIngestor(entry.sources, self._connection(entry.where), _CONCURRENCY, account)
        await entry.ingestor.start()
        for source in entry.sources:
            self._routes.serve(source, entry.ingestor)
            self._gone.discard(source)

    async def _admit_emitter(self, entry: _Entry) -> None:
        entry.slot = routing_name(entry.info)
        await self._assign(self._slots[entry.slot], entry.where)

    async def _remove(self, entry: _Entry, reason: str, *, alarm: bool, by: _Entry | None = None) -> None:
        """Take an entry out; what its successor has from now on stays in place."""
        if entry.slot is not None and (by is None or by.slot != entry.slot):
            await self._assign(self._slots[entry.slot], None)  # where it fails, the entry stays to be tried again
        self._entries.pop(entry.plugin_id, None)
        for source in entry.sources:
            if by is None or source not in by.sources:
                self._routes.serve(source, Absent(reason, alarm=alarm))
                self._gone.add(source)
        if entry.ingestor is not None:
            self._retire(entry.ingestor)

    def _retire(self, ingestor: PluginIngestor) -> None:
        """Close an ingestor once the calls that are open have had their time."""

        async def close_later() -> None:
            try:
                await asyncio.sleep(self.rules.timeout)
            finally:
                await ingestor.close()

        self.tasks.start("closing", close_later())

    def _connection(self, where: Callback) -> PluginConnection:
        return PluginConnection(
            where="Register",
            address=where.address,
            token=where.token,
            timeout=self.rules.timeout,
            max_answer_bytes=self._answer_bytes,
            root_certificates=self.rules.root_certificates,
        )
