"""Providers of spans for pipelines under test: in this process, and in a file that every process writes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"


class InMemory:
    """A setup whose spans are here."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()

    def __call__(self) -> TracerProvider:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return provider

    def named(self, start: str) -> list[ReadableSpan]:
        return [span for span in self.exporter.get_finished_spans() if span.name.startswith(start)]


class InFile(SpanExporter):
    """Write each span as a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._path.open("a") as file:
            for span in spans:
                file.write(json.dumps(json.loads(span.to_json())) + "\n")
        return SpanExportResult.SUCCESS


class Written:
    """A setup that can be pickled; the spans of all processes are in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> TracerProvider:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(InFile(self.path)))
        return provider

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []


def parent_of(span: ReadableSpan) -> int:
    """Return the number of a span's parent; 0: it has none."""
    return int(span.parent.span_id) if span.parent is not None else 0


def id_of(span: ReadableSpan) -> int:
    """Return the number of a span."""
    assert span.context is not None
    return int(span.context.span_id)


def linked(span: ReadableSpan) -> list[int]:
    """Return the numbers of the spans that a span is linked to."""
    return [link.context.span_id for link in span.links]
