"""DEEP messages: what a stream manager and its clients say to each other over the data channel.

Messages are JSON objects with a `type`. Tolerant in: whatever decodes makes a message, fields that are
missing or of the wrong kind become None, the message as received stays in `raw`, and unknown types pass
through as `UnknownMessage`. Strict out: `to_json` makes only what the handlers of deep_io, the DEEP web
application and deep_framework's stream_manager can read, as an exception in one ends their connection.

All times are Unix seconds on the stream manager's clock, unless the field says otherwise.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never

from deepio_core.detections import (
    Attribute,
    Detection,
    is_timed,
    read_attributes,
    read_detections,
    read_number,
)
from deepio_core.errors import LocalProtocolError
from deepio_core.records import dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepio_core.jsontext import JSON


MAX_SHOWN: Final = 40
"""Characters of a text from outside that a repr shows."""


class Generation(enum.Enum):
    """The three formats in which DEEP has sent its results."""

    DATA = "data"
    """Until September 2020: `data` is the list of objects, the class is inside `rect`."""
    OBJECTS = "objects"
    """From October 2020: `objects` is the list, `frame_attributes` tells about the whole frame."""
    TIMED_OBJECTS = "timed objects"
    """From April 2021: the same, each descriptor's value is `{"value", "vc_time"}`; `detector_category` since
    July 2021."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataMessage:
    """`metadata`: describes the video source. From a client, or relayed to a viewer by the stream manager."""

    metadata: JSON = field(repr=False)
    """Any JSON value, None included. Not in the repr: applications put URLs with passwords here."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_kind(self.metadata)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMessage:
    """`source`: the client tells an older stream manager (until v0.10) which peer's video to analyse."""

    peer_id: str | None
    """`peerId`: the client's own id for its own video, another peer's id, or the word `none`."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDisconnectedMessage:
    """`source-disconnected`: the peer whose video is analysed has gone, or was never there."""

    reason: str | None
    """`reason`: a text for people."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AcknowledgeMessage:
    """`acknowledge`: the client has received a `data` message; `round_trip` is computed from it."""

    rec_time: int | float | None
    """`rec_time` of the `data` message, unchanged: never rounded or converted. None if there is no number."""
    messages_received: int | None = None
    """`messages_sent` of the `data` message; only the DEEP web application sends it."""
    browser_time: float | None = None
    """When the client received it, on the client's clock; only the DEEP web application sends it."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WarningMessage:
    """`warning`: the stream manager is late, or about to stop."""

    text: str | None
    """`messagge`, as stream managers spell it, or `message`: a text for people."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMessage:
    """`error`: the stream manager gives up, and disconnects."""

    text: str | None
    """`messagge`, as stream managers spell it, or `message`: a text for people."""
    raw: Mapping[str, JSON] = field(default_factory=dict[str, "JSON"], compare=False, repr=False)
    """The message as received; empty in a message to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownMessage:
    """A message of a type that we do not know, or no DEEP message at all: for the application alone."""

    type: str | None
    """`type`; None if there is none, it is no string, or the message is no object."""
    raw: JSON = field(repr=False)
    """The message as received."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({_short(self.type)}, {_kind(self.raw)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataMessage:
    """`data`: the result of one detector for one frame, with the statistics of the stream manager.

    Each one wants an `acknowledgement`. Nothing is read before it is asked for, and nothing is kept: hold on
    to what `detections()` returns instead of calling it again. What is missing or of the wrong kind is None.
    """

    raw: Mapping[str, JSON] = field(repr=False)
    """The message as received or to be sent, not copied: do not change it."""

    def __repr__(self) -> str:
        found = f"{_short(self.detector_category)}, {len(self.detections())} detections"
        return f"{type(self).__name__}({found}, vc_time={self.vc_time}, rec_time={self.rec_time})"

    @property
    def generation(self) -> Generation | None:
        """Which result format this is; None if there is no list of objects."""
        objects = self.raw.get("objects")
        if isinstance(objects, list):
            places = [self.raw.get("frame_attributes"), *objects]
            values = (value for place in places if isinstance(place, dict) for value in place.values())
            timed = "detector_category" in self.raw or any(is_timed(value) for value in values)
            return Generation.TIMED_OBJECTS if timed else Generation.OBJECTS
        return Generation.DATA if isinstance(self.raw.get("data"), list) else None

    def detections(self) -> tuple[Detection, ...]:
        """The objects in the frame, in the order of the message; what is no object is left out."""
        objects = self.raw.get("objects")
        return read_detections(objects if isinstance(objects, list) else self.raw.get("data"))

    @property
    def frame_attributes(self) -> Mapping[str, Attribute]:
        """What descriptors say about the whole frame, by the descriptor's name; empty if there are none."""
        return read_attributes(self.raw.get("frame_attributes"))

    @property
    def detector_category(self) -> str | None:
        """Which detector sent this, such as `face`: with several detectors their messages interleave."""
        return _read_text(self.raw.get("detector_category"))

    @property
    def rec_time(self) -> int | float | None:
        """When the stream manager received the result: the number to be echoed, exactly as it came."""
        return _read_rec_time(self.raw.get("rec_time"))

    @property
    def vc_time(self) -> float | None:
        """When the stream manager took the analysed frame: the only key that ties a result to a frame."""
        return read_number(self.raw.get("vc_time"))

    @property
    def held_frames(self) -> int | None:
        """How many later frames had to begin before the stream manager saw this one.

        Only the local core says so. Those of the DEEP Framework wait for one, as aiortc does.
        """
        held = _read_integer(self.raw.get("held_frames"))
        return held if held is not None and held >= 0 else None

    @property
    def collector_time(self) -> float | None:
        """When the collector sent the result."""
        return read_number(self.raw.get("collector_time"))

    @property
    def deep_delay(self) -> float | None:
        """Seconds from `vc_time` to `rec_time`. Older stream managers send -1 when they do not know."""
        return read_number(self.raw.get("deep_delay"))

    @property
    def processing_period(self) -> float | None:
        """Seconds since the result before this one. Older stream managers send -1 when they do not know."""
        return read_number(self.raw.get("processing_period"))

    @property
    def round_trip(self) -> float | None:
        """Seconds from an earlier `rec_time` to its acknowledge; 0 before the first."""
        return read_number(self.raw.get("round_trip"))

    @property
    def received_frames(self) -> int | None:
        """Frames that the stream manager has received."""
        return _read_integer(self.raw.get("received_frames"))

    @property
    def processed_frames(self) -> int | None:
        """Results that the stream manager has got back from the detectors."""
        return _read_integer(self.raw.get("processed_frames"))

    @property
    def generated_frames(self) -> int | None:
        """Frames that the stream manager has sent back as video."""
        return _read_integer(self.raw.get("generated_frames"))

    @property
    def messages_sent(self) -> int | None:
        """How many `data` messages the stream manager has sent, this one included."""
        return _read_integer(self.raw.get("messages_sent"))

    @property
    def last_frame_shape(self) -> tuple[int, ...] | None:
        """Shape of the last received frame as numpy tells it: height, width, channels, in pixels."""
        shape = self.raw.get("last_frame_shape")
        if not isinstance(shape, list):
            return None
        sizes = [size for size in map(_read_integer, shape) if size is not None]
        return tuple(sizes) if sizes and len(sizes) == len(shape) else None


