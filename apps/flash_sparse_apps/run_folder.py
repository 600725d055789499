"""What a run writes and what `predict.py` and `--resume` read again.

RUN/config.yaml          the settings
RUN/metrics.json         every figure, the machine and versions
RUN/report.html          the same for people
RUN/predictions.jsonl    the test documents: id, labels, predicted labels, probabilities, length in tokens; no text
RUN/model/               all that predicting needs: model.safetensors, the tokenizer, classifier.json, README.md, and
                         config.json where the encoder is a pretrained one; SHA256SUMS of these
RUN/data.json            name and fingerprint of the data, and the settings, which a resumed run must still find; the
                         command that the run began with
RUN/split.npz            hashes of the texts of each split, for a run that begins with these weights (own files)
RUN/start/               with --init-from: the tokenizer that came with the weights
RUN/checkpoints/         last.ckpt to resume from, last-before.ckpt in case it is damaged, and best.safetensors: the
                         weights that did best on validation
RUN/logs/history.csv     losses and scores of each epoch; beside it what --logger writes

With --pretrain:

RUN/checkpoints/         pretraining.ckpt to resume from before it has ended, pretraining.safetensors afterwards
RUN/logs/pretraining.json  its losses, when it has ended
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from flash_sparse_apps.files import is_partial, remove_partial, write_atomically


class RunFolder:
    """The paths of one run."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.json"
        self.report = self.path / "report.html"
        self.predictions = self.path / "predictions.jsonl"
        self.model = self.path / "model"
        self.best_weights = self.path / "checkpoints" / "best.safetensors"
        self.last_checkpoint = self.path / "checkpoints" / "last.ckpt"
        self.data = self.path / "data.json"
        self.start = self.path / "start"
        self.split = self.path / "split.npz"
        self.history = self.path / "logs" / "history.csv"
        self.pretraining_checkpoint = self.path / "checkpoints" / "pretraining.ckpt"
        self.pretraining_weights = self.path / "checkpoints" / "pretraining.safetensors"
        self.pretraining = self.path / "logs" / "pretraining.json"
        self._lock = FileLock(self.path / ".lock")

    @classmethod
    def create(cls, path: str | Path, config: str) -> RunFolder:
        """Make a folder that is not there yet, or is empty, with the settings in it, and lock it.

        Raises:
            FileExistsError: there is one with something in it, or another process begins there at this moment.
        """
        run = cls(path)
        run.check_new()
        run.path.mkdir(parents=True, exist_ok=True)
        run.lock()
        try:
            run.check_new()
            remove_partial(run.path)
            write_atomically(run.config, config.encode())
        except BaseException:
            run.unlock()
            raise
        return run

    def check_new(self):
        """Raise FileExistsError if there is something at the path already.

        What a run leaves that was killed before its settings were written is nothing.
        """
        inside = self.path.iterdir() if self.path.is_dir() else ()
        if self.path.is_file() or any(path.name != ".lock" and not is_partial(path) for path in inside):
            raise FileExistsError(
                f"--output is {self.path}, which exists; expected a new folder (--resume {self.path} continues a run)"
            )

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is anything to go on from."""
        return self.pretraining_weights.is_file() or any(self.last_checkpoint.parent.glob("*.ckpt"))

    def lock(self):
        """Keep other processes from this run until `unlock` or this process' end.

        Raises:
            FileExistsError: another process has it.
        """
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise FileExistsError(f"{self.path}: another process is at this run; expected one at a time") from None

    def unlock(self):
        """Let others have it, if this process locked it."""
        if self._lock.is_locked:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)

    def described(self) -> dict | None:
        """What data.json says the run is trained on and with; None for a run killed before it was written.

        Raises:
            ValueError: the file is damaged.
        """
        if not self.data.is_file():
            return None
        try:
            return dict(json.loads(self.data.read_text(encoding="utf-8")))
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{self.data}: damaged: {error}") from None

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)
