"""What every test stands on: no network, one thread, examples and benchmarks importable."""

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))  # last: its names are common ones

import torch

torch.set_num_threads(1)