def _short(text: str | None) -> str:
    """A text that may be of any length, for a repr."""
    return repr(text if text is None or len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}...")


def _kind(value: JSON) -> str:
    """What kind of value it is, for a repr that must not show it."""
    return f"{type(value).__name__} of {len(value)}" if isinstance(value, (dict, list, str)) else type(value).__name__


Message: TypeAlias = (
    MetadataMessage
    | SourceMessage
    | SourceDisconnectedMessage
    | DataMessage
    | AcknowledgeMessage
    | WarningMessage
    | ErrorMessage
    | UnknownMessage
)
"""Every message of the data channel."""


def parse_message(value: JSON) -> Message:
    """Read a message of the data channel.

    Args:
        value: The decoded JSON (see `jsontext.decode`). It is kept in the message, not copied.

    Returns:
        The typed message. A known type with missing or wrong fields has None there; everything else is an
        `UnknownMessage`. Never raises.
    """
    if not isinstance(value, dict):
        return UnknownMessage(type=None, raw=value)
    kind = _read_text(value.get("type"))
    read = None if kind is None else _READERS.get(kind)
    return UnknownMessage(type=kind, raw=value) if read is None else read(value)


def to_json(message: Message) -> dict[str, JSON]:
    """Make the JSON object of a message to be sent: its typed fields, or `raw` where that is the content.

    Args:
        message: Any message but one that a DEEP peer could not read.

    Returns:
        The object for `jsontext.encode`, which refuses values that are not JSON. Values are not copied.

    Raises:
        LocalProtocolError: A field without which the handlers of real peers fail is None or not finite, or
            `raw` is no object with the right `type`.
    """
    match message:
        case MetadataMessage():
            return {"type": "metadata", "metadata": message.metadata}
        case SourceMessage():
            return {"type": "source", "peerId": _required(message.peer_id, "source", "peer_id")}
        case SourceDisconnectedMessage():
            reason = _required(message.reason, "source-disconnected", "reason")
            return {"type": "source-disconnected", "reason": reason}
        case AcknowledgeMessage():
            return _acknowledge_to_json(message)
        # The misspelling is the protocol: deep_framework's stream_manager sends it and clients read it.
        case WarningMessage():
            return {"type": "warning", "messagge": _required(message.text, "warning", "text")}
        case ErrorMessage():
            return {"type": "error", "messagge": _required(message.text, "error", "text")}
        case DataMessage():
            return _raw_to_json(message.raw, "data")
        case UnknownMessage():
            return _raw_to_json(message.raw, message.type)
        case _:
            assert_never(message)


