"""Foreign text can be encoded, stays on its line and is bounded, whatever it was."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.text import BLOCK, LINE, as_id, block, counted, line, named, redacted, said, span, trace
from tests.support.pace import check_cost

ANY = st.text(st.characters(exclude_categories=()))


@given(ANY, st.integers(1, 600))
def test_a_line_can_be_encoded_printed_and_is_never_longer_than_asked(text: str, limit: int) -> None:
    out = line(text, limit)
    out.encode()
    assert len(out) <= limit
    assert len(out.splitlines()) <= 1
    assert line(out, limit) == out


@given(ANY)
def test_a_block_can_be_encoded_and_keeps_its_lines(text: str) -> None:
    out = block(text)
    out.encode()
    assert out.count("\n") == text.count("\n")
    assert "\x1b" not in out


def test_a_number_stands_with_its_noun_and_verb() -> None:
    assert counted(1, "event") == "1 event"
    assert counted(0, "event", "is", "are") == "0 events are"
    assert counted(1_200, "dead letter") == "1,200 dead letters"
    assert counted(2, "batch", "has", "have") == "2 batches have"
    assert counted(1, "event", "waits", "wait") == "1 event waits"


def test_what_could_break_a_line_is_written_as_an_escape() -> None:
    lone = json.loads('"\\ud800"')
    assert line(f"user {lone}\r\n2026 ERROR forged \x1b[2J \u202e \u2028 ü 日本 👩\u200d🚀") == (
        "user \\ud800\\r\\n2026 ERROR forged \\x1b[2J \\u202e \\u2028 ü 日本 👩\u200d🚀"
    )


def test_a_block_that_is_too_long_keeps_its_beginning_and_its_end() -> None:
    out = block("begin" + "x" * 2 * BLOCK + "end")
    assert out.startswith("begin")
    assert out.endswith("end")
    assert len(out) < BLOCK + 100
    assert f"{BLOCK + 8} characters" in out


class Mute(Exception):  # noqa: N818 - what it is called does not matter
    def __str__(self) -> str:
        raise SystemExit("no text")


class Strange(str):
    def __str__(self) -> str:
        return "\ud800"


def test_exceptions_say_what_they_are_also_where_their_own_code_raises() -> None:
    assert named(ValueError("too odd")) == "ValueError: too odd"
    assert (named(TimeoutError()), said(TimeoutError())) == ("TimeoutError", "TimeoutError")
    assert said(Mute()) == "(its text cannot be had: SystemExit)"
    assert "Mute" in trace(Mute())
    assert line(Strange("x")) == "\\ud800"
    assert len(said(ValueError("x" * 10_000))) == LINE


def test_a_traceback_can_be_encoded() -> None:
    try:
        raise ValueError("\udfff\x00")
    except ValueError as error:
        text = trace(error)
    text.encode()
    assert "ValueError: \\udfff\\x00" in text
    assert "test_text.py" in text


def test_an_id_that_a_message_can_hold_stays_as_it_is() -> None:
    assert as_id("a\nb\x00") == "a\nb\x00"
    assert as_id("\ud800") == "\\ud800"
    assert (as_id(None), as_id(7)) == ("", "7")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("cannot connect to amqp://me:s3cr:t@host:5672/x", "cannot connect to amqp://me:***@host:5672/x"),
        ("Authorization: Bearer abc.DEF-123_x", "Authorization: Bearer ***"),
        ("{'authorization': 'Basic dXM6c2FmZQ=='}", "{'authorization': 'Basic ***'}"),
        ("GET https://api/x?token=abc&user=me: 401", "GET https://api/x?token=***&user=me: 401"),
        ('{"password": "p4ss", "user": "me"}', '{"password": "***", "user": "me"}'),
        ("sasl.password=p4ss,sasl.username=me", "sasl.password=***,sasl.username=me"),
        ("aws_secret_access_key=AKIA+/x", "aws_secret_access_key=***"),
        ("password: hunter2 was refused", "password: *** was refused"),
        ("send 'Authorization: Bearer TOKEN'", "send 'Authorization: Bearer TOKEN'"),
        ("authorization: the token is not known (any more)", "authorization: the token is not known (any more)"),
        ("token: the bearer token is missing or wrong", "token: the bearer token is missing or wrong"),
        ("http://host:8080/path?a=b@c", "http://host:8080/path?a=b@c"),
        ("the secret is out", "the secret is out"),
    ],
)
def test_secrets_in_what_exceptions_say_are_left_out(text: str, left: str) -> None:
    error = ValueError(text)
    assert (said(error), named(error)) == (left, f"ValueError: {left}")
    assert trace(error).endswith(f"ValueError: {left}\n")


@given(ANY)
def test_text_without_secrets_can_always_be_had(text: str) -> None:
    assert isinstance(redacted(text), str)


@pytest.mark.parametrize("unit", ["a://", "bearer ", "x", "secret_", "a.", "a://b:", "token: ", 'key" '])
def test_hostile_text_is_looked_through_in_linear_time(unit: str) -> None:
    check_cost(lambda: redacted(unit * (60_000 // len(unit)), 60_000), 1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0 s"), (59.6, "60 s"), (120.0, "120 s"), (121.0, "2 min 1 s"), (596.2, "9 min 56 s")]
)
def test_how_long_something_is_so_is_said_in_minutes_where_it_is_long(seconds: float, text: str) -> None:
    assert span(seconds) == text
