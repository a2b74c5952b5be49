"""``run.json``: with what a run was made. Versions, state of the code, arguments and hardware, of every start."""

import json
import numbers
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmfuse import __version__
from mmfuse._files import plain, read_json, replace_text
from mmfuse.distributed import world
from mmfuse.training.checkpoints.state_tree import plain_number

VERSION = 1
PACKAGES = ("torchvision", "torchaudio", "transformers", "peft", "numpy", "safetensors", "scikit-learn")
SECRETS = ("key", "token", "secret", "password")  # in the name of an option: its value is not written down
MOST_ITEMS = 100  # of a list; of a longer one only the length is
MOST_SECONDS = 10.0  # that git may take


def write_run(folder: str | Path, arguments: Mapping[str, Any]) -> Path:
    """Write ``folder/run.json``: ``{"version": 1, "sessions": [...]}``, with one session for each start of the run.

    Of the script and of paths only the last part is written; the words of the command line are as they were typed.

    Args:
        folder: of the run; it is made.
        arguments: those of ``fit``. A module becomes its class and the keywords that it was built with.
    """
    path = Path(folder) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    before = read_json(path).get("sessions", []) if path.exists() else []
    text = {"version": VERSION, "sessions": [*before, session(arguments)]}
    replace_text(path, json.dumps(plain(text), indent=1, allow_nan=False) + "\n")
    return path


def session(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """One start of a run, as JSON."""
    return {
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(sys.argv),
        "arguments": {name: describe(value) for name, value in arguments.items()},
        "processes": world(),
        "git": git_state(_folder_of_script()),
        "versions": versions(),
        "hardware": hardware(),
    }


def describe(value: Any) -> Any:
    """An argument as JSON: a module by class and keywords, a loader by what it reads, other objects by their class."""
    if value is None or isinstance(value, numbers.Real | str):
        return plain_number(value)
    if isinstance(value, Path):
        return value.name
    if isinstance(value, torch.device | torch.dtype):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        simple = len(value) <= MOST_ITEMS and not any(hasattr(item, "targets") for item in value)
        return [describe(item) for item in value] if simple else {"class": type(value).__name__, "length": len(value)}
    return _describe_object(value)


def _describe_object(value: Any) -> dict[str, Any]:
    name = getattr(value, "__qualname__", type(value).__qualname__)
    text: dict[str, Any] = {"function" if hasattr(value, "__qualname__") else "class": name}
    if hasattr(value, "_recorded_arguments"):
        text["arguments"] = describe(value._recorded_arguments)
    if hasattr(value, "encoders") and hasattr(value, "tasks"):
        text |= {part: describe(dict(getattr(value, part).items())) for part in ("encoders", "tasks")}
        text |= {part: describe(getattr(value, part, None)) for part in ("fusion", "missing")}
    if isinstance(value, nn.Module):
        counts = [(parameter.numel(), parameter.requires_grad) for parameter in value.parameters()]
        text |= {"parameters": sum(n for n, _ in counts), "trained": sum(n for n, trained in counts if trained)}
    if hasattr(value, "dataset"):  # a Loader
        dataset = value.dataset
        text |= {"data": Path(str(getattr(dataset, "name", type(dataset).__name__))).name, "batches": len(value)}
        text |= describe(getattr(value, "settings", {}))
    return text


def command_line(words: Sequence[str]) -> list[str]:
    """The command as it was typed, but the script without its folder, and no value of what may be a secret."""
    shown, hide = [Path(word).name for word in words[:1]], False
    for word in words[1:]:
        name, equals, _ = word.partition("=")
        secret = any(part in name.lower() for part in SECRETS)
        shown.append("***" if hide and not word.startswith("-") else f"{name}=***" if secret and equals else word)
        hide = secret and not equals and word.startswith("-")
    return shown


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the code in a folder, and whether a file that git knows was changed since; None without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return None if commit is None else {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git(folder: Path, *words: str) -> str | None:
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _folder_of_script() -> Path:
    script = getattr(sys.modules["__main__"], "__file__", None)
    return Path.cwd() if script is None else Path(script).resolve().parent


def versions() -> dict[str, str | None]:
    """Of Python, mmfuse, what it stands on, and CUDA; None for what is not there. Nothing is imported for it."""
    found: dict[str, str | None] = {"python": platform.python_version(), "mmfuse": __version__}
    found["torch"] = torch.__version__  # says for which CUDA it was built, too
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    return {**found, "cuda": torch.version.cuda, "cudnn": None if cudnn is None else str(cudnn)}


def hardware() -> dict[str, Any]:
    """Processor, memory in GB (10^9 bytes) and GPUs of this machine, without its name."""
    try:
        memory: float | None = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (ValueError, OSError, AttributeError):
        memory = None
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return {
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": memory,
        "gpus": [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in gpus],
        "system": platform.platform(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
