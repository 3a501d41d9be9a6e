"""The thread in which a source does its blocking work, and from which its frames or packets are handed over."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from deepio_adapters.freed_memory import give_back
from deepio_adapters.slots import LatestSlot
from deepio_adapters.sources import Source, SourceClosedError, SourceError, SourceFrame, SourceInfo
from deepio_adapters.threads import stream_thread

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_adapters.media import SourceGap, SourcePacket

__all__ = ["SourcePump"]

_log = logging.getLogger(__name__)


class SourcePump:
    """Runs one source in a thread of its own and puts its frames into a newest-wins slot.

    Args:
        source: The source.
        packets: Takes the packets of a source that has some, in the pump's thread; its frames are then not asked for.
            Returns False when it wants no more.

    Attributes:
        source: The source.
        slot: The newest frame; closed at the end, with the source's error if it failed.
        opened: What the source turned out to be, or why it could not be opened. Never cancelled by who waits for it;
            a pump that is stopped before answers with SourceClosedError.
        finished: Done when the source is released and the thread at its end: None after a planned end or `stop`, the
            error otherwise.
    """

    def __init__(self, source: Source, *, packets: Callable[[SourcePacket | SourceGap], bool] | None = None) -> None:
        self.source = source
        self._packets = packets
        self.slot: LatestSlot[SourceFrame] = LatestSlot()
        self.opened: Future[SourceInfo] = Future()
        self.finished: Future[None] = Future()
        for future in (self.opened, self.finished):
            # A waiter that is cancelled, as asyncio.wrap_future does it, must not take the result from the
            # others.
            future.set_running_or_notify_cancel()
        self._lock = threading.Lock()
        self._begun = False
        self._thread = stream_thread(self._run, name="deepio-source")

    def start(self) -> None:
        """Starts the thread; returns at once. The second call does nothing."""
        with self._lock:
            if not self._begun:
                self._begun = True
                self._thread.start()

    def stop(self, timeout: float = 2.0) -> bool:
        """Closes the source and ends the thread; idempotent, from any thread, in at most `timeout` seconds.

        With a timeout of 0 it does not block, and `finished` tells when it is done; that is the form for
        event loops.

        Returns:
            True when the thread has ended.
        """
        self.source.close(timeout=0)
        self.slot.close(discard=True)
        with self._lock:
            if not self._begun:
                self._begun = True
                self._finish(None)
        if self._thread.ident is None:  # never started, and now never will be
            return True
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            info = self.source.open()
            self.opened.set_result(info)
            self.source.make_ready()
            if self._packets is not None and info.stream is not None:
                for item in self.source.packets():
                    if not self._packets(item):
                        break
            else:
                for frame in self.source.frames():
                    if not self.slot.put(frame):
                        break
        except SourceClosedError:
            pass
        except SourceError as fault:
            error = fault
        except Exception as fault:  # noqa: BLE001 - a fault of ours must reach the consumer, or it waits for ever
            _log.exception("the source %s failed unexpectedly", self.source.name)
            error = fault
        finally:
            self.source.close()
            self._finish(error)
            give_back()

    def _finish(self, error: BaseException | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(error or SourceClosedError(f"{self.source.name} was closed."))
        self.slot.close(error)
        if error is None:
            self.finished.set_result(None)
        else:
            self.finished.set_exception(error)
