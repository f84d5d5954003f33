"""What is read of a head without a framework is what aiohttp's parser reads of the same bytes."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from polku.gateway.http.usual import UsualHead, UsualHeads
from tests.support.examples import examples

_LINES = [
    "Host: here",
    "Host: there",
    "Content-Type: application/json",
    "Content-Length: 0",
    "Content-Length: 2",
    "content-length: 2",
    "Content-Length: 0x2",
    "Content-Length : 2",
    "Content-Length: 2, 2",
    "Content-Length: +2",
    "Content-Length:\t2 ",
    "Content-Length: 00000000000000000002",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: identity",
    "Connection: keep-alive",
    "Connection: close",
    "Connection: upgrade",
    "Upgrade: h2c",
    "Expect: 100-continue",
    "X-Polku-Source:  shop\t",
    "X-Polku-Source: é",
    "X_Y: 1",
    "X-Empty:",
    "X-Tab: a\tb",
    " folded",
    "no colon",
    ": no name",
    "X-Nul: \x00",
    "X-Bare: a\rb",
    "X-Line: a\nContent-Length: 9",
    "Authorization: Bearer abc",
    "Content-Encoding: gzip",
]
_FIRST = [
    "POST /v1/events HTTP/1.1",
    "POST /v1/events?source=shop&cluster=prod HTTP/1.1",
    "POST /v1/events?source=a&source=b&x HTTP/1.1",
    "POST /v1/events? HTTP/1.1",
    "POST /v1/events?source=a%20b HTTP/1.1",
    "POST /v1/events?source=a+b HTTP/1.1",
    "POST /v1/events#f HTTP/1.1",
    "POST /v1/events;x HTTP/1.1",
    "POST  /v1/events HTTP/1.1",
    "POST /v1/events HTTP/1.0",
    "POST /v1/eventsx HTTP/1.1",
    "GET /v1/events HTTP/1.1",
    "GET /health HTTP/1.1",
    "GET /health?strict HTTP/1.1",
    "GET /health?strict=1 HTTP/1.1",
    "GET /health/ready HTTP/1.1",
    "GET /health/live? HTTP/1.1",
    "GET /health/ HTTP/1.1",
    "HEAD /health/live HTTP/1.1",
    "post /v1/events HTTP/1.1",
    "POST http://here/v1/events HTTP/1.1",
]
HEADS = st.builds(
    lambda first, length, lines: "\r\n".join([first, *["Host: here", *length, *lines][-7:], "", ""]).encode("latin-1"),
    st.sampled_from(_FIRST),
    st.sampled_from([["Content-Length: 2"], ["Content-Length: 0"], []]),
    st.lists(st.sampled_from(_LINES), max_size=6),
)


def of_aiohttp(content: bytes, body: bytes) -> Any:
    """Return the one request that aiohttp reads of a head and a body; None where it reads none."""

    async def read() -> Any:
        loop = asyncio.get_running_loop()
        parser = HttpRequestParser(BaseProtocol(loop), loop, limit=2**16, max_line_size=8190, max_field_size=8190)
        try:
            messages, upgraded, _ = parser.feed_data(content + body)
        except HttpProcessingError:
            return None
        return messages[0][0] if len(messages) == 1 and not upgraded else None

    return asyncio.run(read())


@examples(300)
@given(HEADS)
def test_both_read_the_same(content: bytes) -> None:
    found: UsualHead | None = UsualHeads().read(content)
    if found is None:
        return
    other = of_aiohttp(content, found.length * b"x")
    assert other is not None
    assert (other.method, other.chunked, other.upgrade) == (content.split()[0].decode(), False, False)
    assert other.should_close == found.closes
    assert (other.url.path, other.url.query_string) == (found.head.path, found.head.query)
    assert {name.lower(): value for name, value in other.headers.items()} == found.head.headers
    assert len(other.headers) == len(found.head.headers)
    assert int(other.headers.get("Content-Length", 0)) == found.length
    query = other.url.query
    assert (query.get("source") or other.headers.get("X-Polku-Source", "")) == found.head.source
    assert (query.get("cluster") or other.headers.get("X-Polku-Cluster", "")) == found.head.cluster


OWN = st.fixed_dictionaries(
    {},
    optional={
        "Content-Length": st.sampled_from(["0", "2", "262144", "262145", "+2", "2 ", "", "0000000002", "2, 2", "²"]),
        "traceparent": st.sampled_from(["00-1-2-01", "", "a\tb", "a\x00b", "\u00e9"]),
        "X-Request-Id": st.sampled_from(["1", "2", " 3\t"]),
    },
)


@given(HEADS, st.lists(OWN, min_size=2, max_size=4))
def test_a_head_is_read_alike_whether_one_of_its_shape_is_known_or_not(
    content: bytes, differing: list[dict[str, str]]
) -> None:
    heads = UsualHeads()
    first, _, rest = content.partition(b"\r\nHost: here")
    for own in differing:
        fields = "".join(f"\r\n{name}: {value}" for name, value in own.items()).encode("latin-1", "replace")
        head = first + b"\r\nHost: here" + fields + rest
        found, alone = heads.read(head), UsualHeads().read(head)
        assert found == (alone and found and replace(alone, shape=found.shape))


def test_heads_that_differ_in_what_is_their_own_have_one_shape() -> None:
    heads = UsualHeads()
    head = b"POST /v1/events HTTP/1.1\r\nHost: here\r\nContent-Length: %d\r\ntraceparent: %d\r\n\r\n"
    found = [heads.read(head % (number, number)) for number in range(1, 4)]
    assert [one and one.length for one in found] == [1, 2, 3]
    assert [one and one.head.headers["traceparent"] for one in found] == ["1", "2", "3"]
    assert len({one.shape for one in found if one}) == 1


def test_plain_heads_are_read() -> None:
    content = b"POST /v1/events HTTP/1.1\r\nHost: here\r\nContent-Length: 2\r\nX_Y: 1\r\n\r\n"
    assert UsualHeads().read(content) is not None
    assert of_aiohttp(content, b"{}") is not None
