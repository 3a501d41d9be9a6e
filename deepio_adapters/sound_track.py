"""The sound of a source as a track of aiortc, which encodes it in Opus: 20 ms of it take 0.3 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError

from deepio_adapters.slots import SlotClosedError

if TYPE_CHECKING:
    import av

    from deepio_adapters.audio import AudioQueue, AudioTap
    from deepio_adapters.feed import Feed

__all__ = ["SoundTrack"]


class SoundTrack(MediaStreamTrack):
    """The sound of the source of a feed, for one connection.

    Args:
        feed: The feed; the sound is that of the source that is open when aiortc asks first, as soon as the connection
            stands.
    """

    kind = "audio"

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed
        self._tap: AudioTap | None = None
        self._sound: AudioQueue | None = None

    async def recv(self) -> av.AudioFrame:
        """Returns the next 20 ms, when they are due.

        Raises:
            MediaStreamError: The source has ended, or this was stopped.
        """
        if self.readyState != "live":
            raise MediaStreamError
        if self._sound is None:
            self._tap = self._feed.audio
            if self._tap is None:
                raise MediaStreamError
            self._sound = self._tap.subscribe()
        try:
            return await self._sound.aget()
        except SlotClosedError:
            self.stop()
            raise MediaStreamError from None

    def stop(self) -> None:
        """Ends it; aiortc calls this, too."""
        super().stop()
        tap, self._tap = self._tap, None
        if tap is not None and self._sound is not None:
            tap.unsubscribe(self._sound)
