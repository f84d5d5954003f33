"""Compressed bodies: parts one after the other, by slices, within limits that are checked before memory is taken."""

from __future__ import annotations

import asyncio
import gzip
import random
from collections.abc import Callable

import pytest
from backports import zstd

from polku.gateway.http.body import BodyReader
from polku.gateway.http.refusal import RequestError
from polku.limits import Limits
from tests.support.pace import check_cost

ENCODINGS = pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("zstd", zstd.compress)])
Compress = Callable[[bytes], bytes]


def plain(body: bytes, encoding: str, limits: Limits | None = None) -> bytes:
    return asyncio.run(BodyReader(limits or Limits()).decompress(body, encoding))


@ENCODINGS
@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 1_000_000])
def test_what_was_compressed_comes_out_as_it_was(encoding: str, compress: Compress, size: int) -> None:
    for data in (b"x" * size, random.Random(size).randbytes(size)):
        assert plain(compress(data), encoding) == data


@ENCODINGS
def test_parts_stand_one_after_the_other(encoding: str, compress: Compress) -> None:
    parts = [random.Random(number).randbytes(number * 700) for number in range(100)]
    assert plain(b"".join(map(compress, parts)), encoding) == b"".join(parts)


@ENCODINGS
def test_too_many_parts_cost_no_more_than_a_few(encoding: str, compress: Compress) -> None:
    body = compress(b"") * (1_000_000 // len(compress(b"")))

    def read() -> None:
        with pytest.raises(RequestError, match="more than 100 parts"):
            plain(body, encoding)

    check_cost(read, 0.5)


@ENCODINGS
def test_a_part_that_is_not_complete_is_refused(encoding: str, compress: Compress) -> None:
    good = compress(random.Random(0).randbytes(200_000))
    for body in (b"", good[:-1], good[:70_000], good + b"x", good + good[:-1]):
        with pytest.raises(RequestError) as caught:
            plain(body, encoding)
        assert caught.value.status == 400


@ENCODINGS
def test_bodies_that_are_being_decompressed_count_together(encoding: str, compress: Compress) -> None:
    body = compress(b"x" * 3_000_000)

    async def both() -> list[bytes | BaseException]:
        reader = BodyReader(Limits(open_bytes=4_000_000))
        first = await asyncio.gather(*[reader.decompress(body, encoding) for _ in range(2)], return_exceptions=True)
        return [*first, await reader.decompress(body, encoding)]

    results = asyncio.run(both())
    assert sorted(len(result) for result in results if isinstance(result, bytes)) == [3_000_000] * 2
    (refused,) = (result for result in results if isinstance(result, RequestError))
    assert (refused.status, refused.code) == (429, "BUFFER_FULL")


def test_others_have_their_turn_meanwhile() -> None:
    body = gzip.compress(bytes(4_000_000))

    async def count_turns() -> int:
        task = asyncio.ensure_future(BodyReader(Limits()).decompress(body, "gzip"))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(count_turns()) >= 7
