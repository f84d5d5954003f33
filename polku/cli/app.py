"""The commands: events go to standard output, everything for people to standard error."""

from __future__ import annotations

import os
import traceback
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any

from polku.cli.bench import bench
from polku.cli.cases import run_cases
from polku.cli.command import App, Argument, Exit, Option
from polku.cli.dlq import app as dlq_app
from polku.cli.doctor import doctor
from polku.cli.explain import explain
from polku.cli.health import health
from polku.cli.init import init
from polku.cli.journal import app as journal_app
from polku.cli.load import split
from polku.cli.plugin import app as plugin_app
from polku.cli.ps import ps
from polku.cli.record import record
from polku.cli.reload import loading_again, reload, watching
from polku.cli.replay import replay
from polku.cli.serve import serve_environment
from polku.cli.settings import (
    RUNTIMES,
    check_address,
    check_admin_address,
    check_lanes,
    describe_settings,
    read_settings,
    unknown_variables,
)
from polku.cli.tap import tap
from polku.cli.token import app as token_app
from polku.cli.top import top
from polku.errors import PlanError, PolkuError, SettingError
from polku.gateway.tls import tls_from, tls_of_environment
from polku.log_format import configure
from polku.monitoring.run_files import name_program
from polku.runtime.serving import check_seconds, say
from polku.security.configuration import secret_of, tokens_of_environment
from polku.version import __version__

app = App("Event routing as code.", version=__version__)

app.add(plugin_app, "plugin")
app.add(journal_app, "journal")
app.add(dlq_app, "dlq")
app.add(token_app, "token")
app.command()(bench)
app.command()(explain)
app.command()(doctor)
app.command()(health)
app.command()(reload)
app.command()(ps)
app.command()(record)
app.command()(replay)
app.command()(tap)
app.command()(init)
app.command("test")(run_cases)
app.command()(top)

File = Annotated[str, Argument(metavar="FILE[:NAME]", help="A Python file with a Hub (named `hub`, or NAME).")]
Runtime = Annotated[str | None, Option(help="ray or inline.")]
Chain = Annotated[bool, Option("--chain", help="Run each lane in one actor.")]
Lanes = Annotated[str | None, Option(metavar="N|per-node", help="Run N lanes side by side, or one on each node.")]


_VARIABLES = "\n\n".join(
    f"{variable}{f' ({default})' if default else ''}: {meaning}" for variable, default, meaning in describe_settings()
)


def main() -> None:
    """Run the command line."""
    app()


Tokens = Annotated[str | None, Option(metavar="TOML", help="The principals that may send; or POLKU_TOKENS.")]
Insecure = Annotated[
    bool, Option("--insecure", help="An address that others reach is meant to be open; or POLKU_INSECURE=1.")
]
TlsCert = Annotated[str | None, Option(metavar="PEM", help="The server's certificate; or POLKU_TLS_CERT.")]
TlsKey = Annotated[str | None, Option(metavar="PEM", help="Its private key; or POLKU_TLS_KEY.")]
TlsClientCa = Annotated[
    str | None, Option(metavar="PEM", help="The CA of clients' certificates; or POLKU_TLS_CLIENT_CA.")
]
TlsClientAuth = Annotated[
    str | None, Option(metavar="required|optional", help="Whether clients need one; or POLKU_TLS_CLIENT_AUTH.")
]


@app.command(epilog=_VARIABLES)
def serve(
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    tls_client_auth: TlsClientAuth = None,
    tokens: Tokens = None,
    insecure: Insecure = False,
) -> None:
    """Run the gateway as the environment's POLKU_* variables say; to stdout without a POLKU_EMIT_… variable.

    An option counts before its variable.
    """
    options = {"CERT": tls_cert, "KEY": tls_key, "CLIENT_CA": tls_client_ca, "CLIENT_AUTH": tls_client_auth}
    os.environ.update({f"POLKU_TLS_{name}": value for name, value in options.items() if value is not None})
    _name_security(tokens, insecure=insecure)
    serve_environment()


