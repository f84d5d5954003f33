"""The on-call application on Ray Serve: it hands each urgent ticket to an engineer.

    python examples/support_tickets/oncall.py

deploys it as `oncall` in the Ray that runs here (`ray start --head`), and ends; the application stays. A ticket that
comes again, as it may after a crash, keeps its engineer: what was assigned stands in `FOLDER/pages.ndjson`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from ray import serve

ENGINEERS = {"access": ["ada", "grace"], "billing": ["edsger"], "network": ["radia", "vint"]}


@serve.deployment(max_ongoing_requests=16, max_queued_requests=64, ray_actor_options={"num_cpus": 0.1})
class OnCall:
    """Assign engineers in turn, each ticket once."""

    def __init__(self, folder: str) -> None:
        path = Path(folder, "pages.ndjson")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self.assigned = dict(map(read_page, filter(is_complete, path.read_text("utf-8").splitlines(keepends=True))))
        self.pages = path.open("a", encoding="utf-8")

    async def __call__(self, ticket: dict[str, str]) -> str:
        if ticket["id"] not in self.assigned:
            engineers = ENGINEERS.get(ticket["team"], ["grace"])
            engineer = engineers[len(self.assigned) % len(engineers)]
            self.pages.write(json.dumps({"id": ticket["id"], "engineer": engineer}) + "\n")
            self.pages.flush()
            self.assigned[ticket["id"]] = engineer
        return self.assigned[ticket["id"]]


def read_page(line: str) -> tuple[str, str]:
    page = json.loads(line)
    return page["id"], page["engineer"]


def is_complete(line: str) -> bool:
    return line.endswith("}\n")


app = OnCall.bind(os.path.abspath(os.environ.get("FOLDER", "data")))

if __name__ == "__main__":
    serve.start(proxy_location="Disabled")  # the pipeline calls it within Ray: no port is opened
    serve.run(app, name="oncall", route_prefix=None)
