"""Every built-in emitter passes the suite that users run on theirs; and the suite finds what is wrong.

Another emitter is added by a `Destination` in DESTINATIONS.
"""

from __future__ import annotations

from typing import Any

import pytest

from polku import Batch, Event, Failure
from polku.testing import Ability, Destination, EmitterCheck, assert_emitter, check_emitter, emitter_checks
from tests.emit.destinations import Actor, Ahti, Folder, Function, Gateway, Plugin, Stdout, Webhook
from tests.kafka.destination import Kafka
from tests.otlp.collector import OtlpGrpc, OtlpHttp

DESTINATIONS: tuple[type[Destination], ...] = (
    Ahti,
    Gateway,
    Webhook,
    Kafka,
    OtlpGrpc,
    OtlpHttp,
    Stdout,
    Plugin,
    Function,
)


@pytest.mark.parametrize(
    ("kind", "check"),
    [
        pytest.param(kind, check, id=f"{kind.__name__}: {check}")
        for kind in DESTINATIONS
        for check in emitter_checks(kind.abilities)
    ],
)
async def test_built_in_emitters_keep_the_contract(kind: type[Destination], check: EmitterCheck) -> None:
    await check.run(kind())


@pytest.mark.usefixtures("ray_session")
def test_an_actor_keeps_the_contract() -> None:
    assert_emitter(Actor)


class Careless:
    """An emitter with one of the FAULTS."""

    name = "careless"

    def __init__(self, store: Folder, fault: str) -> None:
        self.store, self.fault = store.store, fault
        self.kept: list[Event] = []

    def emit(self, batch: Batch) -> list[Failure]:
        failures = self.store.emit(batch) if self.fault != "forgets" or len(self.kept) > 3 else []
        self.kept += batch.events
        if self.fault == "repeats":
            self.store.emit(batch)
        if self.fault == "blames":
            return [Failure(event_id, "one failed", retryable=False) for event_id in batch.ids] if failures else []
        if self.fault == "hides":
            return []
        if self.fault == "insists":
            return [failure._replace(retryable=True) for failure in failures]
        if self.fault == "despairs":
            return [failure._replace(retryable=False) for failure in failures]
        return failures

    def close(self) -> None:
        if self.fault == "stumbles":
            raise OSError("closed twice")


FAULTS = {
    "forgets": "keeps order and repeats nothing",
    "repeats": "keeps order and repeats nothing",
    "blames": "names what was refused",
    "hides": "names what was refused",
    "insists": "names what was refused",
    "despairs": "tries only again what failed",
    "stumbles": "closes twice",
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_the_suite_finds_what_is_wrong(fault: str) -> None:
    class Faulty(Folder):
        abilities = Ability.ORDER | Ability.REFUSE | Ability.BUSY

        def emitter(self) -> Any:
            return Careless(self, fault)

    report = await check_emitter(Faulty, patience=1.5)
    assert not report.ok
    assert FAULTS[fault] in {finding.check for finding in report.findings if finding.fix}, report
    assert "left out, needs" in str(report)
