"""What is said of the settings of a GrpcEmitter that are wrong."""

from __future__ import annotations

from typing import Any

import pytest

from polku import GrpcEmitter, PlanError


@pytest.mark.parametrize(
    ("endpoints", "options", "message"),
    [
        ([], {}, "endpoints"),
        (None, {}, "endpoints"),
        ("localhost", {}, "endpoint='localhost' has no port"),
        ("ftp://host:1", {}, "endpoint='ftp://host:1'"),
        ("http://host:1/path", {}, "endpoint="),
        ("host:1", {"timeout": 0}, "timeout=0"),
        ("host:1", {"window": 0}, "window=0"),
        ("host:1", {"token": "two\nlines"}, "token must be"),
        ("host:1", {"token": 5}, "token must be"),
        ("host:1", {"root_certificates": 5}, "root_certificates must be"),
    ],
)
def test_a_wrong_setting_is_named(endpoints: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError, match="GrpcEmitter") as caught:
        GrpcEmitter(endpoints, **options)
    assert message in str(caught.value)
