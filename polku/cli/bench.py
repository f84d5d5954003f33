"""`polku bench`: how fast is a pipeline, what does it cost, and does it lose anything?"""

from __future__ import annotations

import json
import math
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from polku.cli.command import Argument, Exit, Option
from polku.cli.settings import RUNTIMES
from polku.cli.terminal import has_rich, shows_progress
from polku.errors import SettingError
from polku.log_format import say

if TYPE_CHECKING:
    from polku.bench import Load, Result, Subject, Workload
    from polku.bench.comparison import Summary

File = Annotated[
    str | None, Argument(metavar="[FILE[:NAME]]", help="A Python file with a Hub; else Filter and Transform.")
]
_SECONDS = 5.0
_COUNT_ROWS = ("delivered", "lost", "duplicates", "reordered", "corrupted", "refused", "failed", "unanswered")


def bench(
    file: File = None,
    runtime: Annotated[str | None, Option(help="ray or inline.")] = None,
    events: Annotated[int | None, Option(help="How many to send, rounded up to whole batches.")] = None,
    seconds: Annotated[float, Option(help="How long to send; 5 unless --events is given.")] = 0.0,
    rate: Annotated[float, Option(help="Events a second (open loop); else as fast as --in-flight allows.")] = 0.0,
    in_flight: Annotated[int, Option(help="Messages that wait for their Acks, over all connections.")] = 32,
    batch: Annotated[int | None, Option(help="Events a message; 1,000, or 1 with --unary.")] = None,
    size: Annotated[int, Option(help="Bytes of one event.")] = 130,
    unary: Annotated[bool, Option("--unary", help="Call SendEvent instead of StreamEvents.")] = False,
    connections: Annotated[int, Option(help="Connections, with a stream each.")] = 1,
    event_type: Annotated[str, Option(help="The type of all events.")] = "user.login",
    source: Annotated[str, Option(help="The source of the messages; events are of SOURCE-agent.")] = "bench",
    cluster: Annotated[str, Option(help="The cluster of the messages.")] = "",
    metadata: Annotated[int, Option(help="Entries of metadata of each event.")] = 1,
    keep_emitters: Annotated[
        bool, Option("--keep-emitters", help="Run the file as it is: POLKU_BENCH_SINK is the sink's address.")
    ] = False,
    vs: Annotated[str | None, Option(metavar="FILE[:NAME]", help="Another pipeline, in turn.")] = None,
    vs_runtime: Annotated[str | None, Option(help="The runtime of the other; alone: the same file on it.")] = None,
    vs_bare: Annotated[
        bool, Option("--vs-bare", help="Against a bare gRPC relay that checks, buffers and promises nothing.")
    ] = False,
    rounds: Annotated[int, Option(help="How often to measure; 1, or 3 of a comparison.")] = 0,
    html: Annotated[
        Path | None, Option("--html", metavar="FILE", help="Write a page with what was measured, over time too.")
    ] = None,
    as_json: Annotated[bool, Option("--json", help="Everything that was measured, for programs.")] = False,
) -> None:
    """Measure a pipeline: rates, latencies, CPU and memory of each part, and by id what was lost or doubled.

    Generator, pipeline and sink are processes of their own on this machine. The file's emitters are replaced by
    ones to the sink, its journal by an empty one, its sources left out; --keep-emitters leaves all as it is. Exit
    status 1 if anything acknowledged was lost.
    """
    from polku.bench.comparison import take_turns

    if not as_json and not has_rich():
        raise SettingError(
            "polku bench", "", "its table needs rich, which is not installed: pip install rich, or --json"
        )
    load = _load(events, seconds, rate, in_flight, batch, size, unary, connections)
    load = replace(load, workload=_named(load.workload, event_type, source, cluster, metadata))
    subjects = _subjects(file, _runtime("--runtime", runtime), keep_emitters, vs, vs_runtime)
    if vs_bare:
        from polku.bench.trial import BARE

        subjects.append(BARE)
    if rounds < 0:
        raise SettingError("--rounds", rounds, "write a whole number, at least 1")
    rounds = rounds or (3 if len(subjects) > 1 else 1)
    _check_file(html)
    with _failures(), _progress(load, rounds * len(subjects)) as progress:
        results = take_turns(subjects, load, rounds, progress, over_time=html is not None)
    if html is not None:
        _write(html, results)
    if as_json:
        print(json.dumps(_everything(load, results), indent=2))
    else:
        _show(results)
    if any(result.lost for rounds_of_one in results for result in rounds_of_one):
        raise Exit(1)


