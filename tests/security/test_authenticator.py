"""Who a client is, while the file changes."""

from __future__ import annotations

import logging
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from polku import SettingError
from polku.codes import Code
from polku.errors import InputError
from polku.security.authenticator import Authenticator
from polku.security.certificate_names import names_of, names_of_context
from polku.security.failures import Failures
from polku.security.token_file import Principals, file_lines
from tests.support.clock import FakeClock

AGENTS = file_lines("agents", "old", {"sources": ["agent-*"]}, date(2031, 1, 1))


def write(path: Path, text: str) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(text)
    os.replace(aside, path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.toml"
    path.write_text(AGENTS + '[hosts]\ncertificates = ["host-*"]\n')
    return path


def who(authenticator: Authenticator, authorization: str, *names: str) -> str:
    return authenticator.identify(authorization, names).account.name


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ((15,), ""),
        ((14,), "'a' ends on 2027-01-15 00:00 UTC; append a new one to the file"),
        ((-1,), "'a' ended on 2026-12-31 00:00 UTC; append"),
        ((3, 60), ""),  # rotated already
        ((3, None), ""),
        ((), ""),
    ],
)
def test_a_principal_whose_last_token_ends_soon_is_named(
    days: tuple[int | None, ...], said: str, tmp_path: Path
) -> None:
    now = datetime(2027, 1, 1, tzinfo=UTC)
    ends = [None if number is None else (now + timedelta(days=number)).date() for number in days]
    lines = [file_lines("a", f"t{place}", {}, end) for place, end in enumerate(ends)]
    (tmp_path / "t").write_text("[a]\n" + "".join(text.replace("[a]\n", "") for text in lines))
    authenticator = Authenticator(str(tmp_path / "t"))
    text = authenticator.expiry(now)
    assert said in text
    assert bool(text) == bool(said)
    lasts = None if not ends or None in ends else max(end for end in ends if end is not None)
    expected = 0.0 if lasts is None else datetime(lasts.year, lasts.month, lasts.day, tzinfo=UTC).timestamp()
    assert authenticator.token_ends_at == expected


