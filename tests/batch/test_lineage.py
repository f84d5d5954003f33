"""What is refused further down is traced back to what it was made of."""

from __future__ import annotations

import pytest

from polku import Code, Event, Refusal
from polku.batch.lineage import trace_back
from polku.contracts import Outcome


@pytest.mark.parametrize("codes", [(Code.UNDELIVERED, Code.BUFFER_FULL), (Code.BUFFER_FULL, Code.UNDELIVERED)])
def test_of_an_event_that_was_cut_the_refusal_counts_that_is_worth_sending_again(codes: tuple[Code, Code]) -> None:
    given = [Event(id="a")]
    parts = Outcome([Event(id="a-1"), Event(id="a-2")], origins=[(0,), (0,)])
    refused = {at: Refusal(f"a-{at + 1}", code, code.lower(), position=at) for at, code in enumerate(codes)}
    assert trace_back(given, parts, refused)[0].code is Code.BUFFER_FULL
