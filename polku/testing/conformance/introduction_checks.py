"""Check what both kinds of plugins have: Info and Health."""

from __future__ import annotations

from polku.external.info_checks import routing_name
from polku.testing.conformance.findings import Finding, fails, holds, note
from polku.testing.conformance.probe import Probe, ProbeReply
from polku.v1.plugin_pb2 import PLUGIN_TYPE_INGESTOR, PluginHealthResponse, PluginInfo, PluginType

SLOW = 1.0


def judge_info(answer: ProbeReply, wanted: PluginType.ValueType) -> list[Finding]:
    """Judge the answer to Info."""
    if not answer.came:
        return [fails("Info", answer.error, "return a PluginInfo, at once and without looking anything up")]
    info: PluginInfo = answer.message
    findings = []
    name = "PLUGIN_TYPE_INGESTOR" if wanted == PLUGIN_TYPE_INGESTOR else "PLUGIN_TYPE_EMITTER"
    if info.type != wanted:
        findings.append(fails("Info.type", f"{info.type}", f"set type={name}: this service answers here"))
    if not info.name:
        findings.append(fails("Info.name", "empty", "set a name, unique among the plugins of a gateway"))
    if wanted == PLUGIN_TYPE_INGESTOR and not [source for source in info.sources if source]:
        findings.append(fails("Info.sources", f"{list(info.sources)}", "name the sources that it serves"))
    if not info.version:
        findings.append(note("Info.version", "empty", "set it: it stands in the gateway's Health"))
    if not findings:
        served = f"sources {', '.join(info.sources)}" if info.sources else f"emitter {routing_name(info)}"
        findings.append(holds("Info", f"{info.name} {info.version}, {served}"))
    return findings


async def check_health(probe: Probe, service: str, check: str) -> Finding:
    """Ask for Health and judge it."""
    answer = await probe.call(service, "Health", b"", PluginHealthResponse)
    if not answer.came:
        return fails(check, answer.error, "return PluginHealthResponse(healthy=True), at once")
    if not answer.message.healthy:
        return fails(check, f"healthy=false: {answer.message.message}", "set healthy=true while it can take requests")
    if answer.seconds > SLOW:
        return note(check, f"took {answer.seconds:.1f} s", "answer from what is known; look things up beside it")
    return holds(check, f"healthy, {answer.seconds * 1000:.1f} ms")
