import base64
import json
import pickle
from collections.abc import Callable, Sequence

import pytest
from google.protobuf.json_format import MessageToJson
from hypothesis import example, given
from hypothesis import strategies as st

from polku.codes import Code
from polku.contracts import IngestContext
from polku.errors import RecordError
from polku.event.v1.event_pb2 import Event, Outcome, Severity
from polku.ingest import JsonIngestor
from tests.ingest.strategies import EVENTS
from tests.support.examples import examples

Results = Sequence[Event | RecordError]


def ingest(data: bytes | str, format: str = "", source: str = "json") -> Results:
    raw = data.encode() if isinstance(data, str) else data
    return list(JsonIngestor().ingest(raw, IngestContext(source, "", format)))


def event(data: bytes | str) -> Event:
    (result,) = ingest(data)
    assert isinstance(result, Event), result
    return result


def error(data: bytes | str, format: str = "") -> RecordError:
    (result,) = ingest(data, format)
    assert isinstance(result, RecordError), result
    return result


def shown(results: Results) -> list[str]:
    return [result.id if isinstance(result, Event) else "!" for result in results]


@examples(100)
@given(EVENTS, st.booleans(), st.sampled_from([None, 2]))
def test_any_event_is_read_back_from_protobufs_own_json(
    given_event: Event, snake_case: bool, indent: int | None
) -> None:
    text = MessageToJson(given_event, preserving_proto_field_name=snake_case, indent=indent)
    assert event(text).SerializeToString(deterministic=True) == given_event.SerializeToString(deterministic=True)


_PIECES = [
    b'"id":"x"',
    b"1e999",
    b"null",
    b"NaN",
    b'"network":{"src_port":',
    b'"payload":',
    b'"metadata":',
    b'"\\ud800"',
]
_TOKENS = st.lists(st.sampled_from([*_PIECES, *(bytes([byte]) for byte in b'{}[],:"\\\n -9a\xff')])).map(b"".join)


@examples(400)
@given(st.one_of(st.binary(max_size=200), _TOKENS), st.sampled_from(["", "json", "ndjson", "x"]))
@example(b"[" * 10_000 + b"]" * 10_000, "")
@example(b'{"metadata":' * 10_000, "")
@example(b'{"id":' + b"9" * 10_000 + b"}", "")
@example(b'{"id":"a","network":' + b"[" * 900 + b"]" * 900 + b',"network":{}}', "")
@example(b'{"source":' + b"9" * 5_000 + b',"source":"a"}', "")
def test_no_bytes_make_it_raise(data: bytes, format: str) -> None:
    for result in ingest(data, format):
        assert isinstance(result, (Event, RecordError))
        if isinstance(result, RecordError):
            assert result.code is Code.INVALID_RECORD
            assert len(str(result)) < 1_500
            assert 0 <= (result.offset or 0) <= len(data)


def test_an_object_an_array_and_lines_are_told_apart() -> None:
    assert shown(ingest('{"id": "a"}')) == ["a"]
    assert shown(ingest('{\n  "id": "a"\n}\n')) == ["a"]
    assert shown(ingest(' [{"id": "a"},\n {"id": "b"}]')) == ["a", "b"]
    assert shown(ingest('{"id": "a"}\n\r\n{"id": "b"}\r\n')) == ["a", "b"]
    assert shown(ingest("[]")) == []
    assert shown(ingest("", "ndjson")) == []


def test_the_format_hint_goes_before_the_source() -> None:
    pretty = '{\n"id": "a"\n}'
    assert shown(ingest(pretty, "json", source="ndjson")) == ["a"]
    assert shown(ingest(pretty, source="ndjson")) == ["!", "!", "!"]
    assert shown(ingest(pretty, "jsonl")) == ["!", "!", "!"]


def test_a_byte_order_mark_is_no_part_of_the_data() -> None:
    for data in (b'{"id": "a"}', b'[{"id": "a"}]', b'{"id": "a"}\n{"id": "b"}'):
        assert shown(ingest(b"\xef\xbb\xbf" + data))[0] == "a"


def test_a_broken_line_is_named_by_line_and_offset_and_the_others_pass() -> None:
    lines = ['{"id": "a"}', '{"id": "b"}', '{"id": "c",', '{"id": "d"}', '{"id": "e"}']
    for format in ("", "ndjson"):
        results = ingest("\n".join(lines), format)
        assert shown(results) == ["a", "b", "!", "d", "e"]
        assert isinstance(results[2], RecordError)
        assert (results[2].line, results[2].offset) == (3, 24 + len(lines[2]))
        assert str(results[2]).startswith("line 3: not JSON: it ends too early")


def test_lines_are_recognised_though_the_first_one_is_broken() -> None:
    assert shown(ingest('{"id": \n{"id": "b"}\n')) == ["!", "b"]


