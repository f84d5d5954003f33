"""The Grafana board and the alert rules: made from the table, and each expression tried on what a pipeline shows."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polku.monitoring.metrics import METRICS, written_name
from tests.monitoring.eventful import eventful, happen
from tests.support.ports import free_port

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
BY_NEED = re.compile("polku_(replicas|scalings)")  # not there where nothing changes by need
CHOICES = {"$pipeline": ".*", "$__rate_interval": "5m"}
NEVER = {
    "PolkuNotReady",
    "PolkuEventsDamaged",
    "PolkuDeadLettersForgotten",
    "PolkuGuessing",
    "PolkuRestarts",
    "PolkuJournalFault",
    "PolkuFilesStale",
    "PolkuCertificateEnds",
    "PolkuTokenEnds",
    "PolkuReloadRefused",
    "PolkuScrapeFails",
}
NEVER |= {"PolkuStageStuck", "PolkuSaturated", "PolkuLagging", "PolkuNoProgress", "PolkuSourceAway"}


def generator() -> Any:
    spec = importlib.util.spec_from_file_location("generate", FOLDER / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def board() -> list[str]:
    """Return the expressions of the board, with its variables filled in."""
    panels = json.loads((FOLDER / "polku-board.json").read_text())["panels"]
    found = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    for variable, choice in CHOICES.items():
        found = [expr.replace(variable, choice) for expr in found]
    return found


def alerts() -> dict[str, str]:
    """Return the expressions of the rules, by name."""
    text = (FOLDER / "polku-alerts.yaml").read_text()
    return {name: json.loads(expr) for name, expr in re.findall(r"- alert: (\w+)\n +expr: (.+)", text)}


def test_the_files_are_those_that_the_script_writes(tmp_path: Path) -> None:
    generator().main(tmp_path)
    for name in ("polku-board.json", "polku-alerts.yaml"):
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), f"run {FOLDER / 'generate.py'}"


def test_every_metric_is_on_the_board_and_nothing_else() -> None:
    table = {written_name(metric): metric for metric in METRICS if metric.kind != "histogram"}
    table |= {f"{metric.name}_bucket": metric for metric in METRICS if metric.kind == "histogram"}
    shown = {name for expr in board() for name in re.findall(r"polku_\w+", expr)}
    assert shown == set(table)
    for expr in [*board(), *alerts().values()]:
        names = re.findall(r"polku_\w+", expr)
        labels = {"le", *(label for name in names for label in table[name].labels)}
        labels |= {"job"} if expr.startswith("up{") else set()
        grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", expr) for label in group.split(",")}
        assert grouped <= labels, expr
        assert set(re.findall(r'(\w+)=~?"', expr)) <= labels, expr


def test_a_panel_is_where_no_other_is() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads((FOLDER / "polku-board.json").read_text())["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells


class Prometheus:
    """A Prometheus that scrapes one address, once it has done so twice."""

    def __init__(self, folder: Path, target: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        often = "scrape_interval: 200ms\n  evaluation_interval: 1s"
        configuration = (FOLDER / "prometheus.yml").read_text().replace("scrape_interval: 15s", often)
        (folder / "prometheus.yml").write_text(configuration.replace("127.0.0.1:50052", target))
        rules = (FOLDER / "polku-alerts.yaml").read_text()
        (folder / "polku-alerts.yaml").write_text(re.sub(r"for: \d+s", "for: 0s", rules))  # see `test_alerts.py`
        options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        options.append(f"--web.listen-address={self.address}")
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["prometheus", *options], stdout=log, stderr=log)

    def query(self, expr: str) -> list[Any]:
        url = f"http://{self.address}/api/v1/query?{urllib.parse.urlencode({'query': expr})}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return list(found["data"]["result"])

    def wait_for(self, expr: str) -> None:
        limit = time.monotonic() + 30
        while True:
            try:
                if self.query(expr):
                    return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < limit, f"{expr}: {self.log.read_text()}"
            time.sleep(0.1)


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Prometheus]:
    """Run a pipeline in which everything happens, and a Prometheus that has seen it before and after."""
    if shutil.which("prometheus") is None:
        pytest.skip("there is no prometheus; install it from your distribution")
    with eventful(str(tmp_path / "journal.db")).start(runtime="inline", admin_addr="127.0.0.1:0") as pipeline:
        prometheus = Prometheus(tmp_path, str(pipeline.admin_address))
        try:
            prometheus.wait_for("polku_uptime_seconds > 0")
            happen(pipeline)
            prometheus.wait_for("polku_emitter_circuit == 2")
            prometheus.wait_for('polku_refused_events_total{code="INGESTOR_ERROR"}')  # the last thing that happens
            happen(pipeline)
            prometheus.wait_for("increase(polku_outlet_dropped_events_total[1m]) > 0")
            yield prometheus
        finally:
            prometheus.process.terminate()
            prometheus.process.wait(120)
            pipeline.stop(timeout=0.0)


def test_a_prometheus_reads_every_expression(scraped: Prometheus) -> None:
    (target,) = scraped.query("up")
    assert target["value"][1] == "1"
    for expr in board():
        scraped.query(expr) if BY_NEED.search(expr) else scraped.wait_for(expr)
    for name, expr in alerts().items():
        scraped.query(expr) if name in NEVER else scraped.wait_for(expr)
    with urllib.request.urlopen(f"http://{scraped.address}/api/v1/rules", timeout=30) as answer:
        (group,) = json.load(answer)["data"]["groups"]
    assert {rule["name"] for rule in group["rules"]} == set(alerts())
    for name in alerts().keys() - NEVER:
        scraped.wait_for(f'ALERTS{{alertname="{name}",alertstate="firing"}}')
    with urllib.request.urlopen(f"http://{scraped.address}/api/v1/alerts", timeout=30) as answer:
        told = {one["labels"]["alertname"]: one["annotations"] for one in json.load(answer)["data"]["alerts"]}
    assert told["PolkuDestinationAway"] == {"summary": "the destination of away takes nothing"}
    assert not [text for text in told.values() if "error" in str(text)]  # a template that cannot be filled in
    assert {rule.get("lastError", "") for rule in group["rules"]} == {""}


def test_the_rules_are_what_prometheus_checks() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("there is no promtool; install prometheus from your distribution")
    done = subprocess.run(["promtool", "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
