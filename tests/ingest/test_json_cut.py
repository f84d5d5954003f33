"""Large JSON is cut into the same values that a decoder finds in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku.ingest import json_cut
from polku.ingest.json_cut import elements, members, value_end
from tests.support.examples import examples

TEXTS = st.text(max_size=12) | st.sampled_from(['a","b', "},{", "[,]", '"', "\\", "é", "\n", ":"])
_REAL = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | _REAL | TEXTS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXTS, inner, max_size=5),
    max_leaves=20,
)


def written(value: Any, indent: int | None) -> bytes:
    return json.dumps(value, indent=indent, ensure_ascii=indent is None).encode()


def cut_array(data: bytes) -> list[Any]:
    return [json.loads(piece) for pieces in elements(data) if pieces is not None for piece in pieces]


def cut_object(data: bytes) -> dict[str, Any]:
    return {pair[0]: json.loads(pair[1]) for pair in members(data) if pair is not None}


@pytest.fixture(params=[json_cut.LARGE, 40, 8])
def windows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_cut, "LARGE", request.param)


@pytest.mark.parametrize("size", [json_cut.LARGE, 40, 8])
@given(values=st.lists(VALUES, max_size=12), indent=st.none() | st.integers(0, 2))
@examples(100)
def test_elements_are_those_that_a_decoder_finds(size: int, values: list[Any], indent: int | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_cut, "LARGE", size)
        assert cut_array(written(values, indent)) == values


@given(values=st.dictionaries(TEXTS, VALUES, max_size=12), indent=st.none() | st.integers(0, 2))
@examples(100)
def test_members_are_those_that_a_decoder_finds(values: dict[str, Any], indent: int | None) -> None:
    assert cut_object(written(values, indent)) == values


@given(value=VALUES, behind=st.sampled_from([b"", b",", b" ,1", b"]", b" }", b"\n,"]))
def test_the_end_of_a_value_is_found(value: Any, behind: bytes) -> None:
    data = written(value, None)
    assert value_end(b"x" + data + behind, 1) == 1 + len(data) + len(behind) - len(behind.lstrip())


@pytest.mark.parametrize(
    "data", [b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1]]", b"[1 2]", b'["a]', b"{}", b"[1] x", b""]
)
def test_what_is_no_array_is_an_error(data: bytes, windows: None) -> None:
    with pytest.raises(msgspec.DecodeError):
        cut_array(data)


@pytest.mark.parametrize(
    "data",
    [b"{", b'{"a"', b'{"a":', b'{"a":1', b'{"a":1,}', b'{"a":1}}', b'{"a" 1}', b"{a:1}", b"[]", b'{"a":1} x', b""],
)
def test_what_is_no_object_is_an_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        cut_object(data)


def test_others_have_turns_in_what_is_large() -> None:
    array = written([{"a": n, "b": "},{"} for n in range(50_000)], None)
    assert sum(pieces is None for pieces in elements(array)) > 10
    one = written([["abc"] * 100_000], None)
    assert None in list(elements(one))
    names = written({f"k{n}": n for n in range(5_000)}, None)
    assert sum(pair is None for pair in members(names)) > 20
