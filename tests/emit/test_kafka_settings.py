"""What is said of the settings of a KafkaEmitter that are wrong, and of a client that is not there."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from polku import (
    Hub,
    KafkaEmitter,
    PlanError,
)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"topic": "{nobody}"}, "{nobody} is no field of an event"),
        ({"topic": "{source!r}"}, "is no field"),
        ({"topic": "{source"}, "is no template"),
        ({"topic": "a b"}, "topic='a b'"),
        ({"topic": ""}, "topic=''"),
        ({"topic": 5}, "must be a template or a function"),
        ({"topic": "t", "key": 5}, "key=5"),
        ({"topic": "t", "value": "xml"}, "value='xml'"),
        ({"topic": "t", "headers": "a"}, "headers='a'"),
        ({"topic": "t", "timeout": 0}, "timeout=0"),
        ({"topic": "t", "bootstrap_servers": ""}, "bootstrap_servers=''"),
        ({"topic": "t", "bootstrap_servers": "a:1,,b:2"}, "bootstrap_servers='a:1,,b:2'"),
        ({"topic": "t", "config": {"acks": 1}}, "config: 'acks' cannot be chosen"),
        ({"topic": "t", "config": {"error_cb": "x"}}, "config: 'error_cb' cannot be chosen"),
        ({"topic": "t", "config": {"a": None}}, "config: 'a' must be"),
        ({"topic": "t", "config": []}, "config=[]"),
    ],
)
def test_a_wrong_setting_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="KafkaEmitter") as caught:
        KafkaEmitter(**{"bootstrap_servers": "localhost:9092", **options})
    assert message in str(caught.value)


def test_a_property_that_the_client_does_not_know_ends_the_start() -> None:
    hub = Hub(runtime="inline").emitter(KafkaEmitter("t", bootstrap_servers="localhost:9092", config={"foo": "bar"}))
    with pytest.raises(PlanError, match=r'KafkaEmitter: config: .*"foo"'):
        hub.start()


def test_passwords_are_not_shown() -> None:
    assert "secret" not in repr(KafkaEmitter("t", bootstrap_servers="a:1", config={"sasl.password": "secret"}))


def test_a_missing_client_names_the_command_that_installs_it() -> None:
    program = (
        "import sys; sys.modules['confluent_kafka'] = None\n"
        "from polku import Hub, KafkaEmitter\n"
        "Hub(runtime='inline').emitter(KafkaEmitter('t', bootstrap_servers='a:1')).start()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert "pip install 'polku[kafka]'" in done.stderr
