"""The thread that decodes the packets of a source, for as long as somebody wants to see pictures."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final

from deepio_adapters.freed_memory import give_back
from deepio_adapters.media import SourceGap
from deepio_adapters.packet_queue import PacketQueue
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.source_urls import SourceError
from deepio_adapters.threads import stream_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepio_adapters.decoding import PictureDecoder
    from deepio_adapters.media import SourcePacket
    from deepio_adapters.sources import SourceFrame

__all__ = ["MAX_LAG", "PictureThread"]

_log = logging.getLogger(__name__)

MAX_LAG: Final = 1.5
"""Seconds that decoding may be behind; then it goes on with the next keyframe. Shorter than the GOP of many cameras, so
that a machine that is only just too slow shows most pictures; longer than any pause of a thread."""


class PictureThread:
    """Decodes what is put into `queue`, and shows each picture when it is due; all methods return at once.

    It begins with packets that came before, decoded as fast as possible: of the pictures that are overdue by then, only
    the newest is shown.

    Args:
        begin: The packets since the last keyframe.
        show: Takes the pictures.
        ended: Told when the queue was closed and all is shown, with the error that it was closed with.

    Attributes:
        queue: Takes the packets that follow.
    """

    def __init__(
        self,
        begin: Sequence[SourcePacket],
        show: Callable[[SourceFrame], object],
        ended: Callable[[BaseException | None], object],
    ) -> None:
        self.queue = PacketQueue(follows=bool(begin))
        self._begin = begin
        self._show = show
        self._ended = ended
        self._stopping = threading.Event()
        self._decoder: PictureDecoder | None = None
        self._thread = stream_thread(self._run, name="deepio-pictures")

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Has it end without showing what is left; `ended` is not told."""
        self._stopping.set()
        self.queue.close(discard=True)

    def join(self, timeout: float) -> bool:
        """Waits at most so many seconds for the end of the thread; True when it has ended."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        error: BaseException | None
        try:
            self._catch_up()
            error = self._decode_all()
        except SourceError as fault:
            error = fault
        except Exception as fault:  # noqa: BLE001 - a fault of ours must reach the consumers, or they wait for ever
            _log.exception("Decoding has failed unexpectedly.")
            error = fault
        if not self._stopping.is_set():
            self._ended(error)
        self._decoder = None
        give_back()

    def _decode_all(self) -> BaseException | None:
        """Shows what comes; returns the error that it ended with."""
        while True:
            try:
                item = self.queue.get()
            except SlotClosedError as end:
                self._flush()
                return end.error
            if isinstance(item, SourceGap):
                self._flush()
            elif time.monotonic() - item.captured_at > MAX_LAG:
                self.queue.skip()
            else:
                for frame in self._decode(item):
                    self._show_when_due(frame)

    def _catch_up(self) -> None:
        latest: SourceFrame | None = None
        packets, self._begin = self._begin, ()
        for packet in packets:
            if self._stopping.is_set():
                return
            for frame in self._decode(packet):
                if frame.captured_at > time.monotonic():
                    self._show_when_due(frame)
                    latest = None
                else:
                    latest = frame
        if latest is not None:
            self._show(latest)

    def _decode(self, packet: SourcePacket) -> list[SourceFrame]:
        # FFmpeg is not loaded where nothing is decoded.
        from deepio_adapters.decoding import MAX_ERRORS_IN_A_ROW, PictureDecoder

        if self._decoder is None:
            self._decoder = PictureDecoder(packet.stream)
        frames = self._decoder.decode(packet)
        if self._decoder.errors_in_a_row > MAX_ERRORS_IN_A_ROW:
            raise SourceError(
                f"{self._decoder.errors_in_a_row} packets in a row cannot be decoded.", remedy="Try to play the source."
            )
        return frames

    def _flush(self) -> None:
        """Shows what the decoder has kept for the order of B-frames; what comes next is a keyframe."""
        for frame in () if self._decoder is None else self._decoder.flush():
            self._show_when_due(frame)

    def _show_when_due(self, frame: SourceFrame) -> None:
        early = frame.captured_at - time.monotonic()
        if early > 0:
            self._stopping.wait(early)
        if not self._stopping.is_set():
            self._show(frame)
