"""The comparison with the OpenTelemetry Collector: the same client, the same bytes, the same sink.

    python -m tests.bench.peers

OTLP logs come in, those whose route begins with `/debug` are dropped (each tenth), one attribute is added, and OTLP
goes out, over gRPC and uncompressed. The Collector is built of its own Go modules (`collector/`). Client, router and
sink are processes of one machine; with `--cores 1` each process of the
router is kept to one core, and client and sink to the others.
"""
