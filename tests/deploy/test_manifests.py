"""The deployments in `examples/deploy` fit what they deploy, and the types that their projects publish."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from polku.cli.settings import unknown_variables
from tests.packaging.conftest import ROOT
from tests.support.server import polku_here

DEPLOY = ROOT / "examples" / "deploy"
CHART = DEPLOY / "helm" / "polku"
KUBERNETES = [*sorted((DEPLOY / "kubernetes").glob("*.yaml")), *sorted((DEPLOY / "kuberay").glob("*.yaml"))]
UNIT = DEPLOY / "systemd" / "polku.service"
CONTAINERFILE = (DEPLOY / "Containerfile").read_text("utf-8")
IGNORED = DEPLOY / "Containerfile.dockerignore"  # an engine looks for it next to the file, and not in the checkout
OWN = {"KAFKA", "UPSTREAM", "JOURNAL"}  # what pipeline.py reads
HELM: dict[str, list[str]] = {
    "plain": [],
    "everything": [
        *("--set", "journal.enabled=true,journal.storageClass=fast,podMonitor.enabled=true,env.UPSTREAM=http://x:1"),
        *("--set", "tls.secret=t,tls.clientCa=true,tokens.secret=u,nodeSelector.disk=ssd"),
        *("--set-file", f"pipeline={DEPLOY / 'pipeline.py'}"),
    ],
}
needs_helm = pytest.mark.skipif(shutil.which("helm") is None, reason="helm is not installed")


def _documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def _helm(options: list[str]) -> str:
    command = ["helm", "template", "polku", str(CHART), *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _pods(documents: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for document in documents:
        if document["kind"] in ("Deployment", "StatefulSet"):
            yield document["spec"]["template"]["spec"]


def _gateways() -> list[Any]:
    plain = [pytest.param(path.read_text("utf-8"), id=path.stem) for path in KUBERNETES[:3] if "pod" not in path.stem]
    return [*plain, *(pytest.param(name, id=f"helm-{name}", marks=needs_helm) for name in HELM)]


@pytest.fixture
def pod(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The pod of a gateway, of a file or of the chart."""
    text = _helm(HELM[request.param]) if request.param in HELM else request.param
    (found,) = _pods(_documents(text))
    return found


