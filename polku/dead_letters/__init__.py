"""Events that could not be delivered, with their reason: in memory, or on disk, from where they can be replayed."""

from __future__ import annotations

from polku.dead_letters.memory import DeadLetter, DeadLetters, DeadLetterStatistics, LetterVerb

__all__ = ["DeadLetter", "DeadLetterStatistics", "DeadLetters", "LetterVerb"]
