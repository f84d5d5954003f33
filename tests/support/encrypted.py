"""What a source and an emitter must do over TLS, whatever the server is."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from polku import Breaker, Certificate, Hub, Resilience, Retry, new_event
from tests.support.authority import Authority, Pair, replace
from tests.support.recorder import Recorder


class Tls(NamedTuple):
    """What an emitter or a source is given: who is trusted, and what is shown."""

    root_certificates: bytes | str
    certificate: Certificate


def by_path(roots: Path, pair: Pair) -> Tls:
    """Return what names files."""
    return Tls(str(roots), Certificate(str(pair.cert), str(pair.key)))


def goes_there_and_back(
    source: Callable[[Tls], object], emitter: Callable[[Tls], object], authority: Authority, tmp_path: Path
) -> None:
    """Send events by an emitter with files, and get them from a source with bytes."""
    pair = authority.issue("polku")
    content = Certificate(pair.cert.read_bytes(), pair.key.read_bytes())
    reading = source(Tls(authority.cert.read_bytes(), content))
    out = Recorder(tmp_path / "out")
    with Hub(runtime="inline").source(reading).emitter(out).start():
        with Hub(runtime="inline").emitter(emitter(by_path(authority.cert, pair))).start() as pipeline:
            assert pipeline.sender().send([new_event("order", source="shop", id=f"{n}") for n in range(10)]).ok
        assert [event.id for event in out.wait_for(10)] == [f"{n}" for n in range(10)]


def reads_certificates_again(
    emitter: Callable[[Tls], object], count: Callable[[], int], authority: Authority, tmp_path: Path
) -> None:
    """Begin with files of a stranger, which an emitter says, and replace them: `count` says how many events arrived."""
    stranger = Authority(tmp_path / "stranger", "stranger")
    used, good = stranger.issue("polku"), authority.issue("polku")
    quick = Retry(first=0.05, limit=0.2)
    patient = Resilience(emitter(by_path(stranger.cert, used)), retry=quick, breaker=Breaker(failures=1, open_for=0.1))
    with Hub(runtime="inline").emitter(patient).start() as pipeline:
        assert pipeline.sender().send(new_event("order", source="shop", id="one")).ok
        limit = time.monotonic() + 30
        while "certificate verify failed" not in str(pipeline.health().components):
            assert time.monotonic() < limit, pipeline.health().components
            time.sleep(0.02)
        stranger.cert.write_bytes(authority.cert.read_bytes())
        replace(good, used)
        limit = time.monotonic() + 30
        while count() != 1:
            assert time.monotonic() < limit, pipeline.health().components
            time.sleep(0.02)
