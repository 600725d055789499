"""The processes of one training, on one machine or several: how they find each other, agree, and end.

torchrun, SLURM or Lightning's own launcher starts them; which of these it is, Lightning finds out. A run on one device
is one process, and for it all of this does nothing.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from subprocess import Popen
from typing import Any, TypeVar, cast

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.strategies import DDPStrategy
from torch import distributed
from torch.distributed import distributed_c10d

from flash_sparse_apps.settings import Settings
from flash_sparse_datasets.shared.exit_codes import Stopped, UserError, one_line, stop

T = TypeVar("T")

ANSWER = timedelta(minutes=30)  # how long training waits for a process that does not answer
PREPARE = timedelta(days=7)  # and how long the others wait for the one that reads and tokenizes
SAYING = timedelta(seconds=10)  # and how long one that ends waits for another to say why
SEEN = 20.0  # seconds in which a shared file system shows a new folder to the other machines

WHY = "flash_sparse/why"  # key in the store: exit code and line of the process that ended the run


@dataclass(frozen=True)
class _Group:
    """What a process knows of the others.

    Attributes:
        agreeing: a group on CPUs, whatever training uses.
    """

    rank: int
    size: int
    local_rank: int
    machine: int
    agreeing: Any
    store: Any


_group: _Group | None = None
_children: list[Popen] = []  # that this process has started
_several = False


class _Meeting(DDPStrategy):
    """How Lightning starts the processes and lets them find each other, without its observer of the children: it kills
    this process too, before that can say what has happened."""

    def setup_environment(self):
        started = cast(Any, self.launcher).procs
        _children.extend(started)
        started.clear()
        super().setup_environment()


def join(settings: Settings):
    """Start the processes for further devices, or find those that torchrun or SLURM has started.

    Raises:
        UserError: they are not as many as there are devices, or do not find each other within --start-timeout.
    """
    global _group, _several
    count = settings.devices * settings.num_nodes
    _several = count > 1 or TorchElasticEnvironment.detect()
    _check_torchrun(settings, count)
    if count == 1 and settings.strategy == "auto":
        return
    limit = timedelta(minutes=settings.start_timeout)
    try:
        fabric = Fabric(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            strategy=_Meeting(timeout=limit),
        )
        fabric.launch()
        agreeing = distributed.new_group(backend="gloo", timeout=limit)
    except (distributed.DistStoreError, distributed.DistNetworkError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        raise UserError(
            f"--devices is {settings.devices} and --num-nodes {settings.num_nodes}, but not all {count} "
            f"processes came to {place} within {settings.start_timeout:g} minutes (--start-timeout): {one_line(error)}"
        ) from error
    except Exception as error:  # Lightning has its own kinds for a wrong number of devices or of SLURM's tasks
        raise UserError(
            f"--devices is {settings.devices} and --num-nodes {settings.num_nodes}: {one_line(error)}"
        ) from error
    _group = _Group(
        fabric.global_rank,
        fabric.world_size,
        fabric.local_rank,
        fabric.node_rank,
        agreeing,
        distributed_c10d._get_default_store(),
    )
    _wait_for_others(ANSWER, None)
    _wait_for_others(ANSWER, agreeing)


def _check_torchrun(settings: Settings, count: int):
    if not TorchElasticEnvironment.detect():
        return
    started = TorchElasticEnvironment().world_size()
    here = int(os.environ.get("LOCAL_WORLD_SIZE", settings.devices))
    if (started, here) != (count, settings.devices):
        raise UserError(
            f"--devices is {settings.devices} and --num-nodes {settings.num_nodes}, but torchrun has started {here} "
            f"processes here and {started} in all; expected one for each device"
        )


def _wait_for_others(limit: timedelta, group: Any):
    """Let operations of a group, None for that of training, wait so long."""
    distributed_c10d._set_pg_timeout(limit, group)


def leave():
    """Part when training has ended: the main process goes on alone, and the others end here.

    While the wrapper of DDP lives, so do gloo's threads, and those can crash Python where it ends in the usual way.
    """
    global _group, _several
    main = _group is None or _group.rank == 0
    if _group is not None:
        gc.collect()
        distributed.destroy_process_group()
    _group, _several = None, False
    if not main:
        _exit(0)


def _exit(code: int):
    """End this process at once: at its usual end PyTorch may wait for processes that are gone, or crash."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main_first(function: Callable[[], T]) -> T:
    """What a function returns that is called on each machine in its first process, and then in the others, which find
    in the cache what that one has made.

    Raises:
        Stopped: it failed in another process.
    """
    if _group is None:
        return function()
    first = _group.local_rank == 0
    _wait_for_others(PREPARE, _group.agreeing)
    early = all_or_none(function if first else None)
    late = all_or_none(None if first else function)
    _wait_for_others(ANSWER, _group.agreeing)
    return early if first else late  # type: ignore[return-value]  # each process has called it once


