"""Check a running plugin against the whole contract."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc

from polku.aio import loop_thread
from polku.external.connection import PluginConnection
from polku.security.client_tls import Certificate, Pem
from polku.testing.conformance.emitter_checks import EmitterChecks
from polku.testing.conformance.findings import Finding, Report, fails
from polku.testing.conformance.ingestor_checks import IngestorChecks
from polku.testing.conformance.introduction_checks import judge_info
from polku.testing.conformance.probe import Probe
from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PLUGIN_TYPE_INGESTOR, PluginInfo

_KINDS = {"IngestorPlugin": PLUGIN_TYPE_INGESTOR, "EmitterPlugin": PLUGIN_TYPE_EMITTER}


def check_plugin(
    address: str,
    *,
    sample: bytes | None = None,
    form: str = "",
    timeout: float = 5.0,
    shutdown: bool = True,
    root_certificates: Pem | None = None,
    certificate: Certificate | None = None,
    token: str | None = None,
) -> Report:
    """Call a running plugin as the router would and report what holds and what does not; blocks for some seconds.

    `sample` is input that an ingestor can read, sent with `form` as its format; without one it is a line of JSON. An
    emitter gets events of type `polku.check`, which it will deliver, and at the end, with `shutdown`, Shutdown.
    Raises `PlanError` for an address that cannot be one.
    """
    connection = PluginConnection(
        where="plugin check",
        address=address,
        timeout=timeout,
        root_certificates=root_certificates,
        certificate=certificate,
        token=token,
    )

    async def examine() -> Report:
        findings = [finding async for finding in _examine(connection, sample, form, shutdown)]
        return Report(address, tuple(findings))

    return loop_thread.submit(examine()).result()


def assert_plugin(address: str, *, sample: bytes | None = None, form: str = "", timeout: float = 5.0) -> None:
    """Raise `AssertionError` with the whole table unless the plugin keeps the contract."""
    report = check_plugin(address, sample=sample, form=form, timeout=timeout)
    if not report.ok:
        raise AssertionError(str(report))


async def _examine(
    connection: PluginConnection, sample: bytes | None, form: str, shutdown: bool
) -> AsyncIterator[Finding]:
    probe = Probe(connection)
    try:
        kinds = 0
        for service, wanted in _KINDS.items():
            answer = await probe.call(service, "Info", b"", PluginInfo)
            if answer.status is grpc.StatusCode.UNIMPLEMENTED:
                continue
            if answer.status is grpc.StatusCode.UNAVAILABLE:
                yield fails("connect", answer.error, "is it running, and listening on this address?")
                return
            kinds += 1
            for finding in judge_info(answer, wanted):
                yield finding
            if answer.came:
                ingestor = IngestorChecks(probe, answer.message, sample, form)
                checks = ingestor if wanted == PLUGIN_TYPE_INGESTOR else EmitterChecks(probe, shutdown=shutdown)
                async for finding in checks.run():
                    yield finding
        if not kinds:
            seen = "neither polku.v1.IngestorPlugin nor polku.v1.EmitterPlugin is served there"
            yield fails("services", seen, "serve one of them, with the names and package of plugin.proto")
    finally:
        await probe.close()
