"""How a plan is described for those who look at its pipeline."""

from __future__ import annotations

from polku import (
    BufferStrategy,
    Deduplicator,
    Filter,
    GrpcEmitter,
    Hub,
    JsonIngestor,
    Limits,
    Resilience,
    StdoutEmitter,
    WebhookEmitter,
)
from polku.monitoring.picture import describe, destination
from tests.monitoring.eventful import Feed

USUAL = [part.name for part in describe(Hub().emitter(StdoutEmitter()).plan("ray")).parts if part.kind == "ingestor"]


class Shy:
    """An emitter whose repr fails."""

    name = "shy"

    def emit(self, batch: object) -> None:
        """Take everything."""

    def __repr__(self) -> str:
        raise ValueError("no")


def keep(event: object) -> bool:
    return True


def test_the_parts_stand_from_front_to_back_and_each_says_what_it_feeds() -> None:
    hub = (
        Hub()
        .source(Feed())
        .limits(Limits(batch_events=5))
        .ingestor(JsonIngestor(), source="shop")
        .middleware(Filter(keep))
        .middleware(Deduplicator(), isolate=True)
        .buffer_strategy(BufferStrategy.durable("journal.db", overflow="drop_oldest"))
        .emitter(Shy())
        .emitter(WebhookEmitter("https://partner.example/secret"), required=False, always=True)
    )
    plan = describe(hub.plan("ray"))
    assert [(part.name, part.kind, part.type, part.feeds) for part in plan.parts if part.name not in USUAL] == [
        ("source:feed", "source", "Feed", ("ingest",)),
        ("ingestor:shop", "ingestor", "JsonIngestor", ("ingest",)),
        ("ingest", "ingest", "gateway", ("stage-1",)),
        ("stage-1", "stage", "Filter(keep)", ("stage-2",)),
        ("stage-2", "stage", "Deduplicator", ("buffer",)),
        ("buffer", "buffer", "durable", ("emitter:shy", "emitter:webhook")),
        ("emitter:shy", "emitter", "Shy", ()),
        ("emitter:webhook", "emitter", "WebhookEmitter", ()),
    ]
    assert len(USUAL) > 1
    texts = {part.name: part.configuration for part in plan.parts}
    assert texts["ingest"] == "clients are answered once events are durable; batch_events=5"
    assert texts["stage-1"] == "Filter(keep)"
    assert "journal.db" in texts["buffer"]
    assert texts["emitter:shy"] == "Shy(…): its repr raises ValueError; when its share is full: drop_oldest"
    assert texts["emitter:webhook"].endswith("when its share is full: drop_oldest, not required, gets every event")
    assert "secret" not in str(plan)
    assert (plan.lanes, plan.ack, plan.dead_letters) == (1, "durable", f"{plan.journal}.dead")


def test_a_stage_that_lanes_share_is_said_to_be() -> None:
    hub = Hub().middleware(Filter(keep)).middleware(Deduplicator()).lanes(2).emitter(Shy())
    plan = describe(hub.plan("ray"))
    assert plan.lanes == 2
    assert [part.shared for part in plan.parts if part.kind == "stage"] == [False, True]


def test_partitions_are_said() -> None:
    hub = Hub().middleware(Deduplicator(), partitions=3).lanes(2).emitter(Shy())
    (stage,) = [part for part in describe(hub.plan("ray")).parts if part.kind == "stage"]
    assert (stage.name, stage.partitions, stage.shared) == ("stage-1", 3, True)
    (stage,) = [part for part in describe(hub.plan("inline")).parts if part.kind == "stage"]
    assert (stage.partitions, stage.shared) == (1, False)


def test_a_destination_is_told_without_its_secrets() -> None:
    assert destination(WebhookEmitter("https://ada:secret@partner.example:8443/hook?key=secret")) == (
        "https://partner.example:8443"
    )
    assert destination(Resilience(GrpcEmitter(["a:1", "https://[::1]:2"]))) == "a:1, https://[::1]:2"
    assert destination(Shy()) == ""
