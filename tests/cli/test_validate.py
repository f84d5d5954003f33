"""`polku validate` and `polku graph` show what a file declares, or what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.programs import PIPELINE
from tests.support.authority import Authority
from tests.support.server import polku, polku_here

IMPORTS = "from polku import Hub, StdoutEmitter, Tls\n"


def test_validate_reads_the_files_of_the_certificate(tmp_path: Path) -> None:
    pair, other = Authority(tmp_path, "one").issue(), Authority(tmp_path, "two").issue()
    for key, status in ((pair.key, 0), (other.key, 1)):
        file = tmp_path / f"pipeline_{status}.py"  # one name in one second could be the file that is compiled already
        tls = f"Tls({str(pair.cert)!r}, {str(key)!r})"
        file.write_text(f"{IMPORTS}hub = Hub().security(tls={tls}).emitter(StdoutEmitter())\n")
        done = polku_here("validate", str(file), "--runtime", "inline")
        assert done.returncode == status, done.stderr
    ended = Authority(tmp_path, "three").issue(days=-1)
    file = tmp_path / "pipeline_late.py"
    tls = f"Tls({str(ended.cert)!r}, {str(ended.key)!r})"
    file.write_text(f"{IMPORTS}hub = Hub().security(tls={tls}).emitter(StdoutEmitter())\n")
    late = polku_here("validate", str(file), "--runtime", "inline")
    assert (late.returncode, "clients refuse it; renew it" in late.stderr) == (1, True)
    assert f"tls_key='{other.key}': is not the key of {pair.cert}" in done.stderr


def test_validate_prints_the_stages_or_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    good = polku_here("validate", str(file))
    assert good.returncode == 0
    assert "stage-1" in good.stdout
    assert "stdout" in good.stdout
    file.write_text(
        "from polku import Hub, Router, StdoutEmitter\n"
        "hub = Hub().middleware(Router().default('nowhere')).emitter(StdoutEmitter())"
    )
    bad = polku_here("validate", str(file))
    assert bad.returncode == 1
    assert "nowhere" in bad.stderr
    file.write_text("raise RuntimeError('while loading')")
    assert "while loading" in polku_here("validate", str(file)).stderr


USERS = """
import functools
from polku import Hub, Resilience

class Store:
    def emit(self, batch):
        pass

def file_of(batch):
    pass

class Ticks:
    name = "ticks"
    async def run(self, open_stream):
        pass

hub = Hub().source(Ticks()).emitter(Store()).emitter(file_of).emitter(lambda batch: None, name="quiet")
hub.emitter(functools.partial(file_of), name="part").emitter(Resilience(Store()), name="sure")
"""


def test_validate_shows_the_users_own_parts_by_their_names_and_alike_in_each_run(tmp_path: Path) -> None:
    file = tmp_path / "users.py"
    file.write_text(USERS)
    first, second = polku("validate", str(file)), polku_here("validate", str(file))
    assert first.stdout == second.stdout
    lines = first.stdout.splitlines()
    for shown in ("source    ticks: Ticks", "emitter   store: Store", "emitter   file_of: file_of"):
        assert shown in lines
    assert "emitter   quiet: lambda" in lines
    assert "emitter   part: file_of" in lines
    assert [line for line in lines if line.startswith("emitter   sure: Resilience(emitter=Store, ")]
    assert "0x" not in first.stdout


WEBHOOK = """
from polku import Hub, WebhookEmitter
hub = Hub().emitter(WebhookEmitter("https://me:secret@example.org/in?token=t0k3n"), name="partner"){more}
"""


def test_validate_shows_where_events_go_and_values_as_they_are_written(tmp_path: Path) -> None:
    (file := tmp_path / "hub.py").write_text(WEBHOOK.format(more=""))
    (line,) = [line for line in polku_here("validate", str(file)).stdout.splitlines() if line.startswith("emitter")]
    assert line.startswith("emitter   partner (https://example.org): WebhookEmitter(format='json', timeout=10.0, ")


def test_validate_warns_of_open_addresses_that_somebody_names(tmp_path: Path) -> None:
    (file := tmp_path / "hub.py").write_text(WEBHOOK.format(more=""))
    assert polku_here("validate", str(file)).stderr == ""
    assert "grpc 0.0.0.0:9 is open" in polku_here("validate", str(file), POLKU_GRPC_ADDR="0.0.0.0:9").stderr
    file.write_text(WEBHOOK.format(more=".listen(http_addr='0.0.0.0:8')"))
    assert "warning: http 0.0.0.0:8 is open" in polku_here("validate", str(file)).stderr
    file.write_text(WEBHOOK.format(more=".security(require=True)"))  # `polku run` would open the default address
    refused = polku_here("validate", str(file))
    assert (refused.returncode, "'0.0.0.0:50051'" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("package", "part", "command"),
    [
        ("confluent_kafka", "emitter(KafkaEmitter('t', bootstrap_servers='a:1'))", "pip install 'polku[kafka]'"),
        (
            "confluent_kafka",
            "source(KafkaSource(['t'], bootstrap_servers='a:1', group='g', decode='event'))",
            "polku[kafka]",
        ),
        ("obstore", "emitter(Resilience(S3Emitter('s3://bucket')))", "pip install 'polku[s3]'"),
        ("pyarrow", "emitter(S3Emitter('s3://bucket', format='parquet'))", "pip install 'polku[s3,parquet]'"),
    ],
)
def test_validate_fails_where_a_package_is_missing_that_the_plan_needs(
    package: str, part: str, command: str, tmp_path: Path
) -> None:
    file = tmp_path / "pipeline.py"
    absent = f"import sys\nsys.modules['{package}'] = None\n"  # importing it raises ImportError
    kinds = "Hub, KafkaEmitter, KafkaSource, Resilience, S3Emitter"
    file.write_text(f"{absent}from polku import {kinds}\nhub = Hub(runtime='inline').emitter(print).{part}\n")
    done = polku("validate", str(file))
    assert done.returncode == 1
    assert command in done.stderr
    assert done.stdout == ""


def test_validate_says_that_it_runs_the_file() -> None:
    assert "Run a Python file to build its plan, and start nothing" in polku("validate", "--help", COLUMNS="200").stdout


def test_graph_prints_mermaid(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(PIPELINE)
    drawn = polku_here("graph", str(file)).stdout
    assert drawn.startswith("flowchart LR")
    assert "stdout" in drawn


ARRANGED = """
from polku import Deduplicator, Filter, Hub, StdoutEmitter

