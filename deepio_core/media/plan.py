"""Whether the packets of a source are sent as they are, from one moment to the next.

Copying costs a tenth of encoding, but cannot give what the source does not have: a keyframe when one is asked for, or
fewer bits when the path carries fewer. So a connection copies as long as it can, has pictures encoded in between, and
goes back to copying at a keyframe of the source, the only place where a decoder can change from one to the other.

```
mode      what is sent                                  becomes
WAITING   nothing, until the source's next keyframe     COPY at it, BRIDGE if that takes too long
COPY      the packets                                   BRIDGE when a keyframe is asked for that the source has not
BRIDGE    encoded pictures, until its next keyframe     COPY at it
ENCODE    encoded pictures                              COPY at a keyframe, when the reason is gone, if it can be
```
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Final

from deepio_core.media.choice import Choice

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.media.far import FarVideo
    from deepio_core.media.options import VideoOptions

__all__ = ["Mode", "VideoPlan"]

START_PATIENCE: Final = 0.1
"""Seconds for which the first picture of a connection may wait for a keyframe of the source: what the first encoded one
takes, too, since a decoder and an encoder have to be started for it."""

QUIET: Final = 0.2
"""Seconds after a keyframe for which requests count as answered by it: they were on their way when it was. Who still
needs one asks again."""

HIGH_LOSS: Final = 0.1
"""Part of packets lost above which the path does not carry what is copied; below it, sending lost packets again is
enough. The bound of draft-ietf-rmcat-gcc-02 section 6 for sending less."""

LOW_LOSS: Final = 0.02
"""Part of packets lost below which the path may carry more, likewise."""

LOSS_TIME: Final = 3.0
"""Seconds of high loss after which we stop copying: a burst of errors passes sooner."""

SHORT_OF: Final = 0.7
"""Part of the source's bitrate below which an estimate of the path is too little. Each alarm of an estimator lowers it
to 0.85 of what arrives (draft-ietf-rmcat-gcc-02 section 5.5), and a busy machine is enough for an alarm."""

SHORT_TIME: Final = 10.0
"""Seconds of such estimates after which we stop copying: aiortc's takes some six to recover from a false alarm, and to
encode for nothing would make a busy machine busier. Where the path is really too narrow, losses tell sooner."""

SPARE: Final = 1.1
"""Part of the source's bitrate that an estimate must reach before we copy again."""

HOLD: Final = 10.0
"""Seconds without a reason against it before we copy again; doubled each time, since an attempt that fails is seen."""

MAX_HOLD: Final = 320.0
"""Seconds at most."""

SPARE_AGAIN: Final = 0.2
"""Seconds until it is asked again whether there is an encoder to spare."""

RATE_TIME: Final = 4.0
"""Seconds over which the bitrate of the source is averaged: a GOP or two."""


class Mode(Enum):
    """What is sent."""

    WAITING = "waiting"
    """Nothing, until the source's next keyframe, or ever."""
    COPY = "copy"
    """The packets of the source."""
    BRIDGE = "bridge"
    """Encoded pictures, until the source's next keyframe."""
    ENCODE = "encode"
    """Encoded pictures."""

    @property
    def encodes(self) -> bool:
        """Pictures are needed."""
        return self in {Mode.BRIDGE, Mode.ENCODE}


