"""Refusals are matched to events by their places; ids are text of strangers."""

from __future__ import annotations

from polku import Batch, Code, Event, Refusal
from polku.batch.receipt import Counts, Output, Receipt, located, shifted
from tests.support.pace import check_cost


def batch(*ids: str) -> Batch:
    return Batch.from_events([Event(id=event_id) for event_id in ids])


def refusal(event_id: str, position: int = -1) -> Refusal:
    return Refusal(event_id, Code.BUFFER_FULL, "full", position=position)


def places(refused: tuple[Refusal, ...]) -> list[int]:
    return [one.position for one in refused]


def test_a_refusal_with_a_place_means_that_event_whatever_it_is_called() -> None:
    assert places(located([refusal("b", 0)], batch("a", "b"))) == [0]


def test_an_id_that_stands_twice_means_both_events() -> None:
    assert places(located([refusal("a")], batch("a", "b", "a"))) == [0, 2]


def test_an_id_that_nobody_has_means_everything() -> None:
    assert places(located([refusal("new")], batch("a", "b"))) == [0, 1]


def test_a_place_outside_of_the_batch_is_none() -> None:
    assert places(located([refusal("b", 7)], batch("a", "b"))) == [1]


def test_of_two_refusals_of_one_event_the_first_counts() -> None:
    first = Refusal("a", Code.BUFFER_FULL, "first", position=0)
    assert located([first, Refusal("a", Code.POISON, "second", position=0)], batch("a")) == (first,)


def test_of_two_refusals_of_one_event_the_one_that_is_worth_sending_again_counts() -> None:
    dead = Refusal("a", Code.UNDELIVERED, "never", position=0)
    assert located([dead, refusal("a", 0)], batch("a")) == (refusal("a", 0),)
    assert [one.code for one in located([dead, refusal("a")], batch("a", "b"))] == [Code.BUFFER_FULL]


def test_a_later_refusal_by_id_counts_where_it_is_the_one_that_is_worth_sending_again() -> None:
    said = [Refusal(name, code, "no") for code in (Code.UNDELIVERED, Code.BUFFER_FULL) for name in ("a", "new", "a")]
    assert [one.code for one in located(said[:3], batch("a", "b"))] == [Code.UNDELIVERED] * 2
    assert [one.code for one in located(said, batch("a", "b", "a"))] == [Code.BUFFER_FULL] * 3


def test_many_refusals_by_id_cost_in_proportion() -> None:
    """Each of them compared with each event took the event loop for a minute."""
    several = batch(*(str(number) for number in range(10_000)), *["twice"] * 10_000)
    said = [refusal(name) for name in [*several.ids, *(f"new-{number}" for number in range(20_000))]]
    assert places(located(said, several)) == list(range(20_000))
    check_cost(lambda: located(said, several), 5)


def test_each_part_of_a_joined_batch_hears_of_its_own_events() -> None:
    receipt = Receipt((refusal("x", 0), refusal("x", 2), refusal("x", 3)))
    assert [places(receipt.piece(start, 2).refused) for start in (0, 2)] == [[0], [0, 1]]


def test_places_are_shifted_by_what_stands_in_front() -> None:
    assert places(shifted([refusal("x", 1)], 3)) == [4]


def test_what_a_replica_made_names_its_inputs_also_behind_other_events() -> None:
    assert Output(batch("a")).after(3).inputs(0) == (3,)
    assert Output(batch("a"), ((0, 2),)).after(3).inputs(0) == (3, 5)


def test_each_part_of_a_joined_batch_hears_what_its_own_events_count_as() -> None:
    receipt = Receipt(fates=((0, "overflowed", 1), (2, "filtered", 1), (2, "forwarded", -1), (3, "forwarded", 2)))
    parts = [receipt.piece(start, 2) for start in (0, 2, 4)]
    assert [part.fates for part in parts] == [
        ((0, "overflowed", 1),),
        ((0, "filtered", 1), (0, "forwarded", -1), (1, "forwarded", 2)),
        (),
    ]
    assert [part.counts_of(2) for part in parts] == [
        Counts(received=2, forwarded=2, overflowed=1),
        Counts(received=2, forwarded=3, filtered=1),
        Counts(received=2, forwarded=2),
    ]


def test_what_a_replica_made_names_whom_it_counts_for_also_behind_other_events() -> None:
    assert Output(batch("a")).after(3).owner(0) == 3
    assert Output(batch("a"), ((0, 2),), owners=(2,)).after(3).owner(0) == 5
