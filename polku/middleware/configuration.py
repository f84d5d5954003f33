"""What all middleware configurations have in common: how they look."""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from polku.checks import label


class Configuration:
    """Show as the call that makes it, without the options that were left alone: `RateLimiter(100, burst=20)`."""

    __slots__ = ()

    def __repr__(self) -> str:
        this: Any = self
        parts = []
        for field in fields(this):
            value = getattr(self, field.name)
            default = field.default if field.default_factory is MISSING else field.default_factory()
            if default is MISSING:
                parts.append(_show(value))
            elif value is not default and value != default:
                parts.append(f"{field.name}={_show(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def _show(value: object) -> str:
    return label(value) if hasattr(value, "__name__") else str(value) if callable(value) else repr(value)
