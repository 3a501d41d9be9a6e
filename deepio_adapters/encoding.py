"""The thread that encodes for one RTP stream: the newest picture in, what is to be sent out, and nothing in between."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from deepio_adapters.encoder import EncoderError
from deepio_adapters.freed_memory import give_back
from deepio_adapters.slots import SlotClosedError
from deepio_adapters.threads import stream_thread

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from deepio_adapters.media import EncodedFrame
    from deepio_adapters.slots import LatestSlot
    from deepio_adapters.sources import SourceFrame

__all__ = ["Encoder", "EncodingThread"]

logger = logging.getLogger(__name__)

FRESH_START = 50
"""Pictures after which an encoder that was begun anew counts as healthy: two seconds. A fault before then ends."""


class Encoder(Protocol):
    """What the thread needs of an encoder; `encoder.VideoEncoder` is one."""

    @property
    def bitrate(self) -> int:
        """Bits per second aimed at."""
        ...

    @bitrate.setter
    def bitrate(self, bitrate: int) -> None: ...

    @property
    def name(self) -> str | None:
        """What it is called; None before the first picture."""
        ...

    def encode(self, frame: SourceFrame, *, keyframe: bool = False) -> EncodedFrame | None:
        """Encodes a picture; None if it was left out.

        Raises:
            EncoderError: It failed; another one may do better.
        """
        ...

    def close(self) -> None:
        """Frees it."""
        ...


class EncodingThread:
    """Encodes the newest picture of a slot, again and again, in a thread of its own.

    What is encoded is never dropped, since later frames build on it; so back-pressure acts before the encoder: while
    the thread is held it encodes nothing, and the slot replaces what comes. All methods may be called from any thread.

    Attributes (read them at any time):
        encoded: Pictures encoded.
        left_out: Pictures that the encoder left out to keep the frame rate.
        outdated: Pictures that were taken from the slot, and replaced by newer ones while the thread was held.
        faults: Faults of the encoder, after each of which a new one was begun.
    """

    def __init__(
        self,
        frames: LatestSlot[SourceFrame],
        make_encoder: Callable[[], Encoder],
        deliver: Callable[[EncodedFrame], object],
        failed: Callable[[str], object],
        *,
        name: str = "deepio-encode",
    ) -> None:
        """Does not start it.

        Args:
            frames: Where the pictures come from. The thread ends when it is closed; `close` closes it.
            make_encoder: Makes the encoder, and another one after a fault; called in the thread.
            deliver: Takes what was encoded, in the thread; must neither block nor raise.
            failed: Told why, in the thread, if encoding has ended because it does not work.
            name: Name of the thread.
        """
        self.encoded = 0
        self.left_out = 0
        self.outdated = 0
        self.faults = 0
        self._frames = frames
        self._make_encoder = make_encoder
        self._deliver = deliver
        self._failed = failed
        self._released = threading.Event()
        self._released.set()
        self._closing = False
        self._keyframe_wanted = False
        self._bitrate: int | None = None
        self._encoder_name: str | None = None
        self._thread = stream_thread(self._run, name=name)

    @property
    def encoder_name(self) -> str | None:
        """FFmpeg's name of the encoder at work; None before the first picture."""
        return self._encoder_name

    def start(self) -> Self:
        """Starts the thread."""
        self._thread.start()
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def request_keyframe(self) -> None:
        """Makes the next picture a keyframe."""
        self._keyframe_wanted = True

    def set_bitrate(self, bitrate: int) -> None:
        """Has the encoder aim at so many bits per second, from the next picture on."""
        self._bitrate = bitrate

    def hold(self) -> None:
        """Encodes nothing until `release`: what was delivered has not left yet."""
        self._released.clear()

    def release(self) -> None:
        """Goes on, with the newest picture."""
        self._released.set()

    def close(self, timeout: float = 2.0) -> bool:
        """Ends the thread and closes the slot; nothing is delivered afterwards, but for one frame if it takes too long.

        Returns:
            True if the thread has ended; False if it is still busy with a picture after `timeout` seconds, and will end
            then, or if it was never started.
        """
        self._closing = True
        self._frames.close(discard=True)
        self._released.set()
        if self._thread.ident is None:
            return False
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._encode_all()
        except Exception as fault:
            # A fault of ours must reach whoever waits for what is encoded.
            logger.exception("Encoding has failed unexpectedly.")
            self._failed(f"it has failed unexpectedly ({type(fault).__name__})")
        finally:
            give_back()

    def _encode_all(self) -> None:
        encoder = self._make_encoder()
        healthy = FRESH_START  # pictures since the last fault
        try:
            while (frame := self._next()) is not None:
                try:
                    self._encode(encoder, frame)
                    healthy += 1
                except EncoderError as fault:
                    if healthy < FRESH_START:
                        self._failed(str(fault))
                        return
                    logger.warning("Encoding begins anew: %s", fault)
                    self.faults += 1
                    healthy = 0
                    encoder.close()
                    encoder = self._make_encoder()
        finally:
            encoder.close()

    def _next(self) -> SourceFrame | None:
        """Waits until there is a picture and the thread is not held; None at the end."""
        frame: SourceFrame | None = None
        try:
            while frame is None or not self._released.is_set():
                self._released.wait()
                newer = self._frames.get() if frame is None else self._frames.take()
                if newer is not None:
                    self.outdated += frame is not None
                    frame = newer
        except SlotClosedError:
            pass  # what was taken before is still encoded, unless we are to end
        return None if self._closing else frame

    def _encode(self, encoder: Encoder, frame: SourceFrame) -> None:
        if self._bitrate is not None:
            encoder.bitrate = self._bitrate
        # Withdrawn before the picture is encoded: a request that comes meanwhile is for the next one.
        wanted, self._keyframe_wanted = self._keyframe_wanted, False
        made = False
        try:
            encoded = encoder.encode(frame, keyframe=wanted)
            made = encoded is not None and encoded.keyframe
        finally:
            if wanted and not made:
                self._keyframe_wanted = True
        self._encoder_name = encoder.name
        if encoded is None:
            self.left_out += 1
            return
        self.encoded += 1
        if not self._closing:
            self._deliver(encoded)
