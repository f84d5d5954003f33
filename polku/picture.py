"""A picture of a plan for notebooks: boxes from left to right, in plain HTML, with nothing to load."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from polku.plan import Plan

_BOX = "border:1px solid #888;border-radius:4px;padding:2px 8px;margin:2px 0;white-space:nowrap"
_COLUMN = "display:flex;flex-direction:column;justify-content:center"
_ROW = "display:flex;align-items:center;gap:8px;font-family:monospace;font-size:12px;overflow-x:auto"


def picture(plan: Plan, state: str = "") -> str:
    """Return the plan as HTML: what comes in, each stage with its middleware, the buffer, the emitters."""
    sources = ["clients", *(source.name for source in plan.sources)]
    columns = [_column(sources, "what is pulled or pushed in"), _column(["ingest"], "bytes to events")]
    for stage in plan.stages:
        columns.append(_column([one.name for one in stage.middleware], stage.name))
    buffer = plan.buffer
    columns.append(_column([f"{buffer.kind} {buffer.capacity}"], f"buffer; when full: {buffer.overflow}"))
    columns.append(_column([outlet.name for outlet in plan.outlets], "emitters"))
    title = f"<b>{escape(plan.name)}</b>{f' {escape(state)}' if state else ''}"
    return f'<div style="{_ROW}">{title}{"<span>→</span>".join(columns)}</div>'


def _column(names: Iterable[str], title: str) -> str:
    boxes = "".join(f'<div style="{_BOX}">{escape(name)}</div>' for name in names)
    return f'<div style="{_COLUMN}" title="{escape(title)}">{boxes}</div>'
