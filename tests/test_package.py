"""Promises of the package as a whole: what an import costs, which way imports point, what is documented."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import mmfuse

ROOT = Path(mmfuse.__file__).parent
LAYERS = [
    {"_checks", "_record", "_files"},
    {"distributed"},
    {"contracts"},
    {"layers"},
    {"losses"},
    {"data"},
    {"encoders", "missing", "fusion", "tasks"},
    {"model"},
    {"persistence", "evaluation", "testing"},
    {"training"},
]
HEAVY = {"transformers", "torchvision", "torchaudio", "sklearn", "matplotlib", "pandas", "PIL", "soundfile", "tqdm"}
MOST_LINES = 250


def modules_after(statement):
    code = f"import torch, sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_import_is_light():
    new = modules_after("import mmfuse")

    assert not (HEAVY | {"torch._dynamo"}) & new
    assert len(new) < 40, sorted(new)


def test_importing_every_part_loads_nothing_heavy_but_the_progress_bar():
    new = modules_after("import mmfuse.encoders, mmfuse.fusion, mmfuse.tasks, mmfuse.data, mmfuse.training")

    assert not (HEAVY - {"tqdm"}) & new


def test_the_test_of_the_import_can_fail():
    assert "soundfile" in modules_after("import mmfuse, soundfile")


def test_imports_point_down():
    rank = {name: i for i, names in enumerate(LAYERS) for name in names}
    for path in ROOT.rglob("*.py"):
        here = path.relative_to(ROOT).with_suffix("").parts[0]
        if here == "__init__":
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmfuse."):
                there = node.module.split(".")[1]
                assert there == here or rank[there] < rank[here], f"{path.name} ({here}) may not import {node.module}"


def test_files_stay_short():
    for path in [*ROOT.rglob("*.py"), *(ROOT.parent.parent / "examples").glob("*.py")]:
        lines = len(path.read_text().splitlines())
        assert lines <= MOST_LINES, f"{path.name} has {lines} lines: split it by idea"


def public_parts():
    for info in pkgutil.walk_packages([str(ROOT)], "mmfuse."):
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []):
            yield f"{info.name}.{name}", getattr(module, name)


@pytest.mark.plain
def test_public_names_exist_and_are_documented():
    for name in mmfuse.__all__:
        assert getattr(mmfuse, name).__doc__, f"{name} has no docstring"
    for path, part in public_parts():
        if callable(part):
            assert part.__doc__, f"{path} has no docstring"
            for name, member in vars(part).items() if isinstance(part, type) else ():
                if callable(member) and not name.startswith("_") and name != "forward":
                    assert getattr(part, name).__doc__, f"{path}.{name} has no docstring"


def test_no_file_is_read_with_pickle_or_run():
    forbidden = {"pickle", "joblib", "dill", "shelve", "marshal"}
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = {a.name for a in node.names} if isinstance(node, ast.Import) else set()
            names |= {node.module} if isinstance(node, ast.ImportFrom) else set()
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert not names & forbidden, path
            assert called not in {"torch.load", "eval", "exec", "np.load", "__import__"}, f"{path}: {called}"