def main_alone(function: Callable[[], T]) -> T | None:
    """What a function returns that only the main process calls; None in the others.

    Raises:
        Stopped: it failed.
    """
    return all_or_none(function if _group is None or _group.rank == 0 else None)


def all_or_none(function: Callable[[], T] | None) -> T | None:
    """Call a function, where there is one, and wait until all processes are as far; if it fails in one, all end.

    Raises:
        Stopped: it failed in another process, with what that one says.
    """
    if _group is None:
        return None if function is None else function()
    result, failure = None, None
    try:
        result = None if function is None else function()
    except Exception as error:
        failure = error
    ended = None if failure is None else stop(failure) or Stopped("error in another process of the run", 1)
    answers = gather(None if ended is None else (ended.line, ended.code))
    if failure is not None:
        raise failure
    for answer in answers:
        if answer is not None:
            raise Stopped(*answer)
    return result


def gather(value: T) -> list[T]:
    """What each process gives, by rank; of one process, its own."""
    if _group is None:
        return [value]
    values: list[Any] = [None] * _group.size
    distributed.all_gather_object(values, value, group=_group.agreeing)
    return values


def check_same(value: Any, what: str):
    """Raise UserError in all processes where one has another value than the main one.

    Args:
        what: it is, for the message.
    """
    values = gather(value)
    for rank, other in enumerate(values):
        if other != values[0]:
            raise UserError(f"process {rank} of the run has other {what} than process 0; expected the same everywhere")


def any_says(flag: bool) -> bool:
    """Whether the flag is set in any of the processes."""
    if _group is None:
        return flag
    flags = torch.tensor([int(flag)])
    distributed.all_reduce(flags, distributed.ReduceOp.MAX, group=_group.agreeing)
    return bool(flags)


def appears(there: Callable[[], bool]) -> bool:
    """Whether something that another machine has made is seen here; a shared file system may show it late."""
    until = time.monotonic() + SEEN
    while not there():
        if time.monotonic() > until:
            return False
        time.sleep(0.5)
    return True


def why_ended(error: BaseException, stopped: Stopped | None) -> Stopped | None:
    """How the whole run ends: as this process does, or as another has said, which this one has only lost.

    Args:
        stopped: how this process ends by itself, as `stop` says.
    """
    if _group is None:
        return stopped
    if _is_lost(error):
        stopped = Stopped("error: another process of the run has ended, or its machine cannot be reached", 2)
    try:
        mine = "" if stopped is None else f"{stopped.code} {stopped.line}"
        if _is_lost(error) and _group.store.check([WHY]):
            mine = _group.store.get(WHY).decode()
        else:
            _group.store.set(WHY, mine or "1 error in another process of the run")
    except RuntimeError:  # the process that kept the store is gone
        return stopped
    if mine:
        code, line = mine.split(" ", 1)
        stopped = Stopped(line, int(code))
    return stopped


def _is_lost(error: BaseException) -> bool:
    """Whether an error says that another process does not answer; gloo says so in a RuntimeError's words alone."""
    lost = (distributed.DistBackendError, distributed.DistNetworkError, distributed.DistStoreError)
    return isinstance(error, lost) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def several() -> bool:
    """Whether there are other processes to end with."""
    return _several


def end(error: BaseException, stopped: Stopped | None):
    """End this process, whatever the others do; the first of each machine to end says why."""
    if stopped is None:
        traceback.print_exception(error)
    else:
        _say_once(stopped.line, _is_lost(error))
    for child in _children:
        child.kill()
    _exit(1 if stopped is None else stopped.code)


def _say_once(line: str, lost: bool):
    """Print the line in the first process of a machine to come here; the others wait until it has, since this process
    may kill that one when it ends, or torchrun may."""
    if _group is not None:
        store, machine, local_rank = _group.store, str(_group.machine), _group.local_rank
    else:
        store, machine = _torchruns_store(), os.environ.get("GROUP_RANK", "0")
        local_rank = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
    count, said = f"{WHY}/{machine}", f"{WHY}/{machine}/said"
    try:
        first = local_rank == 0 if store is None else store.add(count, 1) == 1
    except RuntimeError:  # the main process is gone: it was killed, or has spoken itself
        store, first = None, lost or local_rank == 0
    if first:
        print(line, file=sys.stderr, flush=True)
    if store is not None:
        with suppress(RuntimeError):  # the process that keeps the store may end now
            store.set(said, "") if first else store.wait([said], SAYING)


def _torchruns_store() -> Any:
    """The store that torchrun keeps for its processes; None where another has started them."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    try:
        store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=SAYING)
        # torchrun's own and of all of its attempts: what one has said, the next has not
        return distributed.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    except RuntimeError:  # torchrun is gone
        return None
