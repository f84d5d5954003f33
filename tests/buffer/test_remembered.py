"""What a log keeps of the answer to a push that is dealt with piece by piece."""

from __future__ import annotations

from polku import Code, Refusal
from polku.batch.batch import Identity
from polku.buffer.positions import PendingDelivery
from polku.buffer.push_state import PushState
from polku.buffer.remembered import answer_of


async def test_a_later_answer_keeps_the_refusals_that_were_added_to_the_one_before() -> None:
    identity = Identity("link", 1, 1)
    first, second = PendingDelivery(("a",), 2, identity), PendingDelivery(("a",), 1, identity, start=2)
    push = PushState(identity, waits=[first, second], pieces=[(1, 0), (2, 2)])
    first.refuse([Refusal("x", Code.UNDELIVERED, "no", position=1)])
    second.refuse([Refusal("y", Code.UNDELIVERED, "no", position=0)])
    amended = first.news()  # the log adds these to the answer that it has; those of the second piece are yet to come
    answer = answer_of(push, complete=True)
    assert answer is not None
    assert list(answer.refused) == amended
