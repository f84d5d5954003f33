"""The `polku` command."""

from __future__ import annotations

from polku.cli.app import main

__all__ = ["main"]
