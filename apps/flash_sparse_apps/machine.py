"""What a measurement was made on: processor, cores, GPU, and the versions of the libraries that matter."""

from __future__ import annotations

import importlib.metadata
import os
import platform

import torch

LIBRARIES = ("flash-sparse", "torch", "triton", "lightning", "transformers", "tokenizers", "scikit-learn", "numpy")


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
