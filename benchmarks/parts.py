"""A benchmark that is made of parts: runs the cases that are asked for, reports their rows, and writes its page."""

import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import Row, options, report
from data_measure import Setting


def run_parts(
    description: str | None, parts: Mapping[str, Any], page: Callable[[Mapping[str, Sequence[Row]]], str]
) -> None:
    """Run ``CASES`` of each module of ``parts``, in their order, as the command line says.

    Args:
        description: of the script, for its help.
        parts: modules by the title that their rows have on the page.
        page: rows by title -> the text of the page.
    """
    chosen = options(
        description,
        only={"metavar": "REGEX", "default": "", "help": "only the cases whose name it finds"},
        rounds={"type": int, "default": 9, "help": "how often single calls run in turn (default 9)"},
        markdown={"type": Path, "metavar": "FILE", "help": "write the page with all tables"},
    )
    torch.set_num_threads(1)
    made: dict[str, list[Row]] = {title: [] for title in parts}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(Path(folder), chosen.quick, 3 if chosen.quick else chosen.rounds)
        for title, part in parts.items():
            for name, case in part.CASES.items():
                if re.search(chosen.only, name):
                    made[title] += case(setting)
                    print(f"{made[title][-1].name}: {made[title][-1].ratio:.2f}", file=sys.stderr, flush=True)
    report([row for rows in made.values() for row in rows], to=chosen.json, quick=chosen.quick)
    if chosen.markdown:
        chosen.markdown.write_text(page(made))
