"""Support tickets: posted over HTTP, read by a model, and sent to the team that can help; none is lost on the way.

    pip install -r examples/support_tickets/requirements.txt
    polku run examples/support_tickets/pipeline.py --runtime inline --http-addr 127.0.0.1:8080

README.md has the rest: Kafka, S3, Ray and Ray Serve. The environment says where things go:

FOLDER    the journal, dead letters, and the archive (`data`)
KAFKA     brokers that get each ticket in `tickets.<team>`; without it tickets are printed
ARCHIVE   where Parquet files go: `s3://bucket/prefix`, or by default a folder in FOLDER (S3_ENDPOINT: of your own)
SERVE     the Ray Serve application that gets what is urgent (`oncall.py`); without it that is printed too
REPLICAS  how many processes have the model, on Ray
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from polku import (
    Batching,
    BufferStrategy,
    Deduplicator,
    Event,
    Hub,
    KafkaEmitter,
    RecordError,
    Router,
    S3Emitter,
    ServeEmitter,
    StdoutEmitter,
    new_event,
)

FOLDER = Path(os.environ.get("FOLDER", "data")).absolute()
KAFKA = os.environ.get("KAFKA")
ARCHIVE = os.environ.get("ARCHIVE") or (FOLDER / "archive").as_uri()
S3_ENDPOINT = os.environ.get("S3_ENDPOINT")
SERVE = os.environ.get("SERVE")
REPLICAS = int(os.environ.get("REPLICAS", "1"))
LABELLED = list(csv.DictReader((Path(__file__).parent / "labelled.csv").read_text("utf-8").splitlines()))
SURE = 0.6  # below that a person has to choose the team


def read_tickets(data: bytes) -> Iterator[Event | RecordError]:
    """Read a ticket, or a list of them: {"id": "T-1", "customer": "acme", "subject": "…", "text": "…"}."""
    tickets = json.loads(data)
    for ticket in tickets if isinstance(tickets, list) else [tickets]:
        if not isinstance(ticket, dict) or not ticket.get("id"):
            yield RecordError("a ticket is an object with an id")
            continue
        text = f"{ticket.get('subject', '')}\n\n{ticket.get('text', '')}".strip()
        metadata = {"customer": str(ticket.get("customer", "unknown"))}
        yield new_event("ticket.opened", id=str(ticket["id"]), metadata=metadata, payload=text.encode())


class TicketModel:
    """Choose a team, and say how urgent a ticket is: softmax regression on the embeddings of WordLlama.

    It learns from the labelled tickets when it starts, which takes less than a second.
    """

    def __init__(self, labelled: list[dict[str, str]]) -> None:
        self.labelled = labelled

    def start(self) -> None:
        import wordllama

        files = Path(wordllama.__file__).parent  # the package has the weights: nothing is downloaded
        self.embedding = wordllama.WordLlama.load(cache_dir=files, disable_download=True)
        vectors = self.embed([row["text"] for row in self.labelled])
        self.team = Softmax(vectors, [row["team"] for row in self.labelled])
        self.urgent = Softmax(vectors, [row["urgent"] for row in self.labelled])

    def embed(self, texts: list[str]) -> Any:
        return self.embedding.embed(texts, norm=True)

    def predict(self, events: list[Event]) -> list[dict[str, str] | Exception]:
        """Return the metadata of each ticket; one without a text is refused, and the others are not."""
        texts = [event.payload.decode() for event in events]
        vectors = self.embed([text or "-" for text in texts])
        answers = zip(texts, self.team(vectors), self.urgent(vectors), strict=True)
        return [self.answer(text, team, urgent) for text, team, urgent in answers]

    def answer(self, text: str, team: tuple[str, float], urgent: tuple[str, float]) -> dict[str, str] | Exception:
        if not text:
            return ValueError("the ticket has no text")
        name, confidence = team
        return {
            "team": name if confidence >= SURE else "triage",
            "confidence": f"{confidence:.2f}",
            "urgent": urgent[0],
        }


class Softmax:
    """Multinomial logistic regression, by gradient descent."""

    def __init__(self, vectors: Any, labels: list[str], *, steps: int = 300, rate: float = 5.0) -> None:
        import numpy as np

        self.names = sorted(set(labels))
        wanted = np.array([[label == name for name in self.names] for label in labels], float)
        self.weights = np.zeros((vectors.shape[1], len(self.names)))
        for _ in range(steps):
            self.weights += rate * vectors.T @ (wanted - self.chances(vectors)) / len(labels)

    def chances(self, vectors: Any) -> Any:
        import numpy as np

        scores = np.exp(vectors @ self.weights)
        return scores / scores.sum(axis=1, keepdims=True)

    def __call__(self, vectors: Any) -> list[tuple[str, float]]:
        """Return the likeliest name for each vector, and how likely it is."""
        return [(self.names[row.argmax()], float(row.max())) for row in self.chances(vectors)]


def is_urgent(event: Event) -> bool:
    return event.metadata.get("urgent") == "yes"


def page(event: Event) -> dict[str, str]:
    """Return what the on-call application is asked with."""
    return {"id": event.id, "team": event.metadata["team"], "text": event.payload.decode()}


hub = (
    Hub(name="support")
    .buffer_strategy(BufferStrategy.durable(FOLDER / "journal.db"))
    .dead_letters(FOLDER / "dead.db")
    .ingestor(read_tickets, source="tickets")
    .middleware(Deduplicator(ttl=3600, durable=True), name="once")
    .middleware(
        partial(TicketModel, LABELLED),
        batching=Batching(max_events=64, max_wait=0.02, warm_up=new_event("ticket.opened", payload=b"hello")),
        replicas=REPLICAS,
        name="model",
    )
    .middleware(Router().when(is_urgent, to=["teams", "archive", "oncall"]).default(["teams", "archive"]))
    .emitter(
        KafkaEmitter("tickets.{metadata[team]}", key="{metadata[customer]}", bootstrap_servers=KAFKA, value="json")
        if KAFKA
        else StdoutEmitter(),
        name="teams",
    )
    .emitter(
        S3Emitter(
            ARCHIVE,
            key="team={metadata.team}/date={date}/{batch}",
            format="parquet",
            max_age=10,
            options={"endpoint": S3_ENDPOINT} if S3_ENDPOINT else {},
        ),
        name="archive",
    )
    .emitter(ServeEmitter(SERVE, request=page) if SERVE else StdoutEmitter(), name="oncall")
)
