"""A worker process of a fleet: `python -m deepio_adapters.fleet_worker`, started and spoken to by `Fleet` alone.

It lives as long as its stdin: when the fleet closes it, or its process dies, the streams say goodbye and the worker
ends, at the latest after `EXIT_TIMEOUT`. What is said is in `fleet_wire`.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, Final

import anyio

from deepio_adapters.fleet_host import LocalHost
from deepio_adapters.fleet_queue import FairQueue
from deepio_adapters.fleet_records import FleetError, FleetEvent
from deepio_adapters.fleet_wire import (
    LineReader,
    read_arguments,
    write_error,
    write_event,
    write_line,
    write_result,
    write_status,
)
from deepio_adapters.pairing import Result
from deepio_adapters.slots import waker
from deepio_adapters.threads import current_stream
from deepio_core.errors import DeepIOError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepio_core.messages import Message

__all__ = ["Outbox", "Worker", "main"]

logger = logging.getLogger(__name__)

STATUS_INTERVAL: Final = 1.0
"""Seconds between two statuses."""

EXIT_TIMEOUT: Final = 12.0
"""Seconds from the end of stdin to that of the process: more than goodbyes and engines take. A worker that hangs is no
use to anybody and must not stay."""

FLUSH_TIMEOUT: Final = 1.0
"""Seconds for the last lines on the way out."""

BATCH: Final = 64
"""Messages that are written at once: a system call for each would cost more than the messages."""

CHUNK: Final = 65536
"""Bytes read at once; what a pipe holds."""


class Outbox:
    """What waits to be written; filled by the event loop, emptied by a thread that may block.

    Replies wait without a limit of their own: the fleet waits for each before it lets go of the request. Events and
    messages are dropped, the oldest of the same stream first, while the fleet reads too slowly; of the status only the
    newest is kept.

    Args:
        descriptor: Where to write.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._changed = threading.Condition()
        self._replies: deque[Mapping[str, Any]] = deque()
        self._events: FairQueue[FleetEvent] = FairQueue()
        self._messages: FairQueue[Message | Result] = FairQueue()
        self._status: Mapping[str, Any] | None = None
        self._writing = False
        self.broken = False
        """Nobody reads any more."""

    @property
    def dropped(self) -> tuple[int, int]:
        """Messages and events that the fleet was too slow for."""
        return self._messages.dropped, self._events.dropped

    def reply(self, reply: Mapping[str, Any]) -> None:
        """Send a reply; never dropped."""
        with self._changed:
            self._replies.append(reply)
            self._changed.notify_all()

    def event(self, event: FleetEvent) -> None:
        """Send an event."""
        with self._changed:
            self._events.put(event.name, event)
            self._changed.notify_all()

    def message(self, name: str, message: Message) -> None:
        """Send a message of a stream's remote peer."""
        with self._changed:
            self._messages.put(name, message)
            self._changed.notify_all()

    def result(self, name: str, result: Result) -> None:
        """Send a result of a stream, with what is known of its frame; the frame itself stays here."""
        with self._changed:
            self._messages.put(name, result)
            self._changed.notify_all()

    def status(self, status: Mapping[str, Any]) -> None:
        """Send a status, in place of one that waits."""
        with self._changed:
            self._status = status
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait until all is written; returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self.broken or not (self._any() or self._writing), timeout)

    def run(self) -> None:
        """Write what comes until nobody reads any more; blocks."""
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                self._changed.wait_for(self._any)
                batch = self._take()
                self._writing = True
            data = b"".join(map(write_line, batch))
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:  # the fleet's process has gone; the end of stdin says so too
                with self._changed:
                    self.broken = True
                    self._changed.notify_all()
                return

    def _any(self) -> bool:
        return bool(self._replies or self._events or self._messages or self._status is not None)

    def _take(self) -> list[Mapping[str, Any]]:
        # In this order: an event is newer than a status that waits beside it, and a reply comes after what it is about.
        batch = [] if self._status is None else [self._status]
        self._status = None
        while self._events:
            batch.append({"kind": "event", **write_event(self._events.take()[1])})
        batch += self._replies
        self._replies.clear()
        for _ in range(BATCH):
            if not self._messages:
                break
            name, message = self._messages.take()
            batch.append(
                {"name": name, **write_result(message)} if isinstance(message, Result) else _message(name, message)
            )
        return batch


def _message(name: str, message: Message) -> Mapping[str, Any]:
    return {"kind": "message", "name": name, "raw": message.raw}


