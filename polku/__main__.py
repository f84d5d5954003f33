"""Run the `polku` command as `python -m polku`."""

from polku.cli import main

main()
