"""How servers of gRPC say that a message is too large."""

from __future__ import annotations

import pytest

from polku.emit.grpc.size import Excess, is_excess_of_unknown_size, read_excess


@pytest.mark.parametrize(
    ("text", "excess"),
    [
        ("CLIENT: Received message larger than max (5000106 vs. 4194304)", Excess(5000106, 4194304)),
        ("grpc: received message larger than max (5000106 vs. 4194304)", Excess(5000106, 4194304)),
        ("Received message larger than max (5000106 vs 4194304)", Excess(5000106, 4194304)),
        ("Error, message length too large: found 5000106 bytes, the limit is: 4194304 bytes", Excess(5000106, 4194304)),
        ("gRPC message exceeds maximum size 4194304: 5000106", Excess(5000106, 4194304)),
        ("TOO_LARGE: message: 301301 bytes, the limit is 105536; send smaller ones", Excess(301301, 105536)),
        ("Received message exceeds the maximum configured message size.", None),
        ("the buffer is full", None),
    ],
)
def test_what_servers_of_grpc_say_is_understood(text: str, excess: Excess | None) -> None:
    assert read_excess(text) == excess
    assert is_excess_of_unknown_size(text) == ("maximum configured" in text)
