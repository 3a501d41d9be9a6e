"""Results come back with the frame that they were made of: over WebRTC, and in the times that were recorded."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
import pytest

import deepio_asyncio
import deepio_trio
from deepio_adapters.test_pattern import read_counter
from deepio_core.media.clocks import ClockOffset
from deepio_core.media.pairing import Pairing, SentFrames
from deepio_core.messages import DataMessage
from deepio_server.core import CoreConfig, local_core

FACES: dict[str, Any] = {"asyncio": deepio_asyncio.DeepIO, "trio": deepio_trio.DeepIO}


@pytest.fixture(params=FACES)
def anyio_backend(request: Any) -> Any:
    return request.param


@pytest.fixture(scope="module")
def core() -> Any:
    with local_core(CoreConfig(detector="tests.detecting:counter")) as one:
        yield one


@pytest.mark.anyio
@pytest.mark.timeout(60)
async def test_the_frame_of_a_result_shows_what_the_detector_saw(anyio_backend: str, core: Any) -> None:
    handled: list[Any] = []
    off, missing = Counter[int](), 0
    face = FACES[anyio_backend]
    deep = face(core.url, None, "test:320x240@15", "cam", auto_connect=True, keep_frames=5.0)
    deep.add_result_handler(handled.append)
    async with deep:
        deep.add_result_handler(handled.append)
        with anyio.fail_after(30):
            async for result in deep.results():
                if result.frame is None:
                    # Frames are kept from the moment the first one leaves, which may be too late for that one.
                    missing += 1
                    assert missing <= 3
                    continue
                (seen,) = result.message.detections()
                assert result.captured_at is not None
                if result.frame is None and not off.total():
                    continue  # nothing is kept before the first frame is sent, and the first results are for that
                assert result.frame.captured_at == pytest.approx(result.captured_at, abs=1e-3)
                assert 0 < result.age < time.monotonic() - result.captured_at + 1e-9
                shown = read_counter(result.frame.to_bgr())
                assert shown is not None
                wrong = shown - int(seen.id)
                assert abs(wrong) <= 1 or abs(wrong) / 15 <= result.uncertainty + 0.01
                off[wrong] += 1
                if off.total() == 25:
                    break
    # On an idle machine all are right. A busy one may find the first ones difficult, before any message was quick.
    assert off[0] >= 20
    assert handled[0].message is handled[1].message


# --- The times that real stream managers have told --------------------------------------------------------------------

WIRE = Path(__file__).resolve().parents[1] / "wire"
INTERVAL = 0.04


def told(name: str) -> tuple[float, dict[str, float], list[tuple[float, DataMessage]]]:
    """When the camera was connected, when each message was sent, and the messages it received, all in one clock."""
    events = [json.loads(line) for line in (WIRE / f"{name}.jsonl").read_text("utf-8").splitlines()]
    cams = [event for event in events if event.get("peer", "").startswith("cam")]
    begun = next(event["t"] for event in cams if event.get("event") == "state" and event["value"] == "CONNECTED")
    sent = {event["dc_text"]: event["t"] for event in reversed(events) if event.get("dc") == "send"}
    received = [
        (event["t"], DataMessage(raw=json.loads(event["dc_text"])))
        for event in cams
        if event.get("dc") == "recv" and json.loads(event["dc_text"])["type"] == "data"
    ]
    return begun, sent, received


def replayed(name: str) -> list[tuple[float, DataMessage, Pairing | None]]:
    """The results of a recording, with the frames of a camera that began when it was connected."""
    begun, _, received = told(name)
    frames, number, results = SentFrames(), 0, []
    for at, message in received:
        while begun + number * INTERVAL <= at:
            frames.sent(begun + number * INTERVAL, begun + number * INTERVAL)
            number += 1
        results.append((at, message, frames.on_result(message, at)))
    return results


@pytest.mark.parametrize("name", ["deepio-02-real-stream-manager-v0.10", "deepio-06-real-stream-manager-v1.0.16"])
def test_the_clock_of_a_recorded_stream_manager_is_found(name: str) -> None:
    _, sent, received = told(name)
    clock = ClockOffset()
    for at, message in received:
        rec_time = message.rec_time
        assert rec_time is not None
        clock.on_message(rec_time, message.round_trip, at)
        # Both peers of the recording told their times in one clock. To send a result took the manager up to 20 ms.
        told_at = clock.local(rec_time)
        assert told_at is not None
        assert abs(sent[json.dumps(message.raw)] - told_at) <= clock.uncertainty(at) + 0.02


def test_the_recorded_stream_manager_of_v0_10_is_understood() -> None:
    results = replayed("deepio-02-real-stream-manager-v0.10")
    assert len(results) == 6
    for at, message, pairing in results:
        assert pairing is not None
        # The frame is older than the result by what the stream manager says, its own way and one that was held back.
        least = (message.deep_delay or 0) + INTERVAL
        assert least - 0.06 < at - pairing.captured_at < least + 0.2
        assert INTERVAL - 1e-9 <= pairing.uncertainty <= 0.25
    assert results[-1][2] is not None
    assert results[-1][2].uncertainty < 0.1  # by then some round trips were quick


def test_the_old_results_of_v1_0_16_belong_to_no_frame() -> None:
    results = replayed("deepio-06-real-stream-manager-v1.0.16")
    assert len(results) == 6
    assert all(message.deep_delay is not None and message.deep_delay > 2 for _, message, _ in results)
    assert [pairing for _, _, pairing in results] == [None] * 6
