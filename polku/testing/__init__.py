"""What users test their pipelines and plugins with.

`run` sends events through a pipeline in this process and in virtual time, and says what became of each: `Flaky`,
`Refusing` and `Slow` stand in the place of destinations. The oracle checks what a pipeline did with the events that it
was sent. A plugin, in any language, is checked so:

```python
from polku.testing import assert_plugin, plugin_process


def test_my_plugin_keeps_the_contract():
    with plugin_process("python", "plugin.py") as plugin:
        assert_plugin(plugin.address, sample=b"one line of my format")
```

An emitter is checked against its real destination, which the test drives: see `polku.testing.emitters`; and a source
against its real origin: see `polku.testing.sources`. A whole pipeline is simulated in virtual time, with destinations
that fail: see `simulate`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polku.lazy import exports

if TYPE_CHECKING:
    from polku.testing.ahti import AhtiServer
    from polku.testing.conformance.check import assert_plugin, check_plugin
    from polku.testing.conformance.findings import Finding, Grade, Report
    from polku.testing.conformance.process import PluginProcess, plugin_process
    from polku.testing.emitters import (
        Ability,
        Conformance,
        Destination,
        EmitterCheck,
        assert_emitter,
        check_emitter,
        emitter_checks,
    )
    from polku.testing.oracle import Oracle, Verdict
    from polku.testing.simulation import Simulation, simulate
    from polku.testing.sink import Sink
    from polku.testing.sources import (
        Origin,
        OriginAbility,
        SourceCheck,
        SourceConformance,
        assert_source,
        check_source,
        source_checks,
    )
    from polku.testing.trial import (
        Dropped,
        Flaky,
        Outcome,
        Pause,
        Raw,
        Refused,
        Refusing,
        Slow,
        VirtualClock,
        run,
        run_async,
    )

__all__ = [
    "Ability",
    "AhtiServer",
    "Conformance",
    "Destination",
    "Dropped",
    "EmitterCheck",
    "Finding",
    "Flaky",
    "Grade",
    "Oracle",
    "Origin",
    "OriginAbility",
    "Outcome",
    "Pause",
    "PluginProcess",
    "Raw",
    "Refused",
    "Refusing",
    "Report",
    "Simulation",
    "Sink",
    "Slow",
    "SourceCheck",
    "SourceConformance",
    "Verdict",
    "VirtualClock",
    "assert_emitter",
    "assert_plugin",
    "assert_source",
    "check_emitter",
    "check_plugin",
    "check_source",
    "emitter_checks",
    "plugin_process",
    "run",
    "run_async",
    "simulate",
    "source_checks",
]

if not TYPE_CHECKING:
    __getattr__ = exports(
        __name__,
        {
            "polku.testing.ahti": ("AhtiServer",),
            "polku.testing.conformance.check": ("assert_plugin", "check_plugin"),
            "polku.testing.conformance.findings": ("Finding", "Grade", "Report"),
            "polku.testing.conformance.process": ("PluginProcess", "plugin_process"),
            "polku.testing.emitters": (
                "Ability",
                "Conformance",
                "Destination",
                "EmitterCheck",
                "assert_emitter",
                "check_emitter",
                "emitter_checks",
            ),
            "polku.testing.oracle": ("Oracle", "Verdict"),
            "polku.testing.sink": ("Sink",),
            "polku.testing.sources": (
                "Origin",
                "OriginAbility",
                "SourceCheck",
                "SourceConformance",
                "assert_source",
                "check_source",
                "source_checks",
            ),
            "polku.testing.simulation": ("Simulation", "simulate"),
            "polku.testing.trial": (
                "Dropped",
                "Flaky",
                "Outcome",
                "Pause",
                "Raw",
                "Refused",
                "Refusing",
                "Slow",
                "VirtualClock",
                "run",
                "run_async",
            ),
        },
    )
