"""Documents that come together go through the model together.

One thread reads packs: whatever has come while it was busy, in the order of coming, up to a number of tokens. Another
looks for evidence, forty readings of a text. They take turns at the model, so that neither waits for more than a pack.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from flash_sparse import BlockLayout
from flash_sparse_apps.models.logits import compute_logits
from flash_sparse_apps.serving.errors import Refused


class Job(NamedTuple):
    texts: Sequence[Tensor]  # (n,) int64 each
    logits: Future[Tensor]  # (L,)

    @property
    def tokens(self) -> int:
        return sum(len(text) for text in self.texts)


class Batcher:
    """The model behind a queue.

    Args:
        encoder: in evaluation mode, on its device; `layout` is on the same.
        tokens_per_batch: tokens of a pack, at most, unless a single document has more.
        waiting: documents in the queue, at most.
        on_pack: called with the documents and the tokens of each pack.
    """

    def __init__(
        self,
        encoder: nn.Module,
        layout: BlockLayout | None,
        tokens_per_batch: int,
        waiting: int,
        on_pack: Callable[[int, int], None],
    ):
        self.encoder = encoder
        self.layout = layout
        self.tokens_per_batch = tokens_per_batch
        self._most = waiting
        self._on_pack = on_pack
        self._jobs: deque[Job] = deque()
        self._come = threading.Condition()
        self._turns = Turns()
        self._closed = False
        self._searches = 0
        self._searcher = ThreadPoolExecutor(1, "evidence")
        self._reader = threading.Thread(target=self._read_packs, name="model", daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        return self._reader.is_alive()

    @property
    def waiting(self) -> int:
        return len(self._jobs) + self._searches

    async def logits(self, documents: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """What the model says of each document, (L,). Who stops waiting takes them out of the queue.

        Raises:
            Refused: the queue is full.
        """
        jobs = [Job(texts, Future()) for texts in documents]
        with self._come:
            self._check_room(len(jobs))
            self._jobs.extend(jobs)
            self._come.notify()
        return await asyncio.gather(*(asyncio.wrap_future(job.logits) for job in jobs))

    async def search(self, find: Callable[[nn.Module], dict]) -> dict:
        """The result of `find`, which is called in another thread with an encoder to use."""
        self._check_room(1)
        left = threading.Event()
        self._searches += 1
        try:
            found = self._searcher.submit(find, _TakingTurns(self.encoder, self._turns, left))
            return await asyncio.wrap_future(found)
        finally:
            left.set()
            self._searches -= 1

    def close(self):
        with self._come:
            self._closed = True
            self._come.notify()
        self._searcher.shutdown(wait=False, cancel_futures=True)

    def _check_room(self, new: int):
        if self.waiting + new > self._most:
            raise Refused(f"{self.waiting} documents wait already, {self._most} may; try again later", "Overloaded")

    def _read_packs(self):
        while pack := self._next_pack():
            try:
                self._on_pack(len(pack), sum(job.tokens for job in pack))
                with self._turns.taken():
                    logits = compute_logits(
                        self.encoder, [job.texts for job in pack], self.layout, self.tokens_per_batch
                    )
            except Exception as error:  # the model goes on with the next pack
                for job in pack:
                    job.logits.set_exception(error)
            else:
                for job, values in zip(pack, logits, strict=True):
                    job.logits.set_result(values)

    def _next_pack(self) -> list[Job]:
        """At least one job; none when closed."""
        pack: list[Job] = []
        tokens = 0
        with self._come:
            while not pack and not self._closed:
                self._come.wait_for(lambda: self._jobs or self._closed)
                while self._jobs and (not pack or tokens + self._jobs[0].tokens <= self.tokens_per_batch):
                    job = self._jobs.popleft()
                    if job.logits.set_running_or_notify_cancel():  # its client may have left
                        pack.append(job)
                        tokens += job.tokens
        return pack


class Turns:
    """A lock that is handed on in the order of asking."""

    def __init__(self):
        self._changed = threading.Condition()
        self._asked = self._served = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        with self._changed:
            mine = self._asked
            self._asked += 1
            self._changed.wait_for(lambda: self._served == mine)
        try:
            yield
        finally:
            with self._changed:
                self._served += 1
                self._changed.notify_all()


class Left(Exception):
    """Nobody waits for the evidence any more."""


class _TakingTurns(nn.Module):
    """An encoder that waits for its turn before each pack, and stops where nobody waits for it."""

    def __init__(self, encoder: nn.Module, turns: Turns, left: threading.Event):
        super().__init__()
        self.encoder = encoder
        self.turns = turns
        self.left = left

    def forward(self, *given) -> Tensor:
        with self.turns.taken():
            if self.left.is_set():
                raise Left
            return self.encoder(*given)
