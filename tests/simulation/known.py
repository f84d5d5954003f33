"""Faults that are known and not yet mended, so that runs are not drowned in them: empty when all is well.

`FEATURES` are left out of generated cases, by the reason; `KINDS` are kinds of broken promises that are not reported.
"""

from __future__ import annotations

FEATURES: dict[str, tuple[str, ...]] = {
    "a timestamp outside of years 1 to 9999": ("stamp",),
    "CancelledError, SystemExit and BaseException of user code": ("cancelled", "exit", "base"),
}

KINDS: dict[str, str] = {}


def features() -> frozenset[str]:
    """Return what generated cases leave out."""
    return frozenset(feature for names in FEATURES.values() for feature in names)
