"""What `polku serve` reads from the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, NamedTuple, TypeVar

from polku.aio.loops import LOOPS
from polku.errors import PlanError, SettingError
from polku.gateway.addresses import DOORS, check_address
from polku.gateway.tls import CLIENT_AUTH
from polku.lazy import pattern
from polku.log_format import FORMATS, LEVELS
from polku.plan import PER_NODE
from polku.runtime.drain import DRAIN_SECONDS, check_seconds
from polku.security.configuration import FILE, secret_of
from polku.tracing.export import WAYS

T = TypeVar("T")
RUNTIMES = ("ray", "inline")
METRICS = ("prometheus", "ray")
HOPS = ("sockets", "ray")
_TOKEN = pattern("[A-Za-z0-9._~+/-]+=*")


def _setting(default: object, meaning: str, *, secret: bool = False) -> Any:
    return field(default=default, repr=not secret, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class Settings:
    """The gateway's settings; the field `x_y` comes from the variable `POLKU_X_Y`.

    `describe_settings` makes the tables of the documents from what stands here.
    """

    grpc_addr: str = _setting("0.0.0.0:50051", "address of the gRPC server")
    http_addr: str | None = _setting(None, "address of the HTTP server; closed without it")
    otlp_addr: str | None = _setting(
        None,
        "second address of the gRPC server, where clients of OTLP look: by convention at port 4317; closed without it",
    )
    otlp_http_addr: str | None = _setting(
        None,
        "second address of the HTTP server, where clients of OTLP look: by convention at port 4318; closed without it",
    )
    http_token: str | None = _setting(
        None, "the bearer token that HTTP clients must send; none is required without it", secret=True
    )
    tokens: str | None = _setting(
        None, "TOML file of the principals that may send, gRPC and HTTP; all clients may without it"
    )
    insecure: bool = _setting(
        False,
        "`1` confirms that an address is meant to be reachable from other machines without TLS and authentication",
    )
    admin_addr: str = _setting(
        "127.0.0.1:50052",
        "address of statistics, metrics and health; where it is not set and this port is taken, the next free one; "
        "`https://HOST:PORT` with the gateway's certificate; `off`",
    )
    admin_token: str | None = _setting(
        None,
        "the bearer token that its readers must send; needed where the address can be reached from other machines; "
        "shows events and dead letters too, replays and drops those, and reloads",
        secret=True,
    )
    admin_read_token: str | None = _setting(
        None, "a token that reads metrics, statistics and health there, but no events, and changes nothing", secret=True
    )
    tls_cert: str | None = _setting(
        None, "PEM file of the server's certificate and chain; the ports are plain without it"
    )
    tls_key: str | None = _setting(None, "PEM file of its private key")
    tls_client_ca: str | None = _setting(
        None, "PEM file of the CA whose certificates clients must show; none without it"
    )
    tls_client_auth: str | None = _setting(
        None, "with a client CA: `required` (the default), or `optional` for clients without a certificate too"
    )
    tls_admin_client_ca: str | None = _setting(
        None, "PEM file of the CA whose certificates readers of an `https://` admin address must show; none without it"
    )
    runtime: str = _setting("ray", "`ray` or `inline`")
    log_level: str = _setting("info", "`debug`, `info`, `warn` or `error`")
    log_format: str = _setting("text", "`text`, or `json`: one object a line")
    traces: str = _setting("off", "`otlp` exports traces, as OpenTelemetry's own variables (`OTEL_…`) say")
    metrics: str = _setting("prometheus", "`ray` hands metrics to Ray's own too, which its dashboard shows")
    buffer_capacity: int = _setting(10_000, "events that one emitter may lag, of 64 MiB at most (`polku serve`)")
    emit_grpc_endpoints: tuple[str, ...] = _setting(
        (), "comma-separated gateways to send to; without this and the next, events are printed (`polku serve`)"
    )
    emit_ahti_endpoint: tuple[str, ...] = _setting(
        (), "the AHTI, or several, comma-separated, to send to (`polku serve`)"
    )
    drain_seconds: float = _setting(DRAIN_SECONDS, "how long a stop may take to deliver what was accepted")
    lanes: int | Literal["per-node"] = _setting(
        1, "on Ray: the number of lanes side by side, or `per-node` (`polku serve`)"
    )
    door: str | None = _setting(None, "the server behind the gRPC port: `native` (the default) or `grpcio`")
    loop: str | None = _setting(
        None,
        "the event loop, `uvloop` (extra `fast`) or `asyncio`; uvloop where it is installed "
        "(on Ray, `RAY_USE_UVLOOP=0` keeps asyncio)",
    )
    hops: str | None = _setting(
        None,
        "on Ray: how batches travel between actors of one node, `sockets` (the default) or `ray`, by calls of Ray, "
        "as between nodes",
    )
    plugin_token: str | None = _setting(
        None, "plugins that know it may register themselves (`polku serve`)", secret=True
    )


class SettingLine(NamedTuple):
    """Describe one setting: its variable, its default as text (empty: none), and its meaning."""

    variable: str
    default: str
    meaning: str


def describe_settings() -> list[SettingLine]:
    """Return a line for each setting, in the order of `Settings`."""
    lines = []
    for one in fields(Settings):
        default = (
            "" if one.default in (None, (), False) else f"{one.default:g}" if one.type == "float" else str(one.default)
        )
        variable, meaning = f"POLKU_{one.name.upper()}", one.metadata["meaning"]
        if not one.repr:
            meaning += f"; or `{variable}{FILE}`, the path of a file with it"
        lines.append(SettingLine(variable, default, meaning))
    return lines


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings; raises `SettingError` naming the variable, its value and what is allowed."""
    default = Settings()

    def read(field: str, parse: Callable[[str, str], T], otherwise: T) -> T:
        name = f"POLKU_{field.upper()}"
        text = environment.get(name, "").strip()
        return parse(name, text) if text else otherwise

    def read_secret(field: str) -> str | None:
        name = f"POLKU_{field.upper()}"
        text = secret_of(environment, name)
        return None if text is None else check_token(name, text)

    return Settings(
        grpc_addr=read("grpc_addr", check_address, default.grpc_addr),
        buffer_capacity=read("buffer_capacity", _count, default.buffer_capacity),
        log_level=read("log_level", _one_of(tuple(LEVELS)), default.log_level),
        log_format=read("log_format", _one_of(FORMATS), default.log_format),
        traces=read("traces", _one_of(WAYS), default.traces),
        metrics=read("metrics", _one_of(METRICS), default.metrics),
        runtime=read("runtime", _one_of(RUNTIMES), default.runtime),
        emit_grpc_endpoints=read("emit_grpc_endpoints", _endpoints, ()),
        emit_ahti_endpoint=read("emit_ahti_endpoint", _endpoints, ()),
        plugin_token=read_secret("plugin_token"),
        http_addr=read("http_addr", check_address, None),
        otlp_addr=read("otlp_addr", check_address, None),
        otlp_http_addr=read("otlp_http_addr", check_address, None),
        http_token=read_secret("http_token"),
        tokens=read("tokens", _path, None),
        insecure=read("insecure", _switch, False),
        admin_addr=read("admin_addr", check_admin_address, default.admin_addr),
        admin_token=read_secret("admin_token"),
        admin_read_token=read_secret("admin_read_token"),
        tls_cert=read("tls_cert", _path, None),
        tls_key=read("tls_key", _path, None),
        tls_client_ca=read("tls_client_ca", _path, None),
        tls_client_auth=read("tls_client_auth", _one_of(CLIENT_AUTH), None),
        tls_admin_client_ca=read("tls_admin_client_ca", _path, None),
        door=read("door", _one_of(DOORS), None),
        loop=read("loop", _one_of(LOOPS), None),
        hops=read("hops", _one_of(HOPS), None),
        lanes=read("lanes", check_lanes, default.lanes),
        drain_seconds=read("drain_seconds", check_seconds, default.drain_seconds),
    )


