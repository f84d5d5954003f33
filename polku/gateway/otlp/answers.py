"""Answers of OTLP, as protobuf and as JSON."""

from __future__ import annotations

import msgspec

from polku.batch.varint import varint
from polku.gateway.otlp.service import ExportResult
from polku.otlp.signals import Signal
from polku.otlp.wire import tagged


def accepted_bytes(answer: ExportResult) -> bytes:
    """Return a serialised `Export…ServiceResponse`, which is alike for all signals; empty where all was taken."""
    if not answer.rejected and not answer.message:
        return b""
    text = answer.message.encode()
    partial = b"\x08" + varint(answer.rejected) + tagged(2, len(text)) + text
    return tagged(1, len(partial)) + partial


def accepted_json(signal: Signal, answer: ExportResult) -> bytes:
    """Return the same as JSON."""
    if not answer.rejected and not answer.message:
        return b"{}"
    first, *rest = signal.rejected.split("_")
    name = first + "".join(map(str.title, rest))
    # int64 is a string in protobuf's JSON.
    return msgspec.json.encode({"partialSuccess": {name: str(answer.rejected), "errorMessage": answer.message}})


def status_bytes(code: int, message: str) -> bytes:
    """Return a serialised `google.rpc.Status`, which tells what is wrong with a request of HTTP."""
    text = message.encode()
    return b"\x08" + varint(code) + tagged(2, len(text)) + text


def status_json(code: int, message: str) -> bytes:
    """Return the same as JSON."""
    return msgspec.json.encode({"code": code, "message": message})
