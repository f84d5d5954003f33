"""Make what is released, check it, and try it: `make release`; or cut the changelog: `make cut VERSION=0.2.0`.

    release.py build [--out dist]     the wheels of polku and polku-core and the sdist, checked; what each wheel needs,
                                      with hashes; where `.venv-bom` has cyclonedx-bom, bills of materials; what an
                                      image is built of, with all of examples/deploy; all digests
    release.py install [--out dist]   each wheel in an environment of its own, for every Python that is here
    release.py cut VERSION            head the unreleased part of the changelog with the version, and set the version

`polku-core` has the same files as `polku` and does not depend on Ray (docs/install.md): no extra can take a dependency
away.
"""

from __future__ import annotations

import argparse
import base64
import csv
import datetime
import email
import hashlib
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
CORE = "polku-core"
# Not in polku-core: Ray; and what draws tables and bars on a terminal, which plain text replaces.
LEFT_OUT = ("ray", "rich")
# What the image of examples/deploy has.
EXTRAS = ("fast", "kafka")
DEPLOY = "examples/deploy"
SECRETS = ("admin-token",)  # what its files say to put next to them
HASHES = ROOT / ".ci" / "hashes.txt"
# cyclonedx-bom has an environment of its own: with what it brings, each `import ray` takes three seconds more.
BOM_PYTHON = ROOT / ".venv-bom" / "bin" / "python"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
NEEDED = ("py.typed", "actors/supervisor.py", "event/v1/event_pb2.pyi", "plugin/templates/go/go.sum", "cli/app.py")
PIPELINE = "from polku import Hub, StdoutEmitter\nhub = Hub(runtime='inline').emitter(StdoutEmitter())\n"


