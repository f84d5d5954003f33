"""Which events are given up for which a destination's code fails, and which are held."""

from __future__ import annotations

from polku.emit.suspects import Suspects


def times(suspects: Suspects, event_id: str, *, is_well: bool = True) -> int:
    """Return after how many failures alone an event is given up; 0 where it is held after twenty."""
    for count in range(1, 21):
        if suspects.accuse(event_id, is_well=is_well):
            return count
    return 0


def test_an_event_is_given_up_after_five_failures() -> None:
    assert times(Suspects(), "a") == 5


def test_of_many_in_a_row_the_plugin_is_at_fault_until_it_takes_others() -> None:
    suspects = Suspects()
    assert [times(suspects, name) for name in "abcde"] == [5, 5, 5, 0, 0]
    suspects.take()
    assert [suspects.accuse(name, is_well=True) for name in "de"] == [True, True]
    assert times(suspects, "f") == 5


def test_what_was_among_events_of_which_others_are_taken_is_given_up_however_many_they_are() -> None:
    suspects = Suspects()
    suspects.suspect([str(number) for number in range(30)])
    suspects.take()
    suspects.forget([str(number) for number in range(10, 30)])
    assert [times(suspects, str(number)) for number in range(10)] == [5] * 10
    assert not suspects


def test_nothing_is_given_up_while_the_plugin_says_that_it_is_unwell_and_takes_nothing() -> None:
    suspects = Suspects()
    assert times(suspects, "a", is_well=False) == 0
    suspects.take()
    assert suspects.accuse("a", is_well=False)


def test_what_is_remembered_is_bounded() -> None:
    suspects = Suspects()
    suspects.suspect([str(number) for number in range(20_000)])
    assert len(suspects) == 10_000
