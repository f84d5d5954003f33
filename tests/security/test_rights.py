"""What a principal may send."""

from __future__ import annotations

import pytest

from polku import PlanError
from polku.codes import Code
from polku.errors import InputError
from polku.security.account import Account
from polku.security.rights import Patterns, Rights
from tests.support.clock import FakeClock


def test_without_a_word_all_sources_and_no_routes_are_allowed() -> None:
    rights = Rights()
    assert (rights.sources, rights.clusters) == (("*",), ("*",))
    assert not rights.may_route
    assert not rights.may_set_reserved


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"sources": []}, r"sources=\[\] must be a list of patterns"),
        ({"sources": [1]}, "sources="),
        ({"may_route": "yes"}, "may_route='yes' must be true or false"),
        ({"events_per_second": 0}, "events_per_second=0 must be a number above 0"),
        ({"bytes_per_second": True}, "bytes_per_second=True"),
        ({"streams": 0}, "streams=0 must be a whole number"),
        ({"connections": 1.5}, "connections=1.5 must be a whole number"),
        ({"source": "a"}, "source is no right; known are sources, clusters"),
    ],
)
def test_a_right_that_makes_no_sense_is_named(fields: dict[str, object], fault: str) -> None:
    with pytest.raises(PlanError, match=fault):
        Rights.from_fields(fields)


def test_patterns_fit_whole_texts_in_the_case_that_they_are_written_in() -> None:
    patterns = Patterns(["agent-*", "db?"])
    texts = ("agent-1", "agent-", "db1", "db12", "Agent-1", "an agent-1", "")
    assert list(filter(patterns.fit, texts)) == ["agent-1", "agent-", "db1"]
    assert patterns.fit("agent-\n2")
    assert Patterns("*").fit("")


def test_a_source_of_others_is_refused_with_principal_field_value_and_fix() -> None:
    account = Account("agents", Rights(sources=("agent-*",), clusters=("prod",)))
    account.check_origin("agent-1", "prod")
    account.check_origin("", "")
    with pytest.raises(InputError) as refused:
        account.check_origin("billing", "prod")
    assert refused.value.code is Code.PERMISSION_DENIED
    text = "principal 'agents': source='billing' is not among its sources; allowed are 'agent-*'; send as one of them"
    assert str(refused.value).startswith(text)
    with pytest.raises(InputError, match="cluster='test' is not among its clusters; allowed are 'prod'"):
        account.check_origin("agent-1", "test")


def test_a_rate_may_be_passed_by_one_message_and_is_paid_back() -> None:
    clock = FakeClock()
    account = Account("agents", Rights(events_per_second=10), clock=clock.monotonic)
    account.check_rate()
    account.count(35, 1)
    with pytest.raises(InputError, match=r"events_per_second=10 is used up; send again in 2\.5 s") as refused:
        account.check_rate()
    assert refused.value.code is Code.RATE_LIMITED
    clock.advance(2.4)
    with pytest.raises(InputError):
        account.check_rate()
    clock.advance(0.2)
    account.check_rate()
    clock.advance(1000)
    account.count(11, 1)  # no more than a second's worth was saved up
    with pytest.raises(InputError):
        account.check_rate()


async def test_what_comes_on_a_stream_waits_for_the_rate() -> None:
    clock = FakeClock()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.advance(seconds)

    account = Account("agents", Rights(bytes_per_second=100), clock=clock.monotonic, sleep=sleep)
    account.count(1, 350)
    await account.wait_for_rate()
    assert sum(slept) == pytest.approx(2.5)
    await account.wait_for_rate()
    assert sum(slept) == pytest.approx(2.5)


def test_streams_and_connections_are_counted() -> None:
    account = Account("agents", Rights(streams=1, connections=2))
    assert account.enter_stream() == ""
    assert "principal 'agents': streams=1 are open; close some" in account.enter_stream()
    account.leave_stream()
    assert account.enter_stream() == ""
    assert [bool(account.enter_connection()) for _ in range(3)] == [False, False, True]


def test_other_rights_count_from_now_on() -> None:
    account = Account("agents", Rights(streams=1))
    account.enter_stream()
    account.change(Rights(streams=2, sources=("a",)))
    assert account.enter_stream() == ""
    assert not account.sources.fit("b")
