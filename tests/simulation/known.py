"""Faults that are known and not yet mended, so that runs are not drowned in them: empty when all is well.

Replays into a full `drop_newest` share are not judged either: they are tried again each second, without end where the
destination takes fewer than one event a second.

Steps of the kinds `NOT_THE_SAME_TWICE` may make something else of a batch when their process has died and the batch
comes again: by chance, or since a memory is gone. The buffer knows the batch by its identity, and answers about what it
was given the first time, event by event, so that a refusal may name another event of the same message. Where that is
so, the judge asks only that some event of the case deserved it.

`FEATURES` are left out of generated cases, by the reason; `KINDS` are kinds of broken promises that are not reported.
"""

from __future__ import annotations

FEATURES: dict[str, tuple[str, ...]] = {}

KINDS: dict[str, str] = {}

NOT_THE_SAME_TWICE = frozenset({"sampler", "throttle", "limiter", "dedup"})


def features() -> frozenset[str]:
    """Return what generated cases leave out."""
    return frozenset(feature for names in FEATURES.values() for feature in names)
