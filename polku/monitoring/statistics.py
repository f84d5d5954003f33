"""The statistics of a pipeline, as one frozen tree: pipeline → lanes → parts → outlets, sources and plugins.

Counters begin at the start of the part's process: after a restart of an actor they begin at zero again. Times are in
seconds, sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Mapping

from polku.histogram import Distribution
from polku.monitoring.stage_statistics import ErrorStatistics, LinkStatistics, StageStatistics
from polku.monitoring.tree import Tree


class PartHealth(Tree, frozen=True, kw_only=True):
    """Whether a part is well, and in a sentence how it is.

    `holds_up` says why it holds up what comes in, empty where it does not. `seconds` is for how long it is unhealthy or
    does so; `advice` is what is to be done then, and `command` what to type, empty where there is none. An emitter that
    is unhealthy waits for `next_attempt_seconds` until it tries again, 0 where it does not wait.
    """

    healthy: bool
    message: str
    holds_up: str = ""
    seconds: float = 0.0
    advice: str = ""
    command: str = ""
    next_attempt_seconds: float = 0.0


class PartPlan(Tree, frozen=True, kw_only=True):
    """A part of each lane as it is planned: `name` is that in `parts`, without the lane's.

    `kind` is `source`, `ingestor`, `ingest`, `stage`, `buffer` or `emitter`, `type` its class or middleware,
    `configuration` how it shows itself. `feeds` are the parts that events go to from here. All lanes have a `shared`
    one together. `destination` is where it connects to, without credentials, empty where it does not say. `overflow` is
    the rule of an emitter for a full share of the buffer.
    """

    name: str
    kind: str
    type: str
    configuration: str
    feeds: tuple[str, ...]
    shared: bool = False
    replicas: int = 1
    partitions: int = 1
    destination: str = ""
    overflow: str = ""


class PlanStatistics(Tree, frozen=True, kw_only=True):
    """What the pipeline was built as: `lanes` is 0 for one on each node, `ack` when clients are answered.

    `journal` and `dead_letters` are files, empty where these are in memory.
    """

    lanes: int
    ack: str
    journal: str
    dead_letters: str
    parts: tuple[PartPlan, ...]


class ProcessStatistics(Tree, frozen=True, kw_only=True):
    """One process of the pipeline: an actor, or, with the inline runtime, all of it.

    `memory_bytes` is private memory. `restarts` were seen since the pipeline started; `answers` is False while it does
    not answer, and the rest is then what was known before.
    """

    pid: int
    cpu_seconds: float
    memory_bytes: int
    restarts: int = 0
    answers: bool = True


class SourceStatistics(Tree, frozen=True, kw_only=True):
    """What the pipeline pulls from: `lag` is how many records wait there, as far as known, `ended` if none can come."""

    type: str
    records: int
    commits: int
    lag: int
    in_flight: int
    ended: bool
    fault: str


class PluginStatistics(Tree, frozen=True, kw_only=True):
    """A program of somebody else's that ingests: its calls, and why it takes none now (empty: it is well)."""

    calls: int
    failures: int
    in_flight: int
    fault: str


class WayStatistics(Tree, frozen=True, kw_only=True):
    """What came in one way: messages, their events that went on, and events and whole messages refused at once."""

    messages: int
    events: int
    refused: int


class IngestStatistics(Tree, frozen=True, kw_only=True):
    """Where events come in.

    `received` events were taken from messages, `accepted` were acknowledged, `refused` counts events, and messages that
    were refused whole, by code. `open_messages` have no answer yet. `ack_seconds` is how long an event waited for its
    acknowledgement, `batch_events` how many events came together. `unauthenticated` counts who could not say who they
    are, `slowed` those of them whose answer had to wait, as their address had failed often. `certificate_ends_at` is
    Unix time, 0 without TLS, and so is `token_ends_at`, from when on a principal has no valid token (0: all keep one);
    with `security_is_stale` a file of certificates or tokens has changed and cannot be used.

    `ways` are those in that were used: `stream` and `call` of gRPC, `http`, `otlp`, `sender` (in this program),
    `source` (pulled) and `replay` (dead letters); `connections` are those that are open now, by protocol.
    """

    messages: int
    received: int
    received_bytes: int
    accepted: int
    refused: Mapping[str, int]
    open_messages: int
    open_bytes: int
    draining: bool
    fault: str
    ack_seconds: Distribution
    batch_events: Distribution
    unauthenticated: int
    slowed: int
    certificate_ends_at: float
    token_ends_at: float
    security_is_stale: bool
    ways: Mapping[str, WayStatistics]
    connections: Mapping[str, int]
    link: LinkStatistics | None
    sources: Mapping[str, SourceStatistics]
    plugins: Mapping[str, PluginStatistics]


