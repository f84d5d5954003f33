"""The names of objects: templates, and what events can and cannot do to them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Event, PlanError, RejectedError
from polku.emit.s3.key import BATCH, BATCH_LENGTH, MAX_KEY, KeyTemplate

NOON = 1_700_049_600_000_000_000  # 2023-11-15T12:00:00Z


def event(**fields: Any) -> Event:
    return Event(**{"id": "e-1", "source": "shop", "event_type": "order.paid", "timestamp_unix_ns": NOON, **fields})


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{batch}", "*"),
        ("{source}/{date}/{hour}/{batch}", "shop/2023-11-15/12/*"),
        ("year={year}/month={month}/day={day}/{minute}-{batch}", "year=2023/month=11/day=15/00-*"),
        ("{type}/{event_type}/{id}-{batch}.part", "order.paid/order.paid/e-1-*.part"),
        ("{severity}/{outcome}/{batch}", "error/success/*"),
        ("{metadata.tenant}/{batch}", "acme/*"),
        ("{metadata.region|no where}/{batch}", "no%20where/*"),
    ],
)
def test_a_template_is_filled_with_fields_and_times(template: str, name: str) -> None:
    full = event(severity=4, outcome=1, metadata={"tenant": "acme"})
    assert KeyTemplate(template).group(full).replace(BATCH, "*") == name


@pytest.mark.parametrize(
    ("value", "piece"),
    [
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("../../etc/passwd", "..%2F..%2Fetc%2Fpasswd"),
        ("a/b", "a%2Fb"),
        ("\\x", "%5Cx"),
        ("a\r\nb\x00", "a%0D%0Ab%00"),
        ("50%", "50%25"),
        ("kävely", "k%C3%A4vely"),
        ("~root", "%7Eroot"),
        ("{batch}", "%7Bbatch%7D"),
    ],
)
def test_a_value_is_one_piece_of_a_segment(value: str, piece: str) -> None:
    assert KeyTemplate("{source}/{batch}").group(event(source=value)) == f"{piece}/{BATCH}"


@given(source=st.text(max_size=30), kind=st.text(max_size=30), tenant=st.text(max_size=30))
def test_no_event_chooses_its_folder(source: str, kind: str, tenant: str) -> None:
    template = KeyTemplate("in/{source}{type}/{metadata.tenant}-x/{batch}")
    try:
        name = template.group(event(source=source, event_type=kind, metadata={"tenant": tenant}))
    except RejectedError:
        assert "" in (source, kind, tenant)
        return
    segments = name.split("/")
    assert len(segments) == 4
    assert segments[0] == "in"
    assert segments[3] == BATCH
    assert not {"", ".", ".."} & set(segments)
    assert name.isascii()
    assert name.replace(BATCH, "").isprintable()
    assert PurePosixPath(name).parts[0] == "in"


@given(left=st.text(min_size=1, max_size=8), right=st.text(min_size=1, max_size=8))
def test_different_values_have_different_names(left: str, right: str) -> None:
    template = KeyTemplate("{source}/{batch}")
    names = {template.group(event(source=left)), template.group(event(source=right))}
    assert len(names) == len({left, right})


@pytest.mark.parametrize("stamp", [0, -1, -(1 << 63), (1 << 63) - 1])
def test_any_time_has_a_name(stamp: int) -> None:
    name = KeyTemplate("{date}/{hour}/{batch}").group(event(timestamp_unix_ns=stamp))
    assert name.count("/") == 2


def test_an_absent_field_refuses_the_event_and_says_how_to_give_a_default() -> None:
    with pytest.raises(RejectedError, match=r"the event has no metadata\.tenant; .*\{metadata\.tenant\|none\}"):
        KeyTemplate("{metadata.tenant}/{batch}").group(event())
    with pytest.raises(RejectedError, match="the event has no source"):
        KeyTemplate("{source}/{batch}").group(event(source=""))


def test_a_key_that_is_too_long_refuses_the_event_and_names_the_field() -> None:
    template = KeyTemplate("{source}/{type}/{batch}", suffix=".ndjson", prefix_bytes=100)
    with pytest.raises(RejectedError, match=r"would have 10\d\d\d bytes, 1024 is the most: \{type\} has 10240"):
        template.group(event(event_type="x" * 10_240))
    longest = MAX_KEY - 100 - BATCH_LENGTH - len("/") - len(".ndjson") - len("shop/")
    assert template.group(event(event_type="x" * longest))
    with pytest.raises(RejectedError):
        template.group(event(event_type="x" * (longest + 1)))


def test_a_segment_that_no_file_can_have_as_its_name_refuses_the_event() -> None:
    template = KeyTemplate("{source}/{batch}", max_segment=240)
    assert template.group(event(source="x" * 240))
    with pytest.raises(RejectedError, match="241 bytes, 240 is the most"):
        template.group(event(source="x" * 241))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{source}/{date}", "must contain {batch} once"),
        ("{batch}/{batch}", "must contain {batch} once"),
        ("", "must contain {batch} once"),
        ("{nonsense}/{batch}", "{nonsense} is no field; known are {source}, "),
        ("{metadata.}/{batch}", "is no field"),
        ("{date|x}/{batch}", "is no field"),
        ("/{batch}", "must not begin or end with '/'"),
        ("{batch}/", "must not begin or end with '/'"),
        ("a//{batch}", "nor contain '//'"),
        ("../{batch}", "'..' as a folder"),
        ("{source/{batch}", "write fields as {source}"),
        ("a\n{batch}", "text between fields"),
        ("a\\{batch}", "text between fields"),
        ("x" * 10_240 + "{batch}", "must have at most 512 characters"),
    ],
)
def test_a_template_that_cannot_work_is_an_error(template: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        KeyTemplate(template)
    assert message in str(caught.value)
    assert "S3Emitter(key=" in str(caught.value)
