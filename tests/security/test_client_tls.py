"""What a client of TLS trusts and shows."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from polku import Certificate, PlanError
from polku.security.client_tls import ClientTls, check_client_tls
from tests.support.authority import Authority, put, replace


def test_files_and_bytes_do_the_same(authority: Authority) -> None:
    own = authority.issue("own")
    paths = ClientTls(authority.cert, Certificate(own.cert, str(own.key)), protocols=["h2"])
    contents = ClientTls(authority.cert.read_bytes(), Certificate(own.cert.read_bytes(), own.key.read_bytes()))
    assert paths.pems() == contents.pems()
    assert [len(tls.context().get_ca_certs()) for tls in (paths, contents)] == [1, 1]
    assert ClientTls(None).pems() == (None, None, None)
    assert ClientTls(None).context().check_hostname


def test_a_file_that_changes_is_read_again_and_the_last_good_one_stays(
    authority: Authority, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = authority.issue("own"), authority.issue("other")
    used = put(own, tmp_path)
    tls = ClientTls(authority.cert, Certificate(used.cert, used.key))
    first = tls.context()
    assert tls.context() is first
    shutil.copy(other.key, used.key)  # one of the two: they do not fit
    os.utime(used.key, ns=(1, 1))
    with caplog.at_level(logging.ERROR):
        assert tls.context() is first
    assert "the last good files stay in use: certificate: chain and key cannot be used" in caplog.text
    replace(other, used)
    assert tls.context() is not first
    assert tls.pems().chain == other.cert.read_bytes()


def test_a_file_of_roots_that_is_being_written_does_not_stand_for_the_system_s(
    authority: Authority, tmp_path: Path
) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_bytes(b"")
    tls = ClientTls(roots)
    with pytest.raises(ConnectionError, match=r"root_certificates: cannot be used \(there are none\)"):
        tls.context()
    roots.write_bytes(authority.cert.read_bytes())
    first = tls.context()
    roots.write_bytes(b"\n")
    assert tls.context() is first


def test_what_cannot_be_used_is_named(authority: Authority, tmp_path: Path) -> None:
    own, other = authority.issue("own"), authority.issue("other")
    with pytest.raises(ConnectionError, match="root_certificates='/nowhere': cannot be read"):
        ClientTls("/nowhere").context()
    with pytest.raises(ConnectionError, match="root_certificates: cannot be used"):
        ClientTls(b"-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n").context()
    with pytest.raises(ConnectionError, match=r"certificate: chain and key cannot be used \(KEY_VALUES_MISMATCH\)"):
        ClientTls(None, Certificate(own.cert, other.key)).context()
    locked = tmp_path / "locked.key"
    command = ["openssl", "pkey", "-in", str(own.key), "-out", str(locked), "-aes256", "-passout", "pass:x"]
    subprocess.run(command, check=True, capture_output=True, timeout=240)
    with pytest.raises(ConnectionError, match="is protected by a passphrase"):
        ClientTls(None, Certificate(own.cert, locked)).context()


@pytest.mark.parametrize(
    ("roots", "certificate", "message"),
    [
        (5, None, "root_certificates must be the path of a PEM file, or its bytes"),
        ("", None, "root_certificates must be"),
        (
            "-----BEGIN CERTIFICATE-----",
            None,
            "root_certificates is the text of a PEM file; give its path, or its bytes",
        ),
        (None, ("a", "b"), r"certificate must be a polku.Certificate\(chain, key\)"),
    ],
)
def test_a_wrong_setting_is_named(roots: Any, certificate: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        check_client_tls("GrpcEmitter", roots, certificate)
    with pytest.raises(PlanError, match="chain must be"):
        Certificate(None, b"key")  # type: ignore[arg-type]


def test_the_key_is_not_shown() -> None:
    assert "private" not in repr(Certificate("chain.pem", b"private"))
