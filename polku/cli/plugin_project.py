"""Write a new plugin's files: those of the examples, under the new folder's name."""

from __future__ import annotations

import re
from pathlib import Path

import polku.plugin

_TEMPLATES = Path(polku.plugin.__file__).parent / "templates"
_GO_MODULE = "plugin.example/polku"


def write_project(folder: Path, kind: str, language: str) -> list[Path]:
    """Write the project and return its files; raises `FileExistsError` where the folder is not empty."""
    name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-") or "my-plugin"
    files = _python(kind, name) if language == "python" else _go(kind, name)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(folder)
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        if path.suffix == ".sh":
            target.chmod(0o755)
    return sorted(files)


def _python(kind: str, name: str) -> dict[Path, str]:
    source = _TEMPLATES / "python"
    files = {Path(file): (source / kind / file).read_text("utf-8") for file in ("plugin.py", "test_plugin.py")}
    files[Path("README.md")] = (source / "README.md").read_text("utf-8")
    files[Path("plugin.py")] = files[Path("plugin.py")].replace("my-plugin", name)
    return files


def _go(kind: str, name: str) -> dict[Path, str]:
    source = _TEMPLATES / "go"
    shared = ["go.mod", "go.sum", "generate.sh", "README.md"]
    shared += [f"polkupb/{file.name}" for file in (source / "polkupb").iterdir()]
    files = {Path(file): (source / file).read_text("utf-8") for file in shared}
    files[Path("main.go")] = (source / kind / "main.go").read_text("utf-8").replace("my-go-plugin", name)
    for path in (Path("main.go"), Path("go.mod"), Path("generate.sh")):
        files[path] = files[path].replace(_GO_MODULE, f"plugin.example/{name}")
    files[Path("README.md")] = files[Path("README.md")].replace("./ingestor", ".").replace("./emitter", ".")
    return files