@app.command()
def run(
    file: File,
    runtime: Runtime = None,
    grpc_addr: Annotated[str | None, Option(metavar="HOST:PORT", help="Where to listen.")] = None,
    http_addr: Annotated[str | None, Option(metavar="HOST:PORT", help="Listen for HTTP too.")] = None,
    otlp_addr: Annotated[
        str | None, Option(metavar="HOST:PORT", help="Listen for OTLP over gRPC there too (4317).")
    ] = None,
    otlp_http_addr: Annotated[
        str | None, Option(metavar="HOST:PORT", help="Listen for OTLP over HTTP there too (4318).")
    ] = None,
    admin_addr: Annotated[
        str | None, Option(metavar="HOST:PORT|off", help="Serve statistics, metrics and health there.")
    ] = None,
    chain: Chain = False,
    lanes: Lanes = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    tls_client_auth: TlsClientAuth = None,
    tokens: Tokens = None,
    insecure: Insecure = False,
    drain: Annotated[
        str | None, Option(metavar="SECONDS", help="How long a drain may take: POLKU_DRAIN_SECONDS, or 30.")
    ] = None,
    ray: Annotated[
        str | None,
        Option(metavar="ADDRESS", help="The Ray to join: HOST:PORT, or local to start one; RAY_ADDRESS."),
    ] = None,
    watch: Annotated[
        bool, Option("--watch", help="Load the file again whenever it is saved: while you write it.")
    ] = False,
    no_progress: Annotated[
        bool, Option("--no-progress", help="Show no line on a terminal that says what flows.")
    ] = False,
) -> None:
    """Run the pipeline of a Python file until a signal comes (INT, TERM or HUP), then drain it.

    HUP has the file loaded again instead, unless this runs in a terminal; see `polku reload`.

    Exit status: 0, nothing that was acknowledged is lost; 1, it failed; 2, an option, a setting or the plan is wrong;
    3, acknowledged events are lost, and a line says how many; 130, a second signal ended the drain.

    A Ray is started for the pipeline, unless --ray or RAY_ADDRESS names one, the file initialises one itself, or this
    is a Ray job; a line says which it is.
    """
    if ray is not None:
        _name_ray(ray, runtime)
    _name_security(tokens, insecure=insecure)
    settings = read_settings(os.environ)
    configure(settings.log_level, settings.log_format)
    name_program(str(split(file)[0]))
    for sentence in unknown_variables(os.environ, misspelt=True):
        say(f"polku: warning: {sentence}")
    address = check_address("--grpc-addr", grpc_addr) if grpc_addr is not None else settings.grpc_addr
    http = check_address("--http-addr", http_addr) if http_addr is not None else settings.http_addr

    def load() -> Any:
        hub = _load(file, runtime, chain=chain, lanes=lanes)
        if tls_cert or tls_key or tls_client_ca or tls_client_auth:
            tls = tls_from(
                cert=tls_cert or settings.tls_cert,
                key=tls_key or settings.tls_key,
                client_ca=tls_client_ca or settings.tls_client_ca,
                client_auth=tls_client_auth or settings.tls_client_auth,
            )
            hub.security(tls=tls)
        if tokens is not None:
            hub.security(tokens=tokens)
        return hub

    seconds = check_seconds("--drain", drain) if drain is not None else settings.drain_seconds
    admin = check_admin_address("--admin-addr", admin_addr) if admin_addr is not None else None
    load().run(
        runtime=runtime,
        reload=loading_again(file, load, runtime),
        watch=watching(file) if watch else None,
        grpc_addr=address,
        http_addr=http,
        otlp_addr=check_address("--otlp-addr", otlp_addr) if otlp_addr is not None else settings.otlp_addr,
        otlp_http_addr=(
            check_address("--otlp-http-addr", otlp_http_addr) if otlp_http_addr is not None else settings.otlp_http_addr
        ),
        http_token=settings.http_token,
        admin_addr=admin,
        drain=seconds,
        progress=not no_progress,
    )


