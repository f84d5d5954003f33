"""JSON Web Tokens of issuers whose keys are in a file or at a URL."""

from __future__ import annotations

import json
import os
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from polku import Hub, InputError, PlanError, new_event
from polku.security.authenticator import Authenticator
from polku.security.jwt_keys import IssuerKeys
from polku.security.token_file import file_lines, new_token, parse
from tests.support.authority import Authority, Pair

jwt = pytest.importorskip("jwt", reason="PyJWT is not installed")
ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec", reason="cryptography is not installed")

ISSUER = "https://login.example.org"
FILE = """
[issuers."https://login.example.org"]
audience = "polku"
jwks = "{jwks}"

[pods]
sources = ["pod-*"]
jwt = [{{ issuer = "https://login.example.org", subjects = ["system:serviceaccount:prod:*"] }}]
"""


class Signer:
    """Sign tokens with keys of its own."""

    def __init__(self) -> None:
        self.keys: dict[str, Any] = {}

    def add(self, name: str) -> None:
        self.keys[name] = ec.generate_private_key(ec.SECP256R1())

    def jwks(self) -> str:
        algorithm = jwt.algorithms.ECAlgorithm
        keys = [
            {**json.loads(algorithm.to_jwk(key.public_key())), "kid": name, "alg": "ES256"}
            for name, key in self.keys.items()
        ]
        return json.dumps({"keys": keys})

    def token(self, name: str = "one", **claims: Any) -> str:
        now = int(time.time())
        found = {"iss": ISSUER, "aud": "polku", "sub": "system:serviceaccount:prod:web", "exp": now + 600, **claims}
        payload = {key: value for key, value in found.items() if value is not None}
        return str(jwt.encode(payload, self.keys[name], "ES256", {"kid": name}))


@pytest.fixture
def signer() -> Signer:
    signer = Signer()
    signer.add("one")
    return signer


@pytest.fixture
def path(signer: Signer, tmp_path: Path) -> Path:
    (tmp_path / "jwks.json").write_text(signer.jwks())
    path = tmp_path / "tokens.toml"
    path.write_text(FILE.format(jwks=tmp_path / "jwks.json"))
    return path


def refusal(authenticator: Authenticator, token: str) -> str:
    with pytest.raises(InputError) as caught:
        authenticator.identify(f"Bearer {token}")
    assert caught.value.code == "UNAUTHENTICATED"
    return caught.value.message


def test_a_good_token_is_a_principal_until_it_ends(signer: Signer, path: Path) -> None:
    now = time.time()
    authenticator = Authenticator(str(path), clock=lambda: now)
    identity = authenticator.identify(f"Bearer {signer.token(exp=int(now) + 60)}")
    assert identity.account.name == "pods"
    assert authenticator.is_valid(identity)
    now += 91  # with 30 s for clocks that differ
    assert not authenticator.is_valid(identity)


@pytest.mark.parametrize(
    ("claims", "message"),
    [
        ({"exp": 1}, "it has ended; ask for a new one"),
        ({"aud": "other"}, "it is not valid (Audience doesn't match)"),
        ({"aud": None}, 'it is not valid (Token is missing the "aud" claim)'),
        ({"exp": None}, 'it is not valid (Token is missing the "exp" claim)'),
        ({"iss": "https://evil.example"}, "it is of an issuer that is not in the file ('https://evil.example')"),
        ({"iss": None}, "it is of an issuer that is not in the file ('None')"),
        ({"nbf": 9_999_999_999}, "it is not valid (The token is not yet valid (nbf))"),
        ({"sub": "system:serviceaccount:dev:web"}, "no principal has the subject 'system:serviceaccount:dev:web'"),
    ],
)
def test_any_other_is_refused_with_the_reason(signer: Signer, path: Path, claims: dict[str, Any], message: str) -> None:
    assert message in refusal(Authenticator(str(path)), signer.token(**claims))


def test_forged_tokens_are_refused(signer: Signer, path: Path) -> None:
    authenticator = Authenticator(str(path))
    good = signer.token()
    head, body, signature = good.split(".")
    other = Signer()
    other.add("one")
    claims = jwt.decode(good, options={"verify_signature": False})
    forged = [
        other.token(),
        f"{head}.{body}.{signature[:-4]}AAAA",
        jwt.encode(claims, None, "none", {"kid": "one"}),
        jwt.encode(claims, "k" * 32, "HS256", {"kid": "one"}),
        f"{head}.{body}.",
        f"{head}.{'A' * 20}.{signature}",
        "a.b.c",
        "..",
    ]
    for token in forged:
        assert "the token is not taken" in refusal(authenticator, token), token


