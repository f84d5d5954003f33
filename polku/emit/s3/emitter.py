"""Write events to an object store, many to an object."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from polku import checks
from polku.batch.batch import Batch
from polku.batch.frames import split_frames
from polku.clock import Clock
from polku.contracts import Collecting, Failure
from polku.emit.encode import note_unwritable, unwritable
from polku.emit.parts import TooLargeError, send_parts
from polku.emit.progress import current
from polku.emit.s3.format import CONTENT_TYPES, Compression, Encoder, ObjectFormat, make_encoder, suffix
from polku.emit.s3.key import BATCH, KeyTemplate
from polku.emit.s3.objects import SCHEMES, Objects, check_tls, load, tls_of
from polku.errors import PlanError, RejectedError
from polku.event.v1.event_pb2 import Event
from polku.security.client_tls import Certificate, Pem
from polku.text import named, said
from polku.v1.gateway_pb2 import EventPayload

A = TypeVar("A")
R = TypeVar("R")
_PART_BYTES = 5 * 1024 * 1024  # S3 takes no smaller part but the last


class S3Statistics(NamedTuple):
    """Count what was written: objects that are complete, their events and bytes, and puts that failed."""

    objects: int
    events: int
    bytes: int
    failed: int


@dataclass(frozen=True, slots=True)
class S3Emitter:
    """Write events to S3 (`s3://bucket/prefix`), GCS (`gs://`), Azure (`az://`) or local files (`file:///folder`).

    An object is complete with `max_events` events or `max_bytes` bytes of them (as protobuf, before `format` and
    `compression`), or `max_age` seconds after its first event, and at a drain. There is one for each name that `key`
    gives, up to `max_open`, and up to `max_held_bytes` of events are held for all of them; over that the oldest are
    completed early, and then new events wait. A buffer's share is a bound as well: half of it at most is held, so
    choose a buffer (best a durable one) larger than an object. An event is confirmed when its object is complete;
    until then clients at the `delivered` level wait.

    `key` may have text and `{source}`, `{type}`, `{id}`, `{severity}`, `{outcome}`, `{metadata.NAME}`, the UTC times
    of the event `{date}`, `{year}`, `{month}`, `{day}`, `{hour}`, `{minute}`, and must have `{batch}`; an ending such
    as `.ndjson.gz` is added. Values are escaped: none makes a folder. An event that lacks a field becomes a dead
    letter, unless the field has a default: `{metadata.tenant|none}`.

    `{batch}` is the time of the object's earliest event and a digest of all its events, whatever their order: a retry
    writes the same object once more, under the same name. After a crash the events without a confirmation come again,
    and may be cut into other objects: delivery is at least once. An event that is in two objects then has the same id
    in both, and objects are never incomplete.

    Larger objects are uploaded in parts of `part_bytes`, `concurrency` objects at once; a request may take `timeout`
    seconds. An upload that fails is aborted, one that takes long is waited for and never cut off; only a crash, or a
    drain whose time is up, leaves parts behind, which the bucket's lifecycle rules should remove. Timeouts, 5xx and
    lost connections are tried again; missing credentials, refused rights, an absent bucket and a wrong clock hold
    everything, with an alarm. `options` are the store's (`region`, `endpoint`, `access_key_id`, …: those of obstore);
    without them the environment's count (`AWS_ACCESS_KEY_ID`, …). With `root_certificates` or a
    `certificate` the `https://` address in `options["endpoint"]` is reached with those, read again for each request.
    Needs `pip install 'polku[s3]'`, for Parquet
    `pip install 'polku[s3,parquet]'`.
    """

    url: str
    key: str = field(default="{source}/{date}/{hour}/{batch}", kw_only=True)
    format: ObjectFormat | str = field(default=ObjectFormat.NDJSON, kw_only=True)
    compression: Compression | str = field(default=Compression.NONE, kw_only=True)
    name: str = field(default="s3", kw_only=True)
    max_events: int = field(default=100_000, kw_only=True)
    max_bytes: int = field(default=32 * 1024 * 1024, kw_only=True)
    max_age: float = field(default=60.0, kw_only=True)
    max_open: int = field(default=1_000, kw_only=True)
    max_held_bytes: int = field(default=128 * 1024 * 1024, kw_only=True)
    part_bytes: int = field(default=8 * 1024 * 1024, kw_only=True)
    concurrency: int = field(default=4, kw_only=True)
    timeout: float = field(default=30.0, kw_only=True)
    options: Mapping[str, str] = field(default_factory=dict, kw_only=True, repr=False)
    root_certificates: Pem | None = field(default=None, kw_only=True)
    certificate: Certificate | None = field(default=None, kw_only=True)

    may_recover = True

    def __post_init__(self) -> None:
        _check_url(self.url)
        object.__setattr__(self, "format", checks.choice("S3Emitter", "format", self.format, ObjectFormat))
        compression = checks.choice("S3Emitter", "compression", self.compression, Compression)
        object.__setattr__(self, "compression", compression)
        for option in ("max_events", "max_bytes", "max_open", "max_held_bytes", "part_bytes", "concurrency"):
            checks.whole("S3Emitter", option, getattr(self, option))
        for option in ("max_age", "timeout"):
            checks.positive("S3Emitter", option, getattr(self, option))
        if self.part_bytes < _PART_BYTES:
            fix = f"must be at least {_PART_BYTES}: S3 takes no smaller parts"
            raise checks.fault("S3Emitter", "part_bytes", self.part_bytes, fix)
        object.__setattr__(self, "options", _checked_options(self.options))
        check_tls("S3Emitter", self)
        self.template()

    def template(self) -> KeyTemplate:
        """Return the names of its objects; raises `PlanError` where `key` gives none."""
        if not isinstance(self.key, str):
            raise checks.fault("S3Emitter", "key", self.key, "must be a template such as '{source}/{date}/{batch}'")
        url = urlsplit(self.url)
        local = url.scheme == "file"
        ending = suffix(ObjectFormat(self.format), Compression(self.compression))
        # A file is written beside its name, with a number at its end, before it gets it.
        segment, prefix = (240, 0) if local else (1024, len(url.path.encode()))
        return KeyTemplate(self.key, suffix=ending, prefix_bytes=prefix, max_segment=segment)

    def check_extras(self) -> None:
        """Raise `PlanError` where a package is not installed that this needs."""
        where = f"S3Emitter(url={self.url!r})"
        load(where)
        if self.format is ObjectFormat.PARQUET:
            try:
                import pyarrow.parquet  # noqa: F401
            except ImportError:
                fix = "format='parquet' needs pyarrow: pip install 'polku[s3,parquet]'"
                raise PlanError(fix, where=where) from None

    def build(self, clock: Clock) -> _Writer:
        """Make the running emitter."""
        return _Writer(self)


class _Writer:
    def __init__(self, config: S3Emitter) -> None:
        self.concurrency = config.concurrency
        self.collecting = Collecting(
            config.max_events, config.max_bytes, config.max_age, config.max_open, config.max_held_bytes
        )
        self._format, self._compression = ObjectFormat(config.format), Compression(config.compression)
        self._suffix = suffix(self._format, self._compression)
        self._config = config
        self.group = config.template().group
        self._objects = Objects(
            config.url, config.options, timeout=config.timeout, part_bytes=config.part_bytes, tls=tls_of(config)
        )
        self._threads: ThreadPoolExecutor | None = None
        self._written = self._events = self._bytes = self._failed = 0

    def start(self) -> None:
        self._config.check_extras()
        self._objects.check()

    async def emit(self, batch: Batch) -> list[Failure]:
        """Write the batch's events, one object for each name."""
        drafts, failures = await self._in_thread(self._draft, batch.payload)
        note_unwritable(failures)
        return failures + await send_parts(drafts, self._put)

    async def close(self) -> None:
        """Wait a moment for uploads that nobody waits for any more."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False, cancel_futures=True)
        await self._objects.close()

    def statistics(self) -> S3Statistics:
        return S3Statistics(self._written, self._events, self._bytes, self._failed)

    async def _in_thread(self, call: Callable[[A], R], argument: A) -> R:
        """Run in one of `concurrency` threads: one that nobody waits for any more is taken until it ends."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.concurrency, "polku-s3")
        return await asyncio.get_running_loop().run_in_executor(self._threads, call, argument)

    async def _put(self, draft: _Draft) -> list[Failure]:
        key, content = await self._in_thread(self._finish, draft)
        current().step(self._objects.seconds(len(content)))
        try:
            await self._objects.put(key, content, CONTENT_TYPES[self._format])
        except Exception:
            self._failed += 1
            raise
        self._written += 1
        self._events += len(draft.ids)
        self._bytes += len(content)
        return []

    def _make_encoder(self) -> Encoder:
        return make_encoder(self._format, self._compression)

    def _draft(self, payload: bytes) -> tuple[list[_Draft], list[Failure]]:
        """Encode events into objects, and name those that cannot be."""
        drafts: dict[str, _Draft] = {}
        failures: list[Failure] = []
        events = EventPayload.FromString(payload).events
        for position, (event, frame) in enumerate(zip(events, split_frames(payload), strict=True)):
            try:
                name = self.group(event)
                draft = drafts.get(name)
                if draft is None:
                    draft = _Draft(name, self._make_encoder)
                draft.add(position, event, frame)
            except RejectedError as error:
                failures.append(Failure(event.id, said(error), retryable=False, position=position))
            except Exception as error:
                failures.append(unwritable(event.id, position, error))
            else:
                drafts[name] = draft
        return list(drafts.values()), failures

    def _finish(self, draft: _Draft) -> tuple[str, bytes]:
        try:
            content = draft.encoder.finish()
        except MemoryError:
            raise
        except Exception as error:  # one of the events, which is found by halving
            raise TooLargeError(f"cannot be written as {self._format}: {named(error)}") from error
        return draft.name.replace(BATCH, draft.identity()) + self._suffix, content


