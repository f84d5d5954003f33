"""Load a hub from a Python file."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from polku.checks import has_ray
from polku.errors import SettingError
from polku.hub import Hub

_PACKAGE = "__init__.py"
_ALLOWED = "write FILE or FILE:NAME, where FILE is a Python file and NAME a Hub in it (`hub` unless given)"


def load_hub(target: str, *, runtime: str | None = None) -> Hub:
    """Run the file and return its hub; raises `SettingError`.

    Files beside it can be imported. Where it runs on Ray, as `runtime` or else the hub chooses, its functions are sent
    to actors as they are here, so that nodes that do not have the file can run them.
    """
    path, name = split(target)
    if path.is_dir():
        raise SettingError("FILE", target, f"is a folder; {_ALLOWED}")
    if not path.is_file():
        raise SettingError("FILE", target, f"there is no such file; {_ALLOWED}")
    module = _run(path)
    hub = getattr(module, name, None)
    if isinstance(hub, Hub):
        if hub._chosen(runtime) == "ray" and has_ray():
            from ray import cloudpickle

            cloudpickle.register_pickle_by_value(module)
        return hub
    hubs = [key for key, value in vars(module).items() if isinstance(value, Hub)]
    found = f"it has {', '.join(hubs)}: write {path}:{hubs[0]}" if hubs else "it has no Hub at all"
    raise SettingError("FILE", target, f"{path} has no Hub named {name!r}; {found}")


def split(target: str) -> tuple[Path, str]:
    """Return the path and the name of the hub in `FILE` or `FILE:NAME`."""
    file, colon, name = target.rpartition(":")
    if colon and name.isidentifier():
        return Path(file), name
    return Path(target), "hub"


def send_by_value(path: Path) -> None:
    """Have what modules beside a file hold sent to actors as it is here: their processes may have read others."""
    if "ray" not in sys.modules:  # nothing is sent anywhere
        return
    from ray import cloudpickle

    folder = path.resolve().parent
    for module in modules_beside(folder).values():
        cloudpickle.register_pickle_by_value(module)


@contextlib.contextmanager
def beside(path: Path) -> Iterator[None]:
    """Have modules that stand beside a file imported anew within the block; where it fails, the old ones are back."""
    folder = path.resolve().parent
    known = modules_beside(folder)
    for name in known:
        del sys.modules[name]
    importlib.invalidate_caches()
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # what is written twice in a second looks unchanged
    try:
        yield
    except BaseException:
        sys.modules.update(known)
        raise
    finally:
        sys.dont_write_bytecode = writes


def modules_beside(folder: Path) -> dict[str, ModuleType]:
    """Return the modules that stand in a folder; another thread may import some meanwhile."""
    return {name: module for name, module in list(sys.modules.items()) if _stands_in(folder, module)}


def _stands_in(folder: Path, module: ModuleType) -> bool:
    try:
        name, file = module.__name__, module.__file__
    except Exception:  # it has no file, or is anything else: what stands there need not be a module
        return False
    if not isinstance(file, str) or name == "__main__" or name.partition(".")[0] == "polku":
        return False
    return is_beside(Path(file), folder)


def is_beside(file: Path, folder: Path) -> bool:
    """Return whether a file stands in a folder, or below it, and belongs to no installed package."""
    return folder in file.parents and "site-packages" not in file.parts


def _forget_stale(folder: Path) -> None:
    """Remove compiled code of a folder, and of packages in it, that may be of an earlier content of its file.

    Python knows a file by its size and the second in which it was written: what was compiled within that second, or
    before the file's time was set back, may stand for what somebody has changed since.
    """
    for source in [
        *folder.glob("*.py"),
        *(path for path in folder.glob("*/*.py") if (path.parent / _PACKAGE).exists()),
    ]:
        with contextlib.suppress(OSError):
            compiled = Path(importlib.util.cache_from_source(str(source)))
            if compiled.stat().st_mtime < int(source.stat().st_mtime) + 2:
                compiled.unlink()


def _run(path: Path) -> ModuleType:
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.insert(0, folder)
    _forget_stale(Path(folder))
    name = f"polku_file_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise SettingError("FILE", str(path), f"is no Python file; {_ALLOWED}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
