"""`python -m topdown` is the command `topdown`."""

from topdown.cli.main import main

main()
