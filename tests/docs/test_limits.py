"""The table of limits is that of the code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields

from polku import Limits
from polku.gateway import listen
from polku.gateway.grpc.server import connection_limits
from polku.gateway.http import connections, handler
from tests.docs.pages import ROOT

_LIMITS = Limits()
_PORT = connection_limits(_LIMITS)


def _text(name: str, value: float) -> str:
    """Write a value as the table does."""
    if name.endswith("_seconds"):
        return f"{value:,.0f} s"
    if value >= 1 << 20:
        return f"{value / (1 << 20):.0f} MiB"
    return f"{value // 1024} KiB" if value >= 4096 and value % 1024 == 0 else f"{value:,}"


_OF_MESSAGES = "| field of `Limits`"


def _rows(heading: str = "| limit (field of") -> Iterator[tuple[list[str], str]]:
    """Yield the names of each row of a table, and its values."""
    page = (ROOT / "docs" / "http-and-grpc.md").read_text("utf-8")
    table = page.partition(heading)[2].partition("\n\n")[0]
    for row in table.splitlines()[2:]:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        yield re.findall(r"`(\w+)`", cells[0].partition(":")[0]), cells[1]


def test_every_limit_of_a_connection_stands_in_the_table() -> None:
    named = {name for names, _ in _rows() for name in names}
    assert set(_PORT.__struct_fields__) - named == set()
    assert {"grpc_connections", "address_connections"} <= named


def test_every_limit_of_messages_stands_in_a_table() -> None:
    named = {name for table in (_rows(), _rows(_OF_MESSAGES)) for names, _ in table for name in names}
    assert {field.name for field in fields(_LIMITS) if field.init} - named == {"connections"}  # in the text below


def test_the_values_of_messages_are_those_of_the_code() -> None:
    for names, shown in _rows(_OF_MESSAGES):
        texts = list(dict.fromkeys(_text(name, getattr(_LIMITS, name)) for name in names))
        if not names:
            texts = [f"{handler._LINE_BYTES:,}", _text("", connections._HEAD_BYTES), f"{handler._HEADERS}"]
        assert shown.removesuffix(" each") == ", ".join(texts), names


def test_the_idle_time_of_an_http_connection_is_that_of_the_code() -> None:
    page = (ROOT / "docs" / "http-and-grpc.md").read_text("utf-8")
    assert f"A connection that is idle\nfor {connections._IDLE_SECONDS:g} s is closed" in page


def test_the_values_are_those_of_the_code() -> None:
    for names, shown in _rows():
        sources = (_LIMITS, _PORT) if "Limits" in names else (_PORT, _LIMITS)
        names = [name for name in names if name != "Limits"]
        found = [next(getattr(one, name) for one in sources if hasattr(one, name)) for name in names]
        if not names:
            continue
        texts = list(dict.fromkeys(map(_text, names, found)))
        assert shown.removesuffix(" each") == ", ".join(texts), names


def test_the_times_of_handshakes_are_those_of_the_code() -> None:
    (shown,) = (value for names, value in _rows() if not names)
    assert shown == f"{listen._HANDSHAKE_SECONDS:g} s; {listen._HANDSHAKES:,}, {listen._ADDRESS_HANDSHAKES:,}"
