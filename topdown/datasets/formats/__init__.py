"""Readers of file formats, one format per module; :func:`topdown.datasets.load_splits` picks the right one."""
