"""Train in stages, from easier tasks to harder ones, each stage beginning with the weights of the one before.

    python apps/curriculum.py --config configs/lra/pathx-curriculum.yaml --output runs/pathx

The YAML file has flags of `classify.py`, which all stages share, and under `stages` a list of stages: each has a name
and the flags in which it differs. Flags typed here override both. Each stage is a run of `classify.py` in a process and
a folder of its own, OUTPUT/NAME. The same command again goes on with what is not finished, in mid-stage too.

Exit codes: 0 done, 1 a stage failed, 2 something the user can mend (one line on stderr), 130 after Ctrl-C, 143 after
SIGTERM.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from flash_sparse_apps.console import ended_by_sigterm, outlive_readers, plain_interrupt, print_anything
from flash_sparse_datasets.shared.exit_codes import UserError, ending


@ending
def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    with plain_interrupt():
        from flash_sparse_apps.command_line import make_parser, split_config
        from flash_sparse_apps.sweeping.stages import check_folder, read_stages, run_stage, summary

    print_anything()
    outlive_readers()
    files, flags = split_config(arguments)
    printing = "--print-config" in flags
    flags = [flag for flag in flags if flag != "--print-config"]
    parser = make_parser(
        "curriculum",
        "Train in stages, each beginning with the weights of the one before. The YAML file of --config lists them "
        "under `stages`, each with a name and the flags in which it differs; its other keys serve all stages. The same "
        "command again, with the same --output and without --resume, goes on where it stopped.",
    )
    typed = vars(parser.parse_args(flags, defaults=False))
    try:
        if len(files) != 1:
            raise ValueError(f"--config is given {len(files)} times; expected one YAML file of stages")
        if "resume" in typed:
            raise ValueError("--resume is for classify.py; expected the same command again, which goes on")
        folder = Path(typed.pop("output", f"runs/{Path(files[0]).stem}-{datetime.now():%Y%m%d-%H%M%S}"))
        stages = read_stages(Path(files[0]), typed, folder)
        if printing:
            print("\n".join(f"# {stage.name}\n{stage.settings.to_yaml()}" for stage in stages))
            return 0
        check_folder(folder, stages)
    except ValueError as error:
        parser.error(str(error))
    try:
        with ended_by_sigterm():
            for number, stage in enumerate(stages, 1):
                if stage.finished:
                    continue
                print(f"== stage {number} of {len(stages)}: {stage.name}", flush=True)
                code = run_stage(stage)
                if code != 0:
                    print(f"error: stage {stage.name} ended with exit code {code}", file=sys.stderr)
                    return 1
            print(summary(stages))
    except (KeyboardInterrupt, SystemExit):  # the stage has named a command that would finish it alone
        print(f"to go on with all stages: the same command with --output {shlex.quote(str(folder))}", file=sys.stderr)
        raise
    except ValueError as error:  # a stage's files are damaged
        raise UserError(str(error)) from error
    print(f"report: {stages[-1].run.report}")
    return 0
