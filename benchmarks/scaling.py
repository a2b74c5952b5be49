"""How memory, messages and arithmetic grow with processes, samples, tokens and modalities: counted, not timed.

    python benchmarks/scaling.py --quick
    python benchmarks/scaling.py --json out/scaling.json --markdown docs/scaling.md

Everything but the one row of time is the same on every machine with the same version of torch. ``--markdown`` puts the
tables into the page between the two comments that name this script.
"""

import re
from pathlib import Path

import scaling_memory
import scaling_processes
import torch
from common import Row, machine, options, report, table

PARTS = {
    "What each process holds": scaling_processes.held_rows,
    "What travels in a step": scaling_processes.sent_rows,
    "How the peak of a step grows": scaling_memory.line_rows,
    "What makes it smaller": scaling_memory.saving_rows,
    "How the work grows": scaling_memory.growth_rows,
}
BEGIN, END = "<!-- made by benchmarks/scaling.py -->", "<!-- end of benchmarks/scaling.py -->"


def main() -> None:
    chosen = options(__doc__, markdown={"type": Path, "metavar": "PAGE", "help": "put the tables into this page"})
    torch.set_num_threads(1)  # before anything runs: processes are forked from this one
    made = {title: rows(chosen.quick) for title, rows in PARTS.items()}
    report([row for rows in made.values() for row in rows], to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(with_tables(chosen.markdown.read_text(), made))


def with_tables(page: str, made: dict[str, list[Row]]) -> str:
    """A page with these tables in the place of those that it had."""
    if BEGIN not in page or END not in page:
        raise SystemExit(f"The page has no place for the tables. Expected two lines: {BEGIN} and {END}.")
    tables = "\n".join(f"**{title}**\n\n{table(rows)}\n" for title, rows in made.items())
    begin = f"{BEGIN}\n\nMeasured with torch {machine()['torch']} on a CPU.\n\n"
    return re.sub(f"{BEGIN}.*{END}", lambda _: f"{begin}{tables}\n{END}", page, flags=re.DOTALL)


if __name__ == "__main__":
    main()
