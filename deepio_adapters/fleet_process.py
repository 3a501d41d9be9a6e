"""One worker process as the fleet sees it: started, spoken to, listened to, and ended in bounded time."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import anyio

from deepio_adapters.fleet_records import FleetError
from deepio_adapters.fleet_wire import LineReader, write_line

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream, Process

__all__ = ["WorkerProcess"]

logger = logging.getLogger(__name__)

SILENCE: Final = 30.0
"""Seconds without a line from a worker, which sends a status every second, after which it hangs and is killed; time
enough to import everything on a busy machine."""

LOOK_INTERVAL: Final = 1.0
"""Seconds between two looks at how long a worker has been silent."""

LEAVE_TIMEOUT: Final = 10.0
"""Seconds for the streams of a worker to say goodbye, side by side, and for the process to end; then it is killed."""

LOG_LINE: Final = 64 * 1024
"""Bytes of the longest line on stderr; what comes in longer ones is no log of ours, and not shown."""


class WorkerProcess:
    """A worker process, from its start to its end; used once.

    Args:
        number: Its number in the fleet.
        on_line: Takes each message that it sends.
    """

    def __init__(self, number: int, on_line: Callable[[Mapping[str, Any]], object]) -> None:
        self._number = number
        self._on_line = on_line
        self._requests: deque[bytes] = deque()  # as many as callers wait for replies
        self._changed = anyio.Event()
        self._ended = anyio.Event()
        # In looks, not by the clock: an application that blocks hears nothing, which is no fault of the worker.
        self._silent = 0
        self._why: str | None = None
        self.pid: int | None = None
        """Its process id, while it runs."""

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; what a process that has ended does not read is lost."""
        self._requests.append(write_line(request))
        self._changed.set()

    async def run(self) -> str:
        """Run it until it ends, or until this is cancelled; it has ended in any case when this returns.

        Returns:
            What has become of it, as part of a sentence.

        Raises:
            FleetError: It cannot be started.
        """
        command = [sys.executable, "-m", "deepio_adapters.fleet_worker"]
        try:
            # In a session of its own: Ctrl-C at a terminal goes to the fleet's process alone, which then ends this one.
            process = await anyio.open_process(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=os.name == "posix",
            )
        except OSError as error:
            raise FleetError(
                f"A worker process cannot be started ({error.strerror}).",
                remedy="Use Fleet(processes=0), or a Python whose sys.executable can be run.",
            ) from error
        self.pid = process.pid
        try:
            await self._live(process)
        finally:
            self.pid = None
            with anyio.CancelScope(shield=True):
                _kill(process)
                await process.wait()
                await process.aclose()
        return self._why or _how(process.returncode)

    async def _live(self, process: Process) -> None:
        assert process.stdin is not None, "asked for"
        assert process.stdout is not None, "asked for"
        assert process.stderr is not None, "asked for"
        # A cancellation must not reach what listens before the goodbyes are said: a full pipe would hold them up.
        listening = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._listen, process, process.stdout, process.stderr, listening)
            tasks.start_soon(self._write, process)
            tasks.start_soon(self._watch, process)
            try:
                await self._ended.wait()
            finally:
                tasks.cancel_scope.cancel()
                with anyio.move_on_after(LEAVE_TIMEOUT, shield=True):
                    await process.stdin.aclose()  # which ends it
                    await self._ended.wait()
                    await process.wait()
                if process.returncode is None:
                    self._kill(process, f"it did not end in {LEAVE_TIMEOUT:.0f} s")
                listening.cancel()

    async def _listen(
        self, process: Process, out: ByteReceiveStream, err: ByteReceiveStream, scope: anyio.CancelScope
    ) -> None:
        with scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read_log, err)
                try:
                    await self._read(process, out)
                finally:
                    self._ended.set()

    async def _read(self, process: Process, out: ByteReceiveStream) -> None:
        lines = LineReader()
        try:
            async for data in out:
                self._silent = 0
                for line in lines.feed(data):
                    self._on_line(json.loads(line))
        except (FleetError, KeyError, TypeError, ValueError):
            # A fault of ours, or no worker of ours; it may wait for somebody to read what it says.
            self._kill(process, "it said what cannot be understood")
        except anyio.BrokenResourceError:
            return  # its end, as some systems tell it

    async def _read_log(self, err: ByteReceiveStream) -> None:
        lines = LineReader(LOG_LINE)
        try:
            async for data in err:
                try:
                    for line in lines.feed(data):
                        self._log(line.decode(errors="replace").rstrip())
                except FleetError:
                    lines = LineReader(LOG_LINE)
        except anyio.BrokenResourceError:
            return

    def _log(self, line: str) -> None:
        try:
            level, name, text, stream = json.loads(line)
            where = f"worker {self._number}" if stream is None else f"worker {self._number}, {stream}"
            logging.getLogger(name).log(level, "%s: %s", where, text)
        except (TypeError, ValueError):
            # What a library, or the interpreter itself, has to say.
            logger.warning("worker %d: %s", self._number, line)

    async def _write(self, process: Process) -> None:
        assert process.stdin is not None, "asked for"
        try:
            while True:
                while self._requests:
                    await process.stdin.send(self._requests.popleft())
                self._changed = anyio.Event()
                await self._changed.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return  # it has ended, which is told by the end of what it says

    async def _watch(self, process: Process) -> None:
        while True:
            await anyio.sleep(LOOK_INTERVAL)
            self._silent += 1
            if self._silent * LOOK_INTERVAL > SILENCE:
                self._kill(process, f"it was silent for {SILENCE:.0f} s")

    def _kill(self, process: Process, why: str) -> None:
        logger.error("The worker process %d is killed: %s.", self._number, why)
        self._why = why
        _kill(process)


def _kill(process: Process) -> None:
    if process.returncode is None:
        try:
            process.kill()
        except ProcessLookupError:
            return  # it has just ended


def _how(code: int | None) -> str:
    """How a process has ended, as part of a sentence."""
    if code is not None and code < 0:
        return f"it was ended by signal {-code}"
    return f"it ended with code {code}"
