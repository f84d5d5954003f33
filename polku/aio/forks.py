"""What a fork of this process lets go: ports listen, and locks are held, until every process has closed its copy.

A process that user code forks, as `multiprocessing` does, may live longer than the pipeline, also where that is killed:
clients would wait at a port that nobody serves, and the next pipeline would be refused its journal.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterable
from typing import Any

_held: weakref.WeakKeyDictionary[Any, Callable[[Any], Iterable[int]]] = weakref.WeakKeyDictionary()


def let_go_in_forks(owner: Any, descriptors: Callable[[Any], Iterable[int]]) -> None:
    """Have forks close `descriptors(owner)`, which gives those that it has then, for as long as the owner is there."""
    _held[owner] = descriptors


def _let_go() -> None:
    if not (owners := list(_held.items())):
        return
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for owner, descriptors in owners:
        for descriptor in descriptors(owner):
            if descriptor >= 0:  # the number stays in use: the copy of an object may close it
                os.dup2(null, descriptor, inheritable=False)
    os.close(null)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
