"""Command lines of `topdown` and of the mosei examples."""
