"""Many events are held against a principal's rights in slices, with the same result as in one go."""

from __future__ import annotations

import pytest

from polku import Event
from polku.aio.slices import at_once
from polku.batch.batch import Batch
from polku.gateway.admission import Admission, admit_events
from polku.gateway.authorization import authorized, authorizing
from polku.limits import Limits
from polku.security.account import Account
from polku.security.rights import Rights

COUNT = 2_300


def admitted() -> Admission:
    events = [Event(id=f"e{n}", source="other" if n % 7 == 0 else "own") for n in range(COUNT)]
    return admit_events(events, "", "", Limits())


@pytest.mark.parametrize("stamp", ["", "polku.principal"])
def test_slices_give_the_same_as_one_go(stamp: str) -> None:
    account = Account("agents", Rights(sources=("own",)), stamp=stamp)
    steps = authorizing(admitted(), account)
    turns = 0
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Admission = end.value
            break
        turns += 1
    assert turns >= COUNT // 500
    assert found.ids == [f"e{n}" for n in range(COUNT) if n % 7]
    assert [refusal.event_id for refusal in found.refused] == [f"e{n}" for n in range(0, COUNT, 7)]
    assert [refusal.position for refusal in found.refused] == list(range(0, COUNT, 7))
    assert {event.metadata.get(stamp, "") for event in found.batch.events} == {"agents" if stamp else ""}
    assert account.refused == len(found.refused)
    whole = authorized(admitted(), Account("agents", Rights(sources=("own",)), stamp=stamp))
    assert (whole.ids, whole.refused) == (found.ids, found.refused)


def test_nothing_is_nothing() -> None:
    nothing = Admission(Batch(payload=b"", count=0), [], [])
    assert at_once(authorizing(nothing, Account("agents", Rights(sources=("own",))))).ids == []
