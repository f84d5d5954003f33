"""The pipeline of the support tickets, in this process and in virtual time: `pytest examples/support_tickets`."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("wordllama", reason="the model's package is not installed: pip install wordllama")
pytest.importorskip("obstore", reason="the archive needs it: pip install 'polku[s3,parquet]'")

from pipeline import hub

from polku.testing import Flaky, Pause, Raw, run


def ticket(id, text, customer="acme"):
    return Raw(json.dumps({"id": id, "customer": customer, "text": text}).encode(), source="tickets")


def test_each_team_gets_what_it_can_help_with():
    outcome = run(
        hub,
        [
            ticket("1", "please send me the invoice for march"),
            ticket("2", "how do I set up the vpn on my phone?"),
            ticket("3", "I forgot my password"),
        ],
    )
    teams = {event.id: event.metadata["team"] for event in outcome.delivered["teams"]}
    assert teams == {"1": "billing", "2": "network", "3": "access"}
    assert outcome.ids("archive") == ["1", "2", "3"]
    assert outcome.ids("oncall") == []


def test_what_is_urgent_also_goes_to_whoever_is_on_call():
    outcome = run(hub, [ticket("1", "the vpn is down, nobody can work"), ticket("2", "a question about an invoice")])
    assert outcome.ids("oncall") == ["1"]
    assert outcome.ids("teams") == ["1", "2"]


def test_a_ticket_that_is_posted_twice_counts_once_within_the_hour():
    again = ticket("1", "I forgot my password")
    assert run(hub, [again, again, Pause(3_700), again]).ids("teams") == ["1", "1"]


def test_a_ticket_without_a_text_is_a_dead_letter_and_its_sender_is_told():
    outcome = run(hub, [ticket("1", " "), ticket("2", "I forgot my password")])
    assert [letter.event.id for letter in outcome.dead] == ["1"]
    assert "the ticket has no text" in outcome.refused[0].message
    assert outcome.ids("teams") == ["2"]


def test_what_nobody_can_make_sense_of_is_sorted_by_a_person():
    outcome = run(hub, ticket("1", "lorem ipsum dolor sit amet"))
    assert outcome.delivered["teams"][0].metadata["team"] == "triage"


def test_an_on_call_application_that_is_down_for_a_while_gets_its_tickets_later():
    outcome = run(hub, ticket("1", "the vpn is down, nobody can work"), replace={"oncall": Flaky(fail=10)})
    assert outcome.ids("oncall") == ["1"]


def test_the_model_is_called_with_many_tickets_at_once():
    calls = []

    def model(events):
        calls.append(len(events))
        return [{"team": "access", "urgent": "no"} for _ in events]

    hundred = json.dumps([{"id": str(n), "text": "hello"} for n in range(100)]).encode()
    outcome = run(hub, Raw(hundred, source="tickets"), replace={"model": model})
    assert len(outcome.ids("teams")) == 100
    assert calls == [64, 64, 36]  # the first to warm it up
