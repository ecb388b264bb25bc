"""The one error of everything that has to do with data."""


class DataError(ValueError):
    """Data that cannot be used: the message names the file or the array, what is wrong, and the remedy."""
