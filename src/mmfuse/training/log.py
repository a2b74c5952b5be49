"""Where the numbers of a run go: ``log(step, values)``, and the JSON Lines that stand in every run's folder."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmfuse._files import plain, replace_text

Log = Callable[[int, Mapping[str, float]], None]  # (optimizer steps so far, numbers by name)


class JsonLines:
    """A log that appends a line of JSON for each call: ``{"step": 50, "step/result/loss": 0.7}``.

    What is not finite is null. Each line is handed to the system at once, so a process that is killed loses none.

    Args:
        path: of the file; its folder is made.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._whole = False  # whether the file is known to end with a whole line

    def __call__(self, step: int, values: Mapping[str, float | int]) -> None:
        if not self._whole:
            _cut_torn_line(self.path)
            self._whole = True
        line = json.dumps(plain({"step": step, **values}), allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def keep_until(self, step: int, epoch: int | float = math.inf) -> None:
        """Drop the lines after a step, for a run that goes on from there. All or nothing of it happens.

        The line of ``epoch``, which is going on, goes too: if the run stopped between the last step and the end of an
        epoch, both have one number of steps.
        """
        if not self.path.exists():
            return
        kept = [line for line, values in _lines(self.path) if values["step"] <= step and values.get("epoch", 0) < epoch]
        replace_text(self.path, "".join(f"{line}\n" for line in kept))


class Logs:
    """Several logs as one; each may have ``keep_until(step)`` and ``close()``, which are then called too.

    Args:
        log: one, several, or None.
        path: of a :class:`JsonLines` beside them.
    """

    def __init__(self, log: Log | Sequence[Log] | None = None, path: str | Path | None = None) -> None:
        given: list[Any] = [] if log is None else list(log) if isinstance(log, list | tuple) else [log]
        for one in given:
            if not callable(one):
                raise TypeError(
                    f"fit got a {type(one).__name__} as log. Expected a function of step and numbers, or several. "
                    "Give log=TensorBoard(folder), or write: def log(step, values): ..."
                )
        self.logs: list[Log] = [*([] if path is None else [JsonLines(path)]), *given]

    def __call__(self, step: int, values: Mapping[str, float | int]) -> None:
        for log in self.logs:
            log(step, values)

    def keep_until(self, step: int, epoch: int | float = math.inf) -> None:
        """Let every log that can forget what it was told after a step."""
        for log in self.logs:
            if isinstance(log, JsonLines):
                log.keep_until(step, epoch)
            elif hasattr(log, "keep_until"):
                log.keep_until(step)

    def close(self) -> None:
        """Close every log that can be closed."""
        for log in self.logs:
            if hasattr(log, "close"):
                log.close()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """What :class:`JsonLines` wrote, a mapping for each line; a last line that was torn by a kill is left out."""
    return [values for _, values in _lines(Path(path))]


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each whole line, with what it says."""
    *whole, _torn = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(whole, start=1):
        try:
            values = json.loads(line)
            step = values["step"]
        except (ValueError, TypeError, KeyError):
            step = None
        if not isinstance(step, int):
            raise ValueError(
                f"Line {number} of {path.name} in {path.parent} is {line[:80]!r}. Expected a JSON object with a "
                "step, as JsonLines writes it. Remove the line, or move the file away."
            )
        yield line, values


def _cut_torn_line(path: Path) -> None:
    """Remove what a process that was killed while it wrote has left after the last line's end."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
