"""Which of an ingestor's faster ways still do what its `ingest` does: a class that inherits may have another one."""

from __future__ import annotations

from polku.contracts import Ingestor


def is_of_ingest(ingestor: Ingestor, name: str) -> bool:
    """Return whether an attribute is as new as `ingest` is: of the object, its class, or the class `ingest` is of.

    What a class has inherited says something about an `ingest` that it has replaced.
    """
    own = getattr(ingestor, "__dict__", {})
    if name in own or "ingest" in own:
        return name in own
    classes = type(ingestor).__mro__
    return _first(classes, name) <= _first(classes, "ingest")


def _first(classes: tuple[type, ...], name: str) -> int:
    return next((place for place, kind in enumerate(classes) if name in vars(kind)), len(classes))