class OutletStatistics(Tree, frozen=True, kw_only=True):
    """The buffer's side of one emitter.

    `waiting` events are not confirmed yet, of which `in_flight` are with the emitter. `oldest_age_seconds` is for how
    long the first of them has been in the pipeline, `no_progress_seconds` for how long none has left. `dropped` fell to
    the overflow rule, `unreadable` were damaged on disk. `wait_seconds` is how long events waited until they were
    handed to the emitter. `delivery_age_seconds` are the ages of events when they had
    their answer, from the gateway on, also across a restart from a journal.
    """

    confirmed: int
    sent_bytes: int
    dead: int
    dropped: int
    unreadable: int
    waiting: int
    waiting_bytes: int
    in_flight: int
    oldest_age_seconds: float
    no_progress_seconds: float
    full: bool
    required: bool
    fault: str
    wait_seconds: Distribution
    delivery_age_seconds: Distribution


class JournalStatistics(Tree, frozen=True, kw_only=True):
    """The journal of a durable buffer: `fault` says why nothing can be written now."""

    events: int
    bytes: int
    commits: int
    fault: str


class BufferStatistics(Tree, frozen=True, kw_only=True):
    """What holds events until every destination has them; `events` and `bytes` are held now, each once."""

    events: int
    bytes: int
    capacity: int
    received: int
    received_bytes: int
    duplicates: int
    overflowed: int
    unroutable: int
    fault: str
    journal: JournalStatistics | None
    outlets: Mapping[str, OutletStatistics]


class CollectionStatistics(Tree, frozen=True, kw_only=True):
    """What an emitter collects for one write: open groups, events and bytes that it holds without a confirmation.

    A group is written at `max_age_seconds`, if it is not full before; `early` were written before either.
    """

    groups: int
    events: int
    bytes: int
    early: int
    max_age_seconds: float


class EmitterStatistics(Tree, frozen=True, kw_only=True):
    """What calls a destination: `attempts` are calls of it, `circuit` is `closed`, `half_open` or `open`.

    `alarm` is why its destination takes nothing now, empty where it does. `work_seconds` is how long a call or more has
    been in flight, retries and their pauses too, `utilization` the share of the latest seconds. `next_attempt_seconds`
    is how long it waits until it tries again, 0 where it does not wait; `errors` are the latest few, the latest first.
    `collection` is of one that gathers events for a write, as S3Emitter does.
    """

    type: str
    confirmed: int
    failed: int
    calls: int
    in_flight: int
    attempts: int
    retries: int
    circuit: str
    alarm: str
    work_seconds: float
    utilization: float
    next_attempt_seconds: float
    errors: tuple[ErrorStatistics, ...]
    collection: CollectionStatistics | None = None


class DeadLetterCount(Tree, frozen=True, kw_only=True):
    """Dead letters that one part has made: of one emitter (empty: they got to none) and code.

    `total` since its start, of which `forgotten` had to go for want of room; `reason` is that of the latest.
    """

    lane: str
    part: str
    emitter: str
    code: str
    total: int
    forgotten: int
    reason: str = ""


class LaneStatistics(Tree, frozen=True, kw_only=True):
    """One column of ingest, stages, buffer and emitters; a part that has never answered is not there.

    `name` is empty where the pipeline has one lane, `node` is its node's address, empty with the inline runtime.
    """

    name: str
    node: str
    ingest: IngestStatistics | None
    stages: Mapping[str, StageStatistics]
    buffer: BufferStatistics | None
    emitters: Mapping[str, EmitterStatistics]


class ReloadStatistics(Tree, frozen=True, kw_only=True):
    """Changes of the pipeline while it runs, since its start: `done`, and `refused`, which changed nothing.

    `done_at` is when the latest one was done, in Unix seconds, 0 where none was. `reason` is why the latest one was
    refused, and empty where it was done.
    """

    done: int = 0
    refused: int = 0
    done_at: float = 0.0
    reason: str = ""


class ScaleStatistics(Tree, frozen=True, kw_only=True):
    """A number that changes by need: of `lanes`, or of the replicas that a stage has in each lane (`of` names it).

    `number` is that of now, `wanted` what was decided on, between `least` and `most`. `ups` and `downs` count the
    changes since the start, `failures` those that were tried in vain. `reason` is why the latest one was wanted,
    `fault` why it was not done, empty where it was, or where there is no need for it any more.
    """

    of: str
    number: int
    wanted: int
    least: int
    most: int
    ups: int
    downs: int
    failures: int
    reason: str
    fault: str


class PipelineStatistics(Tree, frozen=True, kw_only=True, dict=True):
    """A whole pipeline, as it was at `time_ns` (Unix nanoseconds); `plan` is what it was built as.

    `healthy` where every part is well, `ready` where it takes events now, else `not_ready` says why. `parts` is the
    health of each, `shared` are the stages that all lanes feed, `processes` are named as in `parts`; `scales` are the
    numbers that change by need.
    """

    pipeline: str
    runtime: str
    version: str
    time_ns: int
    uptime_seconds: float
    healthy: bool
    ready: bool
    not_ready: str
    plan: PlanStatistics
    parts: Mapping[str, PartHealth]
    lanes: tuple[LaneStatistics, ...]
    shared: Mapping[str, StageStatistics]
    dead_letters: tuple[DeadLetterCount, ...]
    processes: Mapping[str, ProcessStatistics]
    reloads: ReloadStatistics = ReloadStatistics()
    scales: tuple[ScaleStatistics, ...] = ()
