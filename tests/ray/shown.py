"""The code that a page shows, as a module that goes to other processes by value."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.docs.pages import ROOT, blocks


def shown(name: str, folder: Path) -> ModuleType:
    """Return the module that the page shows, sent to other processes by value."""
    from ray import cloudpickle

    texts = {block.title: block.text for block in blocks(ROOT / "docs" / "ray-applications.md")}
    (folder / f"{name}.py").write_text(texts[f"# {name}.py"])
    sys.path.insert(0, str(folder))
    try:
        module = import_module(name)
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(name, None)
    sys.modules[name] = module  # where pickle looks whether it is to go by value
    cloudpickle.register_pickle_by_value(module)
    return module
