"""Which events are given up for which a destination's code fails, and which are held."""

from __future__ import annotations

from polku.emit.suspects import Suspects


def times(suspects: Suspects, event_id: str, *, is_well: bool = True, others: int = 0, taken: bool = False) -> int:
    """Return after how many failures alone an event is given up; 0 where it is held after forty.

    `taken` says that the destination takes another event after each of them.
    """
    for count in range(1, 41):
        if suspects.accuse(event_id, is_well=is_well, others=others):
            return count
        if taken:
            suspects.take()
    return 0


def test_an_event_is_given_up_after_five_failures_between_which_others_are_taken() -> None:
    assert [times(Suspects(), "a", is_well=well, others=100, taken=True) for well in (True, False)] == [5, 5]


def test_an_event_is_held_as_long_as_others_that_could_be_taken_are_not() -> None:
    suspects = Suspects()
    assert times(suspects, "a", others=100) == 0
    suspects.take()
    assert times(suspects, "a", others=100) == 0  # it may have been up for a moment


def test_where_nothing_else_can_be_tried_a_few_are_given_up_until_others_are_taken() -> None:
    suspects = Suspects()
    assert [times(suspects, name) for name in "abcde"] == [10, 10, 10, 0, 0]
    suspects.take()
    assert times(suspects, "f") == 10


def test_however_many_are_given_up_that_others_have_passed_where_nothing_else_can_be_tried() -> None:
    suspects = Suspects()
    suspects.suspect([str(number) for number in range(30)])
    suspects.take()
    suspects.forget([str(number) for number in range(10, 30)])
    for _ in range(8):
        assert not any(suspects.accuse(str(number), is_well=True, others=9) for number in range(10))
    assert [times(suspects, str(number), others=9 - number) for number in range(10)] == [2] * 10
    assert not suspects


def test_where_events_are_taken_in_the_end_that_others_had_passed_it_takes_more_to_give_one_up() -> None:
    suspects = Suspects()
    for number in range(20):  # each fails four times, while others are taken
        for _ in range(4):
            assert not suspects.accuse(str(number), is_well=True, others=100)
            suspects.take()
        suspects.forget([str(number)])
    assert times(suspects, "a", others=100, taken=True) > 5


def test_nothing_is_given_up_while_the_plugin_says_that_it_is_unhealthy_and_takes_nothing() -> None:
    assert times(Suspects(), "a", is_well=False) == 0


def test_where_others_were_taken_twice_nobody_has_to_say_that_it_is_well() -> None:
    suspects = Suspects()
    for _ in range(2):
        assert not suspects.accuse("a", is_well=False, others=1)
        suspects.take()
    assert times(suspects, "a", is_well=False) == 8
    assert times(suspects, "b", is_well=False) == 0


def test_what_is_remembered_is_bounded() -> None:
    suspects = Suspects()
    suspects.suspect([str(number) for number in range(20_000)])
    assert len(suspects) == 10_000
