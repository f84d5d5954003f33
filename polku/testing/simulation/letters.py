"""The file of dead letters in a simulated world: what is in it, and its replays."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from polku.dead_letters.store import DeadLetterStore, Letter, Selection, as_event
from polku.disk import make_folder
from polku.testing.simulation.lineage import part_of, root_of, tokens_of

if TYPE_CHECKING:
    from polku.testing.simulation.ledger import Ledger


def begin(path: str) -> None:
    """Put a file without letters in the place of what is there, which dead processes may still have open."""
    for suffix in ("", "-wal", "-shm"):
        Path(path + suffix).unlink(missing_ok=True)
    make_folder(Path(path).parent)
    Path(path).write_bytes(_empty())


@functools.cache
def _empty() -> bytes:
    """Return a file without letters: making its tables takes as long as a fifth of a small case."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.dead"
        DeadLetterStore(path).close()
        return path.read_bytes()


def stored(path: str) -> list[Letter]:
    """Return what is in it."""
    if not Path(path).exists():
        return []
    with _opened(path) as store:
        return list(store.select(Selection()))


def ask_replay(path: str) -> int:
    """Ask for the replay of all that is in it, as `polku dlq replay` does."""
    if not Path(path).exists():
        return 0
    with _opened(path) as store:
        return store.mark(Selection())


def check_stored(ledger: Ledger, path: str) -> Iterator[str]:
    """Compare the file with the letters that were written: one that is in it, or came through by a replay, is safe."""
    kept = {(letter.emitter, token) for letter in stored(path) for token in tokens_of(as_event(letter))}
    for token, emitters in ledger.kept.items():
        for emitter in emitters:
            if root_of(token) in ledger.inputs and not _is_safe(ledger, kept, emitter, token):
                yield f"letter lost: {token} died at {emitter!r}, and its letter is not in the file"


def _is_safe(ledger: Ledger, kept: set[tuple[str, str]], emitter: str, token: str) -> bool:
    if (emitter, token) in kept or token in ledger.dropped or ledger.same_id.get(token):
        return True  # a replay goes through the steps, which may drop it by a rule
    names = [emitter] if emitter else sorted(ledger.routes.get(token, ()))
    if any(token in ledger.destinations[name].arrived for name in names):
        return True
    dropping = [d for name in names if (d := ledger.destinations[name]).drops == "drop_oldest" or not d.required]
    if dropping:  # the replay may have been dropped by its emitter's rule
        return True
    if any((name, token) in kept for name in names):
        return True
    count = 0 if emitter else ledger.parts.get(token, 0)  # a replay goes through all steps again
    return count > 0 and all(_is_safe(ledger, kept, "", part_of(token, i, count)) for i in range(count))


@contextlib.contextmanager
def _opened(path: str) -> Iterator[DeadLetterStore]:
    store = DeadLetterStore(path, create=False)
    try:
        yield store
    finally:
        store.close()