def classify(event):
    pass

hub = Hub().chain().lanes(2).middleware(Filter(lambda event: True)).middleware(Deduplicator())
hub.middleware(classify, replicas=3, num_cpus=1).emitter(StdoutEmitter())
"""


def test_graph_and_validate_show_lanes_chains_replicas_and_shared_stages(tmp_path: Path) -> None:
    file = tmp_path / "pipeline.py"
    file.write_text(ARRANGED)
    drawn = polku_here("graph", str(file)).stdout.splitlines()
    boxes = [line.strip() for line in drawn if "subgraph" in line]
    assert boxes == ['subgraph lane_1["lane 1, one actor"]', 'subgraph lane_2["lane 2, one actor"]']
    for arrow in ("stage_1_1 --> stage_2", "stage_1_2 --> stage_2", "stage_2 --> stage_3_2", "stage_3_1 --> buffer_1"):
        assert f"  {arrow}" in drawn
    assert '  stage_2["Deduplicator"]' in drawn
    assert '  stage_3_2["classify<br/>3 replicas"]' in drawn
    shown = polku_here("validate", str(file)).stdout
    assert "2, side by side behind one port, each in one actor" in shown
    assert "Deduplicator (one for all lanes: keeps state, Deduplicator by id)" in shown
    assert "classify (needs 3 replicas, 1 CPUs)" in shown
    per_node = polku_here("validate", "--lanes", "per-node", str(file)).stdout
    assert "lanes     one on each node, at the same port, each in one actor" in per_node
    file.write_text(ARRANGED.replace(".chain().lanes(2)", ""))
    drawn = polku_here("graph", "--chain", "--lanes", "per-node", str(file)).stdout.splitlines()
    assert '  subgraph lane["lane of each node, one actor"]' in drawn
    assert "  stage_2 --> stage_3" in drawn
    for command in ("run", "validate", "graph"):
        refused = polku(command, "--lanes", "per_node", str(file))
        assert refused.returncode == 2
        assert "--lanes='per_node'" in refused.stderr
    inline = polku_here("validate", "--runtime", "inline", str(file)).stdout
    assert "stage-1   Filter(lambda) → Deduplicator\n" in inline
    assert "lanes" not in inline
    assert "replicas" not in inline
    file.write_text(ARRANGED.replace("Deduplicator())", "Deduplicator(), partitions=4)"))
    assert '  stage_2["Deduplicator<br/>4 partitions"]' in polku_here("graph", str(file)).stdout.splitlines()
    shown = polku_here("validate", str(file)).stdout
    assert "Deduplicator (needs 4 partitions) (the same for all lanes: keeps state, Deduplicator by id)" in shown
