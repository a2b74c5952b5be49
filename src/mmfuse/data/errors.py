"""What went wrong in somebody's data."""


class DataError(ValueError):
    """A cell or file of a table that cannot be used. The message names row, column and file."""
