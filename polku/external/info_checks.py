"""Check what a plugin says about itself against what is expected of it."""

from __future__ import annotations

from collections.abc import Sequence

from polku.v1.plugin_pb2 import PLUGIN_TYPE_EMITTER, PLUGIN_TYPE_INGESTOR, PluginInfo, PluginType


def ingestor_fault(info: PluginInfo, sources: Sequence[str]) -> str:
    """Return what is wrong with a plugin that should serve the sources, or nothing."""
    if info.type != PLUGIN_TYPE_INGESTOR:
        return f"Info: expected type=PLUGIN_TYPE_INGESTOR, got {_type(info)} from {info.name!r}"
    missing = [source for source in sources if source not in info.sources]
    if missing:
        return f"Info: expected sources with {missing[0]!r}, got {list(info.sources)} from {info.name!r}"
    return _nameless(info)


def emitter_fault(info: PluginInfo, name: str) -> str:
    """Return what is wrong with a plugin that should be the emitter of that name, or nothing."""
    if info.type != PLUGIN_TYPE_EMITTER:
        return f"Info: expected type=PLUGIN_TYPE_EMITTER, got {_type(info)} from {info.name!r}"
    if routing_name(info) != name:
        field = "emitter_name" if info.emitter_name else "name"
        return f"Info: expected an emitter called {name!r}, got {field}={routing_name(info)!r}"
    return _nameless(info)


def routing_name(info: PluginInfo) -> str:
    """Return the name that `route_to` uses for an emitter plugin: its own unless it gives another."""
    return info.emitter_name or info.name


def _nameless(info: PluginInfo) -> str:
    return "" if info.name else "Info: expected a name, got an empty one; set PluginInfo.name"


def _type(info: PluginInfo) -> str:
    try:
        return f"type={PluginType.Name(info.type)}"
    except ValueError:
        return f"type={info.type}"
