"""Cases in files, for `polku test`: what goes into a pipeline, and what should become of it."""

from __future__ import annotations

from polku.testing.cases.case import Case, Difference, judge
from polku.testing.cases.files import CaseError, CaseFile, find_case_files

__all__ = ["Case", "CaseError", "CaseFile", "Difference", "find_case_files", "judge"]
