"""The benchmark of header blocks reads what it makes: nothing of a block is kept where its fields change."""

from __future__ import annotations

import pytest

from tests.bench.header_blocks import FIELDS, VARYING, blocks, library, measure


@pytest.mark.parametrize("names", VARYING.values(), ids=VARYING)
def test_blocks_change_with_each_call_or_not_at_all(names: tuple[bytes, ...]) -> None:
    made, fields = blocks(names), library()
    some = [next(made) for _ in range(300)]
    read = [fields(block) for block in some]
    assert all(isinstance(one, list) and one[: len(FIELDS)] == FIELDS for one in read)
    assert len(set(map(str, read))) == (300 if names else 1)
    assert measure(names)["ours"] < 2 * measure(names)["the library"]