@pytest.mark.parametrize("pod", _gateways(), indirect=True)
def test_a_pod_keeps_to_what_it_needs_and_probes_what_is_there(pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    claimed = {"data"} if "JOURNAL" in variables else set()

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["terminationGracePeriodSeconds"] > float(variables["POLKU_DRAIN_SECONDS"]) + 5
    assert {name: variables[f"POLKU_{name.upper()}_ADDR"].rpartition(":")[2] for name in ports} == {
        name: str(port) for name, port in ports.items()
    }
    speaks = {"scheme": "HTTPS"} if "POLKU_TLS_CERT" in variables else {}
    assert variables["POLKU_ADMIN_ADDR"].startswith("https://") == bool(speaks)
    assert container["startupProbe"]["httpGet"] == {"path": "/health/live", "port": "admin", **speaks}
    assert container["livenessProbe"]["httpGet"] == {"path": "/health/live", "port": "admin", **speaks}
    assert container["readinessProbe"]["httpGet"] == {"path": "/health/ready", "port": "admin", **speaks}
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed
    assert unknown_variables(variables) == []
    assert {name for name in variables if not name.startswith("POLKU_")} <= OWN
    paths = [value for name, value in variables.items() if name.endswith(("_FILE", "_CERT", "_KEY", "_CA", "_TOKENS"))]
    assert all(any(path.startswith(m["mountPath"]) for m in container["volumeMounts"]) for path in paths)


@needs_helm
def test_the_chart_says_what_is_open_only_where_it_is() -> None:
    def insecure(*options: str) -> bool:
        return "POLKU_INSECURE" in _helm([*(("--set", ",".join(options)) if options else ())])

    assert insecure()
    assert insecure("tls.secret=t")
    assert insecure("tokens.secret=u")
    assert not insecure("tls.secret=t", "tokens.secret=u")
    assert not insecure("tls.secret=t", "tls.clientCa=true")


@pytest.mark.parametrize(
    "options", [pytest.param(None, id="files"), pytest.param(HELM["everything"], id="helm", marks=needs_helm)]
)
def test_prometheus_shows_the_token_that_sees_no_events(options: list[str] | None) -> None:
    text = "---\n".join(path.read_text("utf-8") for path in KUBERNETES) if options is None else _helm(options)
    documents = _documents(text)
    (shown,) = [
        endpoint["authorization"]["credentials"]["key"]
        for document in documents
        if document["kind"] == "PodMonitor"
        for endpoint in document["spec"]["podMetricsEndpoints"]
    ]
    for pod in _pods(documents):
        variables = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
        assert variables["POLKU_ADMIN_READ_TOKEN_FILE"] == f"/run/secrets/polku-admin/{shown}"
        assert variables["POLKU_ADMIN_TOKEN_FILE"] != variables["POLKU_ADMIN_READ_TOKEN_FILE"]


@needs_helm
def test_the_charts_pipeline_is_the_file() -> None:
    (found,) = [one for one in _documents(_helm(HELM["everything"])) if one["kind"] == "ConfigMap"]

    assert found["data"]["pipeline.py"] == (DEPLOY / "pipeline.py").read_text("utf-8")


@pytest.mark.parametrize("variables", [{}, {"UPSTREAM": "http://x:1", "JOURNAL": "journal.db"}, {"KAFKA": "k:9092"}])
def test_the_pipeline_is_a_plan(variables: dict[str, str], tmp_path: Path) -> None:
    if "KAFKA" in variables:
        pytest.importorskip("confluent_kafka", reason="the extra `kafka` is not installed")
    if "JOURNAL" in variables:
        variables = {**variables, "JOURNAL": str(tmp_path / "journal.db")}
    done = polku_here("validate", str(DEPLOY / "pipeline.py"), "--runtime", "inline", **variables)

    assert done.returncode == 0, done.stderr
    assert ("JOURNAL" in variables) == ("durable" in done.stdout)


def test_compose_gives_the_gateway_what_the_container_file_declares() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    composed = yaml.safe_load(text)
    gateway = composed["services"]["gateway"]
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text("utf-8"))["scrape_configs"][0]

    (metric,) = re.findall(r"has (polku_\w+)$", text, re.M)
    assert f"| `{metric}` |" in (ROOT / "docs" / "monitoring.md").read_text("utf-8")
    assert (gateway["read_only"], gateway["cap_drop"]) == (True, ["ALL"])
    assert (DEPLOY / gateway["build"]["context"] / gateway["build"]["dockerfile"]).resolve() == DEPLOY / "Containerfile"
    assert unknown_variables({k: v for k, v in gateway["environment"].items() if k not in OWN}) == []
    assert {entry.rpartition(":")[2] for entry in gateway["ports"]} <= set(_exposed())
    assert gateway["environment"]["JOURNAL"].startswith("/data/")
    assert (
        gateway["environment"]["POLKU_ADMIN_ADDR"].rpartition(":")[2]
        == (scraped["static_configs"][0]["targets"][0].rpartition(":")[2])
    )
    assert gateway["environment"]["POLKU_INSECURE"] == "1"
    assert all(entry.startswith("127.0.0.1:") for entry in gateway["ports"])
    assert scraped["authorization"]["credentials_file"] == gateway["environment"]["POLKU_ADMIN_READ_TOKEN_FILE"]


def _exposed() -> list[str]:
    (line,) = re.findall(r"^EXPOSE (.*)$", CONTAINERFILE, re.M)
    return str(line).split()


