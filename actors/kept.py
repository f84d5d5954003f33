"""What actors are made of since the latest change, where a process that is started again finds it.

Ray starts an actor again with the arguments that it was created with. What changed since is kept in Ray's own store
under the actor's name, so that it lasts as long as the actor may come back.
"""

from __future__ import annotations

from typing import NamedTuple

from ray.experimental import internal_kv

_NAMESPACE = b"polku"
_NUMBER_BYTES = 8
_FAREWELL = "/farewell"


class Farewell(NamedTuple):
    """What an ingest was told about its end: that clients are to go elsewhere, and that it takes nothing at all."""

    leaves: bool = False
    drains: bool = False


def keep(name: str, number: int, packed: bytes) -> None:
    """Have an actor start with other arguments from now on; `number` is the change's, from 1; blocks."""
    value = number.to_bytes(_NUMBER_BYTES, "big") + packed
    internal_kv._internal_kv_put(name, value, overwrite=True, namespace=_NAMESPACE)


def kept(name: str) -> tuple[int, bytes] | None:
    """Return the number of an actor's latest change and its arguments; None where there was no change; blocks."""
    value: bytes | None = internal_kv._internal_kv_get(name, namespace=_NAMESPACE)
    return None if value is None else (int.from_bytes(value[:_NUMBER_BYTES], "big"), value[_NUMBER_BYTES:])


def keep_farewell(name: str, farewell: Farewell) -> None:
    """Have an ingest start with this from now on; blocks."""
    internal_kv._internal_kv_put(name + _FAREWELL, bytes(farewell), overwrite=True, namespace=_NAMESPACE)


def kept_farewell(name: str) -> Farewell:
    """Return what an ingest was told about its end, in this life or one before; blocks."""
    value: bytes | None = internal_kv._internal_kv_get(name + _FAREWELL, namespace=_NAMESPACE)
    return Farewell() if value is None else Farewell(*map(bool, value))


def forget_farewell(name: str) -> None:
    """Have an ingest start as one that stays; blocks."""
    internal_kv._internal_kv_del(name + _FAREWELL, namespace=_NAMESPACE)


def forget(name: str) -> None:
    """Forget what is kept for an actor; blocks."""
    internal_kv._internal_kv_del(name, namespace=_NAMESPACE)
    forget_farewell(name)


def forget_all(prefix: str) -> None:
    """Forget what is kept for all actors whose names begin so; blocks."""
    internal_kv._internal_kv_del(prefix, del_by_prefix=True, namespace=_NAMESPACE)
