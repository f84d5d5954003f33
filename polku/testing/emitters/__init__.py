"""One conformance suite for emitters: implement a `Destination`, and what POLKU expects of its emitter is checked.

A `Destination` drives a real one, a server, a broker, a folder, that the test starts: it says what it holds, and
does what its `abilities` promise, such as dying and refusing. Checks that need other abilities are left out.

    class FolderDestination(Destination):
        abilities = Ability.ORDER

        def __init__(self): self.folder = tempfile.mkdtemp()
        async def start(self): pass
        async def stop(self): shutil.rmtree(self.folder, ignore_errors=True)
        def emitter(self): return FolderEmitter(self.folder)
        async def held(self): return read_ids(self.folder)

    def test_my_emitter():
        assert_emitter(FolderDestination)

or, each check a test of its own (`check(...)` is for tests that are not async):

    @pytest.mark.parametrize("check", emitter_checks(FolderDestination.abilities), ids=str)
    async def test_my_emitter(check):
        await check.run(FolderDestination())

The emitter is driven as a pipeline drives it, with retries that are quicker. A check that takes longer than its
`patience` fails.
"""

from __future__ import annotations

from polku.testing.emitters.destination import Ability, Destination
from polku.testing.emitters.suite import Conformance, EmitterCheck, assert_emitter, check_emitter, emitter_checks

__all__ = [
    "Ability",
    "Conformance",
    "Destination",
    "EmitterCheck",
    "assert_emitter",
    "check_emitter",
    "emitter_checks",
]
