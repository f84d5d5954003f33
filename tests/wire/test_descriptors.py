"""The compiled descriptors say what the wire contract says: clients and plugins in the field rely on every number."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from polku.ahti.v1 import events_pb2
from polku.event.v1 import event_pb2
from polku.v1 import gateway_pb2, plugin_pb2
from tests.wire.contract import Contract, from_module, from_table

EVENT = """
enum Severity {
    0 SEVERITY_UNSPECIFIED; 1 SEVERITY_DEBUG; 2 SEVERITY_INFO; 3 SEVERITY_WARNING; 4 SEVERITY_ERROR;
    5 SEVERITY_CRITICAL;
}
enum Outcome { 0 OUTCOME_UNSPECIFIED; 1 OUTCOME_SUCCESS; 2 OUTCOME_FAILURE; 3 OUTCOME_TIMEOUT; 4 OUTCOME_UNKNOWN; }
message Event {
    1 id string; 2 timestamp_unix_ns int64; 3 source string; 4 event_type string; 5 metadata map<string,string>;
    6 payload bytes; 7 route_to string[]; 10 severity Severity; 11 outcome Outcome; 20 network NetworkEventData @data;
    21 kernel KernelEventData @data; 22 container ContainerEventData @data; 23 k8s K8sEventData @data;
    24 process ProcessEventData @data; 25 resource ResourceEventData @data;
}
message NetworkEventData {
    1 protocol string; 2 src_ip string; 3 dst_ip string; 4 src_port uint32; 5 dst_port uint32; 6 direction string;
    7 dns_query string; 8 dns_response string; 9 http_method string; 10 http_path string; 11 http_status_code int32;
    12 latency_ms double; 13 bytes_sent uint64; 14 bytes_received uint64; 15 rtt_baseline_ms double;
    16 rtt_current_ms double; 17 rtt_degradation_pct double; 18 retransmit_count uint32; 19 tcp_state string;
    20 process_name string; 21 container_id string; 22 pod_name string;
}
message KernelEventData {
    1 event_type string; 2 pid uint32; 3 command string; 4 oom_victim_pid uint32; 5 oom_victim_comm string;
    6 memory_requested uint64; 7 signal uint32; 8 signal_code uint32; 9 syscall_id uint32; 10 syscall_name string;
    11 syscall_retval int64;
}
message ContainerEventData {
    1 container_id string; 2 container_name string; 3 image string; 4 state string; 5 exit_code int32;
    6 restart_count int32; 7 start_time google.protobuf.Timestamp; 8 cpu_usage double; 9 memory_usage uint64;
    10 memory_limit uint64; 11 disk_usage uint64; 12 signal int32; 13 cgroup_path string;
}
message K8sEventData {
    1 resource_type string; 2 resource_name string; 3 namespace string; 4 reason string; 5 message string;
    6 replicas int32; 7 ready_replicas int32; 8 updated_replicas int32; 9 rollout_status string;
}
message ProcessEventData {
    1 pid uint32; 2 ppid uint32; 3 command string; 4 args string; 5 uid uint32; 6 gid uint32; 7 user string;
    8 exit_code int32; 9 start_time google.protobuf.Timestamp; 10 end_time google.protobuf.Timestamp;
}
message ResourceEventData {
    1 resource_type string; 2 node_name string; 3 cpu_usage_pct double; 4 cpu_throttle_pct double;
    5 memory_used uint64; 6 memory_available uint64; 7 memory_pressure double; 8 disk_used uint64;
    9 disk_available uint64; 10 disk_io_utilization double;
}
"""

GATEWAY = """
message IngestBatch { 1 source string; 2 cluster string; 3 raw RawPayload @payload; 4 events EventPayload @payload; }
message RawPayload { 1 data bytes; 2 format string; }
message EventPayload { 1 events polku.event.v1.Event[]; }
message IngestEvent {
    1 source string; 2 cluster string; 3 raw bytes @payload; 4 event polku.event.v1.Event @payload;
    5 format string; 6 events EventPayload @payload;
}
message Ack {
    1 event_ids string[]; 2 errors AckError[]; 3 buffer_size int64; 4 buffer_capacity int64;
    5 middleware_stats MiddlewareStats;
}
message MiddlewareStats {
    1 rate_limited_count int64; 2 sampled_out_count int64; 3 dedup_count int64; 4 filtered_count int64;
    5 buffer_overflow_count int64; 6 total_received int64; 7 total_forwarded int64;
}
message AckError { 1 event_id string; 2 code string; 3 message string; }
message HealthRequest { }
message HealthResponse {
    1 healthy bool; 2 components map<string,ComponentHealth>; 3 uptime_seconds int64; 4 events_processed uint64;
}
message ComponentHealth { 1 healthy bool; 2 message string; }
service Gateway {
    StreamEvents(stream IngestBatch) → stream Ack; SendEvent(IngestEvent) → Ack;
    Health(HealthRequest) → HealthResponse;
}
"""

PLUGIN = """
enum PluginType { 0 PLUGIN_TYPE_UNSPECIFIED; 1 PLUGIN_TYPE_INGESTOR; 2 PLUGIN_TYPE_EMITTER; }
message PluginInfo {
    1 name string; 2 version string; 3 type PluginType; 4 description string; 5 sources string[];
    6 emitter_name string; 7 capabilities string[];
}
message IngestRequest { 1 source string; 2 cluster string; 3 format string; 4 data bytes; }
message IngestResponse { 1 events polku.event.v1.Event[]; 2 errors IngestError[]; }
message IngestError { 1 message string; 2 details string; 3 offset int64; }
message EmitRequest { 1 events polku.event.v1.Event[]; }
message EmitResponse { 1 success_count int64; 2 failed_event_ids string[]; 3 errors EmitError[]; }
message EmitError { 1 event_id string; 2 message string; 3 retryable bool; }
message ShutdownResponse { 1 success bool; 2 message string; }
message PluginHealthResponse { 1 healthy bool; 2 message string; 3 components map<string,bool>; }
message RegisterRequest { 1 info PluginInfo; 2 address string; }
message RegisterResponse { 1 accepted bool; 2 message string; 3 plugin_id string; }
message HeartbeatRequest { 1 plugin_id string; }
message HeartbeatResponse { 1 acknowledged bool; }
message UnregisterRequest { 1 plugin_id string; }
service IngestorPlugin {
    Info(google.protobuf.Empty) → PluginInfo; Health(google.protobuf.Empty) → PluginHealthResponse;
    Ingest(IngestRequest) → IngestResponse;
}
service EmitterPlugin {
    Info(google.protobuf.Empty) → PluginInfo; Health(google.protobuf.Empty) → PluginHealthResponse;
    Emit(EmitRequest) → EmitResponse; Shutdown(google.protobuf.Empty) → ShutdownResponse;
}
service PluginRegistry {
    Register(RegisterRequest) → RegisterResponse; Heartbeat(HeartbeatRequest) → HeartbeatResponse;
    Unregister(UnregisterRequest) → google.protobuf.Empty;
}
"""

AHTI = """
enum EventType {
    0 EVENT_TYPE_UNSPECIFIED; 1 EVENT_TYPE_NETWORK; 2 EVENT_TYPE_KERNEL; 3 EVENT_TYPE_CONTAINER;
    4 EVENT_TYPE_DEPLOYMENT; 5 EVENT_TYPE_POD; 6 EVENT_TYPE_SERVICE; 7 EVENT_TYPE_VOLUME; 8 EVENT_TYPE_CONFIG;
    9 EVENT_TYPE_HEALTH; 10 EVENT_TYPE_PERFORMANCE; 11 EVENT_TYPE_RESOURCE; 12 EVENT_TYPE_CLUSTER;
    13 EVENT_TYPE_SIGNAL;
}
enum Severity {
    0 SEVERITY_UNSPECIFIED; 1 SEVERITY_DEBUG; 2 SEVERITY_INFO; 3 SEVERITY_WARNING; 4 SEVERITY_ERROR;
    5 SEVERITY_CRITICAL;
}
enum Outcome { 0 OUTCOME_UNSPECIFIED; 1 OUTCOME_SUCCESS; 2 OUTCOME_FAILURE; 3 OUTCOME_TIMEOUT; 4 OUTCOME_UNKNOWN; }
enum EntityType {
    0 ENTITY_TYPE_UNSPECIFIED; 1 ENTITY_TYPE_POD; 2 ENTITY_TYPE_CONTAINER; 3 ENTITY_TYPE_NODE;
    4 ENTITY_TYPE_DEPLOYMENT; 5 ENTITY_TYPE_STATEFULSET; 6 ENTITY_TYPE_DAEMONSET; 7 ENTITY_TYPE_SERVICE;
    8 ENTITY_TYPE_ENDPOINT; 9 ENTITY_TYPE_CONFIGMAP; 10 ENTITY_TYPE_SECRET; 11 ENTITY_TYPE_PVC;
    12 ENTITY_TYPE_NAMESPACE;
}
enum EntityState { 0 ENTITY_STATE_UNSPECIFIED; 1 ENTITY_STATE_ACTIVE; 2 ENTITY_STATE_DELETED; }
enum RelationshipType {
    0 RELATIONSHIP_TYPE_UNSPECIFIED; 1 RELATIONSHIP_TYPE_CONNECTS_TO; 2 RELATIONSHIP_TYPE_DEPENDS_ON;
    3 RELATIONSHIP_TYPE_OWNS; 4 RELATIONSHIP_TYPE_EXPOSES; 5 RELATIONSHIP_TYPE_MOUNTS;
    6 RELATIONSHIP_TYPE_SCHEDULED_ON; 7 RELATIONSHIP_TYPE_MANAGES; 8 RELATIONSHIP_TYPE_USES;
    9 RELATIONSHIP_TYPE_CAUSES;
}
enum RelationshipState {
    0 RELATIONSHIP_STATE_UNSPECIFIED; 1 RELATIONSHIP_STATE_ACTIVE; 2 RELATIONSHIP_STATE_DELETED;
}
enum SpanKind {
    0 SPAN_KIND_UNSPECIFIED; 1 SPAN_KIND_INTERNAL; 2 SPAN_KIND_SERVER; 3 SPAN_KIND_CLIENT; 4 SPAN_KIND_PRODUCER;
    5 SPAN_KIND_CONSUMER;
}
message AhtiEvent {
    1 id string; 2 timestamp google.protobuf.Timestamp; 3 type EventType; 4 subtype string; 5 severity Severity;
    6 outcome Outcome; 7 source string; 8 trace_id string; 9 span_id string; 10 parent_span_id string;
    11 duration_us uint64; 12 entities Entity[]; 13 relationships Relationship[]; 14 cluster string;
    15 namespace string; 16 labels map<string,string>; 17 error EventError; 20 network NetworkEventData @data;
    21 kernel KernelEventData @data; 22 container ContainerEventData @data; 23 k8s K8sEventData @data;
    24 process ProcessEventData @data; 25 resource ResourceEventData @data;
    26 signal_context SignalContextEvent @data; 27 otel OTelEventData @data;
}
message Entity {
    1 type EntityType; 2 id string; 3 name string; 4 cluster_id string; 5 namespace string;
    6 labels map<string,string>; 7 attributes map<string,string>; 8 generation int64; 9 state EntityState;
    10 deleted_at google.protobuf.Timestamp; 11 delete_reason string;
}
message Relationship {
    1 type RelationshipType; 2 source EntityReference; 3 target EntityReference; 4 labels map<string,string>;
    5 generation int64; 6 state RelationshipState; 7 deleted_at google.protobuf.Timestamp; 8 delete_reason string;
    9 created_at google.protobuf.Timestamp;
}
message EntityReference { 1 type EntityType; 2 id string; 3 cluster_id string; }
message EventError { 1 code string; 2 message string; 3 details map<string,string>; }
message NetworkEventData {
    1 protocol string; 2 src_ip string; 3 dst_ip string; 4 src_port uint32; 5 dst_port uint32; 6 direction string;
    7 dns_query string; 8 dns_response string; 9 http_method string; 10 http_path string; 11 http_status_code int32;
    12 latency_ms double; 13 bytes_sent uint64; 14 bytes_received uint64; 15 rtt_baseline_ms double;
    16 rtt_current_ms double; 17 rtt_degradation_pct double; 18 retransmit_count uint32; 19 tcp_state string;
    20 process_name string; 21 container_id string; 22 pod_name string;
}
message KernelEventData {
    1 event_type string; 2 pid uint32; 3 command string; 4 oom_victim_pid uint32; 5 oom_victim_comm string;
    6 memory_requested uint64; 7 signal uint32; 8 signal_code uint32; 9 syscall_id uint32; 10 syscall_name string;
    11 syscall_retval int64;
}
message ContainerEventData {
    1 container_id string; 2 container_name string; 3 image string; 4 state string; 5 exit_code int32;
    6 restart_count int32; 7 start_time google.protobuf.Timestamp; 8 cpu_usage double; 9 memory_usage uint64;
    10 memory_limit uint64; 11 disk_usage uint64; 12 signal int32; 13 cgroup_path string;
}
message K8sEventData {
    1 resource_type string; 2 resource_name string; 3 namespace string; 4 reason string; 5 message string;
    6 replicas int32; 7 ready_replicas int32; 8 updated_replicas int32; 9 rollout_status string;
}
message ProcessEventData {
    1 pid uint32; 2 ppid uint32; 3 command string; 4 args string; 5 uid uint32; 6 gid uint32; 7 user string;
    8 exit_code int32; 9 start_time google.protobuf.Timestamp; 10 end_time google.protobuf.Timestamp;
}
message ResourceEventData {
    1 resource_type string; 2 node_name string; 3 cpu_usage_pct double; 4 cpu_throttle_pct double;
    5 memory_used uint64; 6 memory_available uint64; 7 memory_pressure double; 8 disk_used uint64;
    9 disk_available uint64; 10 disk_io_utilization double;
}
message SignalContextEvent {
    1 linked_event_id string; 2 query_time google.protobuf.Timestamp; 3 window google.protobuf.Duration;
    4 signals SignalSnapshot[];
}
message SignalSnapshot {
    1 metric_name string; 2 labels map<string,string>; 3 datapoints SignalDataPoint[]; 4 is_anomaly bool;
    5 anomaly_score double; 6 anomaly_type string;
}
message SignalDataPoint { 1 timestamp google.protobuf.Timestamp; 2 value double; }
message OTelEventData {
    1 service_name string; 2 service_version string; 3 service_namespace string; 4 operation_name string;
    5 span_kind SpanKind; 6 status_code string; 7 status_message string; 8 duration_ms double; 10 http_method string;
    11 http_url string; 12 http_route string; 13 http_status_code int32; 20 db_system string; 21 db_name string;
    22 db_operation string; 23 db_statement string; 30 rpc_system string; 31 rpc_service string; 32 rpc_method string;
    40 messaging_system string; 41 messaging_destination string; 42 messaging_operation string;
    50 exception_type string; 51 exception_message string; 52 exception_stacktrace string; 60 sample_reason string;
    70 attributes map<string,string>; 80 links SpanLink[];
}
message SpanLink { 1 trace_id string; 2 span_id string; 3 trace_state string; 4 attributes map<string,string>; }
message AhtiEventBatch { 1 events AhtiEvent[]; }
message AhtiAck { 1 event_ids string[]; 2 success bool; 3 error string; }
message AhtiHealthRequest { }
message AhtiHealthResponse { 1 healthy bool; 2 version string; }
service AhtiService {
    SendEvent(AhtiEvent) → AhtiAck; StreamEvents(stream AhtiEventBatch) → stream AhtiAck;
    Health(AhtiHealthRequest) → AhtiHealthResponse;
}
"""

FILES = [
    pytest.param(event_pb2, EVENT, "polku/event/v1/event.proto", "polku.event.v1", id="event"),
    pytest.param(gateway_pb2, GATEWAY, "polku/v1/gateway.proto", "polku.v1", id="gateway"),
    pytest.param(plugin_pb2, PLUGIN, "polku/v1/plugin.proto", "polku.v1", id="plugin"),
    pytest.param(events_pb2, AHTI, "polku/ahti/v1/events.proto", "ahti.v1", id="ahti"),
]
PAGE = Path(__file__).resolve().parents[3] / "shared" / "WIRE.md"


@pytest.mark.parametrize(("module", "table", "path", "package"), FILES)
def test_descriptors_are_those_of_the_contract(module: ModuleType, table: str, path: str, package: str) -> None:
    compiled, wanted = from_module(module), from_table(table)

    assert (module.DESCRIPTOR.name, module.DESCRIPTOR.package) == (path, package)
    assert compiled.enums == wanted.enums
    assert compiled.messages == wanted.messages
    assert compiled.services == wanted.services


def test_a_changed_number_type_label_oneof_or_streaming_flag_is_seen() -> None:
    wanted = from_table(GATEWAY)

    for before, after in [
        ("2 format string", "3 format string"),
        ("2 format string", "2 format bytes"),
        ("1 event_ids string[]", "1 event_ids string"),
        ("4 events EventPayload @payload", "4 events EventPayload"),
        ("→ stream Ack", "→ Ack"),
        ("message HealthRequest { }", ""),
    ]:
        assert before in GATEWAY
        assert from_table(GATEWAY.replace(before, after, 1)) != wanted


def test_the_typed_messages_are_the_same_in_both_packages() -> None:
    event, ahti = from_module(event_pb2), from_module(events_pb2)
    typed = [name for name in event.messages if name != "Event"]

    assert len(typed) == 6
    assert {name: event.messages[name] for name in typed} == {name: ahti.messages[name] for name in typed}


@pytest.mark.skipif(not PAGE.exists(), reason="the contract's own page does not stand beside the checkout")
def test_descriptors_are_those_of_the_contracts_own_page() -> None:
    event, gateway, plugin, ahti = _read_page(PAGE.read_text(encoding="utf-8"))
    gateway.messages["IngestEvent"][6] = ("events", "EventPayload", "payload")

    assert from_module(event_pb2) == event
    assert from_module(gateway_pb2) == gateway
    assert from_module(plugin_pb2) == plugin
    assert from_module(events_pb2) == ahti


def _read_page(text: str) -> list[Contract]:
    """Turn each package's section of the page into a table; lines that are prose are left out."""
    text = text.split("\n# ")[0]
    sections = re.split(r"^## package `([\w.]+)`$", text, flags=re.MULTILINE)[1:]
    return [from_table(_section(body, package)) for package, body in zip(sections[::2], sections[1::2], strict=True)]


def _section(body: str, package: str) -> str:
    lines = body.replace(f"{package}.", "").splitlines()
    return "\n".join(_enum(line) or _message(line) or _service(line) for line in lines)


def _enum(line: str) -> str:
    match = re.match(r"- enum `(\w+)`: (.*)$", line)
    return f"enum {match[1]} {{ {match[2].replace(',', ';')} }}" if match else ""


def _message(line: str) -> str:
    match = re.match(r"- `(\w+)` \{(.*)\}$", line)
    if not match:
        return ""
    fields = match[2].replace(":", "").replace("∈ ", "@")
    fields = re.sub(r"repeated ([^ ;]+)", r"\1[]", fields)
    return f"message {match[1]} {{{fields}}}"


def _service(line: str) -> str:
    match = re.match(r"service \*\*(\w+)\*\*: (.*)$", line)
    return f"service {match[1]} {{ {match[2].replace('`', '')} }}" if match else ""
