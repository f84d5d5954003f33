"""`cluster.yaml` is what Ray's launcher takes, as far as one machine can tell."""

from __future__ import annotations

import mmap
import os
import re
import shlex
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

import polku
from polku.actors.options import SYSTEM_CONFIG
from tests.packaging.conftest import ROOT

TEXT = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
CONFIG: dict[str, Any] = yaml.safe_load(TEXT)
COMMANDS = [
    *CONFIG["setup_commands"],
    *CONFIG["head_start_ray_commands"],
    *CONFIG["worker_start_ray_commands"],
]
LAUNCHES = [command for command in COMMANDS if "ray start" in command]


def _for_aws() -> dict[str, Any]:
    """Take the file's own advice for AWS: its last comment in place of the provider."""
    comment = TEXT[TEXT.index("# provider:\n#   type: aws") :]
    aws: dict[str, Any] = yaml.safe_load(re.sub(r"^# ?", "", comment, flags=re.MULTILINE))
    for node_type in aws["available_node_types"].values():
        node_type["resources"] = {}  # the launcher asks AWS what the instance has
    return CONFIG | aws


@pytest.mark.parametrize("config", [CONFIG, _for_aws()], ids=["own machines", "aws"])
def test_rays_launcher_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)

    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert prepared["max_workers"] >= 2
    assert prepared["head_start_ray_commands"] == CONFIG["head_start_ray_commands"]


def test_a_key_that_ray_does_not_know_is_refused() -> None:
    with pytest.raises(Exception, match="Additional properties are not allowed"):
        validate_config(prepare_config(CONFIG | {"head_start_commands": []}))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_valid_shell(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", f"({command})"], check=True)


@pytest.mark.parametrize("command", LAUNCHES, ids=["head", "worker"])
def test_ray_start_knows_the_options(command: str) -> None:
    words = shlex.split(command)
    with warnings.catch_warnings(action="ignore"):  # it would give up importing `ray.serve` half way, and say nothing
        from ray.scripts.scripts import start

    arguments = words[words.index("start") + 1 :]

    assert start.make_context("start", arguments).params["address" if "--head" not in words else "head"]


def test_ray_knows_the_variables() -> None:
    names = set(re.findall(r"\b(RAY_[a-z_]+)=", " ".join(COMMANDS)))
    binary = Path(ray.__file__).with_name("_raylet.so")

    with binary.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as code:
        assert {name for name in names if code.find(f"{name}\0".encode()) < 0} == set()
    assert {f"RAY_health_check_{name}" for name in ("period_ms", "timeout_ms", "failure_threshold")} < names


def test_the_cluster_has_the_settings_of_a_ray_that_polku_starts() -> None:
    for command in [*LAUNCHES, CONFIG["head_start_ray_commands"][-1]]:
        for name, value in SYSTEM_CONFIG.items():
            assert f"RAY_{name}={value}" in command.split()


@pytest.mark.matrix
@pytest.mark.timeout(900)
def test_a_machine_is_set_up_from_the_wheel_that_is_there(wheel: Path, tmp_path: Path) -> None:
    mounts: dict[str, str] = CONFIG["file_mounts"]
    (remote,) = (path for path, local in mounts.items() if local == "./dist")
    home = tmp_path / "home"
    folder = Path(remote.replace("~", str(home)))
    folder.mkdir(parents=True)
    shutil.copy(wheel, folder)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    for command in CONFIG["setup_commands"]:
        subprocess.run(["bash", "-c", command], env={**kept, "HOME": str(home)}, check=True)

    said = [
        subprocess.run([home / "polku/bin" / name, "--version"], capture_output=True, text=True, check=True).stdout
        for name in ("polku", "ray")
    ]
    assert said[0] == f"polku {polku.__version__}\n"
    assert ray.__version__ in said[1]


def test_the_gateway_starts_after_ray_and_outlives_the_shell() -> None:
    commands: list[str] = CONFIG["head_start_ray_commands"]

    assert "polku serve" in commands[-1]
    assert "ray start --head" in commands[-2]
    assert "setsid nohup" in commands[-1]
    assert commands[-1].endswith("&")
