"""Readers of the files that people hold, one layout a module; :func:`topdown.datasets.load_splits` picks the right one."""
