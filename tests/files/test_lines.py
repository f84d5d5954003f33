"""Lines and records of growing text, and where they stand."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from polku.files.lines import Grouper, Line, LineSplitter


@given(st.lists(st.text("ab\r", max_size=5).map(str.encode), max_size=8), st.lists(st.integers(1, 7), max_size=30))
def test_the_cuts_between_reads_change_nothing(parts: list[bytes], cuts: list[int]) -> None:
    data = b"\n".join(parts)
    whole, pieces = LineSplitter(100), LineSplitter(100)
    expected = whole.feed(data) + whole.finish()
    found: list[Line] = []
    rest = data
    for cut in cuts:
        found += pieces.feed(rest[:cut])
        rest = rest[cut:]
    found += pieces.feed(rest)
    assert found + pieces.finish() == expected
    assert pieces.start == pieces.position == len(data)


@given(st.lists(st.text("ab", min_size=1, max_size=5).map(str.encode), max_size=8))
def test_each_line_says_where_it_stands(parts: list[bytes]) -> None:
    data = b"".join(part + b"\n" for part in parts)
    lines = LineSplitter(100, start=1_000).feed(data)
    assert [line.content for line in lines] == parts
    assert [data[line.start - 1_000 : line.end - 1_000] for line in lines] == [part + b"\n" for part in parts]


def test_a_line_that_is_not_complete_is_kept_and_known_by_its_beginning() -> None:
    splitter = LineSplitter(100)
    assert splitter.feed(b"one\ntw") == [Line(0, 4, b"one")]
    assert (splitter.start, splitter.position) == (4, 6)
    assert splitter.feed(b"o\r\n\r\n\n") == [Line(4, 9, b"two")]
    assert splitter.start == splitter.position == 12


def test_a_line_has_a_bound_in_memory_too() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(b"0123456789\r\n" + b"x" * 1_000) == [Line(0, 12, b"0123456789")]
    for _ in range(100):
        assert splitter.feed(b"x" * 1_000) == []
    assert len(splitter._pending) == 12
    assert splitter.feed(b"\nnext\n") == [
        Line(12, 101_013, b"xxxxxxxxxx", cut=True),
        Line(101_013, 101_018, b"next"),
    ]


def test_a_hole_of_zero_bytes_is_no_line() -> None:
    splitter = LineSplitter(10)
    assert splitter.feed(bytes(5_000)) == []
    assert splitter.feed(bytes(5_000) + b"after\n") == [Line(0, 10_006, b"after")]


def test_records_of_several_lines() -> None:
    splitter, grouper = LineSplitter(1_000), Grouper(re.compile(rb"^\S"), 1_000)
    text = b"Traceback\n  File 1\n  File 2\nstarted\n  detail\n"
    records = grouper.add(splitter.feed(text))
    assert records == [Line(0, 28, b"Traceback\n  File 1\n  File 2")]
    assert grouper.start == 28
    assert grouper.flush() == [Line(28, len(text), b"started\n  detail")]
    assert grouper.flush() == []


def test_a_record_that_grows_too_large_is_divided_between_lines() -> None:
    splitter, grouper = LineSplitter(20), Grouper(re.compile(rb"^\S"), 20)
    records = grouper.add(splitter.feed(b"begin\n" + b" 12345678\n" * 5)) + grouper.flush()
    assert [record.content for record in records] == [b"begin\n 12345678", *[b" 12345678\n 12345678"] * 2]
    assert [record.end for record in records[:-1]] == [record.start for record in records[1:]]
