"""A regular expression is compiled by its first use."""

from __future__ import annotations

import re
from unittest import mock

import pytest

from polku.lazy import pattern


def test_a_pattern_is_compiled_by_its_first_use_and_then_never_again() -> None:
    with mock.patch("polku.lazy.re.compile", wraps=re.compile) as compiled:
        words = pattern(r"(\w+)!", re.ASCII)
        assert not compiled.called
        assert [words.fullmatch(text) is not None for text in ("ab!", "ab", "äb!")] == [True, False, False]
        assert compiled.call_count == 1
    assert words.sub(r"\1", "a! b!") == "a b"
    assert (words.pattern, words.groups) == (r"(\w+)!", 1)


def test_what_a_pattern_has_not_is_an_error() -> None:
    with pytest.raises(AttributeError):
        pattern("x").fullmatches  # type: ignore[attr-defined]  # noqa: B018
