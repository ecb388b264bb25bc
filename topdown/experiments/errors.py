"""The one error of everything that has to do with data."""


class DataError(ValueError):
    """Data that cannot be used: the message names the file or the array, what is wrong, and the remedy, in one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.splitlines()))  # whatever a file holds
