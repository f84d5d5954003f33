"""Send spans by OTLP over HTTP, as OpenTelemetry's own variables say (`OTEL_EXPORTER_OTLP_ENDPOINT` and others)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from polku.errors import SettingError
from polku.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from polku.plan import Plan

WAYS = ("off", "otlp")


def otlp() -> TracerProvider:
    """Return a provider that exports spans in batches; raises `SettingError` where its packages are missing."""
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingError("POLKU_TRACES", "otlp", "needs packages: pip install 'polku[otel]'") from None
    named = os.environ.get("OTEL_SERVICE_NAME") or "polku"
    provider = TracerProvider(resource=Resource.create({"service.name": named, "service.version": __version__}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def still_traced(plan: Plan, before: Plan) -> Plan:
    """Return a plan that stands in for another one, traced as that is where its process's environment says so."""
    return replace(plan, traces=otlp) if plan.traces is None and before.traces is otlp else plan


def traced(plan: Plan, environment: Mapping[str, str]) -> Plan:
    """Return a plan that is traced as `POLKU_TRACES` says, unless it says so itself; raises `SettingError`."""
    way = environment.get("POLKU_TRACES", "").strip().lower() or "off"
    if way not in WAYS:
        raise SettingError("POLKU_TRACES", way, f"choose one of {', '.join(WAYS)}")
    if way == "off" or plan.traces is not None:
        return plan
    otlp().shutdown()  # what is missing is said here, not by a part later on
    return replace(plan, traces=otlp)
