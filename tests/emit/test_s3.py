"""The S3Emitter on the local file system: formats, names, refusals, bad configurations."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from polku import (
    Batch,
    Event,
    Failure,
    MisconfiguredError,
    PlanError,
    RejectedError,
    RetryableError,
    S3Emitter,
    new_event,
)
from polku.clock import SystemClock
from polku.contracts import IngestContext
from polku.emit.s3.objects import explain
from polku.event.v1.event_pb2 import Outcome, Severity
from polku.ingest import JsonIngestor

NOON = 1_700_049_600_000_000_000


def full() -> Event:
    event = Event(id="a", event_type="t", source="s", timestamp_unix_ns=NOON, payload=b"\x00\xff")
    event.severity, event.outcome = Severity.SEVERITY_ERROR, Outcome.OUTCOME_SUCCESS
    event.metadata["k"] = "v"
    event.network.src_ip = "10.0.0.1"
    return event


def many(count: int = 300, **fields: Any) -> list[Event]:
    return [Event(**{"id": f"{n:04d}", "source": "s", "timestamp_unix_ns": NOON + n, **fields}) for n in range(count)]


async def emit(config: S3Emitter, *events: Event) -> list[Failure]:
    running = config.build(SystemClock())
    running.start()
    return await running.emit(Batch.from_events(events))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def url(tmp_path: Path) -> str:
    return (tmp_path / "out put").as_uri()


COMPRESSIONS = pytest.mark.parametrize(
    ("compression", "ending", "decompress"),
    [("none", "", lambda data: data), ("gzip", ".gz", gzip.decompress), ("zstd", ".zst", zstd.decompress)],
)


@COMPRESSIONS
async def test_ndjson_is_what_the_json_ingestor_reads(
    url: str, tmp_path: Path, compression: str, ending: str, decompress: Callable[[bytes], bytes]
) -> None:
    events = [full(), *many()]
    assert await emit(S3Emitter(url, compression=compression), *events) == []
    (file,) = files(tmp_path)
    assert file.name.endswith(f".ndjson{ending}")
    assert file.parent.relative_to(tmp_path).as_posix() == "out put/s/2023-11-15/12"
    content = decompress(file.read_bytes())
    assert content.count(b"\n") == 301
    assert list(JsonIngestor().ingest(content, IngestContext("ndjson"))) == events


@COMPRESSIONS
async def test_protobuf_is_length_delimited(
    url: str, tmp_path: Path, compression: str, ending: str, decompress: Callable[[bytes], bytes]
) -> None:
    events = [full(), *many(payload=b"." * 200)]
    assert await emit(S3Emitter(url, format="protobuf", compression=compression), *events) == []
    (file,) = files(tmp_path)
    assert file.name.endswith(f".pb{ending}")
    stream = io.BytesIO(decompress(file.read_bytes()))
    read = []
    while (size := _varint(stream)) is not None:
        read.append(Event.FromString(stream.read(size)))
    assert read == events


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_parquet_is_a_table_that_pyarrow_reads(url: str, tmp_path: Path, compression: str) -> None:
    import pyarrow.parquet as pq

    assert await emit(S3Emitter(url, format="parquet", compression=compression), full(), *many()) == []
    (file,) = files(tmp_path)
    assert file.suffix == ".parquet"
    table = pq.read_table(file)
    assert table.num_rows == 301
    row = table.slice(0, 1).to_pylist()[0]
    assert row.pop("timestamp").to_pydatetime() if hasattr(row["timestamp"], "to_pydatetime") else row.pop("timestamp")
    assert row == {
        "id": "a",
        "source": "s",
        "event_type": "t",
        "severity": "error",
        "outcome": "success",
        "metadata": [("k", "v")],
        "payload": b"\x00\xff",
        "data_type": "network",
        "data": '{"src_ip":"10.0.0.1"}',
    }
    assert table["timestamp"][1].value == NOON
    codec = {"none": "UNCOMPRESSED", "gzip": "GZIP", "zstd": "ZSTD"}[compression]
    assert pq.ParquetFile(file).metadata.row_group(0).column(0).compression == codec


async def test_each_name_is_an_object_of_its_own(url: str, tmp_path: Path) -> None:
    events = [new_event("t", source=source) for source in "abcabc"]
    assert await emit(S3Emitter(url, key="{source}-{batch}"), *events) == []
    assert [file.name[0] for file in files(tmp_path)] == ["a", "b", "c"]


async def test_the_same_events_in_any_order_are_the_same_object(url: str, tmp_path: Path) -> None:
    events = many()
    await emit(S3Emitter(url), *events)
    (first,) = files(tmp_path)
    await emit(S3Emitter(url), *reversed(events))
    assert files(tmp_path) == [first]
    await emit(S3Emitter(url), *events[1:])
    assert len(files(tmp_path)) == 2


async def test_events_of_one_id_and_other_content_do_not_overwrite_each_other(url: str, tmp_path: Path) -> None:
    await emit(S3Emitter(url), new_event("t", source="s", id="1", timestamp_unix_ns=NOON))
    await emit(S3Emitter(url), new_event("u", source="s", id="1", timestamp_unix_ns=NOON))
    assert len(files(tmp_path)) == 2


async def test_an_event_that_cannot_have_a_name_is_refused_and_the_others_are_written(url: str, tmp_path: Path) -> None:
    config = S3Emitter(url, key="{metadata.tenant}/{batch}")
    good = Event(id="good", metadata={"tenant": "acme"})
    failures = await emit(config, Event(id="absent"), good, Event(id="long", metadata={"tenant": "x" * 10_240}))
    assert [(failure.event_id, failure.retryable) for failure in failures] == [("absent", False), ("long", False)]
    assert "the event has no metadata.tenant" in failures[0].reason
    assert "the object's key would have 10" in failures[1].reason
    (file,) = files(tmp_path)
    assert file.parent.name == "acme"


@pytest.mark.parametrize("tenant", ["..", "../../escaped", "a/../../b", "/etc/passwd", "a\nb", "\x00", ".", "C:\\x"])
async def test_no_event_leaves_the_folder(tmp_path: Path, tenant: str) -> None:
    inside = tmp_path / "deep" / "er"
    config = S3Emitter(inside.as_uri(), key="{metadata.tenant}/{batch}")
    assert await emit(config, Event(id="1", metadata={"tenant": tenant})) == []
    (file,) = files(tmp_path)
    assert file.is_relative_to(inside)
    assert len(file.relative_to(inside).parts) == 2


async def test_a_folder_that_cannot_be_made_holds_everything(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MisconfiguredError, match="file"):
        await emit(S3Emitter((tmp_path / "file" / "below").as_uri()), *many(1))


def test_bad_configurations_name_the_field_the_value_and_the_fix() -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"url": "bucket"}, "S3Emitter(url='bucket'): write s3://bucket/prefix or file:///folder; known are s3://"),
        ({"url": "http://bucket/x"}, "write s3://"),
        ({"url": "s3://"}, "write s3://"),
        ({"url": "file://folder"}, "write s3://"),
        ({"url": "file:///a/../b"}, "must not contain"),
        ({"url": "s3://key:secret@bucket"}, "credentials belong in options"),
        ({"key": "{source}"}, "S3Emitter(key='{source}'): must contain {batch} once"),
        ({"key": None}, "must be a template"),
        ({"format": "csv"}, "S3Emitter(format='csv'): is not known; choose 'ndjson', 'protobuf' or 'parquet'"),
        ({"compression": "lzma"}, "choose 'none', 'gzip' or 'zstd'"),
        ({"max_events": 0}, "S3Emitter(max_events=0)"),
        ({"max_age": -1}, "S3Emitter(max_age=-1)"),
        ({"part_bytes": 1}, "must be at least 5242880"),
        ({"options": {"region": 1}}, "options must map names to strings"),
    ]
    for options, message in wrong:
        with pytest.raises(PlanError) as caught:
            S3Emitter(**{"url": "s3://bucket", **options})
        assert message in str(caught.value)
        assert "secret@" not in str(caught.value)


def test_an_unknown_option_is_an_error_at_the_start() -> None:
    with pytest.raises(PlanError, match="'regoin' is not valid"):
        S3Emitter("s3://bucket", options={"regoin": "x"}).build(SystemClock()).start()


def test_secrets_are_not_shown() -> None:
    assert "hidden" not in repr(S3Emitter("s3://bucket", options={"secret_access_key": "hidden"}))


@pytest.mark.parametrize(
    ("missing", "format", "command"),
    [("obstore", "ndjson", "pip install 'polku[s3]'"), ("pyarrow", "parquet", "pip install 'polku[s3,parquet]'")],
)
def test_a_missing_package_names_the_pip_command(missing: str, format: str, command: str) -> None:
    program = f"""
