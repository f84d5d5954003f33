"""What users test their plugins with.

```python
from polku.testing import assert_plugin, plugin_process


def test_my_plugin_keeps_the_contract():
    with plugin_process("python", "plugin.py") as plugin:
        assert_plugin(plugin.address, sample=b"one line of my format")
```
"""

from __future__ import annotations

from polku.testing.findings import Finding, Report, Verdict
from polku.testing.plugins import assert_plugin, check_plugin
from polku.testing.process import PluginProcess, plugin_process

__all__ = [
    "Finding",
    "PluginProcess",
    "Report",
    "Verdict",
    "assert_plugin",
    "check_plugin",
    "plugin_process",
]
