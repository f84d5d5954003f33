"""The quick reader of header blocks reads what the `hpack` library reads, and refuses what it refuses."""

from __future__ import annotations

import pytest
from hpack import Decoder, Encoder, HPACKDecodingError, HPACKError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman
from hypothesis import given
from hypothesis import strategies as st

from polku.http2 import huffman as codes
from polku.http2.frames import ErrorCode, PeerError
from polku.http2.header_blocks import Field, HeaderReader, literal

NAMES = st.sampled_from([b":path", b"te", b"content-type", b"grpc-timeout", b"traceparent", b"x-own", b"user-agent"])
COMMON = st.sampled_from([b"", b"trailers", b"application/grpc", b"1S", b"x" * 126, b"x" * 127, b"y" * 300])
FIELDS = st.lists(st.tuples(NAMES, COMMON | st.binary(max_size=12)), max_size=6)
Block = tuple[list[Field], bool, int | None]
BLOCKS = st.lists(st.tuples(FIELDS, st.booleans(), st.sampled_from([None, None, None, 0, 100, 4096])), max_size=8)


@given(BLOCKS)
def test_blocks_of_an_encoder_are_read_as_the_library_reads_them(
    blocks: list[Block],
) -> None:
    encoder, library = Encoder(), Decoder()
    reader = HeaderReader(list_bytes=1 << 16, table_bytes=4096)
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)
        assert reader.read(block) == library.decode(block, raw=True) == fields


@given(st.lists(st.binary(max_size=40), max_size=6))
def test_bytes_at_random_are_read_as_the_library_reads_them(blocks: list[bytes]) -> None:
    library, reader = Decoder(), HeaderReader(list_bytes=1 << 16, table_bytes=4096)
    for block in blocks:
        try:
            expected = [(bytes(name), bytes(value)) for name, value in library.decode(block, raw=True)]
        except (HPACKError, IndexError):
            with pytest.raises(PeerError) as caught:
                reader.read(block)
            assert caught.value.code is ErrorCode.COMPRESSION_ERROR
            return  # the connection is over
        assert reader.read(block) == expected
        assert list(reader._table.dynamic_entries) == list(library.header_table.dynamic_entries)


def test_names_and_fields_far_back_in_the_table_are_read_as_the_library_reads_them() -> None:
    """Indices that continue in a second and a third byte, as where each call adds its trace and its deadline."""
    encoder, library = Encoder(), Decoder(max_header_list_size=1 << 20)
    reader = HeaderReader(list_bytes=1 << 20, table_bytes=1 << 16)
    for table in (library, reader._decoder):
        table.max_allowed_table_size = 1 << 16
    encoder.header_table_size = 1 << 16
    own = [(b"x-%d" % number, b"%d" % number) for number in range(400)]
    for fields in (own, [own[0], (b"x-399", b"new"), own[200], (b"x-300", b"a" * 30), own[398], (b"x-7", b"b")]):
        for is_huffman in (True, False):
            block = encoder.encode(fields, huffman=is_huffman)
            assert reader.read(block) == library.decode(block, raw=True) == fields
    assert list(reader._table.dynamic_entries) == list(library.header_table.dynamic_entries)
    quick = encoder.encode([own[200], (b"grpc-timeout", b"1S"), own[390]])
    assert reader.read(quick) == [own[200], (b"grpc-timeout", b"1S"), own[390]]


@pytest.mark.parametrize(
    "block", [b"\x80", b"\xff", b"\xff\x80", b"\xff\xff\xff\xff\x7f", b"\x7f", b"\x7f\x01", b"\x0f"]
)
def test_indices_that_are_none_are_refused(block: bytes) -> None:
    reader = HeaderReader(list_bytes=1000, table_bytes=4096)
    with pytest.raises(PeerError) as caught:
        reader.read(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@given(st.binary(max_size=60))
def test_huffman_codes_are_read_as_the_library_reads_them(data: bytes) -> None:
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(data)
    assert codes.decode(code) == decode_huffman(code) == data
    for wrong in (data, code[:-1], code + b"\xff"):  # most are no code, and some are one of another text
        try:
            expected: object = bytes(decode_huffman(wrong))
        except HPACKDecodingError as error:
            expected = str(error)
        try:
            found: object = codes.decode(wrong)
        except HPACKDecodingError as error:
            found = str(error)
        assert found == expected


def test_what_is_kept_of_codes_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "_KEPT", 3)
    monkeypatch.setattr(codes, "_steps", {})
    code = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(bytes(range(256)))
    assert codes.decode(code) == bytes(range(256))
    assert len(codes._steps) == 3


def test_the_version_rises_whenever_a_block_changes_the_table() -> None:
    encoder, reader = Encoder(), HeaderReader(list_bytes=1 << 16, table_bytes=4096)
    first = encoder.encode([(b"x-own", b"1")])
    second = encoder.encode([(b"x-own", b"1")])
    reader.read(first)
    after = reader.version
    assert after > 0
    reader.read(second)  # an index
    assert reader.version == after
    encoder.header_table_size = 0
    reader.read(encoder.encode([(b"te", b"trailers")]))
    assert reader.version > after


def test_a_list_over_the_limit_is_refused_however_it_is_written() -> None:
    for huffman in (False, True):
        encoder, reader = Encoder(), HeaderReader(list_bytes=1000, table_bytes=4096)
        reader.read(encoder.encode([(b"x-own", b"y" * 500)], huffman=huffman))
        with pytest.raises(PeerError, match="more than 1000 bytes") as caught:
            reader.read(encoder.encode([(b"x-own", b"y" * 500)] * 2, huffman=huffman))  # two bytes on the wire
        assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_a_literal_is_read_by_the_library(name: bytes, value: bytes) -> None:
    assert Decoder().decode(literal(name, value), raw=True) == [(name, value)]