def test_a_token_of_the_file_still_counts(signer: Signer, path: Path) -> None:
    token = new_token()
    with path.open("a") as file:
        file.write(file_lines("own", token, {"sources": ["x"]}, None))
    assert Authenticator(str(path)).identify(f"Bearer {token}").account.name == "own"


def test_new_keys_are_learnt_soon_and_the_old_ones_stay_where_they_cannot_be_read(signer: Signer, path: Path) -> None:
    now = 0.0
    principals = parse(path.read_text())
    keys = IssuerKeys(clock=lambda: now)
    keys.refresh(principals.issuers.values())
    signer.add("two")
    (path.parent / "jwks.json").write_text(signer.jwks())
    with pytest.raises(InputError, match=r"its key \('two'\) is not known yet; send again in 10 s"):
        keys.check(signer.token("two"), principals.issuers)
    keys.refresh(principals.issuers.values())
    with pytest.raises(InputError, match="is not known yet"):
        keys.check(signer.token("two"), principals.issuers)
    now = 10.0
    keys.refresh(principals.issuers.values())
    assert keys.check(signer.token("two"), principals.issuers).subject == "system:serviceaccount:prod:web"
    (path.parent / "jwks.json").write_text("{")
    now = 1_000.0
    keys.refresh(principals.issuers.values())
    assert "the keys of https://login.example.org cannot be read" in keys.fault
    assert keys.check(signer.token("one"), principals.issuers).issuer == ISSUER


class Keys(BaseHTTPRequestHandler):
    """Answer with the keys of a signer."""

    content = ""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.content.encode())

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture(params=[True, False], ids=["a machine that knows it", "its own roots"])
def url(
    request: pytest.FixtureRequest, signer: Signer, authority: Authority, server: Pair, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Serve the keys over TLS, by a certificate of an authority that the machine knows, or does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert, server.key)
    handler = type("Handler", (Keys,), {"content": signer.jwks()})
    with HTTPServer(("127.0.0.1", 0), handler) as serving:
        serving.socket = context.wrap_socket(serving.socket, server_side=True)
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.cert) if request.param else os.devnull)
        yield f"https://localhost:{serving.server_address[1]}/keys"
        serving.shutdown()
        thread.join()


def test_a_gateway_fetches_the_keys_and_holds_the_rights(
    request: pytest.FixtureRequest, signer: Signer, url: str, authority: Authority, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    text = FILE.format(jwks=url)
    if "roots" in request.node.name:
        text = text.replace(f'"{url}"', f'"{url}"\nroot_certificates = "{authority.cert}"')
    path.write_text(text)
    hub = Hub(runtime="inline").security(tokens=path).emitter(lambda batch: None, name="nothing")
    with hub.start(grpc_addr="127.0.0.1:0", admin_addr="off") as pipeline:
        deadline = time.monotonic() + 30
        while (said := send(str(pipeline.address), signer.token(), "pod-1")) != "OK":
            assert "is not known yet" in said
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert send(str(pipeline.address), signer.token(), "other").startswith("PERMISSION_DENIED")
        assert send(str(pipeline.address), signer.token(exp=1), "pod-1").startswith("UNAUTHENTICATED")


def send(address: str, token: str, source: str) -> str:
    import grpc

    from polku.v1.gateway_pb2 import IngestEvent
    from polku.v1.gateway_pb2_grpc import GatewayStub

    with grpc.insecure_channel(address) as channel:
        try:
            request = IngestEvent(event=new_event("a", source=source))
            GatewayStub(channel).SendEvent(request, timeout=30, metadata=(("authorization", f"Bearer {token}"),))
        except grpc.RpcError as error:
            failure: Any = error
            return f"{failure.code().name} {failure.details()}"
    return "OK"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("issuers = 5", "issuers: is no table"),
        ('[issuers."https://a"]\naudience = "x"', "jwks: is missing"),
        ('[issuers."https://a"]\naudience = "x"\njwks = "k"\nkey = 1', "and nothing else"),
        ('[issuers."https://a"]\naudience = "x"\njwks = "http://a/keys"', "write https://"),
        ('[issuers."https://a"]\naudience = "x"\njwks = "k"\nroot_certificates = "r"', "for a `jwks` with https://"),
        ('[issuers."https://a"]\naudience = "x"\njwks = "k"\nalgorithms = ["HS256"]', "choose among RS256"),
        ('[a]\njwt = [{ issuer = "https://a", subjects = ["x"] }]', "issuer='https://a' is not there"),
        ('[a]\njwt = [{ issuer = "https://a" }]', "must be a list of"),
        ("[a]\njwt = 5", "must be a list of"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(text: str, message: str) -> None:
    with pytest.raises(PlanError) as caught:
        parse(text)
    assert message in str(caught.value)
