"""A real Kafka broker: Apache's own program in KRaft mode, in a JVM of its own, controller and broker in one node."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.clients.toolchains import need, run
from tests.support.authority import Pair
from tests.support.ports import free_port

_POM = Path(__file__).with_name("pom.xml")
_JVM = ("-Xmx256m", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_START_SECONDS = 120.0
_PROPERTIES = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={folder}/logs
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=200
group.consumer.heartbeat.interval.ms=500
auto.create.topics.enable=false
"""

_ENCRYPTED = """
ssl.keystore.type=PEM
ssl.keystore.location={folder}/pair.pem
ssl.truststore.type=PEM
ssl.truststore.location={authority}
ssl.client.auth=required
"""


class Broker:
    """One node, whose files outlive its process.

    With a `pair` it has an encrypted address too, `encrypted`, for those who show a certificate of `authority`.
    """

    def __init__(self, folder: Path, authority: Path | None = None, pair: Pair | None = None) -> None:
        need("java")
        need("mvn")
        shutil.copy(_POM, folder)
        run(["mvn", "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile=classpath"], folder)
        self._java = ["java", *_JVM, "-cp", (folder / "classpath").read_text()]
        port, controller = free_port(), free_port()
        self._settings = folder / "server.properties"
        text = _PROPERTIES.format(port=port, controller=controller, folder=folder)
        if authority is not None and pair is not None:
            (folder / "pair.pem").write_bytes(pair.key.read_bytes() + pair.cert.read_bytes())
            ours = free_port()
            text = text.replace("PLAINTEXT://", f"SSL://127.0.0.1:{ours},PLAINTEXT://", 1).replace(
                "CONTROLLER:PLAINTEXT,", "CONTROLLER:PLAINTEXT,SSL:SSL,"
            )
            text += _ENCRYPTED.format(folder=folder, authority=authority)
            self.encrypted = f"127.0.0.1:{ours}"
        self._settings.write_text(text)
        self._log = folder / "broker.log"
        self.bootstrap = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        cluster = ["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAA", "-c", str(self._settings)]
        run([*self._java, *cluster], folder)

    def start(self) -> None:
        """Start the process; return once it serves."""
        with self._log.open("ab") as log:
            command = [*self._java, "kafka.Kafka", str(self._settings)]
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._settings.parent)
        client = AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2_000:]
            with contextlib.suppress(KafkaException):
                if client.list_topics(timeout=1).brokers:
                    return

    def kill(self) -> None:
        """End the process without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def topic(self, name: str, partitions: int, **settings: str) -> str:
        """Make a topic, and return its name."""
        client = AdminClient({"bootstrap.servers": self.bootstrap})
        config = {key.replace("_", "."): value for key, value in settings.items()}
        for done in client.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
            done.result(30)
        return name


@contextlib.contextmanager
def broker(folder: Path, authority: Path | None = None, pair: Pair | None = None) -> Iterator[Broker]:
    """Run a broker for as long as it is wanted; skips the test where it cannot be had."""
    node = Broker(folder, authority, pair)
    try:
        node.start()
        yield node
    finally:
        node.kill()


class OnRealBroker:
    """A partition of a real broker, which stays: a start of it takes longer than the suites wait for anything."""

    numbers = itertools.count()
    prefix: str

    def __init__(self, node: Broker) -> None:
        super().__init__()
        self.node = node
        self.topic = node.topic(f"{self.prefix}-{next(self.numbers)}", 1)

    @property
    def bootstrap(self) -> str:
        """The address of the broker."""
        return self.node.bootstrap

    async def start(self) -> None:
        """Do nothing: it runs."""

    async def stop(self) -> None:
        """Do nothing: it goes on."""
