"""How many examples a property is tried on: less in `make test`, more in `make slow`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # of hypothesis itself


def examples(count: int) -> settings:
    """Return settings for a property that is tried on `count` examples where others are on a hundred."""
    return settings(max_examples=max(10, count * settings.default.max_examples // _USUAL))  # type: ignore[union-attr]
