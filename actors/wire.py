"""What two actors say to each other, as bytes.

Over a socket they go as they are (see `socket_channel`), and Ray too hands a `bytes` argument on as it is. Any other
goes through Ray's pickler, and each costs sender and receiver 100 µs a call: with one head and one payload a hop of
400 kB takes 1.04 ms of both together instead of 1.31. The CPU of a hop by a call of Ray in milliseconds, sender +
receiver, by the size of the payload (Ray 2.60, inside the call up to 4 MB):

    1 kB 0.36 + 0.45 · 130 kB 0.40 + 0.51 · 400 kB 0.47 + 0.57 · 800 kB 0.70 + 0.85 · 1.5 MB 2.4 + 2.0

and the same of a frame over a socket, with its short answer:

    1 kB 0.02 + 0.02 · 130 kB 0.04 + 0.05 · 430 kB 0.09 + 0.10 · 860 kB 0.15 + 0.16
"""

from __future__ import annotations

import pickle

from polku.batch.batch import Batch
from polku.batch.receipt import Accepted, Answer, Receipt, Turn
from polku.link.link import Push


def pack_push(push: Push, batch: Batch) -> tuple[bytes, bytes]:
    """Return the head of a push, and its payload."""
    return pickle.dumps((push, batch.header)), batch.payload


def unpack_push(head: bytes, payload: bytes) -> tuple[Push, Batch]:
    """Return a push again."""
    push, header = pickle.loads(head)
    return push, Batch.from_wire(header, payload)


def pack_answer(answer: Answer | Turn) -> bytes:
    """Return the answer to a push; of `Accepted` only that it is one, since the outcome is asked for."""
    return pickle.dumps(None if isinstance(answer, Accepted) else answer)


def unpack_answer(data: bytes) -> Receipt | Turn | None:
    """Return an answer again; None: the batch is accepted."""
    answer: Receipt | Turn | None = pickle.loads(data)
    return answer