def test_the_end_of_a_token_is_said_once_a_day_and_after_each_change(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = FakeClock()
    moment = datetime(2030, 12, 30, tzinfo=UTC).timestamp()
    authenticator = Authenticator(str(path), clock=lambda: moment + clock.monotonic())

    def said() -> int:
        authenticator._warn(datetime.fromtimestamp(moment + clock.monotonic(), UTC))
        return caplog.text.count("the last token of 'agents' ends on 2031-01-01")

    assert [said(), said()] == [1, 1]
    clock.advance(24 * 3600.0)
    assert said() == 2
    write(path, path.read_text() + "\n")
    authenticator.look()
    assert said() == 3


def test_a_token_counts_before_a_certificate(path: Path) -> None:
    authenticator = Authenticator(str(path))
    assert who(authenticator, "Bearer old") == "agents"
    assert who(authenticator, "bearer  old ", "host-1") == "agents"
    assert who(authenticator, "", "host-1") == "hosts"


@pytest.mark.parametrize(
    ("authorization", "names", "fault"),
    [
        ("", (), "authorization: there is none; send 'Bearer TOKEN'"),
        ("Basic b2xk", (), "is no bearer token"),
        ("Bearer", (), "is no bearer token"),
        ("Bearer wrong", ("host-1",), r"the token is not known \(any more\)"),
        ("", ("guest",), "no principal has a certificate of 'guest'"),
    ],
)
def test_who_is_not_known_learns_what_to_send(path: Path, authorization: str, names: tuple[str], fault: str) -> None:
    with pytest.raises(InputError, match=fault) as refused:
        Authenticator(str(path)).identify(authorization, names)
    assert refused.value.code is Code.UNAUTHENTICATED


def test_a_token_ends_at_its_time(path: Path) -> None:
    clock = FakeClock()
    authenticator = Authenticator(str(path), clock=lambda: 1_924_991_990 + clock.monotonic())
    clock.advance(0)
    identity = authenticator.identify("Bearer old")
    assert authenticator.is_valid(identity)
    clock.advance(20)
    assert not authenticator.is_valid(identity)
    with pytest.raises(InputError, match="the token of principal 'agents' ended on 2031-01-01 00:00 UTC"):
        authenticator.identify("Bearer old")


def test_a_file_that_is_written_in_place_is_read_once_it_stays_as_it_is(path: Path) -> None:
    authenticator = Authenticator(str(path))
    for text in ("", "[agents]\n", AGENTS.replace("agent-*", "other-*")):  # half a file is valid, and names nobody
        path.write_text(text)
        authenticator.look()
        assert authenticator.identify("Bearer old").account.rights.sources == ("agent-*",)
    authenticator.look()
    assert authenticator.identify("Bearer old").account.rights.sources == ("other-*",)


def test_tokens_are_rotated_without_a_gap(path: Path) -> None:
    authenticator = Authenticator(str(path))
    before = authenticator.identify("Bearer old")
    write(path, AGENTS + file_lines("agents", "new", {}, None))
    authenticator.look()
    assert not authenticator.is_valid(before)  # it is looked up again
    after = [authenticator.identify(f"Bearer {token}") for token in ("old", "new")]
    assert [identity.account is before.account for identity in after] == [True, True]
    write(path, file_lines("agents", "new", {"sources": ["other"]}, None))
    authenticator.look()
    with pytest.raises(InputError):
        authenticator.identify("Bearer old")
    assert authenticator.identify("Bearer new").account.rights.sources == ("other",)


def test_who_is_looked_up_while_the_file_changes_is_looked_up_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authenticator = Authenticator(str(path))
    by_token = Principals.by_token

    def slow(principals: Principals, token: str) -> object:
        found = by_token(principals, token)
        monkeypatch.setattr(Principals, "by_token", by_token)
        write(path, file_lines("agents", "new", {}, None))
        authenticator.look()  # as the thread does that reads the file
        return found

    monkeypatch.setattr(Principals, "by_token", slow)
    assert not authenticator.is_valid(authenticator.identify("Bearer old"))
    with pytest.raises(InputError):
        authenticator.identify("Bearer old")


def test_the_last_good_file_stays(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authenticator = Authenticator(str(path))
    write(path, "[agents")
    with caplog.at_level(logging.ERROR):
        authenticator.look()
        assert not caplog.records  # it may be half written
        authenticator.look()
        authenticator.look()
    assert [str(path) in record.getMessage() for record in caplog.records] == [True]
    assert "is no TOML" in authenticator.fault
    assert who(authenticator, "Bearer old") == "agents"
    path.unlink()
    authenticator.look()
    authenticator.look()
    assert "cannot be read" in authenticator.fault
    write(path, AGENTS)
    authenticator.look()
    assert authenticator.fault == ""


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"[a"])
def test_a_file_that_cannot_be_used_ends_the_start(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "tokens.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=r"tokens='.*tokens\.toml'"):
        Authenticator(str(path))


def test_who_fails_often_waits_longer_and_longer() -> None:
    clock = FakeClock()
    failures = Failures(clock.monotonic)
    pauses = [failures.add("10.0.0.1", "no token") for _ in range(20)]
    assert pauses[:5] == [0.0] * 5
    assert pauses[5:8] == [0.1, 0.2, 0.4]
    assert max(pauses) == pauses[-1] == 5.0
    assert failures.add("10.0.0.2", "no token") == 0.0
    clock.advance(61)
    assert failures.add("10.0.0.1", "no token") == 0.0
    assert failures.count == 22


def test_a_spiffe_id_counts_before_a_host_and_a_host_before_the_common_name() -> None:
    subject = ((("countryName", "FI"),), (("commonName", "common"),))
    hosts = (("DNS", "a.example"), ("DNS", "b.example"))
    assert names_of({"subject": subject}) == ("common",)
    assert names_of({"subject": subject, "subjectAltName": hosts}) == ("a.example", "b.example")
    spiffe = (("URI", "https://x"), ("URI", "spiffe://example.org/a"))
    assert names_of({"subject": subject, "subjectAltName": (*hosts, *spiffe)}) == ("spiffe://example.org/a",)
    assert names_of(None) == names_of({}) == ()
    context = {"x509_common_name": [b"common"], "x509_subject_alternative_name": [b"a.example", b"spiffe://e/a"]}
    assert names_of_context(context) == ("spiffe://e/a",)
    assert names_of_context({"x509_common_name": [b"common"]}) == ("common",)
