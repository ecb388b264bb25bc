"""`python -m topdown` is the command `topdown`."""

from topdown.cli.main import main

if __name__ == "__main__":
    main()
