"""The tables of options in the pages of connectors have every option of the class, with its default."""

from __future__ import annotations

import re
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

import polku
from tests.docs.pages import PAGES

_TABLE = re.compile(r"^\| `(\w+)\(…\)` \| default \| meaning \|\n\|[-|]+\n((?:\|.*\n)+)", re.M)
_ROW = re.compile(r"^\| `(\w+)` \| (?:`(.*?)`)? *\| \S", re.M)
TABLES = [(page, *found) for page in PAGES for found in _TABLE.findall(page.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "name", "rows"), TABLES, ids=[name for _, name, _ in TABLES])
def test_a_table_has_every_option_with_its_default(page: Path, name: str, rows: str) -> None:
    expected = {}
    for field in fields(getattr(polku, name)):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        expected[field.name] = "" if default is MISSING else repr(getattr(default, "value", default))
    assert dict(_ROW.findall(rows)) == expected, page.name


def test_there_are_tables() -> None:
    assert {name for _, name, _ in TABLES} >= {
        "FileSource",
        "StdinSource",
        "ScheduleSource",
        "RedisStreamsSource",
        "RedisStreamsEmitter",
        "NatsSource",
        "NatsEmitter",
        "PostgresEmitter",
        "KafkaSource",
        "KafkaEmitter",
        "OtlpEmitter",
        "OtlpIngestor",
        "S3Emitter",
    }
