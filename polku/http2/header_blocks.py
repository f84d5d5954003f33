"""Header blocks (RFC 7541): the `hpack` library, behind a quick reader of what gRPC clients send with each call.

A block that was seen before means the same as long as the peer's dynamic table does not change, so that callers may
cache what they made of it: `version` rises with each change. Some clients (grpc-go) put `grpc-timeout` into the table
with every call, and `traceparent` where calls are traced: the quick reader costs half of the library's there. It reads
indexed fields and literals with an indexed name and a short value; from the first other field on the library reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from polku.http2 import huffman
from polku.http2.frames import ErrorCode, PeerError

Field = tuple[bytes, bytes]

_STATIC: tuple[Field, ...] = HeaderTable.STATIC_TABLE
_FIRST_DYNAMIC = len(_STATIC) + 1
_CACHED_HEADS = 64
_FIELD_OVERHEAD = 32  # RFC 7541, section 4.1
_NAME = re.compile(rb"[!-9;-@\[-~]+").fullmatch  # RFC 9113, section 8.2.1: no capitals, no colon, no spaces
_UNFIT = re.compile(rb"[\0\r\n]").search
_OF_CONNECTION = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))


class _Table(HeaderTable):
    """A dynamic table that counts its changes."""

    def __init__(self) -> None:
        self.version = 0
        super().__init__()

    def add(self, name: bytes, value: bytes) -> None:
        self.version += 1
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, size: int) -> None:
        self.version += 1
        HeaderTable.maxsize.fset(self, size)  # type: ignore[attr-defined]


class HeaderReader:
    """Decode the header blocks of one peer, in the order in which they come."""

    def __init__(self, *, list_bytes: int, table_bytes: int) -> None:
        self._list_bytes = list_bytes
        self._table_bytes = table_bytes
        self._table = _Table()
        self._decoder = Decoder(max_header_list_size=list_bytes)
        self._decoder.header_table = self._table

    @property
    def version(self) -> int:
        """How often the dynamic table has changed."""
        return self._table.version

    def allow_table(self) -> None:
        """The peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE: larger tables are an error from now on."""
        self._decoder.max_allowed_table_size = self._table_bytes

    def read(self, block: bytes) -> list[Field]:
        """Return the fields of a block; raises `PeerError`, since the tables of both ends differ from then on."""
        fields: list[Field] = []
        try:
            stop, size = self._read_quickly(block, fields)
            if stop < len(block):
                if fields and 0x20 <= block[stop] < 0x40:
                    raise PeerError(ErrorCode.COMPRESSION_ERROR, "table size update within a header block")
                fields += self._decoder.decode(block[stop:], raw=True)
                size = sum(_FIELD_OVERHEAD + len(name) + len(value) for name, value in fields)
        except OversizedHeaderListError:
            size = self._list_bytes + 1
        except (HPACKError, IndexError) as error:
            raise PeerError(ErrorCode.COMPRESSION_ERROR, f"header block: {error}") from None
        if size > self._list_bytes:
            reason = f"the header list takes more than {self._list_bytes} bytes; send fewer or shorter fields"
            raise PeerError(ErrorCode.ENHANCE_YOUR_CALM, reason)
        return fields

    def _read_quickly(self, block: bytes, fields: list[Field]) -> tuple[int, int]:
        """Append fields as far as they are of the common kinds; return where that ends, and their size."""
        table: Any = self._table
        dynamic = table.dynamic_entries
        at, end, size = 0, len(block), 0
        while at < end and size <= self._list_bytes:
            first = block[at]
            is_indexed = first >= 0x80  # the name, and the value as well (section 6.1)
            mask = 0x7F if is_indexed else 0x3F if first >= 0x40 else 0x0F  # with (6.2.1) and without indexing (6.2.2)
            index, start = first & mask, at + 1
            if index == mask:
                index, start = _read_index(block, start, mask)
            if not index or 0x20 <= first < 0x40:
                break
            field = _STATIC[index - 1] if index < _FIRST_DYNAMIC else dynamic[index - _FIRST_DYNAMIC]
            if is_indexed:
                at = start
            else:
                if start >= end:
                    break
                length = block[start]
                at_value, stop = start + 1, start + 1 + (length & 0x7F)
                if length & 0x7F == 0x7F or stop > end:
                    break
                value = block[at_value:stop]
                field = (bytes(field[0]), huffman.decode(value) if length & 0x80 else value)
                if first >= 0x40:
                    table.add(*field)
                at = stop
            size += _FIELD_OVERHEAD + len(field[0]) + len(field[1])
            fields.append(field)
        return at, size


def _read_index(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """Return an index that continues behind its first byte (section 5.1), and where it ends; 0: it is no common one."""
    if at < len(block) and block[at] < 0x80:
        return mask + block[at], at + 1
    return 0, at


class HeadCache:
    """What header blocks were found to mean, as long as the peer's table does not change."""

    def __init__(self, reader: HeaderReader) -> None:
        self._reader = reader
        self._heads: dict[bytes, Any] = {}
        self._version = 0

    def get(self, block: bytes) -> Any:
        """Return what a block means; None: it must be read."""
        return self._heads.get(block) if self._version == self._reader.version else None

    def read(self, block: bytes, meaning: Callable[[list[Field]], Any]) -> Any:
        """Read a block, and return what its fields mean."""
        before = self._reader.version
        head = meaning(self._reader.read(block))
        if before == self._reader.version:  # a block that changes the table must be read each time
            if self._version != before or len(self._heads) >= _CACHED_HEADS:
                self._heads.clear()
                self._version = before
            self._heads[block] = head
        return head


def is_allowed(name: bytes, value: bytes) -> bool:
    """Return whether HTTP/2 allows a field that is no pseudo-header (RFC 9113, sections 8.2.1 and 8.2.2)."""
    return _NAME(name) is not None and name not in _OF_CONNECTION and is_value(value)


def is_value(value: bytes) -> bool:
    """Return whether a value has none of the characters that end a line or a string elsewhere."""
    return _UNFIT(value) is None


def literal(name: bytes, value: bytes) -> bytes:
    """Return a field that uses no table and no Huffman code (section 6.2.2): answers then need no order among them."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < 0x7F:
        return bytes((size,)) + text
    size -= 0x7F
    head = bytearray(b"\x7f")
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + text
