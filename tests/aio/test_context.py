"""A context variable has its value within a block alone, however the block ends."""

from __future__ import annotations

from contextvars import ContextVar

import pytest

from polku.aio.context import Within

_NAME: ContextVar[str] = ContextVar("name", default="none")


def test_the_value_is_there_within_the_block_and_the_one_before_behind_it() -> None:
    with Within(_NAME, "outer") as outer:
        with pytest.raises(ValueError, match="inner"), Within(_NAME, "inner") as inner:
            raise ValueError(_NAME.get())
        assert (inner, outer, _NAME.get()) == ("inner", "outer", "outer")
    assert _NAME.get() == "none"
