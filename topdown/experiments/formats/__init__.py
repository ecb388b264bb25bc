"""Readers of the files that people hold, one layout a module; :func:`topdown.experiments.load_splits` picks the right one."""
