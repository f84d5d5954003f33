"""No client takes all places of a port, and who is idle makes room."""

from __future__ import annotations

import resource

import pytest

from polku.gateway.places import ByteShares, Places, connections_within


class Guest:
    def __init__(self, idle_since: float | None = None, *, is_used: bool = True) -> None:
        self.idle_since = idle_since
        self.is_used = is_used
        self.reason = ""

    def make_room(self, reason: str) -> None:
        self.reason = reason


def places(total: int, each: int) -> Places:
    return Places("streams", total=total, each=each, idle_seconds=10, clock=lambda: 100.0)


def test_one_address_has_a_share() -> None:
    table = places(10, 2)
    assert [table.enter("a", Guest()), table.enter("a", Guest())] == ["", ""]
    assert table.enter("a", Guest()) == "2 streams are open from a; close some"
    assert table.enter("b", Guest()) == ""
    assert (len(table), table.refused) == (3, 1)


def test_an_address_with_too_many_makes_room_itself() -> None:
    table, idle, other = places(10, 2), Guest(1.0), Guest(1.0)
    for address, guest in (("b", other), ("a", idle), ("a", Guest(None))):
        table.enter(address, guest)
    assert table.enter("a", Guest()) == ""
    assert idle.reason
    assert not other.reason


def test_a_place_that_is_left_can_be_taken_again() -> None:
    table, guest = places(1, 1), Guest()
    assert table.enter("a", guest) == ""
    assert table.enter("b", Guest()) == "1 streams are open; close some"
    table.leave("a", guest)
    table.leave("a", guest)
    assert (len(table), table.enter("b", Guest())) == (1 - 1, "")


def test_the_address_with_the_most_makes_room_with_its_idlest() -> None:
    table = places(4, 4)
    lone, idle, idler, busy = Guest(1.0), Guest(50.0), Guest(40.0), Guest(None)
    for address, guest in (("a", lone), ("b", idle), ("b", idler), ("b", busy)):
        table.enter(address, guest)
    assert table.enter("c", Guest(100.0)) == ""
    assert "this one was idle" in idler.reason
    assert (lone.reason, idle.reason, busy.reason) == ("", "", "")
    table.leave("b", idler)  # as it does at its end
    assert (len(table), table.displaced) == (4, 1)


def test_what_was_never_used_makes_room_after_a_second() -> None:
    table, used, unused = places(2, 2), Guest(95.0), Guest(98.9, is_used=False)
    for guest in (used, unused):
        table.enter("a", guest)
    assert table.enter("a", Guest()) == ""
    assert (used.reason, bool(unused.reason)) == ("", True)
    assert table.enter("a", Guest())


@pytest.mark.parametrize("is_used", [False, True])
def test_the_address_with_many_more_than_another_makes_room_for_that_one_at_once(is_used: bool) -> None:
    table, oldest = places(4, 4), Guest(98.0 if is_used else 99.5, is_used=is_used)
    for guest in (Guest(None), Guest(98.5), oldest, Guest(None)):
        table.enter("a", guest)
    assert table.enter("a", Guest())
    assert table.enter("b", Guest(99.9)) == ""
    assert oldest.reason
    assert table.enter("b", Guest(99.9)) == "4 streams are open; close some"  # they have nearly as many by now


def test_who_is_busy_makes_room_for_nobody() -> None:
    table = places(4, 4)
    for guest in (Guest(None), Guest(None), Guest(99.5), Guest(None)):
        table.enter("a", guest)
    assert table.enter("b", Guest()) == "4 streams are open; close some"


def test_who_was_busy_a_moment_ago_stays() -> None:
    table = places(2, 2)
    for guest in (Guest(95.0), Guest(None)):
        table.enter("a", guest)
    assert table.enter("b", Guest()) == "2 streams are open; close some"


def test_a_full_port_without_idle_ones_is_not_searched_for_each_client() -> None:
    looks, now = [], [100.0]

    class Counting(Guest):
        @property
        def idle_since(self) -> float | None:
            looks.append(now[0])
            return 95.0

        @idle_since.setter
        def idle_since(self, value: float | None) -> None:
            pass

    table = Places("streams", total=1, each=1, idle_seconds=10, clock=lambda: now[0])
    table.enter("a", Counting())
    for _ in range(10):
        assert table.enter("b", Guest())
    assert set(looks) == {100.0}
    before = len(looks)
    assert table.enter("b", Guest())
    assert len(looks) == before
    now[0] = 106.0
    assert table.enter("b", Guest()) == ""


def test_bytes_are_shared_too() -> None:
    shares = ByteShares("messages", total=100, each=60)
    assert shares.add("a", 60) == ""
    assert shares.add("a", 1) == "messages take more than 60 bytes from one address; send fewer at once"
    assert shares.add("a", -1) == ""
    assert shares.add("b", 41) == "messages take more than 100 bytes in all; send fewer at once"
    assert shares.add("b", -41) == shares.add("a", -60) == ""
    assert len(shares) == 0


def test_ports_leave_descriptors_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1_024, 4_096))
    assert (connections_within(10_000), connections_within(100)) == (384, 100)
    monkeypatch.setattr(resource, "getrlimit", lambda what: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert connections_within(10_000) == 10_000
