"""Train, test and report a classifier of long documents.

    python apps/classify.py --seq-len 16384 --sparse
    python apps/classify.py --dataset my.jsonl --seq-len 8192 --sparse --output runs/mine
    python apps/classify.py --resume runs/mine

Exit codes: 0 done, 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from flash_sparse_apps.console import (
    ended_by_sigterm,
    on_sigterm,
    outlive_readers,
    plain_interrupt,
    print_anything,
    spoken,
)
from flash_sparse_apps.files import room_to_write
from flash_sparse_datasets.shared.cache_folder import cache_folder
from flash_sparse_datasets.shared.exit_codes import Stopped, ending, stop

if TYPE_CHECKING:
    from pathlib import Path

    from flash_sparse_apps.run_folder import RunFolder
    from flash_sparse_apps.settings import Settings


def _with_less_memory(settings: Settings) -> str:
    """What to ask for where memory is too little, the first being what changes least."""
    lower = f"a lower --seq-len {settings.seq_len}, or --checkpoint-activations"
    if settings.auto_batch:
        return lower  # one document is too long already
    lower = f"a lower --tokens-per-batch {settings.tokens_per_batch}, {lower}"
    return lower if settings.devices * settings.num_nodes > 1 else f"--auto-batch, {lower}"


def _how_it_ends(
    error: BaseException, settings: Settings, resumed: Path | None, run: RunFolder | None
) -> Stopped | None:
    """What is said after an error, and how to go on; None for an error in the program itself. A run folder from which
    nothing can go on is removed."""
    from flash_sparse_apps.training import processes
    from flash_sparse_apps.training.main_process import is_main_process

    stopped = stop(error, _with_less_memory(settings))
    if stopped is not None:
        output = {"--output": settings.output or "runs"} if resumed is None else {}
        stopped.line += room_to_write(error, {"--cache-dir": cache_folder(settings.cache_dir), **output})
    if stopped is not None and isinstance(error, FloatingPointError):
        stopped.line += f"; expected a lower --learning-rate than {settings.learning_rate:g}"
    stopped = processes.why_ended(error, stopped)
    if run is not None and not run.has_checkpoint:
        if is_main_process():
            run.remove()  # there is nothing to go on from
    elif run is not None and stopped is not None:
        resume = f"{spoken('classify')} --resume {shlex.quote(str(run.path))}"
        if isinstance(error, FloatingPointError):
            resume += f" --learning-rate {cast(float, settings.learning_rate) / 2:g}"
        stopped = Stopped(f"{stopped.line}; to continue: {resume}", stopped.code)
    return stopped


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        from flash_sparse_apps.command_line import parse
    print_anything()
    outlive_readers()
    settings, resumed = parse(arguments)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # of a process that is gone, one line is enough
    with plain_interrupt():  # it takes seconds, which --help and a wrong flag need not pay
        from flash_sparse_apps.training import processes, training_run
        from flash_sparse_apps.training.opening import open_run
        from flash_sparse_apps.training.preparing import prepare

    run = None
    with on_sigterm(lambda: None):  # one that comes after an error must not cut short what is said
        try:
            with training_run.quiet(), ended_by_sigterm():
                processes.join(settings)
                prepared = processes.main_first(lambda: prepare(settings, resumed))
                command = f"{spoken('classify')} {shlex.join(arguments)}"
                run = open_run(settings, resumed, prepared, command)
                training_run.introduce(settings, prepared, run)
                module, history = training_run.train(settings, prepared, run)
                processes.leave()
                training_run.finish(settings, prepared, run, module, history)
            return 0
        except BaseException as error:
            stopped = _how_it_ends(error, settings, resumed, run)
            if processes.several():
                if run is not None:
                    run.unlock()
                processes.end(error, stopped)
            if stopped is None:
                raise
            raise stopped from error
        finally:
            if run is not None:
                run.unlock()
