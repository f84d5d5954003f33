"""Faults that are known and not yet mended, so that runs are not drowned in them: empty when all is well.

Replays into a full `drop_newest` share are not judged either: they are tried again each second, without end where the
destination takes fewer than one event a second.

`FEATURES` are left out of generated cases, by the reason; `KINDS` are kinds of broken promises that are not reported.
"""

from __future__ import annotations

FEATURES: dict[str, tuple[str, ...]] = {}

KINDS: dict[str, str] = {}


def features() -> frozenset[str]:
    """Return what generated cases leave out."""
    return frozenset(feature for names in FEATURES.values() for feature in names)
