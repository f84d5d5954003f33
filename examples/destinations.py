"""Three destinations over the network, and a file for what they refuse.

    AHTI=http://ahti:50060 PARTNER=https://partner.example/events UPSTREAM=http://central:50051 \\
        polku run examples/destinations.py --runtime inline

What happens to the cluster goes to AHTI, the knowledge graph; orders go to a partner's webhook as CloudEvents, and
upstream too; everything else goes upstream, to another gateway. Each destination has its own place in the buffer: while
one is down the others go on, and it gets everything when it is back. What one refuses for good is a dead letter in a
file, with the reason; once the cause is mended it is sent there again:

    polku dlq list dead.db
    polku dlq replay dead.db --emitter graph --all
"""

from __future__ import annotations

import os
from pathlib import Path

from polku import AhtiEmitter, GrpcEmitter, Hub, Router, WebhookEmitter

FOLDER = Path(os.environ.get("FOLDER", "."))

hub = (
    Hub()
    .middleware(
        Router().type_prefix("k8s.", to="graph").type_prefix("order.", to=["partner", "upstream"]).default("upstream")
    )
    .emitter(AhtiEmitter(os.environ.get("AHTI", "http://localhost:50060"), name="graph"))
    .emitter(WebhookEmitter(os.environ.get("PARTNER", "http://localhost:8080/"), format="cloudevents", name="partner"))
    .emitter(GrpcEmitter(os.environ.get("UPSTREAM", "http://localhost:50052"), name="upstream"))
    .dead_letters(FOLDER / "dead.db")
)
