"""The commands: events go to standard output, everything for people to standard error."""

from __future__ import annotations

from polku.cli.command import App
from polku.version import __version__

app = App("Event routing as code.", version=__version__)
app.add_later(
    bench="polku.cli.bench:bench",
    dlq="polku.cli.dlq:app",
    doctor="polku.cli.doctor:doctor",
    explain="polku.cli.explain:explain",
    graph="polku.cli.validate:graph",
    health="polku.cli.health:health",
    init="polku.cli.init:init",
    journal="polku.cli.journal:app",
    plugin="polku.cli.plugin:app",
    ps="polku.cli.ps:ps",
    record="polku.cli.record:record",
    reload="polku.cli.reload:reload",
    replay="polku.cli.replay:replay",
    run="polku.cli.run:app",
    send="polku.cli.send:send",
    serve="polku.cli.run:app",
    tap="polku.cli.tap:tap",
    test="polku.cli.cases:run_cases",
    token="polku.cli.token:app",
    top="polku.cli.top:top",
    validate="polku.cli.validate:validate",
)


def main() -> None:
    """Run the command line."""
    app()
