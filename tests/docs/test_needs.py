"""The needs of Ray's users, each with a test that is there."""

from __future__ import annotations

import re

from tests.docs.pages import ROOT

_TEST = re.compile(r"\| `(tests/[\w/]+\.py)::(test_\w+)` \|$", re.M)


def test_each_need_names_a_test_that_is_there() -> None:
    page = (ROOT / "docs" / "ray-applications.md").read_text("utf-8")
    table = page.partition("## What Ray's users ask for")[2]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    tests = _TEST.findall(table)
    assert len(rows) == len(tests) == 15
    for file, name in tests:
        assert re.search(rf"^\s*(async )?def {name}\(", (ROOT / file).read_text("utf-8"), re.M), name
