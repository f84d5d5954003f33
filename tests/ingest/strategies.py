"""Any event, for property tests: every field of the schema, typed data included."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import strategies as st

from polku.event.v1.event_pb2 import Event

TEXT = st.text(max_size=12)
_YEAR_1, _YEAR_9999 = -62135596800, 253402300799

_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.CPPTYPE_STRING: TEXT,
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(allow_nan=False) | st.just(float("nan")),  # JSON has one NaN
    FieldDescriptor.CPPTYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.CPPTYPE_MESSAGE: st.builds(
        Timestamp, seconds=st.integers(_YEAR_1, _YEAR_9999), nanos=st.integers(0, 999_999_999)
    ),
}


def _typed_data(kind: str, descriptor: Descriptor | None) -> st.SearchStrategy[dict[str, Any]]:
    assert descriptor is not None
    fields = {f.name: _SCALARS[f.cpp_type] for f in descriptor.fields}
    return st.fixed_dictionaries({kind: st.fixed_dictionaries({}, optional=fields)})


_DATA = st.one_of(
    st.just({}),
    *(_typed_data(f.name, f.message_type) for f in Event.DESCRIPTOR.oneofs_by_name["data"].fields),
)

EVENTS: st.SearchStrategy[Event] = st.builds(
    lambda fields, data: Event(**fields, **data),
    st.fixed_dictionaries(
        {},
        optional={
            "id": TEXT,
            "timestamp_unix_ns": st.integers(-(2**63), 2**63 - 1),
            "source": TEXT,
            "event_type": TEXT,
            "metadata": st.dictionaries(TEXT, TEXT, max_size=3),
            "payload": st.binary(max_size=12),
            "route_to": st.lists(TEXT, max_size=3),
            "severity": st.integers(-2, 7),
            "outcome": st.integers(0, 6),
        },
    ),
    _DATA,
)
