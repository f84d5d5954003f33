"""How a batch is named by where it goes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from polku.batch.batch import Batch, Identity


def routed(identity: Identity, pieces: Sequence[Batch]) -> Identity:
    """Return the identity of a batch, as it is routed: what goes elsewhere when it comes again is another batch.

    Where all of it goes to the same emitters, its pieces are those of what was routed so.
    """
    if len(pieces) > 1:
        return identity.made(_digest([(len(piece), piece.routes) for piece in pieces]))
    if not pieces[0].routes:
        return identity
    whole, place = identity.place
    routed = whole.made(_digest(pieces[0].routes))
    return routed if place is None else routed.piece(place.start, len(place))


def _digest(routes: object) -> str:
    return hashlib.blake2b(repr(routes).encode(errors="backslashreplace"), digest_size=8).hexdigest()
