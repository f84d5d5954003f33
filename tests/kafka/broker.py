"""A Kafka cluster in a process of its own: librdkafka's mock brokers, which speak the real protocol over real ports.

`python -m tests.kafka.broker --topic orders:3` prints the bootstrap servers, then obeys commands on standard input,
each answered with `ok`: `down N`, `up N`, `topic NAME PARTITIONS`, `topic-error NAME CODE`, `errors API CODE…`,
`withhold`, `confirm`, `rtt MS`. Python's client offers only a part of that, so the library's own functions
are called.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

PRODUCE, FETCH, METADATA, FIND_COORDINATOR, OFFSET_COMMIT = 0, 1, 3, 10, 8
NONE, MSG_SIZE_TOO_LARGE, UNKNOWN_TOPIC, TOPIC_AUTHORIZATION, CLUSTER_AUTHORIZATION = 0, 10, 3, 29, 31
INVALID_RECORD, OUT_OF_ORDER = 87, 45

_WITHHELD = 8


def library() -> Any:
    """Load the librdkafka that came with the client."""
    import confluent_kafka

    package = Path(confluent_kafka.__file__).parent
    (path,) = (package.parent / "confluent_kafka.libs").glob("librdkafka*.so*")
    lib = ctypes.CDLL(str(path))
    for name in ("rd_kafka_conf_new", "rd_kafka_new", "rd_kafka_mock_cluster_new"):
        getattr(lib, name).restype = ctypes.c_void_p
    lib.rd_kafka_mock_cluster_bootstraps.restype = ctypes.c_char_p
    return lib


class Mock:
    """The cluster itself, inside its process."""

    def __init__(self, brokers: int) -> None:
        self.lib = lib = library()
        fault = ctypes.create_string_buffer(512)
        conf = ctypes.c_void_p(lib.rd_kafka_conf_new())
        self.client = ctypes.c_void_p(lib.rd_kafka_new(0, conf, fault, 512))
        self.cluster = ctypes.c_void_p(lib.rd_kafka_mock_cluster_new(self.client, brokers))
        self.brokers = brokers
        lib.rd_kafka_mock_group_initial_rebalance_delay_ms(self.cluster, 50)

    @property
    def bootstrap(self) -> str:
        text: bytes = self.lib.rd_kafka_mock_cluster_bootstraps(self.cluster)
        return text.decode()

    def topic(self, name: str, partitions: str) -> None:
        assert self.lib.rd_kafka_mock_topic_create(self.cluster, name.encode(), int(partitions), 1) == 0

    def topic_error(self, name: str, code: str) -> None:
        self.lib.rd_kafka_mock_topic_set_error(self.cluster, name.encode(), int(code))

    def down(self, broker: str) -> None:
        self.lib.rd_kafka_mock_broker_set_down(self.cluster, int(broker))

    def up(self, broker: str) -> None:
        self.lib.rd_kafka_mock_broker_set_up(self.cluster, int(broker))

    def rtt(self, milliseconds: str) -> None:
        for broker in range(1, self.brokers + 1):
            self.lib.rd_kafka_mock_broker_set_rtt(self.cluster, broker, int(milliseconds))

    def withhold(self) -> None:
        """Take records from now on, and confirm none of them: the next eight requests are answered in an hour."""
        pairs = [ctypes.c_int(value) for _ in range(_WITHHELD) for value in (NONE, 3_600_000)]
        push = self.lib.rd_kafka_mock_broker_push_request_error_rtts
        push(self.cluster, ctypes.c_int32(1), ctypes.c_int16(PRODUCE), ctypes.c_size_t(_WITHHELD), *pairs)

    def confirm(self) -> None:
        """Confirm again what comes from now on; what is withheld stays so until its connection ends."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.bootstrap, "batch.num.messages": 1, "linger.ms": 0})
        left = ctypes.c_size_t(_WITHHELD)
        count = self.lib.rd_kafka_mock_broker_error_stack_cnt
        while left.value:  # nothing takes them back but requests
            producer.produce("nobody-reads-this", b"")
            producer.poll(0.02)
            count(self.cluster, ctypes.c_int32(1), ctypes.c_int16(PRODUCE), ctypes.byref(left))
        producer.purge()

    def errors(self, api: str, *codes: str) -> None:
        array = (ctypes.c_int * len(codes))(*map(int, codes))
        count = ctypes.c_size_t(len(codes))
        self.lib.rd_kafka_mock_push_request_errors_array(self.cluster, ctypes.c_int16(int(api)), count, array)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--brokers", type=int, default=1)
    parser.add_argument("--topic", action="append", default=[], help="NAME:PARTITIONS")
    options = parser.parse_args()
    mock = Mock(options.brokers)
    for topic in options.topic:
        mock.topic(*topic.split(":"))
    print(mock.bootstrap, flush=True)
    for line in sys.stdin:
        command, *arguments = line.split()
        getattr(mock, command.replace("-", "_"))(*arguments)
        print("ok", flush=True)


class Cluster:
    """The cluster as a test sees it."""

    def __init__(self, *topics: str, brokers: int = 1) -> None:
        named = [part for topic in topics for part in ("--topic", topic)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.kafka.broker", "--brokers", str(brokers), *named],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        self.bootstrap = self.process.stdout.readline().strip()
        assert self.bootstrap

    def tell(self, *command: object) -> None:
        """Give one command and wait until it is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(map(str, command)) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "ok\n"

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


if __name__ == "__main__":
    main()
