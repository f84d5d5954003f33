"""The builder: describe a pipeline, then run it."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, overload

from polku.buffer.strategy import BufferStrategy, Overflow, overflow_rule
from polku.checks import absolute, one_way, ray_installed, shorten
from polku.errors import PlanError, SettingError
from polku.gateway.addresses import Addresses, check_address
from polku.gateway.tls import Tls
from polku.limits import Limits
from polku.plan import (
    PER_NODE,
    AckLevel,
    DeadLetterPlan,
    MiddlewarePlan,
    OutletPlan,
    Plan,
    Resources,
    SourcePlan,
    StagePlan,
    fuse,
    keeps_shared_state,
    kept_beside,
    keyed_by,
    state_keys,
)
from polku.runner import Runner, addresses_of_environment
from polku.scaling.rules import Range, Scaling, range_of, replicas_of
from polku.security.configuration import STAMP, check_origins, check_stamp, tokens_of_environment, tokens_path
from polku.sendable import check_pickles, check_sources
from polku.sender import EventSender, RawSender
from polku.stage.key_space import MOST_PARTITIONS
from polku.tap.redaction import Redaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from opentelemetry.trace import TracerProvider

    from polku.contracts import Emitter, Ingestor, Middleware
    from polku.event.v1.event_pb2 import Event
    from polku.external.registration_rules import PluginRules
    from polku.middleware.batching import Batching
    from polku.pipeline import Pipeline

RUNTIMES = ("ray", "inline")
F = TypeVar("F", bound="Callable[..., object]")


class Hub:
    """Describe where events come from, what happens to them, and where they go.

    ```python
    from polku import Filter, Hub, StdoutEmitter, Transform

    def mark_processed(event):
        event.metadata["processed"] = "true"

    hub = (
        Hub()
        .middleware(Filter(lambda event: event.event_type.startswith("user.")))
        .middleware(Transform(mark_processed))
        .emitter(StdoutEmitter())
    )
    hub.run()
    ```

    Events pass the middleware in the order in which it was added and then go to all emitters, unless their
    `route_to` names some. `run` serves until a signal comes; `start` returns a running `Pipeline` to send events to
    from the same program; `build` gives both without starting anything. The `ray` runtime makes every part an actor;
    `inline` runs the same parts in this process. Each method returns the hub, so that calls can be chained, and
    raises `PlanError` at once for what can never work.
    """

    def __init__(self, *, name: str = "polku", runtime: str | None = None) -> None:
        self._name = name
        self._runtime = _runtime(runtime) if runtime is not None else None
        self._ingestors: dict[str, object] = {}
        self._default_ingestor: object | None = None
        self._sources: list[SourcePlan] = []
        self._stages: list[StagePlan] = []
        self._outlets: list[OutletPlan] = []
        self._buffer = BufferStrategy.ring()
        self._limits = Limits()
        self._ack = AckLevel.ACCEPTED
        self._plugins: PluginRules | None = None
        self._listen = Addresses()
        self._tls: Tls | None = None
        self._tokens: str | None = None
        self._stamp = ""
        self._origins: tuple[str, ...] = ()
        self._require_security = False
        self._hang_seconds = 30.0
        self._dead_letters: DeadLetterPlan | None = None
        self._lanes = 1
        self._lane_range: Range | None = None
        self._scaling = Scaling()
        self._per_node = False
        self._spread = False
        self._chained = False
        self._traces: Callable[[], TracerProvider] | None = None
        self._redaction = Redaction()

    def ingestor(self, ingestor: Ingestor | Callable[..., object] | object, *, source: str | None = None) -> Hub:
        """Let an ingestor turn the raw bytes of a source into events.

        Without `source` it serves the sources that it names itself (its `sources`).
        """
        from polku.ingest.adapt import check_ingestor

        check_ingestor(ingestor)
        sources = (source,) if source is not None else tuple(getattr(ingestor, "sources", ()))
        if not sources:
            raise PlanError(f"{ingestor!r} names no source; say .ingestor(..., source='my-agent')", where="ingestor")
        for name in sources:
            if name in self._ingestors:
                raise PlanError(f"source {name!r} has an ingestor already: {self._ingestors[name]!r}", where="ingestor")
            self._ingestors[name] = ingestor
        return self

    def default_ingestor(self, ingestor: Ingestor | Callable[..., object] | object) -> Hub:
        """Let an ingestor turn the raw bytes of all sources that have none into events."""
        from polku.ingest.adapt import check_ingestor

        check_ingestor(ingestor)
        self._default_ingestor = ingestor
        return self

    def source(self, source: object, *, name: str | None = None) -> Hub:
        """Pull events from somewhere, such as a `KafkaSource`; a pipeline with a source needs no gateway.

        `name` is what health and statistics call it, if not what it calls itself.
        """
        name = name or str(getattr(source, "name", type(source).__name__))
        if inspect.isclass(source) or not any(callable(getattr(source, way, None)) for way in ("build", "run")):
            raise PlanError(f"{source!r} is no source; pass an object such as KafkaSource(...)", where="source")
        one_way(source, "source", "run")
        if any(other.name == name for other in self._sources):
            raise PlanError(f"two sources are called {name!r}; say .source(..., name='{name}-2')", where="source")
        self._sources.append(SourcePlan(name, source))
        return self

    def middleware(
        self,
        middleware: Middleware | Callable[..., object] | object,
        *,
        name: str | None = None,
        num_cpus: float = 0.0,
        num_gpus: float = 0.0,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        isolate: bool = False,
        replicas: int | tuple[int, int] = 1,
        partitions: int = 1,
        batching: Batching | None = None,
        shadow: float | None = None,
        canary: float | None = None,
        of: str | None = None,
        key: str | Callable[[Event], object] | None = None,
    ) -> Hub:
        """Add a step: built-in middleware, a class with `process(events)`, or a function of one event.

        Neighbours share an actor unless `isolate` is set or they need other resources (`num_cpus`, `num_gpus`, custom
        `resources`, and nodes with `labels`, as Ray has them: `labels={"accelerator-type": "A100"}`): those go where
        these are, all else stays on the node on which the pipeline is started. A slow step can have `replicas`, actors
        that work on a batch each, with the order kept; each has the `resources`. With `replicas=(1, 8)` there
        are as many as are needed, see `scaling`, in each lane. Middleware that remembers events cannot be divided so.
        It can be divided into `partitions`, actors each of which has the events of its own keys (the ids of a
        `Deduplicator`, the groups of an `Aggregator`, the `state_key` of your own), from all lanes. Order is kept among
        the events of one key, and not between keys. Replicas, partitions and resources are the `ray` runtime's; on the
        `inline` runtime there is one of each step, which answers alike, whatever is said here.

        With `batching` the step is a model: a function of a list of events, or an object or class with
        `predict(events)`, which returns a result for each. Its calls are filled from many batches, see `Batching` and
        `Batched`.

        With `shadow` or `canary` it is new middleware next to one that is in use: the one added before it, or the one
        that is called `of`. With `shadow=0.05` it works on copies of 5 % of the events, in a thread of its own; what it
        makes of them is compared with what the other one makes, counted in `statistics()`, and thrown away. With
        `canary=0.05` it gets 5 % of the events in place of the other one. The share is chosen by `key`: `"id"` (the
        default), `"source"`, `"event_type"`, `"metadata.NAME"`, or a function of the event; events of one key are all
        in it, or none is.
        """
        from polku.middleware.adapt import check_middleware, component_name

        if batching is not None:
            from polku.middleware.batching import Batched

            middleware = Batched(middleware, batching)
        check_middleware(middleware)
        if shadow is not None or canary is not None or of is not None or key is not None:
            from polku.candidate.attach import Tried, attach

            divided = replicas not in (1, (1, 1)) or partitions != 1
            placed = isolate or divided or bool(num_cpus or num_gpus or resources or labels)
            tried = Tried(name or component_name(middleware), middleware, shadow, canary, of, key, placed)
            self._stages = attach(self._stages, tried)
            return self
        isolate = isolate or bool(getattr(middleware, "overlaps", False))
        plan = MiddlewarePlan(name or component_name(middleware), middleware)
        needs = Resources(num_cpus, num_gpus, dict(resources or {}), _labels(labels))
        number, bounds = replicas_of(replicas)
        stage = StagePlan("", (plan,), needs, isolate, number, replica_range=bounds)
        if _count("middleware", "partitions", partitions, most=MOST_PARTITIONS) > 1:
            from polku.middleware.partition_key import check_partitions

            check_partitions(plan.name, middleware, partitions, stage.most_replicas)
            stage = replace(stage, partitions=partitions)
        if stage.replicated and (keys := state_keys(stage)):
            raise PlanError(
                f"{plan.name} remembers events by {keys[plan.name]}, so replicas={replicas} would each see a part of "
                f"them; leave replicas out{_or_partitions(middleware, stage.most_replicas)}",
                where="middleware",
            )
        self._stages.append(stage)
        return self

    @overload
    def step(self, function: F, /) -> F: ...
    @overload
    def step(
        self,
        /,
        *,
        name: str | None = None,
        num_cpus: float = 0.0,
        num_gpus: float = 0.0,
        resources: Mapping[str, float] | None = None,
        labels: Mapping[str, str] | None = None,
        isolate: bool = False,
        replicas: int | tuple[int, int] = 1,
        partitions: int = 1,
        batching: Batching | None = None,
        shadow: float | None = None,
        canary: float | None = None,
        of: str | None = None,
        key: str | Callable[[Event], object] | None = None,
    ) -> Callable[[F], F]: ...
    def step(self, function: Any = None, /, **options: Any) -> Any:
        """Add a function of an event as middleware, as a decorator: `@hub.step`, or `@hub.step(name="classify")`.

        It takes what `middleware` takes, and returns the function as it is.
        """

        def add(function: F) -> F:
            self.middleware(function, **options)
            return function

        return add if function is None else add(function)

    def destination(
        self,
        name: str,
        *,
        overflow: Overflow | str | None = None,
        required: bool = True,
        formerly: str | None = None,
        always: bool = False,
    ) -> Callable[[F], F]:
        """Add a function of a batch as an emitter of that name, as a decorator: `@hub.destination("audit")`.

        It takes what `emitter` takes, and returns the function as it is.
        """
        if not isinstance(name, str) or not name:
            raise PlanError(f"{name!r} is no name; write @hub.destination('audit')", where="destination")

        def add(function: F) -> F:
            self.emitter(function, name=name, overflow=overflow, required=required, formerly=formerly, always=always)
            return function

        return add

    def buffer_strategy(self, strategy: BufferStrategy) -> Hub:
        """Choose what holds events until every destination has them; the default is `BufferStrategy.ring(10_000)`."""
        if not isinstance(strategy, BufferStrategy):
            raise PlanError(f"{strategy!r} is no BufferStrategy; use BufferStrategy.ring(...)", where="buffer_strategy")
        self._buffer = strategy
        return self

    def emitter(
        self,
        emitter: Emitter | Callable[..., object] | object,
        *,
        name: str | None = None,
        overflow: Overflow | str | None = None,
        required: bool = True,
        formerly: str | None = None,
        always: bool = False,
    ) -> Hub:
        """Add a destination: a built-in emitter, a class with `emit(batch)`, or a function of a batch.

        `name` is its routing address; `overflow` the rule for its own share of the buffer, if not the buffer's. With
        `required=False` it gets what it can take (best effort): nobody waits for it, neither clients at the `delivered`
        level nor, when its share is full, the other emitters; its oldest events are dropped then.
        `formerly` is the name that it had before: what a durable buffer holds for that one goes to this one.
        With `always=True` it gets every event, whatever its `route_to` names: no client, plugin or middleware that
        sets routes leaves it out, as an audit trail needs it.
        """
        from polku.emit.adapt import check_emitter, emitter_name

        check_emitter(emitter)
        rule = None if overflow is None else overflow_rule(overflow)
        if not required and rule is None:
            rule = Overflow.DROP_OLDEST
        if formerly is not None and (not isinstance(formerly, str) or not formerly):
            raise PlanError(f"formerly={formerly!r} must be the name that the emitter had", where="emitter")
        outlet = OutletPlan(name or emitter_name(emitter), emitter, rule, required, formerly, bool(always))
        if not required and rule is Overflow.BLOCK:
            raise PlanError(
                f"emitter {outlet.name!r}: required=False with overflow='block' would make clients wait for it after "
                "all; choose 'drop_oldest' or 'drop_newest'",
                where="emitter",
            )
        if any(other.name == outlet.name for other in self._outlets):
            raise PlanError(
                f"two emitters are called {outlet.name!r}; give this one another name: "
                f".emitter(..., name='{outlet.name}-2')",
                where="emitter",
            )
        self._outlets.append(outlet)
        return self

    def ack(self, level: AckLevel | str) -> Hub:
        """Choose when clients are answered.

        `accepted`: the buffer has the events; `durable`: they are on disk (always so with a durable buffer);
        `delivered`: every required emitter that they are routed to has confirmed them.
        """
        try:
            self._ack = AckLevel(level)
        except ValueError:
            names = ", ".join(repr(str(known)) for known in AckLevel)
            raise PlanError(f"level={level!r} is not known; choose one of {names}", where="ack") from None
        return self

    def allow_plugins(
        self,
        token: str | None = None,
        *,
        addresses: Sequence[str] = (),
        silent_after: float = 15.0,
        timeout: float = 5.0,
        root_certificates: bytes | None = None,
    ) -> Hub:
        """Let plugins that know the token register themselves on the gateway's port (`polku.v1.PluginRegistry`).

        Principals of the file of `security(tokens=…)` whose `plugins` have the name of one may too, with their own
        tokens; without a `token` only they may. A plugin is called back at the address that it registers from;
        `addresses` are networks (`10.0.0.0/8`) and names of hosts (`*.internal`) where it may be too.
        An ingestor serves its sources at once; an emitter needs a place: `.emitter(PluginSlot("name"))`. A plugin that
        gives no sign of life for `silent_after` seconds is taken out; its sources then answer UNAVAILABLE. One call of
        a registered ingestor may take `timeout` seconds. Send the token over networks that you trust only, unless
        the gateway's port is encrypted (`security`).
        """
        from polku.external.registration_rules import PluginRules

        self._plugins = PluginRules(
            token=token,
            addresses=tuple([addresses] if isinstance(addresses, str) else addresses),
            silent_after=silent_after,
            timeout=timeout,
            root_certificates=root_certificates,
        )
        return self

    def listen(
        self,
        *,
        grpc_addr: str | None = None,
        http_addr: str | None = None,
        otlp_addr: str | None = None,
        otlp_http_addr: str | None = None,
    ) -> Hub:
        """Choose where the gateway's ports are: `host:port`, port 0 for any, or `unix:path`; None leaves it as it is.

        What `start`, `run` or an option of `polku run` says of an address counts before this, the environment after it.
        An address that is another one when the pipeline is changed (`polku reload`, `Pipeline.update`) is opened first;
        then the port of before takes no connections any more, and its clients are asked to connect again.
        """
        chosen = Addresses(grpc_addr, http_addr, otlp_addr, otlp_http_addr)
        for name, address in chosen._asdict().items():
            if address is not None:
                try:
                    check_address(f"{name}_addr", address)
                except SettingError as error:
                    raise PlanError(str(error), where="listen") from None
        self._listen = chosen.over(self._listen)
        return self

    def security(
        self,
        *,
        tls: Tls | None = None,
        tokens: str | os.PathLike[str] | None = None,
        stamp: str | None = None,
        origins: Iterable[str] | None = None,
        require: bool | None = None,
    ) -> Hub:
        """Choose who reaches the gateway's ports, gRPC and HTTP alike; what is left out stays as it is.

        `tls` encrypts them; with a `client_ca` clients must show certificates too. `tokens` is the path of a file of
        principals (see `polku token new`): clients must say who they are, by a bearer token or a certificate, and may
        do what the file says. It is read again when it changes; on Ray on each node that has a port. Events get the
        name of their principal as metadata `stamp`, such as `"polku.principal"`, which clients cannot write
        themselves; a `Deduplicator` or `Throttle` keeps its state by it, so that with one of them there is always a
        stamp. `origins` are those of pages (`https://app.example.org`) whose browsers may post events over HTTP; those
        of all others are refused. With `require` the pipeline does not start where others reach an address without TLS
        and authentication.
        """
        if tls is not None:
            if not isinstance(tls, Tls):
                raise PlanError(f"tls={tls!r} must be Tls('server.pem', 'server.key')", where="security")
            self._tls = tls
        if tokens is not None:
            self._tokens = tokens_path(tokens)
        if stamp is not None:
            self._stamp = check_stamp(stamp)
        if origins is not None:
            self._origins = check_origins(origins)
        if require is not None:
            if not isinstance(require, bool):
                raise PlanError(f"require={require!r} must be True or False", where="security")
            self._require_security = require
        return self

    def supervise(self, *, hang_seconds: float) -> Hub:
        """Choose after how many seconds a part that does not answer, since sync code blocks it, is killed.

        On Ray it is started again, and the batch that it was at is tried in parts until the event that blocks is
        known; that one becomes a dead letter. Choose more than the longest that sync code of yours works on one batch.
        The inline runtime cannot kill a part: its health says which middleware is busy, and since when.
        """
        if not isinstance(hang_seconds, (int, float)) or isinstance(hang_seconds, bool) or hang_seconds <= 0:
            raise PlanError(f"hang_seconds={hang_seconds!r} must be a number above 0", where="supervise")
        self._hang_seconds = float(hang_seconds)
        return self

    def dead_letters(
        self, path: str | os.PathLike[str], *, max_events: int = 100_000, max_bytes: int = 256 * 1024 * 1024
    ) -> Hub:
        """Store dead letters in a file, from which `polku dlq` lists and replays them.

        When there are more than `max_events` or `max_bytes` of them the oldest of the same emitter and code are
        forgotten, counted, and health says so. Without this the latest 1,000 are kept in memory, or, with a durable
        buffer, all in a file beside its journal.
        """
        for name, value in (("max_events", max_events), ("max_bytes", max_bytes)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise PlanError(f"{name}={value!r} must be a whole number of at least 1", where="dead_letters")
        text = os.fspath(path)
        if not text or os.path.isdir(text):
            raise PlanError(f"path={text!r} must name a file, such as 'dead.db'", where="dead_letters")
        self._dead_letters = DeadLetterPlan(absolute(text), max_events, max_bytes)
        return self

    def traces(self, setup: Callable[[], TracerProvider]) -> Hub:
        """Trace batches with OpenTelemetry: a span for what comes in, for each stage, for each attempt of an emitter.

        `setup` returns the `TracerProvider` of a process, with its exporters; it is called once in each process of the
        pipeline, so on Ray it must be possible to pickle it. Without this nothing of OpenTelemetry is imported;
        `hub.run` traces too where `POLKU_TRACES=otlp` says so.
        """
        if not callable(setup):
            raise PlanError(f"{setup!r} must be a function that returns a TracerProvider", where="traces")
        self._traces = setup
        return self

    def chain(self) -> Hub:
        """Run the parts of a lane in one actor, as the inline runtime runs them: no hops, so less work an event.

        Middleware with `isolate`, `replicas` or resources of its own keeps its actors. What dies with that actor dies
        with its buffer: choose a durable one where that matters. The inline runtime is always chained.
        """
        self._chained = True
        return self

    def lanes(
        self,
        lanes: int | Literal["per-node"] | None = None,
        *,
        min: int | None = None,
        max: int | None = None,
        spread: bool = False,
    ) -> Hub:
        """Run a number of lanes (ingest, stages, buffer, emitters) side by side, behind one port.

        A connection belongs to one lane, and order is kept within a lane. Middleware whose state must be seen whole
        (Deduplicator, Throttle, RateLimiter, Aggregator, and your own with a `state_key`) runs in one stage that all
        lanes feed, or in its `partitions`. Each lane has a buffer of the whole capacity, and, if that is durable, a
        journal of its own beside the first one. The inline runtime has one event loop and runs one lane, whatever is
        said here. A reload may choose another number.

        With `lanes(min=1, max=8)` there are `min` at first, and then as many as are needed, see `scaling`. Some of the
        clients that are connected are asked to connect again when lanes were added, so that these get their share.
        With `spread` too each lane is put on the node of the Ray cluster that has CPUs and the fewest lanes, and one
        that is lost with its node, or whose node Ray drains, comes again on another: the gateway must listen at
        `0.0.0.0` or `[::]`, and clients must find the nodes. Buffer and dead letters have to be in memory.

        With `"per-node"` every node of the Ray cluster that has CPUs has a lane, and one that joins later gets its own:
        capacity grows with the cluster. Clients reach each node at its own address, at the same port, and health at its
        doors is that of its lane and of what all share. A durable buffer keeps each lane's journal at its path on the
        lane's node, so the lane of a node that was lost goes on when a node of the same address comes back (let it
        deliver before you choose fewer lanes); a lane with a buffer in memory is forgotten with its node. A stage that
        all lanes share may be started again when a node is lost, and then forgets what it has seen.
        """
        is_range = min is not None or max is not None
        if is_range and lanes is not None:
            raise PlanError(f"lanes={lanes!r} leaves no room for min and max; leave it out", where="lanes")
        bounds = range_of("lanes", 1 if min is None else min, max) if is_range else None
        self._per_node = lanes == PER_NODE
        number = bounds.min if bounds is not None else 1 if self._per_node else lanes
        self._lanes = _count("lanes", "lanes", number, or_else=f"{PER_NODE!r}, or min and max")
        if spread and bounds is None:
            raise PlanError("spread=True needs min and max: lanes(min=1, max=8, spread=True)", where="lanes")
        self._spread = bool(spread)
        self._lane_range = bounds if bounds is not None and (bounds.min < bounds.max or spread) else None
        return self

    def scaling(self, scaling: Scaling) -> Hub:
        """Choose when lanes and replicas come and go, where `lanes(min=…, max=…)` or `replicas=(…, …)` lets them.

        It is decided by the age of the oldest event, and by how much of their time they are at work; without this as
        `Scaling()` has it. Changes are lines of the log and in `statistics()`; where no resources are to be had for
        what is new, the pipeline goes on as it is, and health says so. The inline runtime changes nothing.
        """
        if not isinstance(scaling, Scaling):
            raise PlanError(f"{scaling!r} is no Scaling; use Scaling(oldest_seconds=…, …)", where="scaling")
        self._scaling = scaling
        return self

    def redact(self, *metadata: str, payload: bool = False) -> Hub:
        """Choose what nobody sees who looks at events of the running pipeline (`polku tap`).

        Values of metadata whose keys match one of these globs, whatever their case, are replaced; with `payload` the
        payloads, and typed data, are left out. The events themselves stay as they are.
        """
        for pattern in metadata:
            if not isinstance(pattern, str) or not pattern:
                raise PlanError(f"{pattern!r} must be a key of metadata, or a glob such as '*token*'", where="redact")
        before = self._redaction
        keys = tuple(dict.fromkeys((*before.metadata, *(pattern.lower() for pattern in metadata))))
        self._redaction = Redaction(keys, before.payload or bool(payload))
        return self

    def limits(self, limits: Limits) -> Hub:
        """Choose what the gateway takes: sizes, counts, streams."""
        self._limits = limits
        return self

    def plan(self, runtime: str | None = None) -> Plan:
        """Return the immutable plan; raises `PlanError` where it cannot work on the runtime."""
        from polku.ingest import CloudEventsIngestor, JsonIngestor, PassthroughIngestor
        from polku.otlp.ingestor import OtlpIngestor

        ingestors = dict(self._ingestors)
        for builtin in (PassthroughIngestor(), JsonIngestor(), CloudEventsIngestor(), OtlpIngestor()):
            for source in builtin.sources:
                ingestors.setdefault(source, builtin)
        chosen = self._chosen(runtime)
        on_ray = chosen == "ray"
        if on_ray:
            ray_installed()
        lanes = self._lanes if on_ray else 1
        lane_range = self._lane_range if on_ray else None
        per_node = self._per_node and on_ray
        divided = self._stages
        stages = divided if on_ray else [replace(s, replicas=1, replica_range=None, partitions=1) for s in divided]
        stages = kept_beside(stages, self._buffer)
        letters = self._dead_letters or _beside(self._buffer)
        is_shared = letters is not None or keeps_shared_state(stages)
        stamp = self._stamp or (STAMP if self._tokens and is_shared else "")
        if stamp:
            stages = keyed_by(stamp, stages)
        plan = Plan(
            name=self._name,
            ingestors=tuple(ingestors.items()),
            default_ingestor=self._default_ingestor,
            sources=tuple(source.beside(self._buffer.path) for source in self._sources),
            stages=fuse(stages, side_by_side=lanes > 1 or lane_range is not None or per_node),
            buffer=self._buffer,
            outlets=tuple(self._outlets),
            limits=self._limits,
            ack=self._ack,
            plugins=self._plugins,
            listen=self._listen,
            tls=self._tls,
            tokens=self._tokens,
            stamp=stamp,
            origins=self._origins,
            require_security=self._require_security,
            hang_seconds=self._hang_seconds,
            dead_letters=letters,
            lanes=lanes,
            lane_range=lane_range,
            scaling=self._scaling,
            per_node=per_node,
            spread=self._spread and on_ray,
            chained=self._chained and on_ray,
            traces=self._traces,
            redaction=self._redaction,
        )
        if on_ray:
            check_sources(plan)
            check_pickles(plan)
        return plan

    def build(self, *, runtime: str | None = None) -> Built:
        """Return a sender for raw bytes, a sender for events, and the runner that brings both to life."""
        runner = self._runner(runtime)
        return Built(RawSender(runner), EventSender(runner), runner)

    def start(
        self,
        *,
        runtime: str | None = None,
        grpc_addr: str | None = None,
        http_addr: str | None = None,
        otlp_addr: str | None = None,
        otlp_http_addr: str | None = None,
        http_token: str | None = None,
        admin_addr: str | None = None,
        admin_token: str | None = None,
        admin_read_token: str | None = None,
    ) -> Pipeline:
        """Start the pipeline and return it; use it in a `with` or `async with` block, which drains it at the end.

        The gateway's ports are only opened where `grpc_addr` and `http_addr` (`host:port`, port 0 for any) are given;
        HTTP clients must send the `http_token`, if there is one; `security` encrypts all ports. OTLP is spoken there
        too; `otlp_addr` and `otlp_http_addr` are second addresses for it, by convention at ports 4317 and 4318.
        Statistics, metrics and health are served at an `admin_addr` (`host:port` or `unix:path`), to who sends the
        `admin_token`, if there is one: without it only on the loopback interface. The `admin_read_token` shows the
        same, and no events, and changes nothing. Inside a running event loop this does not wait: `async with` does, or
        the pipeline's first use.
        """
        runner = self._runner(runtime)
        return runner.start(
            grpc_addr=grpc_addr,
            http_addr=http_addr,
            otlp_addr=otlp_addr,
            otlp_http_addr=otlp_http_addr,
            http_token=http_token,
            admin_addr=admin_addr,
            admin_token=admin_token,
            admin_read_token=admin_read_token,
        )

    def run(
        self,
        *,
        runtime: str | None = None,
        grpc_addr: str | None = None,
        http_addr: str | None = None,
        otlp_addr: str | None = None,
        otlp_http_addr: str | None = None,
        http_token: str | None = None,
        admin_addr: str | None = None,
        drain: float | None = None,
        reload: Callable[[], Hub] | None = None,
        watch: Callable[[], object] | None = None,
        progress: bool = False,
    ) -> None:
        """Open the gateway and serve until SIGINT, SIGTERM or SIGHUP, then drain. Blocks; call it in the main thread.

        The address is `grpc_addr`, else that of `listen`, else the environment's `POLKU_GRPC_ADDR`, else
        `127.0.0.1:50051`. HTTP is open where there is an `http_addr`, one of `listen`, or `POLKU_HTTP_ADDR`; so are the
        second addresses for OTLP, `otlp_addr` or `POLKU_OTLP_ADDR` (gRPC) and `otlp_http_addr` or
        `POLKU_OTLP_HTTP_ADDR`. HTTP clients must send the `http_token` or `POLKU_HTTP_TOKEN`, if there is one. Where
        `security` says nothing of it, `POLKU_TLS_CERT` and `POLKU_TLS_KEY` encrypt all of them, and
        `POLKU_TOKENS` names the file of principals. Statistics, metrics and health are served at `admin_addr`, else
        `POLKU_ADMIN_ADDR`, else the first free one from `127.0.0.1:50052` on; `off` closes it. A drain takes `drain`
        seconds at most, else `POLKU_DRAIN_SECONDS`, else 30. With a durable buffer it ends as soon as everything is
        delivered, or in the journal for destinations that take nothing. With `progress` a terminal has a line at its
        bottom that says what flows, unless events are printed there.

        With `reload`, SIGHUP and `polku reload` have it called, and the hub that it returns is run from then on, as by
        `Pipeline.update`; so it is whenever what `watch` returns changes. In a terminal SIGHUP stops the pipeline, as
        that has been closed.

        Raises `SystemExit` with status 3 where events are lost whose senders were told that they were accepted: a line
        on standard error says how many.
        """
        reloader = None
        chosen = Addresses(grpc_addr, http_addr, otlp_addr, otlp_http_addr)
        if reload is not None:
            from polku.runtime.reloading import Reloader

            load = reload
            reloader = Reloader(lambda: load()._as_surroundings_say(chosen), watch=watch)
        runner = self._as_surroundings_say(chosen)._runner(runtime)
        runner.run(
            http_token=http_token,
            admin_addr=admin_addr,
            drain=drain,
            reloader=reloader,
            progress=progress,
        )

    def _as_surroundings_say(self, chosen: Addresses) -> Hub:
        self._listen = chosen.over(self._listen).over(addresses_of_environment())
        if self._tokens is None and (path := tokens_of_environment()) is not None:
            self.security(tokens=path)
        return self

    def __repr__(self) -> str:
        middleware = [m.name for stage in self._stages for m in stage.middleware]
        emitters = [outlet.name for outlet in self._outlets]
        return f"Hub(name={self._name!r}, middleware={middleware}, emitters={emitters})"

    def _repr_html_(self) -> str:
        """Return a picture of the pipeline, for notebooks."""
        from html import escape

        from polku.picture import picture

        try:
            return picture(self.plan("inline"))
        except PlanError as error:
            return f"<pre>{escape(repr(self))}\n{escape(str(error))}</pre>"

    def _runner(self, runtime: str | None) -> Runner:
        return Runner(self.plan(runtime), self._chosen(runtime), is_told=runtime is not None)

    def _chosen(self, runtime: str | None) -> str:
        if runtime is not None:
            return _runtime(runtime)
        return self._runtime or _runtime(os.environ.get("POLKU_RUNTIME") or "ray")


class Built(NamedTuple):
    """What `Hub.build` returns."""

    raw_sender: RawSender
    event_sender: EventSender
    runner: Runner


def _beside(buffer: BufferStrategy) -> DeadLetterPlan | None:
    """Store the dead letters of a durable buffer beside its journal."""
    return DeadLetterPlan(f"{buffer.path}.dead") if buffer.path else None


def _labels(labels: object) -> dict[str, str]:
    pairs = labels.items() if isinstance(labels, Mapping) else () if labels is None else [(labels, None)]
    if not all(isinstance(name, str) and name and isinstance(value, str) for name, value in pairs):
        raise PlanError(
            f"labels={shorten(labels)} must name labels of nodes with their values, both text, such as "
            "{'accelerator-type': 'A100'}",
            where="middleware",
        )
    return dict(pairs)


def _or_partitions(middleware: object, replicas: int) -> str:
    from polku.middleware.partition_key import partition_key

    return f", or choose partitions={replicas}, by that key" if partition_key(middleware) is not None else ""


def _count(where: str, name: str, value: object, *, or_else: str = "", most: int = 1000) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        choice = f", or {or_else}" if or_else else ""
        raise PlanError(f"{name}={value!r} must be a whole number from 1 to {most}{choice}", where=where)
    return value


def _runtime(name: str) -> str:
    if name not in RUNTIMES:
        raise PlanError(f"runtime={name!r} is not known; choose 'ray' or 'inline'", where="Hub")
    return name
