"""The three signals of OTLP: what each is called in paths, methods, answers and events."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from msgspec import Struct

from polku.errors import PlanError

_FIX = 'OTLP needs the package opentelemetry-proto: pip install "polku[otlp]"'


class Signal(Struct, frozen=True):
    """One signal: `name` as in `/v1/NAME`, `singular` as in event types, and the words of its messages."""

    name: str
    singular: str
    service: str
    """Of gRPC, with its package."""
    field: str
    """Of a request, whose entries are one resource's each."""
    records: str
    """Of a scope."""
    rejected: str
    """Of an answer's `partial_success`."""

    @property
    def path(self) -> str:
        """The path of HTTP."""
        return f"/v1/{self.name}"

    @property
    def method(self) -> str:
        """The path of gRPC."""
        return f"/{self.service}/Export"

    @property
    def event_type(self) -> str:
        """The type of an event that is one record."""
        return f"otel.{self.singular}"

    @property
    def request_type(self) -> str:
        """The type of an event that is a whole request."""
        return f"otel.{self.name}"

    @property
    def messages(self) -> Any:
        """The generated module of the signal's own messages."""
        package = "trace" if self is TRACES else self.name
        return load(f"opentelemetry.proto.{package}.v1.{package}_pb2")

    @property
    def calls(self) -> Any:
        """The generated module of the signal's requests and answers."""
        package = "trace" if self is TRACES else self.name
        return load(f"opentelemetry.proto.collector.{package}.v1.{package}_service_pb2")


def _service(name: str, kind: str) -> str:
    return f"opentelemetry.proto.collector.{name}.v1.{kind}Service"


LOGS = Signal("logs", "log", _service("logs", "Logs"), "resource_logs", "log_records", "rejected_log_records")
TRACES = Signal("traces", "span", _service("trace", "Trace"), "resource_spans", "spans", "rejected_spans")
METRICS = Signal(
    "metrics", "metric", _service("metrics", "Metrics"), "resource_metrics", "metrics", "rejected_data_points"
)
SIGNALS = (LOGS, TRACES, METRICS)
BY_NAME = {signal.name: signal for signal in SIGNALS}
BY_EVENT_TYPE = {signal.event_type: signal for signal in SIGNALS}
BY_REQUEST_TYPE = {signal.request_type: signal for signal in SIGNALS}


@cache
def load(module: str) -> Any:
    """Import a generated module; raises `PlanError` with the command that installs it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise PlanError(_FIX, where="OTLP") from None


def check_installed() -> None:
    """Raise `PlanError` with the command that installs the messages, where they are missing."""
    load("opentelemetry.proto.common.v1.common_pb2")
