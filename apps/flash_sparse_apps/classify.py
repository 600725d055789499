"""Train, test and report a classifier of long documents.

    python apps/classify.py --seq-len 16384 --sparse
    python apps/classify.py --dataset my.jsonl --seq-len 8192 --sparse --output runs/mine
    python apps/classify.py --resume runs/mine

Exit codes: 0 done, 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after SIGTERM.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flash_sparse_apps.console import interruptible, plain_interrupt, print_anything, spoken

if TYPE_CHECKING:
    from flash_sparse_apps.run_folder import RunFolder


@interruptible
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        import torch

        from flash_sparse_apps.command_line import parse
        from flash_sparse_apps.settings import UserError
        from flash_sparse_datasets import DataError

    arguments = sys.argv[1:] if arguments is None else list(arguments)
    print_anything()
    settings, resumed = parse(arguments)
    with plain_interrupt():  # it takes seconds, which --help and a wrong flag need not pay
        from flash_sparse_apps.training import training_run
        from flash_sparse_apps.training.opening import open_run
        from flash_sparse_apps.training.preparing import prepare

    run = None
    try:
        with training_run.quiet():
            prepared = prepare(settings, resumed)
            run = open_run(settings, resumed, prepared)
            training_run.introduce(settings, prepared, run)
            module, trainer, history = training_run.train(settings, prepared, run)
            if trainer.is_global_zero:
                training_run.finish(
                    settings, prepared, run, module, history, f"{spoken('classify')} {shlex.join(arguments)}"
                )
        return 0
    except (UserError, DataError, FloatingPointError, OSError) as error:
        return _stop(run, f"error: {' '.join(str(error).split())}", 2)
    except torch.OutOfMemoryError:
        lower = f"--tokens-per-batch {settings.tokens_per_batch} or --seq-len {settings.seq_len}"
        return _stop(run, f"error: the GPU has too little memory; try a lower {lower}, or --checkpoint-activations", 2)
    except (MemoryError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        if "home directory" in reason:
            return _stop(run, "error: no folder for the cache, as there is no home directory; expected --cache-dir", 2)
        if isinstance(error, MemoryError) or "can't allocate memory" in reason:
            return _stop(run, f"error: too little memory ({reason[-90:]}); expected lower sizes", 2)
        _remove_unless_begun(run)
        raise
    except KeyboardInterrupt:
        return _stop(run, "interrupted", 130)
    except SystemExit as end:  # SIGTERM, or what a process for a further device ends with
        return _stop(run, "terminated", 143) if end.code == 143 else end.code
    except BaseException:
        _remove_unless_begun(run)
        raise
    finally:
        if run is not None:
            run.unlock()


def _remove_unless_begun(run: RunFolder | None):
    if run is not None and not run.has_checkpoint:
        run.remove()


def _stop(run: RunFolder | None, line: str, code: int) -> int:
    """Say why the run ended and how to go on; a run folder with nothing to go on from is removed."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return code
    if run is not None and run.has_checkpoint:
        line += f"; to continue: {spoken('classify')} --resume {shlex.quote(str(run.path))}"
    elif run is not None:
        run.remove()
    print(line, file=sys.stderr)
    return code