def test_a_bad_record_of_an_array_is_named_by_index_and_offset_and_the_others_pass() -> None:
    (first, bad, last) = ingest('[{"id": "a"}, {"id": "b", "severity": "hot"}, {"id": "c"}]')
    assert isinstance(bad, RecordError)
    assert (bad.event_id, bad.offset, bad.line) == ("b", 14, None)
    assert str(bad).startswith("[1]: severity='hot': is not known; choose one of unspecified, debug, info")
    assert shown([first, last]) == ["a", "c"]


def test_what_is_not_json_in_an_array_costs_only_its_record() -> None:
    assert shown(ingest('[{"id": "a"}, {"id": tru}, {"id": "c", "metadata": {"x": "],{"}}]')) == ["a", "!", "c"]
    assert shown(ingest('[{"id": "a"}, {"id": "b"')) == ["a", "!"]
    assert shown(ingest('[{"id": "a"}, {"id": "b}, {"id": "c"}]')) == ["a", "!"]
    assert shown(ingest('[{"id": "a"},]')) == ["a", "!"]
    assert shown(ingest('[{"id": "a"}] rest')) == ["a", "!"]


def test_after_a_thousand_bad_records_the_rest_is_refused_unread() -> None:
    results = ingest("1\n" * 5_000 + '{"id": "a"}', "ndjson")
    assert len(results) == 1_001
    assert str(results[-1]) == "line 1001: 1000 records before this one are bad; this one and the rest were not read"


@pytest.mark.parametrize("value", ["SEVERITY_ERROR", "severity_error", "Error", "error", 4, 4.0])
def test_enums_are_names_in_any_case_or_numbers(value: str | float) -> None:
    if isinstance(value, float):
        assert "severity=4.0" in str(error(json.dumps({"severity": value})))
    else:
        assert event(json.dumps({"severity": value})).severity == Severity.SEVERITY_ERROR


def test_fields_are_snake_case_or_camel_case() -> None:
    snake = event('{"event_type": "t", "timestamp_unix_ns": 5, "route_to": ["x"], "outcome": "timeout"}')
    assert event('{"eventType": "t", "timestampUnixNs": "5", "routeTo": ["x"], "outcome": 3}') == snake
    assert snake.outcome == Outcome.OUTCOME_TIMEOUT


def test_typed_data_stands_under_its_name_in_either_style() -> None:
    data = event('{"container": {"containerId": "c", "memory_usage": "18446744073709551615", "cpuUsage": "NaN"}}')
    assert (data.container.container_id, data.container.memory_usage) == ("c", 2**64 - 1)
    assert data.container.cpu_usage != data.container.cpu_usage
    assert event('{"process": {"end_time": "2024-05-01T12:00:00.5+02:00"}}').process.end_time.nanos == 500_000_000
    assert event('{"network": {}}').WhichOneof("data") == "network"


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_payloads_are_base64_of_either_alphabet_with_or_without_padding(encode: Callable[[bytes], bytes]) -> None:
    for payload in (b"", b"\xfb\xff", b"\xfb\xff\xfe", b"1234"):
        text = encode(payload).decode()
        assert event(json.dumps({"payload": text})).payload == payload
        assert event(json.dumps({"payload": text.rstrip("=")})).payload == payload


def test_null_means_absent() -> None:
    assert event('{"id": null, "severity": null, "network": null, "metadata": {"a": null, "b": "c"}}') == Event(
        metadata={"b": "c"}
    )