def main() -> None:
    """Do what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("build", "install", "cut"))
    parser.add_argument("version", nargs="?")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    arguments = parser.parse_args()
    if arguments.action == "cut":
        cut(ROOT, arguments.version or "", datetime.datetime.now(datetime.UTC).date())
        return
    out = arguments.out.resolve()
    faults = list(build(out)) if arguments.action == "build" else list(install(out))
    for fault in faults:
        print(f"release: {fault}", file=sys.stderr)
    sys.exit(1 if faults else 0)


# --- build and check -------------------------------------------------------------------------------------------------


def build(out: Path) -> Iterator[str]:
    """Build into an empty folder; yield what is wrong with it."""
    shutil.rmtree(out, ignore_errors=True)
    command = (sys.executable, "-m", "build", "--no-isolation")
    _run(*command, ROOT, "--outdir", out)
    sdist = next(out.glob("*.tar.gz"))
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        tree = next(Path(folder).iterdir())
        project = tree / "pyproject.toml"
        project.write_text(core_project(project.read_text("utf-8")), encoding="utf-8")
        _run(*command, tree, "--wheel", "--outdir", out)
    for wheel in out.glob("*.whl"):
        _write_requirements(wheel)
    write_context(out)
    files = sorted(path for path in out.iterdir())
    digests = "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)
    (out / "SHA256SUMS").write_text(digests, encoding="utf-8")
    yield from check(out)
    for path in files:
        print(f"{path.stat().st_size:>10,}  {path}")


def core_project(text: str) -> str:
    """Return `pyproject.toml` as that of `polku-core`."""
    text, names = re.subn(r'^name = "polku"$', f'name = "{CORE}"', text, flags=re.M)
    text, lines = re.subn(rf'^    "({"|".join(LEFT_OUT)})\b[^"]*",\n', "", text, flags=re.M)
    text, selves = re.subn(r'"polku\[', f'"{CORE}[', text)
    if (names, lines) != (1, len(LEFT_OUT)) or not selves:
        raise SystemExit(f"pyproject.toml has {names} names and {lines} of the dependencies {LEFT_OUT}")
    return text


def check(out: Path) -> Iterator[str]:
    """Yield each fault of the archives in a folder."""
    version = _version(ROOT)
    wheels = {CORE if path.name.startswith("polku_core") else "polku": path for path in out.glob("*.whl")}
    if wheels.keys() != {"polku", CORE}:
        yield f"the wheels are {sorted(path.name for path in wheels.values())}"
        return
    contents = {name: _contents(path) for name, path in wheels.items()}
    if contents["polku"] != contents[CORE]:
        yield "the two wheels do not have the same files"
    for name, path in wheels.items():
        yield from (f"{path.name}: {fault}" for fault in _check_wheel(path, name, version))
    yield from (f"sdist: {fault}" for fault in _check_sdist(next(out.glob("*.tar.gz")), version))
    yield from (f"image context: {fault}" for fault in _check_context(next(out.glob("*.tgz"))))
    notes = _section(ROOT / "CHANGELOG.md", "Unreleased")
    if notes.strip():
        print(f"release: {notes.count(chr(10) + '- ')} changes are not released: make cut VERSION=… heads them")
    if not notes.strip() and not _section(ROOT / "CHANGELOG.md", version).strip():
        yield f"CHANGELOG.md says nothing of {version}"


def _check_wheel(path: Path, name: str, version: str) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = next(entry.split("/")[0] for entry in names if entry.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        wanted = {
            "Name": name,
            "Version": version,
            "License-Expression": "Apache-2.0",
            "License-File": "LICENSE",
            "Requires-Python": ">=3.11",
            "Description-Content-Type": "text/markdown",
        }
        for field, value in wanted.items():
            if metadata[field] != value:
                yield f"{field} is {metadata[field]!r}, not {value!r}"
        if not str(metadata.get_payload()).startswith("# POLKU"):
            yield "the description is not the README"
        always = [entry for entry in metadata.get_all("Requires-Dist", []) if "extra ==" not in entry]
        needs = {re.split(r"[\[<>=; ]", entry)[0] for entry in always}
        if (name == CORE) == ("ray" in needs):
            yield "Ray is a dependency of polku, and of nothing else"
        if "polku = polku.cli:main" not in archive.read(f"{info}/entry_points.txt").decode().splitlines():
            yield "the command is not polku"
        if {entry.split("/")[0] for entry in names} != {"polku", info}:
            yield "has something else than the package polku"
        yield from (f"has no polku/{one}" for one in NEEDED if f"polku/{one}" not in names)
        yield from (f"has {one}" for one in names if "__pycache__" in one or "/tests/" in one)
        yield from _check_record(archive, f"{info}/RECORD")


def _check_record(archive: zipfile.ZipFile, record: str) -> Iterator[str]:
    rows = list(csv.reader(archive.read(record).decode().splitlines()))
    names = set(archive.namelist())
    if {row[0] for row in rows} != names:
        yield "RECORD does not name its files"
    for name, digest, _ in rows:
        if digest and name in names:
            found = base64.urlsafe_b64encode(hashlib.sha256(archive.read(name)).digest()).rstrip(b"=").decode()
            if digest != f"sha256={found}":
                yield f"RECORD has another digest of {name}"


def _check_sdist(path: Path, version: str) -> Iterator[str]:
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    names = {member.name for member in members}
    if {name.split("/")[0] for name in names} != {f"polku-{version}"}:
        yield "has more than one folder at its top"
    yield from (f"{member.name} is no plain file" for member in members if not member.isfile())
    needed = ("pyproject.toml", "CHANGELOG.md", "LICENSE", "README.md", "proto/polku/v1/gateway.proto")
    yield from (f"has no {one}" for one in needed if f"polku-{version}/{one}" not in names)


def _check_context(path: Path) -> Iterator[str]:
    with tarfile.open(path) as archive:
        names = {member.name for member in archive.getmembers()}
    copied = re.findall(r"^COPY (?!--from)(\S+) ", (ROOT / DEPLOY / "Containerfile").read_text("utf-8"), re.M)
    yield from (f"has no {one}" for one in copied if not any(name.startswith(one) for name in names))
    yield from (f"has {one}" for one in names if Path(one).name in SECRETS)


def _contents(path: Path) -> dict[str, int]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: info.CRC for info in archive.infolist() if info.filename.startswith("polku/")}


# --- what an image is built of ----------------------------------------------------------------------------------------


def write_context(out: Path) -> Path:
    """Write what builds an image and deploys it, without a checkout: the wheels, examples/deploy and cluster.yaml."""
    files = {f"dist/{path.name}": path for path in (*out.glob("*.whl"), *out.glob("requirements-*.txt"))}
    deploy = [path for path in (ROOT / DEPLOY).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    files |= {
        str(path.relative_to(ROOT)): path for path in (*deploy, ROOT / "cluster.yaml") if path.name not in SECRETS
    }
    context = out / f"polku-deploy-{_version(ROOT)}.tgz"
    with tarfile.open(context, "w:gz") as archive:
        for name, path in sorted(files.items()):
            archive.add(path, name, filter=_of_nobody)
    return context


def _of_nobody(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


# --- what a wheel needs -----------------------------------------------------------------------------------------------


def _write_requirements(wheel: Path) -> None:
    """Write what a wheel needs at the tested versions, with hashes, and, where that is installed, as CycloneDX."""
    name = wheel.name.split("-")[0]
    pinned = dict(re.findall(r"^([\w.-]+)(==(?:.*\\\n)*.*\n)", HASHES.read_text("utf-8"), re.M))
    missing = (needed := closure(wheel)) - pinned.keys()
    if missing:
        raise SystemExit(f"release: {HASHES.name} has no {', '.join(sorted(missing))}: make constraints")
    lines = [f"{one}{pinned[one]}" for one in sorted(needed)]
    out = wheel.parent / f"requirements-{name}.txt"
    out.write_text(
        f"# What {wheel.name} needs, with the extras {', '.join(EXTRAS)}.\n{''.join(lines)}", encoding="utf-8"
    )
    if not BOM_PYTHON.exists():
        print("release: .venv-bom is not there, so there is no bill of materials: make release", file=sys.stderr)
        return
    tool = (BOM_PYTHON, "-m", "cyclonedx_py", "requirements", "--output-reproducible", "--pyproject")
    _run(*tool, ROOT / "pyproject.toml", "-o", wheel.parent / f"{name}.cdx.json", out)


def closure(wheel: Path) -> set[str]:
    """Return the names of all that a wheel needs, with its extras, as this environment has them installed."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (entry for entry in archive.namelist() if entry.endswith(".dist-info/METADATA"))
        wanted = email.message_from_bytes(archive.read(name)).get_all("Requires-Dist", [])
    waiting = [(Requirement(entry), ("", *EXTRAS)) for entry in wanted]
    found: set[tuple[str, str]] = set()
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        one = canonicalize_name(requirement.name)
        for extra in ("", *requirement.extras):
            if (one, extra) not in found:
                found.add((one, extra))
                deeper = importlib.metadata.requires(one) or []
                waiting += [(Requirement(entry), ("", *requirement.extras)) for entry in deeper]
    return {one for one, _ in found}


