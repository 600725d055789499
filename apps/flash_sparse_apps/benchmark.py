"""Speed and memory of the attention operator, beside PyTorch's own: `python apps/benchmark.py`.

Every cell is checked against the textbook formula in float64, on a sample of its rows, before it is timed. `--device`
says where: each kind of device asks its own questions, with its own flags (`--device cuda --help`). `--steps` times
training steps of an encoder instead (`--steps --help`).

Exit codes: 0 done, 1 a result was wrong, 2 something the user can mend (one line on stderr), 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from flash_sparse_apps.console import plain_interrupt
from flash_sparse_datasets.shared.exit_codes import ending


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--device", nargs="?")  # whatever is wrong with it, the device's own parser says
    first.add_argument("--steps", action="store_true")
    known = first.parse_known_args(arguments)[0]
    with plain_interrupt():
        from flash_sparse_apps.benchmarking.flags import cpu_parser, gpu_parser, steps_parser

        make_parser = steps_parser if known.steps else gpu_parser if known.device == "cuda" else cpu_parser
        options = make_parser().parse_args(arguments)  # --help and wrong flags end here, before torch is imported
        if known.steps:
            from flash_sparse_apps.benchmarking.steps import main as measure
        elif known.device == "cuda":
            from flash_sparse_apps.benchmarking.gpu import main as measure
        else:
            from flash_sparse_apps.benchmarking.cpu import main as measure
    return measure(options, ["benchmark.py", *arguments])
