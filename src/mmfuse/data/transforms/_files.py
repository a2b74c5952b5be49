"""The file that a transform was given is looked for before anything opens it."""

from pathlib import Path


def require_file(path: str | Path, expected: str) -> Path:
    """The path of a file that is there; ``expected`` names what it should hold, for the message."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"There is no file '{path}'. Expected {expected}. Check the path and the folder it starts from."
        )
    return path