# --- install and try -------------------------------------------------------------------------------------------------


def install(out: Path) -> Iterator[str]:
    """Install each wheel for each Python found, run a gateway there, and yield what does not work."""
    for version in PYTHONS:
        python = interpreter(version)
        if python is None:
            print(f"release: there is no Python {version} here", file=sys.stderr)
            continue
        for wheel in sorted(out.glob("*.whl")):
            with tempfile.TemporaryDirectory() as folder:
                try:
                    size = _try(python, wheel, Path(folder))
                except (subprocess.SubprocessError, AssertionError, OSError) as error:
                    yield f"{wheel.name} on Python {version}: {error} {getattr(error, 'stderr', '') or ''}"
                else:
                    print(f"Python {version}: {wheel.name} works; site-packages, without pip, has {size} MB")


def interpreter(version: str) -> str | None:
    """Return the path of a Python of this version, or None."""
    beside = sorted(Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python{version}"))
    for candidate in (shutil.which(f"python{version}"), *map(str, beside)):
        if candidate and subprocess.run([candidate, "-c", ""], capture_output=True).returncode == 0:
            return candidate
    return None


def _try(python: str, wheel: Path, folder: Path) -> int:
    """Install a wheel, and send an event through a gateway; return the size of what was installed, in MB."""
    _run(python, "-m", "venv", folder)
    home = folder / "bin"
    pip = (home / "python", "-m", "pip", "install", "--quiet", "--no-deps")
    _run(*pip, "--require-hashes", "-r", wheel.parent / f"requirements-{wheel.name.split('-')[0]}.txt")
    _run(*pip, wheel)
    _run(home / "python", "-m", "pip", "check")
    version = wheel.name.split("-")[1]
    said = _run(home / "polku", "--version", cwd=folder)
    assert said == f"polku {version}\n", said
    (folder / "pipeline.py").write_text(PIPELINE, encoding="utf-8")
    _run(home / "polku", "validate", "pipeline.py", cwd=folder)
    if wheel.name.startswith("polku_core"):
        done = subprocess.run([home / "polku", "serve"], cwd=folder, env=_environment(), capture_output=True, text=True)
        assert done.returncode == 2, done.stderr
        assert "needs Ray, which is not installed: pip install 'ray[default]'" in done.stderr, done.stderr
    _serve(home / "polku", folder)
    site = next((folder / "lib").glob("python*/site-packages"))
    shutil.rmtree(site / "pip")
    return sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) // 1_000_000


