"""The base of the statistics: frozen values in values, and what JSON has in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from polku.histogram import Distribution


class Tree(Struct, frozen=True, kw_only=True):
    """The base of everything in the tree: a `Struct`, since to define a dataclass takes a millisecond of each start."""

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON has: a distribution becomes its count, sum and percentiles."""
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}


def _plain(value: object) -> Any:
    match value:
        case Tree() | Distribution():
            return value.to_json()
        case Mapping():
            return {key: _plain(one) for key, one in value.items()}
        case tuple():
            return [_plain(one) for one in value]
        case _:
            return value
