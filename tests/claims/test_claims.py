"""Large payloads stay in a store, and come back where they are wanted; what is lost is said, and never an event."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("obstore", reason="object stores need it: pip install 'polku[s3]'")

from polku import ClaimCheck, Event, Hub, PlanError, Redeem, StdoutEmitter, new_event
from polku.claims.store import Store, claim_for
from polku.errors import EmitError, RejectedError, RetryableError
from polku.testing import Outcome, run

LARGE = b"x" * 5_000


def event(number: int, payload: bytes, **metadata: str) -> Event:
    return new_event("picture", id=str(number), payload=payload, metadata=metadata)


def through(step: object, events: Sequence[Event]) -> Outcome:
    return run(Hub().middleware(step).emitter(StdoutEmitter(), name="out"), [events])


def objects(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "claims").as_uri()


def test_a_large_payload_travels_as_a_reference_and_comes_back(url: str, tmp_path: Path) -> None:
    events = [event(0, b"small"), event(1, LARGE), event(2, LARGE), event(3, b"y" * 7_000), event(4, b"z" * 4_096)]
    checked = through(ClaimCheck(url, over=4_096), events).delivered["out"]
    assert [(one.id, len(one.payload), one.metadata.get("claim_bytes")) for one in checked] == [
        ("0", 5, None),
        ("1", 0, "5000"),
        ("2", 0, "5000"),
        ("3", 0, "7000"),
        ("4", 4_096, None),
    ]
    assert [path.read_bytes() for path in objects(tmp_path)] == sorted(
        [LARGE, b"y" * 7_000], key=lambda payload: claim_for(payload).key
    )
    back = through(Redeem(url), checked).delivered["out"]
    assert [(one.id, one.payload, dict(one.metadata)) for one in back] == [
        (one.id, one.payload, dict(one.metadata)) for one in events
    ]


def test_what_cannot_be_redeemed_is_a_dead_letter_with_its_claim_and_the_others_pass(url: str, tmp_path: Path) -> None:
    checked = through(
        ClaimCheck(url, over=10), [event(0, b"a" * 20), event(1, b"b" * 20), event(2, b"c" * 20), event(3, b"d" * 99)]
    )
    gone, changed, *_ = [tmp_path / "claims" / claim_for(letter * 20).key for letter in (b"a", b"b")]
    gone.unlink()
    changed.write_bytes(b"b" * 19 + b"!")
    odd = event(4, b"", claim="sha256:../../etc/passwd", claim_bytes="1")
    outcome = through(Redeem(url, max_bytes=50), [*checked.delivered["out"], odd])
    assert [(one.id, one.payload) for one in outcome.delivered["out"]] == [("2", b"c" * 20)]
    reasons = {letter.event.id: letter.reason for letter in outcome.dead}
    assert "there is no object" in reasons["0"]
    assert "is not what was put there" in reasons["1"]
    assert "the payload has 99 bytes, and max_bytes is 50" in reasons["3"]
    assert "refers to no payload" in reasons["4"]
    assert {"claim", "claim_bytes"} <= set(outcome.dead[0].event.metadata)


class Objects:
    """A store that does not answer for the first calls."""

    def __init__(self, *errors: EmitError) -> None:
        self.errors = list(errors)
        self.content: dict[str, bytes] = {}

    def write(self, key: str, payload: bytes) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.content[key] = payload

    def read(self, key: str) -> bytes:
        if self.errors:
            raise self.errors.pop(0)
        return self.content[key]


async def test_a_store_that_does_not_answer_is_asked_again_for_a_while(url: str) -> None:
    store = Store(url, {}, timeout=1, retry_for=30)
    answers: Any = Objects(RetryableError("away"))
    store._objects = answers
    claim = await store.put(LARGE)
    assert await store.get(claim) == LARGE
    assert store.retries == 1
    hasty = Store(url, {}, timeout=1, retry_for=0)
    hasty._objects = answers
    answers.errors = [RetryableError("away")]
    with pytest.raises(RejectedError, match=r"away \(tried for 0 s\)"):
        await hasty.put(LARGE)


def test_what_the_store_does_not_take_is_a_dead_letter_with_its_payload(tmp_path: Path) -> None:
    (tmp_path / "claims").write_text("a file, and no folder")
    outcome = through(
        ClaimCheck((tmp_path / "claims").as_uri(), over=10, retry_for=0), [event(0, b"ok"), event(1, LARGE)]
    )
    assert outcome.ids("out") == ["0"]
    assert [letter.event.payload for letter in outcome.dead] == [LARGE]
    assert [refusal.code for refusal in outcome.refused] == ["MIDDLEWARE_ERROR"]


@pytest.mark.parametrize(
    ("kind", "options", "reason"),
    [
        (ClaimCheck, {"url": "http://x/"}, "write s3://bucket/prefix"),
        (ClaimCheck, {"url": "s3://b", "over": 0}, "over=0"),
        (Redeem, {"url": "s3://b", "max_bytes": 0}, "max_bytes=0"),
        (Redeem, {"url": "s3://b", "timeout": 0}, "timeout=0"),
        (Redeem, {"url": "s3://b", "options": {"region": 3}}, "options must map strings to strings"),
    ],
)
def test_what_cannot_work_is_refused_at_once(kind: Any, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(PlanError, match=reason):
        kind(**options)