@app.command()
def validate(file: File, runtime: Runtime = None, chain: Chain = False, lanes: Lanes = None) -> None:
    """Run a Python file to build its plan, and start nothing: print the plan's parts, or what is wrong with it.

    Whatever the file does when it is imported, it does here too. A package that is not installed, although the plan
    needs it, is named with the command that installs it; status 1 says that the plan cannot work.
    """
    from polku.cli.extras import check_extras
    from polku.cli.graph import outline
    from polku.runtime.orphaned_journals import check_places

    try:
        plan = _load(file, runtime, chain=chain, lanes=lanes).plan(runtime)
        check_extras(plan)
        _check_certificates(plan)
        _check_tokens(plan)
    except PlanError as error:
        say(f"{file}: {error}")
        raise Exit(1) from None
    check_places(plan)
    _warn_of_exposure(plan)
    for line in outline(plan):
        print(line)


@app.command()
def graph(file: File, runtime: Runtime = None, chain: Chain = False, lanes: Lanes = None) -> None:
    """Run a Python file to build its plan, start nothing, and print the plan as a Mermaid flowchart.

    It shows what runs in which actor, and in how many lanes.
    """
    from polku.cli.graph import mermaid

    print(mermaid(_load(file, runtime, chain=chain, lanes=lanes).plan(runtime)))


@app.command()
def send(
    file: Annotated[str | None, Argument(metavar="[FILE]", help="NDJSON; `-` is standard input.")] = None,
    to: Annotated[
        str, Option(metavar="ADDRESS", help="The gateway: HOST:PORT, https://HOST:PORT or unix:PATH.")
    ] = "localhost:50051",
    type: Annotated[str | None, Option(help="One event: its type.")] = None,
    id: Annotated[str, Option(help="One event: its id, else one is made.")] = "",
    source: Annotated[str, Option(help="The source of events that have none.")] = "polku-send",
    cluster: Annotated[str, Option(help="The cluster of events that have none.")] = "",
    payload: Annotated[str, Option(help="One event: its payload, as text.")] = "",
    severity: Annotated[str, Option(help="One event: debug, info, warning, error or critical.")] = "info",
    metadata: Annotated[list[str] | None, Option(metavar="KEY=VALUE", help="One event; repeatable.")] = None,
    root_certificates: Annotated[
        str | None,
        Option(metavar="PEM", help="With https: who signs the gateway's certificate."),
    ] = None,
    certificate: Annotated[str | None, Option(metavar="PEM", help="With https: your own certificate.")] = None,
    key: Annotated[str | None, Option(metavar="PEM", help="Its private key.")] = None,
    token_file: Annotated[
        str | None, Option(metavar="FILE", help="Your bearer token; or POLKU_TOKEN, POLKU_TOKEN_FILE.")
    ] = None,
) -> None:
    """Send one event made of the options (at least --type), or all events of an NDJSON file."""
    import asyncio

    import grpc

    from polku.cli.send import one_event, open_stream, read_events, read_target
    from polku.cli.send import send as send_events
    from polku.progress import Progress

    if file is not None and type is not None:
        raise SettingError("FILE", file, f"--type={type!r} is given too; give one of them")
    if not file and not type:
        raise SettingError("FILE", file or "", "give a file (`-` is standard input), or the --type of one event")
    environment = os.environ if token_file is None else {"POLKU_TOKEN_FILE": token_file}
    token = secret_of(environment, "POLKU_TOKEN")
    target = read_target(to, root_certificates=root_certificates, certificate=certificate, key=key, token=token)
    total = None
    if type is not None:
        events: Any = iter([one_event(id, type, payload, severity, metadata or [])])
    else:
        stream, total = open_stream(str(file))
        events = read_events(stream, say)
    try:
        with Progress("sending", total) as bar:
            tally = asyncio.run(
                send_events(events, to=target, source=source, cluster=cluster, report=say, advance=bar.advance)
            )
    except grpc.RpcError as error:
        detail = getattr(error, "details", error.__str__)()
        say(f"polku: {to}: {detail}")
        raise Exit(1) from None
    say(f"{tally.accepted} accepted, {tally.refused} refused")
    if tally.refused:
        raise Exit(1)


