"""``python -m p5dist.cli``: the same as the command p5dist."""

from p5dist.cli.main import main

main()
