"""Read an emitter plugin's answer: which events it delivered, and which to try again.

The answer confirms all events but those it names. It is believed only where it adds up: where `success_count` and the
named events do not make the request, or a name stands in it that the request does not hold, all events that it does
not name count as failed and are tried again. So a plugin that miscounts delivers twice, and never loses.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

from polku.aio.slices import few
from polku.contracts import Failure
from polku.v1.plugin_pb2 import EmitError, EmitResponse


def reading_failures(ids: Sequence[str], response: EmitResponse) -> Generator[None, None, list[Failure]]:
    """Return a failure for each event of the request that the answer does not confirm; yields now and then."""
    if not response.failed_event_ids and not response.errors and response.success_count == len(ids):
        return []
    errors: dict[str, EmitError] = {}
    for some in few(response.errors):
        errors.update((error.event_id, error) for error in some)
        yield
    named = {*response.failed_event_ids, *errors}
    known = named.intersection(ids)
    doubt = _doubt(ids, known, named, response.success_count)
    yield
    failures: list[Failure] = []
    unnamed: list[Failure] = []
    for places in few(range(len(ids))):
        for place in places:
            event_id = ids[place]
            if event_id in known:
                failures.append(_failure(event_id, errors.get(event_id), place))
            elif doubt:
                unnamed.append(Failure(event_id, doubt, position=place))
        yield
    return failures + unnamed


def _failure(event_id: str, error: EmitError | None, place: int) -> Failure:
    if error is None:
        return Failure(event_id, "the plugin named it as failed, without an EmitError", position=place)
    return Failure(event_id, error.message or "the plugin gave no reason", error.retryable, position=place)


def _doubt(ids: Sequence[str], known: set[str], named: set[str], success_count: int) -> str:
    """Return why the unnamed events of an answer cannot be believed to be delivered, or nothing."""
    strange = sorted(named - known)
    if strange:
        return f"the plugin named {strange[0]!r} as failed, which was not in the request"
    failed = sum(event_id in known for event_id in ids)
    if success_count not in (len(ids) - failed, len(ids) - len(known)):
        return f"the plugin's counts do not add up: success_count={success_count} and {len(known)} failed of {len(ids)}"
    return ""
