"""Secrets by reference."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from polku import MisconfiguredError, PlanError, Secret
from polku.security.secret import reveal


def test_a_variable_is_read_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = Secret("env:PARTNER_TOKEN")
    with pytest.raises(MisconfiguredError, match=r"env:PARTNER_TOKEN.*is not set; set it where this runs"):
        secret.read()
    monkeypatch.setenv("PARTNER_TOKEN", "t0k")
    assert (secret.read(), reveal(secret), reveal("plain")) == ("t0k", "t0k", "plain")


def test_a_file_is_read_again_and_its_last_line_break_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "token"
    secret = Secret(f"file:{path}")
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        secret.read()
    path.write_text("one\r\n")
    assert secret.read() == "one"
    path.write_text("two\nlines\n")
    assert secret.read() == "two\nlines"
    path.write_text("\n")
    with pytest.raises(MisconfiguredError, match="is empty"):
        secret.read()
    path.write_bytes(b"\xff")
    with pytest.raises(MisconfiguredError, match="not UTF-8"):
        secret.read()


def test_neither_its_text_nor_its_pickle_has_the_value(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("t0k")
    secret = Secret(f"file:{path}")
    assert secret.read() == "t0k"
    assert repr(secret) == str(secret) == f"Secret('file:{path}': ***)"
    assert b"t0k" not in pickle.dumps(secret)
    assert pickle.loads(pickle.dumps(secret)) == secret


@pytest.mark.parametrize("reference", ["", "t0k", "env:", "env:NOT A NAME", "file:", "vault:x", None, 1])
def test_what_is_no_reference_is_refused_without_being_shown(reference: object) -> None:
    with pytest.raises(PlanError, match=r"write Secret\('env:NAME'\)") as caught:
        Secret(reference)  # type: ignore[arg-type]
    assert "t0k" not in str(caught.value)