def _check_certificates(plan: Any) -> None:
    """Raise `PlanError` where the files of TLS cannot be used."""
    from polku.gateway.certificates import Certificates

    tls = plan.tls or tls_of_environment()
    if tls is None:
        return
    try:
        certificates = Certificates(tls)
    except SettingError as error:
        raise PlanError(str(error)) from None
    now = datetime.now(UTC)
    text = certificates.expiry(now)
    if certificates.expires is not None and certificates.expires <= now:
        raise PlanError(text)
    if text:
        say(f"polku: warning: {text}")


def _check_tokens(plan: Any) -> None:
    """Raise `PlanError` where the file of principals cannot be used."""
    from polku.security.authenticator import load

    path = plan.tokens or tokens_of_environment()
    try:
        principals = load(path) if path else None
    except SettingError as error:
        raise PlanError(str(error)) from None
    if principals is not None and not principals.by_name:
        say(f"polku: warning: tokens={path!r}: has no principals, so nobody may send; see `polku token new`")


def _warn_of_exposure(plan: Any) -> None:
    """Say which addresses, as the environment names them, others would reach; raises `SettingError` where forbidden."""
    from polku.gateway.addresses import Doors
    from polku.gateway.exposure import check_exposure, exposure
    from polku.monitoring.address import OFF

    settings = read_settings(os.environ)
    doors = Doors(
        settings.grpc_addr,
        settings.http_addr,
        settings.http_token,
        otlp_addr=settings.otlp_addr,
        otlp_http_addr=settings.otlp_http_addr,
        tls=plan.tls or tls_of_environment(),
        tokens=plan.tokens or settings.tokens,
        require=plan.require_security,
        admin_addr=None if settings.admin_addr == OFF else settings.admin_addr,
    )
    check_exposure(doors)
    if not settings.insecure and (text := exposure(doors)):
        say(f"polku: warning: {text}")


def _name_security(tokens: str | None, *, insecure: bool) -> None:
    """Let options count before the environment's variables, in this process."""
    if tokens is not None:
        os.environ["POLKU_TOKENS"] = tokens
    if insecure:
        os.environ["POLKU_INSECURE"] = "1"


def _frames_from(frames: TracebackType | None, path: Path) -> TracebackType | None:
    """Leave out what called the user's file; all of it where the file never ran (a syntax error)."""
    while frames is not None and Path(frames.tb_frame.f_code.co_filename).resolve() != path.resolve():
        frames = frames.tb_next
    return frames


def _name_ray(address: str, runtime: str | None) -> None:
    """Have this program, and whatever it starts, join one Ray; raises `SettingError`."""
    if (runtime or os.environ.get("POLKU_RUNTIME")) == "inline":
        raise SettingError("--ray", address, "the inline runtime uses no Ray; leave one of them out")
    if not address.strip():
        raise SettingError("--ray", address, "write HOST:PORT, or local to start one")
    os.environ["RAY_ADDRESS"] = address


def _load(file: str, runtime: str | None, *, chain: bool = False, lanes: str | None = None) -> Any:
    """Return the hub of a file, in the arrangement that the options ask for; raises `SettingError`."""
    from polku.cli.load import load_hub

    if runtime is not None and runtime not in RUNTIMES:
        raise SettingError("--runtime", runtime, f"choose one of {', '.join(RUNTIMES)}")
    count = check_lanes("--lanes", lanes) if lanes is not None else None
    chosen = runtime or os.environ.get("POLKU_RUNTIME") or "ray"
    try:
        hub = load_hub(file, by_value=chosen == "ray")
    except PolkuError:
        raise
    except Exception as error:
        traceback.print_exception(error.with_traceback(_frames_from(error.__traceback__, split(file)[0])))
        raise SettingError("FILE", file, f"raised {type(error).__name__} while it was run (see above)") from None
    hub = hub.chain() if chain else hub
    return hub.lanes(count) if count is not None else hub
