"""Dead letters of a pipeline that runs, asked for at its admin address."""

from __future__ import annotations

import json
from typing import Any, NoReturn
from urllib.parse import urlencode

from polku.cli.admin_client import AdminAddress, reason_of
from polku.cli.command import Exit
from polku.dead_letters import LetterVerb
from polku.errors import SettingError
from polku.log_format import say


class RunningLetters:
    """The dead letters of one pipeline; every method ends the command with status 1 where nobody answers."""

    def __init__(self, address: AdminAddress) -> None:
        self._address = address

    def latest(
        self, limit: int, emitter: str | None = None, code: str | None = None, since: float = 0.0, event_id: str = ""
    ) -> dict[str, Any]:
        """Return the letters, the latest first, and how many more there are: `letters`, `left_out`."""
        query = _query(limit=limit, emitter=emitter, code=code, since=since or None, id=event_id or None)
        return self._ask(f"/dead-letters?{query}")

    def show(self, event_id: str) -> list[dict[str, Any]]:
        """Return the letters of one event; raises `SettingError` where there is none."""
        found: list[dict[str, Any]] = self.latest(100, event_id=event_id)["letters"]
        if not found:
            raise SettingError("ID", event_id, "no dead letter is of this event; see `polku dlq list`")
        return found

    def change(
        self, verb: LetterVerb, ids: list[str], emitter: str | None, code: str | None, since: float, everything: bool
    ) -> int:
        """Replay or drop letters by the ids of their events, or else by the rest; return how many."""
        if not (ids or everything or since) and emitter is None and code is None:
            raise SettingError("ID", "", "say which letters: their events' ids, --emitter, --code, --since, or --all")
        chosen = {"emitter": emitter, "code": code, "since": since or None, "all": "1" if everything else None}
        queries = [_query(**chosen, id=event_id) for event_id in ids] or [_query(**chosen)]
        return sum(self._ask(f"/dead-letters/{verb}?{query}", "POST")["letters"] for query in queries)

    def waiting(self) -> int:
        """Return how many letters are to be replayed."""
        return int(self._ask("/dead-letters?waiting=1")["waiting"])

    def _ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        try:
            status, body = self._address.fetch(path, method=method)
            if status != 200:
                self._fail(body.decode("utf-8", "replace").strip())
            answer: dict[str, Any] = json.loads(body)
            return answer
        except (OSError, ValueError) as error:
            self._fail(reason_of(error))

    def _fail(self, why: str) -> NoReturn:
        say(f"polku: {self._address.url}: {why}")
        raise Exit(1)


def _query(**fields: object) -> str:
    return urlencode({name: value for name, value in fields.items() if value is not None}, errors="surrogateescape")
