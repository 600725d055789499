"""PDF, Word and HTML files of strangers become text in a process of their own.

What reads them is large, partly not safe in threads, and may fall over a file that was made for it. So each file is
read by a new process with little memory and time, which can be ended (`document_process.py`).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from flash_sparse_apps.serving.errors import Refused
from flash_sparse_apps.serving.limits import Limits

PROCESS = "flash_sparse_apps.serving.document_process"
AT_ONCE = 2  # files that are read at the same time
NAME = "document"  # what the process calls its file, whatever it is called


class DocumentReader:
    """Reads files by processes of their own, a few at a time."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def text(self, name: str, content: bytes) -> str:
        """The text of a file, whose ending says of what kind it is. Who stops waiting ends the process.

        Raises:
            Refused: one line with the name and what is wrong.
        """
        called = f"{NAME}{Path(name).suffix.lower()}"
        limits = (str(self._limits.body_bytes), str(self._limits.read_seconds))
        async with self._turns:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-B", "-m", PROCESS, called, *limits),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env=_environment(),
            )
            try:
                text, said = await asyncio.wait_for(process.communicate(content), self._limits.read_seconds)
            except asyncio.TimeoutError:
                seconds = f"{self._limits.read_seconds:g} seconds"
                raise Refused(
                    f"{name}: takes longer than {seconds} to read; expected a smaller file", status=422
                ) from None
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode == 0:
            return text.decode()
        reason = said.decode(errors="replace").strip().removeprefix("error: ").removeprefix(f"{called}: ")
        if process.returncode != 2 or not reason:  # the process fell over
            reason = "cannot be read; expected a file that is not damaged, or its text"
        raise Refused(f"{name}: {reason}", status=422)


def _environment() -> dict[str, str]:
    """Of the process: where the packages are, and no secrets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FLASH_SPARSE")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")  # each would take memory
    return kept | threads | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
