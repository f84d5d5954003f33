"""What of a record becomes metadata of its event: entries as they travel, most without being decoded."""

from __future__ import annotations

import secrets
from collections.abc import Collection

from polku.limits import Limits
from polku.otlp.attributes import decode, key_of, short_entry, short_text
from polku.otlp.wire import tagged

KEPT_APART = ("polku.", "kafka.")  # metadata that POLKU itself reads
OWN = frozenset(("traceparent", "tracestate", "cluster"))
LOOKED_AT = 1_000
"""Attributes of a record or resource that are looked at; SDKs set 128 at most, unless they are told otherwise."""
MARK = secrets.token_bytes(16)
"""What stands between the attributes of two records, and in none of them: nobody else knows it."""
_KNOWN_ENTRIES = 10_000
_KNOWN_BYTES = 200  # of an attribute, or a key, that is remembered
_KNOWN_KEYS = 1_000  # of attributes, for which it is known whether they are wanted


class Wanted(dict[bytes, bool]):
    """Which attributes become metadata, by key; `names` None: all, but for those that POLKU itself writes."""

    def __init__(self, names: Collection[str] | None, limits: Limits) -> None:
        super().__init__()
        self.entries = Entries(self)
        self._names = names
        self._limits = limits

    @property
    def is_none(self) -> bool:
        """Whether none does."""
        return self._names is not None and not self._names

    def __missing__(self, key: bytes) -> bool:
        if len(self) > _KNOWN_KEYS:
            self.clear()
        name = key.decode()
        is_other = name not in OWN and not name.startswith(KEPT_APART)
        is_short = 0 < len(key) <= self._limits.metadata_key_bytes
        found = is_other and is_short and (self._names is None or name in self._names)
        if len(key) <= _KNOWN_BYTES:
            self[key] = found
        return found

    def entry_of(self, content: bytes) -> bytes:
        """Return the entry of metadata that an attribute becomes; empty where it becomes none.

        Raises `DecodeError` where it had to be decoded, and is not valid.
        """
        key = key_of(content)
        if key is not None:
            if not self[key]:
                return b""
            found = short_text(content, len(key))
            if found is not None and len(found) <= self._limits.metadata_value_bytes:
                return short_entry(content, len(key))
        name, value = decode(content, self._limits.metadata_value_bytes)
        if value is None or not self[name.encode()] or not fits(name, value, self._limits):
            return b""
        return entry(name, value)


class Entries(dict[bytes, bytes]):
    """What attributes become, by attribute: many records of a request have the same ones; a mark stays as it is."""

    def __init__(self, wanted: Wanted) -> None:
        super().__init__({MARK: MARK})
        self._wanted = wanted
        self.new: list[bytes] = []
        """Attributes that were asked for, and not known before: not all of them may be valid."""

    def __missing__(self, content: bytes) -> bytes:
        if len(self) > _KNOWN_ENTRIES:
            self.clear()
            self[MARK] = MARK
        self.new.append(content)
        found = self._wanted.entry_of(content)
        if len(content) <= _KNOWN_BYTES:
            self[content] = found
        return found

    def forget_new(self) -> None:
        """Forget those attributes."""
        for content in self.new:
            self.pop(content, None)
        self.new.clear()


def fits(key: str, value: str, limits: Limits) -> bool:
    """Return whether an entry of the metadata keeps the limits."""
    key_bytes, value_bytes = limits.metadata_key_bytes, limits.metadata_value_bytes
    return (
        0 < len(key) <= key_bytes
        and len(value) <= value_bytes
        and (4 * len(key) <= key_bytes or len(key.encode()) <= key_bytes)
        and (4 * len(value) <= value_bytes or len(value.encode()) <= value_bytes)
    )


def text(number: int, value: str) -> bytes:
    """Return a field of text."""
    content = value.encode()
    return tagged(number, len(content)) + content


def entry(key: str, value: str) -> bytes:
    """Return one entry of an event's metadata."""
    content = text(1, key) + text(2, value)
    return tagged(5, len(content)) + content


TRACEPARENT = entry("traceparent", 55 * "-")[:-55]
"""What stands before the 55 characters of that entry."""
