"""The settings of tokens and secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from polku import Deduplicator, Filter, Hub, PlanError, SettingError, Throttle
from polku.cli.settings import read_settings, unknown_variables
from polku.security.configuration import secret_of


def test_a_secret_may_stand_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    settings = read_settings({"POLKU_HTTP_TOKEN_FILE": str(path), "POLKU_PLUGIN_TOKEN_FILE": str(path)})
    assert (settings.http_token, settings.plugin_token) == ("s3cret", "s3cret")
    assert unknown_variables({"POLKU_HTTP_TOKEN_FILE": "x", "POLKU_PLUGIN_TOKEN_FILE": "x"}) == []
    assert secret_of({}, "POLKU_HTTP_TOKEN") is None


@pytest.mark.parametrize(
    ("content", "more", "fault"),
    [
        (None, {}, "cannot be read"),
        ("", {}, "is empty"),
        ("two words", {}, "write a bearer token"),
        ("s3cret", {"POLKU_HTTP_TOKEN": "other"}, "POLKU_HTTP_TOKEN is set too"),
    ],
)
def test_a_file_without_a_secret_is_named(
    tmp_path: Path, content: str | None, more: dict[str, str], fault: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingError, match=fault) as wrong:
        read_settings({"POLKU_HTTP_TOKEN_FILE": str(path), **more})
    assert "words" not in str(wrong.value)


def test_a_stamp_is_one_that_clients_cannot_write() -> None:
    with pytest.raises(PlanError, match="stamp='principal' must begin with"):
        Hub().security(stamp="principal")
    with pytest.raises(PlanError, match="tokens=3 must be the path"):
        Hub().security(tokens=3)  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="require='yes'"):
        Hub().security(require="yes")  # type: ignore[arg-type]


def test_state_that_clients_share_is_kept_by_principal() -> None:
    def components(hub: Hub) -> list[object]:
        return [middleware.component for stage in hub.plan().stages for middleware in stage.middleware]

    def hub() -> Hub:
        return Hub(runtime="inline").emitter(print)

    steps = [Deduplicator(ttl=5), Throttle(3), Deduplicator(per="tenant"), Filter(bool)]
    keyed = [Deduplicator(ttl=5, per="polku.principal"), Throttle(3, per="polku.principal"), *steps[2:]]
    secured = hub().security(tokens="tokens.toml")
    plain = hub()
    for step in steps:
        secured.middleware(step)
        plain.middleware(step)
    assert components(plain) == steps
    assert components(secured) == keyed
    assert secured.plan().stamp == "polku.principal"
    assert hub().security(tokens="tokens.toml").middleware(Filter(bool)).plan().stamp == ""


def test_the_plan_has_the_whole_path_of_the_tokens() -> None:
    plan = Hub(runtime="inline").emitter(print).security(tokens="tokens.toml", stamp="polku.principal").plan()
    assert plan.tokens == str(Path("tokens.toml").absolute())
    assert (plan.stamp, plan.require_security) == ("polku.principal", False)
