"""The machine: which device computes, what it is made of, the versions of the libraries that matter, its memory."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import resource
import sys
from contextlib import suppress

import torch

from flash_sparse_datasets.shared.exit_codes import UserError

LIBRARIES = ("flash-sparse", "torch", "triton", "lightning", "transformers", "tokenizers", "scikit-learn", "numpy")


def choose_device(accelerator: str) -> str:
    """ "cuda" or "cpu", from what `--accelerator` says: auto, cpu or gpu.

    Raises:
        UserError: gpu, and PyTorch finds none.
    """
    found = torch.cuda.is_available()
    if accelerator == "gpu" and not found:
        raise UserError("--accelerator is gpu; expected cpu or auto, since PyTorch finds no GPU")
    return "cuda" if accelerator != "cpu" and found else "cpu"


def describe_machine(device: torch.device) -> dict:
    found = {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        found["GPU"] = torch.cuda.get_device_name(device)
    return found


def describe_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed
    return found


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_memory() -> int:
    """The most bytes that this process has taken so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_gpu_memory() -> int | None:
    """The most bytes that PyTorch has taken of a GPU so far."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def give_back_memory():
    """Give the memory that was freed back to the system, in some 20 ms.

    Batches are of many sizes, and in between glibc keeps what is freed in holes that later tensors do not fit. Another
    C library keeps no such holes, or cannot be asked.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
