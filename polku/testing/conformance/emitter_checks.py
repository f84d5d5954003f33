"""Call an emitter plugin as the router would. What it delivers are events of type `polku.check`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Sequence

import grpc

from polku.aio.slices import at_once
from polku.event.v1.event_pb2 import Event
from polku.events import new_event
from polku.external.emit_response import reading_failures
from polku.ids import new_id
from polku.testing.conformance.findings import Finding, fails, holds, note
from polku.testing.conformance.introduction_checks import check_health
from polku.testing.conformance.probe import REFUSALS, Probe, ProbeReply, judge_large, settle
from polku.v1.plugin_pb2 import EmitRequest, EmitResponse, ShutdownResponse

SERVICE = "EmitterPlugin"
_COUNTS = "success_count + failed events = events of the request; name only ids that were in it"


class EmitterChecks:
    """All checks of one emitter plugin, in order."""

    def __init__(self, probe: Probe, *, shutdown: bool) -> None:
        self._probe = probe
        self._shutdown = shutdown

    async def run(self) -> AsyncIterator[Finding]:
        """Yield the findings as they come."""
        yield await check_health(self._probe, SERVICE, "Health")
        events = _events(3)
        yield self._judge("good input", events, await self._emit(events), must_take=True)
        yield self._judge("same input again", events, await self._emit(events), must_take=True)
        empty = await self._emit([])
        yield self._judge("no events", [], empty, must_take=True)
        odd = [Event(id=new_id()), Event(id=new_id(), payload=random.Random(1).randbytes(4096))]
        yield self._judge("odd events", odd, await self._emit(odd))
        text = [new_event("polku.check", source="lähde-🦉", metadata={"日本語": "ñ \x00"}, payload="🦉".encode())]
        yield self._judge("unicode", text, await self._emit(text))
        yield await self._check_garbage()
        large = [new_event("polku.check", source="check", payload=bytes(1024 * 1024)) for _ in range(10)]
        answer = await self._emit(large)
        yield judge_large("10 MB", answer, self._probe.timeout) or self._judge("10 MB", large, answer)
        await settle(lambda: self._emit([]), max(self._probe.timeout / 20, 3 * empty.seconds))
        yield await self._check_many()
        yield await self._check_deadline()
        yield await check_health(self._probe, SERVICE, "Health at the end")
        if self._shutdown:
            yield await self._check_shutdown()

    async def _emit(self, events: Sequence[Event], timeout: float | None = None) -> ProbeReply:
        request = EmitRequest(events=events).SerializeToString()
        return await self._probe.call(SERVICE, "Emit", request, EmitResponse, timeout=timeout)

    def _judge(self, check: str, events: Sequence[Event], answer: ProbeReply, *, must_take: bool = False) -> Finding:
        if not answer.came:
            if answer.status in REFUSALS and not must_take:
                return holds(check, f"refused: {answer.error}")
            fix = "name events that cannot be delivered in failed_event_ids and errors; a gRPC error fails all of them"
            return fails(check, answer.error, fix)
        response: EmitResponse = answer.message
        named = {*response.failed_event_ids, *(error.event_id for error in response.errors)}
        told = at_once(reading_failures([event.id for event in events], response))
        failures = {failure.event_id: failure for failure in told}
        strange = named - {event.id for event in events}
        if strange or failures.keys() - named or (not events and response.success_count):
            seen = f"success_count={response.success_count}, {len(named)} failed, of {len(events)}"
            return fails(check, f"{seen}{', one of them unknown' if strange else ''}", _COUNTS)
        unexplained = named - {error.event_id for error in response.errors}
        if unexplained:
            fix = "add an EmitError for each failed event: without one it is tried again for ever"
            return note(check, f"{len(unexplained)} failed without an EmitError", fix)
        if failures and must_take:
            reason = next(iter(failures.values())).reason
            return fails(check, f"{len(failures)} of {len(events)} failed: {reason}", "is its destination there?")
        return holds(check, f"{response.success_count} delivered, {len(named)} failed, {answer.seconds * 1000:.1f} ms")

    async def _check_garbage(self) -> Finding:
        answer = await self._probe.call(SERVICE, "Emit", b"\xff\xff\xff no message", EmitResponse)
        if answer.came:
            return fails("garbage", "bytes that are no EmitRequest were confirmed", "let gRPC read the request")
        return holds("garbage", f"refused: {answer.error}")

    async def _check_many(self) -> Finding:
        started = time.monotonic()
        batches = [_events(3) for _ in range(64)]
        answers = await asyncio.gather(*(self._emit(events) for events in batches))
        for events, answer in zip(batches, answers, strict=True):
            finding = self._judge("64 calls at once", events, answer, must_take=True)
            if finding.fix:
                return finding
        return holds("64 calls at once", f"{(time.monotonic() - started) * 1000:.0f} ms for all")

    async def _check_deadline(self) -> Finding:
        await asyncio.gather(*(self._emit(_events(1), timeout=0.001) for _ in range(8)))
        answer = await self._emit(_events(1))
        if answer.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return fails("deadline", answer.error, "survive callers that go away: stop working, keep serving")
        return holds("deadline", "serves on after calls that were cut off")

    async def _check_shutdown(self) -> Finding:
        answer = await self._probe.call(SERVICE, "Shutdown", b"", ShutdownResponse)
        if not answer.came:
            return fails("Shutdown", answer.error, "write out what is held and return ShutdownResponse(success=True)")
        if not answer.message.success:
            return fails("Shutdown", f"success=false: {answer.message.message}", "write out what is held")
        return holds("Shutdown", f"{answer.seconds * 1000:.1f} ms")


def _events(count: int) -> list[Event]:
    return [new_event("polku.check", source="check", payload=b"check") for _ in range(count)]
