"""Compressed messages: what they are packed with, and that none unpacks to more than it may."""

from __future__ import annotations

import gzip
from collections.abc import Callable

import pytest
from backports import zstd

from polku.rpc.messages import prefixed, read_prefix, unpack
from polku.rpc.status import CallError, StatusCode

PACKS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("name", PACKS)
def test_a_message_is_unpacked_up_to_one_byte_over_the_limit(name: str) -> None:
    packed = PACKS[name](bytes(1_000_000))
    assert unpack(packed, 1_000_000) == bytes(1_000_000)
    assert len(unpack(packed, 1_000)) == 1_001


@pytest.mark.parametrize("name", PACKS)
def test_what_is_broken_off_or_broken_is_refused(name: str) -> None:
    packed = PACKS[name](b"hello" * 100)
    for wrong in (packed[:-3], packed[:6] + b"\xff" + packed[7:-1]):
        with pytest.raises(CallError) as caught:
            unpack(wrong, 1_000)
        assert caught.value.status.code == StatusCode.INTERNAL


def test_a_frame_of_zstd_that_asks_for_a_large_window_is_refused() -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27}
    packed = zstd.compress(bytes(range(256)) * 100_000, options=options)
    with pytest.raises(CallError, match="not valid zstd"):
        unpack(packed, 1_000_000)


@pytest.mark.parametrize(
    ("size", "is_packed"), [(799, False), (800, True), (256 * 1024, True), (256 * 1024 + 1, False), (2_000_000, False)]
)
def test_answers_are_compressed_where_that_is_worth_it_and_quick(size: int, is_packed: bool) -> None:
    message = prefixed(bytes(size), packed=True)
    flag, length = read_prefix(message, 0)
    assert (flag, length) == (is_packed, len(message) - 5)
    assert (unpack(message[5:], size) if flag else message[5:]) == bytes(size)
    assert prefixed(bytes(size), packed=False)[0] == 0


def test_all_members_of_gzip_are_one_message() -> None:
    packed = gzip.compress(b"first ") + gzip.compress(b"") + gzip.compress(b"second")
    assert unpack(packed, 1_000) == b"first second"
    assert len(unpack(packed, 8)) == 9
    large = gzip.compress(bytes(300_000)) + gzip.compress(b"end")
    assert unpack(large, 1_000_000) == bytes(300_000) + b"end"


@pytest.mark.parametrize(
    ("behind", "reason"),
    [(b"more", "not valid gzip"), (gzip.compress(b"x")[:-1], "too early"), (gzip.compress(b"") * 100, "100 parts")],
)
def test_what_stands_behind_gzip_and_is_none_is_refused(behind: bytes, reason: str) -> None:
    with pytest.raises(CallError, match=reason):
        unpack(gzip.compress(b"hello") + behind, 1_000)