def unknown_variables(environment: Mapping[str, str], *, misspelt: bool = False) -> list[str]:
    """Return a sentence for each variable that looks like ours and is none, or for those that are nearly one."""
    names = [one.name.upper() for one in fields(Settings)]
    names += [f"{one.name.upper()}{FILE}" for one in fields(Settings) if not one.repr]
    known = {name: f"POLKU_{name}" for name in names}
    sentences = []
    for name in sorted(environment):
        if name.startswith("POLKU_") and name not in known.values():
            import difflib  # for who has mistyped one

            close = difflib.get_close_matches(name.removeprefix("POLKU_"), known, 1)
            if misspelt and not close:  # a pipeline may have variables of its own
                continue
            meant = f"; did you mean {known[close[0]]}?" if close else f"; known are {', '.join(known.values())}"
            sentences.append(f"{name} is not a setting{meant}")
    return sentences


def check_admin_address(name: str, text: str) -> str:
    """Return a `host:port` (also `https://host:port`) or `unix:` address, or `off`; raises `SettingError`."""
    if text != "off":
        check_address(name, text.removeprefix("https://"))
    return text


def check_token(name: str, text: str) -> str:
    """Return a bearer token (RFC 6750); raises `SettingError`, which does not show it."""
    if not _TOKEN.fullmatch(text):
        raise SettingError(name, "…", "write a bearer token: letters, digits and -._~+/ (and = at its end)")
    return text


def check_lanes(name: str, text: str) -> int | Literal["per-node"]:
    """Return a number of lanes, or `per-node`; raises `SettingError`."""
    if text == PER_NODE:
        return PER_NODE
    if not text.isdecimal() or not 1 <= int(text) <= 1000:
        raise SettingError(name, text, f"write a whole number from 1 to 1000, or {PER_NODE}")
    return int(text)


def _path(name: str, text: str) -> str:
    return text


def _switch(name: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "false", "true"):
        raise SettingError(name, text, "write 1 or 0")
    return text.lower() in ("1", "true")


def _count(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise SettingError(name, text, "write a whole number of events, at least 1")
    return int(text)


def _one_of(allowed: tuple[str, ...]) -> Callable[[str, str], str]:
    def parse(name: str, text: str) -> str:
        if text.lower() not in allowed:
            raise SettingError(name, text, f"choose one of {', '.join(allowed)}")
        return text.lower()

    return parse


def _endpoints(name: str, text: str) -> tuple[str, ...]:
    from polku.emit.grpc.addresses import parse_address

    endpoints = tuple(part.strip() for part in text.split(",") if part.strip())
    for endpoint in endpoints:
        try:
            parse_address(name, endpoint)
        except PlanError as error:
            raise SettingError(name, text, error.message) from None
    if not endpoints:
        raise SettingError(name, text, "write endpoints separated by commas: http://host:port,http://other:port")
    return endpoints
