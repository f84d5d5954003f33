"""`polku run` and `polku serve`: a pipeline until a signal comes."""

from __future__ import annotations

import os
from typing import Annotated, Any

from polku.cli.command import App, Option
from polku.cli.load import split
from polku.cli.plan_file import Chain, File, Lanes, Runtime, load_plan_file
from polku.cli.reload import loading_again, watching
from polku.cli.serve import serve_environment
from polku.cli.settings import check_admin_address, describe_settings, read_settings, unknown_variables
from polku.errors import SettingError
from polku.gateway.addresses import check_address
from polku.gateway.tls import tls_from
from polku.log_format import configure, warn
from polku.monitoring.run_files import name_program
from polku.runtime.drain import check_seconds

app = App("Run a pipeline.")

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
TlsAdminClientCa = Annotated[
    str | None, Option(metavar="PEM", help="The CA of those who ask the admin address; or POLKU_TLS_ADMIN_CLIENT_CA.")
]
_VARIABLES = "\n\n".join(
    f"{variable}{f' ({default})' if default else ''}: {meaning}" for variable, default, meaning in describe_settings()
)


@app.command(epilog=_VARIABLES)
def serve(
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    tls_client_ca: TlsClientCa = None,
    tls_client_auth: TlsClientAuth = None,
    tls_admin_client_ca: TlsAdminClientCa = None,
    tokens: Tokens = None,
    insecure: Insecure = False,
) -> None:
    """Run the gateway as the environment's POLKU_* variables say; to stdout without a POLKU_EMIT_… variable.

    An option counts before its variable.
    """
    options = {"CERT": tls_cert, "KEY": tls_key, "CLIENT_CA": tls_client_ca, "CLIENT_AUTH": tls_client_auth}
    options["ADMIN_CLIENT_CA"] = tls_admin_client_ca
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
    tls_admin_client_ca: TlsAdminClientCa = None,
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
    3, acknowledged events are lost, and a line says how many; 130, a second signal ended the drain, and none are.

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
        warn(sentence)
    given = {"grpc": grpc_addr, "http": http_addr, "otlp": otlp_addr, "otlp-http": otlp_http_addr}
    options = {name: check_address(f"--{name}-addr", text) for name, text in given.items() if text is not None}
    os.environ["POLKU_GRPC_ADDR"] = settings.grpc_addr  # what counts where neither an option nor the file names one

    def load() -> Any:
        hub = load_plan_file(file, runtime, chain=chain, lanes=lanes)
        if any((tls_cert, tls_key, tls_client_ca, tls_client_auth, tls_admin_client_ca)):
            tls = tls_from(
                cert=tls_cert or settings.tls_cert,
                key=tls_key or settings.tls_key,
                client_ca=tls_client_ca or settings.tls_client_ca,
                client_auth=tls_client_auth or settings.tls_client_auth,
                admin_client_ca=tls_admin_client_ca or settings.tls_admin_client_ca,
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
        grpc_addr=options.get("grpc"),
        http_addr=options.get("http"),
        otlp_addr=options.get("otlp"),
        otlp_http_addr=options.get("otlp-http"),
        http_token=settings.http_token,
        admin_addr=admin,
        drain=seconds,
        progress=not no_progress,
    )


def _name_security(tokens: str | None, *, insecure: bool) -> None:
    """Let options count before the environment's variables, in this process."""
    if tokens is not None:
        os.environ["POLKU_TOKENS"] = tokens
    if insecure:
        os.environ["POLKU_INSECURE"] = "1"


def _name_ray(address: str, runtime: str | None) -> None:
    """Have this program, and whatever it starts, join one Ray; raises `SettingError`."""
    if (runtime or os.environ.get("POLKU_RUNTIME")) == "inline":
        raise SettingError("--ray", address, "the inline runtime uses no Ray; leave one of them out")
    if not address.strip():
        raise SettingError("--ray", address, "write HOST:PORT, or local to start one")
    os.environ["RAY_ADDRESS"] = address
