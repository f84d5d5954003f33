"""The plugin keeps the contract: needs `polku` and pytest."""

import sys
from pathlib import Path

from polku.testing import assert_plugin, plugin_process


def test_the_plugin_keeps_the_contract():
    with plugin_process(sys.executable, "plugin.py", cwd=Path(__file__).parent) as plugin:
        assert_plugin(plugin.address, sample=b"info hello\nerror oh no\n")
