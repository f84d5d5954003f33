"""One conformance suite for sources: implement an `Origin`, and what POLKU expects of its source is checked.

An `Origin` drives a real one, a server, a broker, a file, that the test starts: it takes records, says how many of them
are committed, and does what its `abilities` promise, such as going away. Checks that need other abilities are left out.

    class SpoolOrigin(Origin):
        abilities = OriginAbility.COMMITS

        def __init__(self): self.folder = tempfile.mkdtemp()
        async def start(self): pass
        async def stop(self): shutil.rmtree(self.folder, ignore_errors=True)
        def source(self): return SpoolSource(self.folder, window=self.window)
        async def put(self, texts): append_records(self.folder, texts)
        async def committed(self): return read_position(self.folder)

    def test_my_source():
        assert_source(SpoolOrigin)

or, each check a test of its own (`check(...)` is for tests that are not async):

    @pytest.mark.parametrize("check", source_checks(SpoolOrigin.abilities), ids=str)
    async def test_my_source(check):
        await check.run(SpoolOrigin())

The source runs in a pipeline of the inline runtime that acknowledges what is delivered, and whose emitter the check
holds up. A check that takes longer than its `patience` fails.
"""

from __future__ import annotations

from polku.testing.sources.origin import Origin, OriginAbility
from polku.testing.sources.suite import SourceCheck, SourceConformance, assert_source, check_source, source_checks

__all__ = [
    "Origin",
    "OriginAbility",
    "SourceCheck",
    "SourceConformance",
    "assert_source",
    "check_source",
    "source_checks",
]
