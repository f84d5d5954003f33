"""Which alert rules fire, by Prometheus' own `promtool`, when what two looks at a pipeline showed goes on.

Counters go on rising, each quarter of a minute, by what they rose between the looks; gauges of seconds that rise count
on with the clock; the others stay. So a rule that must hold for minutes is judged without waiting for them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from polku.monitoring.statistics import PipelineStatistics
from tests.monitoring.families import families

RULES = Path(__file__).parents[2] / "examples" / "monitoring" / "polku-alerts.yaml"
MINUTES = 20
BUSY = "PolkuSaturated"
_INTERVAL = 15

Series = dict[str, tuple[float, bool]]


class State(NamedTuple):
    """A name, what a pipeline showed before it came to it and in it, and the alerts that are to fire.

    Whether a part is at work all the time hangs on the machine: that is judged only where it is to fire.
    """

    name: str
    before: Series
    after: Series
    alerts: frozenset[str]


def series_of(tree: PipelineStatistics) -> Series:
    """Return the value of each series that a pipeline shows now, and whether it is a counter's."""
    found: Series = {}
    for family in families(tree):
        kind: Any = family
        for sample in kind.samples:
            labels = ",".join(f"{name}={json.dumps(value)}" for name, value in sample.labels.items())
            found[f"{sample.name}{{{labels}}}"] = float(sample.value), kind.type != "gauge"
    return found


def check(states: list[State], folder: Path) -> None:
    """Fail where other alerts fire in a state than are to: of any but those; skip without `promtool`."""
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool; install prometheus from your distribution")
    tests = [_test(state) for state in states]
    file = folder / "firing.json"  # which is YAML, too
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": f"{_INTERVAL}s", "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def _test(state: State) -> dict[str, object]:
    rest = "" if BUSY in state.alerts else f',alertname!="{BUSY}"'
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(state.alerts)]
    return {
        "interval": f"{_INTERVAL}s",
        "name": state.name,
        "input_series": [
            {"series": name, "values": _values(name, state.before, value, counts)}
            for name, (value, counts) in state.after.items()
        ],
        "promql_expr_test": [
            {
                "expr": f'group by (alertname) (ALERTS{{alertstate="firing"{rest}}})',
                "eval_time": f"{MINUTES}m",
                "exp_samples": expected,
            }
        ],
    }


def _values(name: str, before: Mapping[str, tuple[float, bool]], value: float, counts: bool) -> str:
    first, _ = before.get(name, (0.0, counts))
    grown = value - first
    if counts:
        step = max(0.0, grown)
    else:
        step = float(_INTERVAL) if "_seconds{" in name and grown > 0 and "timestamp" not in name else 0.0
    return f"{first:.6f} {value:.6f}+{step:.6f}x{MINUTES * 60 // _INTERVAL}"