class Worker:
    """What a worker process does, over two descriptors.

    Args:
        requests: Where requests are read from.
        replies: Where everything is written to.
    """

    def __init__(self, requests: int, replies: int) -> None:
        self._descriptor = requests
        self._outbox = Outbox(replies)
        self._requests: deque[bytes] = deque()  # as many as the fleet waits for
        self._arrived = anyio.Event()
        self._over = False

    async def run(self) -> None:
        """Serve the fleet until stdin ends; its streams then say goodbye side by side."""
        wake = waker(self._on_arrival)
        threading.Thread(target=self._read, args=(wake,), name="fleet requests", daemon=True).start()
        threading.Thread(target=self._outbox.run, name="fleet replies", daemon=True).start()
        async with anyio.create_task_group() as streams:
            host = None
            async for request in self._received():
                if host is None:
                    # The first one has the settings of all.
                    set_up_logging(request["log_level"])
                    host = LocalHost(
                        streams,
                        tell=self._outbox.event,
                        on_message=self._outbox.message,
                        on_result=self._outbox.result,
                        delay=request["delay"],
                    )
                    if request["results"]:
                        host.want_results()
                    streams.start_soon(self._tell_status, host)
                    self._outbox.reply({"kind": "hello", "pid": os.getpid()})
                elif request["kind"] == "results":
                    host.want_results()
                else:
                    streams.start_soon(self._perform, host, request)
            streams.cancel_scope.cancel()
        self._outbox.flush(FLUSH_TIMEOUT)

    async def _received(self) -> AsyncGenerator[dict[str, Any]]:
        """The requests, until stdin ends."""
        while True:
            while self._requests:
                yield json.loads(self._requests.popleft())
            if self._over:
                return
            self._arrived = anyio.Event()
            await self._arrived.wait()

    async def _perform(self, host: LocalHost, request: Mapping[str, Any]) -> None:
        reply: dict[str, Any] = {"kind": "reply", "id": request["id"]}
        name = request["name"]
        try:
            match request["kind"]:
                case "add":
                    arguments = read_arguments(request["arguments"])
                    await host.add(name, arguments, request["restart"], again=request["again"])
                case "remove":
                    await host.remove(name)
                case _:
                    await host.send_metadata(name, request["metadata"])
        except DeepIOError as error:
            reply["error"] = write_error(error)
        except Exception as error:
            # A fault of ours: it must reach the caller, and not end the other streams.
            logger.exception("A request has failed unexpectedly.")
            reply["error"] = write_error(FleetError(f"The worker has failed unexpectedly ({type(error).__name__})."))
        self._outbox.reply(reply)

    async def _tell_status(self, host: LocalHost) -> None:
        while True:
            statuses = [write_status(status) for status in host.statuses]
            self._outbox.status({"kind": "status", "streams": statuses, "dropped": self._outbox.dropped})
            await anyio.sleep(STATUS_INTERVAL)

    def _on_arrival(self) -> None:
        self._arrived.set()

    def _read(self, wake: Callable[[], None]) -> None:
        """Read requests until there are no more; in a thread of its own, which can block."""
        lines = LineReader()
        # Not through sys.stdin, whose lock a thread that reads holds when the interpreter ends.
        with contextlib.suppress(OSError, FleetError):
            while data := os.read(self._descriptor, CHUNK):
                self._requests.extend(lines.feed(data))
                wake()
        self._over = True
        wake()
        time.sleep(EXIT_TIMEOUT)
        os._exit(1)


class LineHandler(logging.Handler):
    """Writes each record as one line of JSON to stderr, for the log of the fleet's process."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, with the name of the stream that it belongs to."""
        try:
            line = json.dumps([record.levelno, record.name, self.format(record), current_stream.get()])
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


def set_up_logging(level: int) -> None:
    """Have everything logged by `LineHandler`, from this level on."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[LineHandler()], force=True)
    logging.getLogger("aioice").setLevel(max(level, logging.WARNING))  # it tells addresses of every candidate pair


def main() -> None:
    """Run a worker between stdin and stdout."""
    # Ctrl-C goes to every process of a terminal, but it is for the fleet to say when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What crashes FFmpeg is to be found in the fleet's log.
    faulthandler.enable()
    # Whatever a library reads or prints must not come in between.
    requests, replies = os.dup(0), os.dup(1)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)
    anyio.run(Worker(requests, replies).run)


if __name__ == "__main__":
    main()
