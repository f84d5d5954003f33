"""The Tab key: commands and options are completed by what click writes for each shell."""

from __future__ import annotations

import pytest

from tests.support.server import polku


@pytest.mark.parametrize(
    ("words", "found"),
    [("polku re", {"plain,record", "plain,replay"}), ("polku replay --aga", {"plain,--against"})],
)
def test_commands_and_options_are_completed(words: str, found: set[str]) -> None:
    at = str(len(words.split()) - 1)
    done = polku(_POLKU_COMPLETE="bash_complete", COMP_WORDS=words, COMP_CWORD=at)
    assert found <= set(done.stdout.splitlines()), done


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str) -> None:
    assert "_POLKU_COMPLETE" in polku(_POLKU_COMPLETE=f"{shell}_source").stdout