def test_colons_in_strings_are_no_second_fields() -> None:
    url = "http://x:80/\\u003a"
    assert event(json.dumps({"id": "a:b", "metadata": {"u:v": url}})).metadata["u:v"] == url


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "not JSON: there is no record"),
        ("5", "record=5: is a number, must be an object"),
        ('{"id": ""}', "id='': is empty; leave it out to have an id made, or give a unique string"),
        ('{"id": 5}', "id=5: is a number, must be a string"),
        ('{"source": true}', "source=True: is true or false, must be a string"),
        ('{"severty": "info"}', "severty='info': Event has no such field; did you mean 'severity'?"),
        ('{"data": {}}', "data={}: Event has no such field; typed data stands under its own name"),
        ('{"timestamp": 1}', "did you mean 'timestamp_unix_ns'?"),
        ('{"outcome": "great"}', "outcome='great': is not known; choose one of unspecified, success, failure"),
        ('{"severity": 99999999999}', "severity=99999999999: is out of range; an enum is a signed 32-bit number"),
        ('{"severity": true}', "severity=True: is not known"),
        ('{"payload": "@@@@"}', "payload='@@@@': is not base64 (Only base64 data is allowed)"),
        ('{"payload": [1, 2]}', "payload=[1, 2]: is an array, must be a string of base64"),
        ('{"timestamp_unix_ns": 9223372036854775808}', "is out of range; it must be a signed 64-bit number"),
        ('{"timestamp_unix_ns": "yesterday"}', "timestamp_unix_ns='yesterday': must be a whole number"),
        ('{"timestamp_unix_ns": 1.5}', "timestamp_unix_ns=1.5: must be a whole number"),
        ('{"timestamp_unix_ns": true}', "timestamp_unix_ns=True: must be a whole number"),
        ('{"metadata": []}', "metadata=[]: is an array, must be an object of strings"),
        ('{"metadata": {"a": 1}}', "metadata['a']=1: is a number, must be a string"),
        ('{"route_to": "x"}', "route_to='x': is a string, must be an array of strings"),
        ('{"route_to": ["x", 5]}', "route_to[1]=5: is a number, must be a string"),
        ('{"network": 5}', "network=5: is a number, must be an object: the fields of NetworkEventData"),
        ('{"network": {"src_port": -1}}', "network.src_port=-1: is out of range; it must be an unsigned 32-bit number"),
        ('{"network": {"latency_ms": "1e999"}}', "network.latency_ms='1e999': is out of range"),
        ('{"network": {"bogus": 1}}', "network.bogus=1: NetworkEventData has no such field"),
        ('{"network": {}, "kernel": {}}', "kernel={}: an event carries one kind of typed data, and 'network' is there"),
        ('{"process": {"start_time": "soon"}}', "process.start_time='soon': is no time; write it as '2024-05-01T12"),
        ('{"event_type": "a", "eventType": "b"}', "eventType='b': appears twice, also as 'event_type'"),
        ('{"id": "a", "id": "b"}', "id='b': stands 2 times in one object"),
        ('{"id": "a", "metadata": {"k": "1", "k": "2"}}', "k='2': stands 2 times in one object"),
        ('{"severity": NaN}', "not JSON: invalid character at byte 13"),
        ('{"a": ' * 10_000, "nested too deeply"),
        ('{"id": "a"} {"id": "b"}', "not JSON: trailing characters at byte 12"),
    ],
)
def test_a_mistake_is_named_with_field_value_and_fix(data: str | bytes, message: str) -> None:
    assert message in str(error(data))


def test_bytes_that_are_not_utf_8_are_found() -> None:
    assert "not UTF-8: byte 0xff at byte 8" in str(error(b'{"id": "\xff"}'))
    assert error(b'[{"id": "\xff"}]').offset == 9


def test_a_mistake_in_a_readable_object_names_its_event_and_a_broken_one_its_line() -> None:
    assert error('{"id": "a", "bogus": 1}').event_id == "a"
    assert error('{\n  "id": "a",\n  "source" "x"\n}').line == 3


def test_long_values_are_shortened() -> None:
    assert len(str(error(json.dumps({"x" * 10_000: "y" * 10_000})))) < 500


def test_large_objects_are_shown_by_their_first_names() -> None:
    text = str(error(json.dumps({"id": {f"{number}": number for number in range(9, 0, -1)}})))
    assert text.startswith("id={'6': 6, '7': 7, '8': 8, '9': 9, ...}: is an object, must be a string")
    assert str(error('{"id": {"b": {}, "a": 1}}')).startswith("id={'a': 1, 'b': {}}: is an object")


def test_very_many_entries_of_metadata_are_refused_before_they_are_filled_in() -> None:
    many = {f"{number}": "" for number in range(100_001)}
    assert "more than 10000 names, more than any gateway takes" in str(error(json.dumps({"metadata": many})))


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({"route_to": ["a" * 300] * 300}, "route_to="),
        ({"metadata": {"k": ["a" * 300] * 300}}, "metadata.k="),
        ({"metadata": {"k": "v"}, "payload": "§" * 70_000}, "payload="),
    ],
    ids=["a list", "a list inside", "no base64"],
)
def test_what_is_too_large_in_a_large_record_is_named(record: dict[str, object], fault: str) -> None:
    assert fault in str(error(json.dumps(record)))


def test_a_large_record_is_read_as_a_small_one() -> None:
    metadata = {"k:": '":"' * 30_000, "é": "ü"}
    read = event(json.dumps({"id": "a", "metadata": metadata, "payload": "eHh4" * 20_000, "severity": "info"}))
    assert (read.id, read.payload, read.severity) == ("a", b"xxx" * 20_000, Severity.SEVERITY_INFO)
    assert dict(read.metadata) == metadata


@pytest.mark.parametrize("end", [b"}", b'"\xff"}', b"1}x"])
def test_a_large_record_that_is_no_json_is_refused(end: bytes) -> None:
    text = str(error(b'{"metadata":{"k":"%s"},"id":%s' % (b"v" * 70_000, end)))
    assert "not JSON" in text or "not UTF-8" in text


def test_it_is_a_plain_value() -> None:
    assert JsonIngestor.sources == ("json", "ndjson", "json-lines")
    assert pickle.loads(pickle.dumps(JsonIngestor())) == JsonIngestor()