def acknowledgement(data: DataMessage) -> AcknowledgeMessage | None:
    """Make the acknowledge of a `data` message: its `rec_time`, unchanged, as deep_io answers.

    Returns:
        The message to send; None if `rec_time` is missing or not a finite number, as a stream manager ignores
        an acknowledge without it.
    """
    rec_time = data.rec_time
    return None if rec_time is None else AcknowledgeMessage(rec_time=rec_time)


def _read_text(value: JSON) -> str | None:
    return value if isinstance(value, str) else None


def _read_rec_time(value: JSON) -> int | float | None:
    # Not read_number(): an integer beyond 2**53 would come back as another number.
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _read_integer(value)


def _read_integer(value: JSON) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_alarm(raw: Mapping[str, JSON]) -> str | None:
    text = _read_text(raw.get("messagge"))
    return _read_text(raw.get("message")) if text is None else text


def _read_acknowledge(raw: dict[str, JSON]) -> AcknowledgeMessage:
    return AcknowledgeMessage(
        rec_time=_read_rec_time(raw.get("rec_time")),
        messages_received=_read_integer(raw.get("messages_received")),
        browser_time=read_number(raw.get("browser_time")),
        raw=raw,
    )


_READERS: dict[str, Callable[[dict[str, JSON]], Message]] = {
    "data": lambda raw: DataMessage(raw=raw),
    "metadata": lambda raw: MetadataMessage(metadata=raw.get("metadata"), raw=raw),
    "acknowledge": _read_acknowledge,
    "source": lambda raw: SourceMessage(peer_id=_read_text(raw.get("peerId")), raw=raw),
    "source-disconnected": lambda raw: SourceDisconnectedMessage(reason=_read_text(raw.get("reason")), raw=raw),
    "warning": lambda raw: WarningMessage(text=_read_alarm(raw), raw=raw),
    "error": lambda raw: ErrorMessage(text=_read_alarm(raw), raw=raw),
}
"""The messages that we know, by their `type`."""


def _acknowledge_to_json(message: AcknowledgeMessage) -> dict[str, JSON]:
    if _read_rec_time(message.rec_time) is None:
        raise LocalProtocolError(
            "An acknowledge message without a finite rec_time would be ignored.",
            remedy="Send what acknowledgement() makes of the data message, and nothing if that is None.",
        )
    sent: dict[str, JSON] = {"type": "acknowledge", "rec_time": message.rec_time}
    if message.messages_received is not None:
        sent["messages_received"] = message.messages_received
    if message.browser_time is not None:
        sent["browser_time"] = message.browser_time
    return sent


def _raw_to_json(raw: JSON | Mapping[str, JSON], kind: str | None) -> dict[str, JSON]:
    if not isinstance(raw, Mapping) or kind is None or raw.get("type") != kind:
        raise LocalProtocolError(
            "A message that is not a JSON object with its type would end the connection of a DEEP peer.",
            remedy='Put the whole message into raw, such as {"type": "data", "objects": []}.',
        )
    return dict(raw)


def _required(value: str | None, kind: str, name: str) -> str:
    if value is None:
        raise LocalProtocolError(f"A {kind} message needs {name}.")
    return value
