"""The command as users run it: a process of its own, without a terminal unless a test gives it one."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

BOUND = 30.0
"""Seconds after which a wait in a test has failed; starting Python takes its time on a busy machine."""

_OURS = ("HP_", "SERVER_PORT", "STREAM_", "SOURCE_", "AUTO_CONNECT", "OUTPUT_FILE", "DEEPIO_")


def environment(**more: str) -> dict[str, str]:
    """The environment without what the command reads from it, and with `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
    return {**kept, "PYTHONPATH": os.getcwd(), "COLUMNS": "100", **more}


def deepio(*arguments: str, timeout: float = BOUND, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs the command to its end."""
    env = environment(**more.pop("env", {}))
    command = [sys.executable, "-m", "deepio_cli", *arguments]
    return subprocess.run(
        command, env=env, timeout=timeout, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False, **more
    )


class Running:
    """A command at work."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        """What it has said on stdout."""
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line)
        self._queue.put(None)

    def line(self) -> str:
        """The next line on stdout."""
        line = self._queue.get(timeout=BOUND)
        assert line is not None, f"it has ended with {self.process.wait(BOUND)}"
        self.lines.append(line)
        return line

    def json(self) -> Any:
        """The next line as JSON."""
        return json.loads(self.line())

    def end(self, number: int | None = signal.SIGINT) -> tuple[int, str, str]:
        """Sends a signal, and gives exit code, the rest of stdout, and stderr."""
        if number is not None:
            self.process.send_signal(number)
        code = self.process.wait(BOUND)
        self._reader.join(BOUND)
        rest = ""
        while (line := self._queue.get(timeout=BOUND)) is not None:
            rest += line
        assert self.process.stderr is not None
        return code, rest, self.process.stderr.read()


@contextmanager
def running(*arguments: str, env: dict[str, str] | None = None, **more: Any) -> Generator[Running]:
    """Runs the command for as long as the block lasts, and kills it if it has not ended by then."""
    command = [sys.executable, "-m", "deepio_cli", *arguments]
    with subprocess.Popen(
        command,
        env=environment(**(env or {})),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    ) as process:
        one = Running(process)
        try:
            yield one
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            one._reader.join()
