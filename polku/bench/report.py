"""What `polku bench` found, as one HTML page that needs nothing else: for a look, or to be sent to somebody."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any, NamedTuple

from polku.bench.comparison import Summary, summarise
from polku.bench.machine import describe
from polku.bench.result import Result

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 520, 190, 56, 26
_TICKS = 8
_PER_DECADE = 10  # columns of the distribution for each power of ten
_SHORT_SECONDS = 0.1  # the sink is asked five times a second

_STYLE = """
:root{color-scheme:light dark;--page:light-dark(#f4f5f7,#0e1116);--card:light-dark(#fff,#161b22);
--line:light-dark(#dfe2e7,#2b323c);--text:light-dark(#16191f,#e7eaef);--soft:light-dark(#5b6472,#a3adba);--in:light-dark(#0b6bb8,#5eb0f2);
--out:light-dark(#7a4fb5,#bb98f0)}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1240px;padding:20px;background:var(--page);color:var(--text);
font:14px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums}
h1{font-size:18px}h2{font-size:15px}h3{font-size:13px;margin:16px 0 4px}p{margin:4px 0}.soft{color:var(--soft)}
code{font:12px/1.5 ui-monospace,monospace;overflow-wrap:anywhere}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:8px 16px 16px;margin-bottom:14px;
overflow-x:auto;min-width:0}
.runs{display:grid;gap:14px;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
table{border-collapse:collapse;width:100%}
th,td{text-align:end;padding:3px 8px;border-top:1px solid var(--line);font-weight:400}
tr>:first-child{text-align:start}thead th{font-weight:600;border:0}
svg{width:100%;max-width:640px;height:auto;display:block}text{fill:var(--soft);font-size:11px}.grid{stroke:var(--line)}
.in{stroke:var(--in);fill:none;stroke-width:1.75}
.out{stroke:var(--out);fill:none;stroke-width:1.75;stroke-dasharray:5 3}
.bin{fill:var(--in);opacity:.75}.bout{fill:var(--out);opacity:.75}
.key{display:inline-block;width:18px;border-top:2px solid var(--in);vertical-align:middle;margin-inline-end:4px}
.key.o{border-top:2px dashed var(--out)}
.bar{display:inline-block;height:9px;background:var(--in);border-radius:2px;vertical-align:middle}.bar.o{background:var(--out)}
.wide{width:55%;text-align:start}.card>div{flex-wrap:wrap}
@media(max-width:700px){text{font-size:17px}}
"""


class Scale(NamedTuple):
    """The largest values of all runs, so that their pictures can be held against each other."""

    seconds: float
    rate: float
    first_ms: float
    last_ms: float
    share: float
    cpu: float
    memory: float


def write_report(
    command: str, machine: dict[str, Any], results: Sequence[Sequence[Result]], rows: Iterable[Sequence[str]], note: str
) -> str:
    """Return the page: the numbers of each pipeline in a column, then its pictures, on one scale for all.

    `results` has the rounds of each pipeline, `rows` is the table that a terminal shows, `note` what is said below it.
    """
    summaries = [summarise(rounds) for rounds in results]
    scale = _scale(results, summaries)
    runs = [_run(rounds, summary, scale) for rounds, summary in zip(results, summaries, strict=True)]
    names = "".join(f'<th scope="col">{escape(summary.subject)}</th>' for summary in summaries)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    rounds = f"medians of {len(results[0])} rounds" if len(results[0]) > 1 else "one round"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>polku bench: {escape(', '.join(summary.subject for summary in summaries))}</title>"
        f"<style>{_STYLE}</style></head><body><h1>polku bench</h1>"
        f'<p><code>{escape(command)}</code></p><p class="soft">{escape(describe(machine))}</p>'
        f'<div class="card"><table><thead><tr><th scope="col">{rounds}</th>{names}</tr></thead>'
        f'<tbody>{body}</tbody></table><p class="soft">{escape(note)}</p></div>'
        f'<div class="runs">{"".join(runs)}</div></body></html>\n'
    )


def _scale(results: Sequence[Sequence[Result]], summaries: Sequence[Summary]) -> Scale:
    every = [result for rounds in results for result in rounds]
    rates = [rate for result in every for (*rates,) in _rates(result) for rate in rates[1:]]
    spans = [column for result in every for found in _columns([result]) for column in found]
    merged = [column for rounds in results for found in _columns(rounds) for column in found]
    parts = [part for summary in summaries for part in summary.parts.values()]
    return Scale(
        seconds=max([result.timeline[-1][0] for result in every if result.timeline], default=1.0),
        rate=max(rates, default=1.0) or 1.0,
        first_ms=min((ms for ms, _ in spans), default=0.1),
        last_ms=max((ms for ms, _ in spans), default=1.0) * 10 ** (1 / _PER_DECADE),
        share=max((share for _, share in merged), default=1.0),
        cpu=max((part["cpu_us_per_event"] for part in parts), default=1.0) or 1.0,
        memory=max((part["memory_mb"] for part in parts), default=1.0) or 1.0,
    )


def _run(rounds: Sequence[Result], summary: Summary, scale: Scale) -> str:
    picture = next((result.picture for result in rounds if result.picture), "")
    key = '<p class="soft"><span class="key"></span>{} &nbsp; <span class="key o"></span>{}</p>'
    return (
        f'<div class="card"><h2>{escape(summary.subject)}</h2>{picture}'
        f"<h3>Events a second, over time</h3>{key.format('acknowledged', 'delivered')}{_throughput(rounds, scale)}"
        f"<h3>Latency</h3>{key.format('until the answer', 'until the destination')}{_latency(rounds, scale)}"
        f"<h3>CPU and memory by part</h3>{_parts(summary.parts, scale)}</div>"
    )


def _rates(result: Result) -> list[tuple[float, float, float]]:
    """Return seconds, and events acknowledged and delivered a second since the moment before.

    A moment that comes right after another one, as the last one may, takes its place: over some milliseconds a batch
    is a rate that never was.
    """
    moments: list[tuple[float, int, int]] = []
    for moment in result.timeline:
        if len(moments) > 1 and moment[0] - moments[-1][0] < _SHORT_SECONDS:
            moments.pop()
        moments.append(moment)
    found = []
    for (then, acked, delivered), (now, more, came) in pairwise(moments):
        span = max(now - then, 1e-3)
        found.append((now, (more - acked) / span, (came - delivered) / span))
    return found


def _throughput(rounds: Sequence[Result], scale: Scale) -> str:
    def place(seconds: float, rate: float) -> str:
        return f"{_across(seconds / scale.seconds):.1f} {_up(rate / scale.rate):.1f}"

    lines = [
        f'<path class="{kind}" d="M{"L".join(place(row[0], row[at]) for row in rates)}"/>'
        for result in rounds
        if (rates := _rates(result))
        for kind, at in (("in", 1), ("out", 2))
    ]
    across = [(share, f"{share * scale.seconds:.1f} s") for share in (0, 0.25, 0.5, 0.75, 1)]
    up = [(share, _short(share * scale.rate)) for share in (0, 0.5, 1)]
    return _chart("events a second, over time", "".join(lines), across, up)


def _columns(rounds: Sequence[Result]) -> list[list[tuple[float, float]]]:
    """Return the distribution until the answer, and until the destination: milliseconds and the share at each."""
    found = []
    for name in ("accepted", "end_to_end"):
        counts: dict[int, int] = {}
        for result in rounds:
            for ms, count in result.distributions.get(name, ()):
                place = math.floor(math.log10(max(ms, 1e-3)) * _PER_DECADE)
                counts[place] = counts.get(place, 0) + count
        total = sum(counts.values()) or 1
        found.append([(10 ** (place / _PER_DECADE), count / total) for place, count in sorted(counts.items())])
    return found


def _latency(rounds: Sequence[Result], scale: Scale) -> str:
    first, decades = math.log10(scale.first_ms), max(1e-9, math.log10(scale.last_ms / scale.first_ms))
    wide = (_WIDTH - _LEFT) / _PER_DECADE / decades / 2.2
    bars = []
    for kind, columns in enumerate(_columns(rounds)):
        for ms, share in columns:
            left = _across((math.log10(ms) - first) / decades) + kind * wide
            top = _up(share / scale.share)
            bars.append(
                f'<rect class="{("bin", "bout")[kind]}" x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" '
                f'height="{max(0.5, _up(0) - top):.1f}"><title>{_ms(ms)}: {share:.1%} of the events</title></rect>'
            )
    ticks = [step * 10.0**power for power in range(-3, 7) for step in (1, 2, 5)]
    shown = [ms for ms in ticks if scale.first_ms <= ms <= scale.last_ms]
    shown = shown if len(shown) <= _TICKS else [ms for ms in shown if math.log10(ms).is_integer()]
    across = [((math.log10(ms) - first) / decades, _ms(ms)) for ms in shown]
    return _chart("latency", "".join(bars), across, [(0, "0 %"), (1, f"{scale.share:.0%}")])


def _parts(parts: Mapping[str, Mapping[str, float]], scale: Scale) -> str:
    rows = []
    for name, part in parts.items():
        cpu, memory = part["cpu_us_per_event"], part["memory_mb"]
        bars = (
            f'<span class="bar" style="width:{45 * cpu / scale.cpu:.1f}%"></span> {cpu:.2f} µs<br>'
            f'<span class="bar o" style="width:{45 * memory / scale.memory:.1f}%"></span> {memory:.1f} MB'
        )
        rows.append(f'<tr><td>{escape(name)}</td><td class="wide">{bars}</td></tr>')
    head = '<tr><th scope="col">part</th><th scope="col" class="wide">CPU an event, private memory</th></tr>'
    return f"<table><thead>{head}</thead><tbody>{''.join(rows)}</tbody></table>"


def _chart(title: str, drawn: str, across: Iterable[tuple[float, str]], up: Iterable[tuple[float, str]]) -> str:
    """Return a picture with its axes: places from 0 to 1, and what stands there."""
    ticks = [
        f'<text x="{_across(share):.1f}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(text)}</text>'
        for share, text in across
    ]
    ticks += [
        f'<path class="grid" d="M{_LEFT} {_up(share):.1f}H{_WIDTH}"/>'
        f'<text x="{_LEFT - 6}" y="{_up(share) + 4:.1f}" text-anchor="end">{escape(text)}</text>'
        for share, text in up
    ]
    box = f"0 0 {_WIDTH + 24} {_HEIGHT}"
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}">{"".join(ticks)}{drawn}</svg>'


def _across(share: float) -> float:
    return _LEFT + share * (_WIDTH - _LEFT)


def _up(share: float) -> float:
    return _HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 12)


def _short(number: float) -> str:
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def _ms(ms: float) -> str:
    return f"{ms / 1000:.3g} s" if ms >= 1000 else f"{ms:.3g} ms"
