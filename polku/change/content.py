"""Digests of what components are made of: two that have the same digest do the same.

A component is described by its type and fields, a function by its code, its defaults, what it closes over, and the
globals that it names, and these by what they are made of in turn. Where something stands in a file, and comments, count
for nothing. Code of the standard library and of installed packages counts by its name.

An object that has a `content_key` is described by that alone.

What cannot be described (a lock, a socket, a large array) counts as itself: the same object, or another one. A digest
that has such a thing in it is the same only in one process.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import re
import sys
import types
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeAlias

_MOST_ITEMS = 10_000
_MOST_OBJECTS = 50_000
_MOST_BYTES = 16 * 1024 * 1024
_INSTALLED = ("site-packages", "dist-packages")
_NOT_CONTENT = frozenset({
    "__dict__", "__weakref__", "__module__", "__doc__", "__firstlineno__", "__static_attributes__", "__qualname__",
    "__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__abstractmethods__", "_abc_impl",
    "__slots__", "__dataclass_params__", "__dataclass_fields__", "__match_args__", "__parameters__",
    "__orig_bases__", "__hash__",
})  # fmt: skip


Memory: TypeAlias = "dict[int, tuple[object, str]]"
"""Objects that were described, by their ids, each with its digest of then."""


def content_digest(value: object, before: Memory | None = None, now: Memory | None = None) -> str:
    """Return the digest of a component: 32 hexadecimal digits.

    An object that was met `before` has the digest that it had then, whatever it has become: it is still the same one.
    What is met is added to `now`.
    """
    return _Description(before or {}, {} if now is None else now).digest(value)


class _TooLargeError(Exception):
    pass


class _Description:
    """Describe one value: each object by a digest of its own; one within itself by how far out it stands."""

    def __init__(self, before: Memory, now: Memory) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._before, self._now = before, now
        self._outer: dict[int, int] = {}  # the depth of the objects that are being described, by their ids
        self._count = 0

    def digest(self, value: object) -> str:
        try:
            self._add(value)
        except (RecursionError, _TooLargeError):
            self._hash = hashlib.blake2b(digest_size=16)
            self._say("itself", id(value))
        return self._hash.hexdigest()

    def _say(self, *words: object) -> None:
        self._hash.update(("\0".join(map(str, words)) + "\1").encode("utf-8", "surrogatepass"))

    def _add(self, value: Any) -> None:
        if type(value) in _PLAIN:
            self._say(type(value).__name__, repr(value))
            return
        if id(value) in self._outer:
            self._say("outer", len(self._outer) - self._outer[id(value)])
            return
        known = self._now.get(id(value)) or self._before.get(id(value))
        if known is None:
            known = (value, self._digest_apart(value))
        self._now[id(value)] = known
        self._say(known[1])

    def _digest_apart(self, value: Any) -> str:
        self._count += 1
        if self._count > _MOST_OBJECTS:
            raise _TooLargeError
        around, self._hash = self._hash, hashlib.blake2b(digest_size=16)
        self._outer[id(value)] = len(self._outer)
        try:
            self._add_object(value)
            return self._hash.hexdigest()
        finally:
            del self._outer[id(value)]
            self._hash = around

    def _add_object(self, value: Any) -> None:
        match value:
            case type():
                self._add_type(value)
            case Enum():
                self._say("enum", type(value).__qualname__, value.name)
            case types.ModuleType():
                self._add_module(value)
            case types.FunctionType():
                self._add_function(value)
            case types.MethodType():
                self._say("method")
                self._add_each(value.__func__, value.__self__)
            case types.BuiltinFunctionType():
                owner = value.__self__
                self._say("builtin", value.__module__, value.__qualname__)
                if not isinstance(owner, types.ModuleType):
                    self._add(owner)
            case types.CodeType():
                self._add_code(value)
            case functools.partial():
                self._say("partial")
                self._add_each(value.func, value.args, value.keywords)
            case re.Pattern():
                self._say("pattern", repr(value.pattern), value.flags)
            case os.PathLike() if _is_path(value):
                self._say("path", str(value))
            case list() | tuple() | set() | frozenset() | Mapping() | types.MappingProxyType():
                self._add_container(value)
            case property() | staticmethod() | classmethod() | functools.cached_property():
                self._say(type(value).__name__)
                names = ("fget", "fset", "fdel", "__func__", "func")
                self._add_each(*(getattr(value, name) for name in names if hasattr(value, name)))
            case _:
                self._add_instance(value)

    def _add_each(self, *values: object) -> None:
        for value in values:
            self._add(value)

    def _add_container(self, value: Any) -> None:
        self._say(type(value).__qualname__, len(value))
        if len(value) > _MOST_ITEMS:
            self._say("itself", id(value))
        elif isinstance(value, (set, frozenset)):
            self._say(*sorted(content_digest(item, self._before, self._now) for item in value))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self._add_each(key, item)
        else:
            self._add_each(*value)
        if type(value) not in _CONTAINERS:
            self._add(type(value))

    def _add_function(self, value: types.FunctionType) -> None:
        self._say("function", value.__qualname__)
        self._add_each(value.__code__, value.__defaults__, value.__kwdefaults__)
        for cell in value.__closure__ or ():
            try:
                self._add(cell.cell_contents)
            except ValueError:
                self._say("empty")
        if not _is_ours_to_read(value.__module__):
            return
        known = value.__globals__
        for name in sorted(set(_names(value.__code__)) & known.keys()):
            self._say("global", name)
            self._add(known[name])

    def _add_code(self, code: types.CodeType) -> None:
        self._say(code.co_name, code.co_argcount, code.co_kwonlyargcount, code.co_posonlyargcount, code.co_flags)
        self._add_each(code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars)
        self._add(code.co_consts)

    def _add_type(self, value: type) -> None:
        self._say("type", value.__module__, value.__qualname__)
        if not _is_ours_to_read(value.__module__):
            return
        self._add(value.__bases__)
        for name, item in sorted(vars(value).items()):
            if name not in _NOT_CONTENT and not isinstance(
                item, (types.GetSetDescriptorType, types.MemberDescriptorType)
            ):
                self._say(name)
                self._add(item)

    def _add_module(self, value: types.ModuleType) -> None:
        self._say("module", value.__name__)
        if _is_ours_to_read(value.__name__, value):
            for name, item in sorted(vars(value).items()):
                if not name.startswith("__"):
                    self._say(name)
                    self._add(item)

    def _add_instance(self, value: Any) -> None:
        self._add(type(value))
        if hasattr(type(value), "content_key") or "content_key" in getattr(value, "__dict__", ()):
            self._add(value.content_key)
            return
        packs_itself = any("__reduce__" in vars(kind) for kind in type(value).__mro__[:-1])
        fields = None if packs_itself else fields_of(value)
        if fields is not None:
            for name, item in sorted(fields.items()):
                self._say(name)
                self._add(item)
            return
        size = getattr(value, "nbytes", None)
        try:
            if isinstance(size, int) and size > _MOST_BYTES:
                raise ValueError
            packed = pickle.dumps(value, protocol=4)
        except Exception:
            self._say("itself", id(value))
        else:
            self._hash.update(packed)


_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_CONTAINERS = frozenset({list, tuple, set, frozenset, dict, types.MappingProxyType})


def fields_of(value: object) -> dict[str, Any] | None:
    """Return the attributes of an object that Python code has made; None where it keeps what it is to itself."""
    names = [
        name
        for kind in type(value).__mro__
        for name in _each(vars(kind).get("__slots__", ()))
        if name not in ("__dict__", "__weakref__")
    ]
    own = getattr(value, "__dict__", None)
    if own is None and not names:
        return None
    slots = {name: getattr(value, name) for name in names if hasattr(value, name)}
    return {**slots, **(own or {})}


def _each(slots: Any) -> Iterator[str]:
    yield from (slots,) if isinstance(slots, str) else slots


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _is_ours_to_read(name: str | None, module: types.ModuleType | None = None) -> bool:
    """Return whether a module is one that the pipeline's author writes: neither Python's, nor installed, nor POLKU."""
    name = name or ""
    first = name.partition(".")[0]
    if first in sys.stdlib_module_names and first != "__main__":
        return False
    if first == "polku":
        return False
    module = module or sys.modules.get(name)
    file = getattr(module, "__file__", None) or ""
    return not any(f"/{folder}/" in file for folder in _INSTALLED)


def _is_path(value: object) -> bool:
    from pathlib import PurePath  # for who has one: a start without is sooner

    return isinstance(value, PurePath)
