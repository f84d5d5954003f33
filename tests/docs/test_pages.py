"""Every code block of the README and of each page runs as it is printed, in order, page by page."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.pages import LANGUAGES, PAGES, README, ROOT, Block, blocks, languages
from tests.docs.terminal import Terminal, is_free

_LONG = (
    "make test",
    "make quick",
    "make slow",
    "make chaos",
    "make simulate",
    "make bench",
    "make matrix",
    "make fuzz",
    "make release",
)
_ELSEWHERE = {"polku plugin new ingestor": "tests/testing/test_check.py"}
_NEEDED = {
    "grpcurl": "grpcurl",
    "curl": "curl",
    "openssl": "openssl",
    "go build": "go",
    "systemd-analyze": "systemd-analyze",
}
_PACKAGES = {
    "KafkaSource": "confluent_kafka",
    "S3Emitter": "obstore",
    "ClaimCheck": "obstore",
    "try_pictures": "obstore",
    "orders.py": "confluent_kafka",
    "mirror.py": "confluent_kafka",
    "PostgresEmitter": "psycopg",
    "rows.py": "psycopg",
    "RedisStreams": "redis",
    "NatsSource": "nats",
    "builds.py": "nats",
    "logins.py": "redis",
}
CASES = [(page, number) for page in PAGES for number in range(len(blocks(page)))]


class Terminals:
    """Have one terminal at a time: that of the page whose blocks run now."""

    def __init__(self, factory: pytest.TempPathFactory) -> None:
        self._factory = factory
        self._page: Path | None = None
        self._terminal: Terminal | None = None
        self._done = 0

    def run(self, page: Path, number: int) -> None:
        """Run a block, and first those before it that have not run yet."""
        if page != self._page:
            self.stop()
            self._page, self._done = page, 0
            self._terminal = Terminal(self._factory.mktemp(page.stem))
        assert self._terminal is not None
        for block in blocks(page)[self._done : number + 1]:
            self._done += 1
            if not missing(block):
                self._terminal.run(block)

    def stop(self) -> None:
        """Stop the servers of the page."""
        terminal, self._terminal = self._terminal, None
        if terminal is not None:
            terminal.stop()


def missing(block: Block) -> str:
    """Return why a block cannot run here; empty where it can."""
    if block.text.startswith(_LONG):
        return "it takes minutes and is run on its own"
    if block.text.startswith("git clone"):
        return "it needs the network"
    for command, where in _ELSEWHERE.items():
        if block.text.startswith(command):
            return f"{where} runs the same for twenty seconds"
    for command, tool in _NEEDED.items():
        if block.text.startswith(command) and shutil.which(tool) is None:
            return f"{tool} is not installed"
    for word, package in _PACKAGES.items():
        if word in block.text and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    return ""


@pytest.fixture(scope="module")
def terminals(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[Terminals]:
    """Return the terminals; servers that are started there join the tests' Ray, and need not start one each."""
    terminals = Terminals(tmp_path_factory)
    yield terminals
    terminals.stop()


def _name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize(
    ("page", "number"), CASES, ids=[f"{_name(page)}-{number}-{blocks(page)[number].title}" for page, number in CASES]
)
def test_a_block_runs_as_printed(page: Path, number: int, terminals: Terminals) -> None:
    block = blocks(page)[number]
    if reason := missing(block):
        pytest.skip(reason)
    if page == README and number == 0 and not is_free(50051):
        pytest.skip("port 50051, which the README uses, is taken")

    terminals.run(page, number)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_block_is_in_a_language_that_is_run_or_compared(page: Path) -> None:
    assert languages(page) <= LANGUAGES


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_a_page_stops_what_it_started(page: Path, terminals: Terminals) -> None:
    terminals.stop()
