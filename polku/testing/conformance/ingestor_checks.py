"""Call an ingestor plugin as the router would: good input, and all the input that comes sooner or later."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator

import grpc

from polku.testing.conformance.findings import Finding, fails, holds, note
from polku.testing.conformance.introduction_checks import check_health
from polku.testing.conformance.probe import REFUSALS, Probe, ProbeReply, judge_large, settle
from polku.v1.plugin_pb2 import IngestRequest, IngestResponse, PluginInfo

SERVICE = "IngestorPlugin"
SAMPLE = b'{"id": "check-1", "event_type": "polku.check", "message": "hello"}\n'
_LARGE = 10 * 1024 * 1024
_YEAR_1990 = 631_152_000 * 10**9
_TO_ERRORS = "put what cannot be read into IngestResponse.errors, or refuse it with INVALID_ARGUMENT; never raise"


class IngestorChecks:
    """All checks of one ingestor plugin, in order."""

    def __init__(self, probe: Probe, info: PluginInfo, sample: bytes | None, form: str) -> None:
        self._probe = probe
        self._source = next(iter(info.sources), "")
        self._is_own_sample = sample is not None
        self._sample = SAMPLE if sample is None else sample
        self._format = form

    async def run(self) -> AsyncIterator[Finding]:
        """Yield the findings as they come."""
        yield await check_health(self._probe, SERVICE, "Health")
        first = await self._ingest(self._sample)
        for finding in self._judge_good(first):
            yield finding
        yield self._judge_repetition(first, await self._ingest(self._sample))
        yield _judge_bad("empty input", await self._ingest(b""), b"")
        garbage = random.Random(1).randbytes(4096)
        yield _judge_bad("garbage", await self._ingest(garbage), garbage)
        text = "日本語 🦉 \u202e ñ \x00".encode()
        yield _judge_bad("unicode", await self._ingest(text, cluster="klusteri-ä🦉", form="muoto-ö"), text)
        yield await self._check_large()
        await settle(lambda: self._ingest(self._sample), max(self._probe.timeout / 20, 3 * first.seconds))
        yield await self._check_many(first)
        yield await self._check_deadline()
        yield await check_health(self._probe, SERVICE, "Health at the end")

    async def _ingest(
        self, data: bytes, *, cluster: str = "check", form: str | None = None, timeout: float | None = None
    ) -> ProbeReply:
        hint = self._format if form is None else form
        request = IngestRequest(source=self._source, cluster=cluster, format=hint, data=data).SerializeToString()
        return await self._probe.call(SERVICE, "Ingest", request, IngestResponse, timeout=timeout)

    def _judge_good(self, answer: ProbeReply) -> list[Finding]:
        own = "" if self._is_own_sample else "; say --sample FILE to check with your own format"
        if not answer.came:
            return [fails("good input", answer.error, f"answer with events{own}")]
        events, errors = answer.message.events, answer.message.errors
        seen = f"{len(events)} events, {len(errors)} errors, {answer.seconds * 1000:.1f} ms"
        if not events and self._is_own_sample:
            return [fails("good input", seen, "the sample gave no event")]
        if not events:
            return [note("good input", seen, "the built-in JSON line gave no event" + own)]
        return [holds("good input", seen), *_judge_events(answer.message)]

    def _judge_repetition(self, first: ProbeReply, second: ProbeReply) -> Finding:
        if not (first.came and second.came):
            return fails("same input again", (second if first.came else first).error, "answer it again")
        before, after = ([event.id for event in answer.message.events] for answer in (first, second))
        if before == after:
            return holds("same input again", "same ids" if any(before) else "ids left to the gateway")
        fix = "make ids from the content, where a payload that is sent again must not become other events"
        return note("same input again", "other ids", fix)

    async def _check_large(self) -> Finding:
        unit = self._sample or b"x"
        answer = await self._ingest((unit * (_LARGE // len(unit) + 1))[:_LARGE])
        finding = judge_large("10 MB", answer, self._probe.timeout)
        if finding is not None:
            return finding
        seen = f"{len(answer.message.events)} events" if answer.came else answer.status.name
        return holds("10 MB", f"{seen}, {answer.seconds:.2f} s")

    async def _check_many(self, first: ProbeReply) -> Finding:
        started = time.monotonic()
        answers = await asyncio.gather(*(self._ingest(self._sample) for _ in range(64)))
        seconds = time.monotonic() - started
        bad = [answer for answer in answers if not answer.came and answer.status is not first.status]
        if bad:
            return fails("64 calls at once", f"{len(bad)} failed: {bad[0].error}", "make it safe to call concurrently")
        counts = {len(answer.message.events) for answer in answers if answer.came}
        if len(counts) > 1:
            seen = f"the same input gave {' or '.join(map(str, sorted(counts)))} events"
            return fails("64 calls at once", seen, "share no state between calls")
        return holds("64 calls at once", f"{seconds * 1000:.0f} ms for all")

    async def _check_deadline(self) -> Finding:
        await asyncio.gather(*(self._ingest(self._sample, timeout=0.001) for _ in range(8)))
        answer = await self._ingest(self._sample)
        if answer.status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            return fails("deadline", answer.error, "survive callers that go away: stop working, keep serving")
        return holds("deadline", "serves on after calls that were cut off")


def _judge_events(response: IngestResponse) -> list[Finding]:
    ids = [event.id for event in response.events if event.id]
    if len(set(ids)) != len(ids):
        return [fails("event ids", "one appears twice", "give each event an id of its own, or none")]
    early = [event.timestamp_unix_ns for event in response.events if 0 < event.timestamp_unix_ns < _YEAR_1990]
    if early:
        fix = "timestamp_unix_ns is in nanoseconds since 1970; leave it 0 where the time is not known"
        return [fails("event times", f"timestamp_unix_ns={early[0]}", fix)]
    if any(not event.event_type for event in response.events):
        return [note("event types", "empty", "set event_type: filters and routers go by it")]
    return [holds("event fields", "ids, times and types are in order")]


def _judge_bad(check: str, answer: ProbeReply, data: bytes) -> Finding:
    if answer.status in REFUSALS:
        return holds(check, f"refused: {answer.error}")
    if not answer.came:
        return fails(check, answer.error, _TO_ERRORS)
    errors = answer.message.errors
    astray = [error.offset for error in errors if not 0 <= error.offset <= len(data)]
    if astray:
        return fails(check, f"offset {astray[0]} of {len(data)} bytes", "offset is a byte offset into `data`")
    if any(not error.message for error in errors):
        return fails(
            check, "an error without a message", "say in IngestError.message what is wrong: the sender reads it"
        )
    return holds(check, f"{len(answer.message.events)} events, {len(errors)} errors")
