"""Functions as parts of a hub, by decorators; and how a hub looks in a notebook."""

from __future__ import annotations

import pytest

from polku import Batch, Event, Filter, Hub, PlanError, StdoutEmitter, new_event


def test_functions_become_parts_and_stay_functions() -> None:
    hub = Hub(runtime="inline")
    kept: list[str] = []

    @hub.step
    def first(event: Event) -> None:
        event.metadata["first"] = "yes"

    @hub.step(name="second step", isolate=True)
    async def second(event: Event) -> None:
        event.metadata["second"] = event.metadata["first"]

    @hub.destination("audit", always=True)
    def store(batch: Batch) -> None:
        kept.extend(event.metadata["second"] for event in batch)

    event = new_event("order")
    first(event)
    assert event.metadata["first"] == "yes"
    with hub.start() as pipeline:
        assert pipeline.sender().send(new_event("order")).ok
    assert kept == ["yes"]
    plan = hub.plan()
    assert [one.name for stage in plan.stages for one in stage.middleware] == ["first", "second step"]
    assert (plan.outlets[0].name, plan.outlets[0].always) == ("audit", True)


def test_a_destination_needs_a_name() -> None:
    hub = Hub()
    with pytest.raises(PlanError, match=r"write @hub\.destination\('audit'\)"):
        hub.destination(lambda batch: None)  # type: ignore[arg-type]


def test_a_hub_is_a_picture_in_a_notebook() -> None:
    hub = Hub(name="a<b", runtime="inline").middleware(Filter(lambda event: True), name="x & y")
    assert "there is no emitter" in hub._repr_html_()
    shown = hub.emitter(StdoutEmitter(), name="audit")._repr_html_()
    assert "a&lt;b" in shown
    assert "x &amp; y" in shown
    assert shown.index("ingest") < shown.index("x &amp; y") < shown.index("ring 10000") < shown.index("audit")
    with hub.start() as pipeline:
        assert pipeline._repr_html_() == shown
