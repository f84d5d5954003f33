"""How many examples a property is tried on: less in `make test`, more in `make slow`."""

from __future__ import annotations

from hypothesis import settings

_USUAL = 100  # of hypothesis itself


def examples(count: int, slow: int | None = None) -> settings:
    """Return settings for a property that is tried on `count` examples where others are on a hundred.

    With `slow` it is another count in `make slow`.
    """
    most = settings.default.max_examples  # type: ignore[union-attr]
    wanted = count if slow is None or most < _USUAL else slow
    return settings(max_examples=max(10, wanted * most // _USUAL))