import sys
sys.modules[{missing!r}] = None
from polku import Hub, PlanError, S3Emitter, new_event
try:
    Hub(runtime="inline").emitter(S3Emitter("s3://bucket", format={format!r})).start()
except PlanError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert command in done.stdout, done.stderr


def test_configuring_loads_neither_obstore_nor_pyarrow() -> None:
    program = """
import sys
from polku import S3Emitter
S3Emitter("s3://bucket", format="parquet")
print([name for name in ("obstore", "pyarrow") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)
    assert done.stdout == "[]\n", done.stderr


def server_error(status: int, code: str) -> Exception:
    text = f"Server returned non-2xx status code: {status} X: <Error><Code>{code}</Code></Error>"
    return OSError(
        f"Generic S3 error: Error performing PUT http://x/b/k in 1ms - {text}\n\nDebug source:\nGeneric {{}}"
    )


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (
            server_error(403, "RequestTimeTooSkewed"),
            MisconfiguredError,
            r"clock skew \(RequestTimeTooSkewed\): .* set it",
        ),
        (server_error(403, "AccessDenied"), MisconfiguredError, "AccessDenied"),
        (server_error(404, "NoSuchBucket"), MisconfiguredError, "NoSuchBucket"),
        (server_error(400, "AuthorizationHeaderMalformed"), MisconfiguredError, "Malformed"),
        (server_error(301, "PermanentRedirect"), MisconfiguredError, "elsewhere: set region, or endpoint, in options"),
        (server_error(307, "TemporaryRedirect"), MisconfiguredError, "elsewhere: set region, or endpoint, in options"),
        (OSError("Received redirect without LOCATION, this"), MisconfiguredError, "elsewhere: set region"),
        (server_error(400, "IncompleteBody"), RetryableError, "IncompleteBody"),
        (server_error(400, "BadDigest"), RetryableError, "BadDigest"),
        (server_error(400, "InvalidPart"), RetryableError, "InvalidPart"),
        (server_error(400, "KeyTooLongError"), RejectedError, "KeyTooLong"),
        (server_error(404, "NoSuchUpload"), RetryableError, "NoSuchUpload"),
        (server_error(400, "RequestTimeout"), RetryableError, "RequestTimeout"),
        (server_error(503, "SlowDown"), RetryableError, "SlowDown"),
        (server_error(500, "InternalError"), RetryableError, "InternalError"),
        (server_error(429, "TooMany"), RetryableError, "429"),
        (server_error(400, "EntityTooLarge"), RejectedError, "EntityTooLarge"),
        (OSError("error sending request"), RetryableError, "error sending request"),
        (OSError("PUT http://169.254.169.254/latest/api/token"), MisconfiguredError, "AWS_ACCESS_KEY_ID"),
        (OSError(28, "No space left on device"), RetryableError, "No space left"),
        (PermissionError(13, "Permission denied"), MisconfiguredError, "Permission denied"),
    ],
)
def test_errors_are_sorted(error: Exception, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        raise explain("s3://bucket", error)
    assert "Debug source" not in str(caught.value)
    assert "s3://bucket" in str(caught.value)


def test_the_time_of_an_object_is_that_of_its_earliest_event() -> None:
    assert datetime.fromtimestamp(NOON / 1e9, UTC).strftime("%Y%m%dT%H%M%S") == "20231115T120000"


def _varint(stream: io.BytesIO) -> int | None:
    value = shift = 0
    while byte := stream.read(1):
        value |= (byte[0] & 127) << shift
        if byte[0] < 128:
            return value
        shift += 7
    return None


@pytest.mark.parametrize("ending", ["", "/"])
async def test_a_folder_that_is_made_is_for_its_user_alone_and_one_that_is_there_stays_as_it_is(
    url: str, tmp_path: Path, ending: str
) -> None:
    assert await emit(S3Emitter(url + ending), full()) == []
    assert (tmp_path / "out put").stat().st_mode & 0o777 == 0o700
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    assert await emit(S3Emitter(shared.as_uri() + ending), full()) == []
    assert shared.stat().st_mode & 0o777 == 0o755
