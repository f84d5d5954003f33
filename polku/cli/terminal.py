"""Whether tables and bars can be drawn: `polku-core` comes without the library for them."""

from __future__ import annotations

import importlib.util
import sys


def has_rich() -> bool:
    """Return whether the library for tables and bars is installed."""
    return importlib.util.find_spec("rich") is not None


def shows_progress() -> bool:
    """Return whether a bar can be drawn on standard error."""
    return sys.stderr.isatty() and has_rich()
