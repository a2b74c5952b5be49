"""Rows that earlier runs of a benchmark wrote with ``--json``, so that a page can be made of parts measured apart."""

import json
from collections.abc import Iterable
from pathlib import Path

from common import Row, machine


def rows_of(files: Iterable[Path]) -> dict[str, Row]:
    """Rows by name; where several files have a row of that name, the one of the last file.

    Raises:
        SystemExit: a file is no whole run on this machine with this torch, which its page would claim.
    """
    here, rows = {"quick": False, **machine()}, {}
    for file in files:
        try:
            written = json.loads(file.read_text())
            told = {key: written[key] for key in here}
            read = [Row(**{key: value for key, value in row.items() if key != "met"}) for row in written["rows"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SystemExit(
                f"{file} holds no rows: {error!r}. Expected a file that --json wrote. Leave it out."
            ) from None
        if told != here:
            raise SystemExit(f"{file} is of {told}. Expected {here}, which the page will say. Measure that part again.")
        rows |= {row.name: row for row in read}
    return rows
