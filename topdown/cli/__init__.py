"""The command `topdown`, and the commands of the mosei examples."""