class VideoPlan:
    """Decides for one connection; call `handle_timeout` when `deadline` has passed.

    All times are monotonic seconds. With `VideoOptions.mode` "copy" nothing is ever encoded: what cannot be copied is
    not sent.

    What could be copied is encoded only while there is an encoder to spare: on a machine that is overloaded, losses and
    requests for keyframes come with the load, and encoding, ten times as dear, would make all of it worse. Without one,
    the source's next keyframe has to do.

    Args:
        options: The settings.
        far: What the far side can take.
        spare: Returns whether there is an encoder to spare.

    Attributes:
        mode: What is to be sent now.
        reason: Why; part of a sentence.
        deadline: When `handle_timeout` is to be called; None for never.
    """

    def __init__(self, options: VideoOptions, far: FarVideo, spare: Callable[[], bool] = lambda: True) -> None:
        self.mode = Mode.WAITING
        self.reason = "the connection does not stand yet"
        self.deadline: float | None = None
        self._options = options
        self._spare = spare
        self._max_keyframe = far.max_keyframe if options.max_keyframe is None else options.max_keyframe
        self._choice = Choice(copy=False, reason=self.reason)
        self._encodes = options.mode != "copy"
        # What was seen of the source.
        self._keyframe_at: float | None = None
        self._gop: float | None = None
        self._pts: float | None = None
        self._bits = self._seconds = 0.0
        # When the far side was last given a keyframe.
        self._answered_at: float | None = None
        # Why we do not copy although the format allows it, and until when we do not in any case.
        self._obstacle: str | None = None
        self._overloaded = False
        self._held_until = 0.0
        self._hold = HOLD
        # What the far side says of the path.
        self._estimate: int | None = None
        self._lossy_since: float | None = None
        self._short_since: float | None = None

    @property
    def bitrate(self) -> float:
        """Bits per second of the source, 0 if unknown."""
        return self._bits / self._seconds if self._seconds else 0.0

    @property
    def optional(self) -> bool:
        """What is encoded now could be copied, if with less comfort."""
        return self.mode is Mode.BRIDGE or (self.mode is Mode.ENCODE and self._overloaded)

    @property
    def hopeless(self) -> bool:
        """Nothing will be sent as long as the source does not change."""
        return not self._choice.copy and not self._encodes

    def begin(self, choice: Choice, *, keyframe_at: float | None, gop: float | None, now: float) -> None:
        """The connection stands.

        Args:
            choice: Whether the source can be copied.
            keyframe_at: When its last keyframe came; None if all its packets are still to come.
            gop: Seconds between its keyframes, if known.
            now: The time.
        """
        self._choice = choice
        self._keyframe_at, self._gop = keyframe_at, gop
        if not choice.copy:
            self._encode(choice.reason)
            return
        self._wait("the first keyframe of the source is awaited")
        if keyframe_at is not None:
            patience = 0.0 if gop is None else START_PATIENCE
            self._await_keyframe(
                patience, "the connection is new, and the next keyframe of the source too far away", now
            )

    def format_changed(self, choice: Choice) -> None:
        """The format of the source has changed; its next packet is in the new one."""
        # What was seen of the old one says nothing about it.
        self._obstacle, self._pts, self._gop = None, None, None
        before, self._choice = self._choice, choice
        if not choice.copy:
            self._encode(choice.reason)
        elif not before.copy and self.mode is Mode.ENCODE:
            # An encoder is there; the next keyframe of the source ends its work.
            self._bridge("the source can be copied from its next keyframe on")
        elif not before.copy:
            self._wait("the next keyframe of the source is awaited")

    def packet(self, *, keyframe: bool, size: int, interval: float, pts: float, captured_at: float, now: float) -> bool:
        """A packet of the source has come.

        Args:
            keyframe: Decoding can begin here.
            size: Bytes.
            interval: Seconds until the next.
            pts: When it is shown, seconds of the source.
            captured_at: When it came or is due.
            now: The time.

        Returns:
            Whether to send it.
        """
        kept = max(0.0, 1 - interval / RATE_TIME)
        self._bits, self._seconds = self._bits * kept + size * 8, self._seconds * kept + interval
        fault = self._look(keyframe=keyframe, size=size, pts=pts, captured_at=captured_at)
        if not self._choice.copy:
            return False
        if fault is not None:
            self._obstruct(fault, now)
            self._overloaded = False
        if self._obstacle is not None:
            if not keyframe or not self._is_clear(now):
                return False
            self._obstacle = None
        if keyframe:
            self.mode, self.reason, self.deadline = Mode.COPY, self._choice.reason, None
            self._answered_at = captured_at
        return self.mode is Mode.COPY

    def lost(self) -> None:
        """The source is away; when it is there again, its first packet is a keyframe."""
        self._keyframe_at = self._pts = self.deadline = None
        if self.mode is Mode.ENCODE or not self._choice.copy:
            return
        if self._options.while_away == "last" and self._encodes and self._spare():
            self._bridge("the source is away, and its last picture is sent")
        else:
            self._wait("the source is away")

    def keyframe_requested(self, *, now: float) -> bool:
        """The far side needs a keyframe.

        Returns:
            Whether the encoder is to make one: pictures are encoded already.
        """
        if self._answered_at is not None and now - self._answered_at < QUIET:
            return False
        if self.mode is Mode.COPY and self.deadline is None:
            patience = self._options.keyframe_wait
            self._await_keyframe(
                patience, "a keyframe was asked for, and the next one of the source is too far away", now
            )
            return False
        return self.mode.encodes

    def encoded_keyframe(self, *, now: float) -> None:
        """An encoded keyframe was sent."""
        self._answered_at = now

    def encoder_failed(self, reason: str) -> None:
        """Nothing can be encoded any more: from now on what cannot be copied is not sent."""
        self._encodes = False
        if self.mode.encodes:
            self._wait(reason)

    def reported(self, loss: float, *, now: float) -> None:
        """The far side has lost this part of our packets since the report before."""
        if loss < HIGH_LOSS:
            self._lossy_since = None
        elif self._lossy_since is None:
            self._lossy_since = now
        elif now - self._lossy_since >= LOSS_TIME:
            self._overload(f"the path loses packets ({loss:.0%})", now)
        if loss >= LOW_LOSS:
            self._stay(now)

    def estimated(self, bitrate: int, *, now: float) -> None:
        """The far side estimates that the path carries so many bits per second."""
        self._estimate = bitrate
        if bitrate >= SHORT_OF * self.bitrate:
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        elif now - self._short_since >= SHORT_TIME:
            self._overload(
                f"the path carries {bitrate / 1e6:.1f} Mbit/s, and the source has {self.bitrate / 1e6:.1f}", now
            )

    def handle_timeout(self, *, now: float) -> None:
        """What was waited for has not come in time."""
        if self.deadline is not None and now >= self.deadline:
            self._bridge_if_spare("a keyframe is needed, and the source has given none in time", now)

    # --- Inside ---

    def _look(self, *, keyframe: bool, size: int, pts: float, captured_at: float) -> str | None:
        """Takes note of a packet of the source; says what about it cannot be copied."""
        before, self._pts = self._pts, pts
        since = None if self._keyframe_at is None else captured_at - self._keyframe_at
        if keyframe:
            self._gop, self._keyframe_at = self._gop if since is None else since, captured_at
            if size > self._max_keyframe:
                return f"a keyframe has {size} bytes, more than the {self._max_keyframe} that the far side holds"
        elif before is not None and pts <= before:
            return "the video has B-frames, which WebRTC cannot carry"
        elif since is not None and since > self._options.max_gop:
            return f"the source has had no keyframe for {since:.0f} s: too long to recover from a loss"
        return None

    def _await_keyframe(self, patience: float, reason: str, now: float) -> None:
        """Waits for a keyframe of the source, if it can be expected in time."""
        if not self._encodes:
            return
        expected = None if self._keyframe_at is None or self._gop is None else self._keyframe_at + self._gop
        if patience == 0 or (expected is not None and expected > now + patience):
            self._bridge_if_spare(reason, now)
        else:
            self.deadline = now + patience

    def _overload(self, reason: str, now: float) -> None:
        # Who wants copies or nothing wants them over this path, too.
        if self._choice.copy and self._encodes and (self._obstacle is not None or self._spare()):
            self._overloaded = self._obstacle is None or self._overloaded
            self._obstruct(reason, now)

    def _obstruct(self, reason: str, now: float) -> None:
        if self._obstacle is None:
            self._obstacle = reason
            self._held_until = now + self._hold
            self._hold = min(2 * self._hold, MAX_HOLD)
            self._encode(reason)
        else:
            self._stay(now)

    def _stay(self, now: float) -> None:
        if self._obstacle is not None:
            self._held_until = max(self._held_until, now + self._hold / 2)

    def _is_clear(self, now: float) -> bool:
        if now < self._held_until:
            return False
        # With the encoder at its upper bound, estimates tell of that and not of the path.
        enough = min(SPARE * self.bitrate, float(self._options.max_bitrate))
        return self._estimate is None or self._estimate >= enough

    def _encode(self, reason: str) -> None:
        self.mode = Mode.ENCODE if self._encodes else Mode.WAITING
        self.reason, self.deadline = reason, None

    def _bridge_if_spare(self, reason: str, now: float) -> None:
        if self._spare():
            self._bridge(reason)
        else:
            self.deadline = now + SPARE_AGAIN

    def _bridge(self, reason: str) -> None:
        self.mode, self.reason, self.deadline = Mode.BRIDGE, reason, None

    def _wait(self, reason: str) -> None:
        self.mode, self.reason, self.deadline = Mode.WAITING, reason, None
