"""Which methods are compared, and whether their code has changed since a score was made."""

import ast
import functools
import importlib.util
import inspect
import sys
import zlib
from pathlib import Path
from typing import Any

from torch import nn

from mmfuse.fusion import FUSIONS


def known(own: Path | None) -> dict[str, Any]:
    """The methods of mmfuse, and those of a file."""
    if own is None:
        return dict(FUSIONS)
    spec = importlib.util.spec_from_file_location(own.stem, own)
    if spec is None or spec.loader is None or not own.is_file():
        raise SystemExit(f"--own {own} is no Python file. Expected one with fusion classes. Check the path.")
    module = sys.modules[own.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    mine = {
        name: part
        for name, part in vars(module).items()
        if isinstance(part, type) and issubclass(part, nn.Module) and part.__module__ == own.stem
    }
    return {**FUSIONS, **mine}


@functools.cache  # files may change while this runs; what counts is what was imported
def code_of(make: Any) -> int:
    """Another number after a change to the method, or to what all are trained on: its scores are made again."""
    here = Path(__file__).parent
    files = [Path(inspect.getfile(make)), *(here / f"comparison_{part}.py" for part in ("encoders", "problems", "utd"))]
    return zlib.crc32("".join(without_docstrings(file.read_text()) for file in files).encode())


def without_docstrings(source: str) -> str:
    """The code of a file as Python sees it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)
