"""The error that is raised for data and files that cannot be used."""

LONGEST = 900  # letters of a message; whatever a file holds, it stays readable


class DataError(ValueError):
    """Is raised for data that cannot be used. The message names the file or array, the fault and the remedy, in one line."""

    def __init__(self, message: str) -> None:
        line = " ".join(message.splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 303]}...{line[-300:]}")