def _serve(polku: Path, folder: Path) -> None:
    command = [polku, "run", "pipeline.py", "--grpc-addr", "127.0.0.1:0", "--admin-addr", "off"]
    with (folder / "out").open("w+b") as out, (folder / "err").open("w+b") as err:
        server = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=out, stderr=err)
        try:
            address = _ready(server, folder / "err")
            _run(polku, "send", "--to", address, "--type", "user.login", "--id", "event-1", cwd=folder)
            server.send_signal(signal.SIGTERM)
            assert server.wait(40) == 0, (folder / "err").read_text()
            assert "event-1" in (folder / "out").read_text()
        finally:
            server.kill()
            server.wait()


def _ready(server: subprocess.Popen[bytes], err: Path) -> str:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        if found := re.search(r"ready on grpc (\S+)", err.read_text()):
            return found[1]
        time.sleep(0.1)
    raise AssertionError(f"the gateway did not start: {err.read_text()}")


# --- the changelog ---------------------------------------------------------------------------------------------------


def cut(root: Path, version: str, today: datetime.date) -> None:
    """Head the unreleased part of the changelog with a version and a day, and set the version."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise SystemExit(f"release: VERSION={version!r}: write a version, such as 0.2.0")
    changelog = root / "CHANGELOG.md"
    text = changelog.read_text("utf-8")
    if not _section(changelog, "Unreleased").strip():
        raise SystemExit("release: CHANGELOG.md has nothing under [Unreleased]")
    if f"## [{version}]" in text:
        raise SystemExit(f"release: CHANGELOG.md has {version} already")
    head = "## [Unreleased]\n"
    changelog.write_text(text.replace(head, f"{head}\n## [{version}] - {today}\n", 1), encoding="utf-8")
    file = root / "polku" / "version.py"
    old = file.read_text("utf-8")
    file.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', old), encoding="utf-8")
    print(f"CHANGELOG.md and polku/version.py say {version}: commit, tag v{version}, make release")


def _section(changelog: Path, title: str) -> str:
    found = re.search(rf"^## \[{re.escape(title)}\][^\n]*\n(.*?)(?=^## |\Z)", changelog.read_text("utf-8"), re.M | re.S)
    return found[1] if found else ""


def _version(root: Path) -> str:
    found = re.search(r'__version__ = "(.*)"', (root / "polku" / "version.py").read_text("utf-8"))
    assert found is not None
    return found[1]


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "POLKU_", "RAY_"))}
    return {**kept, "POLKU_INSECURE": "1"}


def _run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=_environment(), capture_output=True, text=True)
    if done.returncode != 0:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr or done.stdout)
    return done.stdout


if __name__ == "__main__":
    main()
