"""Certificate, authorities and token are replaced while clients send: nobody is refused, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from polku import Hub, Tls
from polku.gateway import certificates
from polku.security import authenticator
from polku.security.token_file import file_lines
from tests.security.rotation import Load, Shown, bundle, put_text, serves, wait_until
from tests.support.authority import Authority, put, replace
from tests.support.recorder import Recorder


@pytest.mark.parametrize(
    ("door", "runtime"),
    [
        ("native", "inline"),
        pytest.param("grpcio", "inline", marks=pytest.mark.slow),
        pytest.param("native", "ray", marks=pytest.mark.slow),
    ],
)
def test_what_both_sides_show_is_replaced_under_load(
    request: pytest.FixtureRequest,
    door: str,
    runtime: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: object,
) -> None:
    if runtime == "ray":
        request.getfixturevalue("ray_session")
    monkeypatch.setenv("POLKU_DOOR", door)
    monkeypatch.setattr(certificates, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(authenticator, "_LOOK_SECONDS", 0.05)
    old, new = Authority(tmp_path / "old", "old"), Authority(tmp_path / "new", "new")
    used, client_ca, tokens = put(old.issue("first"), tmp_path), tmp_path / "clients.pem", tmp_path / "tokens.toml"
    put_text(client_ca, bundle(old))
    first = file_lines("agents", "token-1", {"sources": ["rotation"]}, None)
    second = first + file_lines("agents", "token-2", {}, None)
    last = file_lines("agents", "token-2", {"sources": ["rotation"]}, None)
    put_text(tokens, first.encode())
    recorder = Recorder(tmp_path / "out")
    hub = Hub(runtime=runtime).emitter(recorder)
    hub.security(tls=Tls(str(used.cert), str(used.key), client_ca=str(client_ca)), tokens=tokens)
    with hub.start(grpc_addr="127.0.0.1:0", http_addr="127.0.0.1:0") as pipeline:
        address, http_address = str(pipeline.address), str(pipeline.http_address)
        shown = Shown(bundle(old), old.issue("client"), "token-1")
        newer = shown._replace(pair=new.issue("client"))
        with Load(address, http_address, shown).running() as load:
            load.show()
            # The certificate, and then the authority that has signed it.
            replace(old.issue("second"), used)
            load.show(roots=bundle(old, new))
            replace(new.issue("third"), used)
            wait_until(lambda: serves(address, load.shown._replace(roots=bundle(new))))
            load.show(roots=bundle(new))
            # The authority of clients: both, then the clients, then the new one alone.
            put_text(client_ca, bundle(old, new))
            wait_until(lambda: serves(address, newer._replace(roots=bundle(new))))
            load.show(pair=newer.pair)
            put_text(client_ca, bundle(new))
            wait_until(lambda: not serves(address, load.shown._replace(pair=shown.pair)))
            # The token: both, then the clients, then the new one alone.
            put_text(tokens, second.encode())
            wait_until(lambda: serves(address, load.shown._replace(token="token-2")))
            load.show(token="token-2")
            put_text(tokens, last.encode())
            wait_until(lambda: not serves(address, load.shown._replace(token="token-1")))
            load.show()
        assert load.refused == []
        assert min(load.sent[way] for way in ("stream", "call", "http")) >= 5
    stored = Counter(event.id for event in recorder.events() if "-" in event.id and len(event.id) < 25)
    assert [event_id for event_id in load.acknowledged if stored[event_id] != 1] == []
    assert len(load.acknowledged) == 200 * load.sent["stream"] + load.sent["call"] + load.sent["http"]
    print(f"{door}, {runtime}: {dict(load.sent)}, {len(load.acknowledged)} events, 0 refused, 0 lost")
