"""What holds batches until every destination has them."""

from __future__ import annotations

from polku.buffer.strategy import BufferStrategy, Overflow

__all__ = ["BufferStrategy", "Overflow"]
