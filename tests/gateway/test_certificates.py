"""The files of the gateway's certificates: refused by name, read again when they change, and followed to their end."""

from __future__ import annotations

import logging
import os
import pickle
import ssl
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polku import Hub, PlanError, SettingError, Tls
from polku.gateway.certificates import Certificates
from polku.gateway.expiry import valid_until
from polku.gateway.tls import tls_from
from tests.support.authority import Authority, Pair, put, replace


def test_a_new_file_that_is_bad_keeps_the_old_one_and_is_named(
    tmp_path: Path, server: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    used = put(server, tmp_path)
    certificates = Certificates(Tls(used.cert, used.key))
    context = certificates.context("h2")

    replace(Pair(authority.issue("next").cert, server.key), used)
    for _ in range(5):
        certificates.look()
    assert certificates.context("h2") is context
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(lines) == 1
    assert str(used.key) in lines[0]
    assert "name the key that it was made with" in lines[0]
    assert certificates.fault

    replace(server, used)
    certificates.look()
    assert certificates.context("h2") is not context
    assert not certificates.fault


def test_files_that_are_replaced_one_after_the_other_are_no_fault(
    tmp_path: Path, server: Pair, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    used = put(server, tmp_path)
    certificates = Certificates(Tls(used.cert, used.key))
    new = authority.issue("next")
    replace(Pair(new.cert, server.key), used)
    certificates.look()
    replace(new, used)
    certificates.look()
    assert certificates.pems.chain == new.cert.read_bytes()
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path, server: Pair, authority: Authority) -> None:
    """Kubernetes swaps the link to the folder of a mounted secret."""
    new = authority.issue("next")
    for name, pair in (("one", server), ("two", new)):
        (tmp_path / name).mkdir()
        put(pair, tmp_path / name)
    (tmp_path / "data").symlink_to("one")
    certificates = Certificates(Tls(tmp_path / "data" / "tls.crt", tmp_path / "data" / "tls.key"))
    (tmp_path / "next").symlink_to("two")
    os.replace(tmp_path / "next", tmp_path / "data")
    certificates.look()
    assert certificates.pems.chain == new.cert.read_bytes()


def test_files_that_cannot_be_used_are_refused_by_name(
    tmp_path: Path, server: Pair, stranger: Pair, authority: Authority
) -> None:
    def refuse(tls: Tls, message: str) -> None:
        with pytest.raises(SettingError, match=message):
            Certificates(tls)

    refuse(Tls(tmp_path / "none", server.key), r"tls_cert='.*none': cannot be read \(No such file.*\); name a PEM file")
    refuse(Tls(server.cert, tmp_path), r"tls_key='.*': cannot be read \(Is a directory\)")
    refuse(Tls(server.cert, stranger.key), r"tls_key='.*': is not the key of .*; name the key that it was made with")
    refuse(Tls(server.cert, server.cert), r"tls_key='.*': has no PEM block `BEGIN PRIVATE KEY`")
    refuse(Tls(server.cert, server.key, client_ca=server.key), r"tls_client_ca='.*': has no PEM block")
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    refuse(Tls(broken, server.key), r"tls_cert='.*broken.pem': cannot be used with .*; write both as PEM")
    refuse(Tls(server.cert, server.key, client_ca=broken), r"tls_client_ca='.*broken.pem': cannot be used")
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(server.key), "-aes256", "-passout", "pass:x", "-out", str(locked)]
    subprocess.run(command, check=True, capture_output=True)
    refuse(Tls(server.cert, locked), r"tls_key='.*locked.key': is protected by a passphrase; write it without one")


@pytest.mark.parametrize(("days", "said"), [(36_500, ""), (30, ""), (10, "expires on"), (-1, "expired on")])
def test_the_end_of_a_certificate_is_told_in_time(
    days: int, said: str, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    pair = authority.issue("ending", days=days)
    certificates = Certificates(Tls(pair.cert, pair.key))
    now = datetime.now(UTC)
    assert certificates.expires is not None
    assert abs(certificates.expires - now - timedelta(days=days)) < timedelta(minutes=5)
    assert said in certificates.expiry(now)
    assert bool(said) == bool(certificates.expiry(now))
    for hours in (0, 1, 25):
        certificates._warn(now + timedelta(hours=hours))
    assert caplog.text.count("renew it") == (2 if said else 0)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_an_error_of_value(content: bytes) -> None:
    try:
        valid_until(ssl.DER_cert_to_PEM_cert(b"\x30" + content))
    except ValueError:
        return


def test_values_that_can_never_work_are_refused_by_the_plan() -> None:
    nothing: Any = ""
    with pytest.raises(PlanError, match="Tls: key='' must be the path of a PEM file"):
        Tls("cert.pem", nothing)
    wrong: Any = "perhaps"
    with pytest.raises(PlanError, match="client_auth='perhaps' is not known"):
        Tls("cert.pem", "key.pem", client_auth=wrong)
    with pytest.raises(PlanError, match="needs a client_ca"):
        Tls("cert.pem", "key.pem", client_auth="optional")
    with pytest.raises(PlanError, match=r"security: tls='cert.pem'"):
        Hub().security(tls="cert.pem")  # type: ignore[arg-type]


def test_paths_mean_the_same_in_every_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    tls = Tls("cert.pem", "key.pem")
    assert tls.cert == str(tmp_path / "cert.pem")
    assert pickle.loads(pickle.dumps(tls)) == tls


def test_settings_that_lack_another_one_name_it() -> None:
    assert tls_from(cert=None, key=None, client_ca=None) is None
    with pytest.raises(SettingError, match="POLKU_TLS_KEY='': is missing"):
        tls_from(cert="a", key=None, client_ca=None)
    with pytest.raises(SettingError, match="POLKU_TLS_CERT='': is missing"):
        tls_from(cert=None, key="a", client_ca=None)
    with pytest.raises(SettingError, match="POLKU_TLS_CLIENT_AUTH='optional': needs POLKU_TLS_CLIENT_CA"):
        tls_from(cert="a", key="b", client_ca=None, client_auth="optional")
    with pytest.raises(SettingError, match="POLKU_TLS_CLIENT_AUTH='maybe': choose one of required, optional"):
        tls_from(cert="a", key="b", client_ca="c", client_auth="maybe")
