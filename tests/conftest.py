"""For every test: one thread for its process, before anything imports torch, and the same random numbers."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.append(str(Path(__file__).parent))  # for `hostile`: pytest's importlib mode leaves it out


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)
