"""Video over RTP, our way and aiortc's: the same packets, sent again when they were lost, and ends that do not hang."""

from __future__ import annotations

import pytest
from aiortc.rtp import RtpPacket

from deepio_adapters.media import EncodedFrame
from tests.adapters.rtp_links import h264_frames, link, vp8_frames

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"  # the engine room is a loop of asyncio, whatever the application runs


SIZES = (30_000, 1, 700, 1298, 1299, 1300, 1301, 2600, 5000, 9_000, 260_000, 40)


async def packets_of(kind: str, codec: str, frames: list[EncodedFrame]) -> list[RtpPacket]:
    """What arrives when frames are sent."""
    async with link(kind, codec) as one:  # type: ignore[arg-type]
        for frame in frames:
            one.sink.send(frame)
        await one.until(lambda: sum(packet.marker for packet in one.packets) == len(frames))
        return one.packets


@pytest.mark.parametrize(("codec", "make"), [("H264", h264_frames), ("VP8", vp8_frames)])
async def test_every_packet_is_that_of_aiortc(codec: str, make: type) -> None:
    frames = make(*SIZES)
    ours, theirs = [await packets_of(kind, codec, frames) for kind in ("fast", "stock")]

    def facts(packets: list[RtpPacket]) -> list[tuple]:
        first = packets[0]
        picture = int.from_bytes(first.payload[2:4]) if codec == "VP8" else 0
        return [
            (
                packet.payload if codec == "H264" else (packet.payload[:2], packet.payload[4:]),
                (int.from_bytes(packet.payload[2:4]) - picture) & 0x7FFF if codec == "VP8" else 0,
                packet.marker,
                packet.payload_type,
                (packet.timestamp - first.timestamp) & 0xFFFFFFFF,
                (packet.sequence_number - first.sequence_number) & 0xFFFF,
                packet.extensions.mid,
                packet.extensions.abs_send_time is not None,
                packet.csrc,
                packet.padding_size,
            )
            for packet in packets
        ]

    assert len(ours) > 200
    assert facts(ours) == facts(theirs)
