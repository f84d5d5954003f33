"""Results as JUnit's XML, which continuous integration shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree


class Result(NamedTuple):
    """What came of a case: `failure` is empty where it passed."""

    file: str
    line: int
    name: str
    seconds: float
    failure: str


def write_junit(path: Path, results: Sequence[Result]) -> None:
    """Write a suite for each file; raises `OSError`."""
    root = ElementTree.Element("testsuites", {"name": "polku test", **_counts(results)})
    for file in dict.fromkeys(result.file for result in results):
        own = [result for result in results if result.file == file]
        suite = ElementTree.SubElement(root, "testsuite", {"name": file, **_counts(own)})
        for result in own:
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=file,
                name=result.name,
                file=file,
                line=str(result.line),
                time=f"{result.seconds:.3f}",
            )
            if result.failure:
                first = result.failure.splitlines()[0].strip()
                ElementTree.SubElement(case, "failure", message=first).text = result.failure
    tree = ElementTree.ElementTree(root)
    ElementTree.indent(tree)
    tree.write(path, encoding="utf-8", xml_declaration=True)


def _counts(results: Sequence[Result]) -> dict[str, str]:
    failed = sum(bool(result.failure) for result in results)
    return {
        "tests": str(len(results)),
        "failures": str(failed),
        "errors": "0",
        "time": f"{sum(result.seconds for result in results):.3f}",
    }
