"""The requests of the comparison: log records, of which each tenth is to be dropped, and which can be told apart."""

from __future__ import annotations

import re

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import SeverityNumber

DROPPED_EACH = 10
METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"
_NS = 1_800_000_000_000_000_000
_MARK = b"#" + b"_" * 10
_NUMBER = re.compile(rb"#(\d{10}\.\d{4})")


class Requests:
    """Make requests of `batch` records of about `size` bytes each."""

    def __init__(self, batch: int, size: int) -> None:
        self.batch = batch
        self._template = _request(batch, size)

    def request(self, number: int) -> bytes:
        """Return the request of a number, serialised."""
        return self._template.replace(_MARK, b"#%010d" % number)

    def kept(self, number: int) -> set[bytes]:
        """Return what `numbers_in` finds of a request that was delivered."""
        return {b"%010d.%04d" % (number, place) for place in range(self.batch) if place % DROPPED_EACH}

    @property
    def kept_each(self) -> int:
        """How many records of a request are to be delivered."""
        return sum(1 for place in range(self.batch) if place % DROPPED_EACH)


def numbers_in(request: bytes) -> list[bytes]:
    """Return the numbers of the records in a request: `0000000012.0034` is the 34th of the twelfth."""
    return _NUMBER.findall(request)


def _request(batch: int, size: int) -> bytes:
    request = ExportLogsServiceRequest()
    resource = request.resource_logs.add()
    for key, value in {"service.name": "shop", "host.name": "node-17", "k8s.cluster.name": "prod-eu"}.items():
        resource.resource.attributes.add(key=key).value.string_value = value
    scope = resource.scope_logs.add()
    scope.scope.name = "shop.http"
    for place in range(batch):
        record = scope.log_records.add(time_unix_nano=_NS + place, observed_time_unix_nano=_NS + place)
        record.severity_number, record.severity_text = SeverityNumber.SEVERITY_NUMBER_INFO, "INFO"
        route = "/orders/{id}" if place % DROPPED_EACH else "/debug/health"
        record.attributes.add(key="http.route").value.string_value = route
        record.attributes.add(key="http.request.method").value.string_value = "GET"
        record.attributes.add(key="user.id").value.string_value = f"user-{place % 97:04d}"
        record.body.string_value = f"{_MARK.decode()}.{place:04d} served in 12 ms"
        record.body.string_value += "x" * max(0, size - record.ByteSize() - 2)
    return request.SerializeToString()