class _Draft:
    """An object that is about to be written."""

    def __init__(self, name: str, make: Callable[[], Encoder]) -> None:
        self.name = name
        self.encoder = make()
        self.ids: list[str] = []
        self.positions: list[int] = []
        self._make = make
        self._frames: list[bytes] = []
        self._earliest = (1 << 63) - 1

    def add(self, position: int, event: Event, frame: bytes) -> None:
        """Write an event; raises where it cannot be written, and is as before then."""
        self.encoder.add(event, frame)
        self.ids.append(event.id)
        self.positions.append(position)
        self._frames.append(frame)
        self._earliest = min(self._earliest, event.timestamp_unix_ns)

    def halves(self) -> Sequence[_Draft]:
        """Return two objects in place of one that cannot be written whole."""
        events = list(zip(self.positions, self._frames, strict=True))
        middle = len(events) // 2
        return [self._with(events[:middle]), self._with(events[middle:])]

    def _with(self, events: Sequence[tuple[int, bytes]]) -> _Draft:
        draft = _Draft(self.name, self._make)
        for position, frame in events:
            draft.add(position, Event.FromString(frame), frame)
        return draft

    def identity(self) -> str:
        """Return the time of the earliest event and a digest of all: the same for the same events in any order."""
        digest = hashlib.blake2b(digest_size=12)
        for frame in sorted(self._frames):
            digest.update(len(frame).to_bytes(4, "little"))
            digest.update(frame)
        when = datetime.fromtimestamp(self._earliest // 1_000_000_000, UTC)
        return f"{when.year:04d}{when:%m%dT%H%M%S}-{digest.hexdigest()}"


def _check_url(url: object) -> None:
    fix = f"write s3://bucket/prefix or file:///folder; known are {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in SCHEMES or parts.query or parts.fragment:
        raise checks.fault("S3Emitter", "url", url, fix)
    if "@" in parts.netloc and parts.scheme.startswith("s3"):
        raise PlanError("url: credentials belong in options or the environment, not in the address", where="S3Emitter")
    local = parts.scheme == "file"
    if (local and (parts.netloc or len(parts.path) < 2)) or (not local and not parts.netloc):
        raise checks.fault("S3Emitter", "url", url, fix)
    if any(segment in (".", "..") for segment in parts.path.split("/")) or "\0" in parts.path:
        raise checks.fault("S3Emitter", "url", url, "must not contain '.' or '..' as a folder")


def _checked_options(options: object) -> dict[str, str]:
    if isinstance(options, Mapping) and all(isinstance(text, str) for pair in options.items() for text in pair):
        return dict(options)
    raise PlanError("options must map names to strings, such as {'region': 'eu-north-1'}", where="S3Emitter")
