"""`polku test`: run the cases that stand next to a pipeline, for people who write no Python."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from polku.cli.command import Argument, Exit, Option
from polku.errors import SettingError

if TYPE_CHECKING:
    from polku.hub import Hub
    from polku.testing.cases import Case, CaseFile, Difference
    from polku.testing.cases.junit import Result


def run_cases(
    folder: Annotated[str, Argument(metavar="DIR|FILE", help="A folder of pipelines and cases, or a file of cases.")],
    pipeline: Annotated[
        str | None, Option(metavar="FILE[:NAME]", help="The pipeline; else the one next to the cases.")
    ] = None,
    only: Annotated[str, Option("--only", "-k", metavar="TEXT", help="Only cases whose name has this in it.")] = "",
    junit: Annotated[Path | None, Option(metavar="FILE", help="Write the results there as JUnit's XML.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Show what fails, and nothing else.")] = False,
) -> None:
    """Run cases, a JSON object a line: `{"in": {"event_type": "order"}, "to": ["audit"], "metadata": {"seen": "yes"}}`.

    Each runs the whole pipeline in virtual time, with recorders in place of emitters: nothing is sent anywhere. The
    cases of `orders.py` stand in `orders.ndjson`, those of `pipeline.py` in any other `*.ndjson` next to it or in a
    folder `cases`. Exit status: 0, all pass; 1, one fails; 2, a file cannot be read, or there are no cases.
    """
    from polku.testing.cases.junit import write_junit

    with silent():
        results = _run_all(folder, pipeline, only, quiet=quiet)
    if not results:
        raise SettingError("DIR", folder, f"there is no case{f' with {only!r} in its name' if only else ''} (*.ndjson)")
    if junit is not None:
        try:
            write_junit(junit, results)
        except OSError as error:
            raise SettingError("--junit", str(junit), f"cannot be written: {error.strerror}") from None
    failed = sum(bool(result.failure) for result in results)
    print(f"{len(results) - failed} passed, {failed} failed" if failed else f"{len(results)} passed")
    if failed:
        raise Exit(1)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Log nothing: what would be logged is in the outcome."""
    logger = logging.getLogger("polku")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _run_all(folder: str, pipeline: str | None, only: str, *, quiet: bool) -> list[Result]:
    from polku.cli.load import load_hub
    from polku.testing.cases import CaseError

    results = []
    try:
        for file in _files(Path(folder), pipeline):
            hub = load_hub(pipeline or str(file.pipeline), runtime="inline")
            results += [_run(str(file.path), case, hub, quiet=quiet) for case in file.read() if only in case.name]
    except CaseError as error:
        raise SettingError("DIR", folder, str(error)) from None
    return results


def _files(path: Path, pipeline: str | None) -> list[CaseFile]:
    from polku.testing.cases import CaseFile, find_case_files

    if pipeline is not None:
        paths = sorted(path.rglob("*.ndjson")) if path.is_dir() else [path]
        return [CaseFile(one, Path(pipeline)) for one in paths]
    if path.is_file():
        return [file for file in find_case_files(path.parent) if file.path == path]
    if not path.is_dir():
        raise SettingError("DIR", str(path), "there is no such folder or file")
    return find_case_files(path)


def _run(file: str, case: Case, hub: Hub, *, quiet: bool) -> Result:
    from polku.testing.cases.case import judge
    from polku.testing.cases.junit import Result
    from polku.testing.trial.run import run

    began = time.perf_counter()
    try:
        outcome = run(hub, case.given)
        differences = judge(case, outcome)
    except Exception as error:
        failure = f"  {type(error).__name__}: {error}"
    else:
        failure = "\n".join(map(_shown, differences))
        if failure and outcome.sent:
            lines = [f"    {event.id}: {outcome.fate(event.id)}" for event in outcome.sent]
            failure = "\n".join([failure, "  what happened", *lines])
    if failure or not quiet:
        print(f"{'FAIL' if failure else 'ok  '}  {file}:{case.line}  {case.name}")
    if failure:
        print(failure)
    return Result(file, case.line, case.name, time.perf_counter() - began, failure)


def _shown(difference: Difference) -> str:
    return f"  {difference.what}\n    expected  {difference.expected}\n    got       {difference.got}"