def _load(
    events: int | None,
    seconds: float,
    rate: float,
    in_flight: int,
    batch: int | None,
    size: int,
    unary: bool,
    connections: int,
) -> Load:
    from polku.bench import Load, Workload
    from polku.bench.workload import MAX_BATCH

    if batch is None:
        batch = 1 if unary else 1_000
    if not 1 <= batch <= MAX_BATCH:
        raise SettingError("--batch", batch, f"write a number of events from 1 to {MAX_BATCH}")
    for name, count in (("--in-flight", in_flight), ("--connections", connections)):
        if count < 1:
            raise SettingError(name, count, "write a whole number, at least 1")
    if events is not None and events < 1:
        raise SettingError("--events", events, "write a whole number, at least 1")
    for option, value in (("--seconds", seconds), ("--rate", rate)):
        if value < 0 or not math.isfinite(value):
            raise SettingError(option, value, "must not be below 0")
    if in_flight < connections:
        raise SettingError("--in-flight", in_flight, f"{connections} connections need at least one message each")
    return Load(
        workload=Workload(batch, size, unary),
        events=events or 0,
        seconds=seconds or (0.0 if events else _SECONDS),
        rate=rate,
        in_flight=in_flight,
        connections=connections,
    )


def _named(workload: Workload, event_type: str, source: str, cluster: str, metadata: int) -> Workload:
    from polku.bench.workload import MAX_METADATA

    if not 0 <= metadata <= MAX_METADATA:
        raise SettingError("--metadata", metadata, f"write a number of entries from 0 to {MAX_METADATA}")
    return replace(workload, event_type=event_type, source=source, cluster=cluster, metadata=metadata)


def _subjects(file: str | None, runtime: str, keep: bool, vs: str | None, vs_runtime: str | None) -> list[Subject]:
    from polku.bench import Subject
    from polku.bench.trial import BUILT_IN

    if file is None and keep:
        raise SettingError("--keep-emitters", True, "is for a FILE of yours; none was given")
    subjects = [Subject(file=_file("FILE", file or BUILT_IN), runtime=runtime, keep=keep)]
    if vs is not None or vs_runtime is not None:
        other = _runtime("--vs-runtime", vs_runtime) if vs_runtime is not None else runtime
        subjects.append(
            Subject(file=_file("--vs", vs) if vs is not None else subjects[0].file, runtime=other, keep=keep)
        )
    return subjects


def _file(name: str, target: str) -> str:
    from polku.cli.load import split

    if not split(target)[0].is_file():
        raise SettingError(name, target, "there is no such file; write FILE or FILE:NAME")
    return target


def _runtime(name: str, runtime: str | None) -> str:
    chosen = runtime or os.environ.get("POLKU_RUNTIME") or "ray"
    if chosen not in RUNTIMES:
        raise SettingError(name, chosen, f"choose one of {', '.join(RUNTIMES)}")
    return chosen


@contextmanager
def _failures() -> Iterator[None]:
    from polku.bench import BenchError

    try:
        yield
    except BenchError as error:
        say(f"polku: {error}")
        raise Exit(2 if error.status == 2 else 1) from None


