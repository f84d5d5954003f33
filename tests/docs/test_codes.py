"""The table of codes says what the gateway answers with each of them."""

from __future__ import annotations

import re

import pytest

from polku.codes import Code
from polku.errors import InputError
from polku.gateway.grpc_status import check_answer, status_of
from polku.gateway.http.answer import status_of as http_status_of
from polku.gateway.retry_hints import RETRY_SECONDS
from polku.rpc.status import StatusCode
from polku.v1.gateway_pb2 import Ack, AckError
from tests.packaging.conftest import ROOT

PAGE = (ROOT / "docs" / "http-and-grpc.md").read_text("utf-8")
TABLE = PAGE.partition("### Codes\n")[2].partition("\n\nWhere")[0]
ROWS = {
    code: [cell.strip() for cell in rest]
    for first, *rest in (row.strip("|").split("|") for row in TABLE.strip().splitlines()[2:])
    for code in re.findall(r"`([A-Z_]+)`", first)
}


def _refused(code: Code) -> Ack:
    return Ack(errors=[AckError(event_id="a", code=code, message="why")])


def test_every_code_has_its_row() -> None:
    assert ROWS.keys() == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_row_says_what_is_answered(code: Code) -> None:
    grpc, http, again = ROWS[code]
    seconds = re.findall(r"after ([0-9.]+) s", again)

    assert [float(text) for text in seconds] == ([RETRY_SECONDS[code]] if code in RETRY_SECONDS else [])
    assert again.startswith("yes") == (code in RETRY_SECONDS)
    if code is not Code.UNSUPPORTED:  # whether path, method or type is not supported, the HTTP server says itself
        assert http == f"{http_status_of(_refused(code))[0]}"
    if grpc.startswith("`OK`"):
        check_answer(_refused(code))
    else:
        assert status_of(InputError(code, "why")).code is StatusCode[grpc.strip("`")]


def test_the_page_names_the_codes_that_fail_a_call_of_which_every_event_was_refused() -> None:
    def fails(code: Code) -> bool:
        try:
            check_answer(_refused(code))
        except InputError:
            return True
        return False

    named = PAGE.partition("refused by the same one of ")[2].partition(". With")[0]
    assert set(re.findall(r"`([A-Z_]+)`", named)) == {code for code in Code if fails(code)}


def test_the_protocol_names_every_code() -> None:
    proto = (ROOT / "proto" / "polku" / "v1" / "gateway.proto").read_text("utf-8")
    comment = proto.partition("One word of a closed")[2].partition("string code")[0]
    again, _, others = comment.partition("To be fixed")
    assert set(re.findall(r"[A-Z_]{6,}", again)) == set(RETRY_SECONDS)
    assert set(re.findall(r"[A-Z_]{6,}", again + others)) == set(Code)
