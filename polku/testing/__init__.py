"""What pipelines are tested with: the oracle that checks what a pipeline did with the events that it was sent."""

from __future__ import annotations

from polku.testing.oracle import Oracle, Verdict

__all__ = ["Oracle", "Verdict"]