@contextmanager
def _progress(load: Load, measurements: int) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show a bar for each measurement on a terminal, nothing elsewhere."""
    if not shows_progress():
        yield lambda label, number: lambda acked: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    total = load.batches * load.workload.batch or (load.rate * load.seconds or None)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:

        def begin(label: str, number: int) -> Callable[[int], None]:
            task = bars.add_task(f"{label}, round {number + 1}", total=total)
            return lambda acked: bars.update(task, completed=acked)

        yield begin


def _check_file(path: Path | None) -> None:
    """Raise `SettingError` where a file cannot be written: before anything is measured."""
    try:
        if path is not None:
            path.open("a").close()
    except OSError as error:
        raise SettingError("--html", str(path), f"cannot be written: {error.strerror}") from None


def _write(path: Path, results: Sequence[Sequence[Result]]) -> None:
    from polku.bench.comparison import ratio, summarise
    from polku.bench.machine import machine
    from polku.bench.report import write_report

    summaries = [summarise(rounds) for rounds in results]
    notes = [
        f"{summaries[0].subject} / {summary.subject}, acked/s: {ratio(other, results[0])}"
        for other, summary in zip(results[1:], summaries[1:], strict=True)
    ]
    notes += [f"{summary.subject}: {summary.note}" for summary in summaries if summary.note]
    page = write_report(_command(), machine(), results, _rows(summaries), "; ".join(notes))
    path.write_text(page, encoding="utf-8")
    say(f"polku: {path} shows what was measured")


def _command() -> str:
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _everything(load: Load, results: Sequence[Sequence[Result]]) -> dict[str, Any]:
    from dataclasses import asdict

    from polku.bench.comparison import ratio, summarise
    from polku.bench.machine import machine

    subjects = [
        {**summarise(rounds).to_json(), "rounds": [result.to_json() for result in rounds]} for rounds in results
    ]
    ratios = {one[0].subject: ratio(one, results[0]) for one in results[1:]}
    return {"command": _command(), "machine": machine(), "load": asdict(load), "subjects": subjects, "ratios": ratios}


def _show(results: Sequence[Sequence[Result]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from polku.bench.comparison import ratio, summarise
    from polku.bench.machine import describe, machine

    summaries = [summarise(rounds) for rounds in results]
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    table = Table(box=box.SIMPLE, title=f"medians of {len(results[0])} rounds" if len(results[0]) > 1 else None)
    table.add_column()
    for summary in summaries:
        table.add_column(summary.subject, justify="right")
    for name, *cells in _rows(summaries):
        table.add_row(name, *cells)
    console.print(table)
    for other, summary in zip(results[1:], summaries[1:], strict=True):
        console.print(f"{summaries[0].subject} / {summary.subject}, acked/s: {ratio(other, results[0])}", markup=False)
    for summary in summaries:
        if summary.note:
            console.print(f"{summary.subject}: {summary.note}", markup=False)
    console.print(describe(machine()), style="dim", markup=False)


def _rows(summaries: Sequence[Summary]) -> Iterator[list[str]]:
    for name, label in (("acked_per_s", "acked/s"), ("delivered_per_s", "delivered/s")):
        yield [label, *(f"{summary.medians[name]:,.0f}" for summary in summaries)]
    for name in _COUNT_ROWS:
        values = [summary.counts[name] for summary in summaries]
        if name in ("delivered", "lost", "duplicates") or any(values):
            yield [name, *("?" if value is None else f"{value:,}" for value in values)]
    for name in sorted({name for summary in summaries for name in summary.left_out}):
        yield [f"left out: {name}", *(f"{summary.left_out.get(name, 0):,}" for summary in summaries)]
    for title, field in (("accepted", "accepted_ms"), ("end to end", "end_to_end_ms")):
        for percentile in ("p50", "p99", "p99.9"):
            cells = [getattr(summary, field).get(percentile) for summary in summaries]
            yield [f"{title} {percentile}, ms", *("-" if cell is None else f"{cell:,.2f}" for cell in cells)]
    yield ["CPU, µs/event", *(f"{summary.medians['cpu_us_per_event']:,.2f}" for summary in summaries)]
    yield ["private memory, MB", *(f"{summary.medians['memory_mb']:,.1f}" for summary in summaries)]
    names = list(dict.fromkeys(name for summary in summaries for name in summary.parts))
    for name in names if len(names) > 1 else []:
        parts = [summary.parts.get(name) for summary in summaries]
        cells = [
            "-" if part is None else f"{part['cpu_us_per_event']:.2f} µs, {part['memory_mb']:.1f} MB" for part in parts
        ]
        yield [f"  {name}", *cells]
    emitters = list(dict.fromkeys(name for summary in summaries for name in summary.emitters))
    for name in emitters if len(emitters) > 1 else []:
        each = [summary.emitters.get(name) for summary in summaries]
        yield [f"  to {name}", *("-" if one is None else f"{one['delivered_per_s']:,.0f}/s" for one in each)]
