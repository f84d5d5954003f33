"""The file of principals."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from polku import PlanError
from polku.security.token_file import file_lines, new_token, parse, token_digest

HASH = "sha256:" + token_digest("secret").hex()


def test_what_is_printed_for_a_new_token_is_read_again() -> None:
    token, rights = new_token(), {"sources": ["agent-*", 'a"b\\c'], "may_route": True, "events_per_second": 10.5}
    principals = parse(file_lines("agents", token, rights, date(2031, 2, 3)))
    known, principal = principals.by_token(token) or pytest.fail("it is not known")
    assert known.not_after == datetime(2031, 2, 3, tzinfo=UTC)
    assert principal.name == "agents"
    assert (principal.rights.sources, principal.rights.may_route) == (("agent-*", 'a"b\\c'), True)
    assert token not in file_lines("agents", token, rights, None)


def test_a_further_token_is_appended_wherever_the_file_ends() -> None:
    first, second = new_token(), new_token()
    text = file_lines("a.b/c", first, {"streams": 3}, None) + "[other]\nmay_route = true\n"
    principals = parse(text + file_lines("a.b/c", second, {}, None))
    owners = [principals.by_token(token) for token in (first, second)]
    assert [owner and (owner[1].name, owner[1].rights.streams) for owner in owners] == [("a.b/c", 3)] * 2
    assert principals.by_token("polku_other") is None
    assert len(first) > 40
    assert first.startswith("polku_")


def test_a_date_and_a_time_without_a_zone_are_utc() -> None:
    text = f'[a]\n[[a.tokens]]\nhash = "{HASH}"\nnot_after = 2031-02-03T04:05:06\n'
    found = parse(text).by_token("secret")
    assert found
    assert found[0].not_after == datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)


def test_a_time_of_another_zone_is_kept_and_told_as_utc() -> None:
    found = parse(f'[a]\n[[a.tokens]]\nhash = "{HASH}"\nnot_after = 2031-02-03T04:05:06+02:00\n').by_token("secret")
    assert found
    assert f"{found[0].not_after:%H:%M %Z}" == "02:05 UTC"


def test_certificates_are_found_by_patterns_in_the_order_of_the_file() -> None:
    principals = parse('[a]\ncertificates = ["spiffe://x/a/*"]\n[b]\ncertificates = ["*"]\n')
    names = [["spiffe://x/a/1"], ["host"], []]
    assert [found and found.name for found in map(principals.by_certificate, names)] == ["a", "b", None]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a", "is no TOML"),
        ("a = " + "[" * 5_000, "nested too deeply"),
        ("a = " + "9" * 5_000, "is no TOML"),
        (f"[a]\nbytes_per_second = {10**400}", "must be a number above 0"),
        (f"[[a.tokens]]\nhash = '{HASH}'\nnot_after = 0001-01-01T00:00:00+01:00", "is no time of UTC"),
        ("a = 1", "a=1: is no principal"),
        ("['a b']", "'a b' cannot be a principal's name"),
        ("[a]\nsource = 'x'", r"\[a\] source: is not known; did you mean sources\?"),
        ("[a]\nmay_route = 1", r"\[a\] may_route=1 must be true or false"),
        ("[a]\ntokens = 'x'", r"\[a\] tokens: must be tables; write \[\[a.tokens\]\]"),
        ("[a]\ncertificates = 'x'", r"certificates='x' must be a list"),
        ("[[a.tokens]]\nhash = 'abc'", r"\[\[a.tokens\]\] hash: must be 'sha256:' and 64 hexadecimal digits"),
        ("[[a.tokens]]\ntoken = 'abc'", "has `hash` and `not_after`, and nothing else"),
        (f"[[a.tokens]]\nhash = '{HASH}'\nnot_after = 3", "not_after=3 must be a date"),
        (f"[[a.tokens]]\nhash = '{HASH}'\n[[b.tokens]]\nhash = '{HASH}'", r"\[b\] has a token that \[a\] has too"),
    ],
)
def test_what_is_wrong_is_named_and_no_secret_is_shown(text: str, fault: str) -> None:
    with pytest.raises(PlanError, match=fault):
        parse(text)
