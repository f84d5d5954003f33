"""Source and emitter against Apache's own broker, which asks for their certificates."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from polku import Hub, KafkaEmitter, KafkaSource, new_event
from polku.kafka import emitter as kafka_emitter
from polku.kafka import puller
from polku.kafka.consumer import Consumer
from polku.kafka.producer import Producer
from tests.kafka.clients import committed, wait_for
from tests.kafka.real import Broker, broker
from tests.support.authority import Authority, put, replace
from tests.support.encrypted import by_path, goes_there_and_back
from tests.support.recorder import Recorder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def kafka(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Broker]:
    with broker(tmp_path_factory.mktemp("kafka"), authority.cert, authority.issue()) as node:
        yield node


def test_events_go_there_and_back_encrypted(kafka: Broker, authority: Authority, tmp_path: Path) -> None:
    kafka.topic("orders", 3)
    goes_there_and_back(
        lambda tls: KafkaSource("orders", "polku", bootstrap_servers=kafka.encrypted, decode="event", **tls._asdict()),
        lambda tls: KafkaEmitter("orders", key="one", bootstrap_servers=kafka.encrypted, **tls._asdict()),
        authority,
        tmp_path,
    )


def test_nothing_is_lost_and_nothing_comes_twice_while_certificates_are_replaced(
    kafka: Broker, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[type] = []
    for module, kind in ((kafka_emitter, Producer), (puller, Consumer)):
        monkeypatch.setattr(module, kind.__name__, _noting(kind, made))
    kafka.topic("renewed", 3)
    used = put(authority.issue("polku"), tmp_path)
    tls = by_path(authority.cert, used)
    out = Recorder(tmp_path / "out")
    options = {"bootstrap_servers": kafka.encrypted, **tls._asdict()}
    source = KafkaSource("renewed", "group", decode="event", commit_seconds=0.2, **options)
    with (
        Hub(runtime="inline").source(source).emitter(out).start(),
        Hub(runtime="inline").emitter(KafkaEmitter("renewed", key="{id}", **options)).start() as pipeline,
    ):
        sender, sent = pipeline.sender(), 0
        for number in range(2, 5):
            replace(authority.issue(f"polku-{number}"), used)

            def are_renewed(count: int = number) -> bool:
                nonlocal sent
                assert sender.send([new_event("order", source="shop", id=f"{sent + k}") for k in range(50)]).ok
                sent += 50
                return made.count(Producer) >= count and made.count(Consumer) >= count

            wait_for(are_renewed)
        out.wait_for(sent, 60)
        wait_for(lambda: sum(committed(kafka.bootstrap, "group", "renewed", 3)) == sent)
    ids = [event.id for event in out.events()]
    assert sorted(ids, key=int) == [f"{n}" for n in range(sent)]


def _noting(kind: type, made: list[type]) -> type:
    def start(self: object, *arguments: object, **options: object) -> None:
        made.append(kind)
        kind.__init__(self, *arguments, **options)  # type: ignore[misc]

    return type(kind.__name__, (kind,), {"__init__": start})
