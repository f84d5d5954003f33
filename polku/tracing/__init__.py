"""Traces: one span for each batch and part, made with OpenTelemetry where a pipeline is told to; else nothing of it.

General layout:

- `context` reads and joins what travels with a batch: `traceparent`s, as W3C Trace Context writes them;
- `tracer` makes the spans; it alone, and `export`, import OpenTelemetry;
- `export` sends them by OTLP, as the `OTEL_…` variables say.
"""