def test_the_container_file_copies_what_is_there() -> None:
    copied = re.findall(r"^COPY (?!--from)(\S+) ", CONTAINERFILE, re.M)

    assert [name for name in copied if name != "dist/" and not (ROOT / name).exists()] == []
    ignored, *taken = [line for line in IGNORED.read_text("utf-8").splitlines() if not line.startswith("#")]
    assert (ignored, [line.removeprefix("!") for line in taken]) == ("*", [name.rstrip("/") for name in copied])
    assert "USER 10001:10001" in CONTAINERFILE
    names = dict(re.findall(r"(POLKU_\w+)=(\S+)", CONTAINERFILE.partition("\nENV ")[2]))
    assert names.keys() == {"POLKU_RUNTIME", "POLKU_GRPC_ADDR", "POLKU_HTTP_ADDR"}  # what is meant, who runs it says
    assert unknown_variables(names) == []


def test_the_lanes_of_kuberay_are_at_the_port_of_the_service() -> None:
    (job,) = _documents((DEPLOY / "kuberay" / "rayjob.yaml").read_text("utf-8"))
    cluster, service = _documents((DEPLOY / "kuberay" / "raycluster.yaml").read_text("utf-8"))
    (port,) = service["spec"]["ports"]
    head = cluster["spec"]["headGroupSpec"]
    variables = {entry["name"]: entry["value"] for entry in head["template"]["spec"]["containers"][0]["env"]}

    assert f"--grpc-addr 0.0.0.0:{port['port']}" in job["spec"]["entrypoint"]
    assert job["spec"]["clusterSelector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert service["spec"]["selector"]["ray.io/cluster"] == cluster["metadata"]["name"]
    assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > 30
    launch = yaml.safe_load((ROOT / "cluster.yaml").read_text("utf-8"))["head_start_ray_commands"]
    same = dict(re.findall(r"(RAY_[a-z_]+)=(\d+)", " ".join(launch)))
    assert same.items() <= variables.items()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_the_unit_is_one_and_is_hardened(tmp_path: Path) -> None:
    unit = tmp_path / "polku.service"
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", UNIT.read_text("utf-8")))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(unit)]
    done = subprocess.run(judged, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-300:]


def test_the_unit_gives_the_drain_its_time() -> None:
    text = UNIT.read_text("utf-8")
    (drain,) = re.findall(r"--drain (\d+)", text)
    (stop,) = re.findall(r"^TimeoutStopSec=(\d+)", text, re.M)
    assert int(stop) > int(drain)
    assert {"Type=notify", "KillMode=mixed", "WatchdogSec=60"} <= set(text.splitlines())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("go") is None, reason="go is not installed")
def test_the_published_types_take_every_manifest_and_refuse_a_wrong_one(tmp_path: Path) -> None:
    program = tmp_path / "manifests"
    environment = {**os.environ, "GOFLAGS": "-modcacherw"}
    built = subprocess.run(
        ["go", "build", "-o", program, "."],
        cwd=Path(__file__).with_name("manifests"),
        env=environment,
        capture_output=True,
        text=True,
    )
    if built.returncode != 0:
        pytest.skip(f"the checker cannot be built here: {built.stderr[-300:]}")
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    (tmp_path / "deploy" / "admin-token").touch()
    files = [tmp_path / "deploy" / path.relative_to(DEPLOY) for path in KUBERNETES]
    files.append(tmp_path / "deploy" / "compose.yaml")
    if shutil.which("helm"):
        for name, options in HELM.items():
            files.append(tmp_path / f"helm-{name}.yaml")
            files[-1].write_text(_helm(options))
    done = subprocess.run([program, *files], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")

    for path in files:
        wrong = tmp_path / f"wrong-{path.name}"
        text = path.read_text("utf-8")
        for right, other in (("replicas:", "replica:"), ("path: /metrics", "paths: /metrics"), ("ports:", "port:")):
            text = text.replace(right, other)
        wrong.write_text(text.replace("entrypoint:", "entryPoint:"))
        assert subprocess.run([program, wrong], capture_output=True).returncode == 1, path.name
